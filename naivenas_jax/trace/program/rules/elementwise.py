"""Elementwise primitives: the i-th neuron of every operand is tied to the i-th of the result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from naivenas_jax.trace.program.analysis import Analysis, Frame, unknown
from naivenas_jax.trace.program.rules.mean import scaled
from naivenas_jax.trace.program.table import ties
from naivenas_jax.trace.program.value import Dim, Value, weight_of

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
    name = eqn.primitive.name
    if name in _MULTIPLYING:
        for value in values:
            analysis.multiplies(value)
    shapes = [atom.aval.shape for atom in eqn.invars]
    dims = tuple(
        _tied(analysis, [(v.dims[d], s[d]) for v, s in zip(values, shapes, strict=True) if s], size, name)
        for d, size in enumerate(eqn.outvars[0].aval.shape)
    )
    weight = all(value.weight for value in values)
    result = _weight(dims, values, shapes, eqn.outvars[0].aval.shape) if weight else Value(dims)
    return [scaled(frame, eqn, values, result)]


def _weight(dims: Sequence[Dim], values: Sequence[Value], shapes: Sequence[Any], shape: Sequence[int]) -> Value:
    """A weight comes from all the weights that it is computed from, where those are as long as it is."""
    arrays = [(value, old) for value, old in zip(values, shapes, strict=True) if old]
    origins = [frozenset().union(*(v.origin(d) for v, old in arrays if old[d] == n)) for d, n in enumerate(shape)]
    return weight_of(dims, origins, [value for value, _ in arrays])


def _tied(analysis: Analysis, operands: list[tuple[Dim, int]], size: int, name: str) -> Dim:
    for dim, n in operands:
        if n != size:
            analysis.fix_single(dim, name)
    full = [dim for dim, n in operands if n == size]
    if not full:
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
