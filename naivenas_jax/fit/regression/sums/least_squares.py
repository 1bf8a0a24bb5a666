"""The least squares problem that rows make, in all columns or, of fewer rows than columns, in the span of the rows.

A ridge moves a weight only within the span of the rows of X. With Q (K, N) an orthonormal basis of it, the fit of
``B0 + Q D`` by D to ``X Q`` is that of B to X, and N numbers take the place of K in every sum and system.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from naivenas_jax.fit.regression.generalised_linear_fit import Missed
from naivenas_jax.fit.regression.ridge import NormalEquations
from naivenas_jax.fit.regression.sums.row_sums import RowSums

#: Rows are few if there are so many columns for each.
COLUMNS_PER_ROW = 2


@dataclass(frozen=True, eq=False)
class Problem:
    """A least squares problem.

    Attributes:
      fitted: sums over the rows that are fitted to.
      held_out: sums over the others.
      start: the weights now.
      present: the weights now in all columns.
      basis: the matrix Q; None: the problem is one in all columns.
    """

    fitted: NormalEquations
    held_out: NormalEquations
    start: Float[np.ndarray, "G k M"]
    present: Float[np.ndarray, "G K M"]
    basis: Float[np.ndarray, "G K k"] | None = None

    @classmethod
    def of(cls, fitted: RowSums, held_out: RowSums, present: Float[np.ndarray, "G K M"]) -> Problem:
        """The problem that rows make.

        Args:
          fitted: the rows that are fitted to.
          held_out: the others.
          present: the weights now.
        """
        both, inputs = (fitted, held_out), present.shape[1]
        kept = all(one.kept for one in both)
        if kept and 0 < COLUMNS_PER_ROW * sum(one.number for one in both) <= inputs:
            return cls._of_few_rows(fitted, held_out, present)
        return cls(fitted.equations(), held_out.equations(), present, present)

    @classmethod
    def _of_few_rows(cls, fitted: RowSums, held_out: RowSums, present: Float[np.ndarray, "G K M"]) -> Problem:
        x, y = (
            np.concatenate(
                [np.asarray(rows[part], np.float64) for own in (fitted, held_out) for rows in own.waiting], 1
            )
            for part in range(2)
        )
        basis, triangle = np.linalg.qr(x.transpose(0, 2, 1))
        z, rest, first = triangle.transpose(0, 2, 1), y - x @ present, fitted.number
        start = np.zeros((len(z), z.shape[2], y.shape[2]))
        own, others = (_sums(z[:, some], rest[:, some], x.shape[2]) for some in (slice(first), slice(first, None)))
        return cls(own, others, start, present, basis)

    def weights(self, b: Float[np.ndarray, "G k M"]) -> Float[np.ndarray, "G K M"]:
        """The weights in all columns."""
        return b if self.basis is None else self.present + self.basis @ b

    def missed(self, found: Missed) -> Missed:
        """What is missed, in the columns of the problem."""
        return found if self.basis is None else found._replace(read=self.basis.transpose(0, 2, 1) @ found.read)


def _sums(x: Float[np.ndarray, "G N k"], y: Float[np.ndarray, "G N M"], width: int) -> NormalEquations:
    ones = np.ones((*x.shape[:2], 1))
    left = np.concatenate([x, ones], -1).transpose(0, 2, 1)
    found = NormalEquations(left @ np.concatenate([x, y, ones], -1), (y**2).sum(1))
    return replace(found, width=width)
