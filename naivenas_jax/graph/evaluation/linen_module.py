"""A graph as a Flax linen module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import flax.linen as nn

from naivenas_jax.typing import PyTree


class RunsInScope(Protocol):
    """Whatever computes in a Flax scope; a `Graph` does."""

    @property
    def run(self) -> Callable[..., PyTree]:
        """``run(scope, *inputs, **keywords)`` computes, with the variables that the scope holds."""


class GraphModule(nn.Module):
    """The graph as a linen module: its variables are those of the graph, under the module's name if it is a child.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("dense", nn.Dense(2), x))
    >>> model = nn.Sequential([graph.as_module(), nn.relu])
    >>> model.apply(model.init(jax.random.key(0), jax.numpy.ones((1, 3))), jax.numpy.ones((4, 3))).shape
    (4, 2)
    """

    graph: RunsInScope

    @nn.compact
    def __call__(self, *inputs: PyTree, **kwargs: object) -> PyTree:
        """Compute the outputs of the graph, as `Graph.apply` does."""
        assert self.scope is not None, "a module that computes is bound to a scope"
        return self.graph.run(self.scope, *inputs, **kwargs)
