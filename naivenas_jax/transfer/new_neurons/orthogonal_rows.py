"""Maximise a function of matrices whose rows are orthogonal and of given lengths: the generalised power method.

A step replaces each matrix by the polar factor of the derivative, which maximises a convex function's tangent; where
that does not go up, shorter steps along the derivative are tried. (Journée, Nesterov, Richtárik and Sepulchre,
Generalized Power Method for Sparse Principal Component Analysis, JMLR 2010.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from naivenas_jax.typing import Array

#: A matrix with one row for each new neuron.
Block: TypeAlias = Float[Array, "_ _"]
#: Shape (rows,): how long the rows of a block are.
Lengths: TypeAlias = Float[Array, " _"]
#: A function of the blocks: its value, and its derivative by each of them.
Objective: TypeAlias = Callable[[Sequence[Block]], tuple[Float[jax.Array, ""], Sequence[Block]]]

#: From how many of the starts to climb, the best first.
_CLIMBS = 4
#: How far to go along the derivative at once, the farthest first. Infinite: a step of the power method.
_STRIDES = (np.inf, 4.0, 1.0, 0.25, 0.06, 0.015)


class EvaluatedBlocks(NamedTuple):
    """Blocks, the objective there, and its derivative."""

    blocks: list[Block]
    value: float
    slopes: Sequence[Block]


def maximise(
    objective: Objective, shapes: Sequence[tuple[int, ...]], lengths: Sequence[Lengths], *, steps: int, starts: int
) -> tuple[list[Block], float]:
    """The best blocks that were met, and the objective there.

    Args:
      objective: the function and its derivative.
      shapes: the shape of each block, (rows, columns).
      lengths: for each block the lengths of its rows.
      steps: how many steps to take from a start, at most.
      starts: how many random starts are compared; only the best few of them are improved.
    """
    draws, found = np.random.default_rng(0), []
    for _ in range(starts):
        blocks = [_polar(draws.normal(size=shape), length) for shape, length in zip(shapes, lengths, strict=True)]
        value, slopes = objective(blocks)
        found.append(EvaluatedBlocks(blocks, float(value), slopes))
    found.sort(key=lambda one: -one.value)
    climbed = [_climbed(objective, one, lengths, steps) for one in found[:_CLIMBS]]
    best = max(climbed, key=lambda one: one.value)
    return best.blocks, best.value


def _climbed(objective: Objective, here: EvaluatedBlocks, lengths: Sequence[Lengths], steps: int) -> EvaluatedBlocks:
    """Upwards from here, for as long as there is a step that gains."""
    for _ in range(steps):
        before = here.value
        for stride in _STRIDES:
            blocks = [_moved(*each, stride) for each in zip(here.blocks, here.slopes, lengths, strict=True)]
            value, slopes = objective(blocks)
            if float(value) > before:
                here = EvaluatedBlocks(blocks, float(value), slopes)
                break
        if here.value - before <= 1e-6 * abs(before):
            break
    return here


def _moved(block: Block, slope: Block, lengths: Lengths, stride: float) -> Block:
    """A block moved along a derivative, with its rows made orthogonal again."""
    here, there = (np.asarray(one, np.float64) for one in (block, slope))
    norm = np.linalg.norm(there)
    if not np.isfinite(stride) or norm == 0:
        return _polar(there, lengths)
    return _polar(here / np.linalg.norm(here) + stride * there / norm, lengths)


def _polar(matrix: Block, lengths: Lengths) -> Block:
    """The rows of these lengths, orthogonal to each other, that are best aligned with the rows of a matrix.

    More rows than columns cannot be orthogonal: then each portion of as many rows as there are columns is.
    """
    scaled = np.asarray(matrix, np.float64) * np.asarray(lengths, np.float64)[:, None]
    parts = []
    for first in range(0, len(scaled), scaled.shape[1]):
        left, _, right = np.linalg.svd(scaled[first : first + scaled.shape[1]], full_matrices=False)
        parts.append(left @ right)
    return jnp.asarray(np.concatenate(parts) * np.asarray(lengths)[:, None], jnp.float32)
