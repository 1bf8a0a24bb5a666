"""A matrix product or convolution of an activation and a variable, as ``Y[g] = X[g] @ B[g]`` for each of G groups.

X has a row per example and position and a column per entry that is summed over, for a convolution the patches; B is the
variable, its entries moved about. G is 1, except for grouped convolutions and products over a batch of weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped

from naivenas_jax.dataflow.rearranged import Rearranged
from naivenas_jax.jaxpr.interpret import Equation
from naivenas_jax.paths import Path
from naivenas_jax.typing import Array

#: Takes an array to one with a first dimension of groups: X, Y or B.
Grouping = Callable[[Array], Shaped[Array, "G _ _"]]


@dataclass(frozen=True, eq=False)
class Contraction:
    """One contraction of a variable with an activation.

    Attributes:
      path: the variable.
      activation: the array that it is contracted with.
      result: the array that the equation returns.
      rows: makes X, shape (G, N, K), from the activation.
      columns: makes Y, shape (G, N, M), from the result.
      matrix: makes B, shape (G, K, M), from the variable, or from any array of its shape.
      number: how often the variable has been contracted before, in this evaluation.
      step: the step of the evaluation that contracts them.
    """

    path: Path
    activation: Array
    result: Array
    rows: Grouping
    columns: Grouping
    matrix: Grouping
    number: int = 0
    step: int = 0

    @property
    def x(self) -> Float[Array, "G N K"]:
        """The matrices X, in float32."""
        return self.rows(jnp.asarray(self.activation, jnp.float32))

    @property
    def y(self) -> Float[Array, "G N M"]:
        """The matrices Y, in float32."""
        return self.columns(jnp.asarray(self.result, jnp.float32))

    def entries(self, shape: Sequence[int]) -> Int[np.ndarray, "G K M"]:
        """For each entry of B its position in the flattened variable, which has this shape."""
        return np.asarray(self.matrix(np.arange(prod(shape)).reshape(shape)))


def contraction_of(
    eqn: Equation, side: int, variable: Rearranged, activation: Array, result: Array
) -> Contraction | None:
    """An equation as a product of matrices; None where it is none.

    Args:
      eqn: a ``dot_general`` or a ``conv_general_dilated``.
      side: which of its two operands is the variable.
      variable: how the operand is made of the variable.
      activation: the other operand.
      result: the result of the equation.
    """
    if eqn.primitive.name == "dot_general":
        return _dot(eqn, side, variable, activation, result)
    if side != 1 or eqn.params["batch_group_count"] != 1:
        return None
    return _conv(eqn, variable, activation, result)


def _dot(eqn: Equation, side: int, variable: Rearranged, activation: Array, result: Array) -> Contraction:
    contracted, batch = eqn.params["dimension_numbers"]
    mine, theirs, groups = contracted[side], contracted[1 - side], batch[1 - side]
    kernel, shape = eqn.invars[side].aval.shape, np.shape(activation)
    free = [d for d in range(len(kernel)) if d not in (*mine, *batch[side])]
    others = [d for d in range(len(shape)) if d not in (*theirs, *groups)]
    g, total, made = prod(shape[d] for d in groups), prod(shape[d] for d in theirs), prod(kernel[d] for d in free)
    number = prod(shape[d] for d in others)

    def columns(array: Array) -> Array:  # behind the groups, a result has what is left of the first operand first
        return array.reshape(g, number, made) if side == 1 else array.reshape(g, made, number).transpose(0, 2, 1)

    return Contraction(
        variable.path,
        activation,
        result,
        rows=lambda array: array.transpose(*groups, *others, *theirs).reshape(g, number, total),
        columns=columns,
        matrix=lambda array: variable.forward(array).transpose(*batch[side], *mine, *free).reshape(g, total, made),
    )


def _conv(eqn: Equation, variable: Rearranged, activation: Array, result: Array) -> Contraction:
    params, numbers = eqn.params, eqn.params["dimension_numbers"]
    kernel, g = eqn.invars[1].aval.shape, params["feature_group_count"]
    out, into, *window = numbers.rhs_spec
    total, made = prod(kernel) // kernel[out], kernel[out] // g

    def rows(array: Array) -> Array:
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
        return _features_last(patches, numbers.out_spec).reshape(-1, g, total).transpose(1, 0, 2)

    def matrix(array: Array) -> Array:
        moved = variable.forward(array).transpose(into, *window, out)
        return moved.reshape(total, g, made).transpose(1, 0, 2)

    return Contraction(
        variable.path,
        activation,
        result,
        rows=rows,
        columns=lambda array: _features_last(array, numbers.out_spec).reshape(-1, g, made).transpose(1, 0, 2),
        matrix=matrix,
    )


def _features_last(array: Array, spec: Sequence[int]) -> Array:
    """The result of a convolution with its features on the last dimension."""
    batch, features, *window = spec
    return array.transpose(batch, *window, features)
