"""A network on its way to a smaller budget, and the candidates at the end of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from naivenas_jax.checks import require_flag, require_words
from naivenas_jax.errors import GraphError, PlanError, UtilityError
from naivenas_jax.fit.compensate import compensated
from naivenas_jax.fit.network.network import Data, Network
from naivenas_jax.fit.outputs import MadeOutputs, WantedOutputs, made_outputs
from naivenas_jax.fit.refine import refined
from naivenas_jax.fit.regression.importance import importance
from naivenas_jax.fit.regression.ridge import require_ridge
from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.around.keywords import ChainKeywords, check_chain_keywords
from naivenas_jax.mutate.request.absolute_request import absolute_request
from naivenas_jax.mutate.request.budget_request import BudgetKeywords
from naivenas_jax.mutate.request.options import Inputs
from naivenas_jax.mutate.result.mutation import Mutation, then
from naivenas_jax.mutate.verbs.resize import resize
from naivenas_jax.transfer.variables import as_given, plain
from naivenas_jax.typing import PyTree, Variables
from naivenas_jax.utility.user_scores import Scores


@dataclass(frozen=True, eq=False)
class Compression:
    """A network that is to become smaller, on data.

    Attributes:
      original: the network, with the keyword arguments of its evaluation.
      given: its variables, as the user gave them.
      variables: the same, in dicts.
      data: the batches.
      outcomes: as for `compensate`.
      ridge: as for `compensate`.
      keywords: of `resize`, the same for every step.
    """

    original: Network
    given: Variables
    variables: Variables
    data: Data
    outcomes: bool
    ridge: float | None
    keywords: dict[str, Any]  # of `resize`, which checks them
    _networks: dict[Graph, Network] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        graph: Graph,
        variables: Variables,
        batches: Iterable[PyTree],
        *,
        outcomes: bool,
        ridge: float | None,
        keywords: Mapping[str, PyTree] | None,
        inputs: Inputs,
        sizes: dict[str, Any],
        options: ChainKeywords,
    ) -> Compression:
        """A compression as a user asks for it.

        Raises:
          Others: as `naivenas_jax.compress`.
        """
        if "utility" in options:
            raise UtilityError("The utility of neurons is found on the batches here; utility= is for resize.")
        require_flag(outcomes, "outcomes", GraphError)
        require_words({} if keywords is None else keywords, "keywords", GraphError)
        check_chain_keywords(graph, options)
        return cls(
            original=Network(graph, dict(keywords or {})),
            given=variables,
            variables=plain(variables),
            data=Data.of(graph, batches),
            outcomes=outcomes,
            ridge=require_ridge(ridge),
            keywords={"inputs": inputs, **absolute_request(graph, **sizes), **options},
        )

    def step(self, found: Mutation | None, budgets: BudgetKeywords) -> Mutation:
        """One step further: costs of neurons where the network is now, widths within budgets, and a re-fit."""
        graph, variables = found or (self.original.graph, self.variables)
        utility = in_solver_range(importance(self.network(graph), variables, self.data))
        step = resize(graph, variables, utility=utility, **budgets, **self.keywords)
        return self._refitted(step if found is None else then(found, step, "compressed in steps"))

    def at_once(self, budgets: BudgetKeywords) -> Mutation:
        """The simple way: `resize` by magnitudes, and a re-fit."""
        return self._refitted(resize(self.original.graph, self.variables, **budgets, **self.keywords))

    def nearest(self, candidates: Sequence[Mutation]) -> Mutation:
        """The candidate whose outputs are nearest to those of the original; the first, if they cannot be compared."""
        try:
            wanted = [self._wanted(one) for one in candidates]
        except PlanError as error:  # all outputs are whole numbers
            return replace(candidates[0], notes=(*candidates[0].notes, f"not compared with other ways: {error}"))
        found = [
            own.distance(self.network(one.graph), one.variables) for own, one in zip(wanted, candidates, strict=True)
        ]
        return candidates[int(np.argmin(np.nan_to_num(found, nan=np.inf)))]

    def polished(self, mutation: Mutation, steps: int, progress: bool = False) -> Mutation:
        """All parameters at once, trained for so many steps; the same mutation for none."""
        if not steps:
            return mutation
        return refined(mutation, self.network(mutation.graph), self._wanted(mutation), steps, progress=progress)

    def handed_out(self, mutation: Mutation) -> Mutation:
        """A mutation between variables in the mappings that the user gave, each note said once."""
        notes = tuple(dict.fromkeys(mutation.notes))
        variables = as_given(mutation.variables, self.given)
        return replace(mutation, notes=notes, variables=variables, variables_before=self.given)

    def network(self, graph: Graph) -> Network:
        """A graph as it is evaluated, with all that has been compiled for it."""
        return self._networks.setdefault(graph, Network(graph, self.original.kwargs))

    @cached_property
    def _made(self) -> MadeOutputs:
        """What the original makes, computed once for all that is compared with it."""
        return made_outputs(self.original, self.variables, self.data)

    def _wanted(self, mutation: Mutation) -> WantedOutputs:
        return WantedOutputs.of(mutation, self.data, self._made)

    def _refitted(self, mutation: Mutation) -> Mutation:
        networks = self.original, self.network(mutation.graph)
        return compensated(mutation, networks, self.data, outcomes=self.outcomes, ridge=self.ridge)


def in_solver_range(costs: Scores) -> Scores:
    """Costs in a range that a solver can tell apart: what costs far more than most stays whatever it costs."""
    every = np.concatenate([cost[cost > 0] for cost in costs.values()] or [np.ones(1)])
    unit = float(np.median(every)) if every.size else 1.0
    return {handle: np.clip(cost / unit, 1e-9, 1e4) for handle, cost in costs.items()}
