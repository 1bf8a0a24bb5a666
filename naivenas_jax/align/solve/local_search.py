"""Local search: what was dropped and still fits within the budgets is taken back, the most useful first.

A move takes back one class of a group, a few, or as many as multiples ask for; in small problems also classes of one
group in exchange for fewer of another. In the end no move is left that the budgets allow. All moves are weighed at
once: counts grow at least as fast as their tangents, so that most of what does not fit is never tried.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from naivenas_jax.align.problem.budget import Polynomial
from naivenas_jax.align.problem.deadline import Deadline
from naivenas_jax.align.problem.free_groups import FreeGroups
from naivenas_jax.align.problem.problem import Problem, Solution
from naivenas_jax.align.solve.solution import distance, violations

#: Counts are compared with their bounds with this much room for rounding before they are computed exactly.
_ROUNDING = 1e-9


class LocalSearch:
    """The moves of one problem.

    Attributes:
      problem: the problem.
      free: the groups that may change.
      counts: of the budgets.
      pairs: whether to exchange classes of two groups as well.
      scale: what differences of utility are compared with.
      deadline: when to end.
      near: how far a solution may be from relaxed requests, all together.
    """

    def __init__(
        self,
        problem: Problem,
        free: FreeGroups,
        counts: Sequence[Polynomial],
        pairs: bool,
        scale: float,
        deadline: Deadline,
    ):
        self.problem, self.free, self.counts, self.pairs, self.scale = problem, free, counts, pairs, scale
        self.near, self.deadline = math.inf, deadline
        steps = _steps(problem, free)
        #: for each move its group, and how many classes it takes
        self._groups = np.array([g for g, own in enumerate(steps) for _ in own], dtype=int)
        self._steps = np.array([n for own in steps for n in own], dtype=int)
        self._most = np.array([group.own_best for group in free.groups], dtype=int)
        lengths = np.array([group.size + 1 for group in free.groups], dtype=int)
        self._starts = np.cumsum(lengths) - lengths
        self._utility = np.concatenate([[0.0], *(group.utility_kept for group in free.groups)])[1:]
        self._grows = all(value >= 0 for count in counts for value in count.terms.values())

    def filled(self, solution: Solution) -> Solution:
        """A solution with at least the same utility, to which nothing can be added, if there is time for that."""
        while not self.deadline.is_over and (better := next(self._better(solution), None)) is not None:
            solution = better
        return solution

    def _better(self, solution: Solution) -> Iterator[Solution]:
        """Solutions with more utility, which keep more of one group, or more of one and less of another."""
        for candidate in self._moves(solution):
            if self.within(candidate) and self.sound(candidate):
                yield candidate

    def sound(self, solution: Solution) -> bool:
        """Whether a solution breaks no constraint, and is near enough to the relaxed requests."""
        return not violations(self.problem, solution) and distance(self.problem, solution) <= self.near

    def within(self, solution: Solution) -> bool:
        """Whether a solution is within the budgets; quicker than `sound`."""
        sizes = self.problem.sizes(solution)
        return all(count.at(sizes) <= count.bound for count in self.counts)

    def _moves(self, solution: Solution) -> Iterator[Solution]:
        """Solutions that may fit, those with the most utility first."""
        kept = solution.kept[self.free.numbers]
        more = kept[self._groups] + self._steps
        up = np.flatnonzero(more <= self._most[self._groups])
        gains = self._gains(kept, self._groups[up], self._steps[up])
        if self.pairs:
            yield from self._exchanged(solution, kept, up, gains)
            return
        fits = self._may_fit(solution, up)
        up, gains = up[fits], gains[fits]
        for move in up[np.argsort(-gains, kind="stable")].tolist():
            yield _changed(solution, (self.free.numbers[self._groups[move]], self._steps[move]))

    def _exchanged(
        self,
        solution: Solution,
        kept: Int[np.ndarray, " free"],
        up: Int[np.ndarray, " moves"],
        gains: Float[np.ndarray, " moves"],
    ) -> Iterator[Solution]:
        """Moves, and pairs of a move and one that gives up classes of another group for more utility."""
        down = np.flatnonzero(kept[self._groups] >= self._steps)
        losses = self._gains(kept, self._groups[down], -self._steps[down])
        total = gains[:, None] + losses[None, :]
        apart = self._groups[up][:, None] != self._groups[down][None, :]
        first, second = np.nonzero(apart & (total > 1e-9 * self.scale))
        totals = np.repeat(kept[None, :], len(up) + len(first), axis=0)
        rows = np.arange(len(totals))
        totals[rows, self._groups[up[np.concatenate([np.arange(len(up)), first])]]] += self._steps[
            up[np.concatenate([np.arange(len(up)), first])]
        ]
        totals[rows[len(up) :], self._groups[down[second]]] -= self._steps[down[second]]
        gained = np.concatenate([gains, total[first, second]])
        fit = self.which_may_do(totals + solution.new[self.free.numbers])
        for row in fit[np.argsort(-gained[fit], kind="stable")].tolist():
            own = solution.kept.copy()
            own[self.free.numbers] = totals[row]
            yield Solution(own, solution.new)

    def which_may_do(self, totals: Int[np.ndarray, "choices free"]) -> Int[np.ndarray, " fit"]:
        """Of many choices of totals of the free groups those within the budgets and conditions on sizes."""
        sizes = self.free.constant[None, :] + (self.free.matrix @ totals.T).T
        found = np.ones(len(totals), dtype=bool)
        for count in self.counts:
            found &= count.at_each(sizes) <= count.bound
        for a, b in self.problem.equal:
            found &= sizes[:, a] == sizes[:, b]
        fit = np.flatnonzero(found)
        named = {axis: np.rint(sizes[fit, row]).astype(int) for axis, row in self.problem.row_of.items()}
        for condition in self.problem.conditions:
            held = condition.holds_each(named)
            fit, named = fit[held], {axis: own[held] for axis, own in named.items()}
        return fit

    def _may_fit(self, solution: Solution, moves: Int[np.ndarray, " moves"]) -> Bool[np.ndarray, " moves"]:
        """Which moves do not exceed the tangents of the counts."""
        found, sizes = np.ones(len(moves), dtype=bool), self.problem.sizes(solution)
        for count in self.counts if self._grows else ():
            slope = np.zeros(len(sizes))
            gradient = count.gradient(sizes)
            slope[list(gradient)] = list(gradient.values())
            added = (self.free.matrix.T @ slope)[self._groups[moves]] * self._steps[moves]
            found &= count.at(sizes) + added <= count.bound + _ROUNDING * abs(count.bound)
        return found

    def _gains(
        self, kept: Int[np.ndarray, " free"], groups: Int[np.ndarray, " moves"], changes: Int[np.ndarray, " moves"]
    ) -> Float[np.ndarray, " moves"]:
        """The utility that is gained by keeping so many more of some groups."""
        at = self._starts[groups] + kept[groups]
        gains: np.ndarray = self._utility[at + changes] - self._utility[at]
        return gains


def _changed(solution: Solution, *changes: tuple[int, int]) -> Solution:
    """A solution that keeps more or fewer classes of some groups."""
    kept = solution.kept.copy()
    for group, change in changes:
        kept[group] += change
    return Solution(kept, solution.new)


def _steps(problem: Problem, free: FreeGroups) -> list[tuple[int, ...]]:
    """For each free group how many classes a move may take: one, a few, and what multiples and ladders ask for."""
    asked = {row.bound for row in problem.conditions if row.sense == "multiple of"}
    asked |= {int(gap) for row in problem.conditions for gap in np.diff(row.among)}
    columns = free.matrix.tocsc()
    found = []
    for group in range(len(free.groups)):
        counts = {int(n) for n in columns.data[columns.indptr[group] : columns.indptr[group + 1]]} if asked else ()
        found.append(tuple({1, 8, 64, *(bound // math.gcd(bound, count) for bound in asked for count in counts)}))
    return found
