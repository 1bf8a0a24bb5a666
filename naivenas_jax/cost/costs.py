"""What a network costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from naivenas_jax.cost.operations import operations
from naivenas_jax.cost.parameters import parameters, variable_bytes
from naivenas_jax.graph.graph import Graph
from naivenas_jax.transfer.variables import check_network


@dataclass(frozen=True)
class Costs:
    """What a network costs.

    Attributes:
      params: entries of all parameters.
      bytes: of all variables.
      macs: multiply-accumulates of matrix products and convolutions, for the inputs that were given.
      activation_bytes: of what these return.
    """

    params: int
    bytes: int
    macs: int | None = None
    activation_bytes: int | None = None


def costs(graph: Graph, variables: Mapping[str, Any], *inputs: Any, **kwargs: Any) -> Costs:
    """Count parameters and bytes, and with inputs also operations.

    Args:
      graph: the network.
      variables: its variables, or their shapes.
      *inputs: arrays or shapes, one per input of the graph; none: operations are not counted.
      **kwargs: of ``graph.apply``.

    Raises:
      GraphError: if there are other inputs than the graph has.
      VariablesError: if the variables are not those of the graph.
      BudgetError: if the sizes of a contraction cannot be told from those of the variables.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("dense", nn.Dense(5), x))
    >>> nas.costs(graph, graph.init(jax.random.key(0), jax.numpy.ones((1, 3))), jax.numpy.ones((2, 3)))
    Costs(params=20, bytes=80, macs=30, activation_bytes=40)
    """
    check_network(graph, variables)
    ties, sizes = graph.ties, graph.ties.sizes
    of_variables = parameters(ties, variables).at(sizes), variable_bytes(ties, variables).at(sizes)
    if not inputs:
        return Costs(*of_variables)
    found = operations(graph, variables, inputs, **kwargs)
    return Costs(*of_variables, found.macs.at(sizes), found.activation_bytes.at(sizes))
