"""The least upper bound of the utility over all prices of the budgets.

Each budget ``b`` says that ``sum_g a_bg(t_g) + sum_gh c_bgh t_g t_h <= room_b`` for the totals ``t_g`` of the groups,
where the pairs ``gh`` form a forest; group ``g`` has the utility ``f_g(t_g)``. Prices ``p_b >= 0`` give the bound

    sum_b p_b room_b + max over t of sum_g ( f_g(t_g) - sum_b p_b a_bg(t_g) ) - sum_gh sum_b p_b c_bgh t_g t_h

It is convex in the prices, and what is left of the budgets at the best totals is its slope. On a line the least
is found where the tangents at a price that is too low and at one that is too high meet (Kelley). Several prices are
found together (`price_cuts`), and then how high they are, all in proportion.

References:
  J. E. Kelley, The cutting-plane method for solving convex programs, SIAM Journal, 1960.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from naivenas_jax.align.bound.forest import Forest
from naivenas_jax.align.bound.group_totals import PerTotal, Totals
from naivenas_jax.align.bound.price_cuts import Priced, lowest
from naivenas_jax.align.problem.deadline import Deadline
from naivenas_jax.align.problem.free_groups import PerGroup

#: On a line so many prices are tried at the most.
_TRIES = 40
#: A search for a price that is high or low enough ends at these.
_HIGHEST_PRICE, _LOWEST_PRICE = 1e60, 1e-30
#: The bound is as good as the least if it is so near to it, as a share.
_NEAR = 1e-7
#: Where the logarithm of a total is taken, this stands for 0.
LITTLE = 0.5


class _Line(NamedTuple):
    """Prices on a line from ``base`` on; a place on it is how often ``direction`` is added.

    Attributes:
      base: shape (budgets,).
      direction: shape (budgets,).
    """

    base: Float[np.ndarray, " budgets"]
    direction: Float[np.ndarray, " budgets"]

    def at(self, place: float) -> Float[np.ndarray, " budgets"]:
        """The prices at a place."""
        prices: np.ndarray = self.base + place * self.direction
        return prices

    def place(self, priced: Priced) -> float:
        """The place of prices that lie on the line, or the nearest one."""
        return float((priced.prices - self.base) @ self.direction / (self.direction @ self.direction))

    def slope(self, priced: Priced) -> float:
        """How the bound changes along the line."""
        return float(priced.slopes @ self.direction)

    def next(self, low: Priced | None, high: Priced | None, best: float, number: int) -> float | None:
        """The place to try next; None: the bound is as good as the least."""
        if high is None:
            place = self.place(low) if low else 0.0
            return 4 * place if 0 < place < _HIGHEST_PRICE else None if place else max(abs(best) / 4, 1e-6)
        last = self.place(high)
        if low is None:
            return None if last == 0 else last / 4 if last > _LOWEST_PRICE else 0.0
        first = self.place(low)
        rise = (high.bound - self.slope(high) * last) - (low.bound - self.slope(low) * first)
        meet = rise / (self.slope(low) - self.slope(high))
        least = low.bound + self.slope(low) * (meet - first)
        if best - least <= _NEAR * abs(best) or not first < meet < last:
            return None
        return meet if number % 4 < 3 else (first + last) / 2


class UpperBound(NamedTuple):
    """An upper bound of the utility of all solutions.

    Attributes:
      utility: the bound.
      prices: shape (budgets,): at which it is reached.
      within: shape (free,): the totals that are best where the prices are a little higher, so that less is taken.
      beyond: shape (free,): those that are best where the prices are a little lower.
      totals: shape (free,): between the two, as the bound is a tangent to both.
      loose: shape (free,): by how much utility they differ in each group.
    """

    utility: float
    prices: Float[np.ndarray, " budgets"]
    within: PerGroup
    beyond: PerGroup
    totals: PerGroup
    loose: PerGroup


@dataclass(frozen=True, eq=False)
class Relaxation:
    """Utility and budgets in terms of the totals of groups, those of all groups in one array, one after the other.

    Attributes:
      forest: of the groups that are coupled.
      totals: of each group, in ascending order.
      utility: at each total.
      parts: for each budget what each total takes of it: the ``a_bg``, as a share of the budget.
      coupling: shape (budgets, free): the coefficients of the products, as shares.
      rooms: shape (budgets,): what is left of each budget where nothing is taken.
      constant: added to the bound.
      deadline: when the time is over.
    """

    forest: Forest
    totals: Sequence[Totals]
    utility: PerTotal
    parts: Sequence[PerTotal]
    coupling: Float[np.ndarray, "budgets free"]
    rooms: Float[np.ndarray, " budgets"]
    constant: float
    deadline: Deadline
    lengths: Int[np.ndarray, " free"] = field(init=False)
    starts: Int[np.ndarray, " free"] = field(init=False)
    parents: Int[np.ndarray, " free"] = field(init=False)

    def __post_init__(self) -> None:
        lengths = np.array([len(own) for own in self.totals])
        object.__setattr__(self, "lengths", lengths)
        object.__setattr__(self, "starts", np.cumsum(lengths) - lengths)
        object.__setattr__(self, "parents", np.array(self.forest.parent, dtype=int))

    @property
    def excluded(self) -> bool:
        """Whether a budget is exceeded even by the smallest totals."""
        least = np.array([own[0] for own in self.totals], dtype=float)
        taken = [float(np.minimum.reduceat(part, self.starts).sum()) for part in self.parts]
        return bool(np.any(np.array(taken) + self._coupled(least) > self.rooms * (1 + 1e-12) + 1e-12))

    def _coupled(self, totals: PerGroup) -> Float[np.ndarray, " budgets"]:
        """What the products take of each budget; the coupling of a root is 0."""
        taken: np.ndarray = self.coupling @ (totals * totals[self.parents])
        return taken

    def values(self, prices: Float[np.ndarray, " budgets"]) -> PerTotal:
        """The utility of each total, less what it takes of the budgets."""
        values = self.utility
        for price, part in zip(prices, self.parts, strict=True):
            values = values - price * part if price else values
        return values

    def split(self, values: PerTotal) -> list[PerTotal]:
        """The values of each group."""
        stops = self.starts + self.lengths
        return [values[start:stop] for start, stop in zip(self.starts.tolist(), stops.tolist(), strict=True)]

    def at(self, prices: Float[np.ndarray, " budgets"]) -> Priced:
        """The bound at certain prices; raises `StoppedError` if the time is over."""
        self.deadline.remaining()
        values = self.values(prices)
        positions = np.zeros(len(self.totals), dtype=int)
        if self.forest.order:
            positions = self.forest.best(self.split(values), self.totals, prices @ self.coupling)
        if self.forest.alone.size:
            positions[self.forest.alone] = self._largest(values)[self.forest.alone]
        chosen = self.starts + positions
        taken = np.array([float(part[chosen].sum()) for part in self.parts]) + self._coupled(self.chosen(positions))
        slopes = self.rooms - taken
        return Priced(prices, float(self.utility[chosen].sum() + prices @ slopes) + self.constant, slopes, positions)

    def chosen(self, positions: Int[np.ndarray, " free"]) -> PerGroup:
        """The totals that stand at some positions."""
        return np.array([own[at] for own, at in zip(self.totals, positions.tolist(), strict=True)], dtype=float)

    def _largest(self, values: PerTotal) -> Int[np.ndarray, " free"]:
        """Where the first largest value of each group stands."""
        largest = np.repeat(np.maximum.reduceat(values, self.starts), self.lengths)
        found = np.flatnonzero(values >= largest)
        positions: np.ndarray = found[np.searchsorted(found, self.starts)] - self.starts
        return positions

    def with_each(self, priced: Priced) -> list[PerTotal]:
        """For each group and each of its totals the bound, at these prices, of all solutions with that total."""
        values = self.split(self.values(priced.prices))
        trees = self.forest.with_each(values, self.totals, priced.prices @ self.coupling)
        return [priced.bound + (tree - tree.max()) for tree in trees]

    def least(self, prices: Float[np.ndarray, " budgets"]) -> tuple[UpperBound, list[Priced]]:
        """The least bound over the prices of all budgets; and at which prices it was found.

        Args:
          prices: to begin with.

        Returns:
          The bound; and the two places between which it was found, or one.
        """
        start = self.at(prices)
        if len(prices) == 1:
            best, ends = self._cheapest(start, _Line(np.zeros(1), np.ones(1)))
            return self._between(best, ends), ends
        alone = [self._cheapest(start, _Line(np.zeros(len(prices)), unit)) for unit in np.eye(len(prices))]
        best = lowest(self.at, [start, *(end for found, ends in alone for end in (found, *ends))], _NEAR)
        if not best.prices.any():
            return self._between(best, [best]), [best]
        best, ends = self._cheapest(best, _Line(np.zeros(len(prices)), best.prices))
        return self._between(best, ends), ends

    def _cheapest(self, start: Priced, line: _Line) -> tuple[Priced, list[Priced]]:
        """The least bound on a line of prices; and the nearest places on both sides."""
        here = (
            start if np.array_equal(line.at(line.place(start)), start.prices) else self.at(line.at(line.place(start)))
        )
        best = here
        low: Priced | None = None  # more than the budgets is taken
        high: Priced | None = None
        for number in range(_TRIES):
            low, high = (here, high) if line.slope(here) < 0 else (low, here)
            place = line.next(low, high, best.bound, number)
            if place is None:
                break
            here = self.at(line.at(place))
            best = here if here.bound < best.bound else best
        return best, [end for end in (low, high) if end is not None]

    def _between(self, best: Priced, ends: Sequence[Priced]) -> UpperBound:
        """The bound with what it is a tangent to."""
        beyond, within = self.chosen(ends[0].positions), self.chosen(ends[-1].positions)
        slopes = [float(np.min(end.slopes)) for end in (ends[0], ends[-1])]
        share = slopes[1] / (slopes[1] - slopes[0]) if slopes[0] < 0 <= slopes[1] else 0.0
        utility = [self.utility[self.starts + end.positions] for end in (ends[0], ends[-1])]
        totals = between(beyond, within, share)
        return UpperBound(best.bound, best.prices, within, beyond, totals, np.abs(utility[0] - utility[1]))


def between(one: PerGroup, other: PerGroup, share: float) -> PerGroup:
    """The weighted geometric mean of totals; ``share`` is the weight of the first."""
    logs = [np.log(np.maximum(totals, LITTLE)) for totals in (one, other)]
    mean: PerGroup = np.exp(share * logs[0] + (1 - share) * logs[1])
    return mean
