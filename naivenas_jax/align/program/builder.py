"""Columns and rows of a linear program under construction."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from jaxtyping import Int

from naivenas_jax.align.problem.free_groups import FreeGroups
from naivenas_jax.align.problem.problem import Problem
from naivenas_jax.align.problem.request import Target
from naivenas_jax.align.program.mccormick import Envelope, Interval
from naivenas_jax.align.program.milp import LinearRows, Unknowns
from naivenas_jax.sizes.condition import Condition, Terms


class Builder:
    """Columns and rows under construction.

    Attributes:
      problem: what is written down.
      columns: the unknowns.
      equal: the equalities.
      below: the inequalities.
      free: the groups that may change; only these have columns.
      fixed_kept: shape (groups,): what is kept of the groups that may not change, 0 for the others.
      active: the rows of the problem that a free group is part of.
      constant: of each row of the problem, the part of its size that may not change.
      kept: for each free group the column of how many are kept.
      new: for each free group the column of how many are inserted.
      segments: for each free group the columns of the segments of its utility.
    """

    def __init__(self, problem: Problem, segment_count: int):
        self.problem = problem
        self.columns, self.equal, self.below = Unknowns(), LinearRows(), LinearRows()
        groups = self._groups = FreeGroups.of(problem)
        self.free, self.fixed_kept, self.constant = groups.numbers, groups.fixed_kept, groups.constant
        self._part = groups.matrix
        self.active = np.flatnonzero(np.diff(self._part.indptr))
        self.kept = [self.columns.add(group.size, integer=True) for group in groups.groups]
        self.new = [self.columns.add(upper, integer=True) for upper in groups.room]
        self.segments = {
            int(g): self._segments(int(g), y, segment_count) for g, y in zip(self.free, self.kept, strict=True)
        }

    def _segments(self, group: int, kept: int, count: int) -> Int[np.ndarray, " segments"]:
        """The columns of the segments of a group, whose sum is the number that is kept. Their lengths are set later."""
        size = self.problem.groups[group].size
        columns = [self.columns.add(size) for _ in range(min(size, count))]
        self.equal.add({kept: 1.0, **dict.fromkeys(columns, -1.0)}, 0.0)
        return np.array(columns, dtype=int)

    def size_terms(self, row: int, sign: float = 1.0) -> dict[int, float]:
        """The size of a row, times ``sign``, as coefficients of columns, without the groups that may not change."""
        start, stop = self._part.indptr[row], self._part.indptr[row + 1]
        terms = {}
        for group, count in zip(self._part.indices[start:stop], self._part.data[start:stop], strict=True):
            terms[self.kept[group]] = terms[self.new[group]] = sign * float(count)
        return terms

    def bounds(self) -> None:
        """Add the smallest sizes of rows, and how many neurons may be inserted into them."""
        new = frozenset(self.new)
        for row in self.active.tolist():
            terms = self.size_terms(row)
            self.below.add({c: -v for c, v in terms.items()}, self.constant[row] - self.problem.least[row])
            if len(terms) > 2:
                inserted = {c: v for c, v in terms.items() if c in new}
                self.below.add(inserted, float(self.problem.insertable[row]))

    def agree(self) -> None:
        """Add that the sizes of pairs of rows agree."""
        for a, b in self.problem.equal:
            terms = self.size_terms(a)
            for column, value in self.size_terms(b).items():
                terms[column] = terms.get(column, 0.0) - value
            self._equal_or_contradiction(terms, self.constant[b] - self.constant[a])

    def require(self, condition: Condition) -> None:
        """Add a condition on sizes.

        For a multiple there is a column for how many times the factor it is; for one of some numbers a column for each
        step from one of them to the next: 1 up to the number that it is, 0 behind.
        """
        terms, constant = self.sum_terms(condition.terms)
        constant += condition.constant
        match condition.sense:
            case "multiple of":
                times = self.columns.add(np.inf, lower=-np.inf, integer=True)
                self.equal.add({**terms, times: -float(condition.bound)}, -constant)
            case "one of":
                gaps = np.diff(condition.among)
                steps = [self.columns.add(1.0, integer=True) for _ in gaps]
                taken = {column: -float(gap) for column, gap in zip(steps, gaps, strict=True)}
                self._equal_or_contradiction({**terms, **taken}, condition.among[0] - constant)
                for first, then in pairwise(steps):
                    self.below.add({then: 1.0, first: -1.0}, 0.0)
            case "==":
                self._equal_or_contradiction(terms, condition.bound - constant)
            case "<=":
                self.below.add(terms, condition.bound - constant)
            case ">=":
                self.below.add({column: -value for column, value in terms.items()}, constant - condition.bound)

    def sum_terms(self, counts: Terms) -> tuple[dict[int, float], float]:
        """A weighted sum of sizes, as coefficients of columns, and a constant: the part that may not change."""
        terms: dict[int, float] = {}
        for axis, count in counts:
            for column, value in self.size_terms(self.problem.row_of[axis], float(count)).items():
                terms[column] = terms.get(column, 0.0) + value
        rows = [(self.problem.row_of[axis], count) for axis, count in counts]
        return terms or {self.zero(): 0.0}, float(sum(count * self.constant[row] for row, count in rows))

    def limit(self) -> tuple[Envelope, dict[int, Interval]]:
        """Add what stands for the budgets; returns that, and the bounds of the sizes that budgets depend on."""
        problem = self.problem
        counts, free = self._groups.counts(problem)
        sizes = {row: (self.size_terms(row), float(self.constant[row])) for row in free}
        box = {row: (float(problem.least[row]), float(problem.present[row] + problem.insertable[row])) for row in free}
        return Envelope.build(counts, sizes, box, self.columns, self.equal, self.below), box

    def exactly(self, row: int, size: int) -> None:
        """Add that a row has a certain size."""
        self._equal_or_contradiction(self.size_terms(row), size - self.constant[row])

    def _equal_or_contradiction(self, terms: dict[int, float], bound: float) -> None:
        """Add an equality. Without terms it is left out where it holds; else the program has no solution."""
        if terms or bound:
            self.equal.add(terms or {self.zero(): 0.0}, bound)

    def zero(self) -> int:
        """Add a column that is always 0."""
        return self.columns.add(0.0)

    def about(self, row: int, target: Target, must_change: bool) -> tuple[int, int]:
        """Add that a row is to have a size near a wish.

        Args:
          row: of the problem.
          target: the request.
          must_change: whether the size may not stay as it is.

        Returns:
          The columns of how far the size lies above and below the wish.
        """
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
