"""The reduced problem written as columns and rows of a linear program."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from naivenas_jax.align.problem.budget import Polynomial
from naivenas_jax.align.problem.problem import Problem
from naivenas_jax.align.problem.request import Target
from naivenas_jax.align.program.mccormick import Box, Envelope, Interval
from naivenas_jax.align.program.milp import IntegerProgram, LinearRows, Point, Unknowns
from naivenas_jax.sizes.condition import Condition, Terms


@dataclass(frozen=True, eq=False)
class Formulation:
    """A program, and where to find things in it.

    Attributes:
      program: the linear program.
      free: groups that may change; only these have columns.
      kept_columns, new_columns: columns of y and w of the free groups.
      segment_columns: for each free group the columns of its segments.
      all_segments: all of these; a column that is always 0 if there are none.
      fixed_kept: shape (groups,): what is kept of the groups that may not change, 0 for the others.
      distance, backward, change, order: cost vectors of the steps; None where a step has nothing to do.
      distance_row, backward_row, utility_row, change_row: the rows that hold the result of a step for the later ones.
      objectives: for each objective its cost vector and the row that holds its result.
      envelope: what stands for the counts of budgets.
      box: the bounds of the sizes in them.
    """

    program: IntegerProgram
    free: Int[np.ndarray, " free"]
    kept_columns: Int[np.ndarray, " free"]
    new_columns: Int[np.ndarray, " free"]
    segment_columns: dict[int, Int[np.ndarray, " _"]]
    all_segments: Int[np.ndarray, " _"]
    fixed_kept: Int[np.ndarray, " groups"]
    distance: Point | None
    backward: Point | None
    change: Point
    order: Point
    distance_row: int
    backward_row: int
    utility_row: int
    change_row: int
    objectives: tuple[tuple[Point, int], ...]
    envelope: Envelope
    box: Box


class _Builder:
    """Columns and rows under construction."""

    def __init__(self, problem: Problem, segment_count: int):
        self.problem = problem
        self.columns, self.equal, self.below = Unknowns(), LinearRows(), LinearRows()
        self.free = np.array([i for i, group in enumerate(problem.groups) if not group.fixed], dtype=int)
        self.fixed_kept = np.array([group.size if group.fixed else 0 for group in problem.groups], dtype=int)
        part = problem.rows[:, self.free].tocsr()
        #: rows that a free group is part of
        self.active = np.flatnonzero(np.diff(part.indptr))
        self.constant = problem.rows @ self.fixed_kept
        room = self._room(part)
        self.kept = [self.columns.add(problem.groups[g].size, integer=True) for g in self.free]
        self.new = [self.columns.add(upper, integer=True) for upper in room]
        self._part = part
        self.segments = {
            int(g): self._segments(int(g), y, segment_count) for g, y in zip(self.free, self.kept, strict=True)
        }

    def _room(self, part: sp.csr_array) -> Float[np.ndarray, " free"]:
        """How many classes may be inserted into each free group at most."""
        coo = part.tocoo()
        room = np.full(len(self.free), np.inf)
        np.minimum.at(room, coo.col, self.problem.insertable[coo.row] // coo.data)
        return room

    def _segments(self, group: int, kept: int, count: int) -> Int[np.ndarray, " segments"]:
        """y = sum of the segments, each as long as will be set."""
        size = self.problem.groups[group].size
        columns = [self.columns.add(size) for _ in range(min(size, count))]
        self.equal.add({kept: 1.0, **dict.fromkeys(columns, -1.0)}, 0.0)
        return np.array(columns, dtype=int)

    def size_terms(self, row: int, sign: float = 1.0) -> dict[int, float]:
        """``sign * M (y + w)`` of a row, without the groups that may not change."""
        start, stop = self._part.indptr[row], self._part.indptr[row + 1]
        terms = {}
        for group, count in zip(self._part.indices[start:stop], self._part.data[start:stop], strict=True):
            terms[self.kept[group]] = terms[self.new[group]] = sign * float(count)
        return terms

    def bounds(self) -> None:
        """Smallest sizes, and what may be inserted."""
        for row in self.active.tolist():
            terms = self.size_terms(row)
            self.below.add({c: -v for c, v in terms.items()}, self.constant[row] - self.problem.least[row])
            if len(terms) > 2:
                inserted = {c: v for c, v in terms.items() if c in self._new_set}
                self.below.add(inserted, float(self.problem.insertable[row]))

    @property
    def _new_set(self) -> frozenset[int]:
        return frozenset(self.new)

    def agree(self) -> None:
        """Sizes that must be equal."""
        for a, b in self.problem.equal:
            terms = self.size_terms(a)
            for column, value in self.size_terms(b).items():
                terms[column] = terms.get(column, 0.0) - value
            self._equal_or_contradiction(terms, self.constant[b] - self.constant[a])

    def require(self, row: Condition) -> None:
        """A condition on sizes. A multiple is a whole number of times the factor."""
        terms, constant = self.sum_terms(row.terms)
        constant += row.constant
        match row.sense:
            case "multiple of":
                times = self.columns.add(np.inf, lower=-np.inf, integer=True)
                self.equal.add({**terms, times: -float(row.bound)}, -constant)
            case "==":
                self._equal_or_contradiction(terms, row.bound - constant)
            case "<=":
                self.below.add(terms, row.bound - constant)
            case ">=":
                self.below.add({column: -value for column, value in terms.items()}, constant - row.bound)

    def sum_terms(self, counts: Terms) -> tuple[dict[int, float], float]:
        """A weighted sum of sizes: coefficients of the columns, and the part that may not change."""
        terms: dict[int, float] = {}
        for axis, count in counts:
            for column, value in self.size_terms(self.problem.row_of[axis], float(count)).items():
                terms[column] = terms.get(column, 0.0) + value
        rows = [(self.problem.row_of[axis], count) for axis, count in counts]
        return terms or {self.zero(): 0.0}, float(sum(count * self.constant[row] for row, count in rows))

    def limit(self) -> tuple[Envelope, dict[int, Interval]]:
        """Budgets, and the bounds of the sizes that are in them."""
        problem, active = self.problem, set(self.active.tolist())
        rows = {problem.row_of[axis] for budget in problem.budgets for axis in budget.count.axes}
        fixed = {row: float(self.constant[row]) for row in rows - active}
        free = sorted(rows & active)
        sizes = {row: (self.size_terms(row), float(self.constant[row])) for row in free}
        box = {row: (float(problem.least[row]), float(problem.present[row] + problem.insertable[row])) for row in free}
        counts = [Polynomial.of(budget, problem.row_of, fixed) for budget in problem.budgets]
        return Envelope.build(counts, sizes, box, self.columns, self.equal, self.below), box

    def exactly(self, row: int, size: int) -> None:
        """A size that must be what it is asked to be."""
        self._equal_or_contradiction(self.size_terms(row), size - self.constant[row])

    def _equal_or_contradiction(self, terms: dict[int, float], bound: float) -> None:
        if terms or bound:
            self.equal.add(terms or {self.zero(): 0.0}, bound)

    def zero(self) -> int:
        """A column that is always 0."""
        return self.columns.add(0.0)

    def about(self, row: int, target: Target, must_change: bool) -> tuple[int, int]:
        """A size near a wish: columns for how far it lies above and below."""
        span = float(self.problem.insertable[row] + self.problem.present[row] + abs(target.wish)) + 1.0
        above, below = self.columns.add(span), self.columns.add(span)
        terms = {**self.size_terms(row), above: -1.0, below: 1.0}
        self.equal.add(terms, target.wish - self.constant[row])
        if must_change:
            larger = self.columns.add(1.0, integer=True)
            present = target.present - self.constant[row]
            # s <= present - 1 unless larger, s >= present + 1 if larger
            self.below.add({**self.size_terms(row), larger: -span}, present - 1)
            self.below.add({**self.size_terms(row, -1.0), larger: span}, span - present - 1)
        return above, below


def formulate(
    problem: Problem, time_limit: float | None, *, elastic: bool = False, segment_count: int = 16
) -> Formulation:
    """Write the problem down. ``elastic``: exact requests become wishes that need not be met."""
    builder = _Builder(problem, segment_count)
    builder.bounds()
    builder.agree()
    for number, size in problem.pinned:
        builder.exactly(number, size)
    for row in problem.conditions:
        builder.require(row)
    envelope, box = builder.limit()
    goals = [builder.sum_terms(objective.terms)[0] for objective in problem.objectives]
    distance, backward = _requests(builder, elastic)
    change, widest = _changes(builder)
    rows = builder.below
    cap = dict.fromkeys(distance, 1.0)
    distance_row = rows.add(cap, np.inf) if distance else -1
    backward_row = rows.add(dict.fromkeys(backward, 1.0), np.inf) if backward else -1
    goal_rows = [rows.add(goal, np.inf) for goal in goals]
    change_row = rows.add(change, np.inf)
    segments = [int(c) for columns in builder.segments.values() for c in columns] or [builder.zero()]
    utility_row = rows.add(dict.fromkeys(segments, 1.0), np.inf)
    program = IntegerProgram(builder.columns, builder.equal, rows, time_limit)
    envelope.within(program, box)
    return Formulation(
        program=program,
        free=builder.free,
        kept_columns=np.array(builder.kept, dtype=int),
        new_columns=np.array(builder.new, dtype=int),
        segment_columns=builder.segments,
        all_segments=np.array(segments, dtype=int),
        fixed_kept=builder.fixed_kept,
        distance=_cost(program.size, dict.fromkeys(distance, 1.0)) if distance else None,
        backward=_cost(program.size, dict.fromkeys(backward, 1.0)) if backward else None,
        change=_cost(program.size, change),
        order=_order(builder, widest, program.size),
        distance_row=distance_row,
        backward_row=backward_row,
        utility_row=utility_row,
        change_row=change_row,
        objectives=tuple((_cost(program.size, goal), row) for goal, row in zip(goals, goal_rows, strict=True)),
        envelope=envelope,
        box=box,
    )


def _requests(builder: _Builder, elastic: bool) -> tuple[list[int], list[int]]:
    """Rows of the requests; returns the columns of all distances, and of those against the direction of the wish."""
    distance: list[int] = []
    backward: list[int] = []
    for row, target in builder.problem.targets:
        if target.exact and not elastic:
            builder.exactly(row, target.wish)
            continue
        must_change = not elastic and target.wish != target.present
        above, below = builder.about(row, target, must_change)
        distance += [above, below]
        if target.wish != target.present:
            backward.append(below if target.wish > target.present else above)
    return distance, backward


def _changes(builder: _Builder) -> tuple[dict[int, float], int]:
    """What is dropped and inserted, ``(N - y) + w`` for every free group, less the constant N.

    Returns:
      The cost of each y and w, which is the number of axes that the group lies on; and a column above all changes.
    """
    problem = builder.problem
    axes = problem.rows.astype(bool).T @ np.array([len(names) for names in problem.names])
    widest = builder.columns.add(np.inf)
    change = {widest: 0.0}
    for group, kept, new in zip(builder.free, builder.kept, builder.new, strict=True):
        change[kept], change[new] = -float(axes[group]), float(axes[group])
        builder.below.add({kept: -1.0, new: 1.0, widest: -1.0}, -problem.groups[group].size)
    return change, widest


def _cost(size: int, terms: dict[int, float]) -> Point:
    cost = np.zeros(size)
    cost[list(terms)] = list(terms.values())
    return cost


def _order(builder: _Builder, widest: int, size: int) -> Point:
    """Few insertions; a small largest change; changes early in the graph, as far as the numbers resolve it."""
    cost = np.zeros(size)
    cost[builder.new] = 1.0
    bound = float(max((g.size for g in builder.problem.groups), default=1)) + 1.0
    cost[widest] = 0.4 / bound
    rank = np.arange(1, len(builder.free) + 1) / (len(builder.free) + 1)
    early = 0.1 / bound * rank / max(len(builder.free), 1)
    cost[builder.new] += early
    cost[builder.kept] -= early
    return cost
