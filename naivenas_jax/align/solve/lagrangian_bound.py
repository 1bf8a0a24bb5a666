"""An upper bound of the utility within budgets, found with the logarithms of sizes.

A budget limits ``P(s) = sum(c s_1 s_2 ...)``, a sum of products of sizes with coefficients that are not negative. As a
function of the logarithms of the sizes that is a sum of exponentials, so it is convex and lies above its tangents
(which is the inequality of the arithmetic and the geometric mean): for any sizes ``z``

    P(s) >= P(z) + sum_r w_r log(s_r / z_r),    w_r = z_r dP/ds_r(z)

A size that is a sum over groups is at least their weighted geometric mean, with their shares of ``z_r`` as the weights:

    log(s_r / z_r) >= sum_g b_rg log(t_g / t_g(z)),    b_rg = M_rg t_g(z) / z_r

So the count is at least a constant and a sum of functions ``a_g`` of one group each. With ``f_g(t)`` for the utility of
``t`` classes of a group, B for the bound of the budget, and any price ``p >= 0``, no solution has more utility than

    p (B - P(z)) + sum_g max over t of ( f_g(t) - p a_g(t) )

(weak duality), and each maximum is found by looking at all whole numbers ``t``. The price is the best one, found by
bisection (`lagrangian_dual`). Conditions on several groups have prices of their own, from a linear program; conditions
on a single group (multiples among them) leave out some of its numbers (`group_totals`).

Utility that grows like the logarithm of a size, as comparable scores do, is concave in it, and then the bound is exact
but for rounding to whole neurons. Where utility grows in proportion to sizes the McCormick envelope is nearer.

References:
  R. J. Duffin, E. L. Peterson, C. Zener, Geometric Programming, 1967.
  A. M. Geoffrion, Lagrangean relaxation for integer programming, Mathematical Programming Study 2, 1974.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from naivenas_jax.align.problem.problem import Problem
from naivenas_jax.align.program.formulate import Formulation
from naivenas_jax.align.program.mccormick import Box
from naivenas_jax.align.solve.group_totals import allowed_totals, most_utility
from naivenas_jax.align.solve.lagrangian_dual import LITTLE, PerGroup, PerTotal, Tangent, Totals, UpperBound, dual

#: If the groups together can have more different numbers of classes than this, the bound is infinite: it would be slow.
_MOST = 4_000_000


class LagrangianBound:
    """The bound for one problem.

    Attributes:
      problem: the problem.
      form: its program.
      counts: of the budgets.
      rows: shape (counted,): the rows of the problem that counts depend on.
      matrix: shape (counted, free): how often these rows hold a class of each free group.
      constant: shape (counted,): the part of their sizes that may not change.
      numbers: how many different numbers of classes the groups can have, all together.
      able: whether anything can be said; else the bound is infinite, and there are none of the following.
      most: for each free group its most utility, by the number of classes that it has.
      allowed: for each free group the numbers of classes that break no condition on it alone.
      lowest: shape (free,): the smallest of these.
      least: shape (counted,): the smallest sizes that there can be.
      conditions: on several groups.
    """

    def __init__(self, problem: Problem, form: Formulation, scale: float, inserted: float):
        """Prepare the bound.

        Args:
          problem: the problem.
          form: its program.
          scale: utilities are divided by it.
          inserted: the cost of an inserted class, in divided utilities.
        """
        self.problem, self.form = problem, form
        self.counts = form.envelope.polynomials
        self.rows = np.array(sorted({row for count in self.counts for row in count.rows}), dtype=int)
        self.matrix = problem.rows[self.rows][:, form.free].toarray()
        self.constant = (problem.rows @ form.fixed_kept)[self.rows]
        room = form.program.upper(form.new_columns)
        groups = [problem.groups[g] for g in form.free]
        self.numbers = max(1, int(sum(group.size + n + 1 for group, n in zip(groups, room, strict=True))))
        few = self.numbers <= _MOST
        self.able = bool(groups) and few and all(value >= 0 for count in self.counts for value in count.terms.values())
        if self.able:
            self.most = [most_utility(g, int(n), scale, inserted) for g, n in zip(groups, room, strict=True)]
            self.allowed = allowed_totals(problem, form, self.most)
            self.lowest = np.array([own[0] if own.size else 0 for own in self.allowed], dtype=float)
            self.least = np.maximum(self.matrix @ self.lowest + self.constant, problem.least[self.rows])
            self.conditions = form.program.pair_rows(form.kept_columns, form.new_columns)
            self.able = bool(np.all(self.least >= 1))  # 0 has no logarithm

    def bound(self, box: Box, at: PerGroup, prices: Float[np.ndarray, " rows"]) -> UpperBound:
        """An upper bound of the utility, scaled, of solutions with sizes in a box; minus infinity if there is none.

        Args:
          box: bounds of sizes.
          at: where the tangents touch: the totals of the free groups.
          prices: of the rows of the program, as a linear program has them; those of the budgets are found here.
        """
        if not self.able:
            return UpperBound(np.inf, at, np.zeros_like(at))
        totals = self._totals(box)
        if any(not each.size for each in totals):
            return UpperBound(-np.inf, at, np.zeros_like(at))
        lowest = np.array([each[0] for each in totals], dtype=float)
        highest = np.array([each[-1] for each in totals], dtype=float)
        at = np.clip(at, np.maximum(lowest, LITTLE), np.maximum(highest, LITTLE))
        tangents = self._tangents(totals, lowest, highest, at)
        utility, constant = self._priced(totals, prices)
        return dual(utility, constant, tangents, totals)

    def open_rows(self, box: Box, upper: UpperBound) -> dict[int, tuple[float, float]]:
        """The rows of a box that consist of a single free group, where splitting the box may help.

        Returns:
          For each such row how loose the bound is there, and its size at which the bound is reached.
        """
        found = {}
        for i, row in enumerate(self.rows.tolist()):
            groups = np.flatnonzero(self.matrix[i])
            if len(groups) == 1 and row in box:
                g = int(groups[0])
                size = self.constant[i] + self.matrix[i, g] * upper.totals[g]
                found[row] = float(upper.loose[g]), float(size)
        return found

    def _totals(self, box: Box) -> list[Totals]:
        """For each free group the numbers of classes with which the rows that it alone makes up lie in a box."""
        low, high = np.zeros(len(self.most)), np.full(len(self.most), np.inf)
        for i, row in enumerate(self.rows.tolist()):
            groups = np.flatnonzero(self.matrix[i])
            if len(groups) == 1 and row in box:
                g, times = int(groups[0]), self.matrix[i, groups[0]]
                low[g] = max(low[g], np.ceil((box[row][0] - self.constant[i]) / times - 1e-9))
                high[g] = min(high[g], np.floor((box[row][1] - self.constant[i]) / times + 1e-9))
        return [own[(own >= a) & (own <= b)] for own, a, b in zip(self.allowed, low, high, strict=True)]

    def _priced(self, totals: Sequence[Totals], prices: Float[np.ndarray, " rows"]) -> tuple[list[PerTotal], float]:
        """The utility of each group at its totals, less the prices of conditions on several groups; and a constant."""
        numbers, coefficients, bounds, equal = self.conditions
        price = -prices[numbers]
        price = np.where(equal, price, np.maximum(price, 0.0))
        cost = price @ coefficients if len(numbers) else np.zeros(len(totals))
        return [f[t] - c * t for f, t, c in zip(self.most, totals, cost, strict=True)], float(price @ bounds)

    def _tangents(
        self,
        totals: Sequence[Totals],
        lowest: PerGroup,
        highest: PerGroup,
        at: PerGroup,
    ) -> list[Tangent]:
        """Lower bounds of the counts, as fractions of the budgets, that are tight at ``at``."""
        made = self.matrix * at  # of each row by each group
        whole = np.where(made.sum(1) > 0, made.sum(1), 1.0)
        shares = made / whole[:, None]
        # what is constant in a row is spread over its groups, so that the share of each is (offset + t) / (offset + at)
        offset = self.constant[:, None] / whole[:, None] * at
        sizes = np.zeros(len(self.problem.present))
        sizes[self.rows] = made.sum(1) + self.constant
        least = np.maximum(self.matrix @ lowest + self.constant, self.least)
        rise = shares * np.log((offset + np.maximum(highest, LITTLE)) / (offset + at))
        fall = np.minimum(np.log(least / sizes[self.rows]), 0.0)
        empty = fall[:, None] - (rise.sum(1)[:, None] - rise)  # no more than this where a group has nothing
        found = []
        for count in self.counts:
            slope, bound = count.gradient(sizes), max(count.bound, 1.0)
            weight = np.array([slope.get(row, 0.0) * sizes[row] for row in self.rows.tolist()]) / bound
            parts = [_part(weight, shares[:, g], offset[:, g], empty[:, g], t, at[g]) for g, t in enumerate(totals)]
            found.append(Tangent((count.bound - count.at(sizes)) / bound, parts))
        return found


def _part(
    weight: Float[np.ndarray, " counted"],
    share: Float[np.ndarray, " counted"],
    offset: Float[np.ndarray, " counted"],
    empty: Float[np.ndarray, " counted"],
    totals: Int[np.ndarray, " totals"],
    at: float,
) -> Float[np.ndarray, " totals"]:
    """What one group adds to the lower bound of a count, at all totals that it can have.

    Args:
      weight: of each row: the ``w_r`` above, as a fraction of the budget.
      share: of the group in each row.
      offset: of each row, the part of its constant that is counted to this group.
      empty: for each row, a lower bound of ``log(s_r / z_r)`` where the group has no classes.
      totals: of the group.
      at: where the tangent touches.
    """
    rows = np.flatnonzero(weight * share)
    found = np.zeros(len(totals))
    for own in np.unique(offset[rows]):  # mostly one: rows have no constant
        these = rows[offset[rows] == own]
        times = float(weight[these] @ share[these])
        positive = own + totals > 0
        found[positive] += times * np.log((own + totals[positive]) / (own + at))
        if not positive[0]:
            found[0] += float(weight[these] @ empty[these])
    return found
