"""A network on its way to a smaller budget, and the candidates at the end of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import Bool

from naivenas_jax.checks import require_flag, require_words
from naivenas_jax.cost.costs import costs
from naivenas_jax.dataflow.contraction import Contraction
from naivenas_jax.dataflow.thinning import HELD_OUT
from naivenas_jax.errors import GraphError, PlanError, TimeLimitError, UtilityError
from naivenas_jax.fit.comparison import Comparison
from naivenas_jax.fit.compensate import compensated
from naivenas_jax.fit.descent import Original
from naivenas_jax.fit.dropping.importance import NeuronCosts, neuron_costs
from naivenas_jax.fit.network.apart import are_apart
from naivenas_jax.fit.network.data import Data
from naivenas_jax.fit.network.memory import require_memory
from naivenas_jax.fit.network.network import Network
from naivenas_jax.fit.outputs import Distances, MadeOutputs, WantedOutputs, held_out, made_outputs
from naivenas_jax.fit.products.turned import in_principal_axes
from naivenas_jax.fit.refine import refined
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

T = TypeVar("T")
#: All parameters are trained in the end for at least so many steps, if nobody says how many, and if they take no more
#: multiply-accumulates than this: a minute of two cores.
REFINED, QUICK = 400, 3e12
#: For more steps, up to so many, as long as they take no more than this: half a minute.
REFINED_LONG, VERY_QUICK = 1600, 1e11
#: So many examples are enough to compare candidates on; of fewer than four times as many, one in four is held back.
HELD_BACK = 400
#: Noise that a fit of K columns to N rows follows is about K / N of all. Where the examples that were held back would
#: take no more than this off it, weights are not fitted again with them: they would hardly change.
NEGLIGIBLE = 1 / 32


class Recent:
    """The last few things that were computed of some variables: of the same ones, not of equal ones."""

    def __init__(self, most: int = 6):
        self._items: deque[tuple[Variables, Hashable, Any]] = deque(maxlen=most)

    def found(self, of: Variables, what: Hashable, make: Callable[[], T]) -> T:
        """What is there, or what ``make`` returns."""
        for variables, name, known in self._items:
            if variables is of and name == what:
                result: T = known
                return result
        result = make()
        self._items.append((of, what, result))
        return result


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
      memory: bytes that sums may take.
      keywords: of `resize`, the same for every step.
    """

    original: Network
    given: Variables
    variables: Variables
    data: Data
    outcomes: bool
    ridge: float | None
    memory: int
    keywords: dict[str, Any]  # of `resize`, which checks them
    _networks: dict[Graph, Network] = field(default_factory=dict)
    _recent: Recent = field(default_factory=Recent)

    @classmethod
    def of(
        cls,
        graph: Graph,
        variables: Variables,
        batches: Iterable[PyTree],
        *,
        outcomes: bool,
        ridge: float | None,
        memory: int | None,
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
            memory=require_memory(memory),
            keywords={"inputs": inputs, **absolute_request(graph, **sizes), **options},
        )

    def step(self, found: Mutation | None, budgets: BudgetKeywords, measured: bool = True) -> Candidate:
        """One step further: costs of neurons where the network is now, widths within budgets, and a re-fit.

        Args:
          found: the network so far; None: the one given.
          budgets: of this step.
          measured: whether costs are those that were measured, or the estimates.
        """
        graph, variables = found or (self.original.graph, self.variables)
        every, notes = self._at_first if found is None else self._costs(graph, variables)
        scores = every.measured if measured else every.estimated
        step = self._resized(graph, variables, budgets, utility=in_solver_range(scores))
        whole = step if found is None else then(found, step, "compressed in steps")
        whole = replace(whole, notes=(*whole.notes, *notes))
        return self._recent.found(variables, _choice(step), lambda: self._candidate(whole))

    def in_one(self, budgets: BudgetKeywords) -> Candidate:
        """One step, by measured costs or by estimates: whichever is nearer on the examples held back."""
        by_curves, by_estimates = (self.step(None, budgets, measured) for measured in (True, False))
        if by_curves is by_estimates:
            return by_curves.noted("made in one step: measured and estimated costs of neurons choose the same ones")
        try:
            first, second = (self._distances(one.fitted)[0].squares.mean() for one in (by_curves, by_estimates))
        except PlanError:  # nothing to compare
            return by_curves
        taken, word = (by_estimates, "estimated") if second < first else (by_curves, "measured")
        return taken.noted(
            f"made in one step, with {word} costs of neurons: outputs are off by a relative square of {first:.3g} with "
            f"measured ones and {second:.3g} with estimates"
        )

    def at_once(self, budgets: BudgetKeywords) -> Candidate:
        """The simple way: `resize` by its default utility, and a re-fit."""
        cut = self._resized(self.original.graph, self.variables, budgets)
        return self._recent.found(self.variables, _choice(cut), lambda: self._candidate(cut))

    def _resized(
        self, graph: Graph, variables: Variables, budgets: BudgetKeywords, utility: Scores | None = None
    ) -> Mutation:
        """One choice of widths.

        Raises:
          TimeLimitError: without a ``best``, which would be a network on the way to the budget.
        """
        try:
            return resize(graph, variables, utility=utility, **budgets, **self.keywords)
        except TimeLimitError as error:
            raise TimeLimitError(
                f"{error} The limit is one for each choice of widths on the way to the budget. "
                "fallback=nas.fallback.accept goes on with the best that each has found by then.",
                gap=error.gap,
                share=error.share,
            ) from error

    def nearer(self, by_steps: Candidate, at_once: Candidate) -> Candidate:
        """The one of two whose outputs are nearer to those of the original, on the examples held back.

        In doubt, within one standard error, that is the one that was made at once.
        """
        try:
            comparison = self.compared(by_steps, at_once)
        except PlanError as error:
            return by_steps.noted(f"not compared with other ways: {error}")
        return (by_steps if comparison.worth_it else at_once).noted(str(comparison))

    def helps(self, elaborate: Candidate, simple: Candidate) -> bool:
        """Whether the elaborate one of two is better by more than chance; also if that cannot be told."""
        try:
            return self.compared(elaborate, simple).worth_it
        except PlanError:  # nothing to compare
            return True

    def compared(self, elaborate: Candidate, simple: Candidate) -> Comparison:
        """Two candidates on the examples held back.

        Raises:
          PlanError: if they cannot be compared, since all outputs are whole numbers.
        """
        (first, by_example), (second, _) = (self._distances(one.fitted) for one in (elaborate, simple))
        return Comparison.of(
            first.squares,
            second.squares,
            held_back=self._parts.held_back is not None,
            by_example=by_example,
            choices=(first.choices, second.choices),
        )

    def _distances(self, one: Mutation) -> tuple[Distances, bool]:
        """How far a network is from the original on the examples held back, and whether on each of them."""

        def measured() -> tuple[Distances, bool]:
            held_back, made = self._parts.held_back or self.data, self._parts.made
            wanted = WantedOutputs.of(one, held_back, made)
            wanted = replace(wanted, by_example=wanted.by_example and self._parts.apart)
            return wanted.compared(self.network(one.graph), one.variables), wanted.by_example

        return self._recent.found(one.variables, "distances", measured)

    def settled(self, found: Candidate) -> Mutation:
        """The weights fitted to all examples, those held back too, unless these would hardly change anything."""
        if self._parts.held_back is None:
            return found.fitted
        cut, few = found.cut, self._parts.fitted
        uses = [use for use in self.network(cut.graph).uses(cut.variables, few.first) if isinstance(use, Contraction)]
        rows = min((use.sizes.rows * few.number / (use.sizes.inputs + 1) for use in uses), default=np.inf)
        return found.fitted if self._parts.share <= NEGLIGIBLE * rows else self._refitted(cut, self.data)

    def polished(self, mutation: Mutation, steps: int | None) -> Mutation:
        """All parameters at once, trained for so many steps; None: for as many as are quick, if that can be judged.

        Returns:
          The same mutation for no steps.
        """
        if steps is None:
            try:
                return self.polished(mutation, self._steps_in_the_end(mutation) if self._parts.held_back else 0)
            except PlanError:  # nothing to train, or nothing to train towards
                return mutation
        if not steps:
            return mutation
        networks = Original(self.original, self.variables), self.network(mutation.graph)
        return refined(mutation, networks, self._wanted(mutation), steps)

    @cached_property
    def quick(self) -> bool:
        """Whether the original is as quick as a network has to be that is trained in the end without being asked."""
        operations = self._operations(self.original.graph, self.variables)
        return operations is not None and 3 * REFINED * operations <= QUICK

    def _steps_in_the_end(self, mutation: Mutation) -> int:
        """How many steps are quick, by the operations of each, forwards and back."""
        operations = self._operations(mutation.graph, mutation.variables)
        if operations is None or 3 * REFINED * operations > QUICK:
            return 0
        return int(min(REFINED_LONG, max(REFINED, VERY_QUICK / (3 * max(operations, 1)))))

    def _operations(self, graph: Graph, variables: Variables) -> int | None:
        """The multiply-accumulates of the first batch; None: they cannot be counted."""
        return costs(graph, variables, *self.data.first, **self.original.kwargs).macs

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

    @cached_property
    def _parts(self) -> _Parts:
        """The examples that candidates are fitted to, and those on which they are compared."""
        batches = [[*inputs, *made] for inputs, made in zip(self.data, self._made, strict=True)]
        chosen = held_out(batches, fewest=HELD_OUT, enough=HELD_BACK)
        apart = chosen is None or self._are_apart(chosen)
        if not apart:
            chosen = held_out(batches, fewest=HELD_OUT, whole=True)
        if chosen is None:
            return _Parts(self.data, None, 0.0, self._made, apart)
        pairs = [(made, own) for made, own in zip(self._made, chosen, strict=True) if own.any()]
        made = [one if own.all() else [array[own] for array in one] for one, own in pairs]
        share = float(np.concatenate(chosen).mean())
        return _Parts(self.data.only([~own for own in chosen]), self.data.only(chosen), share, made, apart)

    def _are_apart(self, chosen: Sequence[Bool[np.ndarray, " _"]]) -> bool:
        """Whether the original makes the same of the examples that are not chosen, whatever the others of a batch are.

        Where whole batches are chosen, they are.
        """
        parts = zip(self.data, self._made, chosen, strict=True)
        found = next(((inputs, made, ~own) for inputs, made, own in parts if own.size > 1 and own.any()), None)
        if found is None:
            return True
        inputs, made, rest = found
        alone = jax.jit(self.original.outputs)
        some = [array[rest] for array in inputs]
        return are_apart(
            lambda: [np.atleast_1d(array) for array in alone(self.variables, *some)], [array[rest] for array in made]
        )

    @cached_property
    def _at_first(self) -> tuple[NeuronCosts, list[str]]:
        """What neurons of the original cost, for every way that begins there."""
        return self._costs(self.original.graph, self.variables)

    def _costs(self, graph: Graph, variables: Variables) -> tuple[NeuronCosts, list[str]]:
        """What neurons cost, and what was done for want of memory."""

        def counted() -> tuple[NeuronCosts, list[str]]:
            notes: list[str] = []
            network, data = self.network(graph), self._parts.fitted
            turned = in_principal_axes(network, variables, data)  # as what is fitted will be
            found = neuron_costs(network, turned, data, memory=self.memory, notes=notes)
            network.forget()
            return found, notes

        return self._recent.found(variables, "costs", counted)

    def _wanted(self, mutation: Mutation) -> WantedOutputs:
        return WantedOutputs.of(mutation, self.data, self._made)

    def _candidate(self, cut: Mutation) -> Candidate:
        return Candidate(cut, self._refitted(cut, self._parts.fitted))

    def _refitted(self, cut: Mutation, data: Data) -> Mutation:
        networks = self.original, self.network(cut.graph)
        found = compensated(cut, networks, data, outcomes=self.outcomes, ridge=self.ridge, memory=self.memory)
        networks[1].forget()
        return found


class Candidate(NamedTuple):
    """A smaller network.

    Attributes:
      cut: before its weights are fitted.
      fitted: with its weights fitted to the examples that are not held back.
    """

    cut: Mutation
    fitted: Mutation

    def noted(self, note: str) -> Candidate:
        """The same, with one more note."""
        return Candidate(*(replace(one, notes=(*one.notes, note)) for one in self))


class _Parts(NamedTuple):
    """What candidates are fitted to, and what they are compared on.

    Attributes:
      fitted: the examples that candidates are fitted to.
      held_back: the others; None: none could be held back.
      share: how many those are, as a share of all.
      made: what the original makes of the examples that candidates are compared on.
      apart: whether examples of a batch do not see one another.
    """

    fitted: Data
    held_back: Data | None
    share: float
    made: MadeOutputs
    apart: bool


def _choice(cut: Mutation) -> tuple[tuple[str, bytes], ...]:
    """Which neurons a mutation keeps, as what can be compared."""
    return tuple((name, np.asarray(axis.source).tobytes()) for name, axis in cut.plan.axes.items())


def in_solver_range(scores: Scores) -> Scores:
    """Costs in a range that a solver can tell apart: what costs far more than most stays whatever it costs."""
    every = np.concatenate([cost[cost > 0] for cost in scores.values()] or [np.ones(1)])
    unit = float(np.median(every)) if every.size else 1.0
    return {handle: np.clip(cost / unit, 1e-9, 1e4) for handle, cost in scores.items()}
