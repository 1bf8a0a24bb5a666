"""What there is to see of graphs, their handles, summaries and costs."""

from __future__ import annotations

from dataclasses import fields

from naivenas_jax.cost.costs import Costs
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.queries.graph_summary import COLUMNS, Summary
from naivenas_jax.graph.queries.handles import Handles
from naivenas_jax.show.drawing.drawing import Drawing
from naivenas_jax.show.drawing.drawn_graph import drawn_graph
from naivenas_jax.show.drawing.svg_text import svg_text, tie_words
from naivenas_jax.views.view import Picture, Table, View, Words, view

_COSTS = {
    "params": "parameters",
    "bytes": "bytes of variables",
    "macs": "multiply-accumulates",
    "activation_bytes": "bytes of activations",
}


@view.register
def graph_view(graph: Graph) -> View:
    """A graph: its picture; in text a row for each vertex."""
    drawing = drawn_graph(graph)
    return Words((repr(graph),), heading=True), Picture(lambda: svg_text(drawing), vertex_table(drawing))


def vertex_table(drawing: Drawing) -> Table:
    """The boxes of a drawing as a table, without operations that nobody has named."""
    read: dict[str, list[str]] = {}
    through = {box.key: [] if box.kind == "operation" else [box.key] for box in drawing.boxes}
    for edge in drawing.edges:
        read.setdefault(edge.target, []).extend(through[edge.source])
        if not through[edge.target] or edge.target not in through[edge.target]:
            through[edge.target] = [*through[edge.target], *through[edge.source]]
    rows = tuple(
        (box.key, row.words, ", ".join(dict.fromkeys(read.get(box.key, ()))), row.size, tie_words(row.neurons))
        for box in drawing.boxes
        for row in box.rows
        if box.kind != "operation"
    )
    return Table(("vertex", "computation", "reads", "size", "tied"), rows, frozenset((3,)))


@view.register
def summary_view(summary: Summary) -> View:
    """A summary: a row for each handle, then what is resizable."""
    table = Table(COLUMNS, tuple(row.cells() for row in summary.rows), frozenset((1, 3)))
    return table, Words(summary.totals())


@view.register
def handles_view(handles: Handles) -> View:
    """A row for each handle."""
    rows = tuple((h.name, f"{h.size:,}", ", ".join(h.tied_to), h.coupled or "") for h in handles.values())
    return (Table(("handle", "size", "tied to", "coupled"), rows, frozenset((1,))),)


@view.register
def costs_view(costs: Costs) -> View:
    """What was counted, one row each."""
    counted = ((_COSTS[field.name], getattr(costs, field.name)) for field in fields(costs))
    rows = tuple((name, f"{count:,}") for name, count in counted if count is not None)
    return (Table(("cost", "count"), rows, frozenset((1,))),)
