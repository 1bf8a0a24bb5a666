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
from math import ceil, prod
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from naivenas_jax.dataflow.contraction import Contraction
from naivenas_jax.dataflow.variable_uses import AddedVariable, VariableUse
from naivenas_jax.fit.dropping.curvature import MOST_OUTPUTS, ROWS_PER_COLUMN, Curvature, Key, curvatures
from naivenas_jax.fit.dropping.measured_costs import marks, rescaled
from naivenas_jax.fit.dropping.trial import Refit, Trial, affordable
from naivenas_jax.fit.dropping.unseen_readers import unseen_costs
from naivenas_jax.fit.network.column_map import shift_of
from naivenas_jax.fit.network.data import Data, examples_in
from naivenas_jax.fit.network.network import Network
from naivenas_jax.fit.regression.elimination import Reader, dropped
from naivenas_jax.fit.regression.positive_definite import inverses
from naivenas_jax.fit.regression.reduced_columns import (
    NO_COLUMNS,
    WIDE,
    ReducedColumns,
    blocks_of,
    classes_of,
    rows_by_class,
)
from naivenas_jax.fit.regression.ridge import NormalEquations
from naivenas_jax.graph.graph import Graph
from naivenas_jax.paths import Path
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.transfer.take import to_host
from naivenas_jax.transfer.variables import flat
from naivenas_jax.typing import Variables
from naivenas_jax.utility.tied import by_handle, class_count, class_numbers, homes
from naivenas_jax.utility.user_scores import Scores

#: Bytes for each product of two columns: of one batch in float32, of all in float64.
_BYTES = 16
#: So many examples are enough for the costs of neurons, if weights have enough rows to be inverted on.
EXAMPLES = 512
#: Fewer columns than this are not tried, where memory is short.
FEWEST = 64


class NeuronCosts(NamedTuple):
    """For each neuron the cost of dropping it after all those of its group that cost less, by handle.

    Attributes:
      estimated: to second order.
      measured: the same order, with the costs of each group adding up to what the outputs were measured to change by.
    """

    estimated: Scores
    measured: Scores


def neuron_costs(
    network: Network,
    variables: Variables,
    data: Data,
    ridge: float = 1e-3,
    memory: int | None = None,
    notes: list[str] | None = None,
    measured: bool = True,
) -> NeuronCosts:
    """For each neuron the cost of dropping it after all those of its group that cost less.

    Rows whose gradient is not finite, as that of a square root at 0, are left out. Weights that are out of sight, in
    loops for example, are not re-fitted, and what they read costs what the outputs change by without it (see
    `naivenas_jax.fit.dropping.unseen_readers`). Neurons that no weight reads (query and key features) have the cost
    of being zero where they are made, and where nothing can be told of them, the largest of all costs, so that they
    stay.

    Then the network is evaluated without more and more neurons of each group, readers re-fitted as the estimate takes
    them to be, and the estimates of the group are made to add up to the change of the outputs (see
    `naivenas_jax.fit.dropping.measured_costs`).

    Args:
      network: the network.
      variables: its variables.
      data: batches of inputs.
      ridge: of every covariance, relative to the mean of its diagonal.
      memory: bytes that sums may take; None: any. Weights are then taken with fewer columns for each neuron, and the
        widest not at all.
      notes: where it is said if they are.
      measured: False: nothing is measured, and the estimates are in its place.
    """
    ties, arrays = network.graph.ties, {path: to_host(array) for path, array in flat(variables).items()}
    every = network.uses(variables, data.first)
    shifted = {use.contraction.path for use in every if isinstance(use, AddedVariable)}
    uses = {(use.path, use.number): use for use in every if isinstance(use, Contraction)}
    matrices = _within(memory, ties, uses, arrays, notes)
    reduced = {key: own.reduced for key, own in matrices.items() if own.reduced is not None}
    data = _enough(data, uses, matrices)
    found = curvatures(network, variables, data, reduced)
    unseen = unseen_costs(network, variables, data, {use.path for use in uses.values()})
    made = _made(ties, uses, found, {path: np.shape(array) for path, array in arrays.items()})
    made = np.where(np.isnan(made), unseen.made, made)
    costs = np.full(class_count(ties), np.nan)
    groups = [own[own >= 0] for own in homes(network.graph).values()]
    curves, trial = costs.copy(), _trial(network, variables, data, uses.values(), groups) if measured else None
    reading = _reading(ties, uses, groups)
    last = {use: n for n, own in enumerate(reading) for use in own}
    readers: dict[Key, list[Reader]] = {}  # of few weights at a time: an inverse is as large as all sums of a weight
    for n, own in enumerate(groups):
        for use in (use for use in reading[n] if use not in readers):
            readers[use] = matrices[use].readers(found[use], uses[use].path in shifted, ridge)
        beside = {int(one): float(unseen.read[one]) for one in own if not np.isnan(unseen.read[one])}
        order = dropped([reader.only(own) for use in reading[n] for reader in readers[use]], beside)
        for one, cost in order:
            costs[one] = cost
        costs[own] = np.where(np.isnan(costs[own]), made[own], costs[own])
        if trial is not None:
            unread = set(own[~np.isnan(costs[own])].tolist()) - {one for one, _ in order}
            going = np.array(sorted([*(one for one, _ in order), *unread], key=lambda one: costs[one]), int)
            refits = [
                matrices[use].refit(uses[use], arrays, readers[use], found[use], every)
                for use in reading[n]
                if readers[use] and sum(path == use[0] for path, _ in uses) == 1
            ]
            counts = marks(len(going))
            changes = [trial.change(going[:count], refits) for count in counts]
            curves[going] = rescaled(costs[going], counts, changes)
        readers = {use: kept for use, kept in readers.items() if last[use] > n}
    return NeuronCosts(*(_known(network.graph, own) for own in (costs, costs if trial is None else curves)))


def _trial(
    network: Network,
    variables: Variables,
    data: Data,
    uses: Iterable[Contraction],
    groups: Iterable[Int[np.ndarray, " _"]],
) -> Trial:
    """The network as it is tried without parts of its groups, on as many examples as that is worth."""
    operations = sum(use.sizes.inputs * prod(np.shape(use.result)) for use in uses)
    trials = sum(len(marks(len(own))) for own in groups)
    return Trial.of(network, variables, data, affordable(trials, operations / examples_in(data.first)))


def _enough(data: Data, uses: Mapping[Key, Contraction], matrices: Mapping[Key, _Matrices]) -> Data:
    """Batches from all over the data, on which every weight has a few rows for each column that sums are taken of."""
    number = examples_in(data.first)
    rows = [(use.sizes.rows / number, use.sizes.outputs, matrices[key].columns) for key, use in uses.items()]
    needed = [ROWS_PER_COLUMN * (max(inputs, outputs) + 1) / each for each, outputs, inputs in rows]
    return data.spread(ceil(max([EXAMPLES, *needed])), whole=True)


def _known(graph: Graph, costs: Float[np.ndarray, " classes"]) -> Scores:
    """Costs by handle; where there is none, the largest."""
    known = costs[~np.isnan(costs)]
    return by_handle(graph, np.where(np.isnan(costs), known.max() if known.size else 1.0, costs))


def _reading(ties: Ties, uses: Iterable[Key], groups: Sequence[Int[np.ndarray, " _"]]) -> list[list[Key]]:
    """For each group of classes, the weights that read one of them."""
    read = {}
    for use in uses:
        leaf = ties.leaves[use[0]]
        axes = [axis for axis, role in zip(leaf.axes, leaf.roles, strict=True) if axis is not None and role == "in"]
        read[use] = np.concatenate([np.zeros(0, int), *(class_numbers(ties, axis) for axis in axes)])
    return [[use for use, classes in read.items() if np.isin(classes, own).any()] for own in groups]


def _within(
    memory: int | None,
    ties: Ties,
    uses: Mapping[Key, Contraction],
    arrays: Mapping[Path, np.ndarray],
    notes: list[str] | None,
) -> dict[Key, _Matrices]:
    """The matrices of all contractions, with columns so few that their sums fit into half of the memory."""

    def fits(found: Mapping[Key, _Matrices]) -> bool:
        return memory is None or sum(own.nbytes for own in found.values()) <= memory // 2

    most, left_out = WIDE, 0
    found = {key: _Matrices.of(ties, use, arrays[use.path], most) for key, use in uses.items()}
    while not fits(found) and most > FEWEST:
        most //= 2
        found = {key: _Matrices.of(ties, use, arrays[use.path], most) for key, use in uses.items()}
    for key in sorted(found, key=lambda key: found[key].nbytes, reverse=True):
        if not fits(found):
            found[key], left_out = found[key]._replace(reduced=NO_COLUMNS), left_out + 1
    if notes is not None and most < WIDE:
        fewer = f"costs of neurons from {most} columns of a wide weight at the most in place of {WIDE}"
        lost = f"; {left_out} weights were too wide even so, and say nothing of what they read" if left_out else ""
        notes.append(f"{fewer}, since more do not fit into the memory given{lost}")
    return found


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
    def of(cls, ties: Ties, use: Contraction, array: Shaped[np.ndarray, "*shape"], most: int) -> _Matrices:
        """The matrices of a weight that has these values, whose covariances have about ``most`` columns."""
        entries = use.entries(array.shape)
        values, rows = array.astype(np.float64).ravel()[entries], rows_by_class(ties, use.path, entries, array.shape)
        if not any(rows):  # nothing that it reads can be dropped
            return cls(values, rows, NO_COLUMNS)
        return cls(values, rows, ReducedColumns.of(values[0], rows[0], most) if len(rows) == 1 else None)

    @property
    def columns(self) -> int:
        """Of how many columns sums are taken."""
        return int(self.values.shape[1]) if self.reduced is None else self.reduced.number

    @property
    def nbytes(self) -> int:
        """What the sums over rows take."""
        groups, _, outputs = self.values.shape
        columns = self.columns
        beside = 1 if outputs > MOST_OUTPUTS else int(outputs)
        return _BYTES * int(groups) * ((columns + 1) ** 2 + beside * (int(outputs) + 1))

    def readers(self, sums: Curvature, centred: bool, ridge: float) -> list[Reader]:
        """One for each group."""
        values, rows = self.values, self.rows
        if self.reduced is NO_COLUMNS:
            return []
        if self.reduced is not None:
            values, rows = self.reduced.matrix(values[0])[None], [self.reduced.rows(rows[0])]
        wide = sums.g.squares.shape[-1] > 0
        of_x, of_g = np.asarray(sums.x.sums), np.asarray(sums.g.squares if wide else sums.g.sums)
        return [_reader(*own, centred, ridge) for own in zip(of_x, of_g, values, rows, strict=True)]

    def refit(
        self,
        use: Contraction,
        arrays: Mapping[Path, np.ndarray],
        readers: Sequence[Reader],
        sums: Curvature,
        every: Sequence[VariableUse],
    ) -> Refit:
        """The weight as it is re-fitted without some neurons.

        Args:
          use: what it is contracted with.
          arrays: all variables.
          readers: as `readers` returns them.
          sums: of what it reads.
          every: all uses of variables.
        """
        values = self.values if self.reduced is None else self.reduced.matrix(self.values[0])[None]
        last = np.asarray(sums.x.sums)[:, -1]
        means = last[:, :-1] / np.maximum(last[:, -1:], 1)
        shift = shift_of(use.path, every, arrays)
        return Refit(use.path, use.entries(arrays[use.path].shape), values, readers, means, self.reduced, shift)


def _reader(
    x: Float[np.ndarray, "L L"],
    g: Float[np.ndarray, "O O"] | Float[np.ndarray, " O"],
    matrix: Float[np.ndarray, "K M"],
    rows: Mapping[int, Int[np.ndarray, " _"]],
    centred: bool,
    ridge: float,
) -> Reader:
    sums = NormalEquations(x[None], np.zeros((1, 0)))
    ridge = max(ridge, 1e-6 * sums.inputs)  # sums of float32 are off by some 1e-7 of the trace
    inverse = inverses(sums.reduced(centred).system(ridge))[0]
    if g.ndim == 1:  # squares alone
        weights = matrix * np.sqrt(g / sums.number)
    else:
        values, vectors = np.linalg.eigh(g[:-1, :-1] / sums.number)
        weights = matrix @ (vectors * np.sqrt(np.maximum(values, 0.0)))
    return Reader(inverse, weights, blocks_of(rows))


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
        for classes in classes_of(ties, use.path, entries, shapes[use.path], "out"):
            own = np.zeros(len(total))
            np.add.at(own, classes[:, 0], 0.5 * found[key].yg)
            seen = np.unique(classes[:, 0])
            total[seen] = np.nan_to_num(total[seen]) + own[seen]
    return total
