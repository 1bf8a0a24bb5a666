"""Random scores: the baseline of every other utility."""

from __future__ import annotations

import jax

from naivenas_jax.graph.graph import Graph, require_graph
from naivenas_jax.transfer.new_neurons.entries import generator, key_for
from naivenas_jax.utility.tied import by_handle, class_count
from naivenas_jax.utility.user_scores import Scores


def random_utility(graph: Graph, rng: jax.Array) -> Scores:
    """Uniformly random scores in [0, 1): every set of neurons of a size is equally likely to stay.

    All neurons that are tied have one score together, so that many ties are no advantage.

    Args:
      graph: the network.
      rng: a key, ``jax.random.key(0)``.

    Returns:
      Scores by handle, each of shape (size,); tied neurons have theirs at the first handle that holds them.

    Raises:
      GraphError: ``graph`` is no graph.
      PlanError: ``rng`` is no key.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("dense", nn.Dense(2), x))
    >>> nas.random_utility(graph, jax.random.key(0))["dense"].shape
    (2,)
    """
    totals = generator(key_for(rng, ("utility",))).random(class_count(require_graph(graph).ties))
    return by_handle(graph, totals)
