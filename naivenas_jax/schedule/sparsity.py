"""Regularisers that empty whole groups of tied neurons, as optax transformations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from naivenas_jax.align.plan import Path
from naivenas_jax.errors import RequestError, VariablesError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.arguments import require_graph
from naivenas_jax.mutate.widths import ends
from naivenas_jax.sizes.ties import Leaf, Ties
from naivenas_jax.transfer.variables import flat
from naivenas_jax.utility.tied import count, numbers


def group_lasso(graph: Graph, strength: float) -> optax.GradientTransformation:
    """Adds the gradient of a group lasso over everything tied to the updates.

    For each class c of tied neurons let ``w_c`` be all entries of weights between neurons that make or read one of its
    members, each entry once. The penalty and its gradient are

        R = strength * sum_c sqrt(|w_c|) * ||w_c||_2
        dR/dw = strength * sum over the classes c of w of sqrt(|w_c|) * w / ||w_c||_2

    with ``|w_c|`` the number of entries, and 0 where the norm is 0. Classes that may not change, and those on inputs
    and outputs of the graph, are left out; so are biases, scales and statistics.

    Put it before the optimizer, as a penalty on the loss; or after it, before the learning rate, like decoupled decay.

    Args:
      graph: the network whose ``variables["params"]`` are optimised. After a mutation make it anew with the new graph;
        it has no state.
      strength: 0 or more.

    Returns:
      A transformation; its ``update`` needs the parameters.

    Raises:
      RequestError: if ``strength`` is negative or no number.

    Source: Yuan & Lin, Model Selection and Estimation in Regression with Grouped Variables, 2006; for the structure of
    networks, Wen et al., Learning Structured Sparsity in Deep Neural Networks, NeurIPS 2016.

    >>> import jax, optax, flax.linen as nn, jax.numpy as jnp, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 1)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(1), nas.layer("hidden", nn.Dense(1), x)))
    >>> params = {"hidden": {"kernel": jnp.array([[3.0]]), "bias": jnp.ones(1)},
    ...           "out": {"kernel": jnp.array([[4.0]]), "bias": jnp.ones(1)}}
    >>> tx = nas.group_lasso(graph, 0.1)
    >>> zero = jax.tree.map(jnp.zeros_like, params)
    >>> round(float(tx.update(zero, tx.init(params), params)[0]["hidden"]["kernel"][0, 0]), 4)
    0.0849
    """
    groups = _Groups.of(graph, _number(strength, "strength"))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(jnp.add, updates, groups.gradient(_needed(params, "group_lasso"))), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def group_shrink(graph: Graph, amount: float) -> optax.GradientTransformation:
    """After the optimizer's step, shrinks what makes each class of tied neurons: the proximal step of a group lasso.

    For each class c let ``w_c`` be all entries of weights that make one of its members, biases not among them. With
    the parameters p and the updates u that come in, and ``w = p + u``,

        w_c <- w_c * max(0, 1 - amount * sqrt(|w_c|) / ||w_c||_2),

    the exact minimiser of ``||v - w||^2 / 2 + amount * sum_c sqrt(|w_c|) * ||v_c||_2``, since no entry makes two
    classes. Groups become exactly zero. Put it last in the chain, with ``amount`` the learning rate times the strength.

    Args:
      graph: the network whose ``variables["params"]`` are optimised.
      amount: 0 or more.

    Raises:
      RequestError: if ``amount`` is negative or no number, or an entry makes neurons of two classes (a head, and a
        feature of a head).

    Source: Parikh & Boyd, Proximal Algorithms, 2014, section 6.5.4.

    >>> import jax, optax, flax.linen as nn, jax.numpy as jnp, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 1)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(1), nas.layer("hidden", nn.Dense(2), x)))
    >>> params = {"hidden": {"kernel": jnp.array([[3.0, 0.1]])}, "out": {"kernel": jnp.ones((2, 1))}}
    >>> tx = nas.group_shrink(graph, 0.5)
    >>> updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    >>> optax.apply_updates(params, updates)["hidden"]["kernel"].tolist()
    [[2.5, 0.0]]
    """
    groups = _Groups.of(graph, _number(amount, "amount"), makers=True)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        stepped = jax.tree.map(jnp.add, _needed(params, "group_shrink"), updates)
        return jax.tree.map(jnp.subtract, groups.shrunk(stepped), params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class _Place(NamedTuple):
    """A dimension of a weight, and the class of each position on it; the last number stands for none."""

    dim: int
    classes: np.ndarray


@dataclass(frozen=True, eq=False)
class _Groups:
    """Which entries of which weights belong to which class.

    Attributes:
      places: for each weight its dimensions that lie on classes.
      total: the number of classes.
      strength: of the penalty.
    """

    places: Mapping[Path, tuple[_Place, ...]]
    total: int
    strength: float

    @classmethod
    def of(cls, graph: Graph, strength: float, makers: bool = False) -> _Groups:
        ties = require_graph(graph).ties
        free, none = _free(graph), count(ties)
        places = {}
        for path, leaf in ties.leaves.items():
            if path[0] != "params" or leaf.new is not None:
                continue
            wanted = [d for d in range(len(leaf.axes)) if _wanted(leaf, d, makers)]
            if makers and len(wanted) > 1:
                raise RequestError(
                    f"{'/'.join(path)} makes neurons of {', '.join(repr(leaf.axes[d]) for d in wanted)} at once, so "
                    "that groups overlap and have no proximal step. Use nas.group_lasso."
                )
            own = [(d, numbers(ties, str(leaf.axes[d]))) for d in wanted]
            places[path[1:]] = tuple(_Place(d, np.where(free[classes], classes, none)) for d, classes in own)
        return cls(places, none, strength)

    def gradient(self, params: Any) -> Any:
        """Of the penalty, in the shape of the parameters."""
        norms, sizes = self._norms(params)
        slope = jnp.where(norms > 0, self.strength * jnp.sqrt(sizes) / jnp.where(norms > 0, norms, 1.0), 0.0)
        return _mapped(lambda path, array: (array * self._spread(path, array, slope)).astype(array.dtype), params)

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
            if path not in arrays:
                raise VariablesError(f"The parameters have no {'/'.join(path)!r}; are they those of another graph?")
            for i, place in enumerate(places):
                array = arrays[path]
                once = _once(array.shape, places[:i], place)
                others = tuple(d for d in range(array.ndim) if d != place.dim)
                squares = squares.at[place.classes].add(jnp.sum(jnp.square(array) * once, others))
                sizes = sizes.at[place.classes].add(np.broadcast_to(once, array.shape).sum(others))
        return jnp.sqrt(squares), sizes

    def _spread(self, path: Path, array: Any, values: jax.Array) -> jax.Array:
        """For each entry the sum of the values of its classes."""
        spread, places = jnp.zeros(array.shape), self.places.get(path, ())
        for i, place in enumerate(places):
            own = values.at[self.total].set(0.0)[place.classes].reshape(_along(place.dim, array.ndim))
            spread = spread + own * _once(array.shape, places[:i], place)
        return spread


def _once(shape: tuple[int, ...], earlier: tuple[_Place, ...], place: _Place) -> np.ndarray:
    """0 where an entry has its class on an earlier dimension too, so that it counts once; else 1."""
    once, mine = np.ones((1,) * len(shape)), place.classes.reshape(_along(place.dim, len(shape)))
    for other in earlier:
        once = once * (other.classes.reshape(_along(other.dim, len(shape))) != mine)
    return once


def _along(dim: int, rank: int) -> list[int]:
    return [-1 if d == dim else 1 for d in range(rank)]


def _wanted(leaf: Leaf, dim: int, makers: bool) -> bool:
    return leaf.axes[dim] is not None and (not makers or leaf.roles[dim] == "out")


def _free(graph: Graph) -> np.ndarray:
    """Shape (classes + 1,): whether a class may change when nobody names it."""
    ties: Ties = graph.ties
    still = {run for axis in ends(graph, set(), False) for run in ties.plain(ties.axes[axis])} | ties.fixed.keys()
    free = [not ties.plain((run,)) <= still for run in range(len(ties.run_sizes))]
    return np.append(np.repeat(np.array(free, bool), ties.run_sizes), False)


def _mapped(fn: Any, params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda keys, a: fn(tuple(str(key.key) for key in keys), a), params)


def _needed(params: Any, name: str) -> Any:
    if params is None:
        raise RequestError(f"{name} needs the parameters: call tx.update(updates, state, params).")
    return params


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not value >= 0:
        raise RequestError(f"{what} must be a number of at least 0, found {value!r:.80}.")
    return float(value)
