"""Which of the neurons that a program was traced with there are now, and which of these new neurons are like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from jaxtyping import Int

from naivenas_jax.errors import StructureError
from naivenas_jax.sizes.ties import Ties

#: A number for each neuron: of a class, or a position. That of a new neuron, which is like an old one, is ``-1 - old``.
Numbers: TypeAlias = Int[np.ndarray, " neurons"]


@dataclass(frozen=True, eq=False)
class Origins:
    """The neurons of some runs now, in terms of the neurons at first.

    Attributes:
      ties: the ties, with the first sizes.
      classes: for runs whose neurons are others now, the class of each (see `Ties.starts`).

    >>> ties = Ties((3, 2), {"a": (0, 1)}, {}, {}, {})
    >>> Origins(ties, {0: np.array([0, 2, -3])}).positions((0, 1))  # the third neuron is new, and like the last one
    array([ 0,  2, -3,  3,  4])
    """

    ties: Ties
    classes: Mapping[int, Numbers] = field(default_factory=dict)

    @classmethod
    def of_classes(cls, ties: Ties, classes: Mapping[int, Numbers]) -> Origins:
        """From the classes of the neurons of some runs, which may be those at first."""
        first = cls(ties)
        return cls(ties, {run: now for run, now in classes.items() if not np.array_equal(now, first.of(run))})

    def of(self, run: int) -> Numbers:
        """The classes of the neurons of a run, which is no product."""
        return self.classes.get(run, np.arange(self.ties.starts[run], self.ties.starts[run + 1]))

    def changed(self, runs: Iterable[int]) -> bool:
        """Whether some of these runs, or of their factors, have other neurons than at first."""
        return not self.classes.keys().isdisjoint(self.ties.plain(runs))

    def positions(self, row: Sequence[int]) -> Numbers:
        """Where the neurons of some runs, one after the other, lay at first.

        Raises:
          StructureError: if a new neuron is like one that is on none of these runs.
        """
        offsets: dict[int, list[int]] = {}
        at = 0
        for run in row:
            offsets.setdefault(run, []).append(at)
            at += self.ties.run_sizes[run]
        seen: Counter[int] = Counter()
        found = [np.arange(0)]
        for run in row:
            if run in self.ties.products:
                found.append(_shifted(self._product(run), offsets[run][seen[run]]))
            else:
                found.append(self._placed(run, offsets, seen[run]))
            seen[run] += 1
        return np.concatenate(found)

    def _product(self, run: int) -> Numbers:
        """All combinations of what the factors have now; one with a new member is new."""
        whole = np.zeros(1, int)
        for row in self.ties.products[run]:
            part, size = self.positions(row), self.ties.length(row)
            grid = old(whole)[:, None] * size + old(part)[None, :]
            whole = np.where((whole < 0)[:, None] | (part < 0)[None, :], -1 - grid, grid).ravel()
        return whole

    def _placed(self, run: int, offsets: Mapping[int, Sequence[int]], occurrence: int) -> Numbers:
        """The positions of the neurons of a run, the n-th time that it occurs."""
        numbers = self.of(run)
        homes = np.searchsorted(self.ties.starts, old(numbers), side="right") - 1
        moves = np.zeros(len(self.ties.run_sizes), int)
        for home in np.unique(homes).tolist():
            there = offsets.get(home, ())
            if occurrence >= len(there):
                raise StructureError(
                    "A new neuron is like one that is not on its axis, so that the entries that a constant of the "
                    "model has for it are not known."
                )
            moves[home] = there[occurrence] - self.ties.starts[home]
        return _shifted(numbers, moves[homes])


def old(numbers: Numbers) -> Numbers:
    """The numbers of the old neurons that these are, or are like."""
    return np.where(numbers < 0, -1 - numbers, numbers)


def carried(origins: Origins, other: Ties, shared: Iterable[tuple[Sequence[int], int]]) -> Origins:
    """The same neurons in the terms of another analysis.

    Args:
      origins: the neurons in one analysis.
      other: the ties of another one, with the first sizes.
      shared: runs of the first analysis, one after the other, and the run of the other one that is the same neurons.

    Raises:
      StructureError: if a new neuron is like one that the other analysis does not know as a neuron.
    """
    pairs = list(shared)
    starts = origins.ties.starts
    classes = np.full(starts[-1], -1)
    for runs, theirs in pairs:
        at = other.starts[theirs]
        for run in runs:
            if run not in origins.ties.products:
                classes[starts[run] : starts[run + 1]] = np.arange(origins.ties.run_sizes[run]) + at
            at += origins.ties.run_sizes[run]
    found: dict[int, Numbers] = {}
    for runs, theirs in pairs:
        if theirs in found or not origins.changed(runs):
            continue
        if origins.ties.products.keys().isdisjoint(runs):
            numbers = np.concatenate([origins.of(run) for run in runs])
            now = classes[old(numbers)]
            if (now < 0).any():
                raise StructureError("A new neuron is like one that a call of another kind does not have.")
            found[theirs] = np.where(numbers < 0, -1 - now, now)
        else:
            found[theirs] = _shifted(origins.positions(runs), other.starts[theirs])
    return Origins(other, found)


def _shifted(numbers: Numbers, by: Numbers | int) -> Numbers:
    """The numbers further on; new neurons stay new."""
    return np.where(numbers < 0, numbers - by, numbers + by)
