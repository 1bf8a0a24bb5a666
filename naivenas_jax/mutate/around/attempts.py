"""Try a verb, and if no sizes can be had, what the steps of ``fallback=`` propose in its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from naivenas_jax.errors import InfeasibleError, NaiveNASError, RequestError, SolverError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.request.size_request import SizeRequest
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.typing import Variables

#: ``(graph, variables, request, error) -> another request, a mutation, or None``; see `naivenas_jax.fallback`.
Step: TypeAlias = Callable[[Graph, Variables, SizeRequest | None, NaiveNASError], SizeRequest | Mutation | None]
#: What ``fallback=`` may be.
Fallback: TypeAlias = Step | Sequence[Step]


def first_result(function: Callable[..., Mutation], arguments: Mapping[str, Any], fallback: Fallback) -> Mutation:
    """``function(**arguments)``; where that finds no sizes, the answer of the first step that leads to a mutation.

    Args:
      function: makes the mutation.
      arguments: by name. A step may propose another ``"request"``, if there is one among them.
      fallback: the steps.

    Raises:
      InfeasibleError, SolverError: those of the first call, with notes on what was tried, if no step helps.
      RequestError: if a step is no function, or returns something else than a request, a `Mutation` or None.
    """
    steps = _steps(fallback)
    try:
        return function(**arguments)
    except (InfeasibleError, SolverError) as error:
        first = last = error
    graph, variables = arguments["graph"], arguments["variables"]
    request: SizeRequest | None = (arguments["request"] or {}) if "request" in arguments else None
    notes: list[str] = []
    for step in steps:
        name = getattr(step, "__name__", repr(step))
        tried = f"after {type(last).__name__}, fallback {name!r}"
        answer = step(graph, variables, request, last)
        if answer is None:
            continue
        if isinstance(answer, Mutation):
            return replace(answer, notes=(*notes, *answer.notes, tried))
        request = _checked(name, request, answer)
        tried = f"{tried} asked for {dict(request)}"
        notes.append(tried)
        try:
            found = function(**{**arguments, "request": request})
            return replace(found, notes=(*notes, *found.notes))
        except (InfeasibleError, SolverError) as error:
            last = error
            first.add_note(f"{tried}, which failed too: {first_line(error)}")
    raise first


def first_line(error: NaiveNASError) -> str:
    """What an error says, in short."""
    return str(error).splitlines()[0]


def _checked(name: str, request: SizeRequest | None, answer: object) -> SizeRequest:
    if request is None or not isinstance(answer, Mapping):
        raise RequestError(
            f"Fallback {name!r} returned {answer!r:.80}; it must be a Mutation or None"
            f"{'' if request is None else ', or another request'}."
        )
    return answer


def _steps(given: Fallback) -> tuple[Step, ...]:
    steps = tuple(given) if isinstance(given, Sequence) else (given,)
    for step in steps:
        if not callable(step):
            raise RequestError(
                "fallback= takes steps, such as nas.fallback.relax, nas.fallback.warn, nas.fallback.keep, or functions "
                f"(graph, variables, request, error) -> request, Mutation or None; found {step!r:.80}."
            )
    return steps
