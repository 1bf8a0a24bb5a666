"""The summary of a graph as a table."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from naivenas_jax.graph.graph import Graph, require_graph
from naivenas_jax.graph.graph_summary import COLUMNS, Summary


@dataclass(frozen=True)
class SummaryTable:
    """A summary that prints as a table, with or without rich.

    Attributes:
      summary: the figures.
    """

    summary: Summary

    def __rich__(self) -> Table:
        table = Table(*COLUMNS, caption="\n".join(self.summary.totals()), caption_justify="left")
        for row in self.summary.rows:
            table.add_row(*row.cells())
        return table

    def __str__(self) -> str:
        text = io.StringIO()
        Console(file=text, width=140).print(self.__rich__())
        return text.getvalue().rstrip()


def summary(graph: Graph, variables: Mapping[str, Any] | None = None) -> SummaryTable:
    """`Graph.summary` as a table.

    Args:
      graph: the network.
      variables: its variables (or their shapes); with them, parameters are counted.

    >>> import flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), x))
    >>> "│ out    │ 2    │" in str(nas.summary(graph))
    True
    """
    return SummaryTable(require_graph(graph).summary(variables))
