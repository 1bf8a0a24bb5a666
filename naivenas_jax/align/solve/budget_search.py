"""A search for the largest utility within budgets: the best solution so far, and bounds for parts of the space."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from naivenas_jax.align.problem.problem import Problem, Solution
from naivenas_jax.align.program.formulate import Formulation, Goal, formulate
from naivenas_jax.align.program.mccormick import Box
from naivenas_jax.align.program.milp import NoSolutionError, Point
from naivenas_jax.align.solve.lagrangian_bound import LagrangianBound
from naivenas_jax.align.solve.lagrangian_dual import between
from naivenas_jax.align.solve.local_search import LocalSearch
from naivenas_jax.align.solve.solution import distance, read, scale_of, utility_kept, write_segments
from naivenas_jax.sizes.condition import Condition

_SEGMENTS = 32
_ROUNDS = 12
#: With no more groups than this, points of the program are taken in whole numbers, and pairs of groups are tried.
_SMALL = 12
#: The gap at which the search ends, in small problems and in others. The former are solved exactly.
_SMALL_GAP, _GAP = 1e-9, 1e-3
#: What an inserted neuron costs, in utilities of the most useful class: none is inserted without need.
_INSERTED = 1e-4
#: How often the tangents of the Lagrangian bound are moved, in the whole space and in parts of it.
_FIRST_MOVES, _MOVES = 40, 3
_HALVINGS = 20
#: Above the tolerance of the solver, far below a neuron.
_SLACK = 1e-8


@dataclass(order=True)
class Node:
    """A part of the space of sizes.

    Attributes:
      bound: no solution in it has more utility (negated, for the heap).
      number: parts are numbered as they are made; of equal bounds the earlier part comes first.
      sizes: the bounds of the size of each row.
      at: shape (free,): the totals of the groups at which the bound is reached.
      open: for each row how much the bound may fall if the part is split there, and the size to split at.
    """

    bound: float
    number: int
    sizes: Box = field(compare=False)
    at: Float[np.ndarray, " free"] = field(compare=False)
    open: Mapping[int, tuple[float, float]] = field(compare=False)


class BudgetSearch:
    """The best solution so far, and the program that finds better ones.

    Attributes:
      problem: the problem.
      form: its formulation.
      scale: the largest utility of a class.
      small: whether the problem is solved exactly, unless less is asked.
      tolerance: the gap at which the search ends.
      best: the best solution so far.
      value: its utility, less a little for what is inserted.
    """

    def __init__(self, problem: Problem, time_limit: float | None, gap: float | None = None):
        self.problem = problem
        #: whether a user has said how near is near enough
        self.asked = gap is not None
        self.form: Formulation = formulate(problem, time_limit, segment_count=_SEGMENTS)
        self.program, self.envelope = self.form.program, self.form.envelope
        free = [problem.groups[g] for g in self.form.free]
        self.scale = scale_of(free)
        self.focus: list[tuple[int, ...]] = [() for _ in problem.groups]
        self.cost = np.zeros(self.program.size)
        self.multiples = any(row.sense in ("multiple of", "one of") for row in problem.conditions)
        self.small = len(free) <= _SMALL
        self.tolerance = max(gap, _SMALL_GAP) if gap is not None else _SMALL_GAP if self.small else _GAP
        #: whether points of the program must be in whole numbers; else they are rounded down
        self.whole = self.small or bool(problem.targets or problem.equal) or any(map(_rigid, problem.conditions))
        self.lagrangian = LagrangianBound(problem, self.form, self.scale, _INSERTED)
        self.local_search = LocalSearch(
            problem, self.form.free, self.envelope.polynomials, self.small, self.scale, self.program.out_of_time
        )
        self.prices = self.program.prices
        self.best: Solution | None = None
        self.value = -math.inf
        #: whether the McCormick envelope gave a lower bound than the Lagrangian when it was last asked
        self.helps = True

    @property
    def enough(self) -> float:
        """The search ends when no solution can have more utility than this."""
        if self.best is None:
            return -math.inf
        return self.value + self.tolerance * abs(self.value)

    def most(self) -> float:
        """The utility of every free group at its own best, which no solution exceeds."""
        free = [self.problem.groups[g] for g in self.form.free]
        return sum(float(group.utility_kept[group.own_best]) for group in free) / self.scale

    def require_time(self) -> None:
        """Raise `StoppedError` if the time limit has struck, which parts of the search that need no solver must ask."""
        self.program.require_time()

    def refine(self, *solutions: Solution) -> None:
        """Make the utility exact at the numbers that some solutions keep."""
        for solution in solutions:
            self.focus = [(*points, int(k)) for points, k in zip(self.focus, solution.kept, strict=True)]
        self.cost = -write_segments(self.problem, self.form, self.focus, self.scale)
        self.cost[self.form.new_columns] = _INSERTED

    def box(self, number: int, sizes: Box, at: Float[np.ndarray, " free"], bound: float = math.inf) -> Node:
        """A part of the space, with an upper bound of the utility of the solutions in it.

        Args:
          number: of the part; 0: the whole space.
          sizes: the bounds of the size of each row.
          at: shape (free,): where the tangents of the Lagrangian bound touch at first.
          bound: that is known already.

        Raises:
          NoSolutionError: if there is no solution in it.
        """
        bound, at, opened = self._bounded(sizes, at, bound, _MOVES if number else _FIRST_MOVES)
        if bound > self.enough and (self.helps or not opened):
            x, least = self.linear(sizes)
            self.helps = -least < bound
            if self.helps or not opened:
                bound, loose = min(bound, -least), self.envelope.loosest(x)
                found = self.envelope.sizes(x, len(self.problem.present))
                opened = {row: (loose.get(row, 0.0), float(found[row])) for row in sizes}
                at = self.totals(x)
        return Node(-bound, number, sizes, at, opened)

    def _bounded(
        self, sizes: Box, at: Float[np.ndarray, " free"], bound: float, moves: int
    ) -> tuple[float, Float[np.ndarray, " free"], Mapping[int, tuple[float, float]]]:
        """The Lagrangian bound in a box, where it is reached, and where splitting the box may lower it.

        The tangents are moved half of the way to where the bound is reached, and less where that does not lower it. The
        totals half of the way, rounded to whole numbers, are offered as a solution.
        """
        opened: Mapping[int, tuple[float, float]] = {}
        step, from_, to_, low = 0.5, at, at, math.inf
        for _ in range(moves):
            self.require_time()
            upper = self.lagrangian.bound(sizes, at, self.prices)
            if upper.utility == -math.inf:
                raise NoSolutionError
            if upper.utility < low:
                low, from_, to_ = upper.utility, at, upper.totals
                if low < bound:
                    bound, opened = low, self.lagrangian.open_rows(sizes, upper)
                self.offer(self._rounded(between(to_, from_, 0.5)))
            else:
                step /= 2
            if bound <= self.enough or math.isinf(low):
                break
            at = between(to_, from_, step)
        return bound, to_, opened

    def linear(self, sizes: Box) -> tuple[Point, float]:
        """A point of the McCormick relaxation in a box, and a lower bound of the cost of all solutions there.

        The point is in whole numbers where sizes must be multiples, and where the box cannot be split further.
        """
        self.envelope.within(self.program, sizes)
        single = not any(high - low >= 1 for low, high in sizes.values())
        return self.program.bounded(self.cost, self.multiples or single)

    def point(self, sizes: Box) -> float:
        """Offer the best solution of certain sizes; returns an upper bound of the utility of all these."""
        try:
            x, least = self.linear(sizes)
        except NoSolutionError:
            return -math.inf
        self.offer(read(self.form, x))
        return -least

    def utility(self, solution: Solution) -> float:
        """The utility that a solution keeps, in utilities of the most useful class; insertions cost a little."""
        kept = utility_kept([self.problem.groups[g] for g in self.form.free], solution.kept[self.form.free])
        return kept / self.scale - _INSERTED * float(solution.new.sum())

    def offer(self, solution: Solution) -> None:
        """Keep a solution if it is sound, and better than the best so far."""
        if not self.local_search.sound(solution):
            return
        solution = self.local_search.filled(solution)
        if (value := self.utility(solution)) > self.value + 1e-12:
            self.best, self.value = solution, value
            self.prices = self.program.prices

    def descend(self, sizes: Float[np.ndarray, " rows"]) -> None:
        """Linearise the counts at some sizes, solve, linearise at the sizes found, and so on; offer what is found."""
        self.envelope.within(self.program, self.form.box)
        room = [0.0] * len(self.envelope.polynomials)
        for _ in range(_ROUNDS):
            self.envelope.linearise(self.program, sizes, room)
            try:
                solution = self._solution(self.program.bounded(self.cost, self.whole)[0])
            except NoSolutionError:
                break
            found = self.problem.sizes(solution).astype(float)
            excess = [p.at(found) - p.bound for p in self.envelope.polynomials]
            self.offer(solution)
            if all(e <= 0 for e in excess) and np.array_equal(found, sizes):
                break
            room = [max(0.0, r + e) if e > 0 else 0.0 for r, e in zip(room, excess, strict=True)]
            sizes = found
        self.envelope.linearise(self.program, None)

    def approach(self) -> None:
        """Find the least distance from relaxed requests, all together, with which there is a solution, and hold it.

        It is bisected between what the McCormick envelope excludes and the distance of the best known solution.
        """
        goal = self.form.distance
        if goal is None:
            return
        self.envelope.within(self.program, self.form.box)
        low = math.ceil(float(goal.cost @ self.program.minimise(goal.cost)) - 1e-6)
        self._first_solutions()
        known = self.best
        while known is not None and low < (high := int(distance(self.problem, known))):
            self._keep_near(goal, (low + high) // 2)
            self._first_solutions()
            low, known = (low, self.best) if self.best is not None else ((low + high) // 2 + 1, known)
        if known is not None:
            self._keep_near(goal, int(distance(self.problem, known)))
            self.offer(known)

    def _keep_near(self, goal: Goal, most: int) -> None:
        """Allow no more than this distance from relaxed requests, and forget the best solution."""
        self.program.set_bound(goal.row, most + _SLACK)
        self.local_search.near, self.best, self.value = most, None, -math.inf

    def _first_solutions(self) -> None:
        try:
            x, _ = self.linear(self.form.box)
        except NoSolutionError:
            return
        for start in (self.envelope.sizes(x, len(self.problem.present)), *self.scaled()):
            if self.best is None:
                self.descend(start)

    def _solution(self, x: Point) -> Solution:
        """The solution at a point of the program; where that need not be whole, it is rounded down."""
        if not self.whole:
            x = x.copy()
            columns = self.form.kept_columns
            x[columns] = np.floor(x[columns] + 1e-6)
        return read(self.form, x)

    def _rounded(self, totals: Float[np.ndarray, " free"]) -> Solution:
        """A solution from totals: rounded down, and all made smaller until the budgets hold."""
        free, low, high = self.form.free, 0.0, 1.0
        kept, new = self.form.fixed_kept.copy(), np.zeros_like(self.form.fixed_kept)
        least, most = self.lagrangian.lowest, self.program.upper(self.form.kept_columns)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            kept[free] = np.clip(np.floor(between(totals, least, middle) + 1e-6), least, most)
            low, high = (middle, high) if self.local_search.within(Solution(kept, new)) else (low, middle)
        kept[free] = np.clip(np.floor(between(totals, least, low) + 1e-6), least, most)
        return Solution(kept, new)

    def scaled(self) -> Iterator[Float[np.ndarray, " rows"]]:
        """The present sizes, all multiplied by the largest number with which the budgets hold."""
        present = self.problem.present.astype(float)
        low, high = 0.0, 1.0
        for _ in range(30):
            middle = (low + high) / 2
            fits = all(p.at(np.maximum(1.0, present * middle)) <= p.bound for p in self.envelope.polynomials)
            low, high = (middle, high) if fits else (low, middle)
        yield np.maximum(1.0, present * low)

    def totals(self, x: Point) -> Float[np.ndarray, " free"]:
        """Shape (free,): the numbers of classes of the free groups at a point of the program."""
        totals: np.ndarray = x[self.form.kept_columns] + x[self.form.new_columns]
        return totals


def _rigid(condition: Condition) -> bool:
    """Whether rounding down may break a condition, as it may break all but bounds of a single size."""
    return condition.sense in ("multiple of", "one of", "==") or len(condition.terms) > 1
