"""What `resize` is asked, in sizes that mean the same for every network of a chain of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from naivenas_jax.align.problem.request import targets, to
from naivenas_jax.errors import RequestError, UnknownNameError
from naivenas_jax.graph.dag import unknown_name
from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.request.bounds import Bound, bounds


def absolute(
    graph: Graph, *, request: Mapping[str, Any] | None = None, least: Bound = None, most: Bound = None
) -> dict[str, Any]:
    """These keywords of `resize` for a network that is made smaller step by step: changes and fractions as sizes.

    Asked of each step anew, a change of -4 would be -4 at each of them, and a half a half of a half.

    Raises:
      RequestError: if a request is relaxed: it asks for another size than the present, whichever that is.
      Others: as `resize`.
    """
    found: dict[str, Any] = {}
    if request is not None:
        found["request"] = _sizes(graph, request)
    for name, rows in (("least", bounds(graph, least, None)), ("most", bounds(graph, None, most))):
        if rows:
            found[name] = {row.axes[0]: row.bound for row in rows}
    return found


def _sizes(graph: Graph, request: Mapping[str, Any]) -> dict[str, Any]:
    sizes = graph.ties.sizes
    for name in request if isinstance(request, Mapping) else ():
        if name not in sizes:
            raise UnknownNameError(unknown_name(name, sizes))
    asked = targets(request, sizes)
    if relaxed := [target for target in asked if not target.exact]:
        raise RequestError(
            f"The request for {relaxed[0].axis!r} is relaxed, and would move at every step. Ask for a size: "
            f"nas.to({relaxed[0].wish})."
        )
    return {target.axis: to(target.wish) for target in asked}
