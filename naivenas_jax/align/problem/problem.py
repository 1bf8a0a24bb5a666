"""The reduced problem: how many of each group of interchangeable classes stay, and how many are new.

Neurons that are tied are one *class*; the utility of a class is the sum of its members' utilities. Classes that occur
equally often on every axis, and are equally free, differ in nothing but their utility: they form a *group*. Of a group
of N classes sorted by utility, k that are kept have at most the utility f(k), the sum of the k largest: concave, and
piecewise linear. So the problem has two integers per group, kept ``y`` and inserted ``w``, instead of two per neuron,
and is the same problem:

    sizes   s = M (y + w)           one row per axis; M counts how often an axis holds a class of a group
    bounds  0 <= y <= N, 0 <= w, s >= 1
    rows    what layers and users require of sizes: linear in s
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int, Real

from naivenas_jax.align.problem.budget import Budget
from naivenas_jax.align.problem.request import Target
from naivenas_jax.sizes.condition import Condition, Size


@dataclass(frozen=True, eq=False, kw_only=True)
class Group:
    """Classes that every axis holds equally often and that are equally free to change.

    Attributes:
      classes: shape (N,): their numbers, in original order.
      scores: shape (N,): the utility of each.
      fixed: why none may be dropped or inserted, or None.
    """

    classes: Int[np.ndarray, " classes"]
    scores: Float[np.ndarray, " classes"]
    fixed: str | None

    @cached_property
    def best(self) -> Int[np.ndarray, " classes"]:
        """Shape (N,): positions in ``classes``, best utility first; of equal ones the earlier.

        In a fixed group any order: all of it stays. Most groups are fixed, since no request reaches them.
        """
        return np.arange(self.size) if self.fixed else _falling(self.scores)

    @cached_property
    def utility_kept(self) -> Float[np.ndarray, " counts"]:
        """Shape (N + 1,): the utility of the best k of them together, for k = 0 ... N."""
        return np.concatenate([[0.0], np.cumsum(self.scores[self.best])])

    @cached_property
    def size(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @cached_property
    def utility(self) -> Float[np.ndarray, " classes"]:
        """The utility of each class, best first."""
        return np.diff(self.utility_kept)

    @cached_property
    def own_best(self) -> int:
        """How many to keep when nothing else is asked: all whose utility is not negative.

        What is negative by rounding only, as sums over tied neurons can be, counts as zero.
        """
        return self.size if self.fixed else int(np.count_nonzero(self._worthy))

    @cached_property
    def _worthy(self) -> Bool[np.ndarray, " classes"]:
        """Which classes are kept when nothing else is asked."""
        return self.scores >= -self.rounding

    @cached_property
    def rounding(self) -> float:
        """Below this, utilities differ by rounding only: far below what the best of them come to together."""
        total, gains = float(self.scores.sum()), float(np.maximum(self.scores, 0.0).sum())
        return 1e-12 * max(abs(total), gains)

    def top(self, count: int) -> Int[np.ndarray, " _"]:
        """The positions of the best so many, in any order. All, and those of utility, are known without sorting."""
        if count == self.size:
            return np.arange(count)
        return np.flatnonzero(self._worthy) if count == self.own_best else self.best[:count]

    def utility_of(self, count: int) -> float:
        """The utility of the best so many together; see `top`."""
        known = not self.fixed and count in (self.size, self.own_best)
        return float(self.scores[self.top(count)].sum() if known else self.utility_kept[count])


def _falling(values: Float[np.ndarray, " _"]) -> Int[np.ndarray, " _"]:
    """The positions of values that fall; of equal ones the earlier first.

    Sorting that may exchange equal values takes a tenth of the time, and mostly there are none.
    """
    order = np.argsort(-values)
    ordered = values[order]
    return np.argsort(-values, kind="stable") if (ordered[1:] == ordered[:-1]).any() else order


@dataclass(frozen=True, eq=False)
class Solution:
    """How many of each group are kept, and how many are inserted into it.

    Attributes:
      kept: shape (groups,).
      new: shape (groups,).
      gap: within a budget the utility that an optimum could keep at the most beyond this one, as a share of it.
    """

    kept: Int[np.ndarray, " groups"]
    new: Int[np.ndarray, " groups"]
    gap: float = 0.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
    """The reduced problem.

    Attributes:
      groups: of interchangeable classes.
      rows: sparse, shape (rows, groups): how often each axis holds a class of each group. Axes that hold the same
        share a row.
      names: for each row the axes that it stands for.
      present: shape (rows,): the sizes now.
      least: shape (rows,): the smallest size allowed.
      insertable: shape (rows,): how many neurons may be inserted at most.
      targets: for each request its row, and the request.
      equal: pairs of rows whose sizes must agree.
      group_of_run: the group of each run of the ties.
      conditions: what the sizes must satisfy.
      objectives: sums of sizes to be minimised one after the other, before utility decides.
      budgets: counts that may not exceed a bound.
      row_of: the row of each axis that conditions, objectives and budgets name.
      pinned: rows whose sizes stand in ``rows`` as numbers, and these sizes: factors that change besides others.
      resting: axes with factors of products that do not change, and why.
    """

    groups: tuple[Group, ...]
    rows: sp.csr_array
    names: tuple[tuple[str, ...], ...]
    present: Int[np.ndarray, " rows"]
    least: Int[np.ndarray, " rows"]
    insertable: Int[np.ndarray, " rows"]
    targets: tuple[tuple[int, Target], ...]
    equal: tuple[tuple[int, int], ...]
    group_of_run: tuple[int, ...]
    conditions: tuple[Condition, ...]
    objectives: tuple[Size, ...]
    budgets: tuple[Budget, ...]
    row_of: Mapping[str, int]
    pinned: tuple[tuple[int, int], ...]
    resting: Mapping[str, str]

    @cached_property
    def group_sizes(self) -> Int[np.ndarray, " groups"]:
        """The number of classes of each group."""
        return np.array([group.size for group in self.groups], dtype=int)

    @cached_property
    def group_fixed(self) -> Bool[np.ndarray, " groups"]:
        """Which groups may not change."""
        return np.array([bool(group.fixed) for group in self.groups], dtype=bool)

    def sizes(self, solution: Solution) -> Real[np.ndarray, " rows"]:
        """The size of every row."""
        sizes: np.ndarray = self.rows @ (solution.kept + solution.new)
        return sizes

    def named(self, sizes: Real[np.ndarray, " rows"]) -> dict[str, int]:
        """The sizes of the axes that conditions, objectives and budgets name."""
        return {axis: round(float(sizes[row])) for axis, row in self.row_of.items()}

    def __str__(self) -> str:
        lines = [
            f"{names[0]}: {_linear(self.rows[[i]].toarray()[0])} = {self.present[i]}"
            for i, names in enumerate(self.names)
        ]
        lines += [f"g{i} of {g.size}" + (f", fixed: {g.fixed}" if g.fixed else "") for i, g in enumerate(self.groups)]
        lines += [f"ask {target}" for _, target in self.targets]
        lines += [f"{self.names[a][0]} = {self.names[b][0]}" for a, b in self.equal]
        lines += [f"require {condition}" for condition in self.conditions]
        lines += [f"minimise {objective}" for objective in self.objectives]
        lines += [f"within {budget}" for budget in self.budgets]
        return "\n".join(lines)


def _linear(row: Real[np.ndarray, " groups"]) -> str:
    """A row of the matrix as text."""
    return " + ".join(f"{'' if n == 1 else f'{n:g} '}g{g}" for g, n in enumerate(row) if n) or "0"
