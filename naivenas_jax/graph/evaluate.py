"""Run the vertices of a graph in a Flax scope: one child scope per vertex, named after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flax.core import Scope

from naivenas_jax.graph.vertex import Vertex

#: Sees each value on its way into a vertex: ``(scope names, vertex, port, value) -> value``.
Intercept = Callable[[tuple[str, ...], Vertex, int, Any], Any]


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
        values[vertex] = vertex.op.call(scope.push(vertex.name), inputs, given)
    return tuple(values[vertex] for vertex in outputs)
