"""Which numbers of one module have to change so that it has the new sizes.

How many dimensions of its variables are still wrong tells which way to go. The smallest sets of changes come first:
every single number with every value that it may become, then numbers that may become the same together; the best of
them is kept and the next is looked for; where none helps (heads and width of an attention change together), pairs of
those. The order is fixed, and so is the number of tries.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from naivenas_jax.trace.back.config_numbers import Changes, Route

#: How wrong a module with these changes is: 0: not at all, None: it cannot even be built.
Measure = Callable[[Changes], int | None]
#: A number, and what it may become.
Choice = tuple[Route, Sequence[int | float]]

#: So often a module is traced while its numbers are searched.
TRIES = 300


@dataclass
class _Counted:
    """A measure that stops answering after a number of tries."""

    measure: Measure
    left: int = TRIES

    def __call__(self, changes: Changes) -> int | None:
        self.left -= 1
        return self.measure(changes) if self.left >= 0 else None


class Found(NamedTuple):
    """What a search has found.

    Attributes:
      fits: the smallest sets of changes with which nothing is wrong.
      nearest: the changes with which least is wrong, if that is less than without; empty where something fits.
    """

    fits: list[Changes]
    nearest: Changes


def search(measure: Measure, choices: Sequence[Choice], most: int) -> Found:
    """The sets of changes that make a module right, ``most`` of them at the most.

    >>> target = {"heads": 3, "width": 24}
    >>> wrong = lambda c: sum({"heads": 4, "width": 32, **c}[k] != v for k, v in target.items())
    >>> search(wrong, [("heads", [3, 5]), ("width", [24]), ("depth", [3])], 4)
    Found(fits=[{'heads': 3, 'width': 24}], nearest={})
    >>> search(wrong, [("heads", [3, 5])], 4)
    Found(fits=[], nearest={'heads': 3})
    """
    counted = _Counted(measure)
    base: Changes = {}
    wrong = counted(base)
    if wrong == 0:
        return Found([base], {})
    moves = _moves(choices)
    for steps in (moves, _pairs(moves)):
        while True:
            following = [changes for step in steps if (changes := {**base, **step}) != base]
            tried: list[tuple[int | None, Changes]] = [(counted(changes), changes) for changes in following]
            fits: list[Changes] = [changes for found, changes in tried if found == 0]
            if fits:
                return Found(fits[:most], {})
            best = min((found for found, _ in tried if found is not None), default=None)
            if best is None or (wrong is not None and best >= wrong):
                break
            base, wrong = next(changes for found, changes in tried if found == best), best
    return Found([], base)


def _moves(choices: Sequence[Choice]) -> list[Changes]:
    """Every number by itself, and those that may become the same together (heads of queries, of keys and values)."""
    alike: dict[int | float, list[Route]] = {}
    for route, values in choices:
        for value in values:
            alike.setdefault(value, []).append(route)
    together: list[Changes] = [dict.fromkeys(routes, value) for value, routes in alike.items() if len(routes) > 1]
    alone: list[Changes] = [{route: value} for route, values in choices for value in values]
    return alone + together


def _pairs(moves: Sequence[Changes]) -> list[Changes]:
    return [{**a, **b} for a, b in itertools.combinations(moves, 2) if not a.keys() & b.keys()]
