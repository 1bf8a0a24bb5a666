"""A graph as a drawing: vertices as boxes, what is tied in one colour; graphs and models inside vertices as modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.source import Source
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.graph.vertices.subgraph import Subgraph
from naivenas_jax.show.drawing.drawing import Box, Drawing, Edge, Neurons, Row
from naivenas_jax.show.drawing.drawn_model import model_boxes
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.trace.model.imported_op import ImportedOp, ModelOutput


def drawn_graph(graph: Graph) -> Drawing:
    """A graph as a drawing.

    Args:
      graph: the network.

    >>> import flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> drawing = drawn_graph(nas.Graph(x, nas.layer("out", nn.Dense(2), x)))
    >>> [row.name for row in drawing.rows()], len(drawing.edges)
    (['x', 'out'], 1)
    """
    sketch = _Sketch(colours=Colours.of(graph.ties, _drawn_axes(graph)))
    sketch.add(graph, {})
    inputs, outputs = (", ".join(vertex.name for vertex in side) for side in (graph.inputs, graph.outputs))
    title = f"A network of {len(sketch.boxes)} vertices from {inputs} to {outputs}"
    return Drawing(title, tuple(sketch.boxes), tuple(dict.fromkeys(sketch.edges)))


def _drawn_axes(graph: Graph, inside: tuple[str, ...] = ()) -> Iterator[str]:
    """The axes of all that is drawn, in order."""
    for vertex in graph:
        if isinstance(vertex.op, Subgraph):
            yield from _drawn_axes(vertex.op.graph, (*inside, vertex.name))
        elif isinstance(vertex.op, ImportedOp):
            for dimensions in vertex.op.neurons_at().values():
                yield from (axis for axes in dimensions for axis in axes)
        else:
            yield "/".join((*inside, vertex.name))


@dataclass(frozen=True)
class Colours:
    """Which neurons are drawn alike.

    Attributes:
      ties: of the graph.
      numbers: a number for each run that several of the axes drawn have.
    """

    ties: Ties
    numbers: dict[int, int]

    @classmethod
    def of(cls, ties: Ties, axes: Iterable[str]) -> Colours:
        """Those of some axes, in the order in which they are first drawn."""
        holders: dict[int, int] = {}
        for axis in axes:
            for run in dict.fromkeys(_plain(ties, ties.axes.get(axis, ()))):
                holders[run] = holders.get(run, 0) + 1
        shared = (run for run, count in holders.items() if count > 1 and run not in ties.fixed)
        return cls(ties, {run: number for number, run in enumerate(shared)})

    def neurons(self, axis: str) -> tuple[Neurons, ...]:
        """The neurons on an axis; those of a product stand for their factors."""
        return tuple(
            Neurons(self.ties.run_sizes[run], self.numbers.get(run, -1), self.ties.fixed.get(run, ""))
            for run in _plain(self.ties, self.ties.axes.get(axis, ()))
        )

    def size(self, axis: str) -> int:
        """How many neurons lie on an axis."""
        return self.ties.sizes.get(axis, 0)


def _plain(ties: Ties, runs: Iterable[int]) -> list[int]:
    """Some runs in order, with the factors of a product in its place."""
    return [each for run in runs for each in sorted(ties.plain((run,)))]


@dataclass
class _Sketch:
    """A drawing that is being made."""

    colours: Colours
    boxes: list[Box] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)

    def add(self, graph: Graph, fed: dict[Vertex, str], inside: tuple[str, ...] = ()) -> list[str]:
        """Draw the vertices of a graph.

        Args:
          graph: the graph.
          fed: the boxes of the inputs of a graph inside a vertex.
          inside: the vertices that it lies in.

        Returns:
          The boxes of its outputs.
        """
        made: dict[Vertex, str] = dict(fed)
        returned: dict[Vertex, tuple[frozenset[str], ...]] = {}
        ends = {*graph.inputs, *graph.outputs} if not inside else set()
        for vertex in graph:
            if vertex in made:
                continue
            key = "/".join((*inside, vertex.name))
            if isinstance(vertex.op, Subgraph):
                inner = dict(zip(vertex.op.graph.inputs, (made[source] for source in vertex.inputs), strict=True))
                made[vertex] = self.add(vertex.op.graph, inner, (*inside, vertex.name))[0]
                continue
            if isinstance(vertex.op, ImportedOp):
                boxes, edges, returned[vertex] = model_boxes(
                    vertex.op, [made[source] for source in vertex.inputs], self.colours, inside
                )
                self.boxes += boxes
                self.edges += edges
                continue
            self.boxes.append(self._box(vertex, key, inside, vertex in ends))
            made[vertex] = key
            for source in vertex.inputs:
                if source in returned and isinstance(vertex.op, ModelOutput):
                    self.edges += [Edge(each, key) for each in sorted(returned[source][vertex.op.number])]
                elif source in made:
                    self.edges.append(Edge(made[source], key))
        return [made[vertex] for vertex in graph.outputs if vertex in made]

    def _box(self, vertex: Vertex, key: str, inside: tuple[str, ...], end: bool) -> Box:
        words = "" if isinstance(vertex.op, ModelOutput) else vertex.op.describe().removeprefix("elementwise ")
        row = Row(key, words, str(vertex.nout), self.colours.neurons(key), (key,))
        return Box(key, (row,), inside, "end" if end and isinstance(vertex.op, Source | ModelOutput) else "layer")
