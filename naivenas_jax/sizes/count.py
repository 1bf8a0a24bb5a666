"""Counts that depend on sizes: sums of products of sizes, ``sum(c * size(a) * size(b) * ...)``.

Parameters and operations are such counts, since every array has as many entries as the product of its sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

#: The axes of a product of sizes.
Factors: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class Count:
    """``sum(coefficient * product of the sizes of the axes)``; no axes: a constant.

    Attributes:
      terms: the coefficient of each product of sizes. An axis may occur in a product more than once.

    >>> kernel = Count.axis("in") * Count.axis("out") * 9
    >>> (kernel + Count.axis("out")).at({"in": 2, "out": 10})
    190
    """

    terms: Mapping[Factors, float] = field(default_factory=dict)

    @classmethod
    def constant(cls, value: float) -> Count:
        """The same number for all sizes."""
        return cls({(): float(value)} if value else {})

    @classmethod
    def axis(cls, name: str) -> Count:
        """The size of one axis."""
        return cls({(name,): 1.0})

    @classmethod
    def total(cls, counts: Iterable[Count]) -> Count:
        """The sum of counts."""
        found: dict[Factors, float] = {}
        for count in counts:
            for factors, value in count.terms.items():
                found[factors] = found.get(factors, 0.0) + value
        return cls({factors: value for factors, value in found.items() if value})

    def __add__(self, other: Count) -> Count:
        return Count.total((self, other))

    def __mul__(self, other: Count | float) -> Count:
        if not isinstance(other, Count):
            return Count({factors: value * other for factors, value in self.terms.items() if other})
        return Count.total(
            Count({tuple(sorted((*a, *b))): x * y}) for a, x in self.terms.items() for b, y in other.terms.items()
        )

    @property
    def axes(self) -> frozenset[str]:
        """The axes that the count depends on."""
        return frozenset(axis for factors in self.terms for axis in factors)

    def at(self, sizes: Mapping[str, int]) -> int:
        """The count for given sizes."""
        return round(math.fsum(value * math.prod(sizes[axis] for axis in f) for f, value in self.terms.items()))

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))
