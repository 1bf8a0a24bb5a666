"""What a network costs: parameters, bytes, operations."""

from __future__ import annotations

from dataclasses import dataclass

from naivenas_jax.cost.operations import operations
from naivenas_jax.cost.parameters import parameters, variable_bytes
from naivenas_jax.graph.graph import Graph
from naivenas_jax.transfer.variables import check_network
from naivenas_jax.typing import Array, PyTree, Shape, Variables
from naivenas_jax.views.viewable import Viewable


@dataclass(frozen=True)
class Costs(Viewable):
    """What a network costs: the result of `costs`.

    Attributes:
      params: the number of entries of all parameters (the collection ``params``).
      bytes: the number of bytes of all variables, of every collection.
      macs: the number of multiply-accumulates in matrix products and convolutions, for the inputs that were given; None
        without inputs.
      activation_bytes: the number of bytes that matrix products and convolutions return for these inputs, in all runs
        of a loop together, which is what a gradient has to keep; None without inputs.

    >>> import jax.numpy as jnp, flax.linen as nn, naivenas_jax as nas
    >>> graph = nas.Graph(x := nas.input_vertex("x", 3), nas.layer("dense", nn.Dense(5), x))
    >>> variables = {"params": {"dense": {"kernel": jnp.ones((3, 5)), "bias": jnp.ones(5)}}}
    >>> nas.costs(graph, variables).params
    20
    """

    params: int
    bytes: int
    macs: int | None = None
    activation_bytes: int | None = None


def costs(graph: Graph, variables: Variables, *inputs: Array | Shape, **kwargs: PyTree) -> Costs:
    """Count parameters and bytes, and with inputs also operations.

    A matrix product of shapes (n, k) and (k, m) has n k m multiply-accumulates; so has a convolution with n positions,
    k entries of a window and m features. A loop counts as often as it runs, or once if its length is not known; of
    branches the one with most operations counts.

    Args:
      graph: the network.
      variables: its variables, or their shapes.
      *inputs: arrays or shapes, one per input of the graph; none: operations are not counted.
      **kwargs: keyword arguments of ``graph.apply``.

    Returns:
      The counts, exact for the shapes that were given.

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
