"""A table of a graph, vertex by vertex."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from naivenas_jax.graph.graph import Graph
from naivenas_jax.transfer.variables import flat


@dataclass(frozen=True)
class Summary:
    """Rows of the table; prints as text, and as a table where rich prints it.

    Attributes:
      rows: per vertex its name, computation, inputs, nin, nout, what is fixed or coupled, and number of parameters.
    """

    rows: tuple[tuple[str, ...], ...]

    def __rich__(self) -> Table:
        table = Table(*_COLUMNS)
        for row in self.rows:
            table.add_row(*row)
        return table

    def __str__(self) -> str:
        text = io.StringIO()
        Console(file=text, width=140).print(self.__rich__())
        return text.getvalue().rstrip()


_COLUMNS = ("vertex", "computes", "reads", "nin", "nout", "width", "parameters")


def summary(graph: Graph, variables: Mapping[str, Any] | None = None) -> Summary:
    """A table of the vertices of a graph in topological order.

    Args:
      graph: the network.
      variables: its variables (or their shapes); with them, parameters are counted.

    Returns:
      A `Summary`: ``print`` it.

    >>> import flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), x))
    >>> summary(graph).rows[1]
    ('out', 'Dense(3 -> 2)', 'x', '3', '2', 'free', '')
    """
    count = _parameters(variables)
    rows = tuple(
        (
            vertex.name,
            vertex.op.describe(),
            ", ".join(source.name for source in vertex.inputs),
            ", ".join(map(str, vertex.nin)),
            str(vertex.nout),
            _freedom(graph, vertex.name),
            f"{count.get(vertex.name, 0):,}" if variables is not None else "",
        )
        for vertex in graph.vertices
    )
    if variables is None:
        return Summary(rows)
    total = ("total", "", "", "", "", "", f"{sum(count.values()):,}")
    return Summary((*rows, total))


def _freedom(graph: Graph, name: str) -> str:
    ties = graph.ties
    if ties.plain(ties.axes[name]) <= ties.fixed.keys():
        return "fixed"
    return "coupled" if name in ties.coupled else "free"


def _parameters(variables: Mapping[str, Any] | None) -> dict[str, int]:
    found: dict[str, int] = {}
    for path, array in flat(variables or {}).items():
        if path[0] == "params":
            found[path[1]] = found.get(path[1], 0) + int(np.prod(np.shape(array)))
    return found
