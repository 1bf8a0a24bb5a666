"""Gradual pruning: a budget that tightens while the network is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from naivenas_jax.errors import BudgetError, RequestError
from naivenas_jax.graph.graph import Graph, require_graph
from naivenas_jax.mutate.request.absolute_request import absolute_request
from naivenas_jax.mutate.request.bounds import Bound
from naivenas_jax.mutate.request.budget_request import Limit, Limits
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.mutate.verbs.resize import resize
from naivenas_jax.schedule.soft import Soft
from naivenas_jax.sizes.condition import whole

#: Scores of the present network: ``(graph, variables) -> utility``.
Score = Callable[[Graph, Any], Any]


@dataclass(frozen=True)
class Gradual:
    """A schedule of budgets, made by `gradual`. Holds no network: that is passed in at each step, and returned.

    Attributes:
      begin, end, every: at which steps the budget tightens.
      limits: for each budget what the network cost at first, and what it may cost at the end; by part where asked.
      utility: scores of the present network; None: those of `resize`.
      keywords: further ones of `resize`.
    """

    begin: int
    end: int
    every: int
    limits: Mapping[str, Any]
    utility: Score | None = None
    keywords: Mapping[str, Any] = field(default_factory=dict)

    def due(self, step: int) -> bool:
        """Whether the budget tightens at this step: every so many from ``begin`` on, and at ``end``."""
        return self.begin <= step <= self.end and ((step - self.begin) % self.every == 0 or step == self.end)

    def left(self, step: int) -> float:
        """The share of the way that is left, ``(1 - t)^3`` with t from 0 at ``begin`` to 1 at ``end``."""
        t = min(max((step - self.begin) / (self.end - self.begin), 0.0), 1.0)
        return (1.0 - t) ** 3

    def bounds(self, step: int) -> dict[str, Any]:
        """The budgets at a step, as keywords of `resize`: whole numbers."""
        return {name: _between(pair, self.left(step)) for name, pair in self.limits.items()}

    def mutation(self, step: int, graph: Graph, variables: Any) -> Mutation | None:
        """What is to be dropped at this step; None where nothing is."""
        if not self.due(step):
            return None
        utility = None if self.utility is None else self.utility(graph, variables)
        mutation = resize(graph, variables, **self.bounds(step), utility=utility, **self.keywords)
        return mutation if mutation.plan.changed else None

    def prune(
        self, step: int, graph: Graph, variables: Any, opt_state: Any = None, *, tx: Any = None
    ) -> tuple[Graph, Any, Any]:
        """The network and optimizer state to go on with: the same objects, unless this step drops something.

        A training step that is jitted with the graph as an argument is traced again only where sizes have changed.

        Args:
          step: the number of the training step.
          graph, variables: the present network.
          opt_state: of an optax optimizer for ``variables["params"]``; carried along.
          tx: the optimizer; needed only where `Mutation.carry` asks for a fresh state.
        """
        mutation = self.mutation(step, graph, variables)
        if mutation is None:
            return graph, variables, opt_state
        fresh = None if tx is None else tx.init(mutation.variables["params"])
        carried = None if opt_state is None else mutation.carry(opt_state, fresh=fresh)
        return mutation.graph, mutation.variables, carried

    def soft(self, step: int, soft: Soft, variables: Any) -> Soft:
        """The masks to go on with: the same object, unless this step masks something more.

        What is masked stays masked: the choice is that of `prune` on the hardened network.

        Args:
          step: the number of the training step.
          soft: the masks so far, at first ``Soft.whole(graph, variables)``.
          variables: of the whole network.
        """
        if not self.due(step):
            return soft
        hard = soft.harden(variables)
        mutation = self.mutation(step, hard.graph, hard.variables)
        return soft if mutation is None else soft.after(mutation, variables)


def gradual(
    graph: Graph,
    variables: Mapping[str, Any],
    *,
    end: int,
    begin: int = 0,
    every: int = 1,
    max_params: Limit = None,
    max_macs: Limit = None,
    max_bytes: Limit = None,
    max_activation_bytes: Limit = None,
    inputs: Sequence[Any] | None = None,
    request: Mapping[str, Any] | None = None,
    min_size: Bound = None,
    max_size: Bound = None,
    utility: Score | None = None,
    **keywords: Any,
) -> Gradual:
    """A schedule that prunes to a budget little by little, much at first and less towards the end.

    With the cost ``c_0`` of this network and the budget ``c_f``, the budget at step s is

        c(s) = c_f + (c_0 - c_f) (1 - (s - begin) / (end - begin))^3

    at ``begin``, every ``every`` steps after it, and at ``end``.

    Args:
      graph, variables: the network before; variables may be shapes.
      end: the step at which the budget is reached.
      begin: the step at which it starts to tighten.
      every: how many training steps lie between two prunings, for the network to recover.
      max_params, max_macs, max_bytes, max_activation_bytes, inputs: as for `resize`, at the end; fractions are of this
        network.
      request, min_size, max_size: as for `resize`; changes and fractions are of this network; requests are exact.
      utility: a function ``(graph, variables) -> utility`` that scores the present network, such as ``nas.magnitude``.
        Default: that of `resize`.
      **keywords: further ones of `resize`, such as ``multiple_of=``.

    Returns:
      A `Gradual`. ``prune(step, graph, variables, opt_state)`` gives the network to go on with; ``soft`` the masks.
      Call it at every step, or at those that are ``due``: a step that is left out is not made up for after ``end``.

    Raises:
      RequestError: if the steps are no whole numbers in order, a request is relaxed, or ``utility`` is no function.
      BudgetError: if there is no budget, or it cannot be counted.

    Source: Zhu & Gupta, To Prune, or Not to Prune, 2017, for single weights; here for budgets of networks.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(64), x)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> schedule = nas.gradual(graph, variables, end=40, every=10, max_params=0.25)
    >>> for step in range(41):
    ...     graph, variables, _ = schedule.prune(step, graph, variables)
    ...     if schedule.due(step):
    ...         print(step, graph.nout("hidden"))
    0 64
    10 36
    20 21
    30 16
    40 15
    """
    require_graph(graph)
    begin, end, every = whole(begin, "begin"), whole(end, "end"), whole(every, "every")
    if not 0 <= begin < end or every < 1:
        raise RequestError(f"0 <= begin < end and every >= 1 must hold, found {begin=}, {end=}, {every=}.")
    given = {
        "max_params": max_params,
        "max_macs": max_macs,
        "max_bytes": max_bytes,
        "max_activation_bytes": max_activation_bytes,
    }
    limits = {n: _pair(graph, variables, inputs, n, limit) for n, limit in given.items() if limit is not None}
    if not limits:
        raise BudgetError(f"gradual needs a budget to reach: one of {', '.join(given)}.")
    if utility is not None and not callable(utility):
        raise RequestError(
            "utility must be a function of (graph, variables), since scores are those of the network at each step; "
            f"found {type(utility).__name__}."
        )
    keywords |= absolute_request(graph, request=request, min_size=min_size, max_size=max_size)
    if inputs is not None:
        keywords["inputs"] = inputs
    return Gradual(begin, end, every, limits, utility, keywords)


def _pair(graph: Graph, variables: Any, inputs: Any, name: str, limit: Any) -> Any:
    """What the network costs now, and what it may cost at the end; by part where asked."""
    if isinstance(limit, Mapping):
        return {part: _pair_of(graph, variables, inputs, {name: {part: bound}}) for part, bound in limit.items()}
    return _pair_of(graph, variables, inputs, {name: limit})


def _pair_of(graph: Graph, variables: Any, inputs: Any, limit: Mapping[str, Any]) -> tuple[int, int]:
    (budget,) = Limits(**limit, inputs=inputs).budgets(graph, variables)
    return budget.count.at(graph.ties.sizes), int(budget.bound)


def _between(pair: Any, left: float) -> Any:
    if isinstance(pair, Mapping):
        return {part: _between(each, left) for part, each in pair.items()}
    first, last = pair
    return max(1, int(last + (first - last) * left))
