"""Smallest and largest sizes of handles, as conditions on sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TypeAlias

from naivenas_jax.checks import as_number
from naivenas_jax.errors import RequestError, UnknownNameError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.queries.handles import Handle, unknown_axis
from naivenas_jax.sizes.condition import Condition, size
from naivenas_jax.sizes.ties import Leaf

#: A size, or a float as a fraction of the present; of every axis that a weight makes, or by handle.
Bound: TypeAlias = int | float | Mapping[str, int | float] | None
Keyword: TypeAlias = Literal["min_size", "max_size"]

#: How a fraction of a size becomes a size.
_ROUNDED: dict[Keyword, Callable[[float], int]] = {"min_size": math.ceil, "max_size": math.floor}


def bounds(graph: Graph, min_size: Bound, max_size: Bound) -> tuple[Condition, ...]:
    """``min_size <= size <= max_size``, of the handles that are named, or of every axis that a weight makes.

    Fractions are of the present size; ``min_size`` is rounded up and ``max_size`` down, but not to less than 1. A
    number for all asks no axis to grow: smaller ones keep their size.

    Raises:
      UnknownNameError: if there is no such handle.
      RequestError: if a bound is no number that it can be, or ``min_size`` is above ``max_size``.
    """
    low, high = _sizes("min_size", graph, min_size), _sizes("max_size", graph, max_size)
    least, most = as_number(min_size), as_number(max_size)
    if least is not None and most is not None and type(least) is type(most) and least > most:
        raise RequestError(f"min_size={least} is above max_size={most}.")
    for name in low.keys() & high.keys():
        if low[name] > high[name]:
            raise RequestError(f"min_size={low[name]} of {name!r} is above max_size={high[name]}.")
    return (
        *((size(name) >= n).because("min_size=") for name, n in low.items()),
        *((size(name) <= n).because("max_size=") for name, n in high.items()),
    )


def free_handles(graph: Graph) -> dict[str, Handle]:
    """The handles that a number for all is about: whole axes (no factors), tied to no input or output of the graph."""
    ends = {v.name for v in (*graph.inputs, *graph.outputs)}
    return {
        name: handle
        for name, handle in graph.handles().items()
        if ":" not in name and not ends.intersection({name, *handle.tied_to})
    }


def asks_growth(conditions: Iterable[Condition], sizes: Mapping[str, int]) -> bool:
    """Whether an axis must become larger than it is."""
    return any(condition.sense == ">=" and not condition.holds(sizes) for condition in conditions)


def _sizes(keyword: Keyword, graph: Graph, given: Bound) -> dict[str, int]:
    """The bound of each handle, as a size."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        handles = graph.handles()
        for name in given:
            if name not in handles:
                raise UnknownNameError(f"{keyword}: {unknown_axis(name, handles, graph.ties, graph.vertices)}")
        return {name: _size(keyword, name, asked, handles[name].size) for name, asked in given.items()}
    made = {axis for leaf in graph.ties.leaves.values() if leaf.new is None for axis in _made(leaf)}
    axes = {name: handle.size for name, handle in free_handles(graph).items() if name in made}
    found = {name: _size(keyword, name, given, present) for name, present in axes.items()}
    return found if keyword == "max_size" else {name: min(bound, axes[name]) for name, bound in found.items()}


def _made(leaf: Leaf) -> list[str]:
    """The axes whose neurons a weight makes."""
    return [axis for axis, role in zip(leaf.axes, leaf.roles, strict=True) if axis is not None and role == "out"]


def _size(keyword: Keyword, name: str, asked: object, present: int) -> int:
    number = as_number(asked)
    if number is None or not 0 < number < 1e9:
        raise RequestError(
            f"{keyword}= of {name!r} must be a whole number of at least 1, or a float as a fraction of the present "
            f"size; found {asked!r:.80}."
        )
    return number if isinstance(number, int) else max(1, _ROUNDED[keyword](number * present))
