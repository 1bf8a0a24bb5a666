"""Which neurons belong together: a union-find over ranges of neurons.

Networks tie whole ranges (all 256 outputs of one layer to all 256 of another), so the structure stores ranges and
splits one only where a tie or a boundary cuts through it. Its cost follows the number of ranges, not of neurons.

A range may be empty: a place where neurons can be inserted but where none are yet (a new slot of a concatenation). A
tie carries such places over, so that what is inserted on one side is inserted at the same place on the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

Piece = tuple[int, int, int]  # node, first element in it, end


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

    def each(self, times: int) -> Vector:
        """Every neuron ``times`` times in a row."""
        if times == 1:
            return self
        singles = ((node, i, i + 1) for node, start, stop in self.pieces for i in range(start, stop))
        return Vector(tuple(piece for single in singles for piece in (single,) * times))

    def is_pattern(self, outer: int, inner: int) -> bool:
        """Whether it is some shorter vector with each neuron ``inner`` times, and all that ``outer`` times over."""
        elements = [(node, i) for node, start, stop in self.pieces for i in range(start, stop)]
        period = len(elements) // outer
        return all(element == elements[p % period // inner * inner] for p, element in enumerate(elements))

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


class Blocks:
    """Hands out elements and ties them. The only mutable thing of an analysis; it does not outlive it.

    >>> blocks = Blocks()
    >>> a, b = blocks.new(4), blocks.new(2)
    >>> blocks.tie(a.cut(0, 2), b)
    >>> runs, (first, second) = blocks.settle([a, b])
    >>> runs, first, second                                 # two runs of two; b is the first of them
    ((2, 2), (0, 1), (0,))
    """

    def __init__(self) -> None:
        self._size: list[int] = []
        # None: a root. An int: tied as a whole to that node. A pair: split into these two.
        self._link: list[int | tuple[int, int] | None] = []
        #: Empty places at which nothing can ever be inserted, because a vector would have to be longer than itself.
        self.stuck: list[Vector] = []
        self._any_places = False

    def new(self, size: int) -> Vector:
        """``size`` fresh elements; with size 0 an empty place that neurons may be inserted at."""
        self._any_places |= size == 0
        return Vector(((self._node(size), 0, size),))

    def tie(self, a: Vector, b: Vector) -> None:
        """Tie the i-th element of ``a`` to the i-th of ``b``, for all i. Both must be equally long."""
        if len(a) != len(b):
            raise AssertionError(f"Vectors of {len(a)} and {len(b)} elements cannot be tied index by index.")
        self._share_places(a, b)
        left, right = deque(a.pieces), deque(b.pieces)
        while (x := self._head(left)) and (y := self._head(right)):
            size = min(_length(x), _length(y))
            if self._spans(x, size) and self._spans(y, size):
                self._merge(x[0], y[0])
            elif x[:2] != y[:2]:
                # Cut one of the two and look again: both may lie in the same node, so the cut can move the other.
                left.appendleft(x)
                right.appendleft(y)
                self._isolate(y if self._spans(x, size) else x, size)
            else:  # the very same elements: tied already
                _put_back(left, x, size)
                _put_back(right, y, size)

    def _share_places(self, a: Vector, b: Vector) -> None:
        """Make every empty place of one vector a place of the other too. Before merging, which would blur whose it is."""
        for own, other in ((a, b), (b, a)):
            for place in self._places(own):
                if place in self._places(other):
                    continue
                self._graft(place[1], other, place[0])
                if self._places(own).count(place) != self._places(other).count(place):
                    self.stuck.append(Vector(((place[1], 0, 0),)))  # one side would have to be longer than itself

    def _places(self, vector: Vector) -> list[tuple[int, int]]:
        """The empty places of a vector: offset and node of each."""
        if not self._any_places:
            return []
        found, offset, queue = [], 0, deque(vector.pieces)
        while piece := self._head(queue, empty=True):
            if not _length(piece):
                found.append((offset, piece[0]))
            offset += _length(piece)
        return found

    def _graft(self, place: int, vector: Vector, offset: int) -> None:
        """Put an empty place into the node that holds ``offset`` of ``vector``, as high above its parts as can be."""
        node, at = _locate(vector, offset)
        while True:
            link = self._link[node]
            if isinstance(link, int):
                node = link
            elif link is None or not 0 < at < self._size[node]:
                break
            elif at == self._size[link[0]]:
                self._link[node] = (link[0], self._pair(place, link[1]))
                return
            elif at < self._size[link[0]]:
                node = link[0]
            else:
                node, at = link[1], at - self._size[link[0]]
        if 0 < at < self._size[node]:
            self._link[node] = (self._node(at), self._pair(place, self._node(self._size[node] - at)))
        else:
            rest = self._node(self._size[node])
            self._link[rest] = link
            self._link[node] = (rest, place) if at else (place, rest)

    def _pair(self, low: int, high: int) -> int:
        node = self._node(self._size[low] + self._size[high])
        self._link[node] = (low, high)
        return node

    def settle(self, vectors: Iterable[Vector]) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
        """Cut at every boundary, then number the ranges in order of appearance.

        Returns:
          The size of each range ("run"), and for each vector the runs it consists of, in order.
        """
        vectors = list(vectors)
        for vector in vectors:
            self._settle_boundaries(vector)
        number: dict[int, int] = {}
        rows = [tuple(number.setdefault(node, len(number)) for node in self._roots(vector)) for vector in vectors]
        return tuple(self._size[node] for node in number), rows

    def _settle_boundaries(self, vector: Vector) -> None:
        queue = deque(vector.pieces)
        while piece := self._head(queue):
            if not self._spans(piece, _length(piece)):
                self._isolate(piece, _length(piece))
                queue.appendleft(piece)

    def _roots(self, vector: Vector) -> Iterator[int]:
        queue = deque(vector.pieces)
        while piece := self._head(queue, empty=True):
            yield piece[0]

    def _node(self, size: int) -> int:
        self._size.append(size)
        self._link.append(None)
        return len(self._size) - 1

    def _head(self, queue: deque[Piece], empty: bool = False) -> Piece | None:
        """Take the longest front part of the queue that lies in one root; None if nothing is left.

        Empty places are passed over, unless ``empty``. They belong to the ranges that begin where they stand, and at the
        very end of a node to those that end there.
        """
        while queue:
            node, start, stop = queue.popleft()
            while (link := self._link[node]) is not None:
                if isinstance(link, int):
                    node = link
                    continue
                low, high = link
                boundary = self._size[low]
                if start > boundary or (start == boundary and boundary):
                    node, start, stop = high, start - boundary, stop - boundary
                    continue
                if stop > boundary or (stop == boundary and not self._size[high]):
                    queue.appendleft((high, 0, stop - boundary))
                node, stop = low, min(stop, boundary)
            if empty or start < stop:
                return node, start, stop
        return None

    def _spans(self, piece: Piece, size: int) -> bool:
        return piece[1] == 0 and self._size[piece[0]] == size

    def _isolate(self, piece: Piece, size: int) -> None:
        """Split the root of ``piece`` where its first ``size`` elements begin, or else where they end."""
        node, start, _ = piece
        boundary = start if start > 0 else size
        self._link[node] = (self._node(boundary), self._node(self._size[node] - boundary))

    def _merge(self, a: int, b: int) -> None:
        if a != b:
            self._link[max(a, b)] = min(a, b)


def _length(piece: Piece) -> int:
    return piece[2] - piece[1]


def _locate(vector: Vector, offset: int) -> tuple[int, int]:
    """The node that holds an offset of a vector, and the position in it."""
    for node, start, stop in vector.pieces:
        if offset < stop - start:
            return node, start + offset
        offset -= stop - start
    return node, stop


def _put_back(queue: deque[Piece], piece: Piece, done: int) -> None:
    node, start, stop = piece
    if start + done < stop:
        queue.appendleft((node, start + done, stop))
