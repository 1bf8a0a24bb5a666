"""The batches that a network is fitted to: gone through again and again, or some of their examples."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from math import ceil

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from naivenas_jax.errors import VariablesError
from naivenas_jax.graph.evaluation.batches import Batch
from naivenas_jax.graph.given_inputs import inputs_of
from naivenas_jax.graph.graph import Graph
from naivenas_jax.typing import Array, PyTree

#: Where a few examples from all over the batches are enough, they are taken of so many batches.
PIECES = 4


@dataclass(frozen=True, eq=False)
class Data:
    """Batches of inputs that can be gone through again, at least one.

    Attributes:
      batches: the batches as a user gave them.
      chosen: for each batch which of its examples are taken, or one entry: all of them or none; None: all of all.

    What a loader returned when it was first read is what it must return every time.
    """

    graph: Graph
    batches: Iterable[PyTree]
    chosen: Sequence[Bool[np.ndarray, " _"]] | None = None
    _checked: list[Batch] = field(default_factory=list)
    _seen: list[tuple[object, ...] | None] = field(default_factory=list)

    @classmethod
    def of(cls, graph: Graph, batches: Iterable[PyTree]) -> Data:
        """The batches that a user gives; an iterator is made into a list.

        Raises:
          VariablesError: if there are none, or they are no batches.
        """
        data = cls(graph, list(batches) if isinstance(batches, Iterator) else batches)
        if next(iter(data), None) is None:
            raise VariablesError("At least one batch of inputs is needed; batches= was empty (an iterator used up?).")
        return data

    def __iter__(self) -> Iterator[Batch]:
        first: list[bool] | None = None
        for number, batch in enumerate(self._arrays()):
            kinds = [bool(jnp.iscomplexobj(array)) for array in batch]
            first = first or kinds
            if kinds != first:
                raise VariablesError(
                    f"Batch {number} of batches= has inputs of dtypes {[str(jnp.result_type(x)) for x in batch]}: all "
                    "batches hold complex numbers, or none of them does."
                )
            own = None if self.chosen is None else self.chosen[number]
            if own is None or (own.all() and own.any()):
                yield batch
            elif own.any():
                yield tuple(array[np.flatnonzero(own)] for array in batch)

    def _arrays(self) -> Iterable[Batch]:
        """The inputs of every batch. Those of a list are checked once, what a loader returns every time."""
        if not isinstance(self.batches, list | tuple):
            return self._as_before(inputs_of(self.graph, self.batches, VariablesError))
        if not self._checked:
            self._checked.extend([*inputs_of(self.graph, self.batches, VariablesError)])  # all of them or none
        return self._checked

    def _as_before(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, if a loader returns the same ones every time: what was made of them belongs to no others.

        Raises:
          VariablesError: if it does not; names the first batch that is another one.
        """
        for number, batch in enumerate(chain(batches, [None])):  # None: the end is in its place, too
            mark = None if batch is None else tuple(_mark(array) for array in batch)
            if number == len(self._seen):
                self._seen.append(mark)
            if mark != self._seen[number]:
                raise VariablesError(
                    "batches= is read several times and must be the same every time, but is now another one from batch "
                    f"{number} on (shuffled, or augmented at random?). Make a list of it: list(batches)."
                )
            if batch is not None:
                yield batch

    def only(self, chosen: Sequence[Bool[np.ndarray, " _"]]) -> Data:
        """Some of the examples; see `Data`."""
        return replace(self, chosen=chosen)

    def spread(self, examples: int, whole: bool = False) -> Data:
        """So many examples, from all over the batches, which may be sorted.

        Args:
          examples: how many, at least.
          whole: whether batches are whole. Otherwise they are cut, if some of the examples of each were chosen before.
        """
        chosen = [np.array([True])] * self.number if self.chosen is None else self.chosen
        sizes = [
            int(own.sum()) if own.size > 1 else int(own.any()) * examples_in(batch)
            for own, batch in zip(chosen, self._arrays(), strict=True)
        ]
        there = [number for number, size in enumerate(sizes) if size]
        cut = not whole and all(chosen[number].size > 1 for number in there)
        batches = PIECES if cut else ceil(examples * len(there) / max(sum(sizes), 1))
        picked = [there[place] for place in _evenly(len(there), batches)]
        found = [own & (number in picked) for number, own in enumerate(chosen)]
        for own in (found[number] for number in picked if cut):
            places = np.flatnonzero(own)
            own[:] = False
            own[places[_evenly(len(places), ceil(examples / len(picked)))]] = True
        return self.only(found)

    @cached_property
    def first(self) -> Batch:
        """The first batch."""
        return next(iter(self))

    @cached_property
    def alike(self) -> bool:
        """Whether the examples of all batches have the same shapes."""
        return len({tuple(array.shape[1:] for array in batch) for batch in self}) == 1

    @cached_property
    def number(self) -> int:
        """How many batches there are."""
        if self.chosen is not None:
            return sum(bool(own.any()) for own in self.chosen)
        return len(self.batches) if isinstance(self.batches, Sized) else sum(1 for _ in self.batches)


def examples_in(batch: Batch) -> int:
    """How many examples are in a batch, if these are what lies along the longest first dimension."""
    return max((int(np.shape(array)[0]) for array in batch if np.ndim(array)), default=1)


def _evenly(number: int, most: int) -> Int[np.ndarray, " some"]:
    """So many places among a number of them, or all, evenly spaced."""
    return np.unique(np.linspace(0, number - 1, min(number, most)).round().astype(int))


#: So many entries of an array tell it from others.
MARKED = 4096


def _mark(array: Array) -> tuple[object, ...]:
    """What tells an array from others: its shape, dtype, and a sum over bytes of entries from all over it."""
    entries = np.asarray(array).reshape(-1)
    some = entries[:: max(1, entries.size // MARKED)]
    return np.shape(array), str(array.dtype), zlib.crc32(some.tobytes())
