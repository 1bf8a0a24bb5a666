"""Requests to `resize` in sizes that mean the same for every network of a chain of changes."""

from __future__ import annotations

from typing import TypedDict

from naivenas_jax.align.problem.request import To
from naivenas_jax.errors import RequestError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.request.bounds import Bound, bounds
from naivenas_jax.mutate.request.size_request import SizeRequest, read_targets


class AbsoluteRequest(TypedDict, total=False):
    """Keywords of `resize` that mean the same for every network of a chain."""

    request: dict[str, To]
    min_size: dict[str, int]
    max_size: dict[str, int]


def absolute_request(
    graph: Graph, *, request: SizeRequest | None = None, min_size: Bound = None, max_size: Bound = None
) -> AbsoluteRequest:
    """Changes and fractions as sizes, for a network that is made smaller step by step.

    Asked of each step anew, a change of -4 would be -4 at each of them, and a half a half of a half.

    Raises:
      RequestError: if a request is relaxed: it asks for another size than the present, whichever that is.
      Others: as `resize`.
    """
    found: AbsoluteRequest = {}
    if request is not None:
        found["request"] = _sizes(graph, request)
    bounds(graph, min_size, max_size)  # do they contradict one another?
    if low := bounds(graph, min_size, None):
        found["min_size"] = {condition.axes[0]: condition.bound for condition in low}
    if high := bounds(graph, None, max_size):
        found["max_size"] = {condition.axes[0]: condition.bound for condition in high}
    return found


def _sizes(graph: Graph, request: SizeRequest) -> dict[str, To]:
    targets = read_targets(graph, request)
    if relaxed := [target for target in targets if not target.exact]:
        raise RequestError(
            f"The request for {relaxed[0].axis!r} is relaxed, and would move at every step. Ask for a size: "
            f"nas.to({relaxed[0].wish})."
        )
    if chosen := [target for target in targets if target.keep is not None]:
        raise RequestError(
            f"The request for {chosen[0].axis!r} says which neurons stay (keep=), and steps choose them one by one. "
            "Make that  change first, by nas.delta_nout."
        )
    return {target.axis: To(target.wish) for target in targets}
