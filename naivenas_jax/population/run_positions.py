"""From axes to runs: how large every run of neurons is, and where its neurons come from.

A verb says what becomes of axes. Axes overlap (a concatenation lies on the neurons of its parts), runs do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from naivenas_jax.align.axis_plan import NEW, AxisPlan, Positions
from naivenas_jax.errors import StructureError
from naivenas_jax.sizes.ties import Ties


def sizes_of_runs(ties: Ties, sizes: Mapping[str, int]) -> dict[int, int]:
    """The size of every run that lies on an axis, products included, for given sizes of the axes.

    Args:
      ties: which runs each axis consists of.
      sizes: of every axis.

    Raises:
      StructureError: if the sizes of the axes leave the size of a run open, or there are no such sizes of runs: 4
        neurons that are 2 times 2 in one network, and 4 times 1 in another.
    """
    known: dict[int, int] = {}
    while found := dict(_solved(ties, sizes, known)):
        known |= found
    for axis, row in ties.axes.items():
        if not known.keys() >= ties.plain(row):
            raise StructureError(f"The sizes of the axes do not tell how large each part of {axis!r} is.")
    whole = ties.sizes_with({run: size for run, size in known.items() if run not in ties.products})
    for axis, size in sizes.items():
        if axis in whole and whole[axis] != size:
            raise StructureError(f"{axis!r} has {size} neurons, which are cut into other parts than those of the first")
    return known


def _solved(ties: Ties, sizes: Mapping[str, int], known: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    """Runs whose size follows from those that are known."""
    for axis, row in ties.axes.items():
        yield from _last_of(row, sizes[axis], known)
    for product, factors in ties.products.items():
        whole = [row for row in factors if all(run in known for run in row)]
        rest = math.prod(sum(known[run] for run in row) for row in whole)
        if product not in known and len(whole) == len(factors):
            yield product, rest
        if product in known and len(whole) == len(factors) - 1 and rest:
            (row,) = (row for row in factors if row not in whole)
            yield from _last_of(row, known[product] // rest, known)


def _last_of(row: tuple[int, ...], size: int, known: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    """The size of the one run of a row that is not known, if there is one."""
    left = {run for run in row if run not in known}
    if len(left) == 1:
        (run,) = left
        yield run, (size - sum(known[r] for r in row if r in known)) // row.count(run)


def positions_of_runs(ties: Ties, axes: Mapping[str, AxisPlan], after: Mapping[int, int]) -> dict[int, Positions]:
    """For every run that is no product the old position of each neuron in the run, or ``NEW``.

    Args:
      ties: of the network before.
      axes: what becomes of each axis.
      after: the size of every run after.
    """
    found: dict[int, Positions] = {}
    for axis, row in ties.axes.items():
        for run, source in _split(ties, row, axes[axis].source, after):
            found.setdefault(run, source)
    return found


def _split(
    ties: Ties, row: Iterable[int], source: Positions, after: Mapping[int, int]
) -> Iterator[tuple[int, Positions]]:
    """What becomes of an axis, run by run."""
    start = offset = 0
    for run in row:
        part = source[start : start + after[run]]
        places = np.where(part == NEW, NEW, part - offset)
        start, offset = start + after[run], offset + ties.run_sizes[run]
        if run not in ties.products:
            yield run, places
            continue
        factors = ties.products[run]
        before, now = ([sum(n[r] for r in row) for row in factors] for n in (ties.run_sizes, after))
        for factor, own in zip(factors, _of_factors(places, before, now), strict=True):
            yield from _split(ties, factor, own, after)


def _of_factors(source: Positions, before: list[int], now: list[int]) -> list[Positions]:
    """Where the members of each factor of a product come from, told by the combinations that were there before."""
    grid = source.reshape(now)
    coordinates = np.unravel_index(np.where(grid == NEW, 0, grid), before)
    return [
        np.where(grid == NEW, NEW, own).max(axis=tuple(d for d in range(len(now)) if d != dim), initial=NEW)
        for dim, own in enumerate(coordinates)
    ]
