"""Plain functions as vertices: those that keep the neuron axis, and those whose sizes may never change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import jax
from flax.core import Scope

from naivenas_jax.checks import MOST_NEURONS, as_count, shown
from naivenas_jax.errors import GraphError, SizeMismatchError
from naivenas_jax.graph.op import Op, checked_function, keywords_of, least_arrays_of, select
from naivenas_jax.graph.vertex import Vertex, vertices_only
from naivenas_jax.graph.vertices.independence_check import Probe, failure, probe
from naivenas_jax.graph.vertices.output_shapes import shape_of
from naivenas_jax.paths import path_text
from naivenas_jax.sizes.tying import Tying
from naivenas_jax.sizes.vector import Vector
from naivenas_jax.typing import PyTree


@dataclass(frozen=True)
class Function(Op):
    """A function of arrays, without parameters.

    Attributes:
      fn: the function.
      leading: the axes before the neurons of its first input, where they are known.
    """

    fn: Callable[..., PyTree]
    leading: tuple[int, ...] | None = field(default=None, compare=False)

    @property
    def keywords(self) -> frozenset[str] | None:
        """The keyword arguments of the function."""
        return keywords_of(self.fn)

    def call(self, scope: Scope, inputs: tuple[PyTree, ...], kwargs: Mapping[str, object]) -> PyTree:
        """Call the function with those keyword arguments that it understands."""
        del scope
        return self.fn(*inputs, **select(kwargs, self.keywords))

    def describe(self) -> str:
        """The name of the function."""
        return getattr(self.fn, "__name__", type(self.fn).__name__)


@dataclass(frozen=True)
class Invariant(Function):
    """SizeInvariant: neuron i of the output depends on neuron i of each input, and on nothing else."""

    @property
    def variadic(self) -> bool:
        """Whether the signature of the function says that it takes any number of arrays."""
        return least_arrays_of(self.fn) is not None

    def takes(self, inputs: int) -> bool:
        """Whether the function may be given so many arrays."""
        least = least_arrays_of(self.fn)
        return least is not None and inputs >= max(least, 1)

    def tie(self, ports: tuple[Vector, ...], tying: Tying) -> Vector:
        """Tie neuron i of all inputs and the output; whether the function does is checked."""
        name = path_text(tying.scope)
        found = self._tried(name, tuple(map(len, ports)))
        for port in ports[1:]:
            tying.tie(port, ports[0])
        if found.fixed:
            tying.fix(ports[0], f"{name!r} keeps its size: {found.fixed}")
        if found.coupled:
            tying.couple(ports[0], f"{name!r}: {found.coupled}")
        return ports[0]

    def width(self, name: str, nin: tuple[int, ...]) -> int:
        """As many neurons as each input has."""
        self._tried(name, nin)
        return nin[0]

    def _tried(self, name: str, nin: tuple[int, ...]) -> Probe:
        """What the function does with inputs of these sizes."""
        if len(set(nin)) > 1:
            raise SizeMismatchError(
                f"Vertex {name!r} is invariant, which ties its inputs neuron by neuron; found sizes "
                f"{list(nin)}. All must be equal."
            )
        found = probe(self.fn, len(nin), nin[0], self.leading)
        if found.nout is not None and found.nout != nin[0]:
            raise SizeMismatchError(
                f"Vertex {name!r} was declared invariant, but makes {found.nout} neurons of {nin[0]}. Use "
                "nas.absorb_vertex for a computation that changes their number, nas.immutable_vertex to freeze it."
            )
        return found


@dataclass(frozen=True)
class Immutable(Function):
    """Immutable: neither the inputs' sizes nor the output's may ever change."""

    nout: int = 0

    def tie(self, ports: tuple[Vector, ...], tying: Tying) -> Vector:
        """Fix all neurons of the inputs and the output."""
        reason = f"{path_text(tying.scope)!r} is immutable"
        output = tying.new(self.nout)
        for vector in (*ports, output):
            tying.fix(vector, reason)
        return output


def invariant_vertex(name: str, fn: Callable[..., jax.Array], *inputs: Vertex) -> Vertex:
    """A function that keeps the neuron axis: activations, pooling, scaling, elementwise functions of your own.

    Neuron ``i`` of the output may depend on neuron ``i`` of each input only; the other axes are free. The declaration
    is checked on the jaxpr of ``fn``, and where that does not say, by running ``fn`` on made-up numbers:

    - A function that mixes the neurons, but all alike (a softmax), or that depends on their positions or number
      (``x / x.shape[-1]``), makes the axis *coupled*: it can be resized, and the mutation says so in its notes.
    - A function that moves the neurons, or mixes them by position (a reversal, a channel shuffle, a sort, a cumulative
      sum), and one that runs with a certain number of neurons only, makes the axis immutable: it is not known which
      neurons of input and output would go together.

    Args:
      name: name of the vertex.
      fn: ``fn(*arrays, **keywords) -> array``; neurons lie on the last axis. It gets those keyword arguments of
        ``graph.apply`` that its signature names. A function of any number of arrays, ``lambda *values: sum(values)``,
        takes further edges in `create_edge`, and loses them in `remove_edge`.
      *inputs: the vertices it reads, all with the same number of neurons.

    Returns:
      The vertex; it has as many neurons as each of its inputs.

    Raises:
      SizeMismatchError: if the inputs differ in size, or ``fn`` changes the number of neurons.
      GraphError: if ``fn`` cannot be called or hashed, or there is no input.

    >>> import flax.linen as nn, naivenas_jax as nas
    >>> nas.invariant_vertex("act", nn.relu, nas.input_vertex("x", 4)).nout
    4
    """
    sources = _at_least_one(name, inputs)
    return Vertex(name, Invariant(checked_function(name, fn), _leading(sources)), sources)


def immutable_vertex(name: str, fn: Callable[..., jax.Array], *inputs: Vertex, nout: int | None = None) -> Vertex:
    """A function whose sizes may never change; the neurons of its inputs are fixed as well.

    Args:
      name: name of the vertex.
      fn: ``fn(*arrays, **keywords) -> array``.
      *inputs: the vertices it reads.
      nout: the number of neurons of the output; by default found out by running ``fn`` on made-up numbers.

    Returns:
      The vertex; neither its neurons nor those of its inputs can be changed.

    Raises:
      GraphError: if ``nout`` is not given and cannot be found out, or ``fn`` cannot be called or hashed.

    >>> import jax.numpy as jnp, naivenas_jax as nas
    >>> nas.immutable_vertex("pairs", lambda x: x[..., ::2], nas.input_vertex("x", 4)).nout
    2
    """
    sources = _at_least_one(name, inputs)
    function = checked_function(name, fn)
    found = _measured(name, function, sources) if nout is None else nout
    size = as_count(found)
    if size is None:
        raise GraphError(
            f"Vertex {name!r} needs a whole number of output neurons, at least 1 and at most {MOST_NEURONS}; found "
            f"nout={shown(found)}."
        )
    return Vertex(name, Immutable(function, _leading(sources), size), sources)


def _leading(inputs: tuple[Vertex, ...]) -> tuple[int, ...] | None:
    shape = shape_of(inputs[0])
    return None if shape is None else shape[:-1]


def _measured(name: str, fn: Callable[..., PyTree], inputs: tuple[Vertex, ...]) -> int:
    sizes = {source.nout for source in inputs}
    found = probe(fn, len(inputs), sizes.pop(), _leading(inputs)) if len(sizes) == 1 else None
    if found is None or found.nout is None:
        error = (
            failure(fn, len(inputs), inputs[0].nout, _leading(inputs)) if len({v.nout for v in inputs}) == 1 else None
        )
        said = "" if error is None else f" ({type(error).__name__}: {error!s:.200})"
        raise GraphError(
            f"Cannot find out how many neurons vertex {name!r} makes of inputs of {[v.nout for v in inputs]}: its "
            f"function does not run on made-up input{said}. Pass nout=."
        ) from error
    return found.nout


def _at_least_one(name: str, inputs: tuple[Vertex, ...]) -> tuple[Vertex, ...]:
    if not inputs:
        raise GraphError(f"Vertex {name!r} needs at least one input vertex.")
    return vertices_only(name, inputs)
