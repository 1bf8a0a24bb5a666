"""One linear condition on many sizes: a knapsack in place of an integer program.

Let every group be at its own best, and let that break a condition ``sum(count * size) <= bound``. Without all else that
couples groups the best solution is that of a knapsack problem: a class of a group is an item, its weight is what it
adds to the sum, and its value its utility. As the utility of a group is concave, the items of a group
are taken best first by themselves. If what is found breaks nothing of all else, it is the best solution of the whole.
If an axis would be left without neurons, these are put in first, and the knapsack without them bounds what that costs.

Of solutions that keep the same utility the one that changes least is taken, as in `solve`: an item is worth a very
little more for each axis that it lies on. Of equal items those stay with which more of their group would be dropped,
so that changes are spread, and then those of later vertices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from naivenas_jax.align.bound.group_totals import Totals, allowed_totals
from naivenas_jax.align.problem.deadline import Deadline
from naivenas_jax.align.problem.free_groups import FreeGroups
from naivenas_jax.align.problem.problem import Group, Problem, Solution
from naivenas_jax.align.solve.knapsack import packed
from naivenas_jax.align.solve.solution import scale_of, utility_kept, violations
from naivenas_jax.sizes.condition import Condition

#: What an item is worth at the most for the axes that it lies on, in utilities of the most useful class: more than
#: rounding, far less than what counts as a difference.
_ADDED = 1e-12
#: In no more groups than this the integer program is exact and fast, where the knapsack leaves a gap; in more groups a
#: gap so large is left.
_FEW, _GAP = 64, 1e-4
#: So many conditions that are broken are tried: one of them may be all that matters.
_TRIED = 3
#: How often neurons are put in where an axis would have none.
_REPAIRS = 20


def within_one_condition(problem: Problem, deadline: Deadline) -> Solution | None:
    """The best solution, with a gap where it is not proven to be that; None: it is not found in this way.

    Args:
      problem: a problem without budgets and objectives, in which groups cannot all be at their own best.
      deadline: when to end.
    """
    if not all(target.exact for _, target in problem.targets):
        return None
    free = FreeGroups.of(problem)
    totals = _totals(problem, free)
    if not all(map(_even, totals)):
        return None
    alone = _solution(free, np.array([own[-1] for own in totals], dtype=int))
    if not violations(problem, alone):
        return alone  # only what concerns one group each was in the way
    sizes = problem.named(problem.sizes(alone))
    broken = [row for row in problem.conditions if row.sense == "<=" and not row.holds(sizes)]
    for condition in broken[:_TRIED]:
        knapsack = _Knapsack.of(problem, free, totals, condition)
        if knapsack is not None and (found := _packed(knapsack, deadline)) is not None:
            return found
    return None


def _packed(knapsack: _Knapsack, deadline: Deadline) -> Solution | None:
    """The best solution of the whole if a knapsack leads to it."""
    problem, free = knapsack.problem, knapsack.free
    least, most = np.zeros(len(free.groups), dtype=int), np.inf
    for _ in range(_REPAIRS):
        found = knapsack.best(least, deadline)
        if found is None:
            return None
        solution, above = found
        kept = utility_kept(free.groups, solution.kept[free.numbers])
        most = min(most, kept + above)
        if not violations(problem, solution):
            gap = max(0.0, most - kept) / max(abs(kept), 1e-12)
            if most <= kept + 1e-7 * knapsack.scale or gap <= 1e-9:
                return solution
            enough = deadline.is_over or (len(free.groups) > _FEW and gap <= _GAP)
            return Solution(solution.kept, solution.new, gap) if enough else None
        if not knapsack.repair(solution, least):
            return None
    return None


@dataclass(frozen=True, eq=False)
class _Knapsack:
    """The groups that may change as items of a knapsack problem.

    Attributes:
      problem: the problem.
      free: its free groups.
      scale: the largest utility of a class.
      capacity: what the sum may be beyond what the smallest totals add to it.
      totals: for each free group the numbers of classes that it can have, up to its own best.
      group: shape (items,): of each item, in the order in which they stay where they are equally good.
      place: shape (items,): which step up from the smallest total of its group it is.
      values: shape (items,): what each item adds, in utilities of the most useful class.
      weights: shape (items,): what each item adds to the sum.
    """

    problem: Problem
    free: FreeGroups
    scale: float
    capacity: int
    totals: Sequence[Totals]
    group: Int[np.ndarray, " items"]
    place: Int[np.ndarray, " items"]
    values: Float[np.ndarray, " items"]
    weights: Int[np.ndarray, " items"]

    @classmethod
    def of(cls, problem: Problem, free: FreeGroups, totals: Sequence[Totals], condition: Condition) -> _Knapsack | None:
        """The knapsack of a condition ``<=``; None: a larger group makes the sum smaller, and growing might win."""
        by_row = np.zeros(len(problem.present), dtype=int)
        for axis, times in condition.terms:
            by_row[problem.row_of[axis]] += times
        per_class = np.rint(free.matrix.T @ by_row).astype(int)
        if (per_class < 0).any():
            return None
        least = np.array([own[0] for own in totals], dtype=int)
        step = np.array([np.diff(own[:2]).sum() for own in totals], dtype=int)
        count = np.array([len(own) - 1 for own in totals], dtype=int)
        group = np.repeat(np.arange(len(totals)), count)
        place = np.arange(len(group)) - np.repeat(np.cumsum(count) - count, count)
        # where an item is dropped, so many of its group are dropped
        size = np.array([one.size for one in free.groups], dtype=int)
        dropped = (size - least)[group] - place * step[group]
        order = np.argsort(-(dropped * len(totals) + group), kind="stable")
        group, place, scale = group[order], place[order], scale_of(free.groups)
        axes = (problem.rows.astype(bool).T @ np.array([len(names) for names in problem.names]))[free.numbers]
        utility = np.concatenate([[0.0], *map(_gains, free.groups, totals)])[1:][order]
        values = np.maximum(utility / scale, 0.0) + (_ADDED / max(1, axes.max(initial=1)) * axes * step)[group]
        capacity = condition.bound - condition.constant - int(by_row @ free.constant) - int(per_class @ least)
        return cls(problem, free, scale, capacity, totals, group, place, values, (per_class * step)[group])

    def best(self, least: Int[np.ndarray, " free"], deadline: Deadline) -> tuple[Solution, float] | None:
        """The best solution that takes so many steps up in each group at the least, and how much better another may be.

        Args:
          least: the smallest number of steps.
          deadline: when to end.

        Returns:
          None if these do not fit.
        """
        forced = self.place < least[self.group]
        capacity = self.capacity - int(self.weights[forced].sum())
        if capacity < 0:
            return None
        open_ = np.flatnonzero(~forced & (self.weights > 0))
        found = packed(self.values[open_], self.weights[open_], capacity, deadline)
        taken = forced | (self.weights == 0)
        taken[open_] = found.taken
        steps = np.bincount(self.group[taken], minlength=len(self.totals))
        totals = np.array([own[at] for own, at in zip(self.totals, steps.tolist(), strict=True)], dtype=int)
        return _solution(self.free, totals), found.above * self.scale

    def repair(self, solution: Solution, least: Int[np.ndarray, " free"]) -> bool:
        """Ask for one step more of a group of each axis that is too small; returns whether there is any.

        Args:
          solution: that has been found.
          least: to be raised.
        """
        short = np.flatnonzero(self.problem.sizes(solution) < self.problem.least)
        for row in short.tolist():
            start, stop = self.free.matrix.indptr[row : row + 2]
            inside = np.isin(self.group, self.free.matrix.indices[start:stop]) & (self.place == least[self.group])
            items = np.flatnonzero(inside)
            if not items.size:
                return False
            best = items[np.argmax(self.values[items] / np.maximum(self.weights[items], 1))]
            least[self.group[best]] += 1
        return bool(short.size)


def _totals(problem: Problem, free: FreeGroups) -> list[Totals]:
    """The numbers of classes that each free group can have by itself, up to the first that is at least its own best.

    Beyond its own best it has to be a multiple, one of some numbers, or a size that is asked for.
    """
    asked, reach = {row for row, _ in problem.targets}, [target.wish for _, target in problem.targets]
    for one in problem.conditions:
        if one.sense not in ("<=", ">="):
            asked |= {problem.row_of[axis] for axis in one.axes}
            reach.append(max(abs(one.bound), *one.among, 0) + abs(one.constant) + int(problem.present.max()))
    beyond, most = np.zeros(len(free.groups), dtype=bool), max(reach, default=0)
    beyond[free.matrix[sorted(asked)].indices] = True
    lengths = [
        1 + (group.size + int(min(room, most)) if more else group.own_best)
        for group, room, more in zip(free.groups, free.room, beyond.tolist(), strict=True)
    ]
    every = allowed_totals(problem, free, [np.empty(length) for length in lengths])
    best = [group.own_best for group in free.groups]
    return [own[: np.searchsorted(own, at) + 1] for own, at in zip(every, best, strict=True)]


def _solution(free: FreeGroups, totals: Int[np.ndarray, " free"]) -> Solution:
    """The solution with certain totals: what is beyond the own best of a group is new."""
    kept, new = free.fixed_kept.copy(), np.zeros_like(free.fixed_kept)
    kept[free.numbers] = np.minimum(totals, np.array([group.own_best for group in free.groups], dtype=int))
    new[free.numbers] = totals - kept[free.numbers]
    return Solution(kept, new)


def _even(totals: Totals) -> bool:
    """Whether there are any, and each is by as much larger than the one before."""
    return bool(len(totals)) and (len(totals) < 3 or bool((np.diff(totals, 2) == 0).all()))


def _gains(group: Group, totals: Totals) -> Float[np.ndarray, " steps"]:
    """What each step from one total to the next adds to the utility of a group. What is beyond its best is new."""
    gains: np.ndarray = np.diff(group.utility_kept[np.minimum(totals, group.own_best)])
    return gains
