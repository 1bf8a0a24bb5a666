"""Means: the number of neurons that a sum is divided by follows them.

A traced function has ``6.0`` where the model said ``x.shape[-1]``, and nothing tells it from a six that was meant as
one. It is taken for the number of neurons where a sum over exactly so many terms is divided by it, before or after
summing, or where the root of such a sum is divided by its root (also times the inverse). Other numbers stay as they
are; the axis is coupled by the sum in any case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from naivenas_jax.trace.program.analysis import Frame
from naivenas_jax.trace.program.rebind import Sizes, bind
from naivenas_jax.trace.program.table import binds
from naivenas_jax.trace.program.value import Share, Sum, Value

#: Shifting by a number and casting leave a sum recognisable as one.
_KEEPING = ("add", "sub", "max", "neg", "convert_element_type", "copy", "copy_p", "stop_gradient", "reduce_precision")
_POWERS = {"sqrt": 0.5, "rsqrt": -0.5, "square": 2.0}


class Count(NamedTuple):
    """A number in the program that stands for how many neurons there are.

    Attributes:
      operand: which operand it is.
      summed: the sum over them.
      exponent: the number is ``count ** exponent``.
      less: what is subtracted from the count; 1 for an unbiased variance.
    """

    operand: int
    summed: Sum
    exponent: float
    less: int = 0

    def number(self, sizes: Sizes) -> float:
        """What the number is for the sizes of today."""
        count = self.summed.count(sizes.length) - self.less
        return float(count) ** self.exponent if count > 0 or self.exponent > 0 else math.inf


def scaled(frame: Frame, eqn: Any, values: Sequence[Value], result: Value) -> Value:
    """What an elementwise result still is of a sum; notes where a number follows the neurons."""
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


def _product(frame: Frame, eqn: Any, values: Sequence[Value], result: Value) -> Value:
    for i in (0, 1) if eqn.primitive.name == "mul" else (1,):
        one, number = values[1 - i], _number(eqn.invars[i], values[i], one_summed=values[1 - i].summed is not None)
        if number is None:
            continue
        sign = 1 if eqn.primitive.name == "mul" else -1
        if one.summed is None:
            share = None if number == 0 else Share(frame.rules, frame.position, number**sign)
            return replace(result, share=share)
        count = _count(i, one.summed, number, sign)
        if count is None:
            return replace(result, summed=one.summed)
        frame.rules[frame.position] = count
        return result
    sums = [value.summed for value in values]
    if sums[0] and not sums[1]:
        return replace(result, summed=sums[0])
    if sums[1] and not sums[0]:
        sign = 1 if eqn.primitive.name == "mul" else -1
        return replace(result, summed=replace(sums[1], power=sign * sums[1].power))
    shares = [value.share for value in values if value.share]
    return replace(result, share=shares[0]) if len(shares) == 1 and eqn.primitive.name == "mul" else result


def _number(atom: Any, value: Value, *, one_summed: bool) -> float | None:
    """The number that an operand is, if it is one; what has to be computed for that only if a sum is scaled by it."""
    if math.prod(atom.aval.shape) != 1 or not np.issubdtype(atom.aval.dtype, np.number) or value.known is None:
        return None
    if value.known.sources and not one_summed:
        return None
    array = np.ravel(value.known.array)[0]
    return None if np.iscomplexobj(array) else float(array)


def _count(operand: int, summed: Sum, number: float, sign: int) -> Count | None:
    """Whether a number is that of the terms, to the power that makes a mean of the sum."""
    exponent = -sign * summed.power
    for less in (0, 1) if summed.power == 1 else (0,):
        count = summed.count() - less
        if summed.over and count > 1 - less and math.isclose(number, float(count) ** exponent, rel_tol=1e-6):
            return Count(operand, summed, exponent, less)
    return None


def shared(value: Value, summed: Sum) -> bool:
    """Whether what is summed has been divided by the number of terms already, which follows from now on."""
    share = value.share
    if share is None or not summed.over or not math.isclose(share.factor, 1 / summed.count(), rel_tol=1e-6):
        return False
    share.rules[share.position] = summed
    return True


@binds("div", "mul")
def bind_scaled(sizes: Sizes, frame: Frame, eqn: Any, arrays: Sequence[Any]) -> list[Any]:
    """Numbers that stand for how many neurons there are, as they are today."""
    found, arrays = frame.rules.get(frame.position), list(arrays)
    if isinstance(found, Sum):
        operand = 1 if eqn.primitive.name == "div" or math.prod(eqn.invars[1].aval.shape) == 1 else 0
        found = Count(operand, found, 1.0 if eqn.primitive.name == "div" else -1.0)
    if isinstance(found, Count):
        atom = eqn.invars[found.operand]
        arrays[found.operand] = np.full(np.shape(arrays[found.operand]), found.number(sizes), atom.aval.dtype)
    return bind(eqn, arrays)
