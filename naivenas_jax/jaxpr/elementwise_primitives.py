"""Which primitives are elementwise, and which do nothing to the values that they are given."""

from __future__ import annotations

#: Each entry of the result is computed from the entries of the operands at its place, or from a scalar.
ELEMENTWISE = frozenset(
    (
        *["abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh", "bessel_i0e"],
        *["bessel_i1e", "cbrt", "ceil", "clamp", "clz", "complex", "conj", "convert_element_type", "copy", "copy_p"],
        *["cos", "cosh", "digamma", "div", "eq", "eq_to", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor"],
        *["ge", "gt", "igamma", "igamma_grad_a", "igammac", "imag", "integer_pow", "is_finite", "le", "le_to"],
        *["lgamma", "log", "log1p", "logistic", "lt", "lt_to", "max", "min", "mul", "mulhi", "ne", "neg"],
        *["nextafter", "not", "or", "polygamma", "population_count", "pow", "random_gamma_grad", "real"],
        *["reduce_precision", "regularized_incomplete_beta", "rem", "round", "rsqrt", "select_n", "shift_left"],
        *["shift_right_arithmetic", "shift_right_logical", "sign", "sin", "sinh", "sqrt", "square", "stop_gradient"],
        *["sub", "tan", "tanh", "xor", "zeta"],
    )
)

#: Each result is the operand of the same number: what is said is where it lies, how it is stored, or what it is called.
PASSING = frozenset(
    (
        *["device_put", "sharding_constraint", "layout_constraint", "reshard", "pvary", "optimization_barrier", "name"],
        *["with_memory_space_constraint"],
    )
)
