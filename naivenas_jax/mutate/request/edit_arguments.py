"""Arguments of the structural verbs, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import flax.linen as nn
from flax import nnx

from naivenas_jax.checks import as_items, require_function, shown
from naivenas_jax.errors import DuplicateNameError, StructureError
from naivenas_jax.graph.dag import topological
from naivenas_jax.graph.graph import Graph, require_graph
from naivenas_jax.graph.source import Source
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.layers.ops.attend import ports_for_values


def vertex_of(graph: Graph, name: str) -> Vertex:
    """The vertex that an argument of a verb names."""
    return require_graph(graph).vertex(name)


def added_by(graph: Graph, after: Vertex, make: Callable[[Vertex], Vertex]) -> tuple[Vertex, tuple[Vertex, ...]]:
    """What ``make`` builds after a vertex: the last new vertex, and all of them."""
    if not callable(make) or isinstance(make, nn.Module | nnx.Module):
        raise StructureError(f"make must be a function of a vertex, {_example(after)}; found {make!r:.120}.")
    require_function(make, "make", "vertex", StructureError)
    last = make(after)
    if not isinstance(last, Vertex) or last in graph.vertices:
        raise StructureError(
            f"make must return a new vertex that reads {after.name!r}, {_example(after)}; found {last!r:.120}."
        )
    order = topological((last,))
    if after not in order:
        raise StructureError(f"What make returned, {last!r}, does not read {after.name!r}.")
    present = set(graph.vertices)
    added = tuple(vertex for vertex in order if vertex not in present)
    for vertex in added:
        if vertex.name in graph:
            raise DuplicateNameError(
                f"The inserted {vertex!r} has the name of {graph[vertex.name]!r}. Names are unique in a graph."
            )
        if isinstance(vertex.op, Source):
            raise StructureError(
                f"The inserted vertices depend on input {vertex.name!r}, which the graph does not have."
            )
    return last, added


def _example(after: Vertex) -> str:
    return f"such as lambda v: nas.layer('new', nn.Dense({after.nout}), v)"


def readers_of(graph: Graph, after: str, outputs: Iterable[str] | None) -> tuple[str, ...]:
    """The readers of ``after`` that ``outputs=`` names; None: all."""
    readers = dict.fromkeys(graph.outputs_of(after))
    every = tuple(name for name in readers if ports_for_values(graph[name], graph[after]))
    if outputs is None:
        if not every and graph[after] not in graph.outputs:
            raise StructureError(f"Nothing reads {after!r}, so nothing can be inserted after it.")
        return every
    chosen = (outputs,) if isinstance(outputs, str) else as_items(outputs)
    names = tuple(name for name in chosen or () if isinstance(name, str))
    if not chosen or len(names) < len(chosen):
        raise StructureError(
            f"outputs must name vertices that read {after!r} ({', '.join(every)}), found {shown(outputs)}."
        )
    for name in names:
        if graph.vertex(name).name not in every:
            raise StructureError(f"{name!r} does not read {after!r}. Read by: {', '.join(every) or 'nothing'}.")
    return names


def reconnected(vertex: Vertex, reconnect: str | Iterable[str]) -> tuple[Vertex, ...]:
    """The inputs of a removed vertex that ``reconnect=`` names."""
    if isinstance(reconnect, str) and reconnect in ("all", "none"):
        return vertex.inputs if reconnect == "all" else ()
    items = as_items(reconnect)
    chosen: tuple[object, ...] = (reconnect,) if items is None else items
    known = {source.name: source for source in vertex.inputs}
    for name in chosen:
        if not isinstance(name, str) or name not in known:
            raise StructureError(
                f"reconnect must be 'all', 'none' or inputs of {vertex.name!r} ({', '.join(known) or 'none'}), "
                f"found {shown(name)}."
            )
    return tuple(known[str(name)] for name in chosen)
