"""The keywords that verbs have in common: their types, and the signature that shows them.

A verb names its own parameters and takes the common ones as ``**keywords: Unpack[WidthKeywords]``, which type checkers
understand. For people, `full_signature` writes them out.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, ForwardRef, ParamSpec, TypedDict, TypeVar, Unpack, get_args, get_origin

from naivenas_jax.checks import require_flag
from naivenas_jax.errors import ArgumentError, BudgetError
from naivenas_jax.graph.graph import Graph, require_graph
from naivenas_jax.mutate.around.steps import Fallback, OnChange, fallback_steps
from naivenas_jax.mutate.request.budget_request import Latency, multiples, require_limited
from naivenas_jax.mutate.request.defaults import check_free_outputs
from naivenas_jax.mutate.request.options import (
    Inputs,
    Options,
    SearchKeywords,
    SizeKeywords,
    Ways,
    conditions,
    objectives,
)
from naivenas_jax.mutate.result.mutation import require_mutation
from naivenas_jax.transfer.new_neurons.strategy import New, strategy_of

P = ParamSpec("P")
T = TypeVar("T")


class CallKeywords(TypedDict, total=False):
    """What happens around the change: see `VerbKeywords`."""

    fallback: Fallback
    on_change: OnChange


class VerbKeywords(CallKeywords, total=False):
    """Keywords of every verb, as a `TypedDict` for annotations.

    With it, or with `WidthKeywords` or `EditKeywords`, a function that passes keywords on to a verb is checked by type
    checkers as the verb itself is.

    Attributes:
      fallback: what to try if the sizes cannot be had or the time limit strikes: steps of `naivenas_jax.fallback`, in
        order. Default: the error is raised.
      on_change: what is called with the result before it is returned; see `naivenas_jax.watch`.
      inputs: arrays or shapes, one per input of the graph before the change (one alone if it has one input). If given,
        the changed graph is tried on their shapes.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> from typing import Unpack
    >>> def upper_case(graph, variables, **keywords: Unpack[nas.VerbKeywords]):
    ...     return nas.rename(graph, variables, {"hidden": "HIDDEN"}, **keywords)
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(4), x)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> "HIDDEN" in upper_case(graph, variables, inputs=jax.numpy.ones((1, 3))).graph
    True
    """

    inputs: Inputs


class ResizeKeywords(SizeKeywords, CallKeywords, total=False):
    """Keywords of `resize` that others have too: those of `SizeKeywords` and `CallKeywords`."""


class ChainKeywords(SearchKeywords, CallKeywords, total=False):
    """Keywords of `resize` that are the same for every network of a chain. What they mean is said at `resize`."""

    max_latency: float | Mapping[str, float] | None
    latency: Latency | None
    multiple_of: int | Mapping[str, int] | None
    grow: bool
    gap: float | None
    new: New


class WidthKeywords(SizeKeywords, VerbKeywords, total=False):
    """Keywords of verbs that change widths, as a `TypedDict` for annotations: those of `VerbKeywords`, and more.

    Attributes:
      utility, rng, time_limit, max_new, free_outputs, constraints, minimise, layer_keywords: see `delta_nout`.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> from typing import Unpack
    >>> def one_less(graph, variables, **keywords: Unpack[nas.WidthKeywords]):
    ...     return nas.delta_nout(graph, variables, {"hidden": -1}, **keywords)
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(4), x)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> one_less(graph, variables, utility={"hidden": [3, 1, 2, 4]}).indices("hidden").tolist()
    [0, 2, 3]
    """


class EditKeywords(WidthKeywords, total=False):
    """Keywords of verbs that change the structure, as a `TypedDict`: those of `WidthKeywords`, and ``align``.

    Attributes:
      align: how sizes that disagree after an edit are brought in line: "grow" (the smaller becomes as large as the
        larger), "shrink" (the larger as small as the smaller) or "both" (whatever is nearest); a tuple of these: the
        first of them that works. Default "auto": the first of the three that works.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> from typing import Unpack
    >>> def without_hidden(graph, variables, **keywords: Unpack[nas.EditKeywords]):
    ...     return nas.remove_vertex(graph, variables, "hidden", **keywords)
    >>> x = nas.input_vertex("x", 3)
    >>> before = nas.layer("before", nn.Dense(6), x)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(4), before)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> [without_hidden(graph, variables, align=way).graph.nout("before") for way in ("grow", "shrink")]
    [6, 4]
    """

    align: Ways


DEFAULTS: dict[str, Any] = {
    **{each.name: each.default for each in fields(Options) if each.name != "deadline"},  # follows from time_limit
    "inputs": None,
    "fallback": (),
    "on_change": None,
    "max_latency": None,
    "latency": None,
    "multiple_of": None,
    "grow": False,
}


def full_signature(function: Callable[..., object]) -> inspect.Signature:
    """The signature of a function with its ``**keywords: Unpack[...]`` written out, with their defaults.

    >>> from typing import Unpack
    >>> def verb(graph: object, *, new: str = "zeros", **keywords: Unpack[CallKeywords]) -> None: ...
    >>> print(full_signature(verb))
    (graph: 'object', *, new: 'str' = 'zeros', fallback: 'Fallback' = (), on_change: 'OnChange' = None) -> 'None'
    """
    signature = inspect.signature(function)
    parameters = [each for one in signature.parameters.values() for each in _written_out(function, one)]
    return signature.replace(parameters=parameters)


def shows_keywords(*explained: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Let ``help`` and `inspect.signature` write out the keywords of a function, which refuses all others itself.

    Args:
      *explained: keywords that the function does not take either, and says why.
    """

    def decorated(function: Callable[P, T]) -> Callable[P, T]:
        signature = full_signature(function)

        @functools.wraps(function)
        def called(*args: P.args, **keywords: P.kwargs) -> T:
            others = {name: value for name, value in keywords.items() if name not in explained}
            bound_arguments(function.__name__, signature, args, others)
            return function(*args, **keywords)

        called.__signature__ = signature  # type: ignore[attr-defined]  # a function takes attributes
        return called

    return decorated


def check_chain_keywords(graph: Graph, keywords: ChainKeywords) -> None:
    """Raise for keywords that `resize` would refuse at the first step of a chain, which may be far away.

    Raises:
      Others: as `resize`.
    """
    search = {name: value for name, value in keywords.items() if name in SearchKeywords.__annotations__}
    options, sizes = Options(new=keywords.get("new"), gap=keywords.get("gap"), **search), graph.ties.sizes  # type: ignore[arg-type]  # by name
    strategy_of(options.new)
    options.insertable(sizes)
    conditions(options.constraints, sizes)
    objectives(options.minimise, sizes)
    check_free_outputs(graph, options.free_outputs)
    multiples(graph, keywords.get("multiple_of"))
    require_limited(keywords.get("latency"), keywords.get("max_latency"))
    fallback_steps(keywords.get("fallback", ()))
    require_flag(keywords.get("grow", False), "grow", BudgetError)


def bound_arguments(
    name: str, signature: inspect.Signature, args: tuple[object, ...], keywords: Mapping[str, object]
) -> dict[str, Any]:
    """The arguments of a call by name.

    Args:
      name: of the function.
      signature: its signature, with all keywords.
      args: the arguments by position.
      keywords: the arguments by keyword.

    Raises:
      ArgumentError: if they are not those of the function.
      GraphError, PlanError: if one is missing or too many, since the first is no graph or mutation.
    """
    by_position = [each.name for each in signature.parameters.values() if each.kind is each.POSITIONAL_OR_KEYWORD]
    named = [each.name for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    if len(args) > len(by_position):
        _require_first(by_position, args)
        raise ArgumentError(
            f"nas.{name} takes {len(by_position)} arguments by position ({', '.join(by_position)}), found {len(args)}. "
            f"Name the others: {', '.join(f'{each}=' for each in named if each not in by_position)}."
        )
    try:
        return signature.bind(*args, **keywords).arguments
    except TypeError as error:
        problem = f"nas.{name}: {error}. It takes {', '.join(named)}."
    _require_first(by_position, args)
    raise ArgumentError(problem)


#: What the first argument must be, by its name. A mutation in the place of a graph and variables, or these in the place
#: of a mutation, are why an argument is missing or too many.
FIRST: dict[str, Callable[[object], object]] = {"graph": require_graph, "mutation": require_mutation}


def _require_first(names: Sequence[str], args: tuple[object, ...]) -> None:
    """Raise if what was given first is not what it must be.

    Raises:
      GraphError, PlanError: says what was found.
    """
    if names and args and names[0] in FIRST:
        FIRST[names[0]](args[0])


def _written_out(function: Callable[..., object], parameter: inspect.Parameter) -> Iterator[inspect.Parameter]:
    annotation = inspect.signature(function, eval_str=True).parameters[parameter.name].annotation
    if parameter.kind is not inspect.Parameter.VAR_KEYWORD or get_origin(annotation) is not Unpack:
        yield parameter  # or keyword arguments that are passed on as they are
        return
    (keywords,) = get_args(annotation)
    for name, annotation in sorted(keywords.__annotations__.items(), key=lambda item: list(DEFAULTS).index(item[0])):
        shown = annotation.__forward_arg__ if isinstance(annotation, ForwardRef) else annotation
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=DEFAULTS[name], annotation=shown)
