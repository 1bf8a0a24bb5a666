"""Whether a model computes what the graph does.

Where both are traced to the same computation, they compute the same for all inputs and variables. Otherwise both are
run. The variables of a mutation may hide a difference (a head that starts at zero, new neurons that nobody reads yet),
so both are run with disturbed variables as well. All this is done at another batch size, too, where both can be called
with one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from naivenas_jax.graph.evaluation.evaluate import holds_indices
from naivenas_jax.graph.graph import Graph
from naivenas_jax.jaxpr.value_numbering import new_equations, same_computation
from naivenas_jax.trace.model.call_arguments import traced_shape
from naivenas_jax.trace.model.traced_model import TracedModel
from naivenas_jax.transfer.variables import flat, nested
from naivenas_jax.typing import Array, PyTree, Shape, Variables

#: ``call(variables, arrays) -> outputs``: the arrays of the inputs, one after the other; outputs any pytree.
ModelCall: TypeAlias = Callable[[Variables, Sequence[Array]], PyTree]
#: The same, but outputs are a list of arrays.
_ArraysCall: TypeAlias = Callable[[Variables, Sequence[Array]], list[Array]]


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
      variables: the variables of the graph; a model is called with the same.
      shapes: shapes and dtypes of the inputs.
      keys: by stream, for a model that draws; the models are called with the same.
    """

    graph: Graph
    variables: Variables
    shapes: Sequence[Shape]
    keys: Mapping[str, jax.Array]

    def difference(self, call: ModelCall) -> str | None:
        """How the outputs of a model differ from the outputs of the graph, in words; None: they do not.

        Raises:
          Exception: whatever the user's model raises.
        """
        if same_computation(self._traced(call), self._graph_traced):
            return None
        run = jax.jit(_with_flat_outputs(call))
        for sample, wanted in self._wanted:
            with jax.default_matmul_precision("highest"):
                found = _difference(run(sample.variables, sample.arrays), wanted)
            if found is not None:
                return f"with {sample.what} {found}"
        return None

    def first_difference(self, call: ModelCall) -> jex.JaxprEqn | None:
        """The first equation of a model that the graph does not compute."""
        return next(iter(new_equations(self._traced(call), self._graph_traced)), None)

    def can_run(self) -> bool:
        """Whether the graph can be called with inputs of these shapes."""
        return _can_run(self._graph_call, self.variables, self.shapes)

    def _graph_call(self, variables: Variables, arrays: Sequence[Array]) -> PyTree:
        return self.graph.apply(variables, *arrays, rngs=dict(self.keys) or None)

    def _traced(self, call: ModelCall) -> jex.ClosedJaxpr:
        return jax.make_jaxpr(_with_flat_outputs(call))(self.variables, self.shapes)

    @cached_property
    def _graph_traced(self) -> jex.ClosedJaxpr:
        return self._traced(self._graph_call)

    @cached_property
    def _wanted(self) -> list[tuple[Sample, list[Array]]]:
        """What the graph returns for each sample."""
        run = jax.jit(_with_flat_outputs(self._graph_call))
        with jax.default_matmul_precision("highest"):
            return [(sample, run(sample.variables, sample.arrays)) for sample in self._samples(run)]

    def _samples(self, run: _ArraysCall) -> Iterator[Sample]:
        disturbed = _disturbed(self.variables)
        arrays = _inputs(run, disturbed, self.shapes)
        if not any(isinstance(array, jax.ShapeDtypeStruct) for array in flat(self.variables).values()):
            yield Sample("the new variables", self.variables, arrays)
        yield Sample("the new variables, disturbed,", disturbed, arrays)


def comparisons(graph: Graph, model: TracedModel, variables: Variables, original: ModelCall) -> list[Comparison]:
    """Comparisons at the batch size of the import, and at another one if model and graph can be called with it.

    Args:
      graph: the mutated graph.
      model: the model that was imported.
      variables: the variables of the graph.
      original: calls the user's model as it was.
    """
    shapes = input_shapes(graph, model)
    other, before = _other_batch(shapes), _other_batch(model.inputs)
    found = [Comparison(graph, variables, shapes, model.keys)]
    if other and before and _can_run(original, nested(dict(model.variables)), before):
        another = Comparison(graph, variables, other, model.keys)
        if another.can_run():
            found.append(another)
    return found


def input_shapes(graph: Graph, model: TracedModel) -> list[Shape]:
    """The present shapes of the inputs; a request may have changed them."""
    return [
        struct
        if not struct.shape or len(struct.shape) < 2 or holds_indices(vertex, struct)
        else jax.ShapeDtypeStruct((*struct.shape[:-1], vertex.nout), struct.dtype)
        for vertex, struct in zip(graph.inputs, model.inputs, strict=True)
    ]


def _with_flat_outputs(call: ModelCall) -> _ArraysCall:
    def flat_call(variables: Variables, arrays: Sequence[Array]) -> list[Array]:
        return jax.tree.leaves(call(variables, arrays))

    return flat_call


def _difference(outputs: list[Array], expected: list[Array]) -> str | None:
    """How outputs differ from the expected ones, in words; None: they do not."""
    if len(outputs) != len(expected):
        return f"it returns {len(outputs)} arrays, the graph {len(expected)}"
    for number, (got, wanted) in enumerate(zip(outputs, expected, strict=True)):
        which = f"output {number} " if len(outputs) > 1 else "its output "
        if jnp.shape(got) != jnp.shape(wanted) or jnp.result_type(got) != jnp.result_type(wanted):
            return f"{which}is {traced_shape(got)}, the output of the graph {traced_shape(wanted)}"
        if not _close(got, wanted):
            a, b = _numbers(got), _numbers(wanted)
            return f"{which}differs by {np.nanmax(np.abs(a - b)):.3g} (largest: {np.nanmax(np.abs(b)):.3g})"
    return None


#: JAX knows the precision of its own dtypes (bfloat16), but has no annotations for it.
_finfo: Callable[[np.dtype], np.finfo] = jnp.finfo


def _close(got: Array, wanted: Array) -> bool:
    """Whether arrays are equal up to the rounding of some thousand operations; integers exactly."""
    a, b = _numbers(got), _numbers(wanted)
    if not jnp.issubdtype(jnp.result_type(wanted), jnp.inexact):
        return np.array_equal(a, b)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return False
    scale = np.max(np.abs(b[finite]), initial=0.0)
    eps = float(_finfo(wanted.dtype).eps)
    return bool(np.all(np.abs(a[finite] - b[finite]) <= scale * eps**0.5 / 3))


def _numbers(array: Array) -> np.ndarray:
    """An array in double precision, on the host."""
    complex_ = jnp.issubdtype(jnp.result_type(array), jnp.complexfloating)
    return np.asarray(array).astype(np.complex128 if complex_ else np.float64)


def _disturbed(variables: Variables) -> dict[str, PyTree]:
    """Variables with noise: positive arrays stay positive, and no entry is zero by chance."""
    generator = np.random.default_rng(0)

    def disturb(array: Array | Shape) -> Array:
        if not jnp.issubdtype(array.dtype, jnp.inexact):
            return jnp.zeros(array.shape, array.dtype) if isinstance(array, jax.ShapeDtypeStruct) else array
        noise = generator.normal(size=array.shape)
        if isinstance(array, jax.ShapeDtypeStruct):
            return jnp.asarray(0.5 + 0.1 * noise, array.dtype)
        numbers = _numbers(array)
        if numbers.size and not np.iscomplexobj(numbers) and numbers.min() > 0:
            return jnp.asarray(numbers * np.exp(0.3 * noise), array.dtype)
        return jnp.asarray(numbers + 0.1 * noise, array.dtype)

    return nested({path: disturb(array) for path, array in flat(variables).items()})


def _inputs(run: _ArraysCall, variables: Variables, shapes: Sequence[Shape]) -> list[Array]:
    """Random inputs. Whole numbers may be indices, and come from the largest range for which the outputs are finite."""
    whole = any(not jnp.issubdtype(struct.dtype, jnp.inexact) for struct in shapes)
    arrays: list[Array] = []
    for bound in (64, 8, 2) if whole else (2,):
        generator = np.random.default_rng(1)
        arrays = [_random(generator, struct, bound) for struct in shapes]
        if not whole or all(np.isfinite(_numbers(out)).all() for out in run(variables, arrays)):
            break
    return arrays


def _random(generator: np.random.Generator, struct: Shape, bound: int) -> Array:
    if jnp.issubdtype(struct.dtype, jnp.inexact):
        return jnp.asarray(generator.normal(size=struct.shape), struct.dtype)
    if jnp.issubdtype(struct.dtype, jax.dtypes.extended):  # keys
        return jax.random.split(jax.random.key(0), struct.shape) if struct.shape else jax.random.key(0)
    bound = 2 if struct.dtype == bool else bound
    return jnp.asarray(generator.integers(0, bound, size=struct.shape), struct.dtype)


def _other_batch(shapes: Sequence[Shape]) -> list[Shape] | None:
    """The inputs with one more example, if all agree on the number of examples."""
    batches = {struct.shape[:1] for struct in shapes}
    if len(batches) != 1 or not all(struct.shape for struct in shapes):
        return None
    return [jax.ShapeDtypeStruct((struct.shape[0] + 1, *struct.shape[1:]), struct.dtype) for struct in shapes]


def _can_run(call: ModelCall, variables: Variables, shapes: Sequence[Shape]) -> bool:
    """Whether a model can be called with inputs of these shapes."""
    try:
        jax.eval_shape(call, variables, shapes)
    except Exception:  # whatever the user's code raises: it was written for one batch size
        return False
    return True
