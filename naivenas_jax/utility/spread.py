"""Means of scores that come batch by batch, and how far they may be off."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from naivenas_jax.errors import UtilityError
from naivenas_jax.graph.graph import Graph, require_graph
from naivenas_jax.utility.tied import by_handle, count

Scores = dict[str, np.ndarray]


@dataclass(frozen=True)
class Spread:
    """The mean of rows seen so far, and their sum of squared distances from it; each of shape (classes,)."""

    number: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def none(cls, classes: int) -> Spread:
        return cls(0, np.zeros(classes), np.zeros(classes))

    def with_rows(self, rows: np.ndarray) -> Spread:
        """With further rows, shape (n, classes). Squares are of distances, so that nothing cancels."""
        if not len(rows):
            return self
        rows = np.asarray(rows, np.float64)
        own, number = rows.mean(0), self.number + len(rows)
        apart = own - self.mean
        between = apart**2 * (self.number * len(rows) / number)
        scatter = self.scatter + ((rows - own) ** 2).sum(0) + between
        return Spread(number, self.mean + apart * (len(rows) / number), scatter)

    @property
    def error(self) -> np.ndarray:
        """The standard error of the mean, shape (classes,): the root of ``scatter / (n - 1) / n``."""
        return np.sqrt(self.scatter / (self.number - 1) / self.number)


def averaged(
    graph: Graph, portions: Iterable[np.ndarray], unit: Literal["batch", "example"], errors: bool, who: str
) -> Scores | tuple[Scores, Scores]:
    """Scores by handle, the mean over all rows of the portions; with ``errors`` a pair with their standard errors.

    Args:
      graph: the network.
      portions: arrays of shape (rows, classes).
      unit: what a row is of.
      errors: whether errors are wanted, which takes two rows.
      who: the function that asks, for messages.

    Raises:
      UtilityError: if there are too few rows.
    """
    spread = Spread.none(count(require_graph(graph).ties))
    for rows in portions:
        spread = spread.with_rows(rows)
    if spread.number < (2 if errors else 1):
        needed = f"two {unit}{'es' if unit == 'batch' else 's'} to tell a standard error" if errors else f"one {unit}"
        raise UtilityError(
            f"{who} needs at least {needed}; found {spread.number} (batches= may be an iterator that was used up)."
        )
    scores = by_handle(graph, spread.mean)
    return (scores, by_handle(graph, spread.error)) if errors else scores
