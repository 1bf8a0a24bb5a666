"""The knapsack problem: of items with a value and a weight, those of the most value that a capacity holds.

Filled in the order of value per weight, all items up to one, the break, are taken, and some room is left. An optimum
differs from that in few items near to the break. So sets of items are made from it by adding the next item behind the
break and leaving out the next one before it, in turn. Of sets of the same weight only that of the most value is kept,
and none of which the linear bound says that it cannot lead to anything better than the best one so far (Pisinger).
Of equal weights few items can differ, since of ``w`` whole numbers some have a sum that ``w`` divides (Steinitz's
argument; Eisenbrand and Weismantel); others are never looked at.

References:
  D. Pisinger, A minimal algorithm for the 0-1 knapsack problem, Operations Research 45, 1997.
  F. Eisenbrand, R. Weismantel, Proximity results and faster algorithms for integer programming using the Steinitz
  lemma, ACM Transactions on Algorithms, 2019.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from naivenas_jax.align.problem.deadline import Deadline

#: So many sets are kept at a time, and so many are made in all. Numbers and not times, so that what is found is the
#: same on every machine.
_MOST_SETS, _MOST_MADE = 100_000, 4_000_000
#: What differs by less than this share of the most valuable item is of the same value.
_EQUAL = 1e-13


class Packed(NamedTuple):
    """Items that fit.

    Attributes:
      taken: which items.
      above: how much more value any other choice could have at the most.
    """

    taken: Bool[np.ndarray, " items"]
    above: float


def packed(
    values: Float[np.ndarray, " items"], weights: Int[np.ndarray, " items"], capacity: int, deadline: Deadline
) -> Packed:
    """The items of the most value that fit; of items that are equally good the earlier.

    Args:
      values: above 0.
      weights: above 0.
      capacity: the most that they may weigh together, at least 0.
      deadline: when to end with what has been found by then.

    >>> from naivenas_jax.align.problem.deadline import NEVER
    >>> packed(np.array([6.0, 5.0, 5.0]), np.array([3, 2, 2]), 4, NEVER).taken.tolist()
    [False, True, True]
    """
    taken = np.zeros(len(values), dtype=bool)
    if not len(values):
        return Packed(taken, 0.0)
    common = int(np.gcd.reduce(weights))
    weights, capacity = weights // common, capacity // common
    order = np.argsort(-(values / weights), kind="stable")
    filled = np.cumsum(weights[order])
    first_out = int(np.searchsorted(filled, capacity, side="right"))
    taken[order[:first_out]] = True
    room = capacity - int(filled[first_out - 1]) if first_out else capacity
    if not room or first_out == len(order):
        return Packed(taken, 0.0)
    core = _Core(values, weights, _near(weights, order[first_out:]), _near(weights, order[:first_out][::-1]), room)
    above = core.search(deadline, _EQUAL * float(values.max()))
    changed = core.changed()
    taken[changed] = ~taken[changed]
    return Packed(taken, above)


def _near(weights: Int[np.ndarray, " items"], order: Int[np.ndarray, " some"]) -> Int[np.ndarray, " near"]:
    """Of some items in order, the first of each weight: as many as an optimum may take or leave out at the most."""
    own = weights[order]
    by_weight = np.argsort(own, kind="stable")
    ordered = own[by_weight]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    number = np.empty(len(own), dtype=int)
    number[by_weight] = np.arange(len(own)) - np.repeat(starts, np.diff(np.append(starts, len(own))))
    return order[number < 2 * int(weights.max())]


class _Core:
    """The search for items to exchange.

    Sets are described by what they weigh and are worth more than what is taken up to the break.
    """

    def __init__(
        self,
        values: Float[np.ndarray, " items"],
        weights: Int[np.ndarray, " items"],
        out: Int[np.ndarray, " out"],
        within: Int[np.ndarray, " within"],
        room: int,
    ):
        self._values, self._weights, self._room = values, weights, room
        self._out, self._within = out.tolist(), within.tolist()
        self._weighs, self._worth = np.zeros(1, dtype=int), np.zeros(1)
        self._best, self._where = 0.0, (0, 0)  # its worth; after how many steps, and which of the sets then
        self._steps: list[tuple[int, Int[np.ndarray, " _"], Bool[np.ndarray, " _"]]] = []

    def search(self, deadline: Deadline, equal: float) -> float:
        """Look at sets until none can be better; returns how much better one could be at the most.

        Args:
          deadline: when to end.
          equal: what is not better by more is not better.
        """
        added = left_out = made = 0
        while True:
            bound = self._bounds(added, left_out)
            open_ = np.flatnonzero(bound > self._best + equal)
            if not open_.size:
                return 0.0
            most = float(bound.max()) - self._best
            if deadline.is_over or len(open_) > _MOST_SETS or made > _MOST_MADE:
                return most
            made += len(open_)
            self._weighs, self._worth = self._weighs[open_], self._worth[open_]
            if added < len(self._out) and (added <= left_out or left_out == len(self._within)):
                self._step(self._out[added], 1, open_)
                added += 1
            elif left_out < len(self._within):
                self._step(self._within[left_out], -1, open_)
                left_out += 1
            else:
                return 0.0  # all are looked at

    def _bounds(self, added: int, left_out: int) -> Float[np.ndarray, " sets"]:
        """What each set can lead to at the most: room is filled at the best rate, and excess lost at the least."""
        gain, loss = self._rate(self._out, added, 0.0), self._rate(self._within, left_out, np.inf)
        room = self._room - self._weighs
        excess = np.zeros(len(room))
        excess[room < 0] = room[room < 0] * loss
        return self._worth + np.where(room > 0, room * gain, excess)

    def _rate(self, items: list[int], at: int, none: float) -> float:
        return float(self._values[items[at]] / self._weights[items[at]]) if at < len(items) else none

    def _step(self, item: int, sign: int, parents: Int[np.ndarray, " sets"]) -> None:
        """Make of each set another, with an item more or less. Of equal weights the most valuable is kept."""
        weighs = np.concatenate([self._weighs, self._weighs + sign * self._weights[item]])
        worth = np.concatenate([self._worth, self._worth + sign * self._values[item]])
        order = np.lexsort((-worth, weighs))
        highest = np.maximum.accumulate(worth[order])
        order = order[np.concatenate([[True], highest[1:] > highest[:-1]])]
        count = len(self._weighs)
        self._steps.append((item, parents[order % count], order >= count))
        self._weighs, self._worth = weighs[order], worth[order]
        fits = int(np.searchsorted(self._weighs, self._room, side="right"))
        if fits and self._worth[fits - 1] > self._best:  # worth rises with the weight
            self._best, self._where = float(self._worth[fits - 1]), (len(self._steps), fits - 1)

    def changed(self) -> Int[np.ndarray, " _"]:
        """The items of the best set that are not taken up to the break, or are taken only there."""
        (steps, at), found = self._where, []
        for item, parents, flipped in reversed(self._steps[:steps]):
            if flipped[at]:
                found.append(item)
            at = int(parents[at])
        return np.array(found, dtype=int)
