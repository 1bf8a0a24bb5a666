"""Requests for sizes, as users write them: `delta_nout` by axis, `delta_nin` by vertex and input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from naivenas_jax.align.problem.request import Relaxed, Target, To, targets
from naivenas_jax.errors import RequestError, UnknownNameError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.queries.handles import unknown_axis

#: A change of a size, ``nas.to(size)``, or either as a wish, ``nas.relaxed(...)``.
Asked: TypeAlias = int | To | Relaxed
#: By axis, what is asked of its size.
SizeRequest: TypeAlias = Mapping[str, Asked]
#: By vertex, what is asked of each of its inputs (None: nothing), or of the only one.
InputRequest: TypeAlias = Mapping[str, Asked | tuple[Asked | None, ...]]


def read_targets(graph: Graph, request: SizeRequest) -> tuple[Target, ...]:
    """A request in absolute sizes.

    Raises:
      RequestError: if it is no request.
      UnknownNameError: if the graph has no such axis.
    """
    sizes = graph.ties.sizes
    for name in request if isinstance(request, Mapping) else ():
        if name not in sizes:
            raise UnknownNameError(unknown_axis(name, graph.handles(), graph.ties, graph.vertices))
    return targets(request, sizes)


def asked_of_sources(graph: Graph, request: InputRequest) -> SizeRequest:
    """A request for the inputs of vertices, as a request for the vertices that they read.

    Raises:
      RequestError: if it is no request, has too few or too many changes, or asks two things of one vertex.
      UnknownNameError: if there is no such vertex.
    """
    if not isinstance(request, Mapping):
        raise RequestError(f"A request is a mapping {{vertex: (change, ...)}}, found {type(request).__name__}.")
    by_source: dict[str, Asked] = {}
    for name, asked in request.items():
        for source, change in zip(graph.inputs_of(name), _per_input(graph, name, asked), strict=True):
            if change is not None and by_source.setdefault(source, change) != change:
                raise RequestError(
                    f"Two different changes are asked of {source!r}, an input of {name!r}: {by_source[source]!r} and "
                    f"{change!r}. Ask for one, None for the other."
                )
    return by_source


def _per_input(graph: Graph, name: str, asked: Asked | tuple[Asked | None, ...]) -> tuple[Asked | None, ...]:
    """One entry per input; a relaxed tuple is a tuple of relaxed entries."""
    sources = graph.inputs_of(name)
    changes: tuple[Asked | None, ...]
    if isinstance(asked, Relaxed) and isinstance(asked.wish, tuple):
        changes = tuple(None if wish is None else Relaxed(wish) for wish in asked.wish)
    else:
        changes = tuple(asked) if isinstance(asked, tuple | list) else (asked,)
    if len(changes) != len(sources):
        raise RequestError(
            f"{name!r} has {len(sources)} inputs ({', '.join(sources)}), found {len(changes)} changes: "
            f"{asked!r}. Give one per input, None where it does not matter."
        )
    return changes
