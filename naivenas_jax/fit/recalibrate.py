"""Batch statistics estimated again, one normalisation after the other, in the order of evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from naivenas_jax.errors import VariablesError
from naivenas_jax.fit.network.network import Data, Network, Run, Runs, check_values, means, on_device, replaced
from naivenas_jax.fit.network.variable_uses import Event, Standardisation
from naivenas_jax.fit.regression.ridge import added
from naivenas_jax.graph.graph import Graph
from naivenas_jax.paths import Path
from naivenas_jax.transfer.variables import flat, nested


def recalibrate(graph: Graph, variables: Mapping[str, Any], batches: Iterable[Any], **kwargs: Any) -> dict[str, Any]:
    """The same variables, with the running statistics of every batch normalisation estimated again.

    Afterwards, in inference mode, each running mean and variance is that of what the layer normalises, over all
    examples and positions of all batches:

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
      **kwargs: passed to ``graph.apply``.

    Returns:
      New variables. Without batch statistics, the same ones.

    Raises:
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
    check_values(graph, variables)
    network, data = Network(graph, kwargs), Data.of(batches)
    runs = Runs(data, ((network, variables),))
    for path in standardised(network, variables, data):
        present = on_device(variables)

        def visit(run: Run, path: Path = path, present: Any = present) -> tuple[tuple[Run], Any]:
            run, found = moments(run, present, path)
            return (run,), found

        variables = restandardised(variables, path, runs.visited(visit))
    return dict(variables)


def standardised(network: Network, variables: Mapping[str, Any], data: Data) -> list[Path]:
    """The running means, in the order of evaluation."""
    events = network.events(variables, data.first)
    found = list(dict.fromkeys(e.path for e in events if isinstance(e, Standardisation)))
    if lost := [path for path in means(variables) if path not in found]:
        raise VariablesError(
            f"{'/'.join(lost[0])} is a running mean, but no activation is seen from which it is subtracted: the layer "
            "runs inside a loop or on complex numbers, does not run at all for these inputs, or is told to use the "
            "statistics of the batch. Pass the keyword arguments of inference, such as train=False."
        )
    return found


def moments(run: Run, variables: Any, path: Path) -> tuple[Run, list[Any]]:
    """What a running mean and variance are of: for each use the number of values, their mean and variance."""
    return run.seen(_moments, path, (_beside(path),), variables)


def restandardised(variables: Mapping[str, Any], path: Path, found: Iterable[list[Any]]) -> dict[str, Any]:
    """The variables, with another running mean and variance.

    Args:
      variables: of the network.
      path: of the mean.
      found: for each batch its `moments`.
    """
    total = None
    for number, mean, spread in added(None, [one for batch in found for one in batch]):
        total = added(total, (number, number * mean, number * (spread + mean**2)))
    assert total is not None
    number, first, second = total
    if number < 2:
        raise VariablesError(
            f"{'/'.join(path)} and its variance cannot be told from a single value of each neuron, of one example at "
            "one position. Give more examples, or compensate with statistics=False."
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise VariablesError(
            f"{'/'.join(path)} would not be finite: on these batches an activation overflows, or variables are not "
            "finite."
        )
    mean, arrays = first / number, flat(variables)
    for one, value in ((path, mean), (_beside(path), np.maximum(second / number - mean**2, 0.0))):
        if one in arrays:
            arrays[one] = replaced(arrays[one], value)
    return nested(arrays)


def _beside(path: Path) -> Path:
    return (*path[:-1], "var")


def _moments(events: Iterable[Event]) -> list[Any]:
    return [event.moments for event in events if isinstance(event, Standardisation)]
