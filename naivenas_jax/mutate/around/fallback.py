"""What a verb does when the sizes cannot be had: steps that are tried one after the other.

``fallback=`` of every verb takes a step or a sequence of steps. A step is a function

    (graph, variables, request, error) -> another request, a Mutation, or None

It gets the network, the request that failed and the error. A request is tried in its place; a `Mutation` is the
result; None passes on to the next step. If no step leads to a result, the error of the user's own request is raised,
with notes on what was tried. Verbs that change the structure have no request: it is None, and so is what `relax` makes
of it.

Only what depends on the sizes is caught: `InfeasibleError` and `SolverError`, of which `TimeLimitError` is one. Bad
arguments are raised as ever.

>>> import jax, flax.linen as nn, naivenas_jax as nas
>>> x = nas.input_vertex("x", 3)
>>> a = nas.layer("a", nn.Dense(4), x)
>>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.concat("twice", a, a)))
>>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
>>> mutation = nas.delta_nout(graph, variables, {"twice": -3}, fallback=nas.fallback.relax)
>>> mutation.graph.nout("twice"), mutation.notes
(4, ("after InfeasibleError, fallback 'relax' asked for {'twice': Relaxed(wish=-3)}",))
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from naivenas_jax.align.plan import Plan
from naivenas_jax.align.problem.request import relaxed, to
from naivenas_jax.errors import InfeasibleError, NaiveNASError, RequestError, SolverError, TimeLimitError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.result.mutation import Mutation

logger = logging.getLogger("naivenas_jax")

Request = Mapping[str, Any] | None
Step = Callable[[Graph, Mapping[str, Any], Request, NaiveNASError], "Request | Mutation"]
Fallback = Step | Sequence[Step]


def relax(graph: Graph, variables: Mapping[str, Any], request: Request, error: NaiveNASError) -> Request:
    """The same request with every part relaxed: the nearest sizes that are feasible."""
    del graph, variables, error
    return None if request is None else {name: relaxed(asked) for name, asked in request.items()}


def nearest(graph: Graph, variables: Mapping[str, Any], request: Request, error: NaiveNASError) -> Request:
    """The sizes that the error names as the nearest ones that are feasible. Unlike `relax` they may be the present."""
    del graph, variables, request
    sizes = error.nearest if isinstance(error, InfeasibleError) else {}
    return {name: to(size) for name, size in sizes.items()} or None


def accept(graph: Graph, variables: Mapping[str, Any], request: Request, error: NaiveNASError) -> Mutation | None:
    """After a time limit the best sizes found by then, with a note on how far they may be from the optimum."""
    del graph, variables, request
    return error.best() if isinstance(error, TimeLimitError) and error.best else None


def keep(graph: Graph, variables: Mapping[str, Any], request: Request, error: NaiveNASError) -> Mutation:
    """The network as it is."""
    del request
    return Mutation(
        graph=graph,
        variables=dict(variables),
        plan=Plan.identity(graph.ties),
        before=graph,
        notes=(f"nothing was changed: {_first_line(error)}",),
        variables_before=variables,
    )


def log(level: int) -> Step:
    """A step that logs the error with a level of `logging`, and passes on to the next step."""

    def logged(graph: Graph, variables: Mapping[str, Any], request: Request, error: NaiveNASError) -> None:
        del graph, variables, request
        logger.log(level, "%s", error)

    return logged


def warn(graph: Graph, variables: Mapping[str, Any], request: Request, error: NaiveNASError) -> None:
    """Log the error as a warning, and pass on to the next step."""
    log(logging.WARNING)(graph, variables, request, error)


def first_that_works(
    graph: Graph,
    variables: Mapping[str, Any],
    request: Request,
    attempt: Callable[[Request], Mutation],
    steps: Fallback,
) -> Mutation:
    """``attempt(request)``; if that fails what the first step that has an answer makes of it."""
    every = _chain(steps)
    try:
        return attempt(request)
    except (InfeasibleError, SolverError) as error:
        first = last = error
    notes: list[str] = []
    for step in every:
        answer, name = step(graph, variables, request, last), getattr(step, "__name__", repr(step))
        if answer is None:
            continue
        if isinstance(answer, Mutation):
            tried = f"after {type(last).__name__}, fallback {name!r}"
            return replace(answer, notes=(*notes, *answer.notes, tried))
        if request is None or not isinstance(answer, Mapping):
            raise RequestError(
                f"Fallback {name!r} returned {answer!r:.80}; it must be a Mutation or None"
                f"{'' if request is None else ', or another request'}."
            )
        request, tried = answer, f"after {type(last).__name__}, fallback {name!r} asked for {dict(answer)}"
        notes.append(tried)
        try:
            found = attempt(request)
            return replace(found, notes=(*notes, *found.notes))
        except (InfeasibleError, SolverError) as error:
            last = error
            first.add_note(f"{tried}, which failed too: {_first_line(error)}")
    raise first


def _chain(steps: Fallback) -> tuple[Step, ...]:
    given = (steps,) if callable(steps) else tuple(steps) if isinstance(steps, Sequence) else (steps,)
    for step in given:
        if not callable(step):
            raise RequestError(
                "fallback= takes steps, such as nas.fallback.relax, nas.fallback.warn, nas.fallback.keep, or functions "
                f"(graph, variables, request, error) -> request, Mutation or None; found {step!r:.80}."
            )
    return given


def _first_line(error: NaiveNASError) -> str:
    return str(error).splitlines()[0]
