"""The summary of a graph as a table."""

from __future__ import annotations

from dataclasses import dataclass

from naivenas_jax.graph.graph import Graph, require_graph
from naivenas_jax.graph.queries.graph_summary import Summary
from naivenas_jax.typing import Variables
from naivenas_jax.views.view import View, view
from naivenas_jax.views.viewable import Printable


@dataclass(frozen=True)
class SummaryTable(Printable):
    """A summary that prints as a table, with or without rich.

    Attributes:
      summary: the figures.
    """

    summary: Summary


@view.register
def table_view(table: SummaryTable) -> View:
    """The view of the summary itself."""
    return view(table.summary)


def summary(graph: Graph, variables: Variables | None = None) -> SummaryTable:
    """`Graph.summary` as a table.

    Args:
      graph: the network.
      variables: its variables (or their shapes); with them, parameters are counted.

    Returns:
      A table: ``print`` it, give it to a console of rich, or let a notebook show it. ``.summary`` has the figures.

    Raises:
      GraphError: if ``graph`` is no graph.
      VariablesError: if the variables lack an array of the graph.

    >>> import flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), x))
    >>> "│ out    │    2 │" in str(nas.summary(graph))
    True
    """
    return SummaryTable(require_graph(graph).summary(variables))
