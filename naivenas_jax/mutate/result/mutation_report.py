"""What a mutation does to each handle, in figures: sizes, costs, utility kept, and why it did not keep more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from naivenas_jax.align.axis_plan import AxisPlan
from naivenas_jax.cost.costs import Costs, costs
from naivenas_jax.cost.operations import operations
from naivenas_jax.cost.parameters import parameters
from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.result.inputs_after import inputs_after
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.mutate.result.request_record import RequestRecord
from naivenas_jax.mutate.result.score_errors import ScoreErrors
from naivenas_jax.sizes.condition import Condition
from naivenas_jax.sizes.count import Count
from naivenas_jax.typing import Array, Shape, Variables
from naivenas_jax.utility.tied import total_utility
from naivenas_jax.utility.user_scores import Utility

Pair = tuple[int, int]


@dataclass(frozen=True)
class HandleReport:
    """One handle before and after.

    Attributes:
      handle: its name.
      before, after: its sizes; 0 where it is not there.
      kept, new: of the neurons after, how many were there before, and how many were not.
      params: (before, after), the number of parameters with an index on this handle or on an axis tied to it. A weight
        between two handles is counted at both.
      macs: the same for multiply-accumulates; None without inputs.
      utility_kept: the share of the total utility of its neurons, tied ones included, that is kept; None where no
        utility decided, or the total is not positive.
      bound_by: where it has fewer neurons than before, what one more would break: budgets, conditions, the request;
        "utility" if the utility of the dropped ones was negative. "minimum" if it cannot have fewer.
      score_kept: of measured scores, the share that is kept, and its standard error at the most; None where none were
        given, or their total is not positive.
      unsure: how many of the dropped neurons may have as high a score as the lowest one that is kept: their measured
        score plus its standard error reaches it. None where no scores were given.
      same_as: the first handle with just the same neurons before and after, where that is another; None: itself.
    """

    handle: str
    before: int
    after: int
    kept: int
    new: int
    params: Pair
    macs: Pair | None
    utility_kept: float | None
    bound_by: tuple[str, ...]
    score_kept: tuple[float, float] | None = None
    unsure: int | None = None
    same_as: str | None = None


@dataclass(frozen=True)
class MutationReport:
    """What a mutation does to every handle, and what the networks cost.

    Attributes:
      handles: those of the graph before, then those that are new.
      before, after: what the networks cost.
    """

    handles: tuple[HandleReport, ...]
    before: Costs
    after: Costs


def mutation_report(
    mutation: Mutation, inputs: Sequence[Array | Shape], measured: tuple[Utility, Utility] | None = None
) -> MutationReport:
    """What a mutation does to each handle, in numbers.

    Args:
      mutation: what a verb returned.
      inputs: arrays or shapes for the graph before; none: no operations.
      measured: scores and their standard errors, by handle of the graph before.
    """
    old = _Side.of(mutation.before, mutation.variables_before, inputs)
    later = inputs_after(mutation.before, mutation.plan, inputs) if inputs else ()
    new = _Side.of(mutation.graph, mutation.variables, later)
    names = {before: after for after, before in mutation.plan.renamed.items()}
    pairs = [(name, names.get(name, name)) for name in mutation.before.handles()]
    named = {after for _, after in pairs}
    pairs += [(name, name) for name in mutation.graph.handles() if name not in named]
    binding = _Binding(mutation, old, new)
    sure = ScoreErrors.of(mutation.before, measured) if measured is not None else None
    rows = _same([_row(mutation, binding, before, after, sure) for before, after in pairs], pairs, old, new)
    return MutationReport(rows, old.costs, new.costs)


def _same(
    rows: Sequence[HandleReport], pairs: Sequence[tuple[str, str]], old: _Side, new: _Side
) -> tuple[HandleReport, ...]:
    """The rows, each with the first one that is about the same neurons."""
    first: dict[object, str] = {}
    found = []
    for row, (before, after) in zip(rows, pairs, strict=True):
        key = old.graph.ties.axes.get(before), new.graph.ties.axes.get(after)
        other = first.setdefault(key, row.handle) if key != (None, None) else row.handle
        found.append(row if other == row.handle else replace(row, same_as=other))
    return tuple(found)


@dataclass(frozen=True, eq=False)
class _Side:
    """A network and what its handles cost."""

    graph: Graph
    params: Count
    macs: Count | None
    costs: Costs

    @classmethod
    def of(cls, graph: Graph, variables: Variables, inputs: Sequence[Array | Shape]) -> _Side:
        macs = operations(graph, variables, inputs).macs if inputs else None
        return cls(graph, parameters(graph.ties, variables), macs, costs(graph, variables, *inputs))

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        return self.graph.ties.sizes

    def on(self, count: Count | None, axis: str) -> int:
        """What of a count would be gone without the neurons of an axis."""
        ties = self.graph.ties
        if count is None or axis not in ties.axes:
            return 0
        return count.at(self.sizes) - count.at(ties.sizes_with(dict.fromkeys(ties.plain(ties.axes[axis]), 0)))


@dataclass(frozen=True, eq=False)
class _Binding:
    """Why handles have not more neurons."""

    mutation: Mutation
    old: _Side
    new: _Side

    @property
    def asked(self) -> RequestRecord:
        return self.mutation.request_record

    @cached_property
    def utility(self) -> dict[str, np.ndarray]:
        """The total utility of each neuron of each handle before."""
        return total_utility(self.mutation.before, self.asked.utility) if self.asked.utility else {}

    def of(self, handle: str, plan: AxisPlan) -> tuple[str, ...]:
        ties = self.new.graph.ties
        if handle not in ties.axes or plan.after >= plan.before:
            return ()
        open_runs = [run for run in sorted(ties.plain(ties.axes[handle])) if run not in ties.fixed]
        found = [reason for run in open_runs for reason in self._one_more(run, handle)]
        if self._unwanted(handle, plan):
            found.append("utility")
        return tuple(dict.fromkeys([*found, *(["minimum"] if plan.after == 1 else [])]))

    def _one_more(self, run: int, handle: str) -> list[str]:
        """What does not hold with one more class; of multiples and ladders, also what does not hold at the next."""
        ties = self.new.graph.ties
        now = self.new.sizes
        found: list[str] = []
        steps = [1]
        for step in steps:
            sizes = ties.sizes_with({run: ties.run_sizes[run] + step})
            moved = {axis for axis, size in sizes.items() if size != now[axis]}
            met = [target.axis for target in self.asked.targets if target.wish == now[target.axis]]
            found += [f"request for {axis!r}" for axis in met if axis in moved]
            found += [budget.name for budget in self.asked.budgets if not budget.holds(sizes)]
            for row in self._conditions(handle):
                if not row.holds(sizes):
                    found.append(str(row))
                    further = row.bound if row.sense == "multiple of" else row.up(now)
                    if further is not None and further not in steps:
                        steps.append(further)
        return found

    def _conditions(self, handle: str) -> list[Condition]:
        """Those on sizes, each once: of equal ones the first that names this handle, or the first."""
        distinct: dict[object, Condition] = {}
        for key, row in self._keyed:
            if key not in distinct or (handle in row.axes and handle not in distinct[key].axes):
                distinct[key] = row
        return list(distinct.values())

    @cached_property
    def _keyed(self) -> list[tuple[object, Condition]]:
        """Conditions on sizes, each with what it says of the runs: equal where axes are tied."""
        axes = self.new.graph.ties.axes
        found: list[tuple[object, Condition]] = []
        for row in (*self.asked.required, *self.new.graph.ties.conditions):
            counts = Counter[int]()
            for axis, count in row.terms:
                counts.update({run: count * times for run, times in Counter(axes[axis]).items()})
            found.append(((frozenset(counts.items()), row.sense, row.bound, row.constant, row.reason), row))
        return found

    def _unwanted(self, handle: str, plan: AxisPlan) -> bool:
        utility = self.utility.get(handle)
        return utility is not None and plan.dropped.size > 0 and bool((utility[plan.dropped] < 0).all())


def _row(mutation: Mutation, binding: _Binding, before: str, after: str, sure: ScoreErrors | None) -> HandleReport:
    plan = mutation.plan.axes.get(after) or AxisPlan.identity(0)
    old, new = binding.old, binding.new
    there = before in mutation.before.ties.axes
    utility = binding.utility.get(before)
    total = 0.0 if utility is None else float(utility.sum())
    return HandleReport(
        handle=after,
        before=mutation.before.ties.size(before) if there else 0,
        after=mutation.graph.ties.size(after) if after in mutation.graph.ties.axes else 0,
        kept=len(plan.kept),
        new=len(plan.new),
        params=(old.on(old.params, before), new.on(new.params, after)),
        macs=None if old.macs is None else (old.on(old.macs, before), new.on(new.macs, after)),
        utility_kept=float(utility[plan.kept].sum()) / total if utility is not None and total > 0 else None,
        bound_by=binding.of(after, plan) if there else (),
        score_kept=sure.kept(before, plan) if sure and there else None,
        unsure=sure.unsure(before, plan) if sure and there else None,
    )
