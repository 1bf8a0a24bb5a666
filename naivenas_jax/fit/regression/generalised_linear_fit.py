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
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from naivenas_jax.fit.regression.positive_definite import Factored
from naivenas_jax.fit.regression.ridge import Fit, NormalEquations
from naivenas_jax.typing import Array

#: How often it is evaluated what outcomes miss, at most; the first time for the fit to start from.
TURNS = 5
#: A step that took less than this off what is missed is the last one: each is a pass over the data.
PAYS = 0.01


class Missed(NamedTuple):
    """By how much the outcomes of a matrix product are missed, in sums over rows.

    Attributes:
      read: ``X^T R``.
      total: the sum of the rows of R.
      squares: the sum of all squares of R.
      low: the smallest derivative of f.
      high: the largest derivative of f.
    """

    read: Float[Array, "G K M"]
    total: Float[Array, "G M"]
    squares: Float[Array, ""]
    low: Float[Array, "G M"]
    high: Float[Array, "G M"]

    @classmethod
    def of(cls, x: Float[Array, "G N K"], missed: Float[Array, "G N M"], slope: Float[Array, "G N M"]) -> Missed:
        """The sums over the rows of X, of R, and of the derivatives of f."""
        read = jnp.matmul(x.transpose(0, 2, 1), missed, precision=jax.lax.Precision.HIGHEST)
        return cls(read, missed.sum(1), (missed**2).sum(), slope.min(1), slope.max(1))

    @classmethod
    def together(cls, found: Iterable[Missed]) -> Missed:
        """The sums of all batches as one, in float64."""
        return reduce(cls._and, (cls(*(np.asarray(array, np.float64) for array in one)) for one in found))

    def _and(self, other: Missed) -> Missed:
        read, total, squares = (mine + theirs for mine, theirs in zip(self[:3], other[:3], strict=True))
        return Missed(read, total, squares, np.minimum(self.low, other.low), np.maximum(self.high, other.high))

    @property
    def finite(self) -> bool:
        """Whether f is finite in every row."""
        return bool(np.isfinite(self.read).all() and np.isfinite(self.total).all() and np.isfinite(self.squares))

    @property
    def by_slope(self) -> tuple[Float[np.ndarray, "G K M"], Float[np.ndarray, "G M"]]:
        """``read`` and ``total``, divided by the slope; 0 where f is flat throughout, or has no slope."""
        slope = np.where(self.high >= -self.low, self.high, self.low)
        inverse = np.divide(1.0, slope, out=np.zeros_like(slope), where=(slope != 0) & np.isfinite(slope))
        return np.asarray(self.read * inverse[:, None]), np.asarray(self.total * inverse)


def aimed(
    sums: NormalEquations,
    start: Fit,
    present: Float[np.ndarray, "G K M"],
    shifts: bool,
    missed: Callable[[Fit], Missed],
) -> Fit:
    """A fit whose outcomes miss less: steps from `start`, as long as they do.

    Args:
      sums: the sums over all rows of X and Y.
      start: the fit of Y, whose system is used again.
      present: the weights that a large ridge keeps.
      shifts: whether there is a c.
      missed: evaluates the outcomes of a fit.
    """
    if np.isinf(start.ridge):
        return start
    reduced = sums.reduced(shifts)
    system, mean = start.system or Factored(reduced.system(start.ridge)), sums.x / max(sums.number, 1.0) * shifts
    pull = reduced.weight(start.ridge)[:, None, None]

    def stepped(fit: Fit, now: Missed) -> Fit:
        read, total = now.by_slope
        step = system.solved(read - mean[:, :, None] * total[:, None] - pull * (fit.b - present))
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
        paid = found.squares < (1 - PAYS) * now.squares
        best, now = tried, found
        if not paid:
            break
    return best
