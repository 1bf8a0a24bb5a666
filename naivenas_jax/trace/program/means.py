"""Means: a number that a sum is divided by follows the number of neurons.

A traced function has ``6.0`` where the model said ``x.shape[-1]``, and nothing tells this six from a constant of the
model. It is taken for the number of neurons where a sum of exactly six terms is divided by it, before or after summing,
or where the root of the sum is divided by its root; also where the inverse is a factor. All other numbers are taken for
constants. The axis is coupled by the sum in any case.

Of sums of sums, as where positions are summed first and neurons later, a number may count the terms of the last one, or
of several that follow one another; the latest that it fits are taken, and the next number counts those of the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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
#: Of so many sums an array may be the product.
_MOST = 8
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
    """The result of an elementwise equation, as the sums or share that it is; notes a number that counts terms."""
    name = eqn.primitive.name
    arrays = [v for v, atom in zip(values, eqn.invars, strict=True) if math.prod(atom.aval.shape) > 1 or v.sums]
    if name in _KEEPING:
        if len(arrays) == 1:
            return replace(result, sums=arrays[0].sums, share=arrays[0].share)
        return replace(result, sums=tuple(each for v in arrays[:1] for each in v.sums if _in_all(each, arrays)))
    if name in ("mul", "div"):
        return _product(frame, eqn, values, result)
    if name in _POWERS or name == "integer_pow":
        factor = eqn.params["y"] if name == "integer_pow" else _POWERS[name]
        return replace(result, sums=_to_power(values[0].sums, factor))
    return result


def _in_all(summed: Sum, arrays: Sequence[Value]) -> bool:
    return all(summed in each.sums for each in arrays)


def _to_power(sums: Sequence[Sum], factor: float) -> tuple[Sum, ...]:
    return tuple(replace(each, power=factor * each.power) for each in sums)


def _product(frame: Frame, eqn: Equation, values: Sequence[Value], result: Value) -> Value:
    for i in (0, 1) if eqn.primitive.name == "mul" else (1,):
        one, number = values[1 - i], _number(eqn.invars[i], values[i], one_summed=bool(values[1 - i].sums))
        if number is None:
            continue
        sign = 1 if eqn.primitive.name == "mul" else -1
        for counted, others in _latest_first(one.sums):
            count = _count(i, counted, number, sign)
            if count is not None:
                if counted.over:
                    frame.notes[eqn] = count
                return replace(result, sums=others, share=one.share)
        share = None if number == 0 else Share(frame.notes, eqn, number**sign)
        return replace(result, sums=one.sums, share=share)
    return _product_of_arrays(eqn, values, result)


def _product_of_arrays(eqn: Equation, values: Sequence[Value], result: Value) -> Value:
    """A product or quotient of arrays: the sums that one is, which are means where the other brings their numbers."""
    left, right = values
    times, shares = eqn.primitive.name == "mul", [value.share for value in values if value.share]
    share = shares[0] if len(shares) == 1 and times else None
    sums = (*left.sums, *(right.sums if times else _to_power(right.sums, -1)))[-_MOST:]
    rest = _unshared(share, sums)
    return replace(result, sums=rest, share=share if rest == sums else None)


def _latest_first(sums: tuple[Sum, ...]) -> Iterator[tuple[Sum, tuple[Sum, ...]]]:
    """What a number may count the terms of: one sum or several in a row to one power; and the others.

    Then for each sum over neurons and fixed dimensions at once its neurons alone.
    """
    for end in range(len(sums), 0, -1):
        for start in range(end - 1, -1, -1):
            run = sums[start:end]
            if len({each.power for each in run}) == 1:
                over, rest = tuple(dim for each in run for dim in each.over), math.prod(each.rest for each in run)
                yield Sum(over, rest, run[0].power), (*sums[:start], *sums[end:])
    for i, each in reversed(list(enumerate(sums))):
        if each.over and each.rest > 1:
            yield replace(each, rest=1), (*sums[:i], replace(each, over=()), *sums[i + 1 :])


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
    for less in (0, 1) if summed.power == 1 and summed.over else (0,):
        count = summed.count() - less
        if count > 0 and math.isclose(number, float(count) ** exponent, rel_tol=1e-6):
            return TermCount(operand, summed, exponent, less)
    return None


def summed(value: Value, last: Sum, result: Value) -> Value:
    """The result of a sum, which is a mean where the array has been divided by the number of terms; notes that number.

    Args:
      value: the array that is summed.
      last: the sum.
      result: what is known of the result beside its sums.
    """
    sums = (*value.sums, last)
    left = _unshared(value.share, sums)
    return replace(result, sums=left, share=value.share if left == sums else None)


def _unshared(share: Share | None, sums: tuple[Sum, ...]) -> tuple[Sum, ...]:
    """Sums without those whose terms have been divided by their number, which is noted."""
    if share is None:
        return sums
    for counted, others in _latest_first(sums):
        fits = counted.power == 1 and math.isclose(share.factor, 1 / counted.count(), rel_tol=1e-6)
        if fits and counted.count() > 1:
            if counted.over:
                share.notes[share.eqn] = counted
            return others
    return sums
