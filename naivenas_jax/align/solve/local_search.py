"""Local search: what was dropped and still fits within the budgets is taken back, the most useful first.

A move takes back one class of a group, a few, or as many as multiples ask for; in small problems also classes of one
group in exchange for fewer of another. In the end no move is left that the budgets allow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Int

from naivenas_jax.align.problem.budget import Polynomial
from naivenas_jax.align.problem.problem import Problem, Solution
from naivenas_jax.align.solve.solution import distance, violations


class LocalSearch:
    """The moves of one problem.

    Attributes:
      problem: the problem.
      free: the groups that may change.
      counts: of the budgets.
      pairs: whether to exchange classes of two groups as well.
      scale: what differences of utility are compared with.
      out_of_time: whether to end.
      near: how far a solution may be from relaxed requests, all together.
      steps: for each group how many classes a move may take.
      most: for each group how many classes there are to be kept, as none has a negative utility.
    """

    def __init__(
        self,
        problem: Problem,
        free: Int[np.ndarray, " free"],
        counts: Sequence[Polynomial],
        pairs: bool,
        scale: float,
        out_of_time: Callable[[], bool],
    ):
        self.problem, self.counts, self.pairs, self.scale = problem, counts, pairs, scale
        self.near, self.out_of_time = math.inf, out_of_time
        self.free = [int(g) for g in free]
        self.steps = _steps(problem, self.free)
        self.most = {g: problem.groups[g].own_best for g in self.free}

    def filled(self, solution: Solution) -> Solution:
        """A solution with at least the same utility, to which nothing can be added, if there is time for that."""
        while not self.out_of_time() and (better := next(self._better(solution), None)) is not None:
            solution = better
        return solution

    def _better(self, solution: Solution) -> Iterator[Solution]:
        """Solutions with more utility, which keep more of one group, or more of one and less of another."""
        for _, kept in sorted(self._moves(solution), key=lambda move: -move[0]):
            candidate = Solution(kept, solution.new)
            if self.within(candidate) and self.sound(candidate):
                yield candidate

    def sound(self, solution: Solution) -> bool:
        """Whether a solution breaks no constraint, and is near enough to the relaxed requests."""
        return not violations(self.problem, solution) and distance(self.problem, solution) <= self.near

    def within(self, solution: Solution) -> bool:
        """Whether a solution is within the budgets; quicker than `sound`."""
        sizes = self.problem.sizes(solution)
        return all(count.at(sizes) <= count.bound for count in self.counts)

    def _moves(self, solution: Solution) -> Iterator[tuple[float, Int[np.ndarray, " groups"]]]:
        """Numbers to keep, each with the utility that is gained."""
        up = [(g, n) for g in self.free for n in self.steps[g] if solution.kept[g] + n <= self.most[g]]
        down = [(g, -n) for g in self.free for n in self.steps[g] if solution.kept[g] >= n]
        for g, n in up:
            gain = self._gain(solution, g, n)
            yield gain, _changed(solution.kept, (g, n))
            for h, m in down if self.pairs else ():
                total = gain + self._gain(solution, h, m)
                if h != g and total > 1e-9 * self.scale:
                    yield total, _changed(solution.kept, (g, n), (h, m))

    def _gain(self, solution: Solution, group: int, change: int) -> float:
        """The utility that is gained by keeping so many more of a group."""
        utility, kept = self.problem.groups[group].utility_kept, int(solution.kept[group])
        return float(utility[kept + change] - utility[kept])


def _changed(kept: Int[np.ndarray, " groups"], *changes: tuple[int, int]) -> Int[np.ndarray, " groups"]:
    """The numbers of classes to keep, with more or fewer of some groups."""
    kept = kept.copy()
    for group, change in changes:
        kept[group] += change
    return kept


def _steps(problem: Problem, free: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """For each group how many classes a move may take: one, a few, and as many as multiples and ladders ask for."""
    asked = {row.bound for row in problem.conditions if row.sense == "multiple of"}
    asked |= {int(gap) for row in problem.conditions for gap in np.diff(row.among)}
    columns = problem.rows.tocsc()
    found = {}
    for group in free:
        counts = {int(n) for n in columns.data[columns.indptr[group] : columns.indptr[group + 1]]}
        found[group] = tuple({1, 8, 64, *(bound // math.gcd(bound, count) for bound in asked for count in counts)})
    return found
