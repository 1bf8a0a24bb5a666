"""Which parts of a network each kind of mutation may change, and in which ways."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
from flax import nnx

from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.model_vertex import ModelOp
from naivenas_jax.graph.source import Source
from naivenas_jax.graph.vertices.function import Invariant
from naivenas_jax.layers.ops.layer_op import LayerOp
from naivenas_jax.search.space import SearchSpace
from naivenas_jax.search.within_space import makers_after, protects, sizes_of

_CONVOLUTIONS = (nn.Conv, nnx.Conv, nn.ConvTranspose, nnx.ConvTranspose)


@dataclass(frozen=True)
class Part:
    """A part of a network that one kind of mutation may change.

    Attributes:
      name: a handle, a vertex, or the path of a module.
      ways: what it may be changed to: sizes, makers, sources of edges, functions; one of them is drawn.
    """

    name: str
    ways: Sequence[Any]


def wider(graph: Graph, space: SearchSpace) -> list[Part]:
    """Handles that may grow, with larger sizes."""
    return _of_other_size(graph, space, up=True)


def narrower(graph: Graph, space: SearchSpace) -> list[Part]:
    """Handles that may shrink, with smaller sizes."""
    return _of_other_size(graph, space, up=False)


def _of_other_size(graph: Graph, space: SearchSpace, up: bool) -> list[Part]:
    sizes = graph.ties.sizes
    parts = (Part(name, _sizes(sizes[name], space, name, up)) for name in _drawn_handles(graph, space))
    return [part for part in parts if part.ways]


def _sizes(present: int, space: SearchSpace, name: str, up: bool) -> Sequence[int]:
    """Larger or smaller sizes that a handle may have."""
    allowed = sizes_of(space, name)
    if isinstance(allowed, Sequence):
        return [each for each in allowed if (each > present if up else each < present)]
    if allowed is None:
        return ()
    if up:
        return range(present + 1, max(present + 1, math.floor(present * allowed)) + 1)
    return range(max(1, math.ceil(present / allowed)), present)


def _drawn_handles(graph: Graph, space: SearchSpace) -> Iterator[str]:
    """Handles whose size is drawn: of those that are the same neurons the first, and none that is made of others."""
    ties = graph.ties
    ends = {run for vertex in (*graph.inputs, *graph.outputs) for run in ties.plain(ties.axes[vertex.name])}
    runs = {name: ties.plain(ties.axes[name]) for name in graph.handles() if sizes_of(space, name) is not None}
    named = isinstance(space.sizes, dict)
    seen = set()
    for name, own in runs.items():
        free = own - ties.fixed.keys()
        composed = len(free) > 1 and not any(run in ties.products for run in ties.axes[name])
        if own in seen or protects(space, name) or (not named and (composed or own & ends)):
            continue
        seen.add(own)
        yield name


def insertion(graph: Graph, space: SearchSpace) -> list[Part]:
    """Vertices and modules after which something may be inserted, with the makers."""
    if space.max_vertices is not None and len(graph) >= space.max_vertices:
        return []
    read = (v.name for v in graph.vertices if graph.outputs_of(v.name) and not isinstance(v.op, ModelOp))
    parts = (Part(name, makers_after(space, name)) for name in (*read, *_modules(graph, "out")))
    return [part for part in parts if part.ways]


def removal(graph: Graph, space: SearchSpace) -> list[Part]:
    """Vertices and modules that may be removed."""
    kept = {*graph.inputs, *graph.outputs}
    names = (v.name for v in graph.vertices if v not in kept and not isinstance(v.op, ModelOp))
    return [Part(name, (None,)) for name in (*names, *_modules(graph, "out")) if not protects(space, name)]


def edge_in(graph: Graph, space: SearchSpace) -> list[Part]:
    """Pairs of a vertex or module and one that it may read and does not read yet."""
    parts = []
    for vertex in graph.vertices:
        if vertex.op.takes(len(vertex.inputs) + 1) and not protects(space, vertex.name):
            known = {*graph.inputs_of(vertex.name), vertex.name, *graph.descendants(vertex.name)}
            sources = [v.name for v in graph.vertices if v.name not in known and v.op.returns() is None]
            parts += [Part(vertex.name, (source,)) for source in sources]
    modules = list(_modules(graph, "out"))
    for name in _modules(graph, "in"):
        if not protects(space, name):
            parts += [Part(name, (each,)) for each in modules if each != name]
    return parts


def edge_out(graph: Graph, space: SearchSpace) -> list[Part]:
    """Pairs of a vertex that can do with one input less and a vertex that it reads."""
    return [
        Part(vertex.name, (source,))
        for vertex in graph.vertices
        if len(vertex.inputs) > 1 and vertex.op.takes(len(vertex.inputs) - 1) and not protects(space, vertex.name)
        for source in dict.fromkeys(graph.inputs_of(vertex.name))
    ]


def kernel(graph: Graph, space: SearchSpace) -> list[Part]:
    """Convolutions, with other window sizes."""
    parts = []
    for vertex in graph.vertices:
        module: Any = vertex.op.module if isinstance(vertex.op, LayerOp) else None
        if type(module) in _CONVOLUTIONS and not protects(space, vertex.name):
            size = module.kernel_size
            now = (size,) if isinstance(size, int) else tuple(size)
            others = [(each,) * len(now) for each in space.kernels]
            parts.append(Part(vertex.name, [each for each in others if each != now]))
    return [part for part in parts if part.ways]


def activation(graph: Graph, space: SearchSpace) -> list[Part]:
    """Vertices that compute one of the activations, with the others."""
    return [
        Part(vertex.name, [each for each in space.activations if each != vertex.op.fn])
        for vertex in graph.vertices
        if isinstance(vertex.op, Invariant) and vertex.op.fn in space.activations and len(space.activations) > 1
        if not protects(space, vertex.name)
    ]


def _modules(graph: Graph, end: str) -> Iterator[str]:
    """The paths of the modules inside an imported model that can be edited."""
    for vertex in graph.vertices:
        if isinstance(vertex.op, ModelOp):
            yield from dict.fromkeys(place.name for place in vertex.op.places() if place.end == end)


def taken_names(graph: Graph, variables: object) -> set[str]:
    """Names that no new vertex can have: of vertices, and of what lies in the variables."""
    collections = variables.values() if isinstance(variables, dict) else ()
    inside = {str(name) for each in collections if isinstance(each, dict) for name in each}
    return {*inside, *(v.name for v in graph.vertices if not isinstance(v.op, Source)), *(v.name for v in graph.inputs)}
