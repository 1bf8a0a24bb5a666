"""An edited graph as the rules look at it: which computation reads what, and how many neurons arrive where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.op import Op


@dataclass(frozen=True)
class Reader:
    """A vertex of an edited graph, whose sizes need not fit yet.

    Attributes:
      op: what it computes.
      sources: the names of what it reads.
      nin: how many neurons its weights read at each input.
      nout: how many neurons it makes.
    """

    op: Op
    sources: tuple[str, ...]
    nin: tuple[int, ...]
    nout: int


#: The vertices of an edited graph by name, each after those that it reads.
Readers: TypeAlias = Mapping[str, Reader]


def readers(graph: Graph) -> Readers:
    """A graph whose sizes fit."""
    return {v.name: Reader(v.op, tuple(s.name for s in v.inputs), v.nin, v.nout) for v in graph.vertices}
