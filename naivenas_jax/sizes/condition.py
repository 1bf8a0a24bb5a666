"""Conditions on sizes as plain data: ``size("a") + 2 * size("b") <= 10``, ``multiple_of("a", 8)``.

A layer, a vertex or a user contributes them to the alignment problem; nothing here knows a solver. Numbers are whole,
so that an answer is checked exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from naivenas_jax.checks import as_count, as_items, as_number, as_whole, require_function, shown
from naivenas_jax.errors import RequestError

Terms = tuple[tuple[str, int], ...]
_LARGEST = 10**12
#: So many sizes are there to choose from at the most; each is an unknown of the alignment.
_MOST_STEPS = 1000


@dataclass(frozen=True, eq=False)
class Size:
    """A sum of sizes of axes with whole coefficients, ``sum(count * size(axis)) + constant``. Made by `size`.

    ``+ - *`` make further sums; ``<= >= ==`` make a `Condition`.

    Attributes:
      terms: pairs of an axis and its coefficient.
      constant: what is added to the sum.
    """

    terms: Terms
    constant: int = 0

    def __add__(self, other: object) -> Size:
        if isinstance(other, Size):
            counts = dict(self.terms)
            for axis, count in other.terms:
                counts[axis] = counts.get(axis, 0) + count
            return Size(tuple((a, n) for a, n in counts.items() if n), self.constant + other.constant)
        return replace(self, constant=self.constant + whole(other, "A sum of sizes"))

    __radd__ = __add__

    def __mul__(self, other: object) -> Size:
        factor = whole(other, "A size can be multiplied by a whole number only, which")
        return Size(tuple((a, n * factor) for a, n in self.terms if factor), self.constant * factor)

    __rmul__ = __mul__

    def __neg__(self) -> Size:
        return self * -1

    def __sub__(self, other: object) -> Size:
        return self + (-other if isinstance(other, Size) else -whole(other, "A sum of sizes"))

    def __rsub__(self, other: object) -> Size:
        return -self + other

    def __le__(self, other: object) -> Condition:
        return _compared(self - other, "<=")

    def __ge__(self, other: object) -> Condition:
        return _compared(self - other, ">=")

    def __eq__(self, other: object) -> Condition:  # type: ignore[override]  # it states equality
        return _compared(self - other, "==")

    __hash__ = None  # type: ignore[assignment]  # what == does not compare has no hash

    def __ne__(self, other: object) -> bool:
        raise RequestError(f"{self} != {other!r:.40} is no linear condition. Use <=, >=, ==, or nas.multiple_of.")

    def __lt__(self, other: object) -> Condition:
        raise RequestError(f"Sizes are whole numbers: write {self} <= {other} - 1 in place of <.")

    def __gt__(self, other: object) -> Condition:
        raise RequestError(f"Sizes are whole numbers: write {self} >= {other} + 1 in place of >.")

    def at(self, sizes: Mapping[str, int]) -> int:
        """The value of the sum for given sizes, in Python's integers."""
        return self.constant + sum(count * int(sizes[axis]) for axis, count in self.terms)

    def __str__(self) -> str:
        text = " + ".join(f"size({a!r})" if n == 1 else f"{n} * size({a!r})" for a, n in self.terms)
        return text + (f" + {self.constant}" if self.constant else "") if text else str(self.constant)


@dataclass(frozen=True)
class Condition:
    """A condition that sizes must satisfy: ``sum(count * size(axis)) + constant`` compared with ``bound``.

    Attributes:
      terms: pairs of an axis and its coefficient.
      sense: "<=", ">=", "==", "multiple of", or "one of".
      bound: the right-hand side; where the sense is "multiple of", the factor; where it is "one of", the smallest.
      constant: added to the sum; 0 unless the sense is "multiple of" or "one of".
      reason: why it must hold, for error messages.
      among: where the sense is "one of", the numbers that it may be, in rising order.
    """

    terms: Terms
    sense: Literal["<=", ">=", "==", "multiple of", "one of"]
    bound: int
    constant: int = 0
    reason: str = ""
    among: tuple[int, ...] = ()

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes it is about."""
        return tuple(axis for axis, _ in self.terms)

    def because(self, reason: str) -> Condition:
        """The same condition with a reason, which error messages repeat.

        Args:
          reason: a few words.

        >>> print(multiple_of("a", 8).because("the hardware"))
        size('a') is a multiple of 8 (the hardware)
        """
        return replace(self, reason=str(reason))

    def renamed(self, names: Mapping[str, str]) -> Condition:
        """The same condition on axes of other names."""
        summed = sum((count * Size(((names[axis], 1),)) for axis, count in self.terms), Size(()))
        return replace(self, terms=summed.terms)

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether sizes satisfy it; computed in Python's integers."""
        return bool(self._is_met(Size(self.terms, self.constant).at(sizes)))

    def holds_each(self, sizes: Mapping[str, Int[np.ndarray, " choices"]]) -> Bool[np.ndarray, " choices"]:
        """Whether sizes satisfy it, of many choices at once."""
        value = self.constant + sum(count * sizes[axis] for axis, count in self.terms)
        return np.asarray(self._is_met(value))

    def _is_met(self, value: int | Int[np.ndarray, " choices"]) -> bool | Bool[np.ndarray, " choices"]:
        """Whether the sum of sizes may have a value."""
        match self.sense:
            case "<=":
                return value <= self.bound
            case ">=":
                return value >= self.bound
            case "==":
                return value == self.bound
            case "one of":
                return np.isin(value, self.among)
        return value % self.bound == 0

    def up(self, sizes: Mapping[str, int]) -> int | None:
        """How much more the next of the numbers is that it may be; None: there is none, or it is not one of some."""
        value = Size(self.terms, self.constant).at(sizes)
        return next((number - value for number in self.among if number > value), None)

    def __bool__(self) -> bool:
        raise RequestError(
            f"{self} is a condition on sizes that are not known yet, and neither true nor false. Write a <= b <= c as "
            "two conditions, and collect them in a list."
        )

    def __str__(self) -> str:
        sense = f"is {'a ' * (self.sense == 'multiple of')}{self.sense}" if self.sense.endswith("of") else self.sense
        bound = _listed(self.among) if self.sense == "one of" else self.bound
        why = f" ({self.reason})" if self.reason else ""
        return f"{Size(self.terms, self.constant)} {sense} {bound}{why}"


#: What a layer or vertex requires of its sizes: a function of these by the names of its axes ("in", "out", ...).
ConditionFunction = Callable[[Mapping[str, Size]], Condition | Iterable[Condition] | None] | None


def size(axis: str) -> Size:
    """The size of an axis that an alignment is about to choose, to write conditions and objectives with.

    Args:
      axis: name of a vertex, or of an inner axis ``vertex:axis``; as in a request.

    Returns:
      An expression. ``+ - *`` with whole numbers and further sizes make sums; ``<= >= ==`` make a condition, for
      ``constraints=`` of the verbs. ``condition.because("...")`` gives it a reason, which error messages repeat.

    Raises:
      RequestError: where it is multiplied by anything but a whole number.

    >>> print(size("a") + 2 * size("b") <= 10)
    size('a') + 2 * size('b') <= 10
    >>> print((size("a") >= size("b") + 1).because("the bottleneck"))
    size('a') + -1 * size('b') >= 1 (the bottleneck)
    """
    if not isinstance(axis, str):
        raise RequestError(f"nas.size takes the name of an axis, found {axis!r:.80}.")
    return Size(((axis, 1),))


def multiple_of(what: str | Size, factor: int) -> Condition:
    """The condition that a size, or a sum of sizes, is a multiple of a whole number.

    Args:
      what: name of an axis, or a sum of sizes.
      factor: 1 or more.

    Returns:
      The condition, for ``constraints=`` of the verbs.

    Raises:
      RequestError: if ``factor`` is no whole number of at least 1.

    >>> print(multiple_of("a", 8))
    size('a') is a multiple of 8
    >>> multiple_of(size("a") + size("b"), 4).holds({"a": 3, "b": 5})
    True
    """
    summed = what if isinstance(what, Size) else size(what)
    factor = whole(factor, "The factor of nas.multiple_of")
    if factor < 1:
        raise RequestError(f"The factor of nas.multiple_of must be 1 or more, found {factor!r}.")
    return Condition(summed.terms, "multiple of", factor, summed.constant)


def one_of(what: str | Size, sizes: Iterable[int]) -> Condition:
    """The condition that a size, or a sum of sizes, is one of some numbers.

    A search whose sizes are steps of a ladder meets the same shapes again, and compiles nothing for them.

    Args:
      what: name of an axis, or a sum of sizes.
      sizes: the numbers, such as ``nas.ladder(8, 64)``.

    Returns:
      The condition, for ``constraints=`` of the verbs.

    Raises:
      RequestError: if there are no sizes, or one is no whole number.

    >>> print(one_of("a", (8, 16, 32)))
    size('a') is one of 8, 16, 32
    >>> one_of("a", ladder(8, 64)).holds({"a": 16})
    True
    """
    summed = what if isinstance(what, Size) else size(what)
    items = None if isinstance(sizes, str | Mapping) else as_items(sizes)
    if not items or len(items) > _MOST_STEPS:
        raise RequestError(
            f"sizes= of nas.one_of takes from one to {_MOST_STEPS} whole numbers, (8, 16, 32); found {shown(sizes)}."
        )
    among = tuple(sorted({whole(item, "Each of the sizes of nas.one_of") for item in items}))
    return Condition(summed.terms, "one of", among[0], summed.constant, among=among)


def ladder(smallest: int, largest: int, factor: float = 2.0, *, multiple_of: int = 1) -> tuple[int, ...]:
    """Sizes of which each is about the same multiple of the one before: a few classes for all sizes of a search.

    Args:
      smallest: the first size.
      largest: the last one.
      factor: about how many times as large as the one before a size is.
      multiple_of: sizes in multiples of this, as both ends are.

    Returns:
      The sizes in rising order, from ``smallest`` to ``largest``, for `one_of` and as sizes of requests.

    Raises:
      RequestError: if a number is none, the factor is not above 1, or the ends are no multiples.

    >>> ladder(8, 64), ladder(8, 64, 1.5, multiple_of=4)
    ((8, 16, 32, 64), (8, 12, 20, 28, 44, 64))
    """
    low, high, step = (as_count(each) for each in (smallest, largest, multiple_of))
    growth = as_number(factor)
    if low is None or high is None or low > high:
        raise RequestError(
            f"nas.ladder goes from a smallest size to a largest one, whole numbers of at least 1; found "
            f"{shown(smallest)} and {shown(largest)}."
        )
    if growth is None or not 1 < growth < math.inf:
        raise RequestError(f"factor= of nas.ladder is a number above 1, such as 1.5; found {shown(factor)}.")
    if step is None or low % step or high % step:
        raise RequestError(
            f"multiple_of= of nas.ladder is a whole number of which both ends, {low} and {high}, are multiples; found "
            f"{shown(multiple_of)}."
        )
    steps = max(1, round(math.log(high / low) / math.log(growth)))
    if steps >= _MOST_STEPS:
        raise RequestError(f"nas.ladder has at most {_MOST_STEPS} sizes; factor={growth} would make {steps + 1}.")
    return tuple(sorted({step * round(low * (high / low) ** (i / steps) / step) for i in range(steps + 1)}))


def stated(given: ConditionFunction, axes: Iterable[str]) -> tuple[Condition, ...]:
    """The conditions that a function states of the sizes of some axes.

    Args:
      given: returns one condition, several, or None.
      axes: the names by which it gets the sizes.
    """
    if given is not None:
        require_function(given, "constraints=", "sizes", RequestError)
    found = None if given is None else given({axis: size(axis) for axis in axes})
    if found is None or isinstance(found, Condition):
        return () if found is None else (found,)
    return tuple(found)


def whole(value: object, what: str) -> int:
    """``value`` as an integer; raises `RequestError` if it is none."""
    number = as_whole(value)
    if number is None:
        raise RequestError(
            f"{what} must be a whole number, found {value!r:.80}. Sizes are checked exactly: multiply a condition with "
            "fractions by their common denominator."
        )
    if abs(number) > _LARGEST:
        raise RequestError(f"{what} must lie within +-{_LARGEST:.0e}, found {value!r:.80}.")
    return number


def _listed(numbers: tuple[int, ...]) -> str:
    """Numbers in words, those in the middle left out where they are many."""
    shown_ones = numbers if len(numbers) <= 8 else (*numbers[:4], "...", *numbers[-2:])
    return ", ".join(map(str, shown_ones))


def _compared(difference: Size, sense: Literal["<=", ">=", "=="]) -> Condition:
    return Condition(difference.terms, sense, -difference.constant)
