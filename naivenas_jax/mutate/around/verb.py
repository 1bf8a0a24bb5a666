"""The decorator that makes a verb of a function: what every verb does before and after the change itself."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import ParamSpec

from naivenas_jax.errors import TimeLimitError
from naivenas_jax.mutate.around.fit_check import check_fit
from naivenas_jax.mutate.around.keywords import CallKeywords, bound_arguments, full_signature
from naivenas_jax.mutate.around.steps import check_shapes, first_result, notify, with_coupled_changes
from naivenas_jax.mutate.request.defaults import check_free_outputs
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.transfer.variables import check_network, handed_out, plain
from naivenas_jax.typing import Variables

P = ParamSpec("P")


def verb(function: Callable[P, Mutation]) -> Callable[P, Mutation]:
    """Make a verb of ``function(graph, variables, ...)``, which only has to make the mutation.

    A verb

    1. checks that ``graph`` is a graph and ``variables`` are its own, once;
    2. calls the function, or, where that finds no sizes, what ``fallback=`` proposes;
    3. notes coupled axes that changed, and hands out variables in mappings of the kind that were given, which share no
       memory with these that could be written to;
    4. proves that the new variables fit the new graph, and tries it on the shapes of ``inputs=``;
    5. tells ``on_change=``.

    The function does not see ``fallback`` and ``on_change``, nor ``inputs`` unless it names it. Its signature shows all
    keywords.
    """
    signature = full_signature(function)
    kind = function.__name__
    hidden = (CallKeywords.__annotations__.keys() | {"inputs"}) - inspect.signature(function).parameters.keys()

    @functools.wraps(function)
    def change(*args: P.args, **keywords: P.kwargs) -> Mutation:
        given = bound_arguments(kind, signature, args, keywords)
        graph, variables = given["graph"], given["variables"]
        check_network(graph, variables)
        given["variables"] = plain(variables)
        check_free_outputs(graph, given.get("free_outputs", False))
        arguments = {name: value for name, value in given.items() if name not in hidden}
        try:
            mutation = _finished(first_result(function, arguments, given.get("fallback", ())), variables, kind)
        except TimeLimitError as error:
            raise error.then(lambda best, _: _finished(best, variables, kind)) from error
        check_shapes(mutation, given.get("inputs"))
        notify(mutation, given.get("on_change"))
        return mutation

    change.__signature__ = signature  # type: ignore[attr-defined]  # a function takes attributes
    return change


def _finished(mutation: Mutation, given: Variables, kind: str) -> Mutation:
    """What a user gets: variables as they were given, notes on coupled axes, and the proof that all fits."""
    handed = replace(mutation, variables=handed_out(mutation.variables, given), kind=kind)
    if plain(given) is not given:
        handed = replace(handed, variables_before=given)
    finished = with_coupled_changes(handed)
    check_fit(finished)
    return finished
