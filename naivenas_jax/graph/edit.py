"""An edit inside a vertex that holds a whole model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from naivenas_jax.graph.graph import Graph


@dataclass(frozen=True)
class Place:
    """A value inside a model that has a name: what a module takes in (``end="in"``), or what it returns ("out")."""

    name: str
    end: str

    def __str__(self) -> str:
        return f"the {'input' if self.end == 'in' else 'output'} of {self.name!r}"


@dataclass(frozen=True)
class Edit:
    """At one place, compute a graph of the values at some places instead.

    An inserted layer is computed of the value itself, a removed module is the identity of what it took in, a skip edge
    is a sum.

    Attributes:
      at: whose value is replaced for everything that reads it.
      reads: the values that the graph gets as inputs.
      piece: with as many inputs, and one output of the shape of the value.
    """

    at: Place
    reads: tuple[Place, ...]
    piece: Graph
