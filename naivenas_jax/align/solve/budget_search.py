"""A search for the largest utility within budgets: the best solution so far, and bounds for parts of the space."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float

from naivenas_jax.align.bound.lagrangian_bound import PricedConditions
from naivenas_jax.align.bound.lagrangian_dual import UpperBound
from naivenas_jax.align.problem.deadline import Deadline
from naivenas_jax.align.problem.problem import Problem, Solution
from naivenas_jax.align.program.formulate import Formulation, Goal, formulate
from naivenas_jax.align.program.mccormick import Box, Envelope
from naivenas_jax.align.program.milp import IntegerProgram, NoSolutionError, PairRows, Point
from naivenas_jax.align.solve.price_search import FIRST_MOVES, INSERTED, PriceSearch
from naivenas_jax.align.solve.solution import distance, read, write_segments
from naivenas_jax.sizes.condition import Condition

_SEGMENTS = 32
_ROUNDS = 12
#: How often the tangents of the Lagrangian bound are moved in a part of the space.
_MOVES = 3
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


class BudgetSearch(PriceSearch):
    """The best solution so far, and what finds better ones: prices, and a program that is made when it is first needed.

    Attributes:
      multiples: whether sizes must be multiples.
      whole: whether points of the program must be in whole numbers; else they are rounded down.
      root: the bounds of the sizes that budgets depend on.
      helps: whether the McCormick envelope gave a lower bound than the Lagrangian when it was last asked.
    """

    def __init__(self, problem: Problem, deadline: Deadline, gap: float | None = None):
        super().__init__(problem, deadline, gap)
        self.focus: list[tuple[int, ...]] = [() for _ in problem.groups]
        self.multiples = any(row.sense in ("multiple of", "one of") for row in problem.conditions)
        self.whole = self.small or bool(problem.targets or problem.equal) or any(map(_rigid, problem.conditions))
        self.root: Box = {
            row: (float(problem.least[row]), float(problem.present[row] + problem.insertable[row]))
            for row in self.free.counts(problem)[1]
        }
        self.row_prices: Float[np.ndarray, " rows"] | None = None
        self.helps = True

    @cached_property
    def form(self) -> Formulation:
        """The program, with the segments of the utility written into it."""
        form = formulate(self.problem, self.deadline, segment_count=_SEGMENTS)
        self.cost = -write_segments(self.problem, form, self.focus, self.scale)
        self.cost[form.new_columns] = INSERTED
        return form

    @property
    def program(self) -> IntegerProgram:
        """The linear program."""
        return self.form.program

    @property
    def envelope(self) -> Envelope:
        """What stands for the counts in it."""
        return self.form.envelope

    @cached_property
    def pair_rows(self) -> PairRows:
        """The rows of the program that are conditions on several groups."""
        return self.program.pair_rows(self.form.kept_columns, self.form.new_columns)

    def refine(self, *solutions: Solution) -> None:
        """Make the utility exact at the numbers that some solutions keep."""
        form = self.form
        for solution in solutions:
            self.focus = [(*points, int(k)) for points, k in zip(self.focus, solution.kept, strict=True)]
        self.cost = -write_segments(self.problem, form, self.focus, self.scale)
        self.cost[form.new_columns] = INSERTED

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
        opened: Mapping[int, tuple[float, float]] = {}
        if self.lagrangian.able:
            found = self.bounded(self.lagrangian.within(sizes), at, _MOVES if number else FIRST_MOVES)
            if found.upper.utility < bound:
                bound, opened = found.upper.utility, self._open_rows(sizes, found.upper)
            at = found.upper.totals
        if bound > self.enough and (self.helps or not opened):
            x, least = self.linear(sizes)
            self.helps = -least < bound
            if self.helps or not opened:
                bound, loose = min(bound, -least), self.envelope.loosest(x)
                sized = self.envelope.sizes(x, len(self.problem.present))
                opened = {row: (loose.get(row, 0.0), float(sized[row])) for row in sizes}
                at = self.totals(x)
        return Node(-bound, number, sizes, at, opened)

    def keep(self, solution: Solution) -> bool:
        """Keep a solution as `PriceSearch.keep` does, and with it the prices of the program where it was found."""
        better = super().keep(solution)
        if better and "form" in self.__dict__:
            self.row_prices = self.program.prices
        return better

    def _open_rows(self, sizes: Box, upper: UpperBound) -> dict[int, tuple[float, float]]:
        """For each row of a single free group how loose the bound is there, and its size where the bound is reached."""
        constant = self.free.constant
        return {
            row: (float(upper.loose[g]), float(constant[row] + times * upper.totals[g]))
            for row, g, times in self.lagrangian.single_rows(sizes)
        }

    def conditions(self) -> PricedConditions | None:
        """The conditions on several groups, at the prices that a linear program has found."""
        if self.row_prices is None:
            return None
        numbers, coefficients, bounds, equal = self.pair_rows
        price = -self.row_prices[numbers]
        price = np.where(equal, price, np.maximum(price, 0.0))
        return PricedConditions(price @ coefficients, float(price @ bounds)) if len(numbers) else None

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

    def descend(self, sizes: Float[np.ndarray, " rows"]) -> None:
        """Linearise the counts at some sizes, solve, linearise at the sizes found, and so on; offer what is found."""
        self.envelope.within(self.program, self.root)
        room = [0.0] * len(self.counts)
        for _ in range(_ROUNDS):
            self.envelope.linearise(self.program, sizes, room)
            try:
                solution = self._solution(self.program.bounded(self.cost, self.whole)[0])
            except NoSolutionError:
                break
            found = self.problem.sizes(solution).astype(float)
            excess = [p.at(found) - p.bound for p in self.counts]
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
        if all(target.exact for _, target in self.problem.targets) or (goal := self.form.distance) is None:
            return
        self.envelope.within(self.program, self.root)
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
            x, _ = self.linear(self.root)
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

    def scaled(self) -> Iterator[Float[np.ndarray, " rows"]]:
        """The present sizes, all multiplied by the largest number with which the budgets hold."""
        present = self.problem.present.astype(float)
        low, high = 0.0, 1.0
        for _ in range(30):
            middle = (low + high) / 2
            fits = all(p.at(np.maximum(1.0, present * middle)) <= p.bound for p in self.counts)
            low, high = (middle, high) if fits else (low, middle)
        yield np.maximum(1.0, present * low)

    def totals(self, x: Point) -> Float[np.ndarray, " free"]:
        """Shape (free,): the numbers of classes of the free groups at a point of the program."""
        totals: np.ndarray = x[self.form.kept_columns] + x[self.form.new_columns]
        return totals


def _rigid(condition: Condition) -> bool:
    """Whether rounding down may break a condition, as it may break all but bounds of a single size."""
    return condition.sense in ("multiple of", "one of", "==") or len(condition.terms) > 1
