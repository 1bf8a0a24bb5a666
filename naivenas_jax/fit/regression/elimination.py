"""Drop the inputs of matrices, one class after the other, always the one whose cost over all matrices is smallest.

The cost of dropping some inputs of a matrix, when the others are re-fitted, is said in
`naivenas_jax.fit.dropping.importance`. In shapes, K counts the rows of a matrix and M its columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Block(NamedTuple):
    """Classes that have equally many rows of a matrix.

    Attributes:
      classes: the numbers of the classes.
      rows: the rows of each class.
    """

    classes: Int[np.ndarray, " block"]
    rows: Int[np.ndarray, "block r"]


@dataclass(frozen=True, eq=False)
class Reader:
    """What one matrix reads.

    Attributes:
      inverse: the inverse covariance of X.
      weights: B times a root of F.
      blocks: which rows belong to which class.
    """

    inverse: Float[np.ndarray, "K K"]
    weights: Float[np.ndarray, "K M"]
    blocks: tuple[Block, ...]

    @property
    def classes(self) -> Int[np.ndarray, " classes"]:
        """The classes that are read."""
        return np.concatenate([np.zeros(0, int), *(block.classes for block in self.blocks)])

    def only(self, classes: Int[np.ndarray, " some"]) -> Reader:
        """The same matrix, as a reader of some of its classes."""
        kept = [(block, np.isin(block.classes, classes)) for block in self.blocks]
        return replace(self, blocks=tuple(Block(own.classes[i], own.rows[i]) for own, i in kept if i.any()))


class Elimination:
    """A matrix from whose inputs classes are dropped, one after the other; in place.

    The inverse covariance of what is left is ``A - H H^T``, with A the inverse covariance of all inputs. Dropping a
    class adds to H the columns ``C P^(-1/2)``: C are its columns of what is left, and P, its pivot, their own rows.
    """

    def __init__(self, reader: Reader):
        self.inverse, self.weights, self.blocks = reader.inverse, _narrow(reader.weights), list(reader.blocks)
        self.factor, self.width = np.zeros_like(self.inverse, order="F"), 0
        self.diagonals = [self.inverse[rows[:, :, None], rows[:, None, :]] for _, rows in self.blocks]

    def cost(self, classes: Int[np.ndarray, " classes"]) -> Float[np.ndarray, " classes"]:
        """For each of these classes, which are sorted, the cost of dropping it; 0 if it is not read."""
        found = np.zeros(len(classes))
        for (own, rows), diagonal in zip(self.blocks, self.diagonals, strict=True):
            weights = self.weights[rows]
            curved = np.linalg.solve(diagonal, weights @ weights.transpose(0, 2, 1))
            found[np.searchsorted(classes, own)] = 0.5 * np.trace(curved, axis1=1, axis2=2)
        return found

    def drop(self, one: int) -> None:
        """Drop a class, and re-fit what is left."""
        from scipy.linalg.blas import dgemm  # here: needed where costs are counted alone

        (place,) = (i for i, block in enumerate(self.blocks) if one in block.classes)
        others = self.blocks[place].classes != one
        rows = self.blocks[place].rows[~others][0]
        done = self.factor[:, : self.width]
        columns = self.inverse[:, rows] - done @ done[rows].T  # (K, r)
        values, vectors = np.linalg.eigh(columns[rows])
        # What rounding leaves of a pivot is bounded from below. The same number added to the pivot would change what is
        # left by as much as the square of the condition of A makes of it.
        values = np.maximum(values, 1e-9 * self.inverse.diagonal().max())
        unrooted = (vectors / np.sqrt(values)).T  # unrooted.T @ unrooted = P^-1
        columns = columns @ unrooted.T
        self.factor[:, self.width : self.width + len(rows)] = columns
        self.width += len(rows)
        # in place: all else is as quick as memory is, and a product of its own would be written and read once more
        dgemm(-1.0, (unrooted @ self.weights[rows]).T, columns.T, 1.0, self.weights.T, overwrite_c=True)
        self.blocks[place] = Block(*(part[others] for part in self.blocks[place]))
        self.diagonals[place] = self.diagonals[place][others]
        for block, diagonal in zip(self.blocks, self.diagonals, strict=True):
            own = columns[block.rows]
            diagonal -= own @ own.transpose(0, 2, 1)


def _narrow(weights: Float[np.ndarray, "K M"]) -> Float[np.ndarray, "K m"]:
    """A copy, or K columns whose rows have the same products with one another, which are all that costs are made of."""
    if weights.shape[1] <= weights.shape[0]:
        return weights.copy("C")
    return np.ascontiguousarray(np.asarray(np.linalg.qr(weights.T, mode="r")).T)


def dropped(readers: Sequence[Reader], beside: Mapping[int, float] = MappingProxyType({})) -> list[tuple[int, float]]:
    """Classes in the order in which they are dropped, with the cost of each, which never gets smaller.

    Args:
      readers: what each matrix reads.
      beside: for some classes a cost that is added to that of the matrices, whatever else is dropped.
    """
    readers = [reader for reader in readers if reader.blocks]
    classes = np.unique(np.concatenate([np.array([*beside], int), *(reader.classes for reader in readers)]))
    reading = [[n for n, reader in enumerate(readers) if one in reader.classes] for one in classes]
    states = [Elimination(reader) for reader in readers]
    costs = [state.cost(classes) for state in states]
    total, left = np.array([beside.get(int(one), 0.0) for one in classes]), np.ones(len(classes), bool)
    total += np.sum(costs, 0)
    found, highest = list[tuple[int, float]](), 0.0
    while left.any():
        place = int(np.argmin(np.where(left, total, np.inf)))
        highest, left[place] = max(highest, float(total[place])), False
        found.append((int(classes[place]), highest))
        for n in reading[place]:
            states[n].drop(int(classes[place]))
            total += (now := states[n].cost(classes)) - costs[n]
            costs[n] = now
    return found
