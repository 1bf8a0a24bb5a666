"""Gradual pruning: a budget that tightens while the network is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, Unpack

import optax

from naivenas_jax.checks import as_flag, as_whole, require_function, shown
from naivenas_jax.errors import BudgetError, CarryError, RequestError, StructureError
from naivenas_jax.graph.graph import Graph, require_graph
from naivenas_jax.mutate.around.keywords import ChainKeywords, check_chain_keywords, shows_keywords
from naivenas_jax.mutate.request.absolute_request import AbsoluteRequest, absolute_request
from naivenas_jax.mutate.request.bounds import Bound
from naivenas_jax.mutate.request.budget_path import BudgetPath
from naivenas_jax.mutate.request.budget_request import BUDGETS, BudgetKeywords, Limit, Limits
from naivenas_jax.mutate.request.options import Inputs
from naivenas_jax.mutate.request.size_request import SizeRequest
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.mutate.verbs.resize import resize
from naivenas_jax.schedule.soft import Soft
from naivenas_jax.transfer.variables import trained_tree
from naivenas_jax.typing import PyTree, Variables
from naivenas_jax.utility.user_scores import Utility

#: Scores of the present network: ``(graph, variables) -> utility``.
Score: TypeAlias = Callable[[Graph, Variables], Utility]


class StepKeywords(ChainKeywords, AbsoluteRequest, total=False):
    """What is passed to `resize` at every step."""

    inputs: Inputs


@dataclass(frozen=True)
class Gradual:
    """A schedule of budgets, made by `gradual`. Holds no network: that is passed in at each step, and returned.

    Attributes:
      begin: the step at which the budget starts to tighten.
      end: the step at which it is reached.
      every: the number of steps from one tightening to the next.
      budgets: for each budget what the network cost at first, and what it may cost at the end.
      utility: scores of the present network; None: the default of `resize`.
      keywords: what is passed to `resize` at every step.

    >>> import jax, optax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(64), x)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> schedule = nas.gradual(graph, variables, end=40, every=10, max_params=0.25)
    >>> [step for step in range(41) if schedule.due(step)], schedule.left(20), schedule.bounds(40)
    ([0, 10, 20, 30, 40], 0.125, {'max_params': 96})
    >>> schedule.mutation(10, graph, variables).graph.nout("hidden"), schedule.mutation(11, graph, variables)
    (36, None)
    >>> tx = optax.adam(1e-3)
    >>> graph, variables, state = schedule.prune(40, graph, variables, tx.init(variables["params"]), tx=tx)
    >>> graph.nout("hidden"), state[0].mu["hidden"]["bias"].shape
    (15, (15,))

    Or with masks, so that no shape changes while the network is trained:

    >>> soft = nas.Soft.whole(graph, variables)
    >>> schedule = nas.gradual(graph, variables, end=40, every=10, max_params=0.5)
    >>> soft = schedule.soft(40, soft, variables)
    >>> soft.harden(variables).graph.nout("hidden")
    7
    """

    begin: int
    end: int
    every: int
    budgets: BudgetPath
    utility: Score | None
    keywords: StepKeywords

    def due(self, step: int) -> bool:
        """Whether the budget tightens at a step; see `Gradual`.

        Args:
          step: the number of the training step.

        Returns:
          True at ``begin``, every ``every`` steps after it, and at ``end``.

        Raises:
          RequestError: if the step is no whole number.
        """
        step = _steps("step", step)
        return self.begin <= step <= self.end and ((step - self.begin) % self.every == 0 or step == self.end)

    def left(self, step: int) -> float:
        """The share of the way that is left at a step; see `Gradual`.

        Args:
          step: the number of the training step.

        Returns:
          ``(1 - t)^3``, with t from 0 at ``begin`` and before to 1 at ``end`` and after.

        Raises:
          RequestError: if the step is no whole number.
        """
        t = min(max((_steps("step", step) - self.begin) / (self.end - self.begin), 0.0), 1.0)
        return (1.0 - t) ** 3

    def bounds(self, step: int) -> BudgetKeywords:
        """The budgets at a step; see `Gradual`.

        Args:
          step: the number of the training step.

        Returns:
          Keywords of `resize`: whole numbers, by part where the schedule was given limits by part.

        Raises:
          RequestError: if the step is no whole number.
        """
        left = self.left(step)
        return self.budgets.at(lambda span: span.after + (span.before - span.after) * left)

    def mutation(self, step: int, graph: Graph, variables: Variables) -> Mutation | None:
        """The change that is due at a step; see `Gradual`.

        Args:
          step: the number of the training step.
          graph: the present network.
          variables: its variables.

        Returns:
          A `Mutation` that drops neurons; None if nothing is due or nothing has to go.

        Raises:
          Others: as `resize`.
        """
        if not self.due(step):
            return None
        utility = None if self.utility is None else self.utility(graph, variables)
        mutation = resize(graph, variables, **self.bounds(step), utility=utility, **self.keywords)
        return mutation if mutation.plan.changed else None

    def prune(
        self,
        step: int,
        graph: Graph,
        variables: Variables,
        opt_state: PyTree = None,
        *,
        tx: optax.GradientTransformation | None = None,
    ) -> tuple[Graph, Variables, PyTree]:
        """The network and optimizer state to go on with: the same objects, unless this step drops something.

        A training step that is jitted with the graph as an argument is traced again only where sizes have changed. For
        an example see `Gradual`.

        Args:
          step: the number of the training step.
          graph: the present network.
          variables: its variables.
          opt_state: the state of an optax optimizer for ``variables["params"]``; carried along.
          tx: the optimizer; needed only where `Mutation.carry` asks for a fresh state.

        Returns:
          (graph, variables, opt_state) to go on with.

        Raises:
          CarryError: if the state of the optimizer cannot be carried along.
          Others: as `resize`.
        """
        mutation = self.mutation(step, graph, variables)
        if mutation is None:
            return graph, variables, opt_state
        if tx is not None and not all(callable(getattr(tx, name, None)) for name in ("init", "update")):
            raise CarryError(f"tx must be an optax optimizer; found {type(tx).__name__}: {shown(tx)}.")
        fresh = None if tx is None else tx.init(trained_tree(mutation.graph.ties, mutation.variables))
        carried = None if opt_state is None else mutation.carry(opt_state, fresh=fresh)
        return mutation.graph, mutation.variables, carried

    def soft(self, step: int, soft: Soft, variables: Variables) -> Soft:
        """The masks to go on with: the same object, unless this step masks something more.

        What is masked stays masked: of what is left, the neurons are masked that `prune` would drop.
        For an example see `Gradual`.

        Args:
          step: the number of the training step.
          soft: the masks so far, at first ``Soft.whole(graph, variables)``.
          variables: the variables of the whole network.

        Returns:
          The masks; their shapes never change.

        Raises:
          StructureError: if a neuron that would go is coupled, see `soft_masks`, or no masks are given.
          Others: as `resize`.
        """
        if not isinstance(soft, Soft):
            raise StructureError(
                f"soft must be the masks so far, at first nas.Soft.whole(graph, variables); found {shown(soft)}."
            )
        if not self.due(step):
            return soft
        hard = soft.harden(variables)
        mutation = self.mutation(step, hard.graph, hard.variables)
        return soft if mutation is None else soft.after(mutation, variables)


@shows_keywords()
def gradual(
    graph: Graph,
    variables: Variables,
    *,
    end: int,
    begin: int = 0,
    every: int = 1,
    max_params: Limit = None,
    max_macs: Limit = None,
    max_bytes: Limit = None,
    max_activation_bytes: Limit = None,
    inputs: Inputs = None,
    request: SizeRequest | None = None,
    min_size: Bound = None,
    max_size: Bound = None,
    utility: Score | None = None,
    **keywords: Unpack[ChainKeywords],
) -> Gradual:
    """A schedule that prunes to a budget little by little, much at first and less towards the end.

    With the cost ``c_0`` of this network and the budget ``c_f``, the budget at step s is

        c(s) = c_f + (c_0 - c_f) (1 - (s - begin) / (end - begin))^3

    at ``begin``, every ``every`` steps after it, and at ``end``.

    Args:
      graph: the network before.
      variables: its variables, or their shapes.
      end: the step at which the budget is reached.
      begin: the step at which it starts to tighten.
      every: how many training steps lie between two prunings, for the network to recover.
      max_params: the number of parameters at the end, as for `resize`; a fraction is of what this network has.
      max_macs: the number of multiply-accumulates at the end; likewise.
      max_bytes: the bytes of all variables at the end; likewise.
      max_activation_bytes: the bytes that matrix products and convolutions return at the end; likewise.
      inputs: arrays or shapes to count operations at, as for `resize`.
      request: sizes that are asked for besides, as for `resize`; changes are of the sizes of this network, and exact.
      min_size: the smallest sizes, as for `resize`; fractions are of the sizes of this network.
      max_size: the largest sizes; likewise.
      utility: a function ``(graph, variables) -> utility`` that scores the present network, such as ``nas.magnitude``.
        Default: the default of `resize`.
      **keywords: as for `resize`, the same at every step: ``multiple_of=``, ``constraints=``, ``time_limit=``, ...

    Returns:
      A `Gradual`. ``prune(step, graph, variables, opt_state)`` gives the network to go on with; ``soft`` the masks.
      Call it at every step, or at those that are ``due``: a step that is left out is not made up for after ``end``.

    Raises:
      RequestError: if the steps are no whole numbers in order, a request is relaxed, or ``utility`` is no function.
      UnknownNameError: if a request or limit names an axis that does not exist.
      BudgetError: if there is no budget, or it cannot be counted.
      GraphError, VariablesError: if ``graph`` is no graph, or the variables are not its own.

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
    begin, end, every = _steps("begin", begin), _steps("end", end), _steps("every", every)
    if not 0 <= begin < end or every < 1:
        raise RequestError(f"0 <= begin < end and every >= 1 must hold, found {begin=}, {end=}, {every=}.")
    limits = Limits(
        max_params=max_params,
        max_bytes=max_bytes,
        max_macs=max_macs,
        max_activation_bytes=max_activation_bytes,
        inputs=inputs,
        grows=request is not None or as_flag(keywords.get("grow")) is True,
    )
    if not limits:
        raise BudgetError(f"gradual needs a budget to reach: one of {', '.join(BUDGETS)}.")
    if utility is not None:
        if not callable(utility):
            raise RequestError(
                "utility must be a function of (graph, variables), since scores are those of the network at each step; "
                f"found {type(utility).__name__}."
            )
        require_function(utility, "utility", "graph, variables", RequestError)
    check_chain_keywords(graph, keywords)
    sizes = absolute_request(graph, request=request, min_size=min_size, max_size=max_size)
    every_step: StepKeywords = {**keywords, **sizes, "inputs": inputs}
    return Gradual(begin, end, every, BudgetPath.of(graph, variables, limits), utility, every_step)


def _steps(argument: str, given: object) -> int:
    """A number of training steps.

    Raises:
      RequestError: if it is none.
    """
    steps = as_whole(given)
    if steps is None or abs(steps) > _MOST_STEPS:
        raise RequestError(f"{argument} must be a whole number of training steps; found {shown(given)}.")
    return steps


#: No training has more steps: an argument that says so is a mistake.
_MOST_STEPS = 10**15
