"""The penalty of a group lasso over classes of tied neurons: its gradient, and its proximal step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from naivenas_jax.errors import RequestError, VariablesError
from naivenas_jax.graph.graph import Graph, require_graph
from naivenas_jax.mutate.request.defaults import kept_ends
from naivenas_jax.paths import Path, key_text, path_text
from naivenas_jax.sizes.ties import Leaf, Ties
from naivenas_jax.transfer.variables import flat_branch
from naivenas_jax.typing import PyTree
from naivenas_jax.utility.tied import class_count


class ClassedDim(NamedTuple):
    """A dimension of a weight that lies on neurons.

    Attributes:
      dim: which dimension.
      classes: shape (neurons,). The class of each neuron; the number of all classes stands for none.
    """

    dim: int
    classes: Int[np.ndarray, " neurons"]


@dataclass(frozen=True, eq=False)
class GroupPenalty:
    """``strength * sum over classes c of sqrt(|w_c|) * ||w_c||_2``; ``w_c`` are the entries of weights that lie on c.

    Attributes:
      dims: for each weight its dimensions that lie on classes.
      total: the number of classes.
      strength: what the sum is multiplied by; may be traced.
    """

    dims: Mapping[Path, tuple[ClassedDim, ...]]
    total: int
    strength: float | jax.Array

    @classmethod
    def of(cls, graph: Graph, strength: float | jax.Array, makers: bool = False) -> GroupPenalty:
        """The penalty over the weights of a graph.

        Args:
          graph: the network.
          strength: what the sum is multiplied by.
          makers: whether a class is given the weights only that make one of its neurons, and not those that read one.

        Raises:
          RequestError: if a weight makes neurons of several classes at once, and ``makers`` is True.
        """
        ties = require_graph(graph).ties
        free, none = _free(graph), class_count(ties)
        found: dict[Path, tuple[ClassedDim, ...]] = {}
        for path, leaf in ties.leaves.items():
            if not leaf.parameter or leaf.new is not None or not _zero_is_zero(leaf):
                continue
            dims = _classed_dims(ties, leaf, free, makers)
            if makers and len(dims) > 1:
                raise RequestError(
                    f"{path_text(path)} makes neurons of {' and '.join(_handle(graph, each, none) for each in dims)} "
                    "at once, so that groups overlap and have no proximal step. Use nas.group_lasso."
                )
            found[ties.parameters[path]] = dims
        return cls(found, none, strength)

    def gradient(self, params: PyTree) -> PyTree:
        """The gradient of the penalty, in the shape of the parameters."""
        norms, sizes = self._norms(params)
        slope = jnp.where(norms > 0, self.strength * jnp.sqrt(sizes) / jnp.where(norms > 0, norms, 1.0), 0.0)
        return _mapped(lambda path, a: (jnp.conj(a) * self._spread(path, a, slope)).astype(a.dtype), params)

    def proximal(self, params: PyTree) -> PyTree:
        """The parameters after the proximal step of the penalty. No entry may lie on two classes."""
        norms, sizes = self._norms(params)
        lost = jnp.minimum(1.0, self.strength * jnp.sqrt(sizes) / jnp.where(norms > 0, norms, 1.0))
        return _mapped(lambda path, array: (array * (1 - self._spread(path, array, lost))).astype(array.dtype), params)

    def _norms(self, params: PyTree) -> tuple[Float[jax.Array, " classes"], Float[jax.Array, " classes"]]:
        """For each class the norm of its entries, and their number."""
        squares, sizes = jnp.zeros(self.total + 1), jnp.zeros(self.total + 1)
        arrays = flat_branch(params)
        for path, dims in self.dims.items():
            for i, own in enumerate(dims):
                array = _array(arrays, path, own)
                once = _once(array.ndim, dims[:i], own, self.total)
                others = tuple(d for d in range(array.ndim) if d != own.dim)
                square = jnp.square(jnp.abs(array).astype(squares.dtype))
                squares = squares.at[own.classes].add(jnp.sum(square * once, others))
                sizes = sizes.at[own.classes].add(np.broadcast_to(once, array.shape).sum(others))
        return jnp.sqrt(squares), sizes

    def _spread(self, path: Path, array: jax.Array, values: Float[jax.Array, " classes"]) -> jax.Array:
        """For each entry the sum of the values of its classes."""
        spread, dims = jnp.zeros(array.shape), self.dims.get(path, ())
        for i, own in enumerate(dims):
            along = values.at[self.total].set(0.0)[own.classes].reshape(_along(own.dim, array.ndim))
            spread = spread + along * _once(array.ndim, dims[:i], own, self.total)
        return spread


def _zero_is_zero(leaf: Leaf) -> bool:
    """Whether a weight is 0 where the variable is: it is no function of it like ``softplus(w)``."""
    return leaf.weight is None or leaf.weight.linear


def _classed_dims(ties: Ties, leaf: Leaf, free: Bool[np.ndarray, " classes"], makers: bool) -> tuple[ClassedDim, ...]:
    """The dimensions of a weight that lie on classes that may change; a dimension of products once per factor."""
    none = class_count(ties)
    dims = (
        ClassedDim(dim, np.where(free[classes], classes, none))
        for dim, axis in enumerate(leaf.axes)
        if axis is not None and (not makers or leaf.roles[dim] == "out")
        for classes in _members(ties, ties.axes[axis])
    )
    return tuple(each for each in dims if (each.classes != none).any())


def _members(ties: Ties, runs: Iterable[int]) -> list[Int[np.ndarray, " neurons"]]:
    """For each neuron on some runs its classes: its own, or of a product one for each factor."""
    none, columns = class_count(ties), [_factors(ties, run) for run in runs]
    sizes = [len(own[0]) for own in columns]
    return [
        np.concatenate([own[i] if i < len(own) else np.full(n, none) for own, n in zip(columns, sizes, strict=True)])
        for i in range(max(map(len, columns), default=0))
    ]


def _factors(ties: Ties, run: int) -> list[Int[np.ndarray, " neurons"]]:
    if run not in ties.products:
        return [np.arange(ties.starts[run], ties.starts[run + 1])]
    rows = ties.products[run]
    sizes = [ties.length(row) for row in rows]
    return [
        np.broadcast_to(own.reshape(_along(i, len(rows))), sizes).ravel()
        for i, row in enumerate(rows)
        for own in _members(ties, row)
    ]


def _handle(graph: Graph, own: ClassedDim, none: int) -> str:
    """The first handle that the neurons of a dimension lie on."""
    first = own.classes[own.classes != none][0]
    run = int(np.searchsorted(graph.ties.starts, first, side="right")) - 1
    return repr(next((name for name in graph.handles() if run in graph.ties.axes[name]), f"dimension {own.dim}"))


def _array(arrays: Mapping[Path, PyTree], path: Path, own: ClassedDim) -> jax.Array:
    """A weight, if it has the shape that it has in the graph."""
    array: jax.Array | None = arrays.get(path)
    shape = getattr(array, "shape", None)
    if array is None or shape is None:
        raise VariablesError(
            f"The parameters have no {path_text(path)!r}. Are they those of another graph? Of optax.masked and "
            "multi_transform put it outside: a group may lie in any of the layers."
        )
    if len(shape) <= own.dim or shape[own.dim] != len(own.classes):
        raise VariablesError(
            f"{path_text(path)!r} has shape {shape}, but {len(own.classes)} neurons on dimension {own.dim}. After "
            "a mutation make the transformation anew with the new graph."
        )
    return array


def _once(rank: int, earlier: tuple[ClassedDim, ...], own: ClassedDim, none: int) -> Bool[np.ndarray, ...]:
    """0 where an entry lies on its class by an earlier dimension too, so that it counts once; else 1."""
    once, mine = np.ones((1,) * rank, bool), own.classes.reshape(_along(own.dim, rank))
    for other in earlier:
        if set(other.classes.tolist()) & set(own.classes.tolist()) - {none}:
            once = once & (other.classes.reshape(_along(other.dim, rank)) != mine)
    return once


def _along(dim: int, rank: int) -> list[int]:
    return [-1 if d == dim else 1 for d in range(rank)]


def _free(graph: Graph) -> Bool[np.ndarray, " classes"]:
    """Whether a class may change when nobody names it; the last entry stands for none."""
    ties = graph.ties
    still = {run for axis in kept_ends(graph, (), False) for run in ties.plain(ties.axes[axis])} | ties.fixed.keys()
    free = [not ties.plain((run,)) <= still for run in range(len(ties.run_sizes))]
    return np.append(np.repeat(np.array(free, bool), ties.run_sizes), False)


def _mapped(fn: Callable[[Path, jax.Array], jax.Array], params: PyTree) -> PyTree:
    return jax.tree_util.tree_map_with_path(lambda keys, a: fn(tuple(map(key_text, keys)), a), params)
