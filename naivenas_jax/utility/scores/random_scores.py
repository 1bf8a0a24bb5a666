"""Random utility: the baseline of every other."""

from __future__ import annotations

from typing import Any

import numpy as np

from naivenas_jax.graph.graph import Graph, require_graph
from naivenas_jax.transfer.new_neurons.entries import generator, key_for
from naivenas_jax.utility.tied import by_handle, count


def random_utility(graph: Graph, rng: Any) -> dict[str, np.ndarray]:
    """Uniformly random scores in [0, 1): every set of neurons of a size is equally likely to stay.

    One number for everything that is tied, so that neurons with many ties are not worth more.

    Args:
      graph: the network.
      rng: a key, ``jax.random.key(0)``.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("dense", nn.Dense(2), x))
    >>> nas.random_utility(graph, jax.random.key(0))["dense"].shape
    (2,)
    """
    totals = generator(key_for(rng, ("utility",))).random(count(require_graph(graph).ties))
    return by_handle(graph, totals)
