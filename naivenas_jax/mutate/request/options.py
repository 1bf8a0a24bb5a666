"""The keywords by which verbs find sizes, read and checked; among them conditions and objectives."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias, TypedDict, TypeVar

import jax

from naivenas_jax.align.problem.deadline import NEVER, Deadline
from naivenas_jax.checks import as_number, as_whole, is_one_of, require_function, shown
from naivenas_jax.errors import RequestError, StructureError, UnknownNameError
from naivenas_jax.graph.dag import unknown_name
from naivenas_jax.sizes.condition import Condition, Size, size
from naivenas_jax.transfer.new_neurons.entries import key_for
from naivenas_jax.transfer.new_neurons.strategy import New, Strategy, strategy_of
from naivenas_jax.typing import Array, Shape
from naivenas_jax.utility.user_scores import Utility

#: One condition, several, or a function of the sizes of all axes by name that returns them.
Constraints: TypeAlias = (
    Condition | Iterable[Condition] | Callable[[Mapping[str, Size]], Condition | Iterable[Condition]] | None
)
#: A sum of sizes to be made small, several in this order, or a function of the sizes by name that returns them.
Minimise: TypeAlias = Size | Iterable[Size] | Callable[[Mapping[str, Size]], Size | Iterable[Size]] | None

T = TypeVar("T")


def conditions(given: Constraints, sizes: Mapping[str, int]) -> tuple[Condition, ...]:
    """The conditions that ``constraints=`` stands for; ``sizes`` are those of the axes that there are.

    Raises:
      RequestError: if something else than conditions is given.
      UnknownNameError: if one is about an axis that does not exist.
    """
    found = _entries("constraints", given, sizes, Condition, "conditions on sizes", _CONDITIONS)
    for condition in found:
        _check_names("constraints", condition.axes, sizes)
    return found


def as_conditions(found: object) -> tuple[Condition, ...]:
    """The conditions that a function of sizes has returned, one or several.

    Raises:
      RequestError: if it is something else.
    """
    return _listed("constraints", found, Condition, "conditions on sizes", _CONDITIONS)


def objectives(given: Minimise, sizes: Mapping[str, int]) -> tuple[Size, ...]:
    """The sums of sizes that ``minimise=`` stands for.

    Raises:
      RequestError, UnknownNameError: as `conditions`.
    """
    found = _entries("minimise", given, sizes, Size, "sums of sizes", _SUMS)
    for each in found:
        _check_names("minimise", [axis for axis, _ in each.terms], sizes)
    return found


def axes_of(conditions: Iterable[Condition], sums: Iterable[Size]) -> tuple[str, ...]:
    """The axes that conditions and objectives are about; they may change as if a request named them."""
    named = [*(axis for each in conditions for axis in each.axes), *(axis for each in sums for axis, _ in each.terms)]
    return tuple(dict.fromkeys(named))


_CONDITIONS = "nas.size('a') <= 10 or nas.multiple_of('a', 8), or a function that returns them"
_SUMS = "nas.size('a') + 2 * nas.size('b'), or a function that returns them"


def _entries(
    keyword: str, given: object, sizes: Mapping[str, int], kind: type[T], what: str, example: str
) -> tuple[T, ...]:
    """What a keyword was given, one or several or by a function, as a tuple of one type."""
    if callable(given):
        require_function(given, f"{keyword}=", "sizes", RequestError)
    return _listed(keyword, given(_Named(keyword, sizes)) if callable(given) else given, kind, what, example)


def _listed(keyword: str, found: object, kind: type[T], what: str, example: str) -> tuple[T, ...]:
    if found is None:
        return ()
    several = found if isinstance(found, Iterable) and not isinstance(found, Condition | Size) else (found,)
    if (
        isinstance(found, str | Mapping)
        or hasattr(found, "dtype")
        or not isinstance(found, Iterable | Condition | Size)
    ):
        raise RequestError(f"{keyword}= takes one condition or several, found {type(found).__name__}: {found!r:.80}.")
    entries: list[T] = []
    for each in several:
        if not isinstance(each, kind):
            raise RequestError(
                f"{keyword}= takes {what}, such as {example}; found {type(each).__name__}: {each!s:.80}."
            )
        entries.append(each)
    return tuple(entries)


def _check_names(keyword: str, axes: Iterable[str], sizes: Mapping[str, int]) -> None:
    for axis in axes:
        if axis not in sizes:
            raise UnknownNameError(f"{keyword}: {unknown_name(axis, sizes)}")


class _Named(Mapping[str, Size]):
    """The sizes of all axes as expressions, by name."""

    def __init__(self, what: str, sizes: Mapping[str, int]):
        self._what, self._sizes = what, sizes

    def __getitem__(self, axis: str) -> Size:
        _check_names(self._what, (axis,), self._sizes)
        return size(axis)

    def __iter__(self) -> Iterator[str]:
        return iter(axis for axis in self._sizes if not axis.startswith("~"))

    def __len__(self) -> int:
        return sum(1 for _ in self)


#: Arrays or shapes, one per input of the graph; one alone if it has one input.
Inputs: TypeAlias = Sequence[Array | Shape] | Array | Shape | None
#: How many neurons may be inserted: for all axes, by axis, or a function of the axis's name (None: the default).
MaxNew: TypeAlias = int | Mapping[str, int] | Callable[[str], int | None] | None
#: Which outputs may change without being named by a request: all, none, or those of these names.
FreeOutputs: TypeAlias = bool | str | Collection[str]
Way: TypeAlias = Literal["grow", "shrink", "both"]
#: What ``align=`` may be.
Ways: TypeAlias = Literal["auto"] | Way | tuple[Way, ...]
WAYS: tuple[Way, ...] = ("grow", "shrink", "both")


class SearchKeywords(TypedDict, total=False):
    """Keywords of whatever finds sizes. What they mean is said at `delta_nout`."""

    rng: jax.Array | None
    time_limit: float | None
    max_new: MaxNew
    free_outputs: FreeOutputs
    constraints: Constraints
    minimise: Minimise
    layer_keywords: Mapping[str, Mapping[str, object]] | None


class SizeKeywords(SearchKeywords, total=False):
    """Keywords of every verb that finds sizes: those of `SearchKeywords`, and ``utility``."""

    utility: Utility | None


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a verb was told about how to find sizes, with the defaults of what it was not.

    Attributes:
      align: how sizes that disagree after an edit are brought in line; see `EditKeywords`.
      new: what parameters of new neurons start at.
      gap: within budgets, how near to the best is near enough; see `resize`.
      deadline: when the time that ``time_limit`` allows is over.
      utility, rng, time_limit, max_new, free_outputs, constraints, minimise, layer_keywords: see `delta_nout`.

    Raises:
      StructureError: if ``align`` is no way of aligning.
      RequestError: if ``time_limit`` is no number of seconds, or ``gap`` no share.
      PlanError: if ``rng`` is no key.
    """

    utility: Utility | None = None
    new: New = None
    rng: jax.Array | None = None
    time_limit: float | None = None
    gap: float | None = None
    max_new: MaxNew = None
    free_outputs: FreeOutputs = False
    constraints: Constraints = None
    minimise: Minimise = None
    layer_keywords: Mapping[str, Mapping[str, object]] | None = None
    align: Ways = "auto"
    deadline: Deadline = NEVER

    def __post_init__(self) -> None:
        if not self.ways or not all(is_one_of(way, WAYS) for way in self.ways):
            raise StructureError(f"align must be 'auto', one of {WAYS}, or a tuple of these, found {self.align!r}.")
        limit = self.time_limit
        if limit is not None and not ((seconds := as_number(limit)) is not None and seconds >= 0):  # not NaN either
            raise RequestError(f"time_limit must be a number of seconds, 0 or more, or None; found {shown(limit)}.")
        near = None if self.gap is None else as_number(self.gap)
        if self.gap is not None and not (near is not None and 0 <= near < math.inf):
            raise RequestError(
                "gap must be a number of at least 0, a share of the utility (0.01: within a hundredth of the best), or "
                f"None; found {shown(self.gap)}."
            )
        if limit is not None and self.deadline == NEVER:
            object.__setattr__(self, "deadline", Deadline.after(float(limit)))  # it runs from here on
        if self.rng is not None:
            key_for(self.rng, ())

    @classmethod
    def of(cls, keywords: SizeKeywords, new: New = None) -> Options:
        """The options that a verb was given as keywords (those of `EditKeywords` have ``align`` besides)."""
        return cls(new=new, **keywords)

    @cached_property
    def strategy(self) -> Strategy:
        """What ``new`` means.

        Raises:
          PlanError: if there is no such ``new``.
        """
        return strategy_of(self.new)

    @property
    def ways(self) -> tuple[Way, ...]:
        """The ways of aligning to try, in order."""
        if isinstance(self.align, str) and self.align == "auto":
            return WAYS
        return tuple(self.align) if isinstance(self.align, list | tuple) else (self.align,)

    def insertable(self, sizes: Mapping[str, int], also: Collection[str] = ()) -> dict[str, int]:
        """How many neurons each axis may gain: ten times its size and at least 200, unless ``max_new`` says otherwise.

        Args:
          sizes: of the axes.
          also: further names that ``max_new`` may have.
        """
        unknown = [name for name in self.max_new if name not in sizes] if isinstance(self.max_new, Mapping) else []
        for name in unknown:
            if name not in also:
                raise UnknownNameError(f"max_new: {unknown_name(name, sizes)}")
        usual = {axis: max(200, 10 * size) for axis, size in sizes.items()}
        return usual if self.max_new is None else {axis: self._bound(axis, most) for axis, most in usual.items()}

    def _bound(self, axis: str, default: int) -> int:
        given = self.max_new
        if callable(given):
            require_function(given, "max_new=", "axis", RequestError)
        bound = given(axis) if callable(given) else given.get(axis) if isinstance(given, Mapping) else given
        if bound is None:
            return default
        number = as_whole(bound)
        if number is None or number < 0:
            by_axis = callable(given) or isinstance(given, Mapping)
            raise RequestError(
                f"max_new for {repr(axis) if by_axis else 'all axes'} must be a whole number of neurons, 0 or more"
                f"{'' if by_axis else ', or a mapping or function by axis'}; found {shown(bound)}."
            )
        return min(number, 10**9)
