"""Whether a model computes what the graph does.

Where both are traced to the same computation, they compute the same for all inputs and variables. Otherwise both are
run. The variables of a mutation may hide a difference (a head that starts at zero, new neurons that nobody reads yet),
so both are run with disturbed variables as well. All this is done at another batch size, too, where both can be called
with one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core as jex

from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.model_vertex import Place, outputs_of
from naivenas_jax.graph.source import holds_words
from naivenas_jax.graph.structure import arrays_in
from naivenas_jax.jaxpr.value_numbering import ValueNumbering, new_equations, same_computation
from naivenas_jax.trace.back.samples import as_numbers, disturbed_variables, random_inputs
from naivenas_jax.trace.model.imported_op import ImportedOp
from naivenas_jax.trace.model.traced_model import TracedModel
from naivenas_jax.trace.program.frame import Frame
from naivenas_jax.trace.program.module_names import naming, place_of
from naivenas_jax.transfer.variables import flat, nested
from naivenas_jax.typing import Array, PyTree, Shape, Variables

#: ``call(variables, arrays) -> outputs``: the arrays of the inputs, one after the other; outputs any pytree.
ModelCall: TypeAlias = Callable[[Variables, Sequence[Array]], PyTree]
#: The same, but outputs are a list of arrays.
_ArraysCall: TypeAlias = Callable[[Variables, Sequence[Array]], list[Array]]


#: An array, or what is known of one that is traced.
_Shaped: TypeAlias = Array | Shape | jax.core.ShapedArray


@dataclass(frozen=True)
class Sample:
    """Variables and inputs to call a model with, and what they are, in words."""

    what: str
    variables: Variables
    arrays: list[Array]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Compares models with a graph at one batch size.

    Attributes:
      graph: the mutated graph.
      op: the imported model in it.
      variables: the variables of the graph; a model is called with the same.
      shapes: shapes and dtypes of the inputs.
      keys: by stream, for a model that draws; the models are called with the same.
    """

    graph: Graph
    op: ImportedOp
    variables: Variables
    shapes: Sequence[Shape]
    keys: Mapping[str, jax.Array]

    def is_same(self, traced: jex.ClosedJaxpr) -> bool:
        """Whether a model, traced by `traced`, is the same computation as the graph, for all inputs and variables."""
        return same_computation(traced, self._graph_traced)

    def wrong_shapes(self, traced: jex.ClosedJaxpr) -> str | None:
        """How the shapes of the outputs of a model differ from those of the graph, in words; None: they do not."""
        return _difference_of_shapes(traced.out_avals, self._graph_traced.out_avals)

    def difference(self, call: ModelCall) -> str | None:
        """How the outputs of a model differ from the outputs of the graph when both are run; None: they do not.

        Raises:
          Exception: whatever the user's model raises.
        """
        if self.is_same(self.traced(call)):
            return None
        run = jax.jit(_with_flat_outputs(call))
        for sample, wanted in self._wanted:
            with jax.default_matmul_precision("highest"):
                found = _difference(run(sample.variables, sample.arrays), wanted)
            if found is not None:
                return f"with {sample.what} {found}"
        return None

    def first_difference(self, traced: jex.ClosedJaxpr) -> jex.JaxprEqn | None:
        """The first equation of a model that the graph does not compute."""
        return next(iter(new_equations(traced, self._graph_traced)), None)

    def differing_places(self, call: ModelCall) -> list[Place]:
        """What modules take in or return that is not what it is in the graph, in the order in which it is computed."""
        with naming():
            named = self.traced(call)
        numbering = ValueNumbering()
        numbering.results(self._graph_named)
        known = _by_name(numbering.named)
        numbering.named.clear()
        numbering.results(named)
        count: Counter[str] = Counter()
        found: dict[Place, None] = {}
        for name, number, rank in numbering.named:
            place, times = place_of(name, rank), known.get(name, [])
            if place is not None and times and (count[name] >= len(times) or times[count[name]] != number):
                found[place] = None
            count[name] += 1
        return list(found)

    def can_run(self) -> bool:
        """Whether the graph can be called with inputs of these shapes."""
        return _can_run(self._graph_call, self.variables, self.shapes)

    def _graph_call(self, variables: Variables, arrays: Sequence[Array]) -> PyTree:
        return outputs_of(self.graph, variables, arrays, rngs=dict(self.keys) or None)

    def traced(self, call: ModelCall) -> jex.ClosedJaxpr:
        """A model as a jaxpr."""
        return jax.make_jaxpr(_with_flat_outputs(call))(self.variables, self.shapes)

    @cached_property
    def _graph_traced(self) -> jex.ClosedJaxpr:
        return self.traced(self._graph_call)

    @cached_property
    def _graph_named(self) -> jex.ClosedJaxpr:
        """The graph with the names that its modules had."""

        def call(variables: Variables, arrays: Sequence[Array]) -> PyTree:
            return self.op.computed(flat(variables), arrays, self.keys, self.op.writes or False, {}, _keeping_names)[0]

        return self.traced(call)

    @cached_property
    def _wanted(self) -> list[tuple[Sample, list[Array]]]:
        """What the graph returns for each sample."""
        run = jax.jit(_with_flat_outputs(self._graph_call))
        with jax.default_matmul_precision("highest"):
            return [(sample, run(sample.variables, sample.arrays)) for sample in self._samples(run)]

    def _samples(self, run: _ArraysCall) -> Iterator[Sample]:
        disturbed = disturbed_variables(self.variables)
        arrays = random_inputs(run, disturbed, self.shapes)
        if not any(isinstance(array, jax.ShapeDtypeStruct) for array in flat(self.variables).values()):
            yield Sample("the new variables", self.variables, arrays)
        yield Sample("the new variables, disturbed,", disturbed, arrays)


def comparisons(graph: Graph, op: ImportedOp, variables: Variables, original: ModelCall) -> list[Comparison]:
    """Comparisons at the batch size of the import, and at another one if model and graph can be called with it.

    Args:
      graph: the mutated graph.
      op: the imported model in it.
      variables: the variables of the graph.
      original: calls the user's model as it was.
    """
    model = op.model
    shapes = input_shapes(graph, model)
    other, before = _other_batch(shapes), _other_batch(model.inputs)
    found = [Comparison(graph, op, variables, shapes, model.keys)]
    if other and before and _can_run(original, nested(dict(model.variables)), before):
        another = Comparison(graph, op, variables, other, model.keys)
        if another.can_run():
            found.append(another)
    return found


def input_shapes(graph: Graph, model: TracedModel) -> list[Shape]:
    """The present shapes of the inputs; a request may have changed them."""
    return [
        struct
        if not struct.shape or len(struct.shape) < 2 or holds_words(graph.ties, vertex.name, vertex.op, struct)
        else jax.ShapeDtypeStruct((*struct.shape[:-1], vertex.nout), struct.dtype)
        for vertex, struct in zip(graph.inputs, model.inputs, strict=True)
    ]


def _with_flat_outputs(call: ModelCall) -> _ArraysCall:
    def flat_call(variables: Variables, arrays: Sequence[Array]) -> list[Array]:
        return list(arrays_in(call(variables, arrays)))

    return flat_call


def _keeping_names(name: str, frame: Frame, array: jax.Array) -> jax.Array:
    """A named value as it is (see `Watch`)."""
    del frame
    named: jax.Array = checkpoint_name(array, name)
    return named


def _by_name(named: Iterable[tuple[str, int, int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for name, number, _ in named:
        found.setdefault(name, []).append(number)
    return found


def _difference_of_shapes(outputs: Sequence[_Shaped], expected: Sequence[_Shaped]) -> str | None:
    """How the shapes of outputs differ from the expected ones, in words; None: they do not."""
    if len(outputs) != len(expected):
        return f"it returns {len(outputs)} arrays, the graph {len(expected)}"
    for number, (got, wanted) in enumerate(zip(outputs, expected, strict=True)):
        which = f"output {number} " if len(outputs) > 1 else "its output "
        if got.shape != wanted.shape or got.dtype != wanted.dtype:
            return f"{which}is {_struct(got)}, the output of the graph {_struct(wanted)}"
    return None


def _struct(array: _Shaped) -> Shape:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _difference(outputs: list[Array], expected: list[Array]) -> str | None:
    """How outputs differ from the expected ones, in words; None: they do not."""
    if (said := _difference_of_shapes(outputs, expected)) is not None:
        return said
    for number, (got, wanted) in enumerate(zip(outputs, expected, strict=True)):
        which = f"output {number} " if len(outputs) > 1 else "its output "
        if not _close(got, wanted):
            a, b = as_numbers(got), as_numbers(wanted)
            return f"{which}differs by {np.nanmax(np.abs(a - b)):.3g} (largest: {np.nanmax(np.abs(b)):.3g})"
    return None


#: JAX knows the precision of its own dtypes (bfloat16), but has no annotations for it.
_finfo: Callable[[np.dtype], np.finfo] = jnp.finfo


def _close(got: Array, wanted: Array) -> bool:
    """Whether arrays are equal up to the rounding of some thousand operations; integers exactly."""
    a, b = as_numbers(got), as_numbers(wanted)
    if not jnp.issubdtype(jnp.result_type(wanted), jnp.inexact):
        return np.array_equal(a, b)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return False
    scale = np.max(np.abs(b[finite]), initial=0.0)
    eps = float(_finfo(wanted.dtype).eps)
    return bool(np.all(np.abs(a[finite] - b[finite]) <= scale * eps**0.5 / 3))


def _other_batch(shapes: Sequence[Shape]) -> list[Shape] | None:
    """The inputs with one more example, if all agree on the number of examples."""
    batches = {struct.shape[:1] for struct in shapes}
    if len(batches) != 1 or not all(struct.shape for struct in shapes):
        return None
    return [jax.ShapeDtypeStruct((struct.shape[0] + 1, *struct.shape[1:]), struct.dtype) for struct in shapes]


def _can_run(call: ModelCall, variables: Variables, shapes: Sequence[Shape]) -> bool:
    """Whether a model can be called with inputs of these shapes."""
    try:
        jax.eval_shape(_with_flat_outputs(call), variables, shapes)
    except Exception:  # whatever the user's code raises: it was written for one batch size
        return False
    return True
