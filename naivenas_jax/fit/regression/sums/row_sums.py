"""Sums over rows that come batch by batch: they wait until they are as many as columns, and are multiplied at once.

On a CPU the arrays of jax are read where they are, and multiplied by numpy: nothing is compiled, whatever the number of
rows. Elsewhere they are multiplied on the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from naivenas_jax.fit.regression.positive_definite import symmetric
from naivenas_jax.fit.regression.ridge import NormalEquations, not_finite
from naivenas_jax.fit.regression.use_sums import Rows
from naivenas_jax.typing import Array

#: From so many columns on only half of the products are computed, in so many strips: each is there twice.
HALVED, STRIPS = 512, 8


class RowSums:
    """Rows of X and Y, as they come, and the sums over them.

    Products are computed in float32, about the mean of the first rows: a mean that is far larger than the spread would
    leave nothing of the covariance. They are added up in float64.

    Attributes:
      waiting: rows that are in no sum yet.
    """

    def __init__(self) -> None:
        self.waiting: list[Rows] = []
        self._sums: _Sums | None = None

    def add(self, rows: Rows, where: str) -> None:
        """Take in the rows of a batch.

        Args:
          rows: the rows.
          where: the weight and the batch, for the error.

        Raises:
          VariablesError: if their squares are not finite.
        """
        rows = Rows(*(_in_place(part) for part in rows))
        if not all(_finite(part) for part in rows):
            raise not_finite(where)
        self.waiting.append(rows)
        if self.number > sum(part.shape[2] for part in rows):
            self._multiply()

    @property
    def number(self) -> int:
        """How many rows are waiting."""
        return sum(rows.x.shape[1] for rows in self.waiting)

    @property
    def kept(self) -> bool:
        """Whether all rows are still there."""
        return self._sums is None

    def equations(self) -> NormalEquations:
        """The normal equations over all rows."""
        if self.waiting:
            self._multiply()
        assert self._sums is not None  # there is at least one batch
        return self._sums.equations()

    def _multiply(self) -> None:
        """Add the rows that wait to the sums."""
        if self._sums is None:
            self._sums = _Sums.nothing(self.waiting)
        rows = _about(self._sums.about, self.waiting)
        self.waiting.clear()
        self._sums.add(rows)


class _Sums:
    """Sums over rows about m, in float64.

    Attributes:
      about: shape (G, 1, K + M): m.
      sums: shape (G, K + 1, K + M + 1): ``[X, 1]^T [X, Y, 1]``, less m. Of a wide X only the upper half of ``X^T X``.
      squares: shape (G, M): the squares of Y less its m, summed.
    """

    def __init__(self, about: Float[np.ndarray, "G 1 L"], inputs: int):
        groups, _, columns = about.shape
        self.about, self.inputs = about, inputs
        self.sums = np.zeros((groups, inputs + 1, columns + 1))
        self.squares = np.zeros((groups, columns - inputs))

    @classmethod
    def nothing(cls, rows: Sequence[Rows]) -> _Sums:
        """The sums over no rows, about the mean of these."""
        number = np.float32(max(sum(part.x.shape[1] for part in rows), 1))
        totals = [[np.asarray(array.sum(1, keepdims=True)) for array in part] for part in rows]
        means = [np.sum(arrays, 0) / number for arrays in zip(*totals, strict=True)]
        return cls(np.concatenate(means, -1), rows[0].x.shape[2])

    def add(self, u: Array) -> None:
        """Add the sums over some rows, less m."""
        inputs = self.inputs
        size = max(-(-inputs // (STRIPS if inputs >= HALVED else 1)), 1)
        for start in range(0, inputs, size):
            own = slice(start, min(start + size, inputs))
            self.sums[:, own, start:-1] += _product(u[:, :, own].transpose(0, 2, 1), u[:, :, start:])
        total = np.asarray(u.sum(1))
        self.sums[:, -1, :-1] += total
        self.sums[:, :-1, -1] += total[:, :inputs]
        self.sums[:, -1, -1] += u.shape[1]
        self.squares += np.asarray((u[:, :, inputs:] ** 2).sum(1))

    def equations(self) -> NormalEquations:
        """The sums about 0. They are written to: two copies of wide ones might not fit."""
        inputs, sums, about = self.inputs, self.sums, self.about[:, 0].astype(np.float64)
        if inputs >= HALVED:
            for one in sums[:, :inputs, :inputs]:
                symmetric(one)
        own = about[:, inputs:]
        self.squares += own * (2 * sums[:, -1, inputs:-1] + sums[:, -1:, -1] * own)
        sums[:, :-1] += about[:, :inputs, None] * sums[:, -1:]
        sums[:, :, :-1] += sums[:, :, -1:] * about[:, None]
        return NormalEquations(sums, self.squares)


def _in_place(array: Array) -> Array:
    """An array of numpy that shares the memory of one of jax on a CPU; any other as it is."""
    elsewhere = isinstance(array, jax.Array) and {device.platform for device in array.devices()} != {"cpu"}
    return array if elsewhere else np.asarray(array)


def _finite(array: Array) -> bool:
    """Whether the squares of all entries are finite, and with them all products of two columns."""
    with np.errstate(over="ignore", invalid="ignore"):
        module = np if isinstance(array, np.ndarray) else jnp
        return bool(np.isfinite(module.einsum("gnk,gnk->gk", array, array)).all())


def _about(about: Float[np.ndarray, "G 1 L"], rows: Sequence[Rows]) -> Array:
    """The rows ``[x, y]``, less m, as one array: of numpy written once, since they may fill the memory."""
    if not isinstance(rows[0].x, np.ndarray):
        return jnp.concatenate([jnp.concatenate(part, -1) for part in rows], 1) - about
    found = np.empty((len(about), sum(part.x.shape[1] for part in rows), about.shape[2]), about.dtype)
    start, inputs = 0, rows[0].x.shape[2]
    for x, y in rows:
        own = slice(start, start := start + x.shape[1])
        np.subtract(x, about[:, :, :inputs], out=found[:, own, :inputs])
        np.subtract(y, about[:, :, inputs:], out=found[:, own, inputs:])
    return found


def _product(left: Array, right: Array) -> Float[np.ndarray, "G a b"]:
    if isinstance(left, np.ndarray):
        return left @ right
    return np.asarray(jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST))
