"""The columns of a weight's matrix: what they were before a mutation, and what is added to what they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from jaxtyping import Bool, Int

from naivenas_jax.align.axis_plan import NEW
from naivenas_jax.align.plan import Plan
from naivenas_jax.dataflow.variable_uses import AddedVariable, OtherUse, VariableUse
from naivenas_jax.paths import Path
from naivenas_jax.typing import Array


@dataclass(frozen=True, eq=False)
class ColumnMap:
    """The columns of a variable as G matrices of shape (K, M), and the columns that they were before a mutation.

    Attributes:
      entries: positions in the flattened variable.
      source: which column each was before, counted over all groups; any number where there was none.
      known: whether there was one.
    """

    entries: Int[np.ndarray, "G K M"]
    source: Int[np.ndarray, "G M"]
    known: Bool[np.ndarray, "G M"]

    @classmethod
    def of(
        cls,
        plan: Plan,
        path: Path,
        now: Int[np.ndarray, "G K M"],
        then: Int[np.ndarray, "H L O"],
        shapes: Sequence[Sequence[int]],
    ) -> ColumnMap:
        """The columns of a variable after a mutation.

        Args:
          plan: the plan of the mutation.
          path: the variable, after it.
          now: positions of the entries of the matrices in the flattened variable, after the mutation.
          then: the same, before it.
          shapes: the shapes of the variable after and before.
        """
        column = np.empty(then.size, int)
        column[then] = np.arange(then.shape[0] * then.shape[2]).reshape(len(then), 1, -1)
        known, places = np.ones((now.shape[0], now.shape[2]), bool), []
        for axis, index in zip(plan.leaves[path], np.unravel_index(now, shapes[0]), strict=True):
            contracted = bool((index != index[:, :1]).any())
            source = index[:, 0] if axis is None else plan.axes[axis].source[index[:, 0]]
            known &= contracted | (source != NEW)
            places.append(np.where(contracted | (source == NEW), 0, source))
        return cls(now, column[np.ravel_multi_index(places, shapes[1])], known)


@dataclass(frozen=True, eq=False)
class Shift:
    """A variable that is added to what a weight makes, or subtracted from it: one number per column.

    Attributes:
      path: the variable.
      sign: 1 where it is added, -1 where it is subtracted.
      entries: for each column of the weight its place in the flattened variable.
    """

    path: Path
    sign: int
    entries: Int[np.ndarray, "G M"]


def shift_of(path: Path, uses: Sequence[VariableUse], arrays: Mapping[Path, Array]) -> Shift | None:
    """The first variable that is added to what a weight makes, if it has one number per column and no other use."""
    added = [use for use in uses if isinstance(use, AddedVariable)]
    elsewhere = {use.path for use in uses if isinstance(use, OtherUse)}
    elsewhere |= {use.path for use in added if use.contraction.path != path}
    own = [use for use in added if use.contraction.path == path]
    if not own or own[0].path in elsewhere:
        return None
    entries = [_per_column(use, np.size(arrays[own[0].path])) for use in own if use.path == own[0].path]
    first = entries[0]
    if first is None or any(other is None or not np.array_equal(first, other) for other in entries):
        return None
    return Shift(own[0].path, own[0].sign, first)


def _per_column(use: AddedVariable, size: int) -> Int[np.ndarray, "G M"] | None:
    """For each column its place in the flattened variable, which has this size; None if they are not one to one."""
    if use.dims is None or size != prod(use.shape[d] for d in use.dims):
        return None
    order = np.argsort(use.dims)
    places = np.arange(size, dtype=np.int32).reshape([use.shape[d] for d in use.dims]).transpose(order)
    others = [d for d in range(len(use.shape)) if d not in use.dims]
    every = np.broadcast_to(np.expand_dims(places, others), use.shape).reshape(use.contraction.result.shape)
    columns = np.asarray(use.contraction.columns(every))
    one_to_one = np.array_equal(np.sort(columns[:, 0], axis=None), np.arange(size))
    return columns[:, 0] if one_to_one and (columns == columns[:, :1]).all() else None
