"""Changes of width: `delta_nout`, `delta_nin`, `resize`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Unpack

from naivenas_jax.align.plan import Plan
from naivenas_jax.align.problem.budget import Budget
from naivenas_jax.checks import as_flag, as_whole, require_mapping
from naivenas_jax.errors import BudgetError, RequestError
from naivenas_jax.graph.graph import Graph, require_graph
from naivenas_jax.mutate.around.keywords import ResizeKeywords, WidthKeywords, shows_keywords
from naivenas_jax.mutate.around.verb import verb
from naivenas_jax.mutate.edit.latency_search import LatencyLimit
from naivenas_jax.mutate.edit.repeated_plan import repeat
from naivenas_jax.mutate.edit.widths import change_widths
from naivenas_jax.mutate.request.bounds import Bound, asks_growth, bounds
from naivenas_jax.mutate.request.budget_request import (
    Latency,
    Limit,
    Limits,
    multiples,
    require_limited,
    require_room,
)
from naivenas_jax.mutate.request.options import Inputs, Options, conditions
from naivenas_jax.mutate.request.size_request import InputRequest, SizeRequest, asked_of_sources, read_targets
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.transfer.new_neurons.strategy import New
from naivenas_jax.typing import Variables
from naivenas_jax.utility.scores.contribution import contribution


@verb
def delta_nout(
    graph: Graph,
    variables: Variables,
    request: SizeRequest | Plan,
    *,
    new: New = None,
    **keywords: Unpack[WidthKeywords],
) -> Mutation:
    """Change the number of output neurons of vertices, and of all that is tied to them.

    All requests are met together: exact ones hold, relaxed ones come as near as they can, the total utility kept is the
    largest possible, and sizes nobody asked about change least.

    Args:
      graph: the network.
      variables: its variables; untouched.
      request: ``{name: change}``; a change is a number of neurons (-2, 3, 0 to keep the size), ``nas.to(size)``, or
        ``nas.relaxed(either)`` for the nearest size that is feasible. Names are vertices, or inner axes
        ``vertex:axis``. Or a `Plan` of changes of width, which is carried out again: the same sizes, and the same
        neurons, on a network like the one that it was made for, such as a model that has been imported again.
      new: what parameters of new neurons start at. None: random incoming and zero outgoing weights, so that the
        function is kept and they can learn. "zeros"; "split": copies, readers divided (Net2Wider), and as None where
        one array both makes and reads the neurons, as a tied embedding does; "init": the layer's own initialiser;
        `gradmax`; a function of `NewEntries`; or a mapping from names of parameters to these.
      **keywords: see below.

    Keyword Args:
      utility: scores of neurons, by axis: a mapping or a function of the axis's name; arrays or one number for all.
        Negative: rather drop. Default: `magnitude`.
      rng: a key for new parameters; default ``jax.random.key(0)``.
      time_limit: in seconds, for the whole call: attempts of a search, ways of aligning and fallbacks together. The
        solver is stopped; what a call does before and after it (counting the operations of the network, making the
        arrays) is not, but the solver gets the less.
      max_new: how many neurons may be inserted per axis: a number, or a mapping or function by axis. Default: ten times
        its size, at least 200.
      free_outputs: the outputs of the graph that may lose and gain neurons without being named by the request: True
        for all, or their names, such as ``("output1",)``. Default: none.
      constraints: conditions on sizes besides the request, such as ``nas.size("a") + 2 * nas.size("b") <= 10`` or
        ``nas.multiple_of("a", 8)``: one, several, or a function that gets the sizes of all axes by name and returns
        them. The axes that they name may change as if the request named them, except inputs and outputs.
      minimise: sums of sizes, one or several, to be made as small as can be after the relaxed requests are met and
        before the utility decides.
      layer_keywords: ``{vertex: {keyword: value}}``, passed on to the resize rule of a layer of one's own.
      inputs: arrays or shapes, one per input of the graph; if given, the changed graph is tried on their shapes.
      fallback: what to try if the sizes cannot be had or the time limit strikes: steps of `naivenas_jax.fallback`, in
        order. Default: the error is raised.
      on_change: what is called with the result before it is returned; see `naivenas_jax.watch`.

    Returns:
      A `Mutation`; unpacks to the new graph and its variables.

    Raises:
      GraphError, VariablesError: if ``graph`` is no graph, or the variables are not its own.
      RequestError, UnknownNameError, UtilityError: bad arguments, by name.
      PlanError: if ``new`` or ``rng`` is not what it can be, ``new`` makes no array that fits, or a plan is of another
        graph.
      ArgumentError: if the verb has no such keyword, or an argument is missing.
      StructureError: if the changed graph cannot be computed on ``inputs``.
      InfeasibleError: no sizes satisfy the request; says what conflicts, and the nearest sizes that do.
      TimeLimitError: the time limit struck; its ``best`` makes the best result found by then.
      SolverError: the solver failed.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> y = nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(8), x))
    >>> graph = nas.Graph(x, y)
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> graph2, variables2 = nas.delta_nout(graph, variables, {"hidden": -3})
    >>> graph2.nout("hidden"), variables2["params"]["out"]["kernel"].shape
    (5, (5, 2))
    """
    options = Options.of(keywords, new)
    if isinstance(request, Plan):
        return repeat(graph, variables, request, options)
    return change_widths(graph, variables, read_targets(graph, request), options)


@shows_keywords()
def delta_nin(
    graph: Graph,
    variables: Variables,
    request: InputRequest,
    *,
    new: New = None,
    **keywords: Unpack[WidthKeywords],
) -> Mutation:
    """Change the number of input neurons of vertices: `delta_nout` of the vertices that they read.

    Args:
      graph: the network.
      variables: its variables.
      request: ``{vertex: (change, ...)}``, one per input, None where it does not matter; ``nas.relaxed((...))`` relaxes
        all of them. A vertex with one input may be given a single change.
      new, **keywords: as for `delta_nout`.

    Returns:
      A `Mutation`; unpacks to the new graph and its variables.

    Raises:
      RequestError: if there are too few or too many changes for the inputs of a vertex, or two of one vertex differ.
      Others: as `delta_nout`.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> y = nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(8), x))
    >>> graph = nas.Graph(x, y)
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> nas.delta_nin(graph, variables, {"out": (-3,)}).graph.nin("out")
    (5,)
    """
    by_source = asked_of_sources(require_graph(graph), request)
    return delta_nout(graph, variables, by_source, new=new, **keywords)


@verb
def resize(
    graph: Graph,
    variables: Variables,
    *,
    request: SizeRequest | None = None,
    max_params: Limit = None,
    max_macs: Limit = None,
    max_bytes: Limit = None,
    max_activation_bytes: Limit = None,
    max_latency: float | Mapping[str, float] | None = None,
    latency: Latency | None = None,
    multiple_of: int | Mapping[str, int] | None = None,
    min_size: Bound = None,
    max_size: Bound = None,
    grow: bool = False,
    gap: float | None = None,
    inputs: Inputs = None,
    new: New = None,
    **keywords: Unpack[ResizeKeywords],
) -> Mutation:
    """Let utility decide: drop every neuron in reach whose (total, tied) utility is negative, and keep to the budgets.

    Within budgets the total utility kept is the largest that is found by branch and bound, ``mutation.gap`` says how
    far it may be from the best, and nothing that was dropped would still fit. Counts are exact: they are sums of
    products of sizes, ``sum(c * size(a) * size(b) * ...)``, and counted again on the result.

    With magnitudes as utility nothing is negative, so subtract a threshold. At least one neuron of every axis stays.

    Args:
      graph: the network.
      variables: its variables.
      request: sizes that are asked for besides, as for `delta_nout`. All of the graph may change, not only what the
        request reaches.
      max_params: the most parameters; a whole number, or a float as a fraction of the present (0.5: half of them; above
        1 only where something is asked to grow); or a mapping from parts (vertices, paths of modules) to these.
      max_macs: the most multiply-accumulates, for the given ``inputs``; or by part: those that take weights of the
        part, or are computed in it.
      max_bytes: the most bytes of all variables; or by part.
      max_activation_bytes: the most bytes that matrix products and convolutions return, for the given ``inputs``; or by
        part, as for ``max_macs``.
      max_latency: the longest that an evaluation may take by the model ``latency``: a float as a fraction of the
        present, a whole number in microseconds; or ``{part: limit}`` for one part, by a table. It is kept by a search.
        Of a function of one's own nothing is proven: ``mutation.gap`` is inf.
      latency: `measure_latency`, or a function that takes a graph and returns seconds.
      multiple_of: sizes in multiples of this, of every whole axis that is at least as large; or by handle.
      min_size: the smallest size of every axis that a weight makes and that is tied to no input or output; or by
        handle. A whole number, or a float as a fraction of the present, rounded up. For all: smaller axes keep their
        size.
      max_size: the largest size, in the same way; a fraction is rounded down.
      grow: drop nothing, and spend what is left of the budgets on new neurons. The j-th new neuron of a group of tied
        ones has the mean utility of the group divided by 1 + j, and the total is the largest that is found.
        ``max_params=2.0`` doubles the network, where it helps most by that measure; ``max_new`` caps each axis.
      gap: how near to the best is near enough: the search within budgets stops where it is proven that no sizes keep
        more utility than these by more than this share (0.01: a hundredth), and goes on for longer where that takes
        long. ``mutation.gap`` is what was proven. The sizes are the same on every machine. None: networks of few layers
        are solved exactly, others to about a thousandth, if it is found soon.
      inputs: arrays or shapes, one per input of the graph, for which operations are counted, and on which the changed
        graph is tried. Not needed where the graph knows the shapes of its inputs; then operations are for a batch of 1.
      new: as for `delta_nout`.
      **keywords: as for `delta_nout`, but ``utility`` is by default `magnitude`, and within budgets
        `contribution`, since magnitudes of different layers say little about each other.

    Returns:
      A `Mutation`; unpacks to the new graph and its variables.

    Raises:
      BudgetError: a budget is no number that it can be, or cannot be counted, or comes with ``minimise``.
      Others: as `delta_nout`.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> y = nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(4), x))
    >>> graph = nas.Graph(x, y)
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> mutation = nas.resize(graph, variables, utility={"hidden": [1.0, -1.0, 2.0, -0.5]})
    >>> mutation.indices("hidden").tolist()
    [0, 2]
    >>> nas.resize(graph, variables, max_params=0.5).graph.nout("hidden")
    1
    """
    if as_flag(grow) is None:
        raise BudgetError(f"grow must be True or False; found {grow!r:.80}.")
    if request is not None:
        require_mapping(request, "request", RequestError)
    sizes = graph.ties.sizes
    options, between = replace(Options.of(keywords, new), gap=gap), bounds(graph, min_size, max_size)
    growing = request or grow or asks_growth(between, sizes)
    if not growing and options.constraints is None and options.minimise is None and options.max_new is None:
        options = replace(options, max_new=0)  # nothing is asked to grow: no neuron is replaced by a new one
    rows = (*multiples(graph, multiple_of), *between, *conditions(options.constraints, sizes))
    options = replace(options, constraints=rows)
    grows = as_whole(options.max_new) != 0
    limits = Limits(
        max_params=max_params,
        max_bytes=max_bytes,
        max_macs=max_macs,
        max_activation_bytes=max_activation_bytes,
        inputs=inputs,
        grows=grows,
    )
    if options.minimise is not None and (limits or max_latency is not None):
        raise BudgetError(
            "minimise= orders sizes before utility, and within budgets utility alone decides. Leave one of the two "
            "out; or bound the sizes (max_size=, constraints=), or lower the utility of their neurons by a price."
        )
    require_limited(latency, max_latency)
    limit = None if max_latency is None else LatencyLimit.of(graph, max_latency, latency, grows)
    if limit and grow:
        raise BudgetError("grow=True spends what is left of counted budgets; max_latency is for shrinking.")
    if limit and options.utility is None:
        options = replace(options, utility=contribution(graph, variables))  # once, for all attempts

    begun = options.deadline.left
    budgets = limits.budgets(graph, variables)
    if begun is not None and (left := options.deadline.left) is not None:  # the result is counted again
        options = replace(options, deadline=options.deadline.sooner(begun - left))
    if grow:
        require_room(budgets, graph)

    def once(besides: SizeRequest, further: Sequence[Budget] = ()) -> Mutation:
        targets = read_targets(graph, {**(request or {}), **besides} if besides else request or {})
        mutation = change_widths(
            graph, variables, targets, options, everywhere=True, budgets=(*budgets, *further), grow=grow
        )
        limits.check(budgets, *mutation)
        return mutation

    if limit is None:
        return once({})
    effort = limits.effort(graph, variables)
    return limit.search(graph, effort, once, grows, gap=options.gap or 0.0, deadline=options.deadline)
