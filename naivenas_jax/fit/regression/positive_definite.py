"""Systems of positive definite matrices, by Cholesky factors: a third of what general systems cost.

Matrices that rounding has made indefinite are solved as general ones.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

#: Below this size a stack of matrices is better solved in one call.
_SMALL = 128


class Factored:
    """A stack of positive definite matrices, to be solved with one right side after the other.

    Args:
      matrices: they are written to: two copies of a large one may not fit.
    """

    def __init__(self, matrices: Float[np.ndarray, "G K K"]):
        self._wide = matrices.shape[-1] >= _SMALL
        self._parts = [_factor(matrix) for matrix in matrices] if self._wide else [(matrices, False)]

    def solved(self, right: Float[np.ndarray, "G K M"]) -> Float[np.ndarray, "G K M"]:
        """``matrices^-1 @ right``."""
        if not self._wide:
            return np.asarray(np.linalg.solve(self._parts[0][0], right))
        return np.stack([_solved(*part, own) for part, own in zip(self._parts, right, strict=True)])


def solved(matrices: Float[np.ndarray, "G K K"], right: Float[np.ndarray, "G K M"]) -> Float[np.ndarray, "G K M"]:
    """``matrices^-1 @ right``. The matrices are written to."""
    return Factored(matrices).solved(right)


def inverses(matrices: Float[np.ndarray, "G K K"]) -> Float[np.ndarray, "G K K"]:
    """The inverses of matrices, which are written to."""
    if matrices.shape[-1] < _SMALL:
        return np.asarray(np.linalg.inv(matrices))
    return np.stack([_inverse(matrix) for matrix in matrices])


def _factor(matrix: Float[np.ndarray, "K K"]) -> tuple[Float[np.ndarray, "K K"], bool]:
    """A matrix with its Cholesky factor in the upper half, and True; as it is, and False, if it has none."""
    return matrix, _factored(matrix)


def _solved(
    matrix: Float[np.ndarray, "K K"], factored: bool, right: Float[np.ndarray, "K M"]
) -> Float[np.ndarray, "K M"]:
    from scipy.linalg.lapack import dpotrs  # here: needed for wide weights alone

    if not factored:
        return np.asarray(np.linalg.solve(matrix, right))
    found, _ = dpotrs(matrix.T, right, lower=True)
    return np.asarray(found)


def _inverse(matrix: Float[np.ndarray, "K K"]) -> Float[np.ndarray, "K K"]:
    from scipy.linalg.lapack import dpotri  # here, as above

    if not _factored(matrix):
        return np.asarray(np.linalg.inv(matrix))
    found, _ = dpotri(matrix.T, lower=True, overwrite_c=True)
    return symmetric(found.T)


def _factored(matrix: Float[np.ndarray, "K K"]) -> bool:
    """Put the Cholesky factor into the upper half of a matrix, if it has one; else leave it as it is."""
    from scipy.linalg.lapack import dpotrf  # here, as above

    diagonal = matrix.diagonal().copy()
    _, info = dpotrf(matrix.T, lower=True, clean=False, overwrite_a=True)  # lapack reads the transpose in place
    if info:
        np.fill_diagonal(symmetric(matrix.T), diagonal)
    return bool(info == 0)


def symmetric(matrix: Float[np.ndarray, "K K"]) -> Float[np.ndarray, "K K"]:
    """Put the upper half of a matrix into its lower half, some rows at a time."""
    for start in range(0, len(matrix), _SMALL):
        own = slice(start, start + _SMALL)
        matrix[own, :start] = matrix[:start, own].T
        matrix[own, own] = np.triu(matrix[own, own]) + np.triu(matrix[own, own], 1).T
    return matrix
