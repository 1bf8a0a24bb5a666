"""What users require of sizes besides a request: conditions and objectives, read and checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from naivenas_jax.errors import RequestError, UnknownNameError
from naivenas_jax.graph.dag import unknown_name
from naivenas_jax.sizes.condition import Condition, Size, size

#: One condition, several, or a function of the sizes of all axes by name that returns them.
Constraints = Condition | Iterable[Condition] | Callable[[Mapping[str, Size]], Condition | Iterable[Condition]] | None
#: A sum of sizes to be made small, several in this order, or a function of the sizes by name that returns them.
Minimise = Size | Iterable[Size] | Callable[[Mapping[str, Size]], Size | Iterable[Size]] | None


def conditions(given: Constraints, sizes: Mapping[str, int]) -> tuple[Condition, ...]:
    """The conditions that ``constraints=`` stands for; ``sizes`` are those of the axes that there are.

    Raises:
      RequestError: if something else than conditions is given.
      UnknownNameError: if one is about an axis that does not exist.
    """
    rows = _entries("constraints", given, sizes)
    for row in rows:
        if not isinstance(row, Condition):
            raise RequestError(
                "constraints= takes conditions on sizes, such as nas.size('a') <= 10 or nas.multiple_of('a', 8), or a "
                f"function that returns them; found {type(row).__name__}: {row!s:.80}."
            )
        _check_names("constraints", row.axes, sizes)
    return rows


def objectives(given: Minimise, sizes: Mapping[str, int]) -> tuple[Size, ...]:
    """The sums of sizes that ``minimise=`` stands for.

    Raises:
      RequestError, UnknownNameError: as `conditions`.
    """
    sums = _entries("minimise", given, sizes)
    for each in sums:
        if not isinstance(each, Size):
            raise RequestError(
                "minimise= takes sums of sizes, such as nas.size('a') + 2 * nas.size('b'), or a function that returns "
                f"them; found {type(each).__name__}: {each!s:.80}."
            )
        _check_names("minimise", tuple(axis for axis, _ in each.terms), sizes)
    return sums


def axes_of(rows: Iterable[Condition], sums: Iterable[Size]) -> tuple[str, ...]:
    """The axes that conditions and objectives are about; they may change as if a request named them."""
    named = [*(axis for row in rows for axis in row.axes), *(axis for each in sums for axis, _ in each.terms)]
    return tuple(dict.fromkeys(named))


def _entries(what: str, given: Any, sizes: Mapping[str, int]) -> tuple[Any, ...]:
    found = given(_Named(what, sizes)) if callable(given) else given
    if found is None:
        return ()
    if isinstance(found, Condition | Size):
        return (found,)
    if isinstance(found, str | Mapping) or not isinstance(found, Iterable):
        raise RequestError(f"{what}= takes one condition or several, found {type(found).__name__}: {found!r:.80}.")
    return tuple(found)


def _check_names(what: str, axes: Iterable[str], sizes: Mapping[str, int]) -> None:
    for axis in axes:
        if axis not in sizes:
            raise UnknownNameError(f"{what}: {unknown_name(axis, sizes)}")


class _Named(Mapping[str, Size]):
    """The sizes of all axes as expressions, by name."""

    def __init__(self, what: str, sizes: Mapping[str, int]):
        self._what, self._sizes = what, sizes

    def __getitem__(self, axis: str) -> Size:
        _check_names(self._what, (axis,), self._sizes)
        return size(axis)

    def __iter__(self) -> Any:
        return iter(axis for axis in self._sizes if not axis.startswith("~"))

    def __len__(self) -> int:
        return sum(1 for _ in self)
