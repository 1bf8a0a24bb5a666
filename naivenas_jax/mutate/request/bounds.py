"""Smallest and largest sizes of handles, as conditions on sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from naivenas_jax.errors import RequestError, UnknownNameError
from naivenas_jax.graph.dag import unknown_name
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.handles import Handle
from naivenas_jax.sizes.condition import Condition, size
from naivenas_jax.sizes.ties import Leaf

#: A size, or a float as a fraction of the present; of every axis that a weight makes, or by handle.
Bound = int | float | Mapping[str, int | float] | None


def bounds(graph: Graph, least: Bound, most: Bound) -> tuple[Condition, ...]:
    """``size >= least`` and ``size <= most``, of the handles that are named, or of every axis that a weight makes.

    Fractions are of the present size; ``least`` is rounded up and ``most`` down, but not to less than 1. A number for
    all asks no axis to grow: smaller ones keep their size.

    Raises:
      UnknownNameError: if there is no such handle.
      RequestError: if a bound is no number that it can be, or ``least`` is above ``most``.
    """
    low, high = _numbers("least", graph, least, math.ceil), _numbers("most", graph, most, math.floor)
    for name in low.keys() & high.keys():
        if low[name] > high[name]:
            raise RequestError(f"least={low[name]} of {name!r} is above most={high[name]}.")
    return (
        *((size(name) >= n).because("least=") for name, n in low.items()),
        *((size(name) <= n).because("most=") for name, n in high.items()),
    )


def inside(graph: Graph) -> dict[str, Handle]:
    """The whole axes that a number for all is about: no factors, and nothing tied to an input or output."""
    ends = {v.name for v in (*graph.inputs, *graph.outputs)}
    return {
        name: handle
        for name, handle in graph.handles().items()
        if ":" not in name and not ends.intersection({name, *handle.tied_to})
    }


def asks_growth(rows: Iterable[Condition], sizes: Mapping[str, int]) -> bool:
    """Whether an axis must become larger than it is."""
    return any(row.sense == ">=" and not row.holds(sizes) for row in rows)


def _numbers(what: str, graph: Graph, given: Bound, rounded: object) -> dict[str, int]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        made = {axis for leaf in graph.ties.leaves.values() if leaf.new is None for axis in _made(leaf)}
        axes = {name: handle for name, handle in inside(graph).items() if name in made}
        found = {name: _number(what, name, given, handle.size, rounded) for name, handle in axes.items()}
        return {n: min(v, graph.ties.size(n)) if what == "least" else v for n, v in found.items()}
    handles = graph.handles()
    for name in given:
        if name not in handles:
            raise UnknownNameError(f"{what}: {unknown_name(name, handles)}")
    return {name: _number(what, name, asked, handles[name].size, rounded) for name, asked in given.items()}


def _made(leaf: Leaf) -> list[str]:
    """The axes whose neurons a weight makes."""
    return [axis for axis, role in zip(leaf.axes, leaf.roles, strict=True) if axis is not None and role == "out"]


def _number(what: str, name: str, asked: object, present: int, rounded: object) -> int:
    if isinstance(asked, bool) or not isinstance(asked, int | float | np.integer | np.floating) or not 0 < asked < 1e9:
        raise RequestError(
            f"{what}= of {name!r} must be a whole number of at least 1, or a float as a fraction of the present size; "
            f"found {asked!r:.80}."
        )
    whole = isinstance(asked, int | np.integer)
    return int(asked) if whole else max(1, rounded(float(asked) * present))  # type: ignore[operator]
