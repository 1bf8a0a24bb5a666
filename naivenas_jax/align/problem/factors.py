"""Which factors of products change.

The size of a product is the product of the sizes of its factors, so it is linear in sizes only while all factors but
one keep theirs. So runs that are parts of different factors of one product are *in conflict*, and a choice of what may
change is a largest set of runs without conflicts: nothing can be added to it. There are few: one for each factor of a
single product, and a factor that several products share changes in all of them or in none.

Factors whose sizes exact requests set are no unknowns. They are not in conflict with one another: the size of their
product is linear in that of the last of them, times the known sizes of the others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from naivenas_jax.align.problem.request import Target
from naivenas_jax.sizes.ties import Ties

Runs = tuple[int, ...]

#: The most choices that are compared. Products that have nothing in common allow a choice each, and so many together.
#: Where that is more, only their first choices are combined, their second ones, and so on.
_MOST = 16


@dataclass(frozen=True)
class Choice:
    """Which factors of products may change.

    Attributes:
      resting: runs of the factors that may not change, with the reason.
      pinned: factors that change together with others of the same product, as sorted runs, and the sizes that exact
        requests set for them.
    """

    resting: Mapping[int, str] = field(default_factory=dict)
    pinned: Mapping[Runs, int] = field(default_factory=dict)

    def size(self, ties: Ties, factor: Runs) -> int:
        """The number of neurons of a factor after the change: as requested, or as it is."""
        return self.pinned.get(tuple(sorted(factor)), ties.length(factor))


def choices(ties: Ties, fixed: Collection[int], targets: Collection[Target]) -> list[Choice]:
    """All choices that can matter; first those in which earlier factors change.

    A choice that leaves no neuron of a requested axis free cannot meet the request, and is left out. If that is so of
    all choices, all stay, for the explanation.

    Args:
      ties: of the graph.
      fixed: runs that may not change whatever is chosen.
      targets: the requests.
    """
    moving = [target for target in targets if target.wish != target.present]
    factors = {product: [ties.plain(row) - set(fixed) for row in rows] for product, rows in ties.products.items()}
    alike = _alike(factors)
    pinned = _pinned(ties, factors, moving)
    conflicts = _conflicts(ties, factors, pinned, alike)
    held = [run for run, first in alike.items() if first in conflicts]
    sets = [frozenset(run for run in held if alike[run] in moves) for moves in _together(conflicts)]
    sets.sort(key=lambda moves: _order(factors, moves))
    asked = [ties.plain(ties.axes[target.axis]) - set(fixed) for target in moving]
    able = [moves for moves in sets if not any(runs and runs <= set(held) - moves for runs in asked)]
    return [Choice(_resting(ties, set(held) - moves, moves), pinned) for moves in able or sets]


def _alike(factors: Mapping[int, list[frozenset[int]]]) -> dict[int, int]:
    """For each free run of a factor, the first run that is part of the same factors."""
    places: dict[int, list[tuple[int, int]]] = {}
    for product, rows in factors.items():
        for i, row in enumerate(rows):
            for run in row:
                places.setdefault(run, []).append((product, i))
    first: dict[tuple[tuple[int, int], ...], int] = {}
    return {run: first.setdefault(tuple(places[run]), run) for run in sorted(places)}


def _pinned(ties: Ties, factors: Mapping[int, list[frozenset[int]]], moving: list[Target]) -> dict[Runs, int]:
    """The factors whose sizes exact requests set, in products that have at least two of them."""
    wished = {tuple(sorted(ties.axes[target.axis])): target.wish for target in moving if target.exact}
    found: dict[Runs, int] = {}
    for product, rows in ties.products.items():
        keys = [tuple(sorted(row)) for row, free in zip(rows, factors[product], strict=True) if free]
        known = {key: wished[key] for key in keys if key in wished}
        if len([key for key in keys if key in wished]) > 1:
            found |= known
    return found


def _conflicts(
    ties: Ties, factors: Mapping[int, list[frozenset[int]]], pinned: Mapping[Runs, int], alike: Mapping[int, int]
) -> dict[int, frozenset[int]]:
    """For each free run of a factor, the runs that may not change together with it; it may be in conflict with itself.

    Of runs that are part of the same factors only the first is named.
    """
    found: dict[int, set[int]] = {}
    for product, rows in ties.products.items():
        known = [tuple(sorted(row)) in pinned for row in rows]
        for (i, one), (j, other) in itertools.permutations(enumerate(factors[product]), 2):
            if not (known[i] and known[j]):
                for run in one:
                    found.setdefault(alike[run], set()).update(alike[rival] for rival in other)
    return {run: frozenset(others) for run, others in found.items() if others}


def _together(conflicts: Mapping[int, frozenset[int]]) -> list[frozenset[int]]:
    """Combined choices: one of each part of the runs that is in no conflict with the other parts."""
    own = [list(itertools.islice(_largest(part, conflicts), _MOST)) for part in _components(conflicts)]
    if math.prod(map(len, own)) <= _MOST:
        combinations: Iterator[tuple[frozenset[int], ...]] = itertools.product(*own)
    else:
        combinations = (tuple(sets[min(i, len(sets) - 1)] for sets in own) for i in range(max(map(len, own))))
    return [frozenset().union(*parts) for parts in combinations]


def _components(conflicts: Mapping[int, frozenset[int]]) -> list[frozenset[int]]:
    """The runs in parts, such that no run is in conflict with one of another part."""
    left, found = dict.fromkeys(sorted(conflicts)), []
    while left:
        part, todo = set(), [next(iter(left))]
        while todo:
            run = todo.pop()
            if run not in part:
                part.add(run)
                todo.extend(conflicts[run])
        left = {run: None for run in left if run not in part}
        found.append(frozenset(part))
    return found


def _largest(
    part: frozenset[int],
    conflicts: Mapping[int, frozenset[int]],
    chosen: frozenset[int] = frozenset(),
    done: frozenset[int] = frozenset(),
) -> Iterator[frozenset[int]]:
    """All sets without conflicts to which nothing can be added, each once (Bron and Kerbosch, with a pivot).

    Each of them holds the pivot or something that is in conflict with it. ``done``: what sets before this one held.
    """
    part = frozenset(run for run in part if run not in conflicts[run])
    if not part | done:
        yield chosen
        return
    pivot = min(sorted(part | done), key=lambda run: len(part & conflicts[run]))
    for run in sorted(part & (conflicts[pivot] | {pivot})):
        yield from _largest(part - conflicts[run] - {run}, conflicts, chosen | {run}, done - conflicts[run])
        part, done = part - {run}, done | {run}


def _order(factors: Mapping[int, list[frozenset[int]]], moves: frozenset[int]) -> list[int]:
    """For each product the number of the first factor that changes."""
    return [next((i for i, row in enumerate(rows) if row & moves), len(rows)) for rows in factors.values()]


def _resting(ties: Ties, resting: Collection[int], moves: frozenset[int]) -> dict[int, str]:
    """The runs that rest; the reason names the product, and the factor that changes instead."""
    found: dict[int, str] = {}
    for product, rows in ties.products.items():
        changing = next((row for row in rows if ties.plain(row) & moves), None)
        for row in rows:
            if changing is not None and row is not changing:
                reason = _reason(_name(ties, row), _name(ties, (product,)), _name(ties, changing))
                found.update({run: reason for run in ties.plain(row) if run in resting and run not in found})
    return {run: found.get(run, _reason(None, None, None)) for run in resting}


def _name(ties: Ties, runs: Runs) -> str | None:
    """The name of an axis that consists of these runs; one that a user knows, if there is one."""
    names = [axis for axis, row in ties.axes.items() if row == runs]
    return min(names, key=lambda name: name.startswith("~"), default=None)


def _reason(factor: str | None, product: str | None, changing: str | None) -> str:
    subject = repr(factor) if factor and not factor.startswith("~") else "it"
    of = f" of {product!r}" if product else " of an axis"
    instead = f", of which {changing!r} changes" if changing else ", of which another changes"
    return f"{subject} is a factor{of}{instead}; several change at once only if the size of each is requested exactly"
