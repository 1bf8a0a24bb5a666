"""A matrix product or convolution of an activation and a variable, as ``Y = X @ B``.

X has a row per example and position and a column per entry that is summed over, for a convolution the patches; B is the
variable, its entries moved about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from naivenas_jax.sizes.ties import Path

_HIGHEST = jax.lax.Precision.HIGHEST


@dataclass(frozen=True, eq=False)
class Contraction:
    """A variable is contracted with an activation.

    Attributes:
      path: the variable.
      activation: what it is contracted with.
      result: of the equation.
      rows: makes X, shape (N, K), from the activation.
      columns: makes Y, shape (N, M), from the result.
      matrix: makes B, shape (K, M), from the variable, or from any array of its shape.
      number: how often the variable has been contracted before, in this evaluation.
    """

    path: Path
    activation: Any
    result: Any
    rows: Callable[[Any], Any]
    columns: Callable[[Any], Any]
    matrix: Callable[[Any], Any]
    number: int = 0

    @property
    def x(self) -> Any:
        """Shape (N, K)."""
        return self.rows(jax.numpy.asarray(self.activation, jax.numpy.float32))

    @property
    def y(self) -> Any:
        """Shape (N, M)."""
        return self.columns(jax.numpy.asarray(self.result, jax.numpy.float32))

    def entries(self, shape: Sequence[int]) -> np.ndarray:
        """Shape (K, M): for each entry of B its position in the flattened variable."""
        return np.asarray(self.matrix(np.arange(int(np.prod(shape))).reshape(shape)))


def contraction_of(
    eqn: Any, side: int, path: Path, forward: Callable[[Any], Any], activation: Any, result: Any
) -> Contraction | None:
    """The equation as a product, if it is one; grouped convolutions and batches of weights are not.

    Args:
      eqn: of the jaxpr.
      side: which operand is the variable.
      path: of the variable.
      forward: takes an array of the variable's shape to the operand's.
      activation: the other operand.
      result: of the equation.
    """
    if eqn.primitive.name == "dot_general":
        return _dot(eqn, side, path, forward, activation, result)
    if side != 1 or eqn.params["feature_group_count"] != 1 or eqn.params["batch_group_count"] != 1:
        return None
    return _conv(eqn, path, forward, activation, result)


def _dot(eqn: Any, side: int, path: Path, forward: Any, activation: Any, result: Any) -> Contraction | None:
    contracted, (left_batch, _) = eqn.params["dimension_numbers"]
    if left_batch:
        return None
    mine, theirs = contracted[side], contracted[1 - side]
    free = [d for d in range(eqn.invars[side].aval.ndim) if d not in mine]
    others = [d for d in range(np.ndim(activation)) if d not in theirs]
    total = int(np.prod([np.shape(activation)[d] for d in theirs], dtype=int))
    made = int(np.prod([eqn.invars[side].aval.shape[d] for d in free], dtype=int))
    # the result has the free dimensions of the first operand before those of the second
    order = range(np.ndim(result)) if side == 1 else (*range(len(free), np.ndim(result)), *range(len(free)))
    return Contraction(
        path,
        activation,
        result,
        rows=lambda array: array.transpose(*others, *theirs).reshape(-1, total),
        columns=lambda array: array.transpose(*order).reshape(-1, made),
        matrix=lambda array: forward(array).transpose(*mine, *free).reshape(total, made),
    )


def _conv(eqn: Any, path: Path, forward: Any, activation: Any, result: Any) -> Contraction:
    params, numbers = eqn.params, eqn.params["dimension_numbers"]
    kernel = eqn.invars[1].aval.shape
    out, into, *window = numbers.rhs_spec
    total, made = int(np.prod(kernel)) // kernel[out], kernel[out]

    def rows(array: Any) -> Any:
        patches = jax.lax.conv_general_dilated_patches(
            array,
            [kernel[d] for d in window],
            params["window_strides"],
            params["padding"],
            lhs_dilation=params["lhs_dilation"],
            rhs_dilation=params["rhs_dilation"],
            dimension_numbers=jax.lax.ConvDimensionNumbers(
                numbers.lhs_spec, (len(kernel) - 1, len(kernel) - 2, *range(len(kernel) - 2)), numbers.out_spec
            ),
            precision=_HIGHEST,
        )
        return _last(patches, numbers.out_spec).reshape(-1, total)

    return Contraction(
        path,
        activation,
        result,
        rows=rows,
        columns=lambda array: _last(array, numbers.out_spec).reshape(-1, made),
        matrix=lambda array: forward(array).transpose(into, *window, out).reshape(total, made),
    )


def _last(array: Any, spec: Sequence[int]) -> Any:
    """With the features of a convolution on the last dimension."""
    batch, features, *window = spec
    return array.transpose(batch, *window, features)
