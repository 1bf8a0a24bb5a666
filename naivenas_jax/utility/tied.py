"""What tied neurons are worth together, and where that is written down.

The alignment adds up the scores of tied neurons: over all axes that a utility names, and all places where a neuron lies
on them. A utility that is about a neuron as a whole must therefore give its number at one place only. It gives it at
the first handle that holds the neuron, in the order of the graph; further handles that hold it too get 0, or are not
named at all.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from naivenas_jax.errors import UtilityError
from naivenas_jax.graph.graph import Graph, require_graph
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.utility.user_scores import Utility, scores


def numbers(ties: Ties, axis: str) -> np.ndarray:
    """Shape (size of the axis,): for each neuron the number of its class. Tied neurons have the same number.

    A combination of neurons of several factors (a feature of a head) has a number of its own, unless all but one of the
    factors are fixed: a channel at some position is that channel.
    """
    return np.concatenate([np.zeros(0, np.int64), *(_numbers(ties, run) for run in ties.axes[axis])])


def _numbers(ties: Ties, run: int) -> np.ndarray:
    factors = ties.products.get(run, ())
    free = [i for i, row in enumerate(factors) if not ties.plain(row) <= ties.fixed.keys()]
    if len(free) != 1:
        return np.arange(ties.starts[run], ties.starts[run + 1])
    own = np.concatenate([_numbers(ties, one) for one in factors[free[0]]])
    sizes = [ties.length(row) for row in factors]
    return np.broadcast_to(own.reshape([-1 if i == free[0] else 1 for i in range(len(sizes))]), sizes).ravel()


def count(ties: Ties) -> int:
    """How many classes there are."""
    return int(ties.starts[-1])


@lru_cache(maxsize=16)
def homes(graph: Graph) -> dict[str, np.ndarray]:
    """For each handle the numbers of the classes whose score it bears, -1 where another handle does.

    Handles that bear none are left out; so are classes that may not change.
    """
    ties = graph.ties
    start = ties.starts
    free = np.ones(start[-1], bool)
    for run in range(len(ties.run_sizes)):
        if all(one in ties.fixed for one in ties.plain((run,))):
            free[start[run] : start[run + 1]] = False
    found = {}
    for axis in ties.axes:
        if axis.startswith("~"):
            continue
        own = numbers(ties, axis)
        first = np.zeros(len(own), bool)
        first[np.unique(own, return_index=True)[1]] = True
        borne = np.where(first & free[own], own, -1)
        if (borne >= 0).any():
            found[axis] = borne
            free[own] = False
    return found


def by_handle(graph: Graph, totals: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of classes, shape (classes,), as a utility: each class at one handle."""
    return {axis: np.where(own >= 0, totals[np.maximum(own, 0)], 0.0) for axis, own in homes(graph).items()}


def class_totals(graph: Graph, utility: Utility) -> np.ndarray:
    """Shape (classes,): for each class the sum of the scores that a utility gives to its members."""
    ties = require_graph(graph).ties
    sizes = ties.sizes
    totals = np.zeros(count(ties))
    for axis, given in scores(utility, sizes).items():
        with np.errstate(over="ignore"):
            np.add.at(totals, numbers(ties, axis), given)
        if not np.isfinite(totals).all():
            raise UtilityError(
                f"With the scores of {axis!r}, up to {np.abs(given).max():.3g}, the sum over everything tied is more "
                "than a float can hold. Only the proportions of scores matter: divide all by one number."
            )
    return totals


def total_utility(graph: Graph, utility: Utility) -> dict[str, np.ndarray]:
    """For every handle what its neurons are worth with everything that is tied to them, as the alignment counts.

    This is for looking at, and no utility itself: passed as ``utility=`` every neuron would count once per handle that
    holds it.

    Args:
      graph: the network.
      utility: a mapping from handle to scores, or a function of the handle.

    Returns:
      Scores by handle, each of shape (size,). What is worth something as a combination (a feature of a head) counts
      for each of its factors.

    >>> import flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> a, b = nas.layer("a", nn.Dense(2), x), nas.layer("b", nn.Dense(2), x)
    >>> graph = nas.Graph(x, (a + b).named("sum"))
    >>> nas.total_utility(graph, {"a": [1.0, 2.0], "b": [0.5, 0.25]})["sum"].tolist()
    [1.5, 2.25]
    """
    ties, totals = require_graph(graph).ties, class_totals(graph, utility)
    start = ties.starts
    # a product may be a factor of another: those that are no factor of a later one come first
    for run in sorted(ties.products, key=lambda run: -len(ties.plain((run,)))):
        _give_to_factors(ties, totals, start, run)
    return {axis: totals[numbers(ties, axis)] for axis in graph.handles()}


def _give_to_factors(ties: Ties, totals: np.ndarray, start: np.ndarray, run: int) -> None:
    factors = ties.products[run]
    own = totals[start[run] : start[run + 1]]
    grid = own.reshape([ties.length(row) for row in factors])
    for i, row in enumerate(factors):
        shares = grid.sum(tuple(d for d in range(grid.ndim) if d != i))
        places = np.concatenate([np.arange(start[one], start[one + 1]) for one in row])
        np.add.at(totals, places, shares)
