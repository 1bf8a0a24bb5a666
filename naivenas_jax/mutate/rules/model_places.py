"""Places inside imported models: which there are, and which may be read where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import jax

from naivenas_jax.errors import NaiveNASError, StructureError, UnknownNameError
from naivenas_jax.graph.dag import unknown_name
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.model_vertex import ModelOp, Place
from naivenas_jax.graph.source import input_vertex
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.mutate.rules.draft import Draft, StandIn
from naivenas_jax.mutate.rules.size_problem import Stands


class ModelAt(NamedTuple):
    """A vertex that holds a whole model: the vertex, its computation, and the values in it that have a name."""

    vertex: Vertex
    op: ModelOp
    places: Mapping[Place, jax.ShapeDtypeStruct]

    def shape(self, place: Place) -> jax.ShapeDtypeStruct:
        """Of the value at a place.

        Raises:
          UnknownNameError: if there is none.
        """
        if problem := self.missing(place):
            raise problem
        return self.places[place]

    def missing(self, place: Place) -> UnknownNameError | None:
        """Why there is no value at a place; None if there is one."""
        if place in self.places:
            return None
        known = [p.name for p in self.places if p.end == place.end]
        return UnknownNameError(
            f"{unknown_name(place.name, known)} An edit inside {self.vertex.name!r} happens at the call of a "
            "module that takes in and returns an array of floats, and is not under jax.vmap."
        )

    def check_names(self, *names: str) -> None:
        """Raise if there is no value of one of the names, at whichever end of a module.

        Raises:
          UnknownNameError: says which there are.
        """
        for name in names:
            ends = [self.missing(Place(name, end)) for end in ("in", "out")]
            if problem := ends[0] and ends[1]:
                raise problem

    def flat(self, place: Place) -> StructureError | None:
        """Why the value at a place cannot be edited: it has too few dimensions."""
        shape = self.shape(place).shape
        if len(shape) >= 2:
            return None
        return StructureError(f"{place} has the shape {shape}; an edit needs a batch axis and one of neurons.")

    def source(self, place: Place, name: str) -> Vertex:
        """An input vertex for the value at a place."""
        if problem := self.flat(place):
            raise problem
        found = self.shape(place)
        return input_vertex(name, found.shape[-1], shape=found.shape[1:], dtype=found.dtype)


def model_at(graph: Graph, *names: str) -> ModelAt | StructureError | None:
    """Where names that are no vertices may lie: in the vertex of the graph that holds a whole model.

    Returns:
      The model; None if the names are those of vertices, or of nothing; the error, if they are of both.
    """
    within = [name for name in names if name not in graph]
    owners = list(models_in(graph).values()) if within else []
    if not owners:
        return None
    outside, known = [name for name in names if name in graph], {place.name for place in owners[0].places}
    if not outside:
        return owners[0]
    if not isinstance(within[0], str) or within[0] not in known:
        return None  # a name that there is not
    return StructureError(
        f"{outside[0]!r} is a vertex, and {within[0]!r} is none: an edge joins two vertices, or two modules inside the "
        "same imported model."
    )


def models_in(graph: Graph) -> dict[str, ModelAt]:
    """The vertices that hold a whole model with named values, by name."""
    found = {v.name: ModelAt(v, v.op, v.op.places()) for v in graph.vertices if isinstance(v.op, ModelOp)}
    return {name: model for name, model in found.items() if model.places}


def not_met(where: ModelAt, read: Place, at: Place) -> NaiveNASError | None:
    """Why the value at one place cannot be read at another one, as soon as both have as many neurons; None: it can.

    Args:
      where: the model.
      read: the place whose value is read.
      at: the place where it is read.
    """
    for place in (read, at):
        if problem := where.missing(place) or where.flat(place):
            return problem
    if problem := where.op.late(at, (read,)):
        return problem
    one, other = (where.shape(place).shape for place in (read, at))
    if one[:-1] != other[:-1]:
        return StructureError(
            f"{read} has the shape {one}, and would meet what reads {at} of shape {other}: all dimensions "
            "but the last have to be the same. Insert a layer that makes them so."
        )
    return None


def equal_places(graph: Graph, where: ModelAt, places: tuple[Place, Place]) -> tuple[Draft, Graph, Stands]:
    """The sizes that an edit asks for which reads one place at another: the first one stands in for the second.

    Returns:
      The graph as it is, as a draft; the graph in which both places have an axis; and the stand-in.
    """
    draft = Draft.of(graph)
    staged = replace(draft, ops={**draft.ops, where.vertex.name: where.op.naming(places)}).staged()
    first, second = map(str, places)
    return draft, staged, {first: (StandIn(first, where.shape(places[0]).shape[-1], None), second)}
