"""Which numbers of one module have to change so that it has the new sizes.

How many sizes of its variables are still wrong tells which way to go. First every number is tried with one other
value: where no wrong size follows it, it is left alone at first. Then single numbers are tried with every value that
they may become, and numbers that may become the same together. The best of these steps is kept, and the next one is
looked for. Where no step helps (heads and width of an attention change together), pairs of steps are tried. The order
is fixed, and so is the number of tries.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from naivenas_jax.paths import Path
from naivenas_jax.trace.back.numbers.config_numbers import ConfigPath, NewNumbers

#: Sizes of a module by where they are: a variable and one of its dimensions.
Sizes: TypeAlias = Mapping[Hashable, int]
#: The sizes of a module with these numbers; None: it cannot even be built.
Measure: TypeAlias = Callable[[NewNumbers], Sizes | None]
#: Where a number is, and what it may become.
NumberOptions: TypeAlias = tuple[ConfigPath, Sequence[int | float]]
#: ``choices(changed, sizes)``: the numbers that may change, given those that have and the sizes that this led to.
Choices: TypeAlias = Callable[[NewNumbers, Sizes | None], Sequence[NumberOptions]]

#: So many pairs of steps are tried.
_MOST_PAIRS = 200
#: So often a module is traced while its numbers are searched.
_TRIES = 300


class ConfigMatches(NamedTuple):
    """The sets of numbers that a search has found.

    Attributes:
      fits: the smallest sets with which no size is wrong.
      nearest: the set with which the fewest sizes are wrong, if they are fewer than without; empty where a set fits.
    """

    fits: list[NewNumbers]
    nearest: NewNumbers


@dataclass
class _Tries:
    """A module with other numbers, tried a limited number of times, and never twice with the same."""

    measure: Measure
    target: Sizes
    left: int = _TRIES
    known: dict[frozenset[tuple[ConfigPath, int | float]], Sizes | None] = field(default_factory=dict)

    def sizes(self, changes: NewNumbers) -> Sizes | None:
        """The sizes with these numbers."""
        key = frozenset(changes.items())
        if key not in self.known:
            if self.left <= 0:
                return None
            self.left -= 1
            self.known[key] = self.measure(changes)
        return self.known[key]

    def wrong(self, changes: NewNumbers) -> int | None:
        """How many sizes are wrong with these numbers."""
        return count_wrong(self.sizes(changes), self.target)


def sizes_of(shapes: Mapping[Path, tuple[int, ...]]) -> Sizes:
    """The sizes of all dimensions, by variable and number of the dimension; and how many dimensions there are.

    >>> sizes_of({("kernel",): (3, 4)})
    {(('kernel',), None): 2, (('kernel',), 0): 3, (('kernel',), 1): 4}
    """
    ranks: dict[Hashable, int] = {(path, None): len(shape) for path, shape in shapes.items()}
    return {**ranks, **{(path, dim): n for path, shape in shapes.items() for dim, n in enumerate(shape)}}


def count_wrong(sizes: Sizes | None, target: Sizes) -> int | None:
    """How many sizes are others than wanted; None: there are none to compare."""
    return None if sizes is None else sum(sizes.get(at) != size for at, size in target.items())


def search_numbers(measure: Measure, target: Sizes, choices: Choices, most: int) -> ConfigMatches:
    """The sets of numbers that make the sizes of a module right.

    Args:
      measure: gives the sizes of the module with given numbers.
      target: the sizes that it shall have.
      choices: the numbers that may change, and what each may become.
      most: so many sets are returned at the most.

    >>> target = {"heads": 3, "width": 24}
    >>> sizes = lambda changes: {"heads": 4, "width": 32, **changes}
    >>> choices = lambda changed, sizes: [("heads", [3, 5]), ("width", [24]), ("depth", [3])]
    >>> search_numbers(sizes, target, choices, 4)
    ConfigMatches(fits=[{'heads': 3, 'width': 24}], nearest={})
    >>> search_numbers(sizes, target, lambda changed, sizes: [("heads", [3, 5])], 4)
    ConfigMatches(fits=[], nearest={'heads': 3})
    """
    tries = _Tries(measure, target)
    base: NewNumbers = {}
    if tries.wrong(base) == 0:
        return ConfigMatches([base], {})
    while True:  # with what the numbers may become now that some have changed
        singles, pairs = _steps(choices(base, tries.sizes(base)), tries, base)
        before = base
        for steps in (singles, pairs):
            base, fits = _descended(base, steps, tries)
            if fits:
                return ConfigMatches(fits[:most], {})
            if base != before:
                break
        else:
            return ConfigMatches([], base)


def _descended(base: NewNumbers, steps: Sequence[NewNumbers], tries: _Tries) -> tuple[NewNumbers, list[NewNumbers]]:
    """The numbers after the best steps, as long as one makes fewer sizes wrong; and the sets that fit, if there are."""
    wrong = tries.wrong(base)
    while True:
        following = [changes for step in steps if (changes := {**base, **step}) != base]
        tried: list[tuple[int | None, NewNumbers]] = [(tries.wrong(changes), changes) for changes in following]
        fits: list[NewNumbers] = [changes for found, changes in tried if found == 0]
        best = min((found for found, _ in tried if found is not None), default=None)
        if fits or best is None or (wrong is not None and best >= wrong):
            return base, fits
        base, wrong = next(changes for found, changes in tried if found == best), best


def _steps(
    choices: Sequence[NumberOptions], tries: _Tries, base: NewNumbers
) -> tuple[list[NewNumbers], list[NewNumbers]]:
    """The numbers to change in one step, and pairs of such steps."""
    followed = {path: _followed(path, values, tries, base) for path, values in choices}
    moves = [*_alone(choices, followed, "wrong"), *_together(choices)]
    return moves, _pairs(moves, [*moves, *_alone(choices, followed, "right")])


def _followed(
    path: ConfigPath, values: Sequence[int | float], tries: _Tries, base: NewNumbers
) -> Literal["wrong", "right", "none"]:
    """Which sizes follow a number: some that are wrong (or that cannot be told), only some that are right, or none.

    The value that is furthest down the list is tried: small changes may be lost where sizes are rounded.
    """
    before = tries.sizes(base)
    after = None if before is None else tries.sizes({**base, path: values[-1]})
    if before is None or after is None:
        return "wrong"
    other = [(at, size) for at, size in tries.target.items() if after.get(at) != before.get(at)]
    if any(before.get(at) != size for at, size in other):
        return "wrong"
    return "right" if other else "none"


def _alone(choices: Sequence[NumberOptions], followed: Mapping[ConfigPath, str], kind: str) -> list[NewNumbers]:
    """Every number by itself, of those that sizes of one kind follow."""
    return [{route: value} for route, values in choices if followed[route] == kind for value in values]


def _together(choices: Sequence[NumberOptions]) -> list[NewNumbers]:
    """Numbers that may become the same, together (heads of queries, of keys and values)."""
    alike: dict[int | float, list[ConfigPath]] = {}
    for route, values in choices:
        for value in values:
            alike.setdefault(value, []).append(route)
    return [dict.fromkeys(routes, value) for value, routes in alike.items() if len(routes) > 1]


def _pairs(moves: Sequence[NewNumbers], others: Sequence[NewNumbers]) -> list[NewNumbers]:
    """Two steps at once, of different numbers; each pair once."""
    places = {id(move): i for i, move in enumerate(moves)}
    pairs = ((a, b) for a in moves for b in others if places.get(id(b), len(moves)) > places[id(a)])
    return list(itertools.islice(({**a, **b} for a, b in pairs if not a.keys() & b.keys()), _MOST_PAIRS))
