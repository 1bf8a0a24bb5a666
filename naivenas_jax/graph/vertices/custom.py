"""A computation of the user's own, with its own parameters and sizes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import jax
from flax.core import Scope

from naivenas_jax.checks import MOST_NEURONS, as_count, require_function, require_mapping, shown
from naivenas_jax.errors import GraphError
from naivenas_jax.graph.op import Op, checked_function, keywords_of, select
from naivenas_jax.graph.vertex import Vertex, vertices_only
from naivenas_jax.graph.vertices.op_weights import LEADING, op_weights
from naivenas_jax.graph.vertices.pattern import parse, port_axes
from naivenas_jax.paths import path_text
from naivenas_jax.sizes.condition import ConditionFunction
from naivenas_jax.sizes.tying import Tying
from naivenas_jax.sizes.vector import Vector
from naivenas_jax.typing import PyTree

#: What a parameter starts at: ``(key, shape) -> array``.
Init: TypeAlias = Callable[..., jax.Array]


@dataclass(frozen=True)
class Custom(Op):
    """SizeAbsorb by declaration: ``fn(params, *inputs)`` with parameters whose dimensions are named by patterns.

    Attributes:
      fn: the computation.
      nin: the number of neurons of each input that the parameters are made for.
      nout: the number of neurons of the output.
      params: name, pattern and initialiser of each parameter.
      inner: name and size of each inner axis.
      constraints: what the sizes must satisfy besides.
    """

    fn: Callable[..., PyTree]
    nin: tuple[int, ...]
    nout: int
    params: tuple[tuple[str, str, Init | None], ...]
    inner: tuple[tuple[str, int], ...] = ()
    constraints: ConditionFunction = None

    @property
    def absorbs(self) -> bool:
        """True: the parameters read the inputs."""
        return True

    @property
    def keywords(self) -> frozenset[str] | None:
        """The keyword arguments of the function."""
        return keywords_of(self.fn)

    def tie(self, ports: tuple[Vector, ...], tying: Tying) -> Vector:
        """Declare the parameters and the inner axes, as the patterns say."""
        vectors = {**port_axes(ports), "out": tying.new(self.nout)}
        for factor, size in self.inner:
            vectors[factor] = tying.new(size)
            tying.axis(vectors[factor], factor)
        patterns = {("params", name): parse(text) for name, text, _ in self.params}
        tried = (tuple((*leading, n) for n in self.nin) for leading in LEADING)
        weights = op_weights(self, tried, {path: pattern.roles for path, pattern in patterns.items()})
        for name, _, init in self.params:
            path, where = ("params", name), f"vertex {path_text(tying.scope)!r}"
            roles, dims = patterns[path].roles, patterns[path].dims(vectors, tying.blocks, f"{name!r} of {where}")
            constant = 0.0 if "in" not in roles else None
            tying.leaf("params", (name,), dims, roles, constant, init, weight=weights.uses.get(path))
            for d, dim in enumerate(dims):
                if dim is not None and (path, d) in weights.never_zero:
                    tying.couple(dim, f"{where}: {weights.never_zero[path, d]}")
        tying.require_all(self.constraints, vectors)
        return vectors["out"]

    def call(self, scope: Scope, inputs: tuple[PyTree, ...], kwargs: Mapping[str, object]) -> PyTree:
        """Call the function with the parameters and those keyword arguments that it understands."""
        sizes = {**{f"in{i}": n for i, n in enumerate(self.nin)}, "out": self.nout, **dict(self.inner)}
        params = {
            name: scope.param(name, init or _default_init(text), _shape(text, sizes))
            for name, text, init in self.params
        }
        return self.fn(params, *inputs, **select(kwargs, self.keywords))

    def resized(self, ports: tuple[int, ...], sizes: Mapping[str, int]) -> Custom:
        """The same function with parameters of other sizes."""
        inner = tuple((factor, sizes[factor]) for factor, _ in self.inner)
        return replace(self, nin=ports, nout=sizes["out"], inner=inner)

    def describe(self) -> str:
        """The name of the function."""
        return getattr(self.fn, "__name__", type(self.fn).__name__)


def _shape(text: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    pattern = parse(text)
    return pattern.shape(sizes, pattern.sizes)


def _default_init(text: str) -> Init:
    pattern = parse(text)
    if "in" not in pattern.roles:
        return jax.nn.initializers.zeros
    return jax.nn.initializers.lecun_normal(in_axis=pattern.read, out_axis=pattern.made)


def absorb_vertex(
    name: str,
    fn: Callable[..., jax.Array],
    *inputs: Vertex,
    nout: int,
    params: Mapping[str, str | tuple[str, Init]],
    inner: Mapping[str, int] | None = None,
    constraints: ConditionFunction = None,
) -> Vertex:
    """A custom computation with its own parameters and sizes (SizeAbsorb).

    Args:
      name: name of the vertex.
      fn: ``fn(params, *arrays, **keywords) -> array`` with ``params`` a dict of arrays; neurons lie on the last axis.
      *inputs: the vertices it reads.
      nout: the number of neurons of the output.
      params: for each parameter what lies on its dimensions, as a pattern such as ``"in out"`` or ``"3 3 in out"``
        (see `naivenas_jax.graph.vertices.pattern`): a number is a fixed dimension, ``in`` (``in0``, ``in1`` where there
        are several inputs) the neurons of an input, ``out`` those of the output, any other word an inner axis. A pair
        adds an initialiser ``(key, shape) -> array``; default: LeCun normal for weights, zero for one axis.
      inner: sizes of the inner axes; each can be resized under the name ``"vertex:axis"``.
      constraints: what the sizes must satisfy besides: a function of a mapping from the names of axes ("in", "out",
        inner ones) to sizes, that returns conditions, ``lambda size: size["r"] <= size["out"]``.

    Returns:
      The vertex, with variables ``{"params": {name: {parameter: array}}}``.

    Raises:
      GraphError: if a pattern cannot be read or names an axis that does not exist.

    >>> import jax, naivenas_jax as nas
    >>> def low_rank(params, x):
    ...     return x @ params["down"] @ params["up"]
    >>> x = nas.input_vertex("x", 6)
    >>> y = nas.absorb_vertex("y", low_rank, x, nout=5, params={"down": "in r", "up": "r out"}, inner={"r": 2})
    >>> graph = nas.Graph(x, y)
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 6)))
    >>> graph2, _ = nas.delta_nout(graph, variables, {"y:r": 1})
    >>> graph2["y"].op.inner
    (('r', 3),)
    """
    if not inputs:
        raise GraphError(f"Vertex {name!r} needs at least one input vertex.")
    vertices_only(name, inputs)
    made = as_count(nout)
    if made is None:
        raise GraphError(
            f"Vertex {name!r} needs a whole number of output neurons, at least 1 and at most {MOST_NEURONS}; found "
            f"nout={shown(nout)}."
        )
    if not isinstance(params, Mapping):
        raise GraphError(
            f"Vertex {name!r} needs params={{name: pattern}}, found {type(params).__name__}: {params!r:.80}."
        )
    if inner is not None:
        require_mapping(inner, f"Vertex {name!r}: inner", GraphError)
    entries = tuple(_entry(name, key, value) for key, value in params.items())
    sizes = tuple(_inner_size(name, factor, size) for factor, size in (inner or {}).items())
    if constraints is not None:
        require_function(constraints, f"Vertex {name!r}: constraints", "sizes", GraphError)
        checked_function(name, constraints)
    op = Custom(checked_function(name, fn), tuple(v.nout for v in inputs), made, entries, sizes, constraints)
    return Vertex(name, op, inputs)


def _entry(name: str, key: str, value: object) -> tuple[str, str, Init | None]:
    text, init = value if isinstance(value, tuple) and len(value) == 2 else (value, None)
    if not isinstance(text, str) or not (init is None or callable(init)):
        raise GraphError(
            f"Parameter {key!r} of vertex {name!r} needs a pattern such as 'in out', or a pair of a pattern and an "
            f"initialiser (key, shape) -> array; found {value!r:.80}."
        )
    _check_fixed_sizes(name, key, text)
    return key, text, init


def _inner_size(name: str, factor: object, size: object) -> tuple[str, int]:
    if not isinstance(factor, str):
        raise GraphError(f"Vertex {name!r}: inner maps names of axes to sizes, {{'r': 2}}; found {shown(factor)}.")
    count = as_count(size)
    if count is None:
        raise GraphError(
            f"Inner axis {factor!r} of vertex {name!r} needs a whole number, at least 1 and at most {MOST_NEURONS}; "
            f"found {shown(size)}."
        )
    if factor == "out" or re.fullmatch(r"in\d*", factor):
        raise GraphError(
            f"Inner axis {factor!r} of vertex {name!r} has the name of an input or output; choose another."
        )
    return factor, count


def _check_fixed_sizes(name: str, key: str, text: str) -> None:
    pattern = parse(text)
    for axis, size in zip(pattern.axes, pattern.sizes, strict=True):
        if axis is None and size is None:
            raise GraphError(
                f"Pattern {text!r} of parameter {key!r} of vertex {name!r} has '_': give the size of each fixed "
                "dimension as a number, so that the parameter can be initialised."
            )
