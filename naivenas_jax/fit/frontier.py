"""A user's own measure against the size of the network: `frontier`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias, Unpack

import numpy as np

from naivenas_jax.checks import as_items, as_number, as_whole, is_one_of, require_function, require_progress, shown
from naivenas_jax.cost.costs import Costs, costs
from naivenas_jax.errors import BudgetError, GraphError, InfeasibleError
from naivenas_jax.fit.compression import Compression
from naivenas_jax.fit.frontier_points import Frontier, FrontierPoint, require_loss
from naivenas_jax.fit.network.network import check_values
from naivenas_jax.fit.refine import require_steps
from naivenas_jax.graph.given_inputs import sample_inputs
from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.around.keywords import ChainKeywords, shows_keywords
from naivenas_jax.mutate.request.bounds import Bound
from naivenas_jax.mutate.request.budget_path import BudgetPath, Span
from naivenas_jax.mutate.request.budget_request import BUDGETS, Latency, Limits
from naivenas_jax.mutate.request.options import Inputs
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.progress import tracked
from naivenas_jax.typing import PyTree, Variables

#: ``measure(graph, variables)``: how good a network is; more is better.
Measure: TypeAlias = Callable[[Graph, Variables], float]


@shows_keywords("utility")
def frontier(
    graph: Graph,
    variables: Variables,
    batches: Iterable[PyTree],
    measure: Measure,
    *,
    budget: str = "max_params",
    fractions: Sequence[float] = (0.75, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05),
    loss: float | None = None,
    bisections: int = 3,
    outcomes: bool = True,
    ridge: float | None = None,
    memory: int | None = None,
    refine: int = 0,
    progress: bool | None = None,
    keywords: Mapping[str, PyTree] | None = None,
    min_size: Bound = None,
    max_size: Bound = None,
    inputs: Inputs = None,
    **options: Unpack[ChainKeywords],
) -> Frontier:
    """Compress a network further and further, and measure every network on the way.

    Each network is made from the one before as `compress` does in one of its steps, so that all of them together take
    little longer than the smallest. Where a loss is given, the smallest network is looked for whose measure is at most
    so much below that of the network given: between the smallest that is good enough and the next, which is not, the
    budget is halved on a logarithmic scale, again and again.

    Args:
      graph: the network.
      variables: its variables; untouched.
      batches: inputs without labels, as for `compensate`.
      measure: ``measure(graph, variables)`` gives a number, such as an accuracy on data of your own; more is better.
      budget: what is limited: "max_params", "max_macs", "max_bytes" or "max_activation_bytes".
      fractions: the budgets, as fractions of what the network given costs. Where sizes cannot satisfy one (a multiple
        of 8 is at least 8), the frontier ends with the network before, and says so.
      loss: how much of the measure may be lost, in its own units; None: nothing is looked for.
      bisections: how many more networks are made to find the smallest one within the loss.
      outcomes: as for `compensate`.
      ridge: as for `compensate`.
      memory: as for `compensate`; costs of neurons are then taken from fewer columns too.
      refine: the most steps that every network is trained in the end, as `naivenas_jax.refine` does; 0: none.
      progress: whether to show how far it is: None: in a terminal and a notebook, after a second; True: elsewhere
        too, in lines on standard error; False: never.
      keywords: keyword arguments of ``graph.apply``, for networks that need some.
      min_size: as for `resize`; fractions are fractions of the network given.
      max_size: as for `resize`; fractions are fractions of the network given.
      inputs: as for `resize`: operations are counted for these. None: for one example, on average over the first batch;
        for the whole of it, if its inputs have no first dimension in common.
      **options: as for `resize`, at every step; ``time_limit`` is for each choice of widths, of which there are two for
        a network. With ``latency=`` the frontier has seconds too. There is no ``utility``: it is found here.

    Returns:
      A `Frontier`: every network with its costs and measure, a table and a picture.

    Raises:
      GraphError: ``graph`` is no graph, or ``measure`` no function.
      BudgetError: there is no such budget, a fraction is not between 0 and 1, or the measure is no number.
      InfeasibleError: sizes satisfy none of the budgets.
      Others: as `compress`.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 4)
    >>> hidden = nas.invariant_vertex("relu", nn.relu, nas.layer("hidden", nn.Dense(16), x))
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), hidden))
    >>> data = jax.random.normal(jax.random.key(1), (64, 4))
    >>> variables = graph.init(jax.random.key(0), data)
    >>> wanted = graph.apply(variables, data)
    >>> def measure(graph, variables):
    ...     return -float(((graph.apply(variables, data) - wanted) ** 2).mean())
    >>> frontier = nas.frontier(graph, variables, [data], measure, fractions=(0.8, 0.4))
    >>> [point.mutation.graph.nout("hidden") for point in frontier.points]
    [12, 6]
    >>> frontier.smallest(loss=1e-9).costs.params
    114
    """
    check_values(graph, variables)
    require_function(measure, "measure", "graph, variables", GraphError)
    require_progress(progress, GraphError)
    require_steps(refine, "refine=", 0, BudgetError)
    latency = options.get("latency")
    if latency is not None:
        require_function(latency, "latency=", "graph", BudgetError)
    if options.get("max_latency") is None:
        options.pop("latency", None)  # which only measures, and limits nothing
    shares = _fractions(fractions)
    allowed = None if loss is None else require_loss(loss)
    if not is_one_of(budget, BUDGETS):
        raise BudgetError(f"budget= is one of {', '.join(map(repr, BUDGETS))}; found {shown(budget)}.")
    halvings = as_whole(bisections)
    if halvings is None or not 0 <= halvings <= 100:
        raise BudgetError(f"bisections= is a whole number from 0 to 100; found {shown(bisections)}.")
    compression = Compression.of(
        graph,
        variables,
        batches,
        outcomes=outcomes,
        ridge=ridge,
        memory=memory,
        keywords=keywords,
        inputs=inputs,
        sizes={"request": None, "min_size": min_size, "max_size": max_size},
        options=options,
    )
    path = BudgetPath.of(graph, compression.variables, Limits(**{budget: shares[-1]}, inputs=inputs, grows=False))
    point = partial(_point, compression, measure, latency, inputs)

    def after(before: Mutation | None, share: float) -> tuple[Mutation, FrontierPoint]:
        """A network that costs this share of the one given, made from a larger one; and what can be said of it."""
        budgets = path.at(partial(_share, share=share))
        found = compression.nearer(compression.step(before, budgets), compression.at_once(budgets))
        for _, mutation, known in made:
            if mutation is not None and mutation.variables is found.fitted.variables:  # there is none in between
                return mutation, known
        return found.fitted, point(compression.handed_out(compression.polished(compression.settled(found), refine)))

    made: list[tuple[float, Mutation | None, FrontierPoint]] = [(1.0, None, point(None))]
    least, ended = made[0][2].measure - (math.inf if allowed is None else allowed), None
    with tracked(shares, "frontier", progress) as begun:
        for share in begun:
            try:
                made.append((share, *after(made[-1][1], share)))
            except InfeasibleError as error:
                if len(made) == 1:
                    raise
                reasons = str(error).splitlines()[1:]
                ended = "\n".join([f"No network has {share:g} of {budget.removeprefix('max_')}.", *reasons])
                break
    with tracked(range(halvings if allowed is not None else 0), "the smallest within the loss", progress) as halved:
        for _ in halved:
            good = [number for number, (_, _, own) in enumerate(made) if own.measure >= least]
            if good[-1] == len(made) - 1:
                break
            (larger, mutation, _), (smaller, _, _) = made[good[-1] : good[-1] + 2]
            share = math.sqrt(larger * smaller)
            made.insert(good[-1] + 1, (share, *after(mutation, share)))
    return Frontier(made[0][2], tuple(dict.fromkeys(own for _, _, own in made[1:])), budget, ended)


def _fractions(given: object) -> list[float]:
    """The fractions of a user, the largest first.

    Raises:
      BudgetError: if there are none, or one is not between 0 and 1.
    """
    found = [as_number(one) for one in as_items(given) or ()]
    shares = sorted({float(one) for one in found if one is not None and 0 < one < 1}, reverse=True)
    if not shares or not all(one is not None and 0 < one < 1 for one in found):
        raise BudgetError(f"fractions= are numbers between 0 and 1, such as (0.5, 0.25); found {shown(given)}.")
    return shares


def _share(span: Span, share: float) -> float:
    return max(1.0, span.before * share)


def _point(
    compression: Compression, measure: Measure, latency: Latency | None, inputs: Inputs, mutation: Mutation | None
) -> FrontierPoint:
    """What can be said of a network; None: of the one given.

    Raises:
      BudgetError: if the measure of it is no number.
    """
    graph, variables = mutation or (compression.original.graph, compression.given)
    given = measure(graph, variables)
    found = as_number(given)
    if found is None or math.isnan(found):
        raise BudgetError(f"measure(graph, variables) gives a number, more is better; found {shown(given)}.")
    seconds = None if latency is None else as_number(latency(graph))
    if latency is not None and seconds is None:
        raise BudgetError(f"latency(graph) gives seconds; found {shown(latency(graph))}.")
    counted = _costs(compression, graph, variables, inputs)
    return FrontierPoint(mutation, counted, float(found), None if seconds is None else float(seconds))


def _costs(compression: Compression, graph: Graph, variables: Variables, inputs: Inputs) -> Costs:
    """What a network costs: operations for the inputs that budgets count them for; without these, for one example."""
    kwargs = compression.original.kwargs
    if inputs is not None:
        return costs(graph, variables, *sample_inputs(graph, inputs), **kwargs)
    batch = compression.data.first
    of_batch, firsts = costs(graph, variables, *batch, **kwargs), {np.shape(array)[:1] for array in batch}
    examples = max(firsts.pop(), default=1) if len(firsts) == 1 else 1  # of other batches nothing says how many
    return replace(of_batch, **{name: -(-getattr(of_batch, name) // examples) for name in ("macs", "activation_bytes")})
