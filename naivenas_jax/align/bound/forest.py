"""The best totals of groups of which pairs are coupled, where the pairs form a forest.

With values ``v_g(t_g)`` of the totals of each group and coefficients ``c_gh >= 0`` of the pairs, the largest

    sum_g v_g(t_g) - sum_gh c_gh t_g t_h

is found from the leaves to the roots. A group hands on to the one that it hangs on what it can add at the most,

    m(t) = max over s of ( v(s) - c t s ),

for each total ``t`` of that one. As a function of ``c t`` this is a Legendre transform: only totals on the concave
hull of ``v`` are ever best, and the larger ``t`` is, the smaller ones. So a tree costs about as much as its groups have
totals, and not the products of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int

from naivenas_jax.align.bound.group_totals import PerTotal, Totals

#: Two groups, the earlier one first.
Pair: TypeAlias = tuple[int, int]

#: A table of the totals of two groups that is no larger than this is faster than a hull.
_TABLE = 20_000
#: Of a hull of more points than this, that of every eighth point is found first.
_FEW, _STRIDE = 64, 8


@dataclass(frozen=True, eq=False)
class Forest:
    """Trees of groups.

    Attributes:
      parent: for each group the one that it hangs on, -1 for roots.
      order: all groups that are coupled to others, each after the one that it hangs on.
    """

    parent: tuple[int, ...]
    order: tuple[int, ...]

    @classmethod
    def spanning(cls, weights: Mapping[Pair, float], groups: int) -> Forest:
        """The forest whose pairs weigh most (Kruskal); of equal ones the earlier are taken."""
        root, next_to = list(range(groups)), [list[int]() for _ in range(groups)]

        def found(group: int) -> int:
            while root[group] != group:
                root[group] = group = root[root[group]]
            return group

        for a, b in sorted(weights, key=lambda pair: (-weights[pair], pair)):
            if found(a) != found(b):
                root[found(a)] = found(b)
                next_to[a].append(b)
                next_to[b].append(a)
        parent, order, seen = [-1] * groups, list[int](), [not near for near in next_to]
        for start in range(groups):
            todo = [] if seen[start] else [start]
            while todo:
                group = todo.pop()
                seen[group] = True
                order.append(group)
                for other in next_to[group]:
                    if not seen[other]:
                        parent[other] = group
                        todo.append(other)
        return cls(tuple(parent), tuple(order))

    @cached_property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Each group that hangs on another, and that other; in the order of the groups."""
        return tuple((group, other) for group, other in enumerate(self.parent) if other >= 0)

    @cached_property
    def alone(self) -> Int[np.ndarray, " alone"]:
        """The groups that are coupled to none."""
        coupled = set(self.order)
        return np.array([group for group in range(len(self.parent)) if group not in coupled], dtype=int)

    def best(
        self, values: Sequence[PerTotal], totals: Sequence[Totals], coupling: Float[np.ndarray, " free"]
    ) -> Int[np.ndarray, " free"]:
        """Where the best total of each group stands among its totals; 0 for groups that are coupled to none.

        Args:
          values: for each group its value at each of its totals.
          totals: for each group.
          coupling: for each group the coefficient of its product with the one that it hangs on.
        """
        up, chosen = self._upwards(values, totals, coupling)
        positions = np.zeros(len(self.parent), dtype=int)
        for group in self.order:
            over = self.parent[group]
            positions[group] = up[group].argmax() if over < 0 else chosen[group][positions[over]]
        return positions

    def _upwards(
        self, values: Sequence[PerTotal], totals: Sequence[Totals], coupling: Float[np.ndarray, " free"]
    ) -> tuple[list[PerTotal], dict[int, Totals]]:
        """The value of each group with all that hangs on it; and for each total of its parent where its best stands."""
        up, chosen = list(values), dict[int, Totals]()
        for group in reversed(self.order):
            if (over := self.parent[group]) >= 0:
                added, chosen[group] = conjugate(up[group], totals[group], coupling[group] * totals[over])
                up[over] = up[over] + added
        return up, chosen

    def with_each(
        self, values: Sequence[PerTotal], totals: Sequence[Totals], coupling: Float[np.ndarray, " free"]
    ) -> list[PerTotal]:
        """For each group the largest sum of its whole tree, at each of its totals; of a group alone its values."""
        up, chosen = self._upwards(values, totals, coupling)
        found = list(up)
        for group in self.order:
            if (over := self.parent[group]) >= 0:
                own = up[group][chosen[group]] - coupling[group] * totals[over] * totals[group][chosen[group]]
                rest = found[over] - own  # of the tree without what hangs on this group
                found[group] = up[group] + conjugate(rest, totals[over], coupling[group] * totals[group])[0]
        return found


def conjugate(
    values: PerTotal, totals: Totals, slopes: Float[np.ndarray, " slopes"]
) -> tuple[Float[np.ndarray, " slopes"], Int[np.ndarray, " slopes"]]:
    """``max over t of (v(t) - s t)`` for each slope ``s``, and where the best ``t`` stands.

    Args:
      values: shape (totals,): of the function ``v``.
      totals: in ascending order.
      slopes: any.
    """
    if len(values) * len(slopes) <= _TABLE:
        table = values[None, :] - slopes[:, None] * totals[None, :]
        positions = table.argmax(1)
        return table[np.arange(len(slopes)), positions], positions
    hull = _hull(totals.astype(float), values)
    rises = np.diff(values[hull]) / np.diff(totals[hull])  # in descending order
    positions = hull[np.searchsorted(-rises, -slopes)]
    return values[positions] - slopes * totals[positions], positions


def _hull(points: Float[np.ndarray, " points"], values: Float[np.ndarray, " points"]) -> Int[np.ndarray, " hull"]:
    """The positions of the points on the upper concave hull of a function.

    What lies on or below the line through its neighbours is no corner of it, however many of these are left out at
    once. That would take many rounds where the hull spans a convex part of the function; so a coarse hull comes first,
    and what lies below it goes.
    """
    left = np.arange(len(points))
    if len(points) > _FEW:
        coarse = np.append(left[:-1:_STRIDE], left[-1])
        corners = coarse[_hull(points[coarse], values[coarse])]
        over = values > np.interp(points, points[corners], values[corners])
        over[corners] = True
        left = np.flatnonzero(over)
    while len(left) > 2:
        rises = np.diff(values[left]) / np.diff(points[left])
        inner = rises[:-1] > rises[1:]
        if inner.all():
            break
        left = left[np.concatenate([[True], inner, [True]])]
    return left
