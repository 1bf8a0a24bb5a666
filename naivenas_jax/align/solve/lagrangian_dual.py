"""The least upper bound of the utility over all prices of the budgets.

Each budget ``b`` says that ``sum_g a_bg(t_g) <= room_b`` for the totals ``t_g`` of the groups; group ``g`` has the
utility ``f_g(t_g)``. Prices ``p_b >= 0`` give the bound

    sum_b p_b room_b + sum_g max over t of ( f_g(t) - sum_b p_b a_bg(t) )

It is convex in each price. The least is found by bisection of its slope, for one budget after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int

#: A number for each free group.
PerGroup: TypeAlias = Float[np.ndarray, " free"]
#: How many classes a group can have, kept and inserted ones together, in ascending order.
Totals: TypeAlias = Int[np.ndarray, " _"]
#: A number for each of these.
PerTotal: TypeAlias = Float[np.ndarray, " _"]

_BISECTIONS = 30
#: Where a budget is kept at no price below this, rounding is all that is left of the differences between totals.
_HIGHEST_PRICE = 1e60
#: With several budgets their prices are found in turns. This is the number of turns.
_CYCLES = 4
#: Where the logarithm of a total is taken, this stands for 0.
LITTLE = 0.5


class UpperBound(NamedTuple):
    """An upper bound of the utility of all solutions.

    Attributes:
      utility: the bound.
      totals: shape (free,): the totals of the groups at which the bound is reached. In general that is between two
        choices of totals, as the bound is a tangent to both.
      loose: shape (free,): how much more utility the bound gives each group between these choices than it can have.
    """

    utility: float
    totals: PerGroup
    loose: PerGroup


@dataclass(frozen=True, eq=False)
class Tangent:
    """A budget, linearised: ``sum_g a_g(t_g) <= room``.

    Attributes:
      room: what is left of the budget where the tangent touches the count, as a share of the budget.
      parts: for each free group its ``a_g``, at all totals that it can have.
    """

    room: float
    parts: list[PerTotal]


def dual(
    utility: Sequence[PerTotal],
    constant: float,
    tangents: Sequence[Tangent],
    totals: Sequence[Totals],
) -> UpperBound:
    """The least bound over the prices of all budgets, one after the other.

    Args:
      utility: for each free group its utility at all its totals.
      constant: added to the bound.
      tangents: of the budgets.
      totals: for each free group the totals that it can have.

    Returns:
      The bound; minus infinity if no totals are within the linearised budgets, so that none are within the budgets.
    """
    nothing = np.array([])
    best = UpperBound(np.inf, nothing, nothing)
    if any(tangent.room < sum(float(part.min()) for part in tangent.parts) for tangent in tangents):
        return best._replace(utility=-np.inf)
    groups = _Groups.of(totals)
    every, parts = np.concatenate(utility), [np.concatenate(tangent.parts) for tangent in tangents]
    prices, rooms = np.zeros(len(tangents)), np.array([tangent.room for tangent in tangents])
    for _ in range(1 if len(tangents) == 1 else _CYCLES):
        for b, room in enumerate(rooms):
            prices[b] = 0.0
            rest = every - sum(price * part for price, part in zip(prices, parts, strict=True) if price)
            prices[b], found = _cheapest(groups, rest, parts[b], float(room))
            besides = constant + float(prices @ rooms) - prices[b] * room
            best = min(best, found._replace(utility=found.utility + besides), key=lambda each: each.utility)
    return best


@dataclass(frozen=True, eq=False)
class _Groups:
    """The totals of all groups in one array, one group after the other.

    Attributes:
      totals: in ascending order within a group.
      starts: the position of the first total of each group.
      lengths: how many totals each group can have.
    """

    totals: Float[np.ndarray, " totals"]
    starts: Int[np.ndarray, " free"]
    lengths: Int[np.ndarray, " free"]

    @classmethod
    def of(cls, totals: Sequence[Totals]) -> _Groups:
        """Put the possible totals of each group, in ascending order, one after the other."""
        lengths = np.array([len(own) for own in totals])
        return cls(np.concatenate(totals).astype(float), np.cumsum(lengths) - lengths, lengths)

    def best(self, values: Float[np.ndarray, " totals"]) -> Int[np.ndarray, " free"]:
        """The position of the first largest value of each group."""
        largest = np.repeat(np.maximum.reduceat(values, self.starts), self.lengths)
        found = np.flatnonzero(values >= largest)
        return found[np.searchsorted(found, self.starts)]


def _cheapest(
    groups: _Groups, utility: Float[np.ndarray, " totals"], part: Float[np.ndarray, " totals"], room: float
) -> tuple[float, UpperBound]:
    """The price of one budget at which the bound is least, and that bound.

    Args:
      groups: and their totals.
      utility: at all totals, less what the other budgets cost.
      part: what the totals take of this budget.
      room: of this budget.
    """

    def at(price: float) -> tuple[float, float, Int[np.ndarray, " free"]]:
        """The bound at a price, its slope, and the position of the best total of each group."""
        values = utility - price * part
        chosen = groups.best(values)
        return float(values[chosen].sum()) + price * room, room - float(part[chosen].sum()), chosen

    low, high, below = 0.0, 1.0, at(0.0)
    if below[1] >= 0:  # the budget does not bind
        return 0.0, UpperBound(below[0], groups.totals[below[2]], np.zeros(len(groups.starts)))
    above = at(high)
    while above[1] < 0 and high < _HIGHEST_PRICE:
        low, high, below, above = high, 2 * high, above, at(2 * high)
    best = min((below[0], low), (above[0], high))
    for _ in range(_BISECTIONS):
        price = (low + high) / 2
        here = at(price)
        best = min(best, (here[0], price))
        low, below = (price, here) if here[1] < 0 else (low, below)
        high, above = (high, above) if here[1] < 0 else (price, here)
    share = above[1] / (above[1] - below[1])  # of the two choices: the mixture takes just the room
    totals = between(groups.totals[below[2]], groups.totals[above[2]], share)
    priced = utility - best[1] * part
    hull = share * priced[below[2]] + (1 - share) * priced[above[2]]
    within = [slice(start, start + length) for start, length in zip(groups.starts, groups.lengths, strict=True)]
    real = [np.interp(t, groups.totals[own], priced[own]) for t, own in zip(totals, within, strict=True)]
    return best[1], UpperBound(best[0], totals, np.maximum(hull - real, 0.0))


def between(one: PerGroup, other: PerGroup, share: float) -> PerGroup:
    """The weighted geometric mean of totals; ``share`` is the weight of the first."""
    logs = [np.log(np.maximum(totals, LITTLE)) for totals in (one, other)]
    mean: PerGroup = np.exp(share * logs[0] + (1 - share) * logs[1])
    return mean
