"""Means: a number that a sum is divided by follows the number of neurons.

A traced function has ``6.0`` where the model said ``x.shape[-1]``, and nothing tells this six from a constant of the
model. It is taken for the number of neurons where a sum of exactly six terms is divided by it, before or after summing,
or where the root of the sum is divided by its root; also where the inverse is a factor. All other numbers are taken for
constants. The axis is coupled by the sum in any case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.jaxpr.interpret import Atom, Equation
from naivenas_jax.sizes.vector import Vector
from naivenas_jax.trace.program.frame import Frame
from naivenas_jax.trace.program.value import Share, Sum, Value

#: Shifting by a number and casting leave a sum recognisable as one.
_KEEPING = ("add", "sub", "max", "neg", "convert_element_type", "copy", "copy_p", "stop_gradient", "reduce_precision")
_POWERS = {"sqrt": 0.5, "rsqrt": -0.5, "square": 2.0}


class TermCount(NamedTuple):
    """A number in a traced function that stands for the number of terms of a sum: ``(terms - less) ** exponent``.

    Attributes:
      operand: the operand of its equation that the number is.
      summed: the sum.
      exponent: -1 where a factor makes a mean.
      less: 1 for an unbiased variance.
    """

    operand: int
    summed: Sum
    exponent: float
    less: int = 0

    def number(self, length: Callable[[Vector], int | jax.Array]) -> float | jax.Array:
        """The number, for given numbers of neurons, which may be traced."""
        count = self.summed.count(length) - self.less
        if isinstance(count, jax.Array):
            return jnp.power(count.astype(float), self.exponent)  # of no terms infinite where it is a divisor's inverse
        return float(count) ** self.exponent if count > 0 or self.exponent > 0 else math.inf


def scaled(frame: Frame, eqn: Equation, values: Sequence[Value], result: Value) -> Value:
    """The result of an elementwise equation, as the sum or share that it still is; notes a number that counts terms."""
    name = eqn.primitive.name
    arrays = [v for v, atom in zip(values, eqn.invars, strict=True) if math.prod(atom.aval.shape) > 1 or v.summed]
    if name in _KEEPING:
        return replace(result, summed=arrays[0].summed, share=arrays[0].share) if len(arrays) == 1 else result
    if name in ("mul", "div"):
        return _product(frame, eqn, values, result)
    if (summed := values[0].summed) and (name in _POWERS or name == "integer_pow"):
        factor = eqn.params["y"] if name == "integer_pow" else _POWERS[name]
        return replace(result, summed=replace(summed, power=summed.power * factor))
    return result


def _product(frame: Frame, eqn: Equation, values: Sequence[Value], result: Value) -> Value:
    for i in (0, 1) if eqn.primitive.name == "mul" else (1,):
        one, number = values[1 - i], _number(eqn.invars[i], values[i], one_summed=values[1 - i].summed is not None)
        if number is None:
            continue
        sign = 1 if eqn.primitive.name == "mul" else -1
        if one.summed is None:
            share = None if number == 0 else Share(frame.notes, eqn, number**sign)
            return replace(result, share=share)
        count = _count(i, one.summed, number, sign)
        if count is None:
            return replace(result, summed=one.summed)
        frame.notes[eqn] = count
        return result
    sums = [value.summed for value in values]
    if sums[0] and not sums[1]:
        return replace(result, summed=sums[0])
    if sums[1] and not sums[0]:
        sign = 1 if eqn.primitive.name == "mul" else -1
        return replace(result, summed=replace(sums[1], power=sign * sums[1].power))
    shares = [value.share for value in values if value.share]
    return replace(result, share=shares[0]) if len(shares) == 1 and eqn.primitive.name == "mul" else result


def _number(atom: Atom, value: Value, *, one_summed: bool) -> float | None:
    """The number that an operand is, if it is a single one. It is computed only if a sum is scaled by it."""
    if math.prod(atom.aval.shape) != 1 or not np.issubdtype(atom.aval.dtype, np.number) or value.known is None:
        return None
    if value.known.sources and not one_summed:
        return None
    array = np.ravel(value.known.array)[0]
    return None if np.iscomplexobj(array) else float(array)


def _count(operand: int, summed: Sum, number: float, sign: int) -> TermCount | None:
    """The number as a count of terms, if it is one to the power that makes a mean of the sum."""
    exponent = -sign * summed.power
    for less in (0, 1) if summed.power == 1 else (0,):
        count = summed.count() - less
        if summed.over and count > 0 and math.isclose(number, float(count) ** exponent, rel_tol=1e-6):
            return TermCount(operand, summed, exponent, less)
    return None


def shared(value: Value, summed: Sum) -> bool:
    """Whether an array that is summed has been divided by the number of terms before; if so, notes that number."""
    share = value.share
    if (
        share is None
        or not summed.over
        or summed.count() == 1
        or not math.isclose(share.factor, 1 / summed.count(), rel_tol=1e-6)
    ):
        return False
    share.notes[share.eqn] = summed
    return True
