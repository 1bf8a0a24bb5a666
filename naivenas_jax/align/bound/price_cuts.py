"""The least of a bound over several prices at once: the cutting planes of Kelley.

The bound is convex in the prices, and has a tangent at each price that was tried. The highest of them lies below
the bound everywhere, so that its least is no higher than that of the bound, and says where to try next: there, and
in turn half of the way from the best prices so far, since tangents tell little far away from where they touch. One
price after the other would not do: where two budgets count nearly the same, the bound has a sharp valley that runs
across both.

References:
  J. E. Kelley, The cutting-plane method for solving convex programs, SIAM Journal, 1960.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linprog

#: So many prices are tried at the most.
_TRIES = 60
#: No price is tried that is so many times higher than the highest one that was.
_FURTHER = 4.0


class Priced(NamedTuple):
    """The bound at certain prices.

    Attributes:
      prices: shape (budgets,).
      bound: of the utility.
      slopes: shape (budgets,): how the bound changes with each price: what is left of each budget.
      positions: shape (free,): where the best total of each group stands among its totals.
    """

    prices: Float[np.ndarray, " budgets"]
    bound: float
    slopes: Float[np.ndarray, " budgets"]
    positions: Int[np.ndarray, " free"]


def lowest(at: Callable[[Float[np.ndarray, " budgets"]], Priced], known: Sequence[Priced], near: float) -> Priced:
    """The prices at which the bound is nearly least.

    Args:
      at: the bound at certain prices.
      known: where it is known already.
      near: how near to the least is near enough, as a share.
    """
    tried = list(known)
    best = min(tried, key=lambda one: one.bound)
    for number in range(_TRIES):
        least, prices = _least_of_tangents(tried)
        if best.bound - least <= near * abs(best.bound):
            break
        here = at(prices if number % 2 else (best.prices + prices) / 2)
        tried.append(here)
        best = min(best, here, key=lambda one: one.bound)
    return best


def _least_of_tangents(tried: Sequence[Priced]) -> tuple[float, Float[np.ndarray, " budgets"]]:
    """The least value of the highest tangent, and at which prices."""
    slopes, prices = np.array([one.slopes for one in tried]), np.array([one.prices for one in tried])
    bounds = np.array([one.bound for one in tried])
    most = _FURTHER * max(float(prices.max()), 1e-6)
    # tangents are measured from the lowest bound on, and prices from the highest one, so that numbers are near 1
    level, scale = float(bounds.min()), max(float(np.ptp(bounds)), 1e-9 * abs(float(bounds.min())), 1e-12)
    matrix = np.column_stack([slopes * most / scale, -np.ones(len(tried))])
    room = ((slopes * prices).sum(1) - bounds + level) / scale
    cost = np.append(np.zeros(slopes.shape[1]), 1.0)
    found = linprog(cost, matrix, room, bounds=[*[(0.0, 1.0)] * slopes.shape[1], (None, None)], method="highs")
    if found.status != 0:
        return -np.inf, prices[int(bounds.argmin())]
    return float(found.fun) * scale + level, np.maximum(found.x[:-1], 0.0) * most
