"""What users require of sizes besides a request: conditions and objectives, read and checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias, TypeVar

from naivenas_jax.errors import RequestError, UnknownNameError
from naivenas_jax.graph.dag import unknown_name
from naivenas_jax.sizes.condition import Condition, Size, size

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
    found = given(_Named(keyword, sizes)) if callable(given) else given
    if found is None:
        return ()
    several = found if isinstance(found, Iterable) and not isinstance(found, Condition | Size) else (found,)
    if isinstance(found, str | Mapping) or not isinstance(found, Iterable | Condition | Size):
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
