"""Utility of neurons by the size of their weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

import jax
import numpy as np

from naivenas_jax.errors import UtilityError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.transfer.take import to_host
from naivenas_jax.transfer.variables import check_variables, flat


def magnitude(
    graph: Graph,
    variables: Mapping[str, Any],
    *,
    norm: Literal["l1", "l2"] = "l1",
    axes: Collection[str] | None = None,
) -> dict[str, np.ndarray]:
    """How large the incoming weights of each neuron are.

    For the neuron j that a weight ``W`` of shape (..., in, out) makes, the mean of ``|W[..., j]|`` (l1) or the root of
    the mean of its square (l2). An axis made by several weights gets the sum. Neurons that are tied add up in the
    alignment.

    Args:
      graph: the network.
      variables: its variables.
      norm: "l1" or "l2".
      axes: those whose scores are wanted; all where not given.

    Returns:
      Scores by axis, each of shape (size,); only axes that a weight makes.

    Source: magnitude pruning of filters, Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("dense", nn.Dense(2), x))
    >>> variables = {"params": {"dense": {"kernel": np.array([[1., 2.], [3., 4.], [5., 6.]]), "bias": np.zeros(2)}}}
    >>> magnitude(graph, variables)["dense"].tolist()
    [3.0, 4.0]
    """
    if norm not in ("l1", "l2"):
        raise UtilityError(f"norm must be 'l1' or 'l2', found {norm!r}.")
    check_variables(graph.ties.leaves, {axis: graph.ties.size(axis) for axis in graph.ties.axes}, variables)
    arrays, scores = flat(variables), dict[str, np.ndarray]()
    for path, leaf in graph.ties.leaves.items():
        if "in" not in leaf.roles or "out" not in leaf.roles:
            continue
        made = leaf.roles.index("out")
        axis = leaf.axes[made]
        if axis is None or (axes is not None and axis not in axes):
            continue
        if isinstance(arrays[path], jax.ShapeDtypeStruct):
            continue  # a dry run on shapes: all neurons are alike
        values = np.abs(to_host(arrays[path]).astype(np.float64))
        others = tuple(d for d in range(values.ndim) if d != made)
        scores[axis] = scores.get(axis, 0.0) + (
            values.mean(others) if norm == "l1" else np.sqrt((values**2).mean(others))
        )
    return scores
