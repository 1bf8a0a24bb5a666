"""Which neurons are copies of which, after neurons were split."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from naivenas_jax.align.axis_plan import NEW, AxisPlan


def models_of(axis: AxisPlan) -> Int[np.ndarray, " after"]:
    """Shape (after,): the old neuron that each position holds, or holds a copy of; ``NEW`` where there is none.

    >>> models_of(AxisPlan.of(2, [0, 1, NEW], twin=[NEW, NEW, 1])).tolist()
    [0, 1, 1]
    """
    return np.where(axis.source == NEW, axis.twin, axis.source)


def multiplicity(models: Int[np.ndarray, " after"]) -> Int[np.ndarray, " after"]:
    """Shape (after,): how many positions hold the same old neuron as each position; 1 where there is none.

    >>> multiplicity(np.array([0, 1, 1, NEW])).tolist()
    [1, 2, 2, 1]
    """
    counts = np.bincount(models[models != NEW], minlength=1)
    return np.where(models == NEW, 1, counts[np.minimum(np.maximum(models, 0), len(counts) - 1)])
