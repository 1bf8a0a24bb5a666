"""Which numbers of one module have to change so that it has the new sizes.

How many dimensions of its variables are still wrong tells which way to go. First every
single number is tried with every value that it may become, then numbers that may become the same together. The best of
these steps is kept, and the next one is looked for. Where no step helps (heads and width of an attention change
together), pairs of steps are tried. The order is fixed, and so is the number of tries.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from naivenas_jax.trace.back.config_numbers import ConfigPath, NewNumbers

#: How many sizes of a module with these numbers are wrong; None: it cannot even be built.
CountWrong: TypeAlias = Callable[[NewNumbers], int | None]
#: Where a number is, and what it may become.
NumberOptions: TypeAlias = tuple[ConfigPath, Sequence[int | float]]

#: So often a module is traced while its numbers are searched.
_TRIES = 300


@dataclass
class _Bounded:
    """A count of wrong sizes that stops answering after a number of tries."""

    count: CountWrong
    left: int = _TRIES

    def __call__(self, changes: NewNumbers) -> int | None:
        self.left -= 1
        return self.count(changes) if self.left >= 0 else None


class ConfigMatches(NamedTuple):
    """The sets of numbers that a search has found.

    Attributes:
      fits: the smallest sets with which no size is wrong.
      nearest: the set with which the fewest sizes are wrong, if they are fewer than without; empty where a set fits.
    """

    fits: list[NewNumbers]
    nearest: NewNumbers


def search_numbers(count: CountWrong, choices: Sequence[NumberOptions], most: int) -> ConfigMatches:
    """The sets of numbers that make the sizes of a module right.

    Args:
      count: counts the wrong sizes of the module with given numbers.
      choices: the numbers that may change, and what each may become.
      most: so many sets are returned at the most.

    >>> target = {"heads": 3, "width": 24}
    >>> wrong = lambda c: sum({"heads": 4, "width": 32, **c}[k] != v for k, v in target.items())
    >>> search_numbers(wrong, [("heads", [3, 5]), ("width", [24]), ("depth", [3])], 4)
    ConfigMatches(fits=[{'heads': 3, 'width': 24}], nearest={})
    >>> search_numbers(wrong, [("heads", [3, 5])], 4)
    ConfigMatches(fits=[], nearest={'heads': 3})
    """
    counted = _Bounded(count)
    base: NewNumbers = {}
    wrong = counted(base)
    if wrong == 0:
        return ConfigMatches([base], {})
    moves = _moves(choices)
    for steps in (moves, _pairs(moves)):
        while True:
            following = [changes for step in steps if (changes := {**base, **step}) != base]
            tried: list[tuple[int | None, NewNumbers]] = [(counted(changes), changes) for changes in following]
            fits: list[NewNumbers] = [changes for found, changes in tried if found == 0]
            if fits:
                return ConfigMatches(fits[:most], {})
            best = min((found for found, _ in tried if found is not None), default=None)
            if best is None or (wrong is not None and best >= wrong):
                break
            base, wrong = next(changes for found, changes in tried if found == best), best
    return ConfigMatches([], base)


def _moves(choices: Sequence[NumberOptions]) -> list[NewNumbers]:
    """Every number by itself, and those that may become the same together (heads of queries, of keys and values)."""
    alike: dict[int | float, list[ConfigPath]] = {}
    for route, values in choices:
        for value in values:
            alike.setdefault(value, []).append(route)
    together: list[NewNumbers] = [dict.fromkeys(routes, value) for value, routes in alike.items() if len(routes) > 1]
    alone: list[NewNumbers] = [{route: value} for route, values in choices for value in values]
    return alone + together


def _pairs(moves: Sequence[NewNumbers]) -> list[NewNumbers]:
    """Two steps at once, of different numbers."""
    return [{**a, **b} for a, b in itertools.combinations(moves, 2) if not a.keys() & b.keys()]
