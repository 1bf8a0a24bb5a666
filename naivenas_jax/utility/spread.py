"""Means of scores that come batch by batch, and how far they may be off."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from naivenas_jax.errors import UtilityError
from naivenas_jax.graph.graph import Graph, require_graph
from naivenas_jax.progress import tracked
from naivenas_jax.typing import Array
from naivenas_jax.utility.tied import by_handle, class_count, require_finite
from naivenas_jax.utility.user_scores import Scores


@dataclass(frozen=True)
class Spread:
    """The mean of rows of scores, and how far they lie from it.

    Attributes:
      number: the number of rows.
      mean: their mean.
      scatter: the sum of their squared distances from the mean.
    """

    number: int
    mean: Float[np.ndarray, " classes"]
    scatter: Float[np.ndarray, " classes"]

    @classmethod
    def none(cls, classes: int) -> Spread:
        """No rows yet."""
        return cls(0, np.zeros(classes), np.zeros(classes))

    def with_rows(self, rows: Float[Array, "n classes"]) -> Spread:
        """The spread with further rows. Distances are squared, not the rows themselves, so that nothing cancels."""
        if not len(rows):
            return self
        rows = np.asarray(rows, np.float64)
        own, number = rows.mean(0), self.number + len(rows)
        apart = own - self.mean
        between = apart**2 * (self.number * len(rows) / number)
        scatter = self.scatter + ((rows - own) ** 2).sum(0) + between
        return Spread(number, self.mean + apart * (len(rows) / number), scatter)

    @property
    def error(self) -> Float[np.ndarray, " classes"]:
        """The standard error of the mean: the root of ``scatter / (n - 1) / n``."""
        return np.sqrt(self.scatter / (self.number - 1) / self.number)


def averaged(
    graph: Graph,
    portions: Iterable[Float[Array, "_ classes"]],
    unit: Literal["batch", "example"],
    errors: bool,
    who: str,
    progress: bool | None = None,
) -> Scores | tuple[Scores, Scores]:
    """Scores by handle, the mean over all rows of the portions; with ``errors`` a pair with their standard errors.

    Args:
      graph: the network.
      portions: rows of scores.
      unit: what the scores of one row are computed on.
      errors: whether errors are wanted, which takes two rows.
      who: the function that asks, for messages.
      progress: whether to show how far it is.

    Raises:
      UtilityError: if there are too few rows, or one is not finite.
    """
    spread = Spread.none(class_count(require_graph(graph).ties))
    with tracked(portions, f"{who}, batches", progress) as every:
        for number, rows in enumerate(every):
            require_finite(graph, np.asarray(rows, np.float64).sum(0), f"{who}: with batch {number}")
            spread = spread.with_rows(rows)
    if spread.number < (2 if errors else 1):
        needed = f"two {unit}{'es' if unit == 'batch' else 's'} to tell a standard error" if errors else f"one {unit}"
        raise UtilityError(
            f"{who} needs at least {needed}; found {spread.number} (batches= may be an iterator that was used up)."
        )
    scores = by_handle(graph, spread.mean)
    return (scores, by_handle(graph, spread.error)) if errors else scores
