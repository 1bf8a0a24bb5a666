"""Which neurons are tied: a union-find over ranges of neurons.

Networks tie whole ranges (all 256 outputs of one layer to all 256 of another), so the structure stores ranges and
splits one only where a tie or a boundary cuts through it. Its cost follows the number of ranges, not of neurons.

A range may be empty: a place where neurons can be inserted but where none are yet (a new slot of a concatenation). A
tie copies such places from each side to the other, so that neurons are inserted at the same place on both.

A range may be a product: a reshape merges axes into one, whose neurons are pairs (of a head and a feature of the head,
of a position and a channel). A pair stays for as long as both of its members stay.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import mul

from naivenas_jax.sizes.vector import Piece, Vector, length, locate


@dataclass(frozen=True)
class Combinations:
    """All combinations of the neurons of the factors, the last factor running fastest."""

    factors: tuple[Vector, ...]

    @property
    def inner(self) -> int:
        """How many combinations there are for one neuron of the first factor."""
        return math.prod(len(factor) for factor in self.factors[1:])

    def rows(self, start: int, stop: int) -> Combinations:
        """The combinations of some neurons of the first factor."""
        return Combinations((self.factors[0].cut(start, stop), *self.factors[1:]))


class Blocks:
    """Hands out elements and ties them. It is the only mutable part of an analysis, and is dropped at its end.

    >>> blocks = Blocks()
    >>> a, b = blocks.new(4), blocks.new(2)
    >>> blocks.tie(a.cut(0, 2), b)
    >>> runs, (first, second) = blocks.settle([a, b])
    >>> runs, first, second                                 # two runs of two; b is the first of them
    ((2, 2), (0, 1), (0,))
    """

    def __init__(self) -> None:
        self._size: list[int] = []
        # None: a root. An int: tied as a whole to that node. A pair: split into these two. A product: a root, too.
        self._link: list[int | tuple[int, int] | Combinations | None] = []
        #: Factors of products that are tied to one another, but are made of factors of other sizes.
        self.clashes: list[Vector] = []
        #: Empty places at which nothing can ever be inserted, because a vector would have to be longer than itself.
        self.stuck: list[Vector] = []
        self._any_places = False

    def new(self, size: int) -> Vector:
        """``size`` fresh elements; with size 0 an empty place that neurons may be inserted at."""
        self._any_places |= size == 0
        return Vector(((self._node(size), 0, size),))

    def product(self, factors: Sequence[Vector]) -> Vector:
        """The neurons of several axes merged into one, row by row."""
        if len(factors) == 1:
            return factors[0]
        node = self._product(Combinations(tuple(factors)))
        return Vector(((node, 0, self._size[node]),))

    def factor(self, vector: Vector, sizes: Sequence[int]) -> list[Vector]:
        """The inverse of `product`: factors of these sizes, such that ``vector`` is their product from now on.

        >>> blocks = Blocks()
        >>> fused = blocks.new(6)
        >>> heads, features = blocks.factor(fused, (2, 3))
        >>> runs, rows, products = blocks.settle_all([fused, heads, features])
        >>> rows, products
        ([(0,), (1,), (2,)], {0: ((1,), (2,))})
        """
        known = self.factors_of(vector)
        if [len(factor) for factor in known] == list(sizes):
            return list(known)
        factors = [self.new(size) for size in sizes]
        self.tie(vector, self.product(factors))
        return factors

    def factors_of(self, vector: Vector) -> tuple[Vector, ...]:
        """The factors of a vector that is one whole product; of others an empty tuple."""
        queue = deque(vector.pieces)
        piece = self._head(queue)
        link = self._link[piece[0]] if piece and self._spans(piece, len(vector)) else None
        return link.factors if isinstance(link, Combinations) else ()

    def factors_within(self, vector: Vector) -> tuple[Vector, ...]:
        """As `factors_of`; for a vector that is no product, the factors of all products on it, each once."""
        found: dict[tuple[int, ...], Vector] = {}
        queue = deque(vector.pieces)
        while piece := self._head(queue):
            link = self._link[piece[0]]
            if isinstance(link, Combinations) and self._is_whole(piece):
                for factor in link.factors:
                    found.setdefault(tuple(self._roots(factor)), factor)
        return self.factors_of(vector) or tuple(found.values())

    def tie(self, a: Vector, b: Vector) -> None:
        """Tie the i-th element of ``a`` to the i-th of ``b``, for all i. Both must be equally long."""
        if len(a) != len(b):
            raise AssertionError(f"Vectors of {len(a)} and {len(b)} elements cannot be tied index by index.")
        self._share_places(a, b)
        left, right = deque(a.pieces), deque(b.pieces)
        while (x := self._head(left)) and (y := self._head(right)):
            size = min(end - start for _, start, end in (x, y))
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
        """Make every empty place of one vector a place of the other too.

        This comes before the vectors are merged, since then nobody can tell on which of them a place was.
        """
        for own, other in ((a, b), (b, a)):
            for place in self._places(own):
                if place not in self._places(other):
                    self._graft(place[1], other, place[0])
        left, right = Counter(self._places(a)), Counter(self._places(b))
        for _, node in (left - right) + (right - left):  # a graft may also have put it where it was already
            self.stuck.append(Vector(((node, 0, 0),)))  # one side would have to be longer than itself

    def _places(self, vector: Vector) -> list[tuple[int, int]]:
        """The empty places of a vector: offset and node of each."""
        if not self._any_places:
            return []
        found, offset, queue = [], 0, deque(vector.pieces)
        while piece := self._head(queue, empty=True):
            if not length(piece):
                found.append((offset, piece[0]))
            offset += length(piece)
        return found

    def _graft(self, place: int, vector: Vector, offset: int) -> None:
        """Put an empty place into the tree of nodes at an offset of a vector, as near to the root as it fits."""
        node, at = locate(vector, offset)
        while True:
            link = self._link[node]
            if isinstance(link, int):
                node = link
            elif link is None or not 0 < at < self._size[node]:
                break
            elif isinstance(link, Combinations):
                self._cut_product(node, link, at)
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
        """A new node that is split into these two."""
        node = self._node(self._size[low] + self._size[high])
        self._link[node] = (low, high)
        return node

    def settle(self, vectors: Iterable[Vector]) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
        """Cut at every boundary, then number the ranges in order of appearance.

        Returns:
          The size of each range ("run"), and for each vector the runs it consists of, in order.
        """
        return self.settle_all(vectors)[:2]

    def settle_all(
        self, vectors: Iterable[Vector]
    ) -> tuple[tuple[int, ...], list[tuple[int, ...]], dict[int, tuple[tuple[int, ...], ...]]]:
        """As `settle`; also, for each run that is a product, the runs of each of its factors."""
        wanted = list(vectors)
        self._settle_boundaries(wanted)
        number: dict[int, int] = {}
        rows = [self._row(vector, number) for vector in wanted]
        products: dict[int, tuple[tuple[int, ...], ...]] = {}
        todo = list(number)
        while todo:
            node = todo.pop(0)
            link = self._link[node]
            if isinstance(link, Combinations):
                before = len(number)
                products[number[node]] = tuple(self._row(factor, number) for factor in link.factors)
                todo += list(number)[before:]
        return tuple(self._size[node] for node in number), rows, products

    def _row(self, vector: Vector, number: dict[int, int]) -> tuple[int, ...]:
        """The numbers of the roots on a vector; those that have none yet get the next ones."""
        return tuple(number.setdefault(node, len(number)) for node in self._roots(vector))

    def _settle_boundaries(self, vectors: Iterable[Vector]) -> None:
        """Cut until every vector, and every factor of a product that it holds, consists of whole nodes."""
        todo, done = list(vectors), set[int]()
        while todo:
            queue = deque(todo.pop().pieces)
            while piece := self._head(queue):
                link = self._link[piece[0]]
                if not self._is_whole(piece):
                    self._isolate(piece, length(piece))
                    queue.appendleft(piece)
                elif isinstance(link, Combinations) and piece[0] not in done:
                    done.add(piece[0])
                    todo.extend(link.factors)

    def _roots(self, vector: Vector) -> Iterator[int]:
        """The roots of the ranges on a vector, empty places among them."""
        queue = deque(vector.pieces)
        while piece := self._head(queue, empty=True):
            yield piece[0]

    def _node(self, size: int) -> int:
        """A new root."""
        self._size.append(size)
        self._link.append(None)
        return len(self._size) - 1

    def _head(self, queue: deque[Piece], empty: bool = False) -> Piece | None:
        """Take the longest front part of the queue that lies in one root; None if nothing is left.

        Empty places are passed over, unless ``empty``. They belong to the ranges that begin where they stand, and at
        the very end of a node to those that end there.
        """
        while queue:
            node, start, stop = queue.popleft()
            while (link := self._link[node]) is not None and not isinstance(link, Combinations):
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

    def _is_whole(self, piece: Piece) -> bool:
        """Whether a range is all of its node."""
        return piece[1] == 0 and self._size[piece[0]] == piece[2]

    def _spans(self, piece: Piece, size: int) -> bool:
        """Whether the first ``size`` elements of a range are all that its node has."""
        return piece[1] == 0 and self._size[piece[0]] == size

    def _isolate(self, piece: Piece, size: int) -> None:
        """Split the root of ``piece`` where its first ``size`` elements begin, or else where they end."""
        node, start, _ = piece
        boundary, link = start if start > 0 else size, self._link[node]
        if isinstance(link, Combinations):
            self._cut_product(node, link, boundary)
        else:
            self._link[node] = (self._node(boundary), self._node(self._size[node] - boundary))

    def _product(self, product: Combinations) -> int:
        node = self._node(len(product.factors[0]) * product.inner)
        self._link[node] = product
        return node

    def _cut_product(self, node: int, product: Combinations, boundary: int) -> None:
        """Split a product. A cut through the combinations of one neuron of the first factor splits these in two."""
        first, inner = product.factors[0], product.inner
        row, rest = divmod(boundary, inner)
        low = [self._product(product.rows(0, row))] if row else []
        below = row + bool(rest)
        high = [self._product(product.rows(below, len(first)))] if below < len(first) else []
        if rest:
            alone, others = first.cut(row, row + 1), self.product(product.factors[1:])
            parts = others.cut(0, rest), others.cut(rest, inner)
            before, after = (self._product(Combinations((alone, part))) for part in parts)
            low, high = [*low, before], [after, *high]
        self._link[node] = (self._chain(low), self._chain(high))

    def _chain(self, nodes: list[int]) -> int:
        return nodes[0] if len(nodes) == 1 else self._pair(nodes[0], nodes[1])

    def _merge(self, a: int, b: int) -> None:
        """Tie two roots of the same size as a whole."""
        if a == b:
            return
        one, other = self._link[a], self._link[b]
        if isinstance(one, Combinations) and isinstance(other, Combinations):
            self._merge_products(one, other)
        elif self._holds(one, b) or self._holds(other, a):
            self.clashes += [Vector(((node, 0, self._size[node]),)) for node in (a, b)]  # it is a factor of itself
        elif isinstance(one, Combinations) or (other is None and a < b):
            self._link[b] = a
        else:
            self._link[a] = b

    def _holds(self, link: object, node: int) -> bool:
        """Whether a node lies in a factor of a product, or in a factor of one of its factors, and so on."""
        todo = list(link.factors) if isinstance(link, Combinations) else []
        while todo:
            queue = deque(todo.pop().pieces)
            while piece := self._head(queue):
                if piece[0] == node:
                    return True
                below = self._link[piece[0]]
                if isinstance(below, Combinations):
                    todo.extend(below.factors)
        return False

    def _merge_products(self, a: Combinations, b: Combinations) -> None:
        """Tie factor by factor; where factors of one span several of the other, they are factored too."""
        left, right = list(a.factors), list(b.factors)
        while left and right:
            xs, ys = [left.pop(0)], [right.pop(0)]
            while (m := _ends(xs)[-1]) != (n := _ends(ys)[-1]):
                if m < n:
                    xs.append(left.pop(0))
                else:
                    ys.append(right.pop(0))
            ends = sorted((Counter(_ends(xs)) | Counter(_ends(ys))).elements())
            if any(high % low for low, high in pairwise(ends)):  # 3 x 4 and 4 x 3
                self.clashes += [*xs, *ys]
                continue
            for x, y in zip(self._parts(xs, ends), self._parts(ys, ends), strict=True):
                self.tie(x, y)

    def _parts(self, factors: Sequence[Vector], ends: Sequence[int]) -> list[Vector]:
        """The factors, cut so that the products of the first sizes are ``ends``: 4 x 2 at (2, 4, 8) is 2 x 2 x 2."""
        found, rest, own, start = list[Vector](), deque(ends), _ends(factors), 1
        for i, (factor, end) in enumerate(zip(factors, own, strict=True)):
            alike = 1 if end in own[i + 1 :] else rest.count(end)  # factors of size one follow
            cuts = [start, *(rest.popleft() for _ in range(sum(n < end for n in rest) + alike))]
            sizes = [high // low for low, high in pairwise(cuts)]
            found += self.factor(factor, sizes) if len(sizes) > 1 else [factor]
            start = end
        return found


def _ends(factors: Sequence[Vector]) -> list[int]:
    """The products of the sizes of the first factor, of the first two, and so on."""
    return list(accumulate(map(len, factors), mul))


def _put_back(queue: deque[Piece], piece: Piece, done: int) -> None:
    node, start, stop = piece
    if start + done < stop:
        queue.appendleft((node, start + done, stop))
