"""The best product of fewer neurons: a product, written in its principal axes.

With A the rows of one factor, B those of the other and R neurons between them, every entry of A B^T is a row of A times
a row of B. Taken over all pairs of rows, the product of r < R neurons that is nearest to it is its singular value
decomposition, cut off after r:

    A B^T = A T (B T^-T)^T,    T = S_A^(-1/2) U D^(1/2),    S_A^(1/2) S_B^(1/2) = U D V^T,

S_A and S_B the sums A^T A and B^T B. Each neuron of A T, and of B T^-T, is orthogonal to all others, and what the
product loses without neuron i is D_i^2. So sums of R x R numbers are all that is needed.

Source: Eckart and Young, The approximation of one matrix by another of lower rank, Psychometrika 1936; of a product of
two matrices by the decomposition of their factors, Golub and Van Loan, Matrix Computations.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

#: Relative to the largest, what an eigenvalue of a sum in float32 may be off by. Below, it says nothing.
_ROUNDING = 1e-7


class Axes(NamedTuple):
    """Matrices that the two factors of a product are multiplied by, so that it stays the same.

    Attributes:
      left: T; its columns in order, those that the product needs most first.
      right: the inverse of T, transposed.
    """

    left: Float[np.ndarray, "R R"]
    right: Float[np.ndarray, "R R"]


def principal_axes(left: Float[np.ndarray, "R R"], right: Float[np.ndarray, "R R"]) -> Axes:
    """The principal axes of A B^T.

    Args:
      left: S_A.
      right: S_B.

    >>> axes = principal_axes(np.diag([1.0, 9.0]), np.diag([1.0, 4.0]))
    >>> np.abs(axes.left @ axes.right.T).round(6).tolist(), np.abs(axes.left).argmax(0).tolist()
    ([[1.0, 0.0], [0.0, 1.0]], [1, 0])
    """
    (root_left, back_left), (root_right, back_right) = _roots(left), _roots(right)
    u, d, v = np.linalg.svd(root_left @ root_right)
    scale = np.sqrt(d)
    return Axes(back_left @ u * scale, back_right @ v.T * scale)


def _roots(sums: Float[np.ndarray, "R R"]) -> tuple[Float[np.ndarray, "R R"], Float[np.ndarray, "R R"]]:
    """The root of a sum and the inverse of the root. What neurons do not do at all is taken for very little."""
    values, vectors = np.linalg.eigh(sums)
    largest = values[-1] if values[-1] > 0 else 1.0
    roots = np.sqrt(np.maximum(values, _ROUNDING * largest))
    return vectors * roots @ vectors.T, vectors / roots @ vectors.T
