"""Branch and bound over the totals of groups, for small problems: what is left in the end is counted out.

At given prices the Lagrangian bounds the utility of all solutions in which a group has a certain total. Where that is
no more than the best solution so far, the total is left out. Few are left, and all solutions made of them are counted
out; where they are still too many, the totals of one group are split. That needs no solver.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from naivenas_jax.align.bound.group_totals import Totals
from naivenas_jax.align.problem.free_groups import PerGroup
from naivenas_jax.align.program.milp import NoSolutionError
from naivenas_jax.align.solve.price_search import Bounded, PriceSearch

#: So many parts are looked at. A number and not a time, so that the solution is the same on every machine.
_PARTS = 400
#: So many solutions are counted out, and of these so many are checked against all constraints.
_COUNTED, _CHECKED = 30_000, 2_000
#: How often the tangents of the Lagrangian bound are moved in a part.
_MOVES = 2


@dataclass(order=True)
class _Part:
    """Some totals of each group.

    Attributes:
      bound: no solution made of them has more utility (negated, for the heap).
      number: parts are numbered as they are made; of equal bounds the earlier part comes first.
      totals: of each group.
      at: shape (free,): where tangents touch at first.
    """

    bound: float
    number: int
    totals: Sequence[Totals] = field(compare=False)
    at: PerGroup = field(compare=False)


def totals_bounds(search: PriceSearch, whole: Bounded) -> Iterator[float]:
    """Look for solutions; yields lower and lower upper bounds of the utility of any.

    Args:
      search: the search, whose best solution this may replace.
      whole: the bound of the whole space.
    """
    heap, made, closed = [_Part(-whole.upper.utility, 0, search.lagrangian.allowed, whole.upper.totals)], 0, -math.inf
    for _ in range(_PARTS):
        if not heap:
            break
        yield max([search.value, closed, *(-part.bound for part in heap)])
        part = heapq.heappop(heap)
        if -part.bound <= search.enough:
            heapq.heappush(heap, part)
            break
        try:
            found = search.bounded(part.totals, part.at, _MOVES)
        except NoSolutionError:
            continue
        bound = min(-part.bound, found.upper.utility)
        totals, left_out = _promising(search, part.totals, found)
        closed = max(closed, min(bound, left_out))
        if math.prod(map(len, totals)) <= _COUNTED:
            closed = max(closed, min(bound, _counted_out(search, totals)))
            continue
        shrunk = math.prod(map(len, totals)) <= 0.5 * math.prod(map(len, part.totals))
        for own in [totals] if shrunk else _split(totals, found):
            made += 1
            heapq.heappush(heap, _Part(-bound, made, own, found.upper.totals))
    yield max([search.value, closed, *(-part.bound for part in heap)])


def _promising(search: PriceSearch, totals: Sequence[Totals], found: Bounded) -> tuple[list[Totals], float]:
    """The totals with which a solution may be better than the best so far; and the bound of all others."""
    enough = search.near_enough(0.5)
    bounds = [np.full(len(own), math.inf) for own in totals]
    for end in found.ends:
        bounds = [np.minimum(*both) for both in zip(bounds, found.relaxation.with_each(end), strict=True)]
    left_out = max((float(own[own <= enough].max(initial=-math.inf)) for own in bounds), default=-math.inf)
    return [own[bound > enough] for own, bound in zip(totals, bounds, strict=True)], left_out


def _counted_out(search: PriceSearch, totals: Sequence[Totals]) -> float:
    """Offer the best of all solutions made of some totals; returns an upper bound of the utility of the others."""
    if not all(len(own) for own in totals):
        return -math.inf
    utilities = [most[own] for most, own in zip(search.lagrangian.most, totals, strict=True)]
    utility = sum(np.meshgrid(*utilities, indexing="ij", sparse=True), start=np.zeros(()))
    better = np.flatnonzero(utility.ravel() > search.value + 1e-12)
    places = np.unravel_index(better, [len(own) for own in totals])
    every = np.stack([own[at] for own, at in zip(totals, places, strict=True)], axis=1)
    fits = search.local_search.which_may_do(every)
    gained = utility.ravel()[better[fits]]
    order = np.argsort(-gained, kind="stable")
    for choice in order[:_CHECKED].tolist():
        if gained[choice] <= search.value:
            return -math.inf
        search.require_time()
        search.offer(search.lagrangian.solution(every[fits[choice]]))
    return float(gained[order[_CHECKED]]) if len(order) > _CHECKED else -math.inf


def _split(totals: Sequence[Totals], found: Bounded) -> Iterator[list[Totals]]:
    """Two parts, split at the group in which the bound is loosest, where it is reached."""
    several = [g for g, own in enumerate(totals) if len(own) > 1]
    group = max(several, key=lambda g: (float(found.upper.loose[g]), len(totals[g]), -g))
    own = totals[group]
    middle = int(np.clip(np.searchsorted(own, found.upper.totals[group], side="right"), 1, len(own) - 1))
    for half in (own[:middle], own[middle:]):
        yield [*totals[:group], half, *totals[group + 1 :]]
