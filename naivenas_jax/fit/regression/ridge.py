"""Least squares from sums: normal equations added up over batches, and solved with a ridge.

Everything has a first dimension of G problems that are solved side by side, with one ridge for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.errors import RequestError, VariablesError

#: Of a matrix that is 0 all over.
_TINY = 1e-30

#: Relative to the trace, how far off the eigenvalues of a sum in float64 are at the most when means are taken off.
_ROUNDING = 1e-14


class Gram(NamedTuple):
    """Sums over rows z of Z, taken about some m near their mean: in float32 nothing cancels.

    Attributes:
      about: shape (G, L): m.
      sums: shape (G, L + 1, L + 1): ``U^T U``, with U the rows ``[z - m, 1]``.
    """

    about: Any
    sums: Any

    @property
    def whole(self) -> np.ndarray:
        """The same of the rows ``[z, 1]``, in float64.

        Raises:
          VariablesError: if they are not finite.
        """
        about, sums = (np.asarray(array, np.float64) for array in self)
        if not (np.isfinite(about).all() and np.isfinite(sums).all()):
            raise VariablesError(
                "What a weight reads or has to make, or a gradient, is not finite on these batches: an activation "
                "overflows, or variables are not finite."
            )
        moved = np.broadcast_to(np.eye(sums.shape[-1]), sums.shape).copy()
        moved[:, -1, :-1] = about
        return np.asarray(moved.transpose(0, 2, 1) @ sums @ moved)


def gram(*parts: Any) -> Gram:
    """Of the parts of Z side by side, each of shape (G, N, ...)."""
    z = jnp.concatenate(parts, -1)
    about = z.sum(1) / max(z.shape[1], 1)
    u = jnp.concatenate([z - about[:, None], jnp.ones((*z.shape[:2], 1), z.dtype)], -1)
    return Gram(about, jnp.matmul(u.transpose(0, 2, 1), u, precision=jax.lax.Precision.HIGHEST))


def added(total: Any, new: Any) -> Any:
    """Two trees of sums as one, in float64."""
    new = jax.tree.map(_whole, new, is_leaf=lambda one: isinstance(one, Gram))
    return new if total is None else jax.tree.map(np.add, total, new)


def _whole(one: Any) -> np.ndarray:
    return one.whole if isinstance(one, Gram) else np.asarray(one, np.float64)


@dataclass(frozen=True, eq=False)
class Sums:
    """Over rows x of X and y of Y.

    Attributes:
      gram: shape (G, K + M + 1, K + M + 1), of X, Y and a column of ones.
      inputs: K.
      floor: shape (G,): how far off ``X^T X`` may be.
    """

    gram: np.ndarray
    inputs: int
    floor: Any = 0.0

    def __sub__(self, some: Sums) -> Sums:
        """Over the other rows."""
        return Sums(self.gram - some.gram, self.inputs)

    @property
    def number(self) -> float:
        """Of rows."""
        return float(self.gram[0, -1, -1])

    @property
    def x(self) -> np.ndarray:
        """Shape (G, K): the sum of the rows of X."""
        return self.gram[:, : self.inputs, -1]

    @property
    def y(self) -> np.ndarray:
        """Shape (G, M): the sum of the rows of Y."""
        return self.gram[:, self.inputs : -1, -1]

    @property
    def xx(self) -> np.ndarray:
        """Shape (G, K, K)."""
        return self.gram[:, : self.inputs, : self.inputs]

    @property
    def xy(self) -> np.ndarray:
        """Shape (G, K, M)."""
        return self.gram[:, : self.inputs, self.inputs : -1]

    def centred(self) -> Sums:
        """With the means taken off."""
        last = self.gram[:, -1]
        floor = _ROUNDING * np.trace(self.xx, axis1=1, axis2=2)
        return Sums(self.gram - last[:, :, None] * last[:, None, :] / max(self.number, 1.0), self.inputs, floor)

    def weight(self, ridge: float) -> np.ndarray:
        """Shape (G,): a relative ridge times the mean of the diagonal of ``X^T X``, above the floor."""
        return ridge * np.maximum(np.trace(self.xx, axis1=1, axis2=2) / max(self.inputs, 1), _TINY) + self.floor

    def system(self, ridge: float) -> np.ndarray:
        """Shape (G, K, K): ``X^T X``, with the ridge."""
        return self.xx + self.weight(ridge)[:, None, None] * np.eye(self.inputs)

    def error(self, b: np.ndarray) -> float:
        """The sum of squares of ``y - x @ b``."""
        squares = np.diagonal(self.gram, axis1=1, axis2=2)[:, self.inputs : -1].sum()
        return float(squares - 2 * (b * self.xy).sum() + (b * (self.xx @ b)).sum())


@dataclass(frozen=True)
class Fit:
    """What was found.

    Attributes:
      b: shape (G, K, M).
      shift: shape (G, M): what is to be added.
      ridge: the one that was used, relative to the mean square of the columns of X.
    """

    b: np.ndarray
    shift: np.ndarray
    ridge: float


#: Relative ridges among which the data chooses; with the last, weights stay as they are. Layer after layer each fit
#: would follow the noise of too few examples a little further.
LADDER = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, np.inf)


def ridge_fit(every: Sums, held_out: Sums, present: np.ndarray, ridge: float | None, shifts: bool) -> Fit:
    """Minimise ``|Y - X B - 1 c|^2 + ridge * s * |B - present|^2``, with s the mean of the diagonal of ``X^T X``.

    A large ridge leaves the present weights as they are; directions that the data says nothing about keep them in any
    case.

    Args:
      every: sums over all rows.
      held_out: over some of them, by which the ridge is chosen when fitted to the others.
      present: shape (G, K, M): the weights now.
      ridge: relative; None: whichever of `LADDER` has the smallest error on the rows held out.
      shifts: whether there is a c.
    """
    number = isinstance(ridge, int | float | np.number) and not isinstance(ridge, bool)
    if ridge is not None and not (number and ridge >= 0):
        raise RequestError(f"ridge must be a number of at least 0, or None to choose one; found {ridge!r:.80}.")
    reduced = [sums.centred() if shifts else sums for sums in (every - held_out, held_out, every)]
    if ridge is None:
        errors = [reduced[1].error(solve(reduced[0], present, one)) for one in LADDER]
        ridge = LADDER[int(np.argmin(errors))] if held_out.number > 0 else 1e-3
    b = solve(reduced[2], present, ridge)
    rows = max(every.number, 1.0)
    shift = (every.y - np.einsum("gk,gkm->gm", every.x, b)) / rows if shifts else np.zeros_like(every.y)
    return Fit(b, shift, ridge)


def solve(sums: Sums, present: np.ndarray, ridge: float) -> np.ndarray:
    """Shape (G, K, M)."""
    if np.isinf(ridge):
        return present
    return np.asarray(present + np.linalg.solve(sums.system(ridge), sums.xy - sums.xx @ present))
