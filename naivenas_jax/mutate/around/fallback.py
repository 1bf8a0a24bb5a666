"""What a verb does when the sizes cannot be had: steps that are tried one after the other.

``fallback=`` of every verb takes a step or a sequence of steps. A step is a function

    (graph, variables, request, error) -> another request, a Mutation, or None

It gets the network, the request that failed and the error. A request is tried in its place; a `Mutation` is the
result; None passes on to the next step. If no step leads to a result, the error of the user's own request is raised,
with notes on what was tried. Verbs that change the structure have no request: their steps get None in its place, and
may answer with a `Mutation` or None.

Only what depends on the sizes is caught: `InfeasibleError` and `SolverError`, of which `TimeLimitError` is one. Errors
about arguments are raised at once.

The steps here:

- `relax`: ask for the nearest sizes that are feasible;
- `nearest`: ask for the sizes that the error names as the nearest;
- `accept`: after a time limit, take the best sizes found by then;
- `keep`: leave the network as it is;
- `warn`, and ``log(level)``: log the error, and pass on to the next step.

>>> import jax, flax.linen as nn, naivenas_jax as nas
>>> x = nas.input_vertex("x", 3)
>>> a = nas.layer("a", nn.Dense(4), x)
>>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.concat("twice", a, a)))
>>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
>>> mutation = nas.delta_nout(graph, variables, {"twice": -3}, fallback=nas.fallback.relax)
>>> mutation.graph.nout("twice"), mutation.notes
(4, ("after InfeasibleError, fallback 'relax' asked for {'twice': Relaxed(wish=-3)}",))

A step of one's own, before one that always has an answer:

>>> def one_less(graph, variables, request, error):
...     return {name: change - 1 for name, change in request.items()}
>>> steps = [one_less, nas.fallback.keep]
>>> nas.delta_nout(graph, variables, {"twice": -3}, fallback=steps).graph.nout("twice")
4
"""

from __future__ import annotations

import logging

from naivenas_jax.align.plan import Plan
from naivenas_jax.align.problem.request import relaxed, to
from naivenas_jax.checks import require_mapping, shown
from naivenas_jax.errors import InfeasibleError, NaiveNASError, RequestError, TimeLimitError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.around.steps import Step, first_line
from naivenas_jax.mutate.request.size_request import SizeRequest
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.transfer.variables import check_network
from naivenas_jax.typing import Variables

__all__ = ["relax", "nearest", "accept", "keep", "log", "warn"]

_logger = logging.getLogger("naivenas_jax")


def __dir__() -> list[str]:
    """The steps; what they are made of is not for users."""
    return sorted(__all__)


def relax(graph: Graph, variables: Variables, request: SizeRequest | None, error: NaiveNASError) -> SizeRequest | None:
    """Ask for the nearest sizes that are feasible: the same request with every part relaxed.

    Returns:
      The relaxed request; None if the verb has no request.
    """
    del graph, variables, error
    if request is None:
        return None
    require_mapping(request, "request", RequestError)
    return {name: relaxed(asked) for name, asked in request.items()}


def nearest(
    graph: Graph, variables: Variables, request: SizeRequest | None, error: NaiveNASError
) -> SizeRequest | None:
    """Ask for the nearest feasible sizes that the error names: the present ones where no others are (unlike `relax`).

    Returns:
      A request for exactly these sizes; None if the error names none.
    """
    del graph, variables, request
    sizes = error.nearest if isinstance(error, InfeasibleError) else {}
    return {name: to(size) for name, size in sizes.items()} or None


def accept(graph: Graph, variables: Variables, request: SizeRequest | None, error: NaiveNASError) -> Mutation | None:
    """After a time limit, take the best sizes found by then; a note says how far they may be from the optimum.

    Returns:
      The `Mutation` to these sizes; None if none had been found, or the error is another one.
    """
    del graph, variables, request
    return error.best() if isinstance(error, TimeLimitError) and error.best else None


def keep(graph: Graph, variables: Variables, request: SizeRequest | None, error: NaiveNASError) -> Mutation:
    """Leave the network as it is; a note says why.

    Returns:
      A `Mutation` from the network to itself.
    """
    del request
    check_network(graph, variables)
    if not isinstance(error, NaiveNASError):
        raise RequestError(f"error must be what the verb raised; found {type(error).__name__}: {shown(error)}.")
    return Mutation(
        graph=graph,
        variables=dict(variables),
        plan=Plan.identity(graph.ties),
        before=graph,
        notes=(f"nothing was changed: {first_line(error)}",),
        variables_before=variables,
    )


def log(level: int) -> Step:
    """A step that logs the error, and passes on to the next step.

    Args:
      level: of `logging`, such as ``logging.INFO``.

    Returns:
      The step. It logs to the logger "naivenas_jax".
    """

    def logged(graph: Graph, variables: Variables, request: SizeRequest | None, error: NaiveNASError) -> None:
        del graph, variables, request
        _logger.log(level, "%s", error)

    return logged


def warn(graph: Graph, variables: Variables, request: SizeRequest | None, error: NaiveNASError) -> None:
    """Log the error as a warning, and pass on to the next step."""
    log(logging.WARNING)(graph, variables, request, error)
