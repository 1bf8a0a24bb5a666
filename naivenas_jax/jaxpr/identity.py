"""Whether a computation returns what it was given once some of its arguments are zero.

A layer with a residual branch, ``x + W2 f(W1 x)``, is the identity where ``W2`` is zero, whatever ``W1`` is. So it can
be added or taken out of a stack of layers without a change of what the stack computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from naivenas_jax.jaxpr.elementwise_primitives import PASSING
from naivenas_jax.jaxpr.interpret import Equation, called, interpret
from naivenas_jax.typing import Array

T = TypeVar("T")
#: What is known of a value: "zero", the number of the argument that it is equal to, or nothing.
_Known: TypeAlias = str | int | None
_ZERO = "zero"

#: Zero if one of the operands is; what they are multiplied with is taken to be finite.
_PRODUCTS = frozenset(["mul", "dot_general", "conv_general_dilated"])
#: Zero if all operands are.
_KEEP_ZERO = frozenset(
    [
        *["abs", "add", "add_any", "asin", "asinh", "atan", "atanh", "cbrt", "ceil", "concatenate", "copy", "cumsum"],
        *["erf", "expm1", "floor", "imag", "log1p", "max", "min", "neg", "pad", "real", "reduce_max", "reduce_min"],
        *["reduce_precision", "reduce_sum", "round", "sign", "sin", "sinh", "sqrt", "square", "stop_gradient", "sub"],
        *["tan", "tanh"],
    ]
)
#: Zero if the first operand is: the others say where or how it is moved, or divide it.
_MOVES = frozenset(
    [
        *["broadcast_in_dim", "convert_element_type", "div", "dynamic_slice", "expand_dims", "gather", "integer_pow"],
        *["reshape", "rev", "slice", "split", "squeeze", "transpose"],
    ]
)


def identity_zeros(body: ClosedJaxpr, carried: Sequence[int], stored: Sequence[int]) -> frozenset[int] | None:
    """The fewest arguments, of those that may be, that have to be zero for a computation to return what it carries.

    Args:
      body: the computation, whose first results are what it carries.
      carried: the numbers of the arguments that it carries.
      stored: the numbers of the arguments that may be zero.

    Returns:
      Numbers of arguments; those that are used last. None: it returns something else even if all of them are zero.

    >>> import jax, jax.numpy as jnp
    >>> body = jax.make_jaxpr(lambda x, w1, w2: x + jnp.tanh(x @ w1) @ w2)(*(jnp.ones((2, 2)) for _ in range(3)))
    >>> sorted(identity_zeros(body, [0], [1, 2])), identity_zeros(body, [0], [1])
    ([2], frozenset({1}))
    >>> identity_zeros(jax.make_jaxpr(lambda x, w: jnp.tanh(x * w))(1.0, 1.0), [0], [1]) is None
    True
    """
    zeros = list(_by_use(body, stored))
    if not _is_identity(body, carried, zeros):
        return None
    for number in list(zeros):
        without = [each for each in zeros if each != number]
        if _is_identity(body, carried, without):
            zeros = without
    return frozenset(zeros)


def _by_use(body: ClosedJaxpr, stored: Sequence[int]) -> list[int]:
    """Arguments in the order in which something other than a cast first depends on them."""
    reached: dict[int, int] = {}

    def equation(eqn: Equation, operands: list[frozenset[int]]) -> list[frozenset[int]]:
        every = frozenset[int]().union(*operands)
        if len(every) > 1:
            for number in every:
                reached.setdefault(number, len(reached))
        return [every] * len(eqn.outvars)

    arguments = [frozenset([i]) if i in stored else frozenset([-1]) for i in range(len(body.jaxpr.invars))]
    _inlined(body, arguments, equation, lambda value: frozenset[int]())
    return sorted(stored, key=lambda number: reached.get(number, len(reached)))


def _is_identity(body: ClosedJaxpr, carried: Sequence[int], zeros: Sequence[int]) -> bool:
    arguments: list[_Known] = [
        _ZERO if i in zeros else i if i in carried else None for i in range(len(body.jaxpr.invars))
    ]
    results = _inlined(body, arguments, _equation, _constant)
    return results[: len(carried)] == list(carried)


def _inlined(
    body: ClosedJaxpr,
    arguments: Sequence[T],
    equation: Callable[[Equation, list[T]], list[T]],
    constant: Callable[[Array], T],
) -> list[T]:
    """`interpret`, calls included."""

    def walk(eqn: Equation, operands: list[T]) -> list[T]:
        inner = called(eqn)
        return equation(eqn, operands) if inner is None else _inlined(inner, operands, equation, constant)

    return interpret(body, arguments, walk, lambda value, _: constant(value))


def _equation(eqn: Equation, operands: list[_Known]) -> list[_Known]:
    """What is known of the results of an equation."""
    name = eqn.primitive.name
    if name in PASSING and len(operands) == len(eqn.outvars):
        return operands
    return [_result(eqn, operands)] * len(eqn.outvars)


def _result(eqn: Equation, operands: list[_Known]) -> _Known:
    name, zero = eqn.primitive.name, [known == _ZERO for known in operands]
    made = eqn.outvars[0].aval
    same = [atom.aval.shape == made.shape and atom.aval.dtype == made.dtype for atom in eqn.invars]
    if name in _PRODUCTS and any(zero):
        return _ZERO
    if (name in _KEEP_ZERO and all(zero)) or (name == "select_n" and all(zero[1:])) or (name in _MOVES and zero[0]):
        return _ZERO
    if name in ("add", "add_any", "sub"):
        if zero[1] and same[0]:
            return operands[0]
        return operands[1] if zero[0] and same[1] and name != "sub" else None
    if name in ("reshape", "convert_element_type", "copy", "stop_gradient", "transpose") and same[0]:
        return operands[0] if name != "transpose" else None
    return None


def _constant(value: Array) -> _Known:
    """Whether a constant is zero."""
    keys = jnp.issubdtype(getattr(value, "dtype", np.float32), jax.dtypes.extended)
    if keys or isinstance(value, jax.core.Tracer):
        return None
    return _ZERO if np.size(value) <= 2**16 and not np.any(np.asarray(value)) else None
