"""Callbacks: functions that a verb calls with what it has changed, for logs, for validation, for anything.

``on_change=`` of every verb takes

- a function of the `Mutation`, for the network as a whole;
- a mapping ``{name: function of a SizeChange}``, for vertices and inner axes; each is called only if the neurons that
  its vertex reads or makes have changed;
- or a sequence of these.

They are called when the new network is complete and before the verb returns. If one raises, the verb raises and there
is no new network; the old one is untouched. What they return is ignored.

The callbacks here:

- ``log(level)``: log what has changed, for a network or a vertex;
- ``check(*inputs)``: validate the new network, and with inputs compare it with the old one.

`SizeChange` is what functions of a vertex get.

>>> import jax, flax.linen as nn, naivenas_jax as nas
>>> x = nas.input_vertex("x", 3)
>>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(4), x)))
>>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
>>> on_change = [nas.watch.check(jax.numpy.ones((5, 3))), {"hidden": print}]
>>> mutation = nas.delta_nout(graph, variables, {"hidden": 1}, on_change=on_change)
hidden: 4 -> 5, new at [4]
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from naivenas_jax.mutate.around.steps import SizeChange
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.transfer.variables import check_variables
from naivenas_jax.typing import Array

__all__ = ["SizeChange", "check", "log"]

_logger = logging.getLogger("naivenas_jax")


def __dir__() -> list[str]:
    """The callbacks and what they get; what they are made of is not for users."""
    return sorted(__all__)


def log(level: int = logging.INFO) -> Callable[[Mutation | SizeChange], None]:
    """For ``on_change=``: log what changed to the logger "naivenas_jax", one line per axis.

    Args:
      level: of `logging`, such as ``logging.INFO``.

    Returns:
      A callback, for the whole network or for a vertex.

    >>> import logging, naivenas_jax as nas
    >>> on_change = nas.watch.log(logging.DEBUG)  # for the whole network
    >>> on_change = {"conv1": nas.watch.log(), "conv2": nas.watch.log()}  # for two vertices
    """

    def logged(change: Mutation | SizeChange) -> None:
        lines = str(change.plan) if isinstance(change, Mutation) else str(change)
        for line in lines.splitlines():
            _logger.log(level, "%s", line)

    return logged


def check(*inputs: Array, tolerance: float | None = None, **kwargs: object) -> Callable[[Mutation], None]:
    """For ``on_change=``: validate the new network before the verb returns it.

    Its variables must have the shapes that the graph says. If inputs are given, the network is computed on them and
    compared with the old one, as by `Mutation.check`.

    Args:
      *inputs: arrays for the graph before the change.
      tolerance: as for `Mutation.check`.
      **kwargs: as for `Mutation.check`.

    Returns:
      A function of the mutation.

    Raises:
      VariablesError: by that function, if a variable is missing, unknown or of another shape.
      OracleError: by that function, if the two networks differ.
    """

    def checked(mutation: Mutation) -> None:
        ties = mutation.graph.ties
        check_variables(ties.shapes, mutation.variables)
        if inputs:
            mutation.check(*inputs, tolerance=tolerance, **kwargs)

    return checked
