"""Whether parts, sizes and graphs are within a `SearchSpace`."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterator, Mapping, Sequence

from naivenas_jax.errors import UnknownNameError
from naivenas_jax.graph.dag import unknown_name
from naivenas_jax.graph.graph import Graph
from naivenas_jax.search.space import Maker, SearchSpace, Sizes
from naivenas_jax.sizes.condition import Condition, size


def sizes_of(space: SearchSpace, handle: str) -> Sizes | None:
    """The sizes that a handle may have, or the factor by which it may change; None: it is not drawn."""
    if not isinstance(space.sizes, Mapping):
        return space.sizes
    return next((found for pattern, found in space.sizes.items() if _matches(handle, pattern)), None)


def makers_after(space: SearchSpace, name: str) -> Sequence[Maker]:
    """What may be inserted after a vertex or module."""
    if not isinstance(space.makers, Mapping):
        return space.makers
    return tuple(make for pattern, several in space.makers.items() if _matches(name, pattern) for make in several)


def protects(space: SearchSpace, name: str) -> bool:
    """Whether a vertex or handle is protected, by its name or as a part of one that is."""
    return any(_matches(name, pattern) or name.startswith(f"{pattern}:") for pattern in space.protected)


def check_names(space: SearchSpace, graph: Graph) -> None:
    """Raise if a name that is protected is one that a graph does not have.

    Raises:
      UnknownNameError: suggests others.
    """
    known = {*graph.ties.axes, *(vertex.name for vertex in graph.vertices)}
    for name in space.protected:
        if not any(_matches(each, name) for each in known):
            raise UnknownNameError(f"protected: {unknown_name(name, known)}")


def size_conditions(space: SearchSpace, graph: Graph, sizes: Collection[str]) -> Iterator[Condition]:
    """What sizes must satisfy after a mutation of a graph, as far as they can be told without a choice.

    Args:
      space: the space.
      graph: before the mutation.
      sizes: the names of the axes that there are.
    """
    for name, present in graph.ties.sizes.items():
        if name not in sizes or name.startswith("~"):
            continue
        if protects(space, name):
            yield size(name) == present
        elif isinstance(space.sizes, Mapping) and isinstance(allowed := sizes_of(space, name), Sequence):
            yield size(name) >= min(present, allowed[0])
            yield size(name) <= max(present, allowed[-1])


def why_outside(space: SearchSpace, before: Graph, after: Graph) -> str | None:
    """Why a mutation of a graph leaves the space; None if it does not."""
    for vertex in before.vertices:
        if vertex.name not in after and protects(space, vertex.name):
            return f"{vertex.name!r}, which is protected, would go"
    for name, now in after.ties.sizes.items() if isinstance(space.sizes, Mapping) else ():
        allowed = None if name.startswith("~") else sizes_of(space, name)
        if isinstance(allowed, Sequence) and now not in allowed and now != before.ties.sizes.get(name, now):
            return f"{name!r} would have {now} neurons, which is not among its sizes"
    if space.max_vertices is not None and len(after) > max(space.max_vertices, len(before)):
        return f"there would be {len(after)} vertices, more than max_vertices"
    return None


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatch.fnmatchcase(name, pattern)
