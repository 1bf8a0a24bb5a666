"""An upper bound of the utility within budgets, without a solver.

A budget limits a count. Of the totals ``t_g`` of the groups it is at least (`group_counts`)

    constant + sum_g a_g(t_g) + sum_gh c_gh t_g t_h

where the pairs ``gh`` form a forest: exactly that for a chain of layers, and else with a tangent, in the logarithms of
the totals, to what is in no tree. With ``f_g(t)`` for the utility of ``t`` classes of a group and any price ``p >= 0``
no solution within the bound B has more utility than

    p (B - constant) + max over t of sum_g ( f_g(t_g) - p a_g(t_g) ) - p sum_gh c_gh t_g t_h

(weak duality). The maximum is that over whole numbers, and is found exactly (`forest`); the price is the best one
(`lagrangian_dual`). Conditions on several groups have prices of their own, from a linear program; conditions on a
single group (multiples among them) leave out some of its totals (`group_totals`).

The bound is nearly the optimum where layers are many, whatever the scores: prices leave open only which of two choices
of totals to take, and these differ in few groups. The tangents cost little where totals are near those at which they
touch, so that they are moved there, and where utility grows like the logarithm of a size, as comparable scores do.

References:
  R. J. Duffin, E. L. Peterson, C. Zener, Geometric Programming, 1967.
  A. M. Geoffrion, Lagrangean relaxation for integer programming, Mathematical Programming Study 2, 1974.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from naivenas_jax.align.bound.group_counts import GroupCount, group_counts
from naivenas_jax.align.bound.group_totals import PerTotal, Totals, allowed_totals, most_kept, most_utility
from naivenas_jax.align.bound.lagrangian_dual import LITTLE, Relaxation
from naivenas_jax.align.problem.deadline import Deadline
from naivenas_jax.align.problem.free_groups import FreeGroups, PerGroup
from naivenas_jax.align.problem.problem import Problem, Solution
from naivenas_jax.align.program.mccormick import Box

#: If the groups together can have more different numbers of classes than this, there is no bound: it would be slow.
_MOST = 4_000_000


class PricedConditions(NamedTuple):
    """Conditions on several groups, at prices.

    Attributes:
      cost: shape (free,): what each class costs.
      constant: added to the bound.
    """

    cost: PerGroup
    constant: float


class LagrangianBound:
    """The bound for one problem.

    Attributes:
      problem: the problem.
      free: its free groups.
      counts: of the budgets, in terms of the free groups.
      numbers: how many different numbers of classes the groups can have, all together.
      able: whether anything can be said; else there are none of the following.
      kept: shape (free,): how many classes are kept before any is inserted.
      most: for each free group its most utility, by the number of classes that it has.
      allowed: for each free group the numbers of classes that break no condition on it alone.
      lowest, highest: shape (free,): the smallest and the largest of these.
    """

    def __init__(self, problem: Problem, free: FreeGroups, scale: float, inserted: float, deadline: Deadline):
        """Prepare the bound.

        Args:
          problem: the problem.
          free: its free groups.
          scale: utilities are divided by it.
          inserted: the cost of an inserted class, in divided utilities.
          deadline: when the time is over.
        """
        self.problem, self.free, self.deadline = problem, free, deadline
        counts, _ = free.counts(problem)
        numbers = sum(group.size + room + 1 for group, room in zip(free.groups, free.room, strict=True))
        self.numbers = max(1, int(min(numbers, 1e18)))
        known = all(value >= 0 for count in counts for value in count.terms.values())
        self.able = bool(free.groups) and self.numbers <= _MOST and known
        self.counts: list[GroupCount] = []
        if self.able:
            rooms = free.room.astype(int).tolist()
            pairs = list(zip(free.groups, rooms, strict=True))
            self.kept = np.array([most_kept(group, room, scale, inserted) for group, room in pairs])
            self.most = [most_utility(group, room, scale, inserted) for group, room in pairs]
            self.allowed = allowed_totals(problem, free, self.most)
            largest = np.array([len(own) - 1.0 for own in self.most])
            self.counts = group_counts(counts, free, largest)
            ends = [(own[0], own[-1]) if own.size else (0, 0) for own in self.allowed]
            self.lowest, self.highest = np.array(ends, dtype=int).T
            spans = zip(self.allowed, ends, strict=True)
            #: the groups of which some totals between the smallest and the largest are not allowed
            self.with_holes = [g for g, (own, (low, high)) in enumerate(spans) if len(own) < high - low + 1]
            self.degree = max((len(rows) for count in counts for rows in count.terms), default=0)

    @property
    def complete(self) -> bool:
        """Whether no tangents are needed, so that it does not matter where they touch."""
        return all(count.complete for count in self.counts)

    def within(self, box: Box) -> list[Totals]:
        """For each free group the numbers of classes with which the rows that it alone makes up lie in a box."""
        low, high = np.zeros(len(self.most)), np.full(len(self.most), np.inf)
        for row, g, times in self.single_rows(box):
            constant = self.free.constant[row]
            low[g] = max(low[g], np.ceil((box[row][0] - constant) / times - 1e-9))
            high[g] = min(high[g], np.floor((box[row][1] - constant) / times + 1e-9))
        return [own[(own >= a) & (own <= b)] for own, a, b in zip(self.allowed, low, high, strict=True)]

    def single_rows(self, box: Box) -> list[tuple[int, int, float]]:
        """The rows of a box that a single free group makes up, that group, and how often the row holds its classes."""
        matrix = self.free.matrix
        starts = matrix.indptr
        rows = [row for row in box if starts[row + 1] - starts[row] == 1]
        return [(row, int(matrix.indices[starts[row]]), float(matrix.data[starts[row]])) for row in rows]

    def relaxed(
        self, totals: Sequence[Totals], at: PerGroup, conditions: PricedConditions | None = None
    ) -> Relaxation | None:
        """What bounds the utility of solutions with certain totals; None if there are none within the budgets.

        Args:
          totals: that each free group can have.
          at: shape (free,): where the tangents touch.
          conditions: on several groups.
        """
        if any(not own.size for own in totals):
            return None
        lowest, highest = (np.array([own[end] for own in totals], dtype=float) for end in (0, -1))
        at = np.clip(at, np.maximum(lowest, LITTLE), np.maximum(highest, LITTLE))
        every, lengths = np.concatenate(totals), np.array([len(own) for own in totals])
        utility = np.concatenate([most[own] for most, own in zip(self.most, totals, strict=True)])
        constant = 0.0
        if conditions is not None:
            utility, constant = utility - np.repeat(conditions.cost, lengths) * every, conditions.constant
        parts, rooms = [], []
        for count in self.counts:
            rest, weights = count.rest(at)
            parts.append(self._part(count, weights, at, highest, every, lengths) / max(count.count.bound, 1.0))
            rooms.append((count.count.bound - count.constant - rest) / max(count.count.bound, 1.0))
        coupling = np.array([count.coupling / max(count.count.bound, 1.0) for count in self.counts])
        forest = self.counts[0].forest
        found = Relaxation(forest, totals, utility, parts, coupling, np.array(rooms), constant, self.deadline)
        return None if found.excluded else found

    def _part(
        self,
        count: GroupCount,
        weights: PerGroup,
        at: PerGroup,
        highest: PerGroup,
        every: Totals,
        lengths: Int[np.ndarray, " free"],
    ) -> PerTotal:
        """What each total takes: terms of its group alone, and the tangent of the rest.

        Where a group has nothing, products with it are gone from the rest. The tangent without them is lower by their
        sum and by what they add to it for the other groups, which is no more than ``(degree - 1) log(highest / at)``.
        """
        part: np.ndarray = np.repeat(count.linear, lengths) * every + np.repeat(count.square, lengths) * every**2.0
        if weights.any():
            rise = float(np.log(np.maximum(highest, LITTLE) / at).max(initial=0.0))
            with np.errstate(divide="ignore"):
                logs = np.log(every / np.repeat(at, lengths))
            logs[every == 0] = -1.0 - max(self.degree - 1, 0) * max(rise, 0.0)
            part = part + np.repeat(weights, lengths) * logs
        return part

    def rounded_down(self, totals: PerGroup) -> Int[np.ndarray, " free"]:
        """The largest totals that are no larger and break no condition on their group alone, or the smallest of all."""
        found: np.ndarray = np.clip(np.floor(totals + 1e-6).astype(int), self.lowest, self.highest)
        for g in self.with_holes:
            found[g] = self.allowed[g][np.searchsorted(self.allowed[g], found[g], side="right") - 1]
        return found

    def solution(self, totals: Int[np.ndarray, " free"]) -> Solution:
        """The solution with certain totals: so many are kept as can be before any is inserted."""
        kept, new = self.free.fixed_kept.copy(), np.zeros_like(self.free.fixed_kept)
        kept[self.free.numbers] = np.minimum(totals, self.kept)
        new[self.free.numbers] = totals - np.minimum(totals, self.kept)
        return Solution(kept, new)
