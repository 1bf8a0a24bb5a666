"""The summary of a graph as a table."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from naivenas_jax.graph.graph import Graph, require_graph
from naivenas_jax.graph.queries.graph_summary import COLUMNS, Summary
from naivenas_jax.show.as_text import as_text
from naivenas_jax.typing import Variables


@dataclass(frozen=True)
class SummaryTable:
    """A summary that prints as a table, with or without rich.

    Attributes:
      summary: the figures.
    """

    summary: Summary

    def __rich__(self) -> Table:
        table = Table(*COLUMNS, caption="\n".join(self.summary.totals()), caption_justify="left")
        for handle in self.summary.rows:
            table.add_row(*handle.cells())
        return table

    def __str__(self) -> str:
        return as_text(self.__rich__())


def summary(graph: Graph, variables: Variables | None = None) -> SummaryTable:
    """`Graph.summary` as a table.

    Args:
      graph: the network.
      variables: its variables (or their shapes); with them, parameters are counted.

    Returns:
      A table: ``print`` it, or give it to a console of rich. ``.summary`` has the figures.

    Raises:
      GraphError: if ``graph`` is no graph.
      VariablesError: if the variables lack an array of the graph.

    >>> import flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), x))
    >>> "│ out    │ 2    │" in str(nas.summary(graph))
    True
    """
    return SummaryTable(require_graph(graph).summary(variables))
