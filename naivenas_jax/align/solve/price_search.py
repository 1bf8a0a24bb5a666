"""The search for the largest utility within budgets without a solver: bounds by prices, and solutions near to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from naivenas_jax.align.bound.group_totals import Totals
from naivenas_jax.align.bound.lagrangian_bound import LagrangianBound, PricedConditions
from naivenas_jax.align.bound.lagrangian_dual import Relaxation, UpperBound, between
from naivenas_jax.align.bound.price_cuts import Priced
from naivenas_jax.align.problem.deadline import Deadline
from naivenas_jax.align.problem.free_groups import FreeGroups, PerGroup
from naivenas_jax.align.problem.problem import Problem, Solution
from naivenas_jax.align.program.milp import NoSolutionError
from naivenas_jax.align.solve.local_search import LocalSearch
from naivenas_jax.align.solve.solution import scale_of, utility_kept

#: With no more groups than this, problems are solved exactly: points of the program are taken in whole numbers, and
#: pairs of groups are tried.
_SMALL = 12
#: The gap at which the search ends, in small problems and in others.
_SMALL_GAP, _GAP = 1e-9, 1e-3
#: What an inserted neuron costs, in utilities of the most useful class: none is inserted without need.
INSERTED = 1e-4
#: How often the tangents of the Lagrangian bound are moved in the whole space.
FIRST_MOVES = 40
#: Tangents stay where they are once so many moves have lowered the bound by less than this share of the gap.
_IDLE, _LITTLE_GAIN = 3, 0.02
_HALVINGS = 20


@dataclass(frozen=True, eq=False)
class Bounded:
    """The best bound by prices that was found for some totals of the groups.

    Attributes:
      upper: the bound.
      relaxation: whose bound it is.
      ends: at which prices the relaxation was looked at last, on both sides.
    """

    upper: UpperBound
    relaxation: Relaxation
    ends: Sequence[Priced]


class PriceSearch:
    """The best solution so far, and what is bounded and found by prices alone.

    Attributes:
      problem: the problem.
      deadline: when the time is over.
      free: the groups that may change.
      counts: of the budgets.
      scale: the largest utility of a class.
      asked: whether a user has said how near is near enough.
      small: whether the problem is solved exactly, unless less is asked.
      tolerance: the gap at which the search ends.
      lagrangian: the bound.
      local_search: what takes back what still fits.
      budget_prices: that were best last.
      best: the best solution so far.
      value: its utility, less a little for what is inserted.
    """

    def __init__(self, problem: Problem, deadline: Deadline, gap: float | None = None):
        self.problem, self.deadline, self.free = problem, deadline, FreeGroups.of(problem)
        self.counts, _ = self.free.counts(problem)
        self.scale = scale_of(self.free.groups)
        self.asked, self.small = gap is not None, len(self.free.groups) <= _SMALL
        self.tolerance = max(gap, _SMALL_GAP) if gap is not None else _SMALL_GAP if self.small else _GAP
        self.lagrangian = LagrangianBound(problem, self.free, self.scale, INSERTED, deadline)
        self.local_search = LocalSearch(problem, self.free, self.counts, self.small, self.scale, deadline)
        self.budget_prices = np.zeros(len(self.counts))
        self.best: Solution | None = None
        self.value = -math.inf

    @property
    def enough(self) -> float:
        """The search ends when no solution can have more utility than this."""
        return self.near_enough(1.0)

    def near_enough(self, share: float) -> float:
        """No more utility than this differs from that of the best solution by a share of the tolerance."""
        if self.best is None:
            return -math.inf
        return self.value + share * self.tolerance * abs(self.value)

    def most(self) -> float:
        """The utility of every free group at its own best, which no solution exceeds."""
        return sum(float(group.utility_kept[group.own_best]) for group in self.free.groups) / self.scale

    def require_time(self) -> None:
        """Raise `StoppedError` if the time limit has struck, which parts of the search that need no solver must ask."""
        self.deadline.remaining()

    def bounded(self, totals: Sequence[Totals], at: PerGroup, moves: int) -> Bounded:
        """The Lagrangian bound of the utility of solutions with certain totals. What it is reached at is offered.

        The tangents are moved half of the way to where the bound is reached, and less where that does not lower it.

        Args:
          totals: that each group can have.
          at: shape (free,): where the tangents touch at first.
          moves: how often they are moved at the most.

        Raises:
          NoSolutionError: if there is no solution.
        """
        found: Bounded | None = None
        step, from_, idle = 0.5, at, 0
        for _ in range(moves):
            relaxation = self.lagrangian.relaxed(totals, at, self.conditions())
            if relaxation is None:
                raise NoSolutionError
            upper, ends = relaxation.least(self.budget_prices)
            self.budget_prices = upper.prices
            self._offer_near(upper)
            gain = math.inf if found is None else found.upper.utility - upper.utility
            if found is None or gain > 0:
                found, from_ = Bounded(upper, relaxation, ends), at
            else:
                step /= 2
            idle = 0 if gain > _LITTLE_GAIN * (found.upper.utility - self.value) else idle + 1
            if self.lagrangian.complete or found.upper.utility <= self.enough or idle > _IDLE:
                break
            at = between(found.upper.totals, from_, step)
        assert found is not None  # moves is 1 at least
        return found

    def conditions(self) -> PricedConditions | None:
        """The conditions on several groups at prices, if there are any; else these are not thought of in the bound."""
        return None

    def _offer_near(self, upper: UpperBound) -> None:
        """Offer solutions near to where a bound is reached.

        They are the totals that are best at a slightly higher price; those between both choices, rounded down; and the
        first groups of the one choice with the last ones of the other, as far as the budgets allow.
        """
        self.offer(self._shrunk(upper.within))
        self.offer(self._shrunk(upper.totals))
        differ = np.flatnonzero(upper.within != upper.beyond)
        low, high = 0, len(differ)
        while high - low > 1:
            middle = (low + high) // 2
            fits = self.local_search.within(self.lagrangian.solution(_spliced(upper, differ[:middle])))
            low, high = (middle, high) if fits else (low, middle)
        if low:
            self.offer(self._shrunk(_spliced(upper, differ[:low]).astype(float)))

    def utility(self, solution: Solution) -> float:
        """The utility that a solution keeps, in utilities of the most useful class; insertions cost a little."""
        kept = utility_kept(self.free.groups, solution.kept[self.free.numbers])
        return kept / self.scale - INSERTED * float(solution.new.sum())

    def begin(self) -> PerGroup:
        """Keep what is there, made smaller until the budgets hold: a solution in case that time is short; its totals.

        Raises:
          NoSolutionError: if a group cannot have any total.
        """
        if not all(own.size for own in self.lagrangian.allowed):
            raise NoSolutionError
        solution = self._shrunk(np.array([group.size for group in self.free.groups], dtype=float))
        self.keep(solution)
        totals: np.ndarray = (solution.kept + solution.new)[self.free.numbers].astype(float)
        return totals

    def offer(self, solution: Solution) -> None:
        """Keep a solution, with all that still fits, if it is sound and better than the best so far."""
        if self.local_search.sound(solution):
            self.keep(self.local_search.filled(solution))

    def keep(self, solution: Solution) -> bool:
        """Keep a solution if it is sound and better than the best so far; returns whether it is."""
        if not self.local_search.sound(solution) or (value := self.utility(solution)) <= self.value + 1e-12:
            return False
        self.best, self.value = solution, value
        return True

    def _shrunk(self, totals: PerGroup) -> Solution:
        """A solution from totals: rounded down, and all made smaller until the budgets hold."""
        lagrangian, low, high = self.lagrangian, 0.0, 1.0
        least = lagrangian.lowest.astype(float)

        def at(share: float) -> Solution:
            return lagrangian.solution(lagrangian.rounded_down(between(totals, least, share) if share < 1 else totals))

        if self.local_search.within(whole := at(1.0)):
            return whole
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.local_search.within(at(middle)) else (low, middle)
        return at(low)


def _spliced(upper: UpperBound, groups: Int[np.ndarray, " _"]) -> Int[np.ndarray, " free"]:
    """The totals that take less, but for some groups, of which there are as many as take more."""
    totals = upper.within.astype(int)
    totals[groups] = upper.beyond[groups].astype(int)
    return totals
