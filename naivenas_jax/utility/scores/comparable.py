"""Utility that can be compared between layers, for budgets that choose among them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from naivenas_jax.graph.graph import Graph
from naivenas_jax.utility.tied import by_handle, class_totals, homes
from naivenas_jax.utility.user_scores import Scores, Utility


def comparable(graph: Graph, utility: Utility) -> Scores:
    """The share of each neuron in what is left of its handle once all neurons below it are dropped.

    With the scores ``u`` of a handle, summed over everything tied and in descending order,

        score_i = u_i^2 / (u_1^2 + ... + u_i^2),

    so that the best neuron of every handle scores 1, and each further one what it adds to those before. Raw scores
    depend on the width and scale of a layer; under a budget they may empty one layer for another. Negative scores stay
    negative.

    Args:
      graph: the network.
      utility: a mapping from handle to scores, arrays of shape (size,) or one number for all neurons; or a function
        of the handle.

    Returns:
      Scores by handle, each of shape (size,), from -1 to 1; tied neurons have theirs at the first handle that holds
      them.

    Raises:
      GraphError: ``graph`` is no graph.
      UtilityError: the scores are no finite numbers, one for each neuron, or too large to be added up.

    Source: the layer-adaptive magnitude of weights (LAMP), Lee et al., Layer-adaptive Sparsity for the Magnitude-based
    Pruning, ICLR 2021; here of neurons.

    >>> import flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(3), x)))
    >>> nas.comparable(graph, {"hidden": [20.0, 10.0, 20.0]})["hidden"].round(2).tolist()
    [1.0, 0.11, 0.5]
    """
    totals = class_totals(graph, utility)
    shares = totals.copy()
    for own in homes(graph).values():
        classes = own[own >= 0]
        shares[classes] = _shares(totals[classes])
    return by_handle(graph, shares)


def _shares(scores: Float[np.ndarray, " neurons"]) -> Float[np.ndarray, " neurons"]:
    """For each score the share of its square in the squares of it and all larger ones, with the sign of the score."""
    order = np.argsort(-np.abs(scores), kind="stable")
    largest = np.abs(scores).max(initial=0.0)
    squares = (scores[order] / (largest or 1.0)) ** 2  # shares do not depend on the scale, but a float ends somewhere
    total = np.cumsum(squares)
    result = np.zeros(len(scores))
    result[order] = np.divide(squares, total, out=np.zeros(len(scores)), where=total > 0)
    return np.asarray(result * np.sign(scores))
