"""Budgets: a count of parameters or operations may not exceed a bound. Counts are sums of products of sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

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
        return self.count.at(sizes) <= self.bound

    def __str__(self) -> str:
        return f"{self.name} <= {self.bound:g}"


@dataclass(frozen=True, eq=False)
class Polynomial:
    """A count in terms of the rows of a problem that may change.

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

    def at(self, sizes: np.ndarray) -> float:
        """The count for the sizes of all rows."""
        return self.constant + math.fsum(
            value * math.prod(float(sizes[row]) for row in rows) for rows, value in self.terms.items()
        )

    def gradient(self, sizes: np.ndarray) -> dict[int, float]:
        """The derivative by each row."""
        found: dict[int, float] = {}
        for rows, value in self.terms.items():
            for i, row in enumerate(rows):
                rest = math.prod(float(sizes[other]) for other in (*rows[:i], *rows[i + 1 :]))
                found[row] = found.get(row, 0.0) + value * rest
        return found
