"""Budgets: a count of parameters or operations may not exceed a bound. Counts are sums of products of sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int, Real

from naivenas_jax.sizes.count import Count

Monomial = tuple[int, ...]


@dataclass(frozen=True)
class Budget:
    """``count <= bound``.

    Attributes:
      name: of the budget, for messages: "max_params".
      count: what is limited, in terms of axes.
      bound: the most that it may be.
    """

    name: str
    count: Count
    bound: float

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether sizes are within the budget."""
        return self.count.at(sizes) <= self.bound

    def __str__(self) -> str:
        return f"{self.name} <= {self.bound:g}"


@dataclass(frozen=True, eq=False)
class Polynomial:
    """A count in terms of the rows of a problem whose sizes may change.

    Attributes:
      terms: the coefficient of each product of rows.
      constant: what cannot change.
      bound: the most that it may be.
    """

    terms: Mapping[Monomial, float]
    constant: float
    bound: float

    @classmethod
    def of(cls, budget: Budget, row_of: Mapping[str, int], fixed: Mapping[int, float]) -> Polynomial:
        """Read a budget; ``fixed``: the sizes of rows that cannot change."""
        terms: dict[Monomial, float] = {}
        for factors, value in budget.count.terms.items():
            rows = [row_of[axis] for axis in factors]
            key = tuple(sorted(row for row in rows if row not in fixed))
            terms[key] = terms.get(key, 0.0) + value * math.prod(fixed[row] for row in rows if row in fixed)
        constant = terms.pop((), 0.0)
        return cls({key: value for key, value in terms.items() if value}, constant, budget.bound)

    def at(self, sizes: Real[np.ndarray, " rows"]) -> float:
        """The count for the sizes of all rows."""
        return self.constant + float(self._values @ self._factors(sizes).prod(1))

    def at_each(self, sizes: Real[np.ndarray, "choices rows"]) -> Float[np.ndarray, " choices"]:
        """The count for many choices of sizes."""
        counts = np.full(len(sizes), self.constant)
        for rows, value in self.terms.items():
            counts += value * np.prod(sizes[:, list(rows)], axis=1, dtype=float)
        return counts

    def gradient(self, sizes: Real[np.ndarray, " rows"]) -> dict[int, float]:
        """The derivative by each row."""
        factors, found = self._factors(sizes), np.zeros(len(sizes) + 1)
        for i in range(factors.shape[1]):
            rest = self._values * np.delete(factors, i, 1).prod(1)
            found += np.bincount(self._rows[:, i] % len(found), rest, len(found))
        return {row: float(found[row]) for row in self.rows}

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """The rows that the count depends on."""
        return tuple(dict.fromkeys(row for rows in self.terms for row in rows))

    @cached_property
    def _rows(self) -> Int[np.ndarray, "products factors"]:
        """The rows of each product, shape (products, most factors); -1 where it has fewer."""
        most = max(map(len, self.terms), default=1)
        padded = [(*rows, *(-1,) * (most - len(rows))) for rows in self.terms]
        return np.array(padded, dtype=int).reshape(len(padded), most)

    @cached_property
    def _values(self) -> Float[np.ndarray, " products"]:
        return np.array(list(self.terms.values()), dtype=float)

    def _factors(self, sizes: Real[np.ndarray, " rows"]) -> Float[np.ndarray, "products factors"]:
        """The size of each factor of each product; 1 where it has fewer."""
        factors: np.ndarray = np.append(np.asarray(sizes, dtype=float), 1.0)[self._rows]
        return factors
