"""Whether a model computes what the graph does.

Where both are traced to the same computation they do, whatever the numbers. Else they are run. The variables that one
happens to have may hide a difference (a head that starts at zero, new neurons that nobody reads yet), so models are run
with disturbed variables as well. All that at another batch size, too, where both can be called at one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.graph.evaluation.evaluate import holds_indices
from naivenas_jax.graph.graph import Graph
from naivenas_jax.trace.back.value_numbering import same, traced
from naivenas_jax.trace.model.call_arguments import shape_of
from naivenas_jax.trace.model.traced_model import TracedModel
from naivenas_jax.transfer.variables import flat, nested

#: ``call(variables, arrays) -> outputs``; arrays are those of the inputs, outputs any pytree
Call = Callable[[Any, Sequence[Any]], Any]
Shapes = list[jax.ShapeDtypeStruct]


@dataclass(frozen=True)
class Case:
    """What to call a model with."""

    what: str
    variables: Any
    arrays: list[Any]


@dataclass(frozen=True, eq=False)
class Setting:
    """What a model should compute at one batch size.

    Attributes:
      graph: the mutated graph.
      variables: of the graph.
      shapes: of the inputs.
    """

    graph: Graph
    variables: Mapping[str, Any]
    shapes: Shapes

    def wrong(self, call: Call) -> str | None:
        """In words, how what a model computes differs from what the graph does; None: it does not.

        Raises:
          Exception: whatever the user's model raises.
        """
        if same(traced(call, self.variables, self.shapes), self.program):
            return None
        run = jax.jit(_leaves(call))
        for case, wanted in self._wanted:
            with jax.default_matmul_precision("highest"):
                found = difference(run(case.variables, case.arrays), wanted)
            if found is not None:
                return f"with {case.what} {found}"
        return None

    def graph_call(self, variables: Any, arrays: Sequence[Any]) -> Any:
        return self.graph.apply(variables, *arrays)

    @cached_property
    def program(self) -> Any:
        """What the graph computes, as a jaxpr."""
        return traced(self.graph_call, self.variables, self.shapes)

    @cached_property
    def _wanted(self) -> list[tuple[Case, list[Any]]]:
        run = jax.jit(_leaves(self.graph_call))
        with jax.default_matmul_precision("highest"):
            return [(case, run(case.variables, case.arrays)) for case in self._cases(run)]

    def _cases(self, run: Call) -> Iterator[Case]:
        disturbed = _disturbed(self.variables)
        arrays = _arrays(run, disturbed, self.shapes)
        if not any(isinstance(array, jax.ShapeDtypeStruct) for array in flat(self.variables).values()):
            yield Case("the new variables", self.variables, arrays)
        yield Case("the new variables, disturbed,", disturbed, arrays)


def settings(graph: Graph, model: TracedModel, variables: Mapping[str, Any], original: Call) -> list[Setting]:
    """The batch sizes to compare a model with the graph at: the imported one, and another if both can be called so.

    Args:
      graph: the mutated graph.
      model: what was imported.
      variables: of the graph.
      original: the user's model as it was.
    """
    shapes = _input_shapes(graph, model)
    other, before = _other_batch(shapes), _other_batch(list(model.inputs))
    found = [Setting(graph, variables, shapes)]
    if other and before and _runs(original, nested(dict(model.variables)), before):
        another = Setting(graph, variables, other)
        if _runs(another.graph_call, variables, other):
            found.append(another)
    return found


def _input_shapes(graph: Graph, model: TracedModel) -> Shapes:
    """Of the inputs as they are now; a request may have changed them."""
    return [
        struct
        if not struct.shape or len(struct.shape) < 2 or holds_indices(vertex, struct)
        else jax.ShapeDtypeStruct((*struct.shape[:-1], vertex.nout), struct.dtype)
        for vertex, struct in zip(graph.inputs, model.inputs, strict=True)
    ]


def _leaves(call: Call) -> Callable[[Any, Any], list[Any]]:
    def compared(variables: Any, arrays: Any) -> list[Any]:
        return jax.tree.leaves(call(variables, arrays))

    return compared


def difference(outputs: list[Any], expected: list[Any]) -> str | None:
    """In words, how outputs differ from what they should be; None: they do not."""
    if len(outputs) != len(expected):
        return f"it returns {len(outputs)} arrays, the graph {len(expected)}"
    for number, (got, wanted) in enumerate(zip(outputs, expected, strict=True)):
        which = f"output {number} " if len(outputs) > 1 else "its output "
        if jnp.shape(got) != jnp.shape(wanted) or jnp.result_type(got) != jnp.result_type(wanted):
            return f"{which}is {shape_of(got)}, that of the graph {shape_of(wanted)}"
        if not _close(got, wanted):
            a, b = _numbers(got), _numbers(wanted)
            return f"{which}differs by {np.nanmax(np.abs(a - b)):.3g} (largest: {np.nanmax(np.abs(b)):.3g})"
    return None


def _close(got: Any, wanted: Any) -> bool:
    a, b = _numbers(got), _numbers(wanted)
    if not jnp.issubdtype(jnp.result_type(wanted), jnp.inexact):
        return np.array_equal(a, b)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return False
    scale = np.max(np.abs(b[finite]), initial=0.0)
    return bool(np.all(np.abs(a[finite] - b[finite]) <= scale * float(jnp.finfo(wanted.dtype).eps) ** 0.5 / 3))


def _numbers(array: Any) -> np.ndarray:
    complex_ = jnp.issubdtype(jnp.result_type(array), jnp.complexfloating)
    return np.asarray(array).astype(np.complex128 if complex_ else np.float64)


def _disturbed(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Other variables of the same kind: what is positive stays so, and nothing is zero by chance."""
    generator = np.random.default_rng(0)

    def one(array: Any) -> Any:
        if not jnp.issubdtype(array.dtype, jnp.inexact):
            return jnp.zeros(array.shape, array.dtype) if isinstance(array, jax.ShapeDtypeStruct) else array
        noise = generator.normal(size=array.shape)
        if isinstance(array, jax.ShapeDtypeStruct):
            return jnp.asarray(0.5 + 0.1 * noise, array.dtype)
        numbers = _numbers(array)
        if numbers.size and not np.iscomplexobj(numbers) and numbers.min() > 0:
            return jnp.asarray(numbers * np.exp(0.3 * noise), array.dtype)
        return jnp.asarray(numbers + 0.1 * noise, array.dtype)

    return nested({path: one(array) for path, array in flat(variables).items()})


def _arrays(run: Call, variables: Any, shapes: Shapes) -> list[Any]:
    """Random inputs. Whole numbers may be indices: of the largest range for which the outputs are finite."""
    whole = any(not jnp.issubdtype(struct.dtype, jnp.inexact) for struct in shapes)
    arrays: list[Any] = []
    for bound in (64, 8, 2) if whole else (2,):
        generator = np.random.default_rng(1)
        arrays = [_random(generator, struct, bound) for struct in shapes]
        if not whole or all(np.isfinite(_numbers(out)).all() for out in run(variables, arrays)):
            break
    return arrays


def _random(generator: np.random.Generator, struct: jax.ShapeDtypeStruct, bound: int) -> Any:
    if jnp.issubdtype(struct.dtype, jnp.inexact):
        return jnp.asarray(generator.normal(size=struct.shape), struct.dtype)
    if jnp.issubdtype(struct.dtype, jax.dtypes.extended):  # keys
        return jax.random.split(jax.random.key(0), struct.shape) if struct.shape else jax.random.key(0)
    bound = 2 if struct.dtype == bool else bound
    return jnp.asarray(generator.integers(0, bound, size=struct.shape), struct.dtype)


def _other_batch(shapes: Shapes) -> Shapes | None:
    """The inputs with one more example, if all agree on the number of examples."""
    batches = {struct.shape[:1] for struct in shapes}
    if len(batches) != 1 or not all(struct.shape for struct in shapes):
        return None
    return [jax.ShapeDtypeStruct((struct.shape[0] + 1, *struct.shape[1:]), struct.dtype) for struct in shapes]


def _runs(call: Call, variables: Any, shapes: Shapes) -> bool:
    try:
        jax.eval_shape(call, variables, shapes)
    except Exception:  # whatever the user's code raises: it was written for one batch size
        return False
    return True
