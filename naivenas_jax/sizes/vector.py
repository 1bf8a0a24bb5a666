"""The neurons of one axis, in order, as ranges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

#: A range of elements of a `Blocks`: its node, the first element in the node, and the end.
Piece: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True)
class Vector:
    """The neurons of one axis, in order, as ranges of elements of a `Blocks`. An element may occur more than once."""

    pieces: tuple[Piece, ...]

    def __len__(self) -> int:
        return sum(stop - start for _, start, stop in self.pieces)

    @staticmethod
    def concat(vectors: Iterable[Vector]) -> Vector:
        """The neurons of all vectors, one after the other."""
        return Vector(tuple(chain.from_iterable(vector.pieces for vector in vectors)))

    def tile(self, times: int) -> Vector:
        """The whole vector, ``times`` times over."""
        return Vector(self.pieces * times)

    def cut(self, start: int, stop: int) -> Vector:
        """The neurons from ``start`` up to ``stop``."""
        return Vector(tuple(_cut(self.pieces, start, stop)))


def _cut(pieces: Iterable[Piece], start: int, stop: int) -> Iterator[Piece]:
    offset = 0
    for node, first, end in pieces:
        low, high = max(first, first + start - offset), min(end, first + stop - offset)
        if low < high:
            yield node, low, high
        offset += end - first


def length(piece: Piece) -> int:
    """The number of elements in a range."""
    return piece[2] - piece[1]


def locate(vector: Vector, offset: int) -> tuple[int, int]:
    """The node that holds an offset of a vector, and the position in it."""
    for node, start, stop in vector.pieces:
        if offset < stop - start:
            return node, start + offset
        offset -= stop - start
    return node, stop
