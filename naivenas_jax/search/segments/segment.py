"""Parts of a network that can be cut out: one vertex in, one vertex out, everything between them inside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.model_vertex import ModelOp
from naivenas_jax.graph.source import Source
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.graph.vertices.output_shapes import value_of
from naivenas_jax.layers.ops.attend import ports_for_values


@dataclass(frozen=True)
class Segment:
    """A part of a graph with one vertex in and one out.

    Its vertices read nothing but each other and the entry, and all but the last are read by each other alone.

    Attributes:
      entry: the vertex that it reads, which is outside.
      vertices: those inside, in topological order; what comes after reads the last one.
      start: where the entry is in the topological order of the graph, from 0 for the first vertex to 1 for the last.
      end: where the last vertex of the segment is.
      words: whether the entry makes numbers of words, to be looked up, and not values.
    """

    entry: Vertex
    vertices: tuple[Vertex, ...]
    start: float
    end: float
    words: bool = False

    @property
    def last(self) -> Vertex:
        """The vertex that is read from outside."""
        return self.vertices[-1]

    def __str__(self) -> str:
        first, last = self.vertices[0].name, self.last.name
        return repr(first) if len(self.vertices) == 1 else f"{first!r} to {last!r}"


def segments(graph: Graph) -> Iterator[Segment]:
    """All segments of a graph that another one can take the place of: none with an input, an output or a model in it.

    From each vertex on, what it depends on is taken in from the back; whenever one vertex alone is read from outside,
    there is a segment. It ends at a vertex that others need as well.
    """
    position = {vertex: number for number, vertex in enumerate(graph.vertices)}
    scale = max(1, len(graph) - 1)
    for last in graph.vertices:
        if not _may_be_inside(graph, last) or not _read_for_values(graph, last):
            continue
        inside, outside = {last}, set(last.inputs)
        while outside:
            if len(outside) == 1:
                entry = next(iter(outside))
                if not isinstance(entry.op, ModelOp) and _read_for_values(graph, entry, inside):
                    ordered = tuple(sorted(inside, key=position.__getitem__))
                    words = not graph.ties.indexed.isdisjoint(graph.ties.axes[entry.name])
                    yield Segment(entry, ordered, position[entry] / scale, position[last] / scale, words)
            nearest = max(outside, key=position.__getitem__)
            if not _may_be_inside(graph, nearest) or not inside.issuperset(_readers(graph, nearest)):
                break
            outside.remove(nearest)
            inside.add(nearest)
            outside |= set(nearest.inputs)


def _may_be_inside(graph: Graph, vertex: Vertex) -> bool:
    return bool(vertex.inputs) and vertex not in graph.outputs and not isinstance(vertex.op, ModelOp | Source)


def _readers(graph: Graph, vertex: Vertex) -> list[Vertex]:
    return [graph[name] for name in dict.fromkeys(graph.outputs_of(vertex.name))]


def _read_for_values(graph: Graph, vertex: Vertex, by: set[Vertex] | None = None) -> bool:
    """Whether nothing reads the table of a vertex (nothing of ``by``), which another vertex might not have."""
    readers = [each for each in _readers(graph, vertex) if by is None or each in by]
    return all(len(ports_for_values(each, vertex)) == each.inputs.count(vertex) for each in readers)


def why_unfit(ours: Segment, theirs: Segment) -> str | None:
    """Why a segment cannot take the place of another, as far as shapes are known; None if nothing speaks against it."""
    if ours.words != theirs.words:
        return f"it reads {'numbers of words' if theirs.words else 'values'}, the other does not"
    known = [[value_of(vertex) for vertex in (each.entry, each.last)] for each in (ours, theirs)]
    for (one, two), what in zip(zip(*known, strict=True), ("reads", "makes"), strict=True):
        if one is not None and two is not None and hasattr(one, "shape") and hasattr(two, "shape"):
            if len(one.shape) != len(two.shape):
                return f"it {what} arrays of {len(two.shape)} axes, the other {len(one.shape)}"
            if one.dtype.kind != two.dtype.kind:
                return f"it {what} {two.dtype}, the other {one.dtype}"
    (entered, left), (entered_there, left_there) = ([getattr(v, "shape", None) for v in each] for each in known)
    if entered and entered_there and entered[:-1] == entered_there[:-1] and left and left_there:
        return None if left[:-1] == left_there[:-1] else "it changes the number of positions otherwise"
    return None
