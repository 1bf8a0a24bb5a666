"""The groups that may change, and the sizes in terms of these alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int, Real

from naivenas_jax.align.problem.budget import Polynomial
from naivenas_jax.align.problem.problem import Group, Problem

#: A number for each free group.
PerGroup = Float[np.ndarray, " free"]


@dataclass(frozen=True, eq=False)
class FreeGroups:
    """The groups that may change.

    Attributes:
      numbers: their numbers among all groups.
      groups: the groups themselves.
      fixed_kept: shape (groups,): what is kept of the groups that may not change, 0 for the others.
      matrix: sparse, shape (rows, free): how often each row holds a class of each free group.
      constant: shape (rows,): the part of the size of each row that may not change.
      room: shape (free,): how many classes may be inserted at the most.
    """

    numbers: Int[np.ndarray, " free"]
    groups: tuple[Group, ...]
    fixed_kept: Int[np.ndarray, " groups"]
    matrix: sp.csr_array
    constant: Real[np.ndarray, " rows"]
    room: PerGroup

    @classmethod
    def of(cls, problem: Problem) -> FreeGroups:
        """The free groups of a problem."""
        numbers = np.array([i for i, group in enumerate(problem.groups) if not group.fixed], dtype=int)
        fixed_kept = np.array([group.size if group.fixed else 0 for group in problem.groups], dtype=int)
        matrix = problem.rows[:, numbers].tocsr()
        entries, room = matrix.tocoo(), np.full(len(numbers), np.inf)
        np.minimum.at(room, entries.col, problem.insertable[entries.row] // entries.data)
        groups = tuple(problem.groups[g] for g in numbers)
        return cls(numbers, groups, fixed_kept, matrix, problem.rows @ fixed_kept, room)

    def counts(self, problem: Problem) -> tuple[tuple[Polynomial, ...], list[int]]:
        """The counts of the budgets in terms of rows that may change, and these rows."""
        active = set(np.flatnonzero(np.diff(self.matrix.indptr)).tolist())
        rows = {problem.row_of[axis] for budget in problem.budgets for axis in budget.count.axes}
        fixed = {row: float(self.constant[row]) for row in rows - active}
        return tuple(Polynomial.of(budget, problem.row_of, fixed) for budget in problem.budgets), sorted(rows & active)

    def sizes(self, totals: Real[np.ndarray, " free"]) -> Real[np.ndarray, " rows"]:
        """The size of every row, for totals of the free groups: kept and inserted classes together."""
        sizes: np.ndarray = self.constant + self.matrix @ totals
        return sizes
