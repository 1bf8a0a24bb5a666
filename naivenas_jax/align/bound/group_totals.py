"""How many classes each group can have, kept and inserted ones together, and with how much utility."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from naivenas_jax.align.problem.free_groups import FreeGroups
from naivenas_jax.align.problem.problem import Group, Problem
from naivenas_jax.sizes.condition import Condition

#: How many classes a group can have, kept and inserted ones together, in ascending order.
Totals: TypeAlias = Int[np.ndarray, " _"]
#: A number for each of these.
PerTotal: TypeAlias = Float[np.ndarray, " _"]


def most_utility(group: Group, room: int, scale: float, inserted: float) -> Float[np.ndarray, " totals"]:
    """The most utility that each number of classes, kept and inserted ones together, can have."""
    totals = np.arange(group.size + room + 1)
    best = np.minimum(totals, most_kept(group, room, scale, inserted))
    return group.utility_kept[best] / scale - inserted * (totals - best)


def most_kept(group: Group, room: int, scale: float, inserted: float) -> int:
    """How many classes are kept before any is inserted: all that cost less utility than a new one."""
    return int(np.count_nonzero(group.utility >= -inserted * scale)) if room else group.size


def allowed_totals(problem: Problem, free: FreeGroups, most: Sequence[PerTotal]) -> list[Totals]:
    """The numbers of classes of each free group that break no condition on it alone.

    Args:
      problem: the problem.
      free: its free groups.
      most: for each free group an entry for each number that can be thought of.
    """
    allowed = [np.ones(len(each), dtype=bool) for each in most]
    part, constant = free.matrix, free.constant
    alone: dict[int, tuple[int, float]] = {}  # rows of a single free group, and how often they hold it
    for row in np.flatnonzero(np.diff(part.indptr) == 1).tolist():
        alone[row] = int(part.indices[part.indptr[row]]), float(part.data[part.indptr[row]])
        group, times = alone[row]
        allowed[group] &= constant[row] + times * np.arange(len(most[group])) >= problem.least[row]
    asked = [(row, target.wish) for row, target in problem.targets if target.exact]
    for row, size in (*asked, *problem.pinned):
        if row in alone:
            group, times = alone[row]
            allowed[group] &= constant[row] + times * np.arange(len(most[group])) == size
    for condition in problem.conditions:
        _require(condition, problem.row_of, alone, constant, allowed)
    return [np.flatnonzero(each) for each in allowed]


def _require(
    condition: Condition,
    row_of: Mapping[str, int],
    alone: Mapping[int, tuple[int, float]],
    constant: Float[np.ndarray, " rows"],
    allowed: Sequence[Bool[np.ndarray, " _"]],
) -> None:
    """Leave out the numbers that a condition forbids, if it is about a single group."""
    rows = [(row_of[axis], count) for axis, count in condition.terms]
    groups = {alone[row][0] for row, _ in rows if row in alone}
    if len(groups) != 1 or any(row not in alone for row, _ in rows):
        return
    (group,) = groups
    totals = np.arange(len(allowed[group]))
    value = sum(count * (constant[row] + alone[row][1] * totals) for row, count in rows) + condition.constant
    match condition.sense:
        case "<=":
            allowed[group] &= value <= condition.bound
        case ">=":
            allowed[group] &= value >= condition.bound
        case "==":
            allowed[group] &= value == condition.bound
        case "multiple of":
            allowed[group] &= value % condition.bound == 0
        case "one of":
            allowed[group] &= np.isin(value, condition.among)
