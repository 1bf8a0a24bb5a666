"""Least squares from sums: normal equations added up over batches, and solved with a ridge.

Everything has a first dimension of G problems that are solved side by side, with one ridge for all. N counts rows, K
the columns of X, M the columns of Y, and L all columns that are summed over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from naivenas_jax.checks import as_number, shown
from naivenas_jax.errors import RequestError, VariablesError
from naivenas_jax.fit.regression.positive_definite import Factored, symmetric
from naivenas_jax.typing import Array, PyTree

#: Stands in for the mean of a diagonal that is 0 all over.
_TINY = 1e-30

#: Relative to the trace, how far off the eigenvalues of a sum in float64 are at the most when means are taken off.
_ROUNDING = 1e-14


#: From so many columns on only half of the products are computed: each is there twice. Of fewer, compiling the strips
#: takes longer than the other half.
_HALVED = 2048
#: In so many strips.
_STRIPS = 4


#: Rows of a matrix that are changed at once: a second copy might not fit.
_AT_ONCE = 256


class Gram(NamedTuple):
    """Sums over rows x of X and y of Y, taken about some m near the mean of ``[x, y]``: in float32 nothing cancels.

    The products of Y with itself are not there, of which a fit needs the squares alone.

    Attributes:
      about: shape (G, K + M): m; 0 once sums are in float64.
      sums: shape (G, K + 1, K + M + 1): ``[X, 1]^T [X, Y, 1]``, less m. Of a wide X only the upper half of ``X^T X``.
      squares: shape (G, M): the squares of Y less its m, summed.
    """

    about: Float[Array, "G L"]
    sums: Float[Array, "G R L+1"]
    squares: Float[Array, "G M"]

    @classmethod
    def nothing(cls, groups: int, inputs: int, outputs: int) -> Gram:
        """The sums over no rows."""
        shapes = (inputs + outputs,), (inputs + 1, inputs + outputs + 1), (outputs,)
        return cls(*(np.zeros((groups, *shape), np.float32) for shape in shapes))

    def whole(self, of: str) -> Gram:
        """The sums about 0, in float64.

        Args:
          of: the weight and the batch, for the error.

        Raises:
          VariablesError: if they are not finite.
        """
        if not self.finite:
            raise not_finite(of)
        about, sums, squares = (np.array(array, np.float64) for array in self)
        inputs = sums.shape[1] - 1
        if inputs >= _HALVED:
            for one in sums[:, :inputs, :inputs]:
                symmetric(one)
        own, last = about[:, inputs:], sums[:, -1, inputs:-1]
        squares += own * (2 * last + sums[:, -1:, -1] * own)
        sums[:, :-1] += about[:, :inputs, None] * sums[:, -1:]
        sums[:, :, :-1] += sums[:, :, -1:] * about[:, None]
        return Gram(np.zeros_like(about), sums, squares)

    @property
    def finite(self) -> bool:
        """Whether all rows so far were: where one is not, a sum of its column and of its squares is not."""
        sums = np.asarray(self.sums)
        looked_at = np.diagonal(sums, axis1=1, axis2=2), sums[:, -1], np.asarray(self.about), np.asarray(self.squares)
        return all(bool(np.isfinite(own).all()) for own in looked_at)


def not_finite(of: str) -> VariablesError:
    """The error that sums of what a weight reads and makes are not finite.

    Args:
      of: the weight and the batch.
    """
    return VariablesError(
        f"What {of} reads, or has to make, is not finite: an activation overflows, or variables are not finite."
    )


def gram(x: Float[Array, "G N K"], y: Float[Array, "G N M"] | None = None, so_far: Gram | None = None) -> Gram:
    """The sums over the rows of X, and of Y.

    Args:
      x: X.
      y: Y; None: it has no columns.
      so_far: sums that these are added to, about the same m.
    """
    z, inputs = x if y is None else jnp.concatenate([x, y], -1), x.shape[-1]
    about = z.sum(1) / max(z.shape[1], 1)
    if so_far is not None:
        about = jnp.where(so_far.sums[:, -1:, -1] > 0, so_far.about, about)
    u = jnp.concatenate([z - about[:, None], jnp.ones((*z.shape[:2], 1), z.dtype)], -1)
    found = Gram(about, _products(u, inputs), (u[:, :, inputs:-1] ** 2).sum(1))
    return found if so_far is None else Gram(about, found.sums + so_far.sums, found.squares + so_far.squares)


def _products(u: Float[Array, "G N C"], inputs: int) -> Float[Array, "G R C"]:
    """``[X, 1]^T U`` with U the rows ``[x, y, 1]``; of a wide X the upper half of ``X^T X``, and zeros below it."""
    left = jnp.concatenate([u[:, :, :inputs], u[:, :, -1:]], -1).transpose(0, 2, 1)
    size, strips = inputs + 1 if inputs < _HALVED else -(-(inputs + 1) // _STRIPS), []
    for start in range(0, inputs + 1, size):
        own, first = left[:, start : start + size], start if start + size <= inputs else 0
        strip = jnp.matmul(own, u[:, :, first:], precision=jax.lax.Precision.HIGHEST)
        strips.append(jnp.pad(strip, ((0, 0), (0, 0), (first, 0))))
    return jnp.concatenate(strips, 1)


def added(total: PyTree, new: PyTree, of: str) -> PyTree:
    """Two trees of sums added up, in float64; None in place of the first: only the second.

    The arrays of the first are written to, since sums of a wide weight fill the memory: they are results of this.

    Args:
      total: the sums so far.
      new: sums to be added.
      of: what they are sums of, for the error.

    Raises:
      VariablesError: if the new ones are not finite.
    """
    leaves, structure = jax.tree.flatten(new, is_leaf=lambda one: isinstance(one, Gram))
    whole = [one.whole(of) if isinstance(one, Gram) else np.array(one, np.float64) for one in leaves]
    if total is None:
        return jax.tree.unflatten(structure, whole)
    for own, one in zip(jax.tree.leaves(total), jax.tree.leaves(whole), strict=True):
        own += one
    return total


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """Sums over the rows x of X and y of Y.

    Attributes:
      sums: ``[X, 1]^T [X, Y, 1]``: L is K + M.
      squares: the sums of the squares of the columns of Y.
      floor: how far off ``X^T X`` may be.
      means: the means of X and Y, which are taken off wherever sums are read: a second copy might not fit. None:
        nothing is taken off.
      width: so many columns share the trace of ``X^T X``, whose mean a ridge is relative to; None: K.
    """

    sums: Float[np.ndarray, "G R C"]
    squares: Float[np.ndarray, "G M"]
    floor: Float[np.ndarray, " G"] | float = 0.0
    means: Float[np.ndarray, "G L"] | None = None
    width: int | None = None

    @classmethod
    def of(cls, gram: Gram) -> NormalEquations:
        """The equations that sums in float64 make."""
        return cls(np.asarray(gram.sums), np.asarray(gram.squares))

    @property
    def inputs(self) -> int:
        """K."""
        return int(self.sums.shape[1]) - 1

    @property
    def number(self) -> float:
        """The number of rows."""
        return float(self.sums[0, -1, -1])

    @property
    def x(self) -> Float[np.ndarray, "G K"]:
        """The sum of the rows of X."""
        return self.sums[:, :-1, -1]

    @property
    def y(self) -> Float[np.ndarray, "G M"]:
        """The sum of the rows of Y."""
        return self.sums[:, -1, self.inputs : -1]

    @property
    def xy(self) -> Float[np.ndarray, "G K M"]:
        """``X^T Y``."""
        found = self.sums[:, :-1, self.inputs : -1]
        return found if self.means is None else found - self.x[:, :, None] * self.means[:, None, self.inputs :]

    def times(self, b: Float[np.ndarray, "G K M"]) -> Float[np.ndarray, "G K M"]:
        """``X^T X B``."""
        found = np.asarray(self._xx @ b)
        if self.means is not None:
            found -= self.x[:, :, None] * (self.means[:, None, : self.inputs] @ b)
        return found

    @property
    def _xx(self) -> Float[np.ndarray, "G K K"]:
        """``X^T X``, with nothing taken off."""
        return self.sums[:, :-1, : self.inputs]

    def and_those(self, others: NormalEquations) -> NormalEquations:
        """The sums over the rows of both; these here are written to."""
        return replace(self, sums=np.add(self.sums, others.sums, out=self.sums), squares=self.squares + others.squares)

    def centred(self) -> NormalEquations:
        """The sums with the means of X and Y taken off."""
        rows = max(self.number, 1.0)
        floor = _ROUNDING * np.trace(self._xx, axis1=1, axis2=2)
        means = self.sums[:, -1, :-1] / rows
        return replace(self, squares=self.squares - self.y**2 / rows, floor=floor, means=means)

    def reduced(self, shifts: bool) -> NormalEquations:
        """What B is fitted to: centred sums where shifts take up the means."""
        return self.centred() if shifts else self

    def weight(self, ridge: float) -> Float[np.ndarray, " G"]:
        """A relative ridge times the mean of the diagonal of ``X^T X``, above the floor."""
        trace = np.trace(self._xx, axis1=1, axis2=2)
        if self.means is not None:
            trace = trace - (self.x * self.means[:, : self.inputs]).sum(1)
        return np.asarray(ridge * np.maximum(trace / max(self.width or self.inputs, 1), _TINY) + self.floor)

    def system(self, ridge: float) -> Float[np.ndarray, "G K K"]:
        """``X^T X``, with the ridge."""
        system = self._xx.copy()
        if self.means is not None:
            for own, x, mean in zip(system, self.x, self.means[:, : self.inputs], strict=True):
                for start in range(0, len(own), _AT_ONCE):
                    rows = slice(start, start + _AT_ONCE)
                    own[rows] -= x[rows, None] * mean
        system.reshape(len(system), -1)[:, :: self.inputs + 1] += self.weight(ridge)[:, None]
        return system

    def error(self, b: Float[np.ndarray, "G K M"]) -> float:
        """The sum of squares of ``y - x @ b``."""
        return float(self.squares.sum() - 2 * (b * self.xy).sum() + (b * self.times(b)).sum())


@dataclass(frozen=True)
class Fit:
    """The solution of G least squares problems.

    Attributes:
      b: the matrices B.
      shift: the rows c, to be added to each row of ``X B``.
      ridge: the ridge that was used, relative to the mean square of the columns of X.
      system: the system that was solved, factored; None: there was none, or it is not known.
    """

    b: Float[np.ndarray, "G K M"]
    shift: Float[np.ndarray, "G M"]
    ridge: float
    system: Factored | None = None


def require_ridge(ridge: object) -> float | None:
    """``ridge`` as a number, or None: the data chooses.

    Raises:
      RequestError: if it is no number of at least 0.
    """
    number = None if ridge is None else as_number(ridge)
    if ridge is not None and (number is None or not number >= 0):  # not NaN either
        raise RequestError(f"ridge must be a number of at least 0, or None to choose one; found {shown(ridge)}.")
    return None if number is None else float(number)


def ridge_fit(sums: NormalEquations, present: Float[np.ndarray, "G K M"], ridge: float, shifts: bool) -> Fit:
    """Minimise ``|Y - X B - 1 c|^2 + ridge * s * |B - present|^2``, with s the mean of the diagonal of ``X^T X``.

    A large ridge leaves the present weights as they are; directions that the data says nothing about keep them in any
    case.

    Args:
      sums: sums over all rows.
      present: the weights now.
      ridge: relative to s.
      shifts: whether there is a c.
    """
    reduced, system, b = sums.reduced(shifts), None, present
    if not np.isinf(ridge):
        system = Factored(reduced.system(ridge))
        b = np.asarray(present + system.solved(reduced.xy - reduced.times(present)))
    rows = max(sums.number, 1.0)
    shift = (sums.y - np.einsum("gk,gkm->gm", sums.x, b)) / rows if shifts else np.zeros_like(sums.y)
    return Fit(b, shift, ridge, system)
