"""What the outputs would change by without each neuron, if its readers were re-fitted: second order, and on data.

For a weight B that reads X and makes Y = X B, let C be the covariance of the columns of X, and F the covariance of the
gradients of the outputs by Y. Dropping the entries R of X and re-fitting the others changes the outputs, to second
order, by

    cost = 1/2 trace( B_R F B_R^T  [ (C^-1)_RR ]^-1 ),

which is 0 where the other entries reconstruct those of R (or nothing of the output depends on it). Dropping is
repeated: always the neuron goes whose cost, over all weights that read it, is smallest; C^-1 and B are then taken of
what is left.

Of a weight with thousands of inputs, several for each neuron, only what it reads of each neuron is taken
(`naivenas_jax.fit.regression.reduced_columns`).

In shapes, G counts the groups of a contraction, K the columns of X, M the columns of Y.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from naivenas_jax.dataflow.contraction import Contraction
from naivenas_jax.dataflow.variable_uses import AddedVariable
from naivenas_jax.fit.network.network import Data, Network
from naivenas_jax.fit.regression.curvature import Curvature, Key, curvatures
from naivenas_jax.fit.regression.elimination import Reader, dropped
from naivenas_jax.fit.regression.positive_definite import inverses
from naivenas_jax.fit.regression.reduced_columns import WIDE, ReducedColumns, blocks_of
from naivenas_jax.fit.regression.ridge import NormalEquations
from naivenas_jax.paths import Path
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.transfer.take import to_host
from naivenas_jax.transfer.variables import flat
from naivenas_jax.typing import Variables
from naivenas_jax.utility.tied import by_handle, class_count, class_numbers, homes


def importance(
    network: Network, variables: Variables, data: Data, ridge: float = 1e-3
) -> dict[str, Float[np.ndarray, " _"]]:
    """For each neuron the cost of dropping it after all those that cost less, by handle.

    Rows whose gradient is not finite, as that of a square root at 0, are left out. Neurons that no weight reads in
    sight (query and key features, what is read in loops only) have the cost of being zero where they are made, and
    where that is out of sight too, the largest of all costs, so that they stay.
    """
    ties, arrays = network.graph.ties, {path: to_host(array) for path, array in flat(variables).items()}
    every = network.uses(variables, data.first)
    shifted = {use.contraction.path for use in every if isinstance(use, AddedVariable)}
    uses = {(use.path, use.number): use for use in every if isinstance(use, Contraction)}
    matrices = {key: _Matrices.of(ties, use, arrays[use.path]) for key, use in uses.items()}
    reduced = {key: own.reduced for key, own in matrices.items() if own.reduced is not None}
    found = curvatures(network, variables, data, reduced)
    made = _made(ties, uses, found, {path: np.shape(array) for path, array in arrays.items()})
    costs = np.full(class_count(ties), np.nan)
    groups = list(homes(network.graph).values())
    reading = _reading(ties, uses, groups)
    last = {use: n for n, own in enumerate(reading) for use in own}
    readers: dict[Key, list[Reader]] = {}  # of few weights at a time: an inverse is as large as all sums of a weight
    for n, own in enumerate(groups):
        for use in (use for use in reading[n] if use not in readers):
            readers[use] = matrices[use].readers(found[use], uses[use].path in shifted, ridge)
        for one, cost in dropped([reader.only(own) for use in reading[n] for reader in readers[use]]):
            costs[one] = cost
        readers = {use: kept for use, kept in readers.items() if last[use] > n}
    costs = np.where(np.isnan(costs), made, costs)
    known = costs[~np.isnan(costs)]
    return by_handle(network.graph, np.where(np.isnan(costs), known.max() if known.size else 1.0, costs))


def _reading(ties: Ties, uses: Iterable[Key], groups: Sequence[Int[np.ndarray, " _"]]) -> list[list[Key]]:
    """For each group of classes, the weights that read one of them."""
    read = {}
    for use in uses:
        leaf = ties.leaves[use[0]]
        axes = [axis for axis, role in zip(leaf.axes, leaf.roles, strict=True) if axis is not None and role == "in"]
        read[use] = np.concatenate([np.zeros(0, int), *(class_numbers(ties, axis) for axis in axes)])
    return [[use for use, classes in read.items() if np.isin(classes, own).any()] for own in groups]


class _Matrices(NamedTuple):
    """The matrices of a contraction, one for each group.

    Attributes:
      values: the matrices.
      rows: for each group the rows of each class.
      reduced: fewer columns for a wide one; None: all.
    """

    values: Float[np.ndarray, "G K M"]
    rows: list[dict[int, Int[np.ndarray, " _"]]]
    reduced: ReducedColumns | None

    @classmethod
    def of(cls, ties: Ties, use: Contraction, array: Shaped[np.ndarray, "*shape"]) -> _Matrices:
        """The matrices of a weight that has these values."""
        entries = use.entries(array.shape)
        values, found = array.astype(np.float64).ravel()[entries], []
        read = _classes(ties, use.path, entries, array.shape, "in")
        for g in range(len(entries)):
            rows: dict[int, np.ndarray] = {}
            for classes in read:
                for one in np.unique(classes[g, :, 0]).tolist():
                    mine = np.flatnonzero(classes[g, :, 0] == one)
                    rows[one] = np.union1d(rows[one], mine) if one in rows else mine
            found.append(rows)
        return cls(values, found, ReducedColumns.of(values[0], found[0], WIDE) if len(found) == 1 else None)

    def readers(self, sums: Curvature, centred: bool, ridge: float) -> list[Reader]:
        """One for each group."""
        values, rows = self.values, self.rows
        if self.reduced is not None:
            values, rows = self.reduced.matrix(values[0])[None], [self.reduced.rows(rows[0])]
        of_x, of_g = np.asarray(sums.x.sums), np.asarray(sums.g.sums)
        return [_reader(*own, centred, ridge) for own in zip(of_x, of_g, values, rows, strict=True)]


def _reader(
    x: Float[np.ndarray, "L L"],
    g: Float[np.ndarray, "O O"],
    matrix: Float[np.ndarray, "K M"],
    rows: Mapping[int, Int[np.ndarray, " _"]],
    centred: bool,
    ridge: float,
) -> Reader:
    sums = NormalEquations(x[None], np.zeros((1, 0)))
    ridge = max(ridge, 1e-6 * sums.inputs)  # sums of float32 are off by some 1e-7 of the trace
    inverse = inverses(sums.reduced(centred).system(ridge))[0]
    values, vectors = np.linalg.eigh(g[:-1, :-1] / sums.number)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    return Reader(inverse, matrix @ root, blocks_of(rows))


def _classes(
    ties: Ties, path: Path, entries: Int[np.ndarray, "G K M"], shape: Sequence[int], role: Literal["in", "out"]
) -> list[Int[np.ndarray, "G K M"]]:
    """For each dimension of a weight in this role, the class of each entry."""
    leaf, index = ties.leaves[path], np.unravel_index(entries, shape)
    return [
        class_numbers(ties, axis)[index[d]]
        for d, (axis, own) in enumerate(zip(leaf.axes, leaf.roles, strict=True))
        if axis is not None and own == role
    ]


def _made(
    ties: Ties,
    uses: Mapping[Key, Contraction],
    found: Mapping[Key, Curvature],
    shapes: Mapping[Path, tuple[int, ...]],
) -> Float[np.ndarray, " classes"]:
    """The cost of each class of being zero where it is made; NaN where that is nowhere in sight."""
    total = np.full(class_count(ties), np.nan)
    for key, use in uses.items():
        entries = use.entries(shapes[use.path])
        for classes in _classes(ties, use.path, entries, shapes[use.path], "out"):
            own = np.zeros(len(total))
            np.add.at(own, classes[:, 0], 0.5 * found[key].yg)
            seen = np.unique(classes[:, 0])
            total[seen] = np.nan_to_num(total[seen]) + own[seen]
    return total
