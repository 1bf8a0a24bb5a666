"""Elementwise primitives: the i-th neuron of every operand is tied to the i-th of the result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from naivenas_jax.trace.analysis import Analysis, Frame, unknown
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
    *["abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh", "bessel_i0e"],
    *["bessel_i1e", "cbrt", "ceil", "clamp", "clz", "complex", "conj", "convert_element_type", "copy", "copy_p"],
    *["cos", "cosh", "digamma", "div", "eq", "eq_to", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge"],
    *["gt", "igamma", "igamma_grad_a", "igammac", "imag", "integer_pow", "is_finite", "le", "le_to", "lgamma", "log"],
    *["log1p", "logistic", "lt", "lt_to", "max", "min", "mul", "mulhi", "ne", "neg", "nextafter", "not", "or"],
    *["polygamma", "population_count", "pow", "random_gamma_grad", "real", "reduce_precision"],
    *["regularized_incomplete_beta", "rem", "round", "rsqrt", "select_n", "shift_left", "shift_right_arithmetic"],
    *["shift_right_logical", "sign", "sin", "sinh", "sqrt", "square", "stop_gradient", "sub", "tan", "tanh", "xor"],
    *["zeta"],
)
def elementwise(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """Tie all operands dimension by dimension; scalars and single neurons are broadcast."""
    del frame
    name = eqn.primitive.name
    if name in _MULTIPLYING:
        for value in values:
            analysis.multiplies(value)
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


@ties("bitcast_convert_type")
def bitcast(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """Elementwise between types of the same width."""
    if eqn.invars[0].aval.shape == eqn.outvars[0].aval.shape:
        return list(elementwise(analysis, frame, eqn, values))
    return unknown(analysis, frame, eqn, values)


@binds("div", "mul")
def mean(sizes: Sizes, frame: Frame, eqn: Any, arrays: Sequence[Any]) -> list[Any]:
    """The ``sum / n`` of a mean: n follows the number of neurons that were summed."""
    arrays, name = list(arrays), eqn.primitive.name
    values = [frame.read(atom) for atom in eqn.invars]
    for i, (one, other) in enumerate(zip(values, values[::-1], strict=True)):
        if one.summed and one.summed[0] and other.known and (name == "mul" or i == 0) and _single(eqn.invars[1 - i]):
            count = _scaled(sizes, one.summed, float(np.ravel(other.known.array)[0]), name)
            if count is not None:
                arrays[1 - i] = np.full(np.shape(arrays[1 - i]), count, eqn.invars[1 - i].aval.dtype)
    return bind(eqn, arrays)


def _single(atom: Any) -> bool:
    return math.prod(atom.aval.shape) == 1 and np.issubdtype(atom.aval.dtype, np.number)


def _scaled(sizes: Sizes, summed: tuple, literal: float, name: str) -> float | None:
    """The divisor (or factor) for the number of neurons of today; ``n - 1`` is that of an unbiased variance."""
    vectors, rest = summed
    old, new = rest * math.prod(map(len, vectors)), rest * math.prod(map(sizes.length, vectors))
    for less in (0, 1):
        if name == "div" and literal == old - less:
            return float(new - less)
        if name == "mul" and old > less and math.isclose(literal, 1 / (old - less), rel_tol=1e-6):
            return 1 / (new - less) if new > less else math.inf
    return None
