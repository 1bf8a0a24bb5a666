"""Batch statistics estimated again, one normalisation after the other, in the order of evaluation."""

from __future__ import annotations

from collections.abc import Iterable

from naivenas_jax.checks import require_progress
from naivenas_jax.errors import VariablesError
from naivenas_jax.fit.network.data import Data
from naivenas_jax.fit.network.network import Network, Run, Runs, check_values, on_device
from naivenas_jax.fit.regression.running_statistics import Moments, moments, restandardised, standardised
from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.around.keywords import shows_keywords
from naivenas_jax.paths import Path
from naivenas_jax.progress import tracked
from naivenas_jax.transfer.variables import handed_out, plain
from naivenas_jax.typing import PyTree, Variables


@shows_keywords()
def recalibrate(
    graph: Graph, variables: Variables, batches: Iterable[PyTree], *, progress: bool | None = None, **kwargs: object
) -> Variables:
    """The same variables, with the running statistics of every batch normalisation estimated again.

    Afterwards, in inference mode, each running mean and variance is the mean and variance of the values that the layer
    normalises, over all examples and positions of all batches:

        mean = sum(x) / N,      var = sum((x - mean)^2) / N.

    These are exact pooled statistics and no moving averages: neither the size nor the order of the batches matters.
    The layers come in the order of evaluation, each on what the layers before it make with their new statistics, which
    takes a pass over the batches per layer. Only sums are kept between batches.

    A normalisation is recognised by what it computes, not by its class: a variable ``mean`` of a collection other than
    ``params``, with a ``var`` beside it, is subtracted from an activation. It works for linen and nnx, hand-written and
    imported networks.

    Args:
      graph: the network.
      variables: its variables; untouched.
      batches: inputs: arrays, or tuples of arrays where the graph has several inputs. Anything that can be iterated
        over again; an iterator is made into a list.
      progress: whether to show how far it is: None: in a terminal and a notebook, after a second; True: elsewhere
        too, in lines on standard error; False: never.
      **kwargs: passed to ``graph.apply``.

    Returns:
      New variables. Without batch statistics, the same ones.

    Raises:
      GraphError: ``graph`` is no graph.
      VariablesError: the variables are not those of the graph, there are no batches, they hold numbers that are not
        finite or a single value per neuron, or there are statistics that no normalisation reads in sight.

    >>> import jax, jax.numpy as jnp, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("norm", nn.BatchNorm(), x))
    >>> batches = [jnp.full((4, 3), 2.0), jnp.full((12, 3), 6.0)]
    >>> variables = graph.init(jax.random.key(0), batches[0])
    >>> statistics = nas.recalibrate(graph, variables, batches)["batch_stats"]["norm"]
    >>> statistics["mean"].tolist(), statistics["var"].tolist()
    ([5.0, 5.0, 5.0], [3.0, 3.0, 3.0])
    """
    require_progress(progress, VariablesError)
    check_values(graph, variables)
    network, data, given = Network(graph, kwargs), Data.of(graph, batches), variables
    variables = plain(variables)
    runs = Runs(data, ((network, variables),))
    with tracked(list(standardised(network, variables, data)), "recalibrate, normalisations", progress) as every:
        for path in every:
            present = on_device(variables)

            def visit(run: Run, path: Path = path, present: Variables = present) -> tuple[tuple[Run], list[Moments]]:
                run, found = moments(run, present, path)
                return (run,), found

            variables = restandardised(variables, path, runs.visited(visit))
    made: Variables = handed_out(dict(variables), given)
    return made
