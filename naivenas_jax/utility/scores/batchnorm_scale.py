"""Scores of neurons by the scale of their batch normalisation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from naivenas_jax.errors import UtilityError
from naivenas_jax.graph.graph import Graph, require_graph
from naivenas_jax.paths import Path
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.transfer.variables import check_variables, flat
from naivenas_jax.typing import Variables
from naivenas_jax.utility.scores.magnitude import absolute_values
from naivenas_jax.utility.tied import by_handle, class_count, class_numbers
from naivenas_jax.utility.user_scores import Scores


def batchnorm_scale(graph: Graph, variables: Variables) -> Scores:
    """``|scale|`` of the batch normalisation that each neuron goes through.

    A parameter ``params/.../scale`` is the scale of a batch normalisation if it has running statistics beside it:
    ``batch_stats/.../var`` on the same axis. Each scale counts once. Where tied neurons
    are normalised at several places, their score is the sum; it is given at the first handle that holds them.

    Args:
      graph: the network.
      variables: its variables.

    Returns:
      Scores by handle, each of shape (size,). Handles without batch normalisation are not named, so that their neurons
      count 0; combine with another utility if they may shrink too.

    Raises:
      UtilityError: there is no batch normalisation with a scale.
      GraphError, VariablesError: ``graph`` is no graph, or the variables are not its own.
      PlanError: an array is spread over several processes.

    Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017. Their scales are
    trained with an l1 penalty, so that some become small.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> y = nas.layer("norm", nn.BatchNorm(), nas.layer("dense", nn.Dense(2), x))
    >>> graph = nas.Graph(x, y)
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> {handle: scores.tolist() for handle, scores in nas.batchnorm_scale(graph, variables).items()}
    {'dense': [1.0, 1.0]}
    """
    ties = require_graph(graph).ties
    check_variables(ties.shapes, variables)
    totals, found = np.zeros(class_count(ties)), False
    arrays = flat(variables)
    for axis, path in batch_normalised(ties):
        if path in arrays:
            np.add.at(totals, class_numbers(ties, axis), absolute_values(arrays[path]))
            found = True
    if not found:
        raise UtilityError(
            "batchnorm_scale found no batch normalisation: a parameter 'scale' with batch_stats 'var' beside it. "
            f"Parameters: {', '.join(sorted({path[-1] for path in ties.leaves}))}. Use nas.magnitude or nas.taylor."
        )
    return {axis: scores for axis, scores in by_handle(graph, totals).items() if scores.any()}


def batch_normalised(ties: Ties) -> Iterator[tuple[str, Path]]:
    """Every axis that is normalised with running statistics, and the path of its scale, which need not be there."""
    for statistic, leaf in ties.leaves.items():
        if (
            statistic[0] == "batch_stats"
            and statistic[-1] == "var"
            and len(leaf.axes) == 1
            and leaf.axes[0] is not None
        ):
            scale = ("params", *statistic[1:-1], "scale")
            if scale not in ties.leaves or ties.leaves[scale].axes == leaf.axes:
                yield leaf.axes[0], scale
