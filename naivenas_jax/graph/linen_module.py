"""A graph as a Flax linen module."""

from __future__ import annotations

from typing import Any

import flax.linen as nn


class GraphModule(nn.Module):
    """The graph as a linen module: its variables are those of the graph, under the module's name if it is a child.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("dense", nn.Dense(2), x))
    >>> model = nn.Sequential([graph.as_module(), nn.relu])
    >>> model.apply(model.init(jax.random.key(0), jax.numpy.ones((1, 3))), jax.numpy.ones((4, 3))).shape
    (4, 2)
    """

    graph: Any

    @nn.compact
    def __call__(self, *inputs: Any, **kwargs: Any) -> Any:
        return self.graph.run(self.scope, *inputs, **kwargs)
