"""What all verbs do around the change itself: fall back if it fails, tell who watches if it works."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.around.callbacks import OnChange, notify
from naivenas_jax.mutate.around.fallback import Fallback, Request, first_that_works
from naivenas_jax.mutate.around.shape_check import tried
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.transfer.variables import as_given


def settle(
    graph: Graph,
    variables: Mapping[str, Any],
    request: Request,
    attempt: Callable[[Any], Mutation],
    fallback: Fallback = (),
    on_change: OnChange = None,
    inputs: Any = None,
) -> Mutation:
    """``attempt(request)``, tried on ``inputs``, or what ``fallback`` makes of its failure; ``on_change`` is told."""

    def attempt_and_try(request: Any) -> Mutation:
        return tried(attempt(request), inputs)

    mutation = first_that_works(graph, variables, request, attempt_and_try, fallback)
    mutation = replace(mutation, variables=as_given(mutation.variables, variables))
    notify(mutation, on_change)
    return mutation


def settled(verb: Callable[..., Mutation]) -> Callable[..., Mutation]:
    """A verb without request, which takes ``fallback=``, ``on_change=`` and ``inputs=`` as well."""

    @functools.wraps(verb)
    def with_settling(
        graph: Graph,
        variables: Mapping[str, Any],
        *args: Any,
        fallback: Fallback = (),
        on_change: OnChange = None,
        inputs: Any = None,
        **keywords: Any,
    ) -> Mutation:
        def attempt(request: None) -> Mutation:
            del request
            return verb(graph, variables, *args, **keywords)

        return settle(graph, variables, None, attempt, fallback, on_change, inputs)

    with_settling.__signature__ = inspect.signature(verb)  # type: ignore[attr-defined]
    return with_settling
