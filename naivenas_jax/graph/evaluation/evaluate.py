"""Run the vertices of a graph in a Flax scope: one child scope per vertex, named after it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import flax.errors
import jax
import numpy as np
from flax.core import Scope

from naivenas_jax.checks import shown
from naivenas_jax.errors import GraphError, SizeMismatchError
from naivenas_jax.graph.evaluation.batches import check_array
from naivenas_jax.graph.evaluation.name_scopes import computing
from naivenas_jax.graph.op import Op
from naivenas_jax.graph.source import Source
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.paths import path_text
from naivenas_jax.typing import PyTree

#: Sees, and may replace, each value on its way into a vertex: ``(scope names, vertex, port, value) -> value``.
Intercept: TypeAlias = Callable[[tuple[str, ...], Vertex, int, PyTree], PyTree]

#: What Flax raises where variables are missing, no dicts, or have another shape than their initialiser makes.
DOES_NOT_FIT = (
    flax.errors.ApplyScopeInvalidVariablesTypeError,
    flax.errors.ApplyScopeInvalidVariablesStructureError,
    flax.errors.ScopeCollectionNotFound,
    flax.errors.ScopeParamNotFoundError,
    flax.errors.ScopeParamShapeError,
    flax.errors.ScopeVariableNotFoundError,
)


class NestedOp(Op):
    """A computation that evaluates vertices of its own, so that an intercept can see what they read as well."""

    def call(self, scope: Scope, inputs: tuple[PyTree, ...], kwargs: Mapping[str, object]) -> PyTree:
        """Compute the output, without an intercept."""
        return self.call_intercepted(scope, inputs, kwargs, None)

    @abstractmethod
    def call_intercepted(
        self,
        scope: Scope,
        inputs: tuple[PyTree, ...],
        kwargs: Mapping[str, object],
        intercept: Intercept | None,
    ) -> PyTree:
        """Compute the output as `call` does, with an intercept for the vertices inside."""


def _whole(vertex: Vertex, array: PyTree) -> bool:
    """Whether an input is whole numbers, of which only the readers know whether they are values of neurons."""
    declared = isinstance(vertex.op, Source) and vertex.op.whole
    return declared or bool(jax.numpy.issubdtype(jax.numpy.result_type(array), jax.numpy.integer))


def check_inputs(vertices: tuple[Vertex, ...], arrays: tuple[PyTree, ...]) -> None:
    """Raise unless there is one array per input vertex, with its neurons on the last axis."""
    if not isinstance(arrays, tuple | list):
        raise GraphError(f"inputs must be a tuple of arrays; found {type(arrays).__name__}: {shown(arrays)}.")
    if len(arrays) != len(vertices):
        raise GraphError(
            f"The graph has {len(vertices)} input{'s' * (len(vertices) != 1)} ({', '.join(v.name for v in vertices)}), "
            f"found {len(arrays)} arrays."
        )
    for vertex, array in zip(vertices, arrays, strict=True):
        if not isinstance(array, int | float | complex):
            check_array(array, f"Input {vertex.name!r}", GraphError)
        shape = tuple(np.shape(array))  # not jnp.shape, in whose place exporters put an operation
        if shape == () and isinstance(vertex.op, Source) and vertex.op.shape != () and not vertex.op.whole:
            raise SizeMismatchError(
                f"Input {vertex.name!r} has {vertex.nout} neurons, on the last axis; found a single number, of shape "
                f"(): {array!r:.80}."
            )
        if _whole(vertex, array) or (isinstance(vertex.op, Source) and vertex.op.shape == ()):
            continue  # perhaps tokens; or one number per example
        if shape[-1:] != (vertex.nout,):
            raise SizeMismatchError(
                f"Input {vertex.name!r} has {vertex.nout} neurons, on the last axis; found an array of shape "
                f"{shape}. Transpose it, or build the graph for it: "
                f"nas.input_vertex({vertex.name!r}, {(shape or (1,))[-1]})."
            )


def require_values(vertices: tuple[Vertex, ...], arrays: tuple[PyTree, ...]) -> None:
    """Raise if an input is the shape of an array, which nothing can be computed on.

    Raises:
      GraphError: names the input.
    """
    for vertex, array in zip(vertices, arrays, strict=True):
        if isinstance(array, jax.ShapeDtypeStruct):
            raise GraphError(
                f"Input {vertex.name!r} is the shape of an array, and values are needed. The shapes of the outputs: "
                "jax.eval_shape(graph.apply, variables, shape)."
            )


def run(
    order: Iterable[Vertex],
    outputs: tuple[Vertex, ...],
    fed: Mapping[Vertex, PyTree],
    scope: Scope,
    kwargs: Mapping[str, object],
    intercept: Intercept | None = None,
) -> tuple[PyTree, ...]:
    """Evaluate vertices.

    Args:
      order: the vertices, each after its inputs.
      outputs: the vertices whose values are wanted.
      fed: the values of the inputs of the graph.
      scope: holds the variables, with one child for each vertex, named after it.
      kwargs: keyword arguments; each vertex picks those that it understands.
      intercept: sees, and may replace, each value on its way into a vertex.

    Returns:
      The values of ``outputs``.
    """
    values = dict(fed)
    for vertex in order:
        if vertex in values:
            continue
        inputs = tuple(values[source] for source in vertex.inputs)
        if intercept is not None:
            inputs = tuple(intercept(scope.path, vertex, port, value) for port, value in enumerate(inputs))
        own = scope if vertex.op.at_root else scope.push(vertex.name)
        try:
            with computing(path_text(own.path)):
                values[vertex] = _called(vertex.op, own, inputs, kwargs, intercept)
        except Exception as error:
            error.add_note(f"while computing vertex {path_text((*scope.path, vertex.name))!r} ({vertex.op.describe()})")
            raise
        if vertex.op.declares_width:
            _check_width(vertex, values[vertex])
    return tuple(values[vertex] for vertex in outputs)


def _called(
    op: Op, scope: Scope, inputs: tuple[PyTree, ...], kwargs: Mapping[str, object], intercept: Intercept | None
) -> PyTree:
    if isinstance(op, NestedOp):
        return op.call_intercepted(scope, inputs, kwargs, intercept)
    return op.call(scope, inputs, kwargs)


def _check_width(vertex: Vertex, value: PyTree) -> None:
    shape = getattr(value, "shape", None)
    if shape is None or shape[-1:] != (vertex.nout,):
        raise SizeMismatchError(
            f"Vertex {vertex.name!r} ({vertex.op.describe()}) was declared to make {vertex.nout} neurons on the last "
            f"axis, but returned {'an array of shape ' + str(shape) if shape is not None else type(value).__name__}."
        )
