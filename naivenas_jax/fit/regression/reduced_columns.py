"""Fewer columns for the covariance of a wide weight's inputs: of each neuron, what the weight reads of it.

A neuron that a convolution reads at every position of its window, or a dense layer at every position of a flattened
image, has r rows B_c (r, M) in the matrix of the weight. What it contributes is X_c B_c, which lies in the span of the
left singular vectors V_c (r, s) of B_c. Of X_c there are kept the columns X_c V_c: exactly enough for the contribution
where s is the rank of B_c, its largest part where s is less. What others can reconstruct with X_c V_c they can with
X_c, so that costs computed there are at least those of all columns, as far as the contribution is whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from naivenas_jax.fit.regression.elimination import Block
from naivenas_jax.paths import Path
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.typing import Array
from naivenas_jax.utility.tied import class_numbers, free_classes

#: The most columns whose covariance is inverted as it is.
WIDE = 2048


class Part(NamedTuple):
    """Neurons that a weight reads at equally many rows.

    Attributes:
      rows: the rows of each neuron in the matrix.
      vectors: the vectors V of each.
    """

    rows: Int[np.ndarray, "neurons r"]
    vectors: Float[np.ndarray, "neurons r s"]


class ReducedColumns(NamedTuple):
    """Columns X V in the place of those of X: of all neurons of the first part, of the second, and so on."""

    parts: tuple[Part, ...]

    @classmethod
    def of(
        cls, matrix: Float[np.ndarray, "K M"], rows: Mapping[int, Int[np.ndarray, " _"]], most: int
    ) -> ReducedColumns | None:
        """About ``most`` columns; None where there are no more, or rows cannot be told apart by neuron.

        Args:
          matrix: the matrix B of the weight.
          rows: the rows of each neuron, by its class.
          most: the most columns, if there is not a neuron for each.
        """
        every = np.concatenate([np.zeros(0, int), *rows.values()])
        if len(matrix) <= most or not np.array_equal(np.sort(every), np.arange(len(matrix))):
            return None
        each, parts = max(1, most // len(rows)), []
        for own in blocks_of(rows):
            vectors = np.linalg.svd(matrix[own.rows], full_matrices=False)[0]
            parts.append(Part(own.rows, vectors[..., :each].astype(np.float32)))
        found = cls(tuple(parts))
        return found if found.number < len(matrix) else None

    @classmethod
    def some(cls, columns: Int[np.ndarray, " k"]) -> ReducedColumns:
        """Some columns of X as they are."""
        return cls((Part(columns[:, None], np.ones((len(columns), 1, 1), np.float32)),))

    @property
    def plain(self) -> bool:
        """Whether they are columns of X as they are, and no combinations: those of `some`."""
        return [vectors.shape[1:] for _, vectors in self.parts] == [(1, 1)]

    @property
    def number(self) -> int:
        """How many columns there are."""
        return sum(vectors.shape[0] * vectors.shape[2] for _, vectors in self.parts)

    def columns(self, x: Float[Array, "G N K"]) -> Float[Array, "G N k"]:
        """The columns X V."""
        parts = [jnp.einsum("gncr,crs->gncs", x[:, :, rows], vectors) for rows, vectors in self.parts]
        return jnp.concatenate([x[:, :, :0], *(part.reshape(*part.shape[:2], -1) for part in parts)], -1)

    def matrix(self, b: Float[np.ndarray, "K M"]) -> Float[np.ndarray, "k M"]:
        """The rows V^T B, which make of X V what B makes of X, or the largest part of it."""
        parts = [np.einsum("crs,crm->csm", vectors, b[rows]) for rows, vectors in self.parts]
        return np.concatenate([b[:0], *(part.reshape(-1, b.shape[1]) for part in parts)])

    def spread(self, matrix: Float[np.ndarray, "G k M"], inputs: int) -> Float[np.ndarray, "G K M"]:
        """What does with X what these matrices do with X V: V times each."""
        found, start = np.zeros((matrix.shape[0], inputs, matrix.shape[2])), 0
        for rows, vectors in self.parts:
            own = matrix[:, start : start + vectors.shape[0] * vectors.shape[2]]
            start += own.shape[1]
            own = own.reshape(len(matrix), vectors.shape[0], vectors.shape[2], -1)
            found[:, rows] = np.einsum("crs,gcsm->gcrm", vectors, own)
        return found

    def rows(self, given: Mapping[int, Int[np.ndarray, " _"]]) -> dict[int, Int[np.ndarray, " _"]]:
        """The rows of each neuron among those V^T B."""
        found, start = dict[int, np.ndarray](), 0
        for block, (_, vectors) in zip(blocks_of(given), self.parts, strict=True):
            size = vectors.shape[2]
            for one in block.classes.tolist():
                found[one] = np.arange(start, start + size)
                start += size
        return found


#: No columns at all, for a weight whose sums would not fit.
NO_COLUMNS = ReducedColumns(())


def rows_by_class(
    ties: Ties, path: Path, entries: Int[np.ndarray, "G K M"], shape: Sequence[int]
) -> list[dict[int, Int[np.ndarray, " _"]]]:
    """For each matrix of a weight the rows that read each class of neurons.

    Dimensions along which nothing may change, such as the window of a convolution, do not count.

    Args:
      ties: of the graph.
      path: the weight.
      entries: for each entry of the matrices its place in the flattened weight.
      shape: the shape of the weight.
    """
    found: list[dict[int, np.ndarray]] = [{} for _ in entries]
    free = free_classes(ties)
    for classes in classes_of(ties, path, entries, shape, "in"):
        if not free[classes].any():
            continue
        for own, rows in zip(classes[:, :, 0], found, strict=True):
            for one in np.unique(own).tolist():
                mine = np.flatnonzero(own == one)
                rows[one] = np.union1d(rows[one], mine) if one in rows else mine
    return found


def classes_of(
    ties: Ties, path: Path, entries: Int[np.ndarray, "G K M"], shape: Sequence[int], role: Literal["in", "out"]
) -> list[Int[np.ndarray, "G K M"]]:
    """For each dimension of a weight in this role, the class of each entry."""
    leaf, index = ties.leaves[path], np.unravel_index(entries, shape)
    return [
        class_numbers(ties, axis)[index[d]]
        for d, (axis, own) in enumerate(zip(leaf.axes, leaf.roles, strict=True))
        if axis is not None and own == role
    ]


def blocks_of(rows: Mapping[int, Int[np.ndarray, " _"]]) -> tuple[Block, ...]:
    """The rows of each class, together where they are equally many."""
    sizes = sorted({len(own) for own in rows.values()})
    by_size = [[(one, own) for one, own in rows.items() if len(own) == size] for size in sizes]
    return tuple(Block(np.array([c for c, _ in own]), np.stack([r for _, r in own])) for own in by_size)
