"""Neurons that do not count: where others are computed from them, they are as if they were not there.

Each neuron of an array is computed by itself, also those that do not count, until something mixes neurons: a reduction
or a contraction. There the entries of those that do not count are set to what changes nothing: 0 in a sum, minus
infinity in a maximum. So they need not be zero anywhere else, and no gradient reaches them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from naivenas_jax.jaxpr.interpret import Equation
from naivenas_jax.trace.program.frame import Frame
from naivenas_jax.trace.program.rebind import NewSizes, silences
from naivenas_jax.trace.program.value import Value
from naivenas_jax.typing import Array


def silent(sizes: NewSizes, value: Value, array: Array, dims: Iterable[int], neutral: ArrayLike) -> Array:
    """An array in which the entries of neurons that do not count are ``neutral``, along some dimensions."""
    for d in dims:
        mask = sizes.mask(value.dims[d])
        if mask is not None:
            along = mask.reshape([-1 if i == d else 1 for i in range(len(value.dims))])
            array = jnp.where(along, array, jnp.asarray(neutral, jnp.result_type(array)))
    return array


def _lowest(dtype: np.dtype) -> ArrayLike:
    """What is no greater than anything else of a type."""
    if jnp.issubdtype(dtype, jnp.bool_):
        return False
    return -math.inf if jnp.issubdtype(dtype, jnp.inexact) else int(np.iinfo(dtype).min)


def _highest(dtype: np.dtype) -> ArrayLike:
    """What is no less than anything else of a type."""
    if jnp.issubdtype(dtype, jnp.bool_):
        return True
    return math.inf if jnp.issubdtype(dtype, jnp.inexact) else int(np.iinfo(dtype).max)


def _all_bits(dtype: np.dtype) -> ArrayLike:
    return True if jnp.issubdtype(dtype, jnp.bool_) else ~np.zeros((), dtype)


#: For each reduction what changes nothing when it is among the entries that are reduced.
_NEUTRAL: Mapping[str, Callable[[np.dtype], ArrayLike]] = {
    "reduce_sum": lambda dtype: 0,
    "reduce_prod": lambda dtype: 1,
    "reduce_max": _lowest,
    "reduce_min": _highest,
    "reduce_and": _all_bits,
    "reduce_or": lambda dtype: 0,
    "reduce_xor": lambda dtype: 0,
}


@silences(*_NEUTRAL)
def silence_reduce(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """Entries that change nothing in what is reduced."""
    neutral = _NEUTRAL[eqn.primitive.name](eqn.invars[0].aval.dtype)
    return [silent(sizes, frame.read(eqn.invars[0]), arrays[0], eqn.params["axes"], neutral)]


#: Of what is chosen along neurons, what is chosen last.
_CHOSEN_LAST: Mapping[str, Callable[[np.dtype], ArrayLike]] = {"argmax": _lowest, "argmin": _highest, "top_k": _lowest}


@silences(*_CHOSEN_LAST)
def silence_choice(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """Entries that are chosen after all others."""
    neutral = _CHOSEN_LAST[eqn.primitive.name](eqn.invars[0].aval.dtype)
    value = frame.read(eqn.invars[0])
    axes = eqn.params["axes"] if "axes" in eqn.params else [eqn.params.get("axis", len(value.dims) - 1)]
    return [silent(sizes, value, arrays[0], axes, neutral)]


@silences("dot_general")
def silence_dot(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """Zeros in the activations that are contracted; where both are activations, or weights, in both."""
    values = [frame.read(atom) for atom in eqn.invars]
    over, _ = eqn.params["dimension_numbers"]
    both = values[0].weight == values[1].weight
    return [
        silent(sizes, value, array, dims, 0) if both or not value.weight else array
        for value, array, dims in zip(values, arrays, over, strict=True)
    ]


@silences("conv_general_dilated")
def silence_conv(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """Zeros in the channels of the image."""
    channels = eqn.params["dimension_numbers"].lhs_spec[1]
    return [silent(sizes, frame.read(eqn.invars[0]), arrays[0], [channels], 0), arrays[1]]
