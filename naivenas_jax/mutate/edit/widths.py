"""A change of width: align, then carry out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from naivenas_jax.align.align import align
from naivenas_jax.align.axis_plan import AxisPlan
from naivenas_jax.align.plan import Plan
from naivenas_jax.align.problem.budget import Budget
from naivenas_jax.align.problem.request import Target
from naivenas_jax.align.problem.restrictions import Restrictions
from naivenas_jax.errors import StructureError, TimeLimitError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.map_ops import with_axes
from naivenas_jax.mutate.request.defaults import deciding_utility, kept_ends
from naivenas_jax.mutate.request.options import Options, axes_of, conditions, objectives
from naivenas_jax.mutate.result.mutation import Mutation, unproven
from naivenas_jax.mutate.result.request_record import RequestRecord
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.transfer.new_neurons.apply_plan import transfer
from naivenas_jax.transfer.undo import UndoRecord
from naivenas_jax.typing import Variables


def change_widths(
    graph: Graph,
    variables: Variables,
    targets: Collection[Target],
    options: Options,
    *,
    everywhere: bool = False,
    budgets: Sequence[Budget] = (),
    grow: bool = False,
) -> Mutation:
    """Find the sizes and neurons that meet the requests best, and carry that out.

    Args:
      graph: the network.
      variables: its variables.
      targets: the requests.
      options: what else was asked.
      everywhere: whether all axes may change; else those that requests, conditions and objectives reach through ties.
      budgets: what the network may cost.
      grow: whether nothing is dropped, and what is left of the budgets is spent on new neurons.

    Raises:
      InfeasibleError: if no sizes satisfy the request.
      TimeLimitError: if the time limit strikes; its ``best`` makes the mutation with the best sizes found by then.
    """
    ties = graph.ties
    sizes = ties.sizes
    required, sums = conditions(options.constraints, sizes), objectives(options.minimise, sizes)
    named = [target.axis for target in targets]
    _check_layers(ties, targets)
    reached = None if everywhere else ties.reach([*named, *axes_of(required, sums)])
    utility = deciding_utility(graph, variables, options.utility, within_budgets=bool(budgets), axes=reached)
    record = RequestRecord(tuple(targets), required, tuple(budgets), utility)
    try:
        aligned = align(
            ties,
            targets,
            utility,
            Restrictions(
                frozen=kept_ends(graph, named, options.free_outputs),
                reached=reached,
                insertable=_insertable(ties, targets, options),
                conditions=required,
                objectives=sums,
                budgets=budgets,
            ),
            time_limit=options.deadline.left,
            grow=grow,
            gap=options.gap,
        )
    except TimeLimitError as error:
        raise error.then(lambda axes, stop: unproven(carry_out(graph, variables, axes, options), stop)) from error
    mutation = carry_out(graph, variables, aligned.axes, options)
    record = replace(record, kept=aligned.kept, lost=aligned.lost)
    return replace(mutation, gap=aligned.gap, request_record=record)


def _check_layers(ties: Ties, targets: Collection[Target]) -> None:
    """Raise if a stack is to get layers none of which can be the identity."""
    for target in targets:
        if ties.counts_layers(target.axis) and target.axis in ties.coupled and target.wish > ties.size(target.axis):
            raise StructureError(
                f"{target.axis!r} cannot get more layers: {ties.coupled[target.axis]}. What a new layer makes would be "
                "another function. A layer can be added where it ends in a sum with what it was given, "
                "x + f(x) @ kernel: there it starts with a kernel of 0."
            )


def _insertable(ties: Ties, targets: Collection[Target], options: Options) -> dict[str, int]:
    """How many neurons each axis may gain. A request that says what stays also says how many are new.

    A stack gains no layers where a new one cannot be the identity.
    """
    found = options.insertable(ties.sizes)
    found.update({axis: 0 for axis in ties.axes if ties.counts_layers(axis) and axis in ties.coupled})
    for target in targets if options.max_new is None else ():
        if target.keep is not None:
            same = [axis for axis, row in ties.axes.items() if row == ties.axes[target.axis]]
            found.update({axis: max(found[axis], target.wish) for axis in same})
    return found


def carry_out(graph: Graph, variables: Variables, axes: Mapping[str, AxisPlan], options: Options) -> Mutation:
    """The graph with these axes, and its variables.

    Args:
      graph: the network.
      variables: its variables.
      axes: where the neurons of every axis come from.
      options: what new neurons start at, and keywords for the resize rules of layers.
    """
    strategy, ties = options.strategy, graph.ties
    plan = Plan(axes, ties.dims, rescaled=ties.rescaled)
    after = with_axes(graph, axes, options.layer_keywords)
    return Mutation(
        graph=after,
        variables=strategy.finished(after, plan, transfer(plan, ties.leaves, variables, strategy, options.rng)),
        plan=plan,
        before=graph,
        variables_before=variables,
        undo_records=(UndoRecord.of(plan, variables, ties.leaves, strategy.copies),),
        incomparable=_incomparable(graph, plan, options),
    )


def _values(graph: Graph) -> list[str]:
    """The inputs that hold values of neurons, and not their positions."""
    return [v.name for v in graph.inputs if graph.ties.indexed.isdisjoint(graph.ties.axes[v.name])]


def _incomparable(graph: Graph, plan: Plan, options: Options) -> str | None:
    """Why the new network may compute something else even where neurons were only added."""
    grows = any(axis.new.size for axis in plan.changed.values())
    if grows and not options.strategy.keeps_function:
        return f"new={options.new!r} need not keep the function"
    if options.strategy.copies and any(plan.axes[name].new.size for name in _values(graph)):
        return "an input was split, so that the inputs of the new network are others"
    return None
