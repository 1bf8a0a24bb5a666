"""What the outputs would change by without each neuron, if its readers were re-fitted: second order, and on data.

For a weight B that reads X and makes Y = X B, let C be the covariance of the columns of X, and F that of the gradients
of the outputs by Y. Dropping the entries R of X and re-fitting the others changes the outputs, to second order, by

    cost = 1/2 trace( B_R F B_R^T  [ (C^-1)_RR ]^-1 ),

which is 0 where the other entries reconstruct those of R (or nothing of the output depends on it). Dropping is
repeated: always the neuron goes whose cost, over all weights that read it, is smallest; C^-1 and B are those
of what is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.fit.network.contraction import Contraction
from naivenas_jax.fit.network.equations import Program
from naivenas_jax.fit.network.network import Data, Network, on_device
from naivenas_jax.fit.network.variable_uses import Additive, Event, walk
from naivenas_jax.fit.regression.ridge import Sums, added, gram
from naivenas_jax.paths import Path
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.transfer.take import to_host
from naivenas_jax.transfer.variables import flat
from naivenas_jax.utility.tied import by_handle, count, homes, numbers

Use = tuple[Path, int]


class Curvature(NamedTuple):
    """Sums over rows for one contraction, of G groups.

    Attributes:
      x: shape (G, K + 1, K + 1): of X and a column of ones.
      g: shape (G, M + 1, M + 1): of the gradients and a column of ones.
      yg: shape (G, M): of the squares of ``y * gradient``.
    """

    x: Any
    g: Any
    yg: Any


def curvatures(network: Network, variables: Mapping[str, Any], data: Data, seed: int = 0) -> dict[Use, Curvature]:
    """For each use of a weight. Gradients are those of random signed sums of the outputs, one per example."""
    total, present = None, on_device(variables)
    for number, inputs in enumerate(data):
        key = jax.random.fold_in(jax.random.key(seed), number)
        program = network.program(present, inputs)
        total = added(total, network.compiled(_of_batch, program)(present, program.start(inputs), key))
    assert total is not None
    return total


def _of_batch(program: Program, variables: Any, live: Any, key: Any) -> dict[Use, Curvature]:
    found: dict[Use, Contraction] = {}
    jax.eval_shape(lambda: walk(program, variables, live, lambda e: found.update(_used(e))))
    deltas = {use: jnp.zeros(event.result.shape, event.result.dtype) for use, event in found.items()}

    def outputs(deltas: Any) -> Any:
        seen: dict[Use, Any] = {}

        def hook(event: Event) -> Any:
            seen.update((use, (one.x, one.y)) for use, one in _used(event).items())
            return event.result + deltas[event.path, event.number] if isinstance(event, Contraction) else None

        results = walk(program, variables, live, hook)
        differentiable = [results[n] for n in program.results if jnp.issubdtype(results[n].dtype, jnp.inexact)]
        return differentiable, seen

    results, pull, seen = jax.vjp(outputs, deltas, has_aux=True)
    keys = jax.random.split(key, len(results))
    signs = [jax.random.rademacher(k, a.shape, jnp.float32) for k, a in zip(keys, results, strict=True)]
    (slopes,) = pull([sign.astype(a.dtype) for sign, a in zip(signs, results, strict=True)])
    return {
        use: _curvature(seen[use], event.columns(jnp.asarray(slopes[use], jnp.float32))) for use, event in found.items()
    }


def _used(event: Event) -> dict[Use, Contraction]:
    return {(event.path, event.number): event} if isinstance(event, Contraction) else {}


def _curvature(seen: tuple[Any, Any], g: Any) -> Curvature:
    x, y = seen
    return Curvature(gram(x), gram(g), ((y * g) ** 2).sum(1))


class Block(NamedTuple):
    """Classes that have equally many rows of a matrix: shapes (n,) and (n, r)."""

    classes: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True, eq=False)
class Reader:
    """What one matrix reads.

    Attributes:
      inverse: shape (K, K), of the covariance of X.
      weights: shape (K, M): B times a root of F.
      blocks: which rows belong to which class.
    """

    inverse: np.ndarray
    weights: np.ndarray
    blocks: tuple[Block, ...]

    @property
    def classes(self) -> np.ndarray:
        """Those that are read."""
        return np.concatenate([np.zeros(0, int), *(block.classes for block in self.blocks)])

    def only(self, classes: np.ndarray) -> Reader:
        """Some of the classes."""
        kept = [(block, np.isin(block.classes, classes)) for block in self.blocks]
        return replace(self, blocks=tuple(Block(own.classes[i], own.rows[i]) for own, i in kept if i.any()))


class Elimination:
    """A matrix from whose inputs classes are dropped, one after the other; in place.

    The inverse covariance of what is left is ``A - H H^T``, with A that of all inputs and H the first columns of a
    Cholesky factor of A, pivoted in the order of dropping.
    """

    def __init__(self, reader: Reader):
        self.inverse, self.weights, self.blocks = reader.inverse, reader.weights.copy(), list(reader.blocks)
        self.factor, self.width = np.zeros_like(self.inverse, order="F"), 0
        self.diagonals = [self.inverse[rows[:, :, None], rows[:, None, :]] for _, rows in self.blocks]

    def cost(self, classes: np.ndarray) -> np.ndarray:
        """For each of these classes, which are sorted, the cost of dropping it; 0 if it is not read."""
        found = np.zeros(len(classes))
        for (own, rows), diagonal in zip(self.blocks, self.diagonals, strict=True):
            weights = self.weights[rows]
            curved = np.linalg.solve(diagonal, weights @ weights.transpose(0, 2, 1))
            found[np.searchsorted(classes, own)] = 0.5 * np.trace(curved, axis1=1, axis2=2)
        return found

    def drop(self, one: int) -> None:
        """Without a class."""
        (place,) = (i for i, block in enumerate(self.blocks) if one in block.classes)
        others = self.blocks[place].classes != one
        rows = self.blocks[place].rows[~others][0]
        done = self.factor[:, : self.width]
        columns = self.inverse[:, rows] - done @ done[rows].T  # (K, r)
        rounding = 1e-9 * self.inverse.diagonal().max() * np.eye(len(rows))  # so that no pivot is below it
        unrooted = np.linalg.inv(np.linalg.cholesky(columns[rows] + rounding))
        columns = columns @ unrooted.T
        self.factor[:, self.width : self.width + len(rows)] = columns
        self.width += len(rows)
        self.weights -= columns @ (unrooted @ self.weights[rows])
        self.blocks[place] = Block(*(part[others] for part in self.blocks[place]))
        self.diagonals[place] = self.diagonals[place][others]
        for block, diagonal in zip(self.blocks, self.diagonals, strict=True):
            own = columns[block.rows]
            diagonal -= own @ own.transpose(0, 2, 1)


def importance(
    network: Network, variables: Mapping[str, Any], data: Data, ridge: float = 1e-3
) -> dict[str, np.ndarray]:
    """For each neuron the cost of dropping it after all those that cost less, by handle.

    Neurons that no weight reads in sight (query and key features, what is read in loops only) have the cost of being
    zero where they are made, and where that is out of sight too, the largest of all costs, so that they stay.
    """
    ties, arrays = network.graph.ties, {path: to_host(array) for path, array in flat(variables).items()}
    found = curvatures(network, variables, data)
    events = network.events(variables, data.first)
    shifted = {e.contraction.path for e in events if isinstance(e, Additive)}
    uses = {(e.path, e.number): e for e in events if isinstance(e, Contraction)}
    made = _made(ties, uses, found, {path: np.shape(array) for path, array in arrays.items()})
    costs = np.full(count(ties), np.nan)
    groups = list(homes(network.graph).values())
    reading = _reading(ties, uses, groups)
    last = {use: n for n, own in enumerate(reading) for use in own}
    readers: dict[Use, list[Reader]] = {}  # of few weights at a time: an inverse is as large as all sums of a weight
    for n, own in enumerate(groups):
        for use in (use for use in reading[n] if use not in readers):
            event = uses[use]
            readers[use] = _readers(ties, event, found[use], arrays[event.path], event.path in shifted, ridge)
        for one, cost in dropped([reader.only(own) for use in reading[n] for reader in readers[use]]):
            costs[one] = cost
        readers = {use: kept for use, kept in readers.items() if last[use] > n}
    costs = np.where(np.isnan(costs), made, costs)
    known = costs[~np.isnan(costs)]
    return by_handle(network.graph, np.where(np.isnan(costs), known.max() if known.size else 1.0, costs))


def dropped(readers: Sequence[Reader]) -> list[tuple[int, float]]:
    """Classes in the order in which they are dropped, with the cost of each, which never gets smaller."""
    readers = [reader for reader in readers if reader.blocks]
    classes = np.unique(np.concatenate([np.zeros(0, int), *(reader.classes for reader in readers)]))
    reading = [[n for n, reader in enumerate(readers) if one in reader.classes] for one in classes]
    states = [Elimination(reader) for reader in readers]
    costs = [state.cost(classes) for state in states]
    total, left = np.sum(costs, 0), np.ones(len(classes), bool)
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


def _reading(ties: Ties, uses: Iterable[Use], groups: Sequence[np.ndarray]) -> list[list[Use]]:
    """For each group of classes, the weights that read one of them."""
    read = {}
    for use in uses:
        leaf = ties.leaves[use[0]]
        axes = [axis for axis, role in zip(leaf.axes, leaf.roles, strict=True) if axis is not None and role == "in"]
        read[use] = np.concatenate([np.zeros(0, int), *(numbers(ties, axis) for axis in axes)])
    return [[use for use, classes in read.items() if np.isin(classes, own).any()] for own in groups]


def _readers(
    ties: Ties, event: Contraction, sums: Curvature, array: np.ndarray, centred: bool, ridge: float
) -> list[Reader]:
    """One for each group of a contraction."""
    entries = event.entries(array.shape)
    values, found = array.astype(np.float64).ravel()[entries], []
    read = _classes(ties, event.path, entries, array.shape, "in")
    for g in range(len(entries)):
        rows: dict[int, np.ndarray] = {}
        for classes in read:
            for one in np.unique(classes[g, :, 0]).tolist():
                mine = np.flatnonzero(classes[g, :, 0] == one)
                rows[one] = np.union1d(rows[one], mine) if one in rows else mine
        found.append(_reader(sums.x[g], sums.g[g], values[g], rows, centred, ridge))
    return found


def _reader(
    x: np.ndarray, g: np.ndarray, matrix: np.ndarray, rows: Mapping[int, np.ndarray], centred: bool, ridge: float
) -> Reader:
    sums = Sums(x[None], len(x) - 1)
    ridge = max(ridge, 1e-6 * sums.inputs)  # sums of float32 are off by some 1e-7 of the trace
    inverse = np.linalg.inv((sums.centred() if centred else sums).system(ridge)[0])
    values, vectors = np.linalg.eigh(g[:-1, :-1] / sums.number)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    sizes = sorted({len(own) for own in rows.values()})
    by_size = [[(one, own) for one, own in rows.items() if len(own) == size] for size in sizes]
    blocks = tuple(Block(np.array([c for c, _ in own]), np.stack([r for _, r in own])) for own in by_size)
    return Reader(inverse, matrix @ root, blocks)


def _classes(ties: Ties, path: Path, entries: np.ndarray, shape: Sequence[int], role: str) -> list[np.ndarray]:
    """For each dimension of a weight in this role, the class of each entry; each of shape (G, K, M)."""
    leaf, index = ties.leaves[path], np.unravel_index(entries, shape)
    return [
        numbers(ties, axis)[index[d]]
        for d, (axis, own) in enumerate(zip(leaf.axes, leaf.roles, strict=True))
        if axis is not None and own == role
    ]


def _made(
    ties: Ties, uses: Mapping[Use, Contraction], found: Mapping[Use, Curvature], shapes: Mapping[Path, Any]
) -> np.ndarray:
    """Shape (classes,): the cost of being zero where they are made; NaN where that is nowhere in sight."""
    total = np.full(count(ties), np.nan)
    for use, event in uses.items():
        entries = event.entries(shapes[event.path])
        for classes in _classes(ties, event.path, entries, shapes[event.path], "out"):
            own = np.zeros(len(total))
            np.add.at(own, classes[:, 0], 0.5 * found[use].yg)
            seen = np.unique(classes[:, 0])
            total[seen] = np.nan_to_num(total[seen]) + own[seen]
    return total
