"""Convolutions for loops on a CPU, where XLA is fast at one layout only.

XLA:CPU has a fast convolution for images (batch, positions, channels) and kernels (positions, in, out). It brings
others into this layout, but not inside of loops, and the two convolutions that are the derivative of one have other
layouts: there they take up to 40 times as long. Here operands are transposed beforehand, so that all three have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from naivenas_jax.jaxpr.interpret import Equation, bind
from naivenas_jax.typing import Array

#: The dimensions of an array in another order: which one comes first, second, ...
_Order: TypeAlias = tuple[int, ...]


def convolve_in_loop(eqn: Equation, image: Array, kernel: Array, groups: int) -> Array:
    """What a ``conv_general_dilated`` computes, in a layout in which its derivatives are fast in a loop on a CPU too.

    Args:
      eqn: the equation.
      image: its first operand.
      kernel: its second operand.
      groups: its ``feature_group_count``.
    """
    if not all(jnp.issubdtype(jnp.result_type(x), jnp.inexact) for x in (image, kernel)):
        return bind(eqn, [image, kernel], feature_group_count=groups)[0]
    numbers = eqn.params["dimension_numbers"]
    made = _convolution(eqn, groups)(
        jnp.transpose(image, _channels_last(numbers.lhs_spec)),
        jnp.transpose(kernel, (*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0])),
    )
    return jnp.transpose(made, _inverse(_channels_last(numbers.out_spec)))


def _channels_last(spec: Sequence[int]) -> _Order:
    """Batch, positions, channels."""
    return (spec[0], *spec[2:], spec[1])


def _inverse(order: _Order) -> _Order:
    return tuple(order.index(d) for d in range(len(order)))


def _convolution(eqn: Equation, groups: int) -> jax.custom_jvp[Array]:
    """A function of an image (batch, positions, channels) and a kernel (positions, in, out)."""
    last = eqn.invars[0].aval.ndim - 1
    outer, leading = tuple(range(1, last)), tuple(range(last - 1))

    def convolved(image: Array, kernel: Array, *specs: _Order) -> Array:
        numbers = lax.ConvDimensionNumbers(*specs)
        return bind(eqn, [image, kernel], dimension_numbers=numbers, feature_group_count=groups)[0]

    # As in `lax.ConvDimensionNumbers`: where batch and channels (of a kernel: out and in) lie, and then the positions.
    plain = (0, last, *outer)

    @jax.custom_jvp
    def convolution(image: Array, kernel: Array) -> Array:
        return convolved(image, kernel, plain, (last, last - 1, *leading), plain)

    def along_image(moved: Array, kernel: Array) -> Array:
        return convolved(moved, jnp.swapaxes(kernel, last - 1, last), plain, (last - 1, last, *leading), plain)

    def along_kernel(image: Array, moved: Array) -> Array:
        turned, ends = (jnp.swapaxes(image, 0, last), jnp.moveaxis(moved, last - 1, 0)), (last, 0, *outer)
        return jnp.moveaxis(convolved(*turned, ends, ends, (last - 1, last, *leading)), last - 1, 0)

    def tangent(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
        """Tangents in layouts whose transposes, which are what a gradient computes, have the fast one."""
        (image, kernel), (moved_image, moved_kernel) = primals, tangents
        parts = []
        if not isinstance(moved_image, SymbolicZero):
            parts.append(along_image(moved_image, kernel))
        if not isinstance(moved_kernel, SymbolicZero):
            parts.append(along_kernel(image, moved_kernel))
        return convolution(image, kernel), sum(parts[1:], parts[0])  # JAX asks only if one of them moves

    convolution.defjvp(tangent, symbolic_zeros=True)
    return convolution
