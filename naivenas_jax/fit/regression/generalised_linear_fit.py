"""Least squares of what comes after a nonlinearity, by steps that need sums only.

With P = X B + 1 c and an increasing function f of each entry, let R = f(Y) - f(P) be what is missed. The steps

    B <- B + D,     D = (X^T X + ridge * s * I)^-1 (X^T R / slope - ridge * s * (B - B0)),
    c <- c + mean(R) / slope - mean(X) D

(X and R centred in the first line) have the fixed point of ridge regression where f is linear, and in general that of a
generalised linear model with the link f. Slope is the steepest of f in a column, at P: were it that of f altogether, no
step would be too long; a step after which outcomes miss more is not taken. Nothing is asked of P where f is flat on
both sides, before a relu that is off in both networks. An f that does not increase has another fixed point.

Source: Kakade, Kalai, Kanade and Shamir, Efficient Learning of Generalized Linear and Single Index Models with
Isotonic Regression, NIPS 2011 (GLM-tron); for networks, Zhang, Zou, He and Sun, Accelerating Very Deep Convolutional
Networks for Classification and Detection, 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.fit.regression.ridge import Fit, Sums

#: Evaluations of what is missed, at most; the first is of where it starts.
TURNS = 5


class Missed(NamedTuple):
    """What the outcomes of a matrix product miss, over rows.

    Attributes:
      read: shape (G, K, M): ``X^T R``.
      total: shape (G, M): the sum of the rows of R.
      squares: the sum of all squares of R.
      low, high: shape (G, M): the smallest and largest derivative of f.
    """

    read: Any
    total: Any
    squares: Any
    low: Any
    high: Any

    @classmethod
    def of(cls, x: Any, missed: Any, slope: Any) -> Missed:
        """Of rows: X of shape (G, N, K), R and the derivatives of shape (G, N, M)."""
        read = jnp.matmul(x.transpose(0, 2, 1), missed, precision=jax.lax.Precision.HIGHEST)
        return cls(read, missed.sum(1), (missed**2).sum(), slope.min(1), slope.max(1))

    @classmethod
    def together(cls, found: Iterable[Missed]) -> Missed:
        """Of all batches, in float64."""
        return reduce(cls._and, (cls(*(np.asarray(array, np.float64) for array in one)) for one in found))

    def _and(self, other: Missed) -> Missed:
        read, total, squares = (mine + theirs for mine, theirs in zip(self[:3], other[:3], strict=True))
        return Missed(read, total, squares, np.minimum(self.low, other.low), np.maximum(self.high, other.high))

    @property
    def finite(self) -> bool:
        """Whether f is, everywhere."""
        return bool(np.isfinite(self.read).all() and np.isfinite(self.total).all() and np.isfinite(self.squares))

    @property
    def by_slope(self) -> tuple[np.ndarray, np.ndarray]:
        """``read`` and ``total`` by the slope; 0 where f is flat throughout, or has no slope."""
        slope = np.where(self.high >= -self.low, self.high, self.low)
        inverse = np.divide(1.0, slope, out=np.zeros_like(slope), where=(slope != 0) & np.isfinite(slope))
        return self.read * inverse[:, None], self.total * inverse


def aimed(sums: Sums, start: Fit, present: np.ndarray, shifts: bool, missed: Callable[[Fit], Missed]) -> Fit:
    """A fit whose outcomes miss less: steps from `start`, as long as they do.

    Args:
      sums: over all rows of X and Y.
      start: the fit of Y.
      present: shape (G, K, M): what a large ridge keeps.
      shifts: whether there is a c.
      missed: evaluates the outcomes.
    """
    if np.isinf(start.ridge):
        return start
    reduced = sums.centred() if shifts else sums
    inverse, mean = np.linalg.inv(reduced.system(start.ridge)), sums.x / max(sums.number, 1.0) * shifts
    pull = reduced.weight(start.ridge)[:, None, None]

    def stepped(fit: Fit, now: Missed) -> Fit:
        read, total = now.by_slope
        step = inverse @ (read - mean[:, :, None] * total[:, None] - pull * (fit.b - present))
        shift = (total / sums.number - np.einsum("gk,gkm->gm", mean, step)) * shifts
        return Fit(fit.b + step, fit.shift + shift, fit.ridge)

    best, now = start, missed(start)
    if not now.finite:
        return start  # f overflows
    for _ in range(TURNS - 1):
        tried = stepped(best, now)
        found = missed(tried)
        if not (found.finite and found.squares < now.squares):
            break
        best, now = tried, found
    return best
