"""The utility that decides which neurons stay: the user's, or magnitudes."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from naivenas_jax.graph.graph import Graph
from naivenas_jax.typing import Variables
from naivenas_jax.utility.scores.comparable import comparable
from naivenas_jax.utility.scores.magnitude import magnitude
from naivenas_jax.utility.user_scores import Utility, scores


def deciding_utility(
    graph: Graph,
    variables: Variables,
    given: Utility | None,
    *,
    within_budgets: bool = False,
    axes: Collection[str] | None = None,
) -> dict[str, np.ndarray]:
    """Scores of every neuron, by axis.

    Args:
      graph: the network.
      variables: its variables.
      given: what a user gave as ``utility=``; None: magnitudes.
      within_budgets: whether a budget compares neurons of different layers, so that magnitudes are made comparable.
      axes: those whose magnitudes are wanted; None: all.

    Raises:
      UtilityError: if the user's utility, or a magnitude, is not finite, or has another shape than the axis.
    """
    if given is None:
        given = comparable_magnitude(graph, variables) if within_budgets else magnitude(graph, variables, axes=axes)
    return scores(given, graph.ties.sizes)


def comparable_magnitude(graph: Graph, variables: Variables) -> dict[str, np.ndarray]:
    """Magnitudes that say something about neurons of different layers. In a dry run on shapes all neurons are alike."""
    alike = {axis: np.ones(size) for axis, size in graph.ties.sizes.items()}
    return comparable(graph, magnitude(graph, variables) or alike)
