"""Utility that can be compared between layers, for budgets that choose among them."""

from __future__ import annotations

import numpy as np

from naivenas_jax.graph.graph import Graph
from naivenas_jax.utility.tied import by_handle, class_totals, homes
from naivenas_jax.utility.user_scores import Utility


def comparable(graph: Graph, utility: Utility) -> dict[str, np.ndarray]:
    """The share that each neuron has of what its handle would be left with.

    With the scores ``u`` of a handle, summed over everything tied and in descending order,

        score_i = u_i^2 / (u_1^2 + ... + u_i^2),

    so that the best neuron of every handle scores 1, and each further one what it adds to those before. Raw scores
    depend on the width and scale of a layer; under a budget they may empty one layer for another. Negative scores stay
    negative.

    Args:
      graph: the network.
      utility: a mapping from handle to scores, or a function of the handle.

    Returns:
      Scores by handle, each of shape (size,); tied neurons have theirs at the first handle that holds them.

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


def _shares(scores: np.ndarray) -> np.ndarray:
    order = np.argsort(-np.abs(scores), kind="stable")
    largest = np.abs(scores).max(initial=0.0)
    squares = (scores[order] / (largest or 1.0)) ** 2  # shares do not depend on the scale, but a float ends somewhere
    total = np.cumsum(squares)
    result = np.zeros(len(scores))
    result[order] = np.divide(squares, total, out=np.zeros(len(scores)), where=total > 0)
    return result * np.sign(scores)
