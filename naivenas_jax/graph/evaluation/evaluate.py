"""Run the vertices of a graph in a Flax scope: one child scope per vertex, named after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.errors
import jax
from flax.core import Scope

from naivenas_jax.errors import GraphError, SizeMismatchError
from naivenas_jax.graph.evaluation.batches import check_array
from naivenas_jax.graph.evaluation.name_scopes import computing
from naivenas_jax.graph.source import Source
from naivenas_jax.graph.vertex import Vertex

#: Sees each value on its way into a vertex: ``(scope names, vertex, port, value) -> value``.
Intercept = Callable[[tuple[str, ...], Vertex, int, Any], Any]

#: What Flax raises where variables are missing, or have another shape than their initialiser makes.
DOES_NOT_FIT = (
    flax.errors.ScopeCollectionNotFound,
    flax.errors.ScopeParamNotFoundError,
    flax.errors.ScopeParamShapeError,
    flax.errors.ScopeVariableNotFoundError,
)


def holds_indices(vertex: Vertex, array: Any) -> bool:
    """Whether an input is indices of neurons (tokens) and not their values: declared so, or simply whole numbers."""
    if not isinstance(vertex.op, Source):
        return False
    return vertex.op.indices or jax.numpy.issubdtype(jax.numpy.result_type(array), jax.numpy.integer)


def check_inputs(vertices: tuple[Vertex, ...], arrays: tuple[Any, ...]) -> None:
    """Raise unless there is one array per input vertex, with its neurons on the last axis."""
    if len(arrays) != len(vertices):
        raise GraphError(
            f"The graph has {len(vertices)} input{'s' * (len(vertices) != 1)} ({', '.join(v.name for v in vertices)}), "
            f"found {len(arrays)} arrays."
        )
    for vertex, array in zip(vertices, arrays, strict=True):
        if not isinstance(array, int | float | complex):
            check_array(array, f"Input {vertex.name!r}", GraphError)
        shape = tuple(jax.numpy.shape(array))
        if shape == () and isinstance(vertex.op, Source) and vertex.op.shape != () and not vertex.op.indices:
            raise SizeMismatchError(
                f"Input {vertex.name!r} has {vertex.nout} neurons, on the last axis; found a single number, of shape "
                f"(): {array!r:.80}."
            )
        if holds_indices(vertex, array) or (isinstance(vertex.op, Source) and vertex.op.shape == ()):
            continue  # indices of neurons, or one number per example
        if shape[-1:] != (vertex.nout,):
            raise SizeMismatchError(
                f"Input {vertex.name!r} has {vertex.nout} neurons, on the last axis; found an array of shape "
                f"{shape}. Transpose it, or build the graph for it: "
                f"nas.input_vertex({vertex.name!r}, {(shape or (1,))[-1]})."
            )


def run(
    order: Iterable[Vertex],
    outputs: tuple[Vertex, ...],
    fed: Mapping[Vertex, Any],
    scope: Scope,
    kwargs: Mapping[str, Any],
    intercept: Intercept | None = None,
) -> tuple[Any, ...]:
    """Evaluate ``order`` from the values in ``fed``; returns the values of ``outputs``."""
    values = dict(fed)
    for vertex in order:
        if vertex in values:
            continue
        inputs = tuple(values[source] for source in vertex.inputs)
        if intercept is not None:
            inputs = tuple(intercept(scope.path, vertex, port, value) for port, value in enumerate(inputs))
        given = {**kwargs, "intercept": intercept} if vertex.op.nested else kwargs
        own = scope if vertex.op.at_root else scope.push(vertex.name)
        try:
            with computing("/".join(own.path)):
                values[vertex] = vertex.op.call(own, inputs, given)
        except Exception as error:
            error.add_note(f"while computing vertex {'/'.join((*scope.path, vertex.name))!r} ({vertex.op.describe()})")
            raise
        if vertex.op.declares_width:
            _check_width(vertex, values[vertex])
    return tuple(values[vertex] for vertex in outputs)


def _check_width(vertex: Vertex, value: Any) -> None:
    shape = getattr(value, "shape", None)
    if shape is None or shape[-1:] != (vertex.nout,):
        raise SizeMismatchError(
            f"Vertex {vertex.name!r} ({vertex.op.describe()}) was declared to make {vertex.nout} neurons on the last "
            f"axis, but returned {'an array of shape ' + str(shape) if shape is not None else type(value).__name__}."
        )
