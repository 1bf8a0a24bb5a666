"""Changes of width: `delta_nout`, `delta_nin`, `resize`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from naivenas_jax.align.align import align
from naivenas_jax.align.plan import Plan
from naivenas_jax.align.request import Relaxed, Target, targets
from naivenas_jax.errors import RequestError, UnknownNameError
from naivenas_jax.graph.graph import Graph, unknown_name
from naivenas_jax.graph.rebuild import with_sizes
from naivenas_jax.mutate.mutation import Mutation
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.transfer.fill import Fill, initialised, split, strategy
from naivenas_jax.transfer.undo import UndoRecord
from naivenas_jax.transfer.variables import check_variables, transfer
from naivenas_jax.utility.magnitude import magnitude
from naivenas_jax.utility.scores import Utility, scores

MaxNew = int | Mapping[str, int] | Callable[[str], int] | None


def delta_nout(
    graph: Graph,
    variables: Mapping[str, Any],
    request: Mapping[str, Any],
    *,
    utility: Utility | None = None,
    new: str | Fill | None = None,
    rng: Any = None,
    time_limit: float | None = None,
    max_new: MaxNew = None,
    free_outputs: bool = False,
) -> Mutation:
    """Change the number of output neurons of vertices, and of all that is tied to them.

    All requests are met together: exact ones hold, relaxed ones come as near as they can, the total utility kept is the
    largest possible, and sizes nobody asked about change least.

    Args:
      graph: the network.
      variables: its variables; untouched.
      request: ``{name: change}``; a change is a number of neurons (-2, 3, 0 to keep the size), ``nas.to(size)``, or
        ``nas.relaxed(either)`` for the nearest size that is feasible. Names are vertices, or inner axes ``vertex:axis``.
      utility: scores of neurons, by axis: a mapping or a function of the axis's name; arrays or one number for all.
        Negative: rather drop. Default: `magnitude`.
      new: what parameters of new neurons start at. None: random incoming and zero outgoing weights, so that the function is
        kept and they can learn. "zeros"; "split": copies, readers divided (Net2Wider); "init": the layer's own
        initialiser; or a function of `NewEntries`.
      rng: a key for new parameters; default ``jax.random.key(0)``.
      time_limit: of the solver, in seconds.
      max_new: how many neurons may be inserted per axis: a number, or a mapping or function by axis. Default: ten times
        its size, at least 200.
      free_outputs: whether outputs of the graph may lose and gain neurons without being named.

    Returns:
      A `Mutation`; unpacks to the new graph and its variables.

    Raises:
      RequestError, UnknownNameError, UtilityError, VariablesError: bad arguments, by name.
      InfeasibleError: no sizes satisfy the request; says what conflicts, and the nearest sizes that do.
      TimeLimitError: the time limit struck.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> y = nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(8), x))
    >>> graph = nas.Graph(x, y)
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> graph2, variables2 = nas.delta_nout(graph, variables, {"hidden": -3})
    >>> graph2.nout("hidden"), variables2["params"]["out"]["kernel"].shape
    (5, (5, 2))
    """
    wanted = _targets(graph, request)
    return change_widths(
        graph, variables, wanted, utility, new, rng, time_limit, max_new, free_outputs, graph.ties.reach(request)
    )


def delta_nin(
    graph: Graph,
    variables: Mapping[str, Any],
    request: Mapping[str, Any],
    **keywords: Any,
) -> Mutation:
    """Change the number of input neurons of vertices: `delta_nout` of the vertices that they read.

    Args:
      graph: the network.
      variables: its variables.
      request: ``{vertex: (change, ...)}``, one per input, None where it does not matter; ``nas.relaxed((...))`` relaxes
        all of them. A vertex with one input may be given a single change.
      **keywords: those of `delta_nout`.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> y = nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(8), x))
    >>> graph = nas.Graph(x, y)
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> nas.delta_nin(graph, variables, {"out": (-3,)}).graph.nin("out")
    (5,)
    """
    if not isinstance(request, Mapping):
        raise RequestError(f"A request is a mapping {{vertex: (change, ...)}}, found {type(request).__name__}.")
    by_source: dict[str, Any] = {}
    for name, asked in request.items():
        for source, change in zip(graph.inputs_of(name), _per_input(graph, name, asked), strict=True):
            if change is None:
                continue
            if by_source.setdefault(source, change) != change:
                raise RequestError(
                    f"Two different changes are asked of {source!r}, an input of {name!r}: {by_source[source]!r} and "
                    f"{change!r}. Ask for one, None for the other."
                )
    return delta_nout(graph, variables, by_source, **keywords)


def resize(
    graph: Graph,
    variables: Mapping[str, Any],
    *,
    request: Mapping[str, Any] | None = None,
    utility: Utility | None = None,
    new: str | Fill | None = None,
    rng: Any = None,
    time_limit: float | None = None,
    max_new: MaxNew = None,
    free_outputs: bool = False,
) -> Mutation:
    """Let utility decide: every neuron in reach whose (total, tied) utility is negative is dropped.

    With magnitudes as utility nothing is negative, so subtract a threshold. At least one neuron of every axis stays.

    Args:
      graph: the network.
      variables: its variables.
      request: sizes that are asked for besides, as for `delta_nout`. All of the graph may change, not only what the
        request reaches.
      utility, new, rng, time_limit, max_new, free_outputs: as for `delta_nout`.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> y = nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(4), x))
    >>> graph = nas.Graph(x, y)
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> mutation = nas.resize(graph, variables, utility={"hidden": [1.0, -1.0, 2.0, -0.5]})
    >>> mutation.indices("hidden").tolist()
    [0, 2]
    """
    wanted = _targets(graph, request or {})
    return change_widths(graph, variables, wanted, utility, new, rng, time_limit, max_new, free_outputs, None)


def change_widths(
    graph: Graph,
    variables: Mapping[str, Any],
    wanted: tuple[Target, ...],
    utility: Utility | None,
    new: str | Fill | None,
    rng: Any,
    time_limit: float | None,
    max_new: MaxNew,
    free_outputs: bool,
    reached: frozenset[str] | None,
) -> Mutation:
    """Align, then transfer."""
    fill, ties = strategy(new), graph.ties
    sizes = sizes_of(ties)
    check_variables(ties.leaves, sizes, variables)
    axes = align(
        ties,
        wanted,
        scores(magnitude(graph, variables, axes=reached) if utility is None else utility, sizes),
        time_limit=time_limit,
        frozen=ends(graph, {target.axis for target in wanted}, free_outputs),
        reached=reached,
        insertable=insertable(max_new, sizes),
    )
    plan = Plan(axes, {path: leaf.axes for path, leaf in ties.leaves.items()})
    return Mutation(
        graph=with_sizes(graph, {name: axis.after for name, axis in axes.items()}),
        variables=transfer(plan, ties.leaves, variables, fill, rng),
        plan=plan,
        before=graph,
        _variables_before=variables,
        _records=(UndoRecord.of(plan, variables, ties.leaves, fill is split),),
        _comparable=incomparable(plan, new, fill),
    )


def sizes_of(ties: Ties) -> dict[str, int]:
    """The size of every axis."""
    return {axis: ties.size(axis) for axis in ties.axes}


def ends(graph: Graph, named: set[str], free_outputs: bool) -> dict[str, str]:
    """Inputs and outputs that keep their neurons, with the reason."""
    frozen = {
        v.name: f"{v.name!r} is an input of the graph, which changes only when a request names it"
        for v in graph.inputs
        if v.name not in named
    }
    if not free_outputs:
        frozen |= {
            v.name: f"{v.name!r} is an output of the graph and keeps every neuron, unless a request names it or "
            "free_outputs=True is passed"
            for v in graph.outputs
            if v.name not in named
        }
    return frozen


def insertable(max_new: MaxNew, sizes: Mapping[str, int]) -> dict[str, int]:
    """How many neurons each axis may gain."""
    result = {axis: max(200, 10 * size) for axis, size in sizes.items()}
    if max_new is None:
        return result
    for axis in sizes:
        bound = max_new(axis) if callable(max_new) else max_new.get(axis) if isinstance(max_new, Mapping) else max_new
        if bound is None:
            continue
        if isinstance(bound, bool) or not hasattr(bound, "__index__") or int(bound) < 0:
            raise RequestError(f"max_new for {axis!r} must be a whole number of neurons, 0 or more; found {bound!r}.")
        result[axis] = int(bound)
    return result


def incomparable(plan: Plan, new: str | Fill | None, fill: Fill) -> str | None:
    """Why the new network may compute something else even where neurons were only added."""
    grows = any(axis.new.size for axis in plan.axes.values())
    if grows and (fill is initialised or callable(new)):
        return f"new={new!r} need not keep the function"
    return None


def _targets(graph: Graph, request: Mapping[str, Any]) -> tuple[Target, ...]:
    sizes = sizes_of(graph.ties)
    if isinstance(request, Mapping):
        for name in request:
            if name not in sizes:
                raise UnknownNameError(unknown_name(name, sizes))
    return targets(request, sizes)


def _per_input(graph: Graph, name: str, asked: Any) -> tuple[Any, ...]:
    count = len(graph.inputs_of(name))
    if isinstance(asked, Relaxed) and isinstance(asked.wish, tuple):
        changes: tuple[Any, ...] = tuple(None if wish is None else Relaxed(wish) for wish in asked.wish)
    else:
        changes = tuple(asked) if isinstance(asked, tuple | list) else (asked,)
    if len(changes) != count:
        raise RequestError(
            f"{name!r} has {count} inputs ({', '.join(graph.inputs_of(name))}), found {len(changes)} changes: {asked!r}. "
            "Give one per input, None where it does not matter."
        )
    return changes
