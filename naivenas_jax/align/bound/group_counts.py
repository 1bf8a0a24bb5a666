"""Counts in terms of the groups: what depends on one group, products of two, and tangents of the rest.

A count is a sum of products of sizes, and sizes are sums over groups, so it is a polynomial of the totals ``t_g`` of
the groups, with coefficients that are not negative. Three parts of it are told apart:

- terms of a single group, ``a t_g + b t_g^2``;
- products ``c t_g t_h`` of the pairs of a forest (`forest`), those that weigh most;
- the rest ``R``. In the logarithms of the totals it is a sum of exponentials, so it is convex and lies above its
  tangents (which is the inequality of the arithmetic and the geometric mean): for any totals ``z``

      R(t) >= R(z) + sum_g w_g log(t_g / z_g),    w_g = z_g dR/dt_g(z)

Of a chain of layers there is no rest.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from naivenas_jax.align.bound.forest import Forest, Pair
from naivenas_jax.align.problem.budget import Polynomial
from naivenas_jax.align.problem.free_groups import FreeGroups, PerGroup

#: Products of rows that hold more pairs of groups than this, and all products after so many pairs, belong to the rest.
_MOST_PAIRS, _ALL_PAIRS = 5_000, 300_000


@dataclass(frozen=True, eq=False)
class GroupCount:
    """A count that a budget limits, in terms of the totals of the free groups.

    Attributes:
      count: in terms of rows.
      free: the groups.
      linear, square: shape (free,): the coefficients of ``t_g`` and of its square.
      coupling: shape (free,): the coefficient of the product of each group with the one that it hangs on.
      forest: says which that is.
      constant: what depends on no group.
      complete: whether there is no rest.
    """

    count: Polynomial
    free: FreeGroups
    linear: PerGroup
    square: PerGroup
    coupling: PerGroup
    forest: Forest
    constant: float
    complete: bool

    def at(self, totals: PerGroup) -> float:
        """The count."""
        return self.count.at(self.free.sizes(totals))

    def known(self, totals: PerGroup) -> float:
        """The count without the rest."""
        pairs = sum(self.coupling[a] * totals[a] * totals[b] for a, b in self.forest.pairs if self.coupling[a])
        return self.constant + float(self.linear @ totals + self.square @ totals**2) + float(pairs)

    def rest(self, at: PerGroup) -> tuple[float, PerGroup]:
        """The rest at some totals ``z``, and the weights ``w_g`` of its tangent there."""
        if self.complete:
            return 0.0, np.zeros_like(at)
        sizes = self.free.sizes(at)
        slopes = np.zeros(len(sizes))
        gradient = self.count.gradient(sizes)
        slopes[list(gradient)] = list(gradient.values())
        known = self.linear + 2 * self.square * at
        for a, b in self.forest.pairs:
            known[a] += self.coupling[a] * at[b]
            known[b] += self.coupling[a] * at[a]
        weights: PerGroup = np.maximum(self.free.matrix.T @ slopes - known, 0.0) * at
        return max(self.count.at(sizes) - self.known(at), 0.0), weights


def group_counts(counts: Sequence[Polynomial], free: FreeGroups, most: PerGroup) -> list[GroupCount]:
    """The counts of all budgets, with one forest for all.

    Args:
      counts: in terms of rows.
      free: the groups.
      most: the largest totals that there can be.
    """
    found = [_Expanded.of(count, free) for count in counts]
    weights: dict[Pair, float] = defaultdict(float)
    for count, own in zip(counts, found, strict=True):
        for (a, b), value in own.pairs.items():
            weights[a, b] += value * most[a] * most[b] / max(count.bound, 1.0)
    forest = Forest.spanning(weights, len(free.numbers))
    return [own.within(count, free, forest) for count, own in zip(counts, found, strict=True)]


@dataclass(frozen=True, eq=False)
class _Expanded:
    """A count multiplied out, as far as it is small.

    Attributes:
      linear, square, constant: as above.
      pairs: the coefficients of products of two groups.
      whole: whether nothing was left out.
    """

    linear: PerGroup
    square: PerGroup
    constant: float
    pairs: Mapping[Pair, float]
    whole: bool

    @classmethod
    def of(cls, count: Polynomial, free: FreeGroups) -> _Expanded:
        matrix, constants = free.matrix, free.constant
        lengths = np.diff(matrix.indptr)
        slope, constant, whole = np.zeros(len(constants)), count.constant, True
        square: Float[np.ndarray, " free"] = np.zeros(matrix.shape[1])
        pairs: dict[Pair, float] = defaultdict(float)
        left = _ALL_PAIRS
        for rows, value in count.terms.items():
            if len(rows) == 1:
                slope[rows[0]] += value
                constant += value * constants[rows[0]]
            elif len(rows) == 2 and (number := math.prod(lengths[list(rows)].tolist())) <= min(_MOST_PAIRS, left):
                left -= number
                a, b = rows
                slope[a] += value * constants[b]
                slope[b] += value * constants[a]
                constant += value * constants[a] * constants[b]
                _multiply(_entries(free, a), _entries(free, b), value, square, pairs)
            else:
                whole = False
        return cls(matrix.T @ slope, square, float(constant), pairs, whole)

    def within(self, count: Polynomial, free: FreeGroups, forest: Forest) -> GroupCount:
        """With the products that are in a forest; all others are in the rest."""
        coupling = np.zeros(len(self.linear))
        for a, b in forest.pairs:
            coupling[a] = self.pairs.get((min(a, b), max(a, b)), 0.0)
        complete = self.whole and len(self.pairs) == int(np.count_nonzero(coupling))
        return GroupCount(count, free, self.linear, self.square, coupling, forest, self.constant, complete)


def _entries(free: FreeGroups, row: int) -> list[tuple[int, float]]:
    """The groups of a row, and how often it holds a class of each."""
    start, stop = free.matrix.indptr[row], free.matrix.indptr[row + 1]
    return list(zip(free.matrix.indices[start:stop].tolist(), free.matrix.data[start:stop].tolist(), strict=True))


def _multiply(
    one: list[tuple[int, float]],
    other: list[tuple[int, float]],
    value: float,
    square: PerGroup,
    pairs: dict[Pair, float],
) -> None:
    """Add the products of the groups of two rows, in place."""
    for g, times in one:
        for h, further in other:
            if g == h:
                square[g] += value * times * further
            else:
                pairs[min(g, h), max(g, h)] += value * times * further
