"""The utility of tied neurons together, and the one handle at which it is given.

The alignment adds up the scores of tied neurons: over all axes that a utility names, and all positions where a neuron
lies on them. Where a score is computed of all tied neurons together, it must therefore be given at one position only.
That is the first handle that holds the neuron, in the order of the graph; further handles that hold it too get 0, or
are not named at all.

In shapes, "classes" counts the classes of a network: neurons that are tied are in the same class.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int

from naivenas_jax.errors import UtilityError
from naivenas_jax.graph.graph import Graph, require_graph
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.utility.user_scores import Scores, Utility, scores


def class_numbers(ties: Ties, axis: str) -> Int[np.ndarray, " neurons"]:
    """For each neuron of an axis the number of its class. Tied neurons have the same number.

    A combination of neurons of several factors (a feature of a head) has a number of its own, unless all but one of the
    factors are fixed: a channel at some position is that channel.
    """
    return run_numbers(ties, ties.axes[axis])


def run_numbers(ties: Ties, runs: Sequence[int]) -> Int[np.ndarray, " neurons"]:
    """For each neuron of some runs, on an axis or a factor of a product, the number of its class."""
    return np.concatenate([np.zeros(0, np.int64), *(_numbers(ties, run) for run in runs)])


def grouped_runs(ties: Ties, read: tuple[int, ...], made: tuple[int, ...], groups: int) -> tuple[int, ...] | None:
    """The runs on the input of a grouped contraction; None where they cannot be told.

    Args:
      ties: the ties of the network.
      read: the runs on the dimension that the weight reads, one group of the inputs; empty where no axis lies on it.
      made: the runs on the dimension that the weight makes, all groups of the outputs.
      groups: the number of groups.
    """
    factors = ties.products.get(made[0], ()) if len(made) == 1 else ()
    own = made if ties.length(made) == groups else factors[0] if factors else ()
    if ties.length(own) != groups:
        return None
    if not read or ties.length(read) == 1:  # depthwise: a group is an input
        return own
    return next(((run,) for run, product in ties.products.items() if product == (own, read)), None)


def _numbers(ties: Ties, run: int) -> Int[np.ndarray, " neurons"]:
    factors = ties.products.get(run, ())
    free = [i for i, row in enumerate(factors) if not ties.plain(row) <= ties.fixed.keys()]
    if len(free) != 1:
        return np.arange(ties.starts[run], ties.starts[run + 1])
    own = run_numbers(ties, factors[free[0]])
    sizes = [ties.length(row) for row in factors]
    return np.broadcast_to(own.reshape([-1 if i == free[0] else 1 for i in range(len(sizes))]), sizes).ravel()


def class_count(ties: Ties) -> int:
    """How many classes there are."""
    return int(ties.starts[-1])


def free_classes(ties: Ties) -> Bool[np.ndarray, " classes"]:
    """Which classes may change."""
    free = np.ones(class_count(ties), bool)
    for run in range(len(ties.run_sizes)):
        if all(one in ties.fixed for one in ties.plain((run,))):
            free[ties.starts[run] : ties.starts[run + 1]] = False
    return free


@lru_cache(maxsize=16)
def homes(graph: Graph) -> dict[str, Int[np.ndarray, " _"]]:
    """For each handle the numbers of the classes whose score it bears, -1 where another handle does.

    Handles that bear none are left out; so are classes that may not change.
    """
    ties = graph.ties
    free = free_classes(ties)
    found = {}
    for axis in ties.axes:
        if axis.startswith("~"):
            continue
        own = class_numbers(ties, axis)
        first = np.zeros(len(own), bool)
        first[np.unique(own, return_index=True)[1]] = True
        borne = np.where(first & free[own], own, -1)
        if (borne >= 0).any():
            found[axis] = borne
            free[own] = False
    return found


def require_finite(graph: Graph, totals: Float[np.ndarray, " classes"], who: str) -> None:
    """Raise if the score of a class is not finite.

    Args:
      graph: the network.
      totals: the score of each class.
      who: what has computed them, for the message.

    Raises:
      UtilityError: names the first handle that bears such a score.
    """
    if np.isfinite(totals).all():
        return
    for axis, scored in by_handle(graph, totals).items():
        if not np.isfinite(scored).all():
            where = int(np.flatnonzero(~np.isfinite(scored))[0])
            raise UtilityError(
                f"{who} the score of {axis!r} is not finite: {scored[where]} at neuron {where}. The variables, the "
                "loss or its gradient are not finite there."
            )


def by_handle(graph: Graph, totals: Float[np.ndarray, " classes"]) -> Scores:
    """Scores of classes as a utility: each class at one handle."""
    return {axis: np.where(own >= 0, totals[np.maximum(own, 0)], 0.0) for axis, own in homes(graph).items()}


def class_totals(graph: Graph, utility: Utility) -> Float[np.ndarray, " classes"]:
    """For each class the sum of the scores that a utility gives to its members."""
    ties = require_graph(graph).ties
    sizes = ties.sizes
    totals = np.zeros(class_count(ties))
    for axis, given in scores(utility, sizes).items():
        with np.errstate(over="ignore"):
            np.add.at(totals, class_numbers(ties, axis), given)
        if not np.isfinite(totals).all():
            raise UtilityError(
                f"With the scores of {axis!r}, up to {np.abs(given).max():.3g}, the sum over everything tied is more "
                "than a float can hold. Only the proportions of scores matter: divide all by one number."
            )
    return totals


def total_utility(graph: Graph, utility: Utility) -> Scores:
    """For every handle the utility of each neuron and of everything that is tied to it, as the alignment adds it up.

        total_i = sum over all neurons j of any handle that are tied to neuron i of utility_j.

    This is for looking at, and no utility itself: passed as ``utility=`` every neuron would count once per handle that
    holds it.

    Args:
      graph: the network.
      utility: a mapping from handle to scores, arrays of shape (size,) or one number for all neurons; or a function
        of the handle.

    Returns:
      Totals by handle, each of shape (size,). The utility of a combination of neurons of two factors (a feature of a
      head) counts for the neuron of either factor.

    Raises:
      GraphError: ``graph`` is no graph.
      UtilityError: scores are not finite numbers, of another shape, for a handle that there is not, or too large to be
        added up.

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
    return {axis: totals[class_numbers(ties, axis)] for axis in graph.handles()}


def _give_to_factors(ties: Ties, totals: Float[np.ndarray, " classes"], start: Int[np.ndarray, " _"], run: int) -> None:
    """Add the totals of a product, in place, to those of the neurons that it combines."""
    factors = ties.products[run]
    own = totals[start[run] : start[run + 1]]
    grid = own.reshape([ties.length(row) for row in factors])
    for i, row in enumerate(factors):
        shares = grid.sum(tuple(d for d in range(grid.ndim) if d != i))
        places = np.concatenate([np.arange(start[one], start[one + 1]) for one in row])
        np.add.at(totals, places, shares)
