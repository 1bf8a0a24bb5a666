"""Whether a network makes the same of some examples of a batch, whatever the others are.

The nodes of a graph, say, lie along one first dimension of all inputs and outputs, as examples do. But each reads
others, and the matrix of the edges has them along its second dimension too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np

from naivenas_jax.typing import Array

#: What is made of the same examples differs by no more than this, relative to its norm, where they are apart.
ROUNDING = 1e-2


def are_apart(alone: Callable[[], Sequence[Array]], among: Sequence[Array], floor: float = 0.0) -> bool:
    """Whether some examples alone make the same as among others.

    Args:
      alone: evaluates them alone.
      among: what was made of them among others.
      floor: differences whose norm is no larger are rounding, whatever the norm of what is made.

    >>> batch = np.arange(12.0).reshape(4, 3)
    >>> are_apart(lambda: [batch[:2] ** 2], [(batch**2)[:2]])
    True
    >>> are_apart(lambda: [batch[:2] - batch[:2].mean(0)], [(batch - batch.mean(0))[:2]])
    False
    """
    try:
        made = jax.block_until_ready(alone())
    except Exception:  # a model that takes batches of one size, or all nodes of a graph, says so in its own way
        return False
    return all(_is_equal(np.asarray(one), np.asarray(other), floor) for one, other in zip(made, among, strict=True))


def _is_equal(one: np.ndarray, other: np.ndarray, floor: float) -> bool:
    if one.shape != other.shape:
        return False
    if not np.issubdtype(one.dtype, np.inexact):
        return bool((one == other).mean() >= 1 - ROUNDING) if one.size else True
    if not np.array_equal(np.isfinite(one), np.isfinite(other)):
        return False
    own, its = (np.where(np.isfinite(other), array, 0) for array in (one, other))
    return bool(np.linalg.norm(own - its) <= floor + ROUNDING * np.linalg.norm(its))
