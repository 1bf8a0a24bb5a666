"""Least squares from sums: normal equations added up over batches, and solved with a ridge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Sums(NamedTuple):
    """Over rows x of X and y of Y. In batches of float32, added up in float64.

    Attributes:
      number: of rows.
      x, y: sums; shapes (K,), (M,).
      xx, xy, yy: sums of products; shapes (K, K), (K, M), and (M,) of squares.
    """

    number: Any
    x: Any
    y: Any
    xx: Any
    xy: Any
    yy: Any

    @classmethod
    def of(cls, x: Any, y: Any) -> Sums:
        """Of one batch; works under jit."""
        product = lambda a, b: jnp.matmul(a.T, b, precision=jax.lax.Precision.HIGHEST)  # noqa: E731
        return cls(jnp.float32(len(x)), x.sum(0), y.sum(0), product(x, x), product(x, y), (y * y).sum(0))

    def centred(self) -> Sums:
        """With the means taken off."""
        n = max(float(self.number), 1.0)
        return Sums(
            self.number,
            np.zeros_like(self.x),
            np.zeros_like(self.y),
            self.xx - np.outer(self.x, self.x) / n,
            self.xy - np.outer(self.x, self.y) / n,
            self.yy - self.y**2 / n,
        )

    def error(self, b: np.ndarray) -> np.ndarray:
        """Shape (M,): sum of squares of ``y - x @ b``."""
        return np.asarray(self.yy - 2 * (b * self.xy).sum(0) + (b * (self.xx @ b)).sum(0))


def added(total: Any, new: Any) -> Any:
    """Two trees of sums as one, in float64."""
    new = jax.tree.map(lambda array: np.asarray(array, np.float64), new)
    return new if total is None else jax.tree.map(np.add, total, new)


@dataclass(frozen=True)
class Fit:
    """What was found.

    Attributes:
      b: shape (K, M).
      shift: shape (M,): what is to be added.
      ridge: the one that was used, relative to the mean square of the columns of X.
    """

    b: np.ndarray
    shift: np.ndarray
    ridge: float


#: Of a matrix that is 0 all over.
_TINY = 1e-30

#: Relative ridges among which the data chooses.
LADDER = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


def ridge_fit(fitted: Sums, held_out: Sums, present: np.ndarray, ridge: float | None, shifts: bool) -> Fit:
    """Minimise ``|Y - X B - 1 c|^2 + ridge * s * |B - present|^2``, with s the mean of the diagonal of ``X^T X``.

    A large ridge leaves the present weights as they are; directions that the data says nothing about keep them in any
    case.

    Args:
      fitted: sums over the rows to fit to.
      held_out: over other rows, by which the ridge is chosen; both are used once it is.
      present: shape (K, M): the weights now.
      ridge: relative; None: whichever of `LADDER` has the smallest error on the rows held out.
      shifts: whether there is a c.
    """
    every = Sums(*(a + b for a, b in zip(fitted, held_out, strict=True)))
    reduced = [sums.centred() if shifts else sums for sums in (fitted, held_out, every)]
    if ridge is None:
        errors = [reduced[1].error(solve(reduced[0], present, one)).sum() for one in LADDER]
        ridge = LADDER[int(np.argmin(errors))] if held_out.number > 0 else 1e-3
    b = solve(reduced[2], present, ridge)
    number = max(float(every.number), 1.0)
    shift = (every.y - every.x @ b) / number if shifts else np.zeros(b.shape[1])
    return Fit(b, shift, ridge)


def solve(sums: Sums, present: np.ndarray, ridge: float) -> np.ndarray:
    """Shape (K, M)."""
    if np.isinf(ridge):
        return present
    scale = max(float(np.trace(sums.xx)) / max(len(sums.xx), 1), _TINY)
    system = sums.xx + ridge * scale * np.eye(len(sums.xx))
    return np.asarray(present + np.linalg.solve(system, sums.xy - sums.xx @ present))
