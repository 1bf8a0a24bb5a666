"""The utility of each class of tied neurons: the sum over its members."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Real

from naivenas_jax.errors import UtilityError
from naivenas_jax.sizes.ties import Ties


def class_utility(ties: Ties, utility: Mapping[str, Real[np.ndarray, " _"]]) -> Float[np.ndarray, " classes"]:
    """The utility of each class: the sum over all neurons that it ties.

    Args:
      ties: of the graph.
      utility: for some axes the utility of each neuron, shape (size of the axis,).

    Raises:
      UtilityError: if a sum is more than a float can hold.
    """
    total = np.zeros(ties.starts[-1])
    with np.errstate(over="ignore", invalid="ignore"):
        for axis, given in utility.items():
            _add(ties, total, ties.axes[axis], np.asarray(given))
        every = np.abs(total).sum()
    if not np.isfinite(every):
        largest = max(utility, key=lambda axis: float(np.max(np.abs(utility[axis]), initial=0.0)))
        raise UtilityError(
            f"The utility of all neurons together is more than a float can hold; the largest scores are those of "
            f"{largest!r}, up to {np.abs(utility[largest]).max():.3g}. Only their proportions matter: divide all by "
            "one number."
        )
    return total


def _add(
    ties: Ties, total: Float[np.ndarray, " classes"], runs: tuple[int, ...], utility: Real[np.ndarray, " neurons"]
) -> None:
    """Add the utility of the neurons on some runs to that of their classes, in place."""
    offset = 0
    for run in runs:
        size = ties.run_sizes[run]
        part = utility[offset : offset + size]
        offset += size
        if run not in ties.products:
            total[ties.starts[run] : ties.starts[run + 1]] += part
            continue
        factors = ties.products[run]
        grid = part.reshape([ties.length(row) for row in factors])
        for i, row in enumerate(factors):  # a member of combinations has the utility of all of them
            _add(ties, total, row, grid.sum(tuple(d for d in range(grid.ndim) if d != i)))
