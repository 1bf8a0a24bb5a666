"""What a graph is built from, checked and in topological order."""

from __future__ import annotations

from collections.abc import Iterable

from naivenas_jax.errors import DuplicateNameError, GraphError
from naivenas_jax.graph.source import Source
from naivenas_jax.graph.vertex import Vertex


def vertices_of(side: str, vertices: Vertex | Iterable[Vertex]) -> tuple[Vertex, ...]:
    """What a user gave as inputs or outputs of a graph, always as a tuple.

    Args:
      side: "inputs" or "outputs".
      vertices: one vertex or several.

    Raises:
      GraphError: if there is none, or something is no vertex.
    """
    found = (vertices,) if isinstance(vertices, Vertex) else tuple(vertices) if isinstance(vertices, Iterable) else ()
    if not found or not all(isinstance(vertex, Vertex) for vertex in found):
        raise GraphError(f"Graph {side} must be one vertex or several, found {vertices!r:.200}.")
    return found


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


def ordered(inputs: tuple[Vertex, ...], outputs: tuple[Vertex, ...]) -> tuple[Vertex, ...]:
    """The vertices between inputs and outputs, each after the vertices that it reads.

    Raises:
      GraphError: if an input is none, is listed twice, or is missing.
    """
    for vertex in inputs:
        if not isinstance(vertex.op, Source):
            raise GraphError(f"Graph inputs must be made by nas.input_vertex, found {vertex!r}.")
    if len(set(inputs)) < len(inputs):
        raise GraphError(f"An input is listed twice: {[v.name for v in inputs]}.")
    order = topological((*inputs, *outputs))
    missing = [v.name for v in order if isinstance(v.op, Source) and v not in inputs]
    if missing:
        raise GraphError(
            f"The outputs depend on input {missing[0]!r}, which is not among the graph's inputs "
            f"{[v.name for v in inputs]}. List every input vertex."
        )
    return order


def by_names(order: tuple[Vertex, ...]) -> dict[str, Vertex]:
    """The vertices by name.

    Raises:
      DuplicateNameError: if two have the same name.
    """
    by_name: dict[str, Vertex] = {}
    for vertex in order:
        if vertex.name in by_name:
            raise DuplicateNameError(
                f"Two vertices are named {vertex.name!r}: {by_name[vertex.name]!r} and {vertex!r}. Names are unique in "
                "a graph: rename one, vertex.named(...)."
            )
        by_name[vertex.name] = vertex
    return by_name
