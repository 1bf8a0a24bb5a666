"""Costs of neurons that add up to what dropping many of them was measured to change.

Estimates of one group of neurons compare well with one another, and less well with those of another group. The curve of
a group is what the outputs change by when more and more of its neurons go, in the order of the estimate; costs of
neurons are its slopes.

Source: measured curves for each part of a network, Kurtic, Frantar and Alistarh, ZipLM, NeurIPS 2023.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

#: The shares of a group without which the outputs are looked at.
SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)
#: No cost is less than this share of the mean one, so that what costs nothing measurable still counts.
LEAST = 1e-9


def marks(number: int) -> list[int]:
    """How many neurons of a group of so many are left out, each time."""
    return sorted({max(1, round(share * number)) for share in SHARES}) if number else []


def rescaled(
    costs: Float[np.ndarray, " neurons"], counts: Sequence[int], changes: Sequence[float]
) -> Float[np.ndarray, " neurons"]:
    """The costs of a group's neurons, such that they add up to what was measured, and none is above the next.

    Between two places where the change was measured, neurons share it as the estimates do. A curve that flattens would
    make the next neuron cheaper than the one before; costs are then those of the largest convex curve below it.

    Args:
      costs: the estimates, in the order in which neurons go.
      counts: how many had gone where the change was measured, in ascending order.
      changes: what was measured there; where it is not finite, the estimates are taken to go on as before.
    """
    pairs = [(count, change) for count, change in zip(counts, changes, strict=True) if np.isfinite(change)]
    if not pairs:
        return costs
    estimates = costs + LEAST * max(float(costs.mean()), 1e-30)
    found, start, so_far = estimates.copy(), 0, 0.0
    for count, change in pairs:
        own = slice(start, count)
        found[own] *= max(change - so_far, 0.0) / estimates[own].sum()
        start, so_far = count, max(change, so_far)
    found[start:] *= so_far / estimates[:start].sum()
    return _rising(np.maximum(found, LEAST * found.mean()))


def _rising(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The nearest values none of which is above the next: neighbours that fall become their mean."""
    blocks: list[tuple[float, int]] = []  # sums and sizes
    for value in values.tolist():
        total, size = value, 1
        while blocks and blocks[-1][0] * size >= total * blocks[-1][1]:
            before = blocks.pop()
            total, size = total + before[0], size + before[1]
        blocks.append((total, size))
    return np.concatenate([np.full(size, total / size) for total, size in blocks])
