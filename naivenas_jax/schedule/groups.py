"""Which entries of which weights belong to which class of tied neurons, and norms over them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.errors import RequestError, VariablesError
from naivenas_jax.graph.graph import Graph, require_graph
from naivenas_jax.mutate.request.kept_ends import kept_ends
from naivenas_jax.paths import Path
from naivenas_jax.sizes.ties import Leaf, Ties
from naivenas_jax.transfer.variables import flat
from naivenas_jax.utility.tied import count


class _Place(NamedTuple):
    """A dimension of a weight, and the class of each position on it; the last number stands for none."""

    dim: int
    classes: np.ndarray


@dataclass(frozen=True, eq=False)
class Groups:
    """Which entries of which weights belong to which class.

    Attributes:
      places: for each weight its dimensions that lie on classes.
      total: the number of classes.
      strength: of the penalty.
    """

    places: Mapping[Path, tuple[_Place, ...]]
    total: int
    strength: Any

    @classmethod
    def of(cls, graph: Graph, strength: Any, makers: bool = False) -> Groups:
        ties = require_graph(graph).ties
        free, none = _free(graph), count(ties)
        found = {}
        for path, leaf in ties.leaves.items():
            if path[0] != "params" or leaf.new is not None:
                continue
            own = [
                _Place(d, np.where(free[classes], classes, none))
                for d, axis in enumerate(leaf.axes)
                if axis is not None and _wanted(leaf, d, makers)
                for classes in _members(ties, ties.axes[axis])
            ]
            places = tuple(place for place in own if (place.classes != none).any())
            if makers and len(places) > 1:
                raise RequestError(
                    f"{'/'.join(path)} makes neurons of {' and '.join(_name(graph, each, none) for each in places)} "
                    "at once, so that groups overlap and have no proximal step. Use nas.group_lasso."
                )
            found[path[1:]] = places
        return cls(found, none, strength)

    def gradient(self, params: Any) -> Any:
        """Of the penalty, in the shape of the parameters."""
        norms, sizes = self._norms(params)
        slope = jnp.where(norms > 0, self.strength * jnp.sqrt(sizes) / jnp.where(norms > 0, norms, 1.0), 0.0)
        return _mapped(lambda path, a: (jnp.conj(a) * self._spread(path, a, slope)).astype(a.dtype), params)

    def shrunk(self, params: Any) -> Any:
        """The proximal step; no entry has two classes."""
        norms, sizes = self._norms(params)
        lost = jnp.minimum(1.0, self.strength * jnp.sqrt(sizes) / jnp.where(norms > 0, norms, 1.0))
        return _mapped(lambda path, array: (array * (1 - self._spread(path, array, lost))).astype(array.dtype), params)

    def _norms(self, params: Any) -> tuple[jax.Array, jax.Array]:
        """For each class the norm of its entries, and their number."""
        squares, sizes = jnp.zeros(self.total + 1), jnp.zeros(self.total + 1)
        arrays = flat(params)
        for path, places in self.places.items():
            for i, place in enumerate(places):
                array = _array(arrays, path, place)
                once = _once(array.ndim, places[:i], place, self.total)
                others = tuple(d for d in range(array.ndim) if d != place.dim)
                square = jnp.square(jnp.abs(array).astype(squares.dtype))
                squares = squares.at[place.classes].add(jnp.sum(square * once, others))
                sizes = sizes.at[place.classes].add(np.broadcast_to(once, array.shape).sum(others))
        return jnp.sqrt(squares), sizes

    def _spread(self, path: Path, array: Any, values: jax.Array) -> jax.Array:
        """For each entry the sum of the values of its classes."""
        spread, places = jnp.zeros(array.shape), self.places.get(path, ())
        for i, place in enumerate(places):
            own = values.at[self.total].set(0.0)[place.classes].reshape(_along(place.dim, array.ndim))
            spread = spread + own * _once(array.ndim, places[:i], place, self.total)
        return spread


def _members(ties: Ties, runs: Iterable[int]) -> list[np.ndarray]:
    """For each neuron on some runs its classes, each of shape (neurons,): its own, or of a product one per factor."""
    none, columns = count(ties), [_factors(ties, run) for run in runs]
    sizes = [len(own[0]) for own in columns]
    return [
        np.concatenate([own[i] if i < len(own) else np.full(n, none) for own, n in zip(columns, sizes, strict=True)])
        for i in range(max(map(len, columns), default=0))
    ]


def _factors(ties: Ties, run: int) -> list[np.ndarray]:
    if run not in ties.products:
        return [np.arange(ties.starts[run], ties.starts[run + 1])]
    rows = ties.products[run]
    sizes = [ties.length(row) for row in rows]
    return [
        np.broadcast_to(own.reshape(_along(i, len(rows))), sizes).ravel()
        for i, row in enumerate(rows)
        for own in _members(ties, row)
    ]


def _name(graph: Graph, place: _Place, none: int) -> str:
    """The first handle that the neurons of a place lie on."""
    own = place.classes[place.classes != none][0]
    run = int(np.searchsorted(graph.ties.starts, own, side="right")) - 1
    return repr(next((name for name in graph.handles() if run in graph.ties.axes[name]), f"dimension {place.dim}"))


def _array(arrays: Mapping[Path, Any], path: Path, place: _Place) -> Any:
    shape = getattr(arrays.get(path), "shape", None)
    if shape is None:
        raise VariablesError(
            f"The parameters have no {'/'.join(path)!r}. Are they those of another graph? Of optax.masked and "
            "multi_transform put it outside: a group may lie in any of the layers."
        )
    if len(shape) <= place.dim or shape[place.dim] != len(place.classes):
        raise VariablesError(
            f"{'/'.join(path)!r} has shape {shape}, but {len(place.classes)} neurons on dimension {place.dim}. After "
            "a mutation make the transformation anew with the new graph."
        )
    return arrays[path]


def _once(rank: int, earlier: tuple[_Place, ...], place: _Place, none: int) -> np.ndarray:
    """0 where an entry has its class in an earlier place too, so that it counts once; else 1."""
    once, mine = np.ones((1,) * rank, bool), place.classes.reshape(_along(place.dim, rank))
    for other in earlier:
        if set(other.classes.tolist()) & set(place.classes.tolist()) - {none}:
            once = once & (other.classes.reshape(_along(other.dim, rank)) != mine)
    return once


def _along(dim: int, rank: int) -> list[int]:
    return [-1 if d == dim else 1 for d in range(rank)]


def _wanted(leaf: Leaf, dim: int, makers: bool) -> bool:
    return leaf.axes[dim] is not None and (not makers or leaf.roles[dim] == "out")


def _free(graph: Graph) -> np.ndarray:
    """Shape (classes + 1,): whether a class may change when nobody names it."""
    ties: Ties = graph.ties
    still = {run for axis in kept_ends(graph, (), False) for run in ties.plain(ties.axes[axis])} | ties.fixed.keys()
    free = [not ties.plain((run,)) <= still for run in range(len(ties.run_sizes))]
    return np.append(np.repeat(np.array(free, bool), ties.run_sizes), False)


def _mapped(fn: Any, params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda keys, a: fn(tuple(str(key.key) for key in keys), a), params)
