"""A matrix product or convolution of an activation and a variable, as ``Y[g] = X[g] @ B[g]`` for each of G groups.

X has a row per example and position and a column per entry that is summed over, for a convolution the patches; B is the
variable, its entries moved about. G is 1, except for grouped convolutions and products over a batch of weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import numpy as np

from naivenas_jax.paths import Path


@dataclass(frozen=True, eq=False)
class Contraction:
    """A variable is contracted with an activation.

    Attributes:
      path: the variable.
      activation: what it is contracted with.
      result: of the equation.
      rows: makes X, shape (G, N, K), from the activation.
      columns: makes Y, shape (G, N, M), from the result.
      matrix: makes B, shape (G, K, M), from the variable, or from any array of its shape.
      number: how often the variable has been contracted before, in this evaluation.
      step: of the evaluation.
    """

    path: Path
    activation: Any
    result: Any
    rows: Callable[[Any], Any]
    columns: Callable[[Any], Any]
    matrix: Callable[[Any], Any]
    number: int = 0
    step: int = 0

    @property
    def x(self) -> Any:
        """Shape (G, N, K)."""
        return self.rows(jax.numpy.asarray(self.activation, jax.numpy.float32))

    @property
    def y(self) -> Any:
        """Shape (G, N, M)."""
        return self.columns(jax.numpy.asarray(self.result, jax.numpy.float32))

    def entries(self, shape: Sequence[int]) -> np.ndarray:
        """Shape (G, K, M): for each entry of B its position in the flattened variable."""
        return np.asarray(self.matrix(np.arange(prod(shape)).reshape(shape)))


def contraction_of(
    eqn: Any, side: int, path: Path, forward: Callable[[Any], Any], activation: Any, result: Any
) -> Contraction | None:
    """The equation as a product, if it is one.

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
    if side != 1 or eqn.params["batch_group_count"] != 1:
        return None
    return _conv(eqn, path, forward, activation, result)


def _dot(eqn: Any, side: int, path: Path, forward: Any, activation: Any, result: Any) -> Contraction:
    contracted, batch = eqn.params["dimension_numbers"]
    mine, theirs, groups = contracted[side], contracted[1 - side], batch[1 - side]
    kernel, shape = eqn.invars[side].aval.shape, np.shape(activation)
    free = [d for d in range(len(kernel)) if d not in (*mine, *batch[side])]
    others = [d for d in range(len(shape)) if d not in (*theirs, *groups)]
    g, total, made = prod(shape[d] for d in groups), prod(shape[d] for d in theirs), prod(kernel[d] for d in free)
    number = prod(shape[d] for d in others)

    def columns(array: Any) -> Any:  # behind the groups, a result has what is left of the first operand first
        return array.reshape(g, number, made) if side == 1 else array.reshape(g, made, number).transpose(0, 2, 1)

    return Contraction(
        path,
        activation,
        result,
        rows=lambda array: array.transpose(*groups, *others, *theirs).reshape(g, number, total),
        columns=columns,
        matrix=lambda array: forward(array).transpose(*batch[side], *mine, *free).reshape(g, total, made),
    )


def _conv(eqn: Any, path: Path, forward: Any, activation: Any, result: Any) -> Contraction:
    params, numbers = eqn.params, eqn.params["dimension_numbers"]
    kernel, g = eqn.invars[1].aval.shape, eqn.params["feature_group_count"]
    out, into, *window = numbers.rhs_spec
    total, made = prod(kernel) // kernel[out], kernel[out] // g

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
            precision=jax.lax.Precision.HIGHEST,
        )
        return _last(patches, numbers.out_spec).reshape(-1, g, total).transpose(1, 0, 2)

    return Contraction(
        path,
        activation,
        result,
        rows=rows,
        columns=lambda array: _last(array, numbers.out_spec).reshape(-1, g, made).transpose(1, 0, 2),
        matrix=lambda array: forward(array).transpose(into, *window, out).reshape(total, g, made).transpose(1, 0, 2),
    )


def _last(array: Any, spec: Sequence[int]) -> Any:
    """With the features of a convolution on the last dimension."""
    batch, features, *window = spec
    return array.transpose(batch, *window, features)
