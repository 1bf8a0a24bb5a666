"""What a graph can be made into: modules of Flax."""

from __future__ import annotations

from flax import nnx

from naivenas_jax.graph.evaluation.linen_module import GraphModule, RunsInScope
from naivenas_jax.graph.evaluation.nnx_module import Applies, GraphModel
from naivenas_jax.typing import Variables


class AsModules:
    """The methods of a graph that make modules of it."""

    def as_module(self: RunsInScope, name: str | None = None) -> GraphModule:
        """The graph as a ``flax.linen`` module, on its own or inside other modules.

        Args:
          name: the name of the module inside its parent, as of any linen module.

        Returns:
          A module whose variables are those of the graph.

        >>> import flax.linen as nn, naivenas_jax as nas
        >>> x = nas.input_vertex("x", 3)
        >>> module = nas.Graph(x, nas.layer("dense", nn.Dense(2), x)).as_module()
        >>> isinstance(module, nn.Module)
        True
        """
        return GraphModule(self, name=name)

    def as_nnx(self: Applies, variables: Variables, *, rngs: nnx.Rngs | None = None) -> GraphModel:
        """The graph and its variables as an ``nnx`` module, to go on in nnx after changes.

        Args:
          variables: the variables of the graph, as a mutation returns them.
          rngs: streams of random numbers for training, such as dropout.

        Returns:
          A module that computes what the graph does; see `GraphModel`. ``nnx.jit``, ``nnx.grad``, ``nnx.Optimizer``,
          ``nnx.split`` and ``nnx.merge`` take it. ``model.train()`` and ``model.eval()`` switch, and it starts in
          evaluation.

        Raises:
          VariablesError: if ``variables`` are no dict of collections.
          GraphError: if ``rngs`` is no ``nnx.Rngs``.

        >>> import jax, flax.linen as nn, naivenas_jax as nas
        >>> x = nas.input_vertex("x", 3)
        >>> graph = nas.Graph(x, nas.layer("dense", nn.Dense(2), x))
        >>> model = graph.as_nnx(graph.init(jax.random.key(0), jax.numpy.ones((1, 3))))
        >>> model(jax.numpy.ones((5, 3))).shape
        (5, 2)
        """
        return GraphModel(self, variables, rngs)
