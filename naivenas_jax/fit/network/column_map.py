"""The columns of a weight's matrix: what they were before a mutation, and what is added to what they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from naivenas_jax.align.axis_plan import NEW
from naivenas_jax.align.plan import Plan
from naivenas_jax.fit.network.variable_uses import Additive, Event, Other
from naivenas_jax.paths import Path


class Columns(NamedTuple):
    """Of a matrix of shape (G, K, M) that a variable is rearranged to.

    Attributes:
      entries: shape (G, K, M): positions in the flattened variable.
      source: shape (G, M): which column it was before, counted over all groups; any, where there was none.
      known: shape (G, M): whether there was one.
    """

    entries: np.ndarray
    source: np.ndarray
    known: np.ndarray


def columns_of(plan: Plan, path: Path, now: np.ndarray, then: np.ndarray, shapes: Sequence[Sequence[int]]) -> Columns:
    """The columns of a variable, and what the plan says of them.

    Args:
      plan: of the mutation.
      path: of the variable, after it.
      now, then: positions of the entries of both matrices in the flattened variables; shapes (G, K, M).
      shapes: of the variable after and before.
    """
    column = np.empty(then.size, int)
    column[then] = np.arange(then.shape[0] * then.shape[2]).reshape(len(then), 1, -1)
    known, places = np.ones((now.shape[0], now.shape[2]), bool), []
    for axis, index in zip(plan.leaves[path], np.unravel_index(now, shapes[0]), strict=True):
        contracted = bool((index != index[:, :1]).any())
        source = index[:, 0] if axis is None else plan.axes[axis].source[index[:, 0]]
        known &= contracted | (source != NEW)
        places.append(np.where(contracted | (source == NEW), 0, source))
    return Columns(now, column[np.ravel_multi_index(places, shapes[1])], known)


class Added(NamedTuple):
    """A variable, one number per column, that is added (``sign`` 1) or subtracted (-1).

    Attributes:
      path: which one.
      sign: whether it is added or subtracted.
      entries: shape (G, M): for each column its place in the flattened variable.
    """

    path: Path
    sign: int
    entries: np.ndarray


def added_to(path: Path, found: Sequence[Event], arrays: Mapping[Path, Any]) -> Added | None:
    """The first variable that is added to what a weight makes, if it has one number per column and no other use."""
    elsewhere = {event.path for event in found if isinstance(event, Other)}
    elsewhere |= {e.path for e in found if isinstance(e, Additive) and e.contraction.path != path}
    own = [event for event in found if isinstance(event, Additive) and event.contraction.path == path]
    if not own or own[0].path in elsewhere:
        return None
    entries = [_per_column(event, np.size(arrays[own[0].path])) for event in own if event.path == own[0].path]
    first = entries[0]
    if first is None or any(other is None or not np.array_equal(first, other) for other in entries):
        return None
    return Added(own[0].path, own[0].sign, first)


def _per_column(event: Additive, size: int) -> np.ndarray | None:
    """Shape (G, M): for each column its place in the flattened variable; None if they are not one to one."""
    if event.dims is None or size != prod(event.shape[d] for d in event.dims):
        return None
    order = np.argsort(event.dims)
    places = np.arange(size, dtype=np.int32).reshape([event.shape[d] for d in event.dims]).transpose(order)
    others = [d for d in range(len(event.shape)) if d not in event.dims]
    every = np.broadcast_to(np.expand_dims(places, others), event.shape).reshape(event.contraction.result.shape)
    columns = event.contraction.columns(every)
    one_to_one = np.array_equal(np.sort(columns[:, 0], axis=None), np.arange(size))
    return columns[:, 0] if one_to_one and (columns == columns[:, :1]).all() else None
