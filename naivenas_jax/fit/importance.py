"""What the outputs would change by without each neuron, if its readers were re-fitted: second order, and on data.

For a weight B that reads X and makes Y = X B, let C be the covariance of the columns of X, and F that of the gradients
of the outputs by Y. Dropping the entries R of X and re-fitting the others changes the outputs, to second order, by

    cost = 1/2 trace( B_R F B_R^T  [ (C^-1)_RR ]^-1 ),

which is 0 where the other entries reconstruct those of R (or nothing of the output depends on it). Dropping is
repeated: always the neuron goes whose cost, over all weights that read it, is smallest; C^-1 and B are those
of what is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.fit.matrix import Contraction
from naivenas_jax.fit.network import Data, Network, on_device
from naivenas_jax.fit.normal import added
from naivenas_jax.fit.walk import Additive, Event
from naivenas_jax.sizes.ties import Path, Ties
from naivenas_jax.transfer.take import to_host
from naivenas_jax.transfer.variables import flat
from naivenas_jax.utility.tied import by_handle, count, homes, numbers

Use = tuple[Path, int]
#: Of a matrix that is 0 all over.
_TINY = 1e-30


class Curvature(NamedTuple):
    """Sums over rows for one contraction.

    Attributes:
      number: of rows.
      x: shape (K,).
      xx: shape (K, K).
      gg: shape (M, M), of gradients.
      yg: shape (M,), of the squares of ``y * gradient``.
    """

    number: Any
    x: Any
    xx: Any
    gg: Any
    yg: Any


def curvatures(network: Network, variables: Mapping[str, Any], data: Data, seed: int = 0) -> dict[Use, Curvature]:
    """For each use of a weight. Gradients are those of random signed sums of the outputs, one per example."""
    total, present = None, on_device(variables)
    for number, inputs in enumerate(data):
        key = jax.random.fold_in(jax.random.key(seed), number)
        total = added(total, _of_batch(network, present, inputs, key))
    assert total is not None
    return total


def _of_batch(network: Network, variables: Any, inputs: Any, key: Any) -> dict[Use, Curvature]:
    found = [event for event in network.events(variables, inputs) if isinstance(event, Contraction)]
    deltas = {(e.path, e.number): jnp.zeros(e.result.shape, e.result.dtype) for e in found}

    def outputs(deltas: Any) -> Any:
        seen: dict[Use, Any] = {}

        def hook(event: Event) -> Any:
            if not isinstance(event, Contraction):
                return None
            seen[event.path, event.number] = event.x, event.y
            return event.result + deltas[event.path, event.number]

        return network.evaluate(variables, inputs, hook), seen

    results, pull, seen = jax.vjp(outputs, deltas, has_aux=True)
    leaves, tree = jax.tree.flatten(results)
    keys = jax.random.split(key, len(leaves))
    signs = [jax.random.rademacher(k, a.shape, a.dtype) for k, a in zip(keys, leaves, strict=True)]
    (slopes,) = pull(jax.tree.unflatten(tree, signs))
    return {
        (event.path, event.number): _curvature(
            seen[event.path, event.number],
            event.columns(jnp.asarray(slopes[event.path, event.number], jnp.float32)),
        )
        for event in found
    }


def _curvature(seen: tuple[Any, Any], g: Any) -> Curvature:
    x, y = seen
    square = lambda a: jnp.matmul(a.T, a, precision=jax.lax.Precision.HIGHEST)  # noqa: E731
    return Curvature(float(len(x)), x.sum(0), square(x), square(g), ((y * g) ** 2).sum(0))


@dataclass(frozen=True, eq=False)
class Reader:
    """What one weight reads: the state of a problem from which neurons are dropped.

    Attributes:
      inverse: shape (K, K), of the covariance of X with what is dropped left out.
      weights: shape (K, M): B times a root of F.
      rows: for each class the rows that belong to it.
    """

    inverse: np.ndarray
    weights: np.ndarray
    rows: Mapping[int, np.ndarray]

    def cost(self, classes: Sequence[int]) -> np.ndarray:
        """For each class the cost of dropping it."""
        found = np.zeros(len(classes))
        by_size: dict[int, list[int]] = {}
        for position, one in enumerate(classes):
            if one in self.rows:
                by_size.setdefault(len(self.rows[one]), []).append(position)
        for positions in by_size.values():
            rows = np.stack([self.rows[classes[position]] for position in positions])
            blocks, own = self.inverse[rows[:, :, None], rows[:, None, :]], self.weights[rows]
            found[positions] = 0.5 * (own * np.linalg.solve(blocks, own)).sum((1, 2))
        return found

    def without(self, one: int) -> Reader:
        """After dropping a class."""
        if one not in self.rows:
            return self
        rows = self.rows[one]
        gain = np.linalg.solve(self.inverse[np.ix_(rows, rows)], self.inverse[rows]).T  # (K, rows)
        weights, inverse = self.weights - gain @ self.weights[rows], self.inverse - gain @ self.inverse[rows]
        weights[rows] = 0.0
        return Reader(inverse, weights, {k: v for k, v in self.rows.items() if k != one})


def importance(
    network: Network, variables: Mapping[str, Any], data: Data, ridge: float = 1e-3
) -> dict[str, np.ndarray]:
    """For each neuron the cost of dropping it after all those that cost less, by handle.

    Neurons that no weight reads in sight (query and key features, what is read in loops only) have the cost of being
    zero where they are made, and where that is out of sight too, the largest of all costs, so that they stay.
    """
    ties, arrays = network.graph.ties, flat(variables)
    found = curvatures(network, variables, data)
    events = network.events(variables, data.first)
    shifted = {e.contraction.path for e in events if isinstance(e, Additive)}
    uses = {(e.path, e.number): e for e in events if isinstance(e, Contraction)}
    readers = {
        use: _reader(ties, event, found[use], to_host(arrays[event.path]), event.path in shifted, ridge)
        for use, event in uses.items()
    }
    made = _made(ties, uses, found, {path: np.shape(array) for path, array in arrays.items()})
    costs = np.full(count(ties), np.nan)
    for own in homes(network.graph).values():
        classes = np.unique(own[own >= 0]).tolist()
        read = [r for r in readers.values() if not r.rows.keys().isdisjoint(classes)]
        seen = [one for one in classes if any(one in r.rows for r in read)]
        for one, cost in dropped(read, seen):
            costs[one] = cost
    costs = np.where(np.isnan(costs), made, costs)
    known = costs[~np.isnan(costs)]
    return by_handle(network.graph, np.where(np.isnan(costs), known.max() if known.size else 1.0, costs))


def dropped(readers: Sequence[Reader], classes: Sequence[int]) -> list[tuple[int, float]]:
    """Classes in the order in which they are dropped, with the cost of each, which never gets smaller."""
    left, found, highest = list(classes), list[tuple[int, float]](), 0.0
    while left:
        cost = sum(reader.cost(left) for reader in readers)
        position = int(np.argmin(cost))
        highest = max(highest, float(cost[position]))  # type: ignore[index]
        one = left.pop(position)
        found.append((one, highest))
        readers = [reader.without(one) for reader in readers]
    return found


def _reader(ties: Ties, event: Contraction, sums: Curvature, array: Any, centred: bool, ridge: float) -> Reader:
    entries = event.entries(np.shape(array))
    matrix = np.asarray(array, np.float64).ravel()[entries]
    covariance = sums.xx - np.outer(sums.x, sums.x) / sums.number if centred else sums.xx
    scale = max(float(np.trace(covariance)) / len(covariance), _TINY)
    inverse = np.linalg.inv(covariance + ridge * scale * np.eye(len(covariance)))
    values, vectors = np.linalg.eigh(sums.gg / sums.number)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    rows: dict[int, np.ndarray] = {}
    for classes in _classes(ties, event.path, entries, np.shape(array), "in"):
        for one in np.unique(classes[:, 0]).tolist():
            mine = np.flatnonzero(classes[:, 0] == one)
            rows[one] = np.union1d(rows[one], mine) if one in rows else mine
    return Reader(inverse, matrix @ root, rows)


def _classes(ties: Ties, path: Path, entries: np.ndarray, shape: Sequence[int], role: str) -> list[np.ndarray]:
    """For each dimension of a weight in this role, the class of each entry; each of shape (K, M)."""
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
            np.add.at(own, classes[0], 0.5 * found[use].yg)
            seen = np.unique(classes[0])
            total[seen] = np.nan_to_num(total[seen]) + own[seen]
    return total
