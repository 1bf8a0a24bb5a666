"""Elementwise primitives: the i-th neuron of every operand is tied to the i-th of the result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jax.extend import core as jex

from naivenas_jax.trace.analysis import Analysis, Frame
from naivenas_jax.trace.rebind import Sizes, bind
from naivenas_jax.trace.table import binds, ties
from naivenas_jax.trace.value import Dim, Value

#: Shifting or scaling by a constant, and casting, leave a variable recognisable as itself.
_TRANSPARENT = (
    "add",
    "sub",
    "convert_element_type",
    "copy",
    "copy_p",
    "stop_gradient",
    "reduce_precision",
    "max",
    "neg",
)
_MULTIPLYING = ("mul", "div", "rsqrt", "sqrt", "pow", "log", "integer_pow")


@ties(
    *["abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh", "bessel_i0e", "bessel_i1e", "cbrt", "ceil", "clamp", "copy", "copy_p"],
    *["convert_element_type", "cos", "cosh", "digamma", "div", "eq", "eq_to", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "igamma", "imag"],
    *["integer_pow", "is_finite", "le", "lgamma", "log", "log1p", "logistic", "lt", "lt_to", "max", "min", "mul", "ne", "neg", "nextafter", "not", "optimization_barrier"],
    *["or", "polygamma", "population_count", "pow", "real", "reduce_precision", "rem", "round", "rsqrt", "select_n", "shift_left", "sign", "sin", "sinh"],
    *["shift_right_arithmetic", "shift_right_logical", "sqrt", "square", "stop_gradient", "sub", "tan", "tanh", "xor", "clz", "conj", "complex"],
)
def elementwise(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """Tie all operands dimension by dimension; scalars and single neurons are broadcast."""
    del frame
    name = eqn.primitive.name
    if name in _MULTIPLYING:
        for value in values:
            analysis.multiplies(value)
    if name == "optimization_barrier":
        return list(values)
    shapes = [atom.aval.shape for atom in eqn.invars]
    dims = tuple(
        _tied(analysis, [(v.dims[d], s[d]) for v, s in zip(values, shapes, strict=True) if s], size, name)
        for d, size in enumerate(eqn.outvars[0].aval.shape)
    )
    result = Value(dims, weight=all(value.weight for value in values))
    arrays = [v for v, s in zip(values, shapes, strict=True) if math.prod(s) > 1]
    if len(arrays) == 1 and name in _TRANSPARENT:
        return [replace(result, leaf=arrays[0].leaf, leaf_dims=arrays[0].leaf_dims, summed=arrays[0].summed)]
    if name in ("convert_element_type", "reshape") and len(values) == 1:
        return [replace(result, summed=values[0].summed)]
    return [result]


def _tied(analysis: Analysis, operands: list[tuple[Dim, int]], size: int, name: str) -> Dim:
    full = [dim for dim, n in operands if n == size]
    if size == 1 or not full:
        return None
    tied = full[0]
    for dim in full[1:]:
        tied = analysis.tie(tied, dim, f"{name} ties it to an axis of fixed size")
    return tied


@binds("div", "mul")
def mean(sizes: Sizes, frame: Frame, eqn: Any, arrays: Sequence[Any]) -> list[Any]:
    """The ``sum / n`` of a mean: n follows the number of neurons that were summed."""
    scale = None
    for i, (value, atom) in enumerate((frame.read(atom), atom) for atom in eqn.invars):
        other = eqn.invars[1 - i]
        if value.summed and isinstance(other, jex.Literal) and np.ndim(other.val) == 0:
            scale = (1 - i, _scaled(sizes, value.summed, float(other.val), eqn.primitive.name))
        del atom
    if scale is None or scale[1] is None:
        return bind(eqn, arrays)
    arrays = list(arrays)
    arrays[scale[0]] = np.asarray(scale[1], np.asarray(arrays[scale[0]]).dtype)
    return bind(eqn, arrays)


def _scaled(sizes: Sizes, summed: tuple, literal: float, name: str) -> float | None:
    vectors, rest = summed
    old, new = rest * math.prod(map(len, vectors)), rest * math.prod(map(sizes.length, vectors))
    if name == "div" and literal == old:
        return float(new)
    if name == "mul" and math.isclose(literal, 1 / old, rel_tol=1e-6):
        return 1 / new
    return None
