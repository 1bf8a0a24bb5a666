"""Least squares from sums: normal equations added up over batches, and solved with a ridge.

Everything has a first dimension of G problems that are solved side by side, with one ridge for all. N counts rows, K
the columns of X, M the columns of Y, and L all columns that are summed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from naivenas_jax.checks import as_number, shown
from naivenas_jax.errors import RequestError, VariablesError
from naivenas_jax.typing import Array, PyTree

#: Stands in for the mean of a diagonal that is 0 all over.
_TINY = 1e-30

#: Relative to the trace, how far off the eigenvalues of a sum in float64 are at the most when means are taken off.
_ROUNDING = 1e-14


class Gram(NamedTuple):
    """Sums over rows z of Z, taken about some m near their mean: in float32 nothing cancels.

    Attributes:
      about: shape (G, L): m.
      sums: shape (G, L + 1, L + 1): ``U^T U``, with U the rows ``[z - m, 1]``.
    """

    about: Float[Array, "G L"]
    sums: Float[Array, "G L+1 L+1"]

    @property
    def whole(self) -> Float[np.ndarray, "G L L"]:
        """The sums over the rows ``[z, 1]``, in float64.

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


def gram(*parts: Float[Array, "G N _"]) -> Gram:
    """The sums over rows of Z, which is these parts side by side."""
    z = jnp.concatenate(parts, -1)
    about = z.sum(1) / max(z.shape[1], 1)
    u = jnp.concatenate([z - about[:, None], jnp.ones((*z.shape[:2], 1), z.dtype)], -1)
    return Gram(about, jnp.matmul(u.transpose(0, 2, 1), u, precision=jax.lax.Precision.HIGHEST))


def added(total: PyTree, new: PyTree) -> PyTree:
    """Two trees of sums added up, in float64; None in place of the first: only the second."""
    new = jax.tree.map(_whole, new, is_leaf=lambda one: isinstance(one, Gram))
    return new if total is None else jax.tree.map(np.add, total, new)


def _whole(one: Gram | Array | float) -> np.ndarray:
    return one.whole if isinstance(one, Gram) else np.asarray(one, np.float64)


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """Sums over the rows x of X and y of Y.

    Attributes:
      gram: the sums over the rows ``[x, y, 1]``: L is K + M + 1.
      inputs: K.
      floor: how far off ``X^T X`` may be.
    """

    gram: Float[np.ndarray, "G L L"]
    inputs: int
    floor: Float[np.ndarray, " G"] | float = 0.0

    def __sub__(self, some: NormalEquations) -> NormalEquations:
        """The sums over all rows but some."""
        return NormalEquations(self.gram - some.gram, self.inputs)

    @property
    def number(self) -> float:
        """The number of rows."""
        return float(self.gram[0, -1, -1])

    @property
    def x(self) -> Float[np.ndarray, "G K"]:
        """The sum of the rows of X."""
        return self.gram[:, : self.inputs, -1]

    @property
    def y(self) -> Float[np.ndarray, "G M"]:
        """The sum of the rows of Y."""
        return self.gram[:, self.inputs : -1, -1]

    @property
    def xx(self) -> Float[np.ndarray, "G K K"]:
        """``X^T X``."""
        return self.gram[:, : self.inputs, : self.inputs]

    @property
    def xy(self) -> Float[np.ndarray, "G K M"]:
        """``X^T Y``."""
        return self.gram[:, : self.inputs, self.inputs : -1]

    def centred(self) -> NormalEquations:
        """The sums with the means of X and Y taken off."""
        last = self.gram[:, -1]
        floor = _ROUNDING * np.trace(self.xx, axis1=1, axis2=2)
        return NormalEquations(
            self.gram - last[:, :, None] * last[:, None, :] / max(self.number, 1.0), self.inputs, floor
        )

    def weight(self, ridge: float) -> Float[np.ndarray, " G"]:
        """A relative ridge times the mean of the diagonal of ``X^T X``, above the floor."""
        mean = np.trace(self.xx, axis1=1, axis2=2) / max(self.inputs, 1)
        return np.asarray(ridge * np.maximum(mean, _TINY) + self.floor)

    def system(self, ridge: float) -> Float[np.ndarray, "G K K"]:
        """``X^T X``, with the ridge."""
        return self.xx + self.weight(ridge)[:, None, None] * np.eye(self.inputs)

    def error(self, b: Float[np.ndarray, "G K M"]) -> float:
        """The sum of squares of ``y - x @ b``."""
        squares = np.diagonal(self.gram, axis1=1, axis2=2)[:, self.inputs : -1].sum()
        return float(squares - 2 * (b * self.xy).sum() + (b * (self.xx @ b)).sum())


@dataclass(frozen=True)
class Fit:
    """The solution of G least squares problems.

    Attributes:
      b: the matrices B.
      shift: the rows c, to be added to each row of ``X B``.
      ridge: the ridge that was used, relative to the mean square of the columns of X.
    """

    b: Float[np.ndarray, "G K M"]
    shift: Float[np.ndarray, "G M"]
    ridge: float


#: Relative ridges among which the data chooses; with the last, weights stay as they are. Layer after layer each fit
#: would follow the noise of too few examples a little further.
LADDER = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, np.inf)


def require_ridge(ridge: object) -> float | None:
    """``ridge`` as a number, or None: the data chooses.

    Raises:
      RequestError: if it is no number of at least 0.
    """
    number = None if ridge is None else as_number(ridge)
    if ridge is not None and (number is None or not number >= 0):  # not NaN either
        raise RequestError(f"ridge must be a number of at least 0, or None to choose one; found {shown(ridge)}.")
    return None if number is None else float(number)


def ridge_fit(
    every: NormalEquations,
    held_out: NormalEquations,
    present: Float[np.ndarray, "G K M"],
    ridge: float | None,
    shifts: bool,
) -> Fit:
    """Minimise ``|Y - X B - 1 c|^2 + ridge * s * |B - present|^2``, with s the mean of the diagonal of ``X^T X``.

    A large ridge leaves the present weights as they are; directions that the data says nothing about keep them in any
    case.

    Args:
      every: sums over all rows.
      held_out: sums over some of them, by which the ridge is chosen when fitted to the others.
      present: the weights now.
      ridge: relative to s; None: whichever of `LADDER` has the smallest error on the rows held out.
      shifts: whether there is a c.
    """
    reduced = [sums.centred() if shifts else sums for sums in (every - held_out, held_out, every)]
    if ridge is None:
        errors = [reduced[1].error(ridge_solution(reduced[0], present, one)) for one in LADDER]
        ridge = LADDER[int(np.argmin(errors))] if held_out.number > 0 else 1e-3
    b = ridge_solution(reduced[2], present, ridge)
    rows = max(every.number, 1.0)
    shift = (every.y - np.einsum("gk,gkm->gm", every.x, b)) / rows if shifts else np.zeros_like(every.y)
    return Fit(b, shift, ridge)


def ridge_solution(
    sums: NormalEquations, present: Float[np.ndarray, "G K M"], ridge: float
) -> Float[np.ndarray, "G K M"]:
    """The matrices B, for one ridge."""
    if np.isinf(ridge):
        return present
    return np.asarray(present + np.linalg.solve(sums.system(ridge), sums.xy - sums.xx @ present))
