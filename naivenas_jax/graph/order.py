"""Topological order."""

from __future__ import annotations

from collections.abc import Iterable

from naivenas_jax.graph.vertex import Vertex


def topological(outputs: Iterable[Vertex]) -> tuple[Vertex, ...]:
    """All vertices that ``outputs`` depend on, each after its inputs, in the order of a depth-first walk.

    Iterative, because graphs may be deeper than Python's stack.
    """
    done: dict[Vertex, None] = {}
    stack = [(vertex, False) for vertex in reversed(tuple(outputs))]
    while stack:
        vertex, ready = stack.pop()
        if vertex in done:
            continue
        if ready:
            done[vertex] = None
        else:
            stack.append((vertex, True))
            stack.extend((source, False) for source in reversed(vertex.inputs) if source not in done)
    return tuple(done)
