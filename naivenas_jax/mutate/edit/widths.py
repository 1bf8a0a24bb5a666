"""A change of width: align, then transfer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from naivenas_jax.align.align import align
from naivenas_jax.align.axis_plan import AxisPlan
from naivenas_jax.align.plan import Plan
from naivenas_jax.align.problem.budget import Budget
from naivenas_jax.align.problem.request import Target
from naivenas_jax.errors import TimeLimitError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.map_ops import with_sizes
from naivenas_jax.mutate.request.conditions import axes_of, conditions, objectives
from naivenas_jax.mutate.request.options import Options
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.mutate.result.request_record import RequestRecord
from naivenas_jax.paths import Path
from naivenas_jax.sizes.ties import Leaf
from naivenas_jax.transfer.new_neurons.apply_plan import transfer
from naivenas_jax.transfer.undo import UndoRecord
from naivenas_jax.utility.scores.comparable import comparable
from naivenas_jax.utility.scores.magnitude import magnitude
from naivenas_jax.utility.user_scores import scores


def change_widths(
    graph: Graph,
    variables: Mapping[str, Any],
    wanted: tuple[Target, ...],
    options: Options,
    reached: frozenset[str] | None,
    budgets: Sequence[Budget] = (),
    grow: bool = False,
) -> Mutation:
    """Meet the requests ``wanted``; only axes in ``reached``, and what conditions name, may change (None: all).

    ``grow``: nothing is dropped, and what is left of the budgets is spent on new neurons.
    """
    ties = graph.ties
    sizes = ties.sizes
    required, sums = conditions(options.constraints, sizes), objectives(options.minimise, sizes)
    if reached is not None:
        reached |= ties.reach(axes_of(required, sums))
    utility = options.utility
    if utility is None:
        utility = between_layers(graph, variables) if budgets else magnitude(graph, variables, axes=reached)
    asked = RequestRecord(wanted, required, tuple(budgets), scores(utility, sizes))
    try:
        aligned = align(
            ties,
            wanted,
            asked.utility,
            time_limit=options.time_limit,
            grow=grow,
            frozen=ends(graph, {target.axis for target in wanted}, options.free_outputs),
            reached=reached,
            insertable=options.insertable(sizes),
            required=required,
            objectives=sums,
            budgets=budgets,
        )
    except TimeLimitError as error:
        raise error.then(lambda axes, gap: unproven(with_axes(graph, variables, axes, options), gap)) from error
    asked = replace(asked, kept=aligned.kept, lost=aligned.lost)
    return replace(with_axes(graph, variables, aligned.axes, options), gap=aligned.gap, request_record=asked)


def between_layers(graph: Graph, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The utility that budgets choose by: comparable magnitudes. In a dry run on shapes all neurons are alike."""
    alike = {axis: np.ones(size) for axis, size in graph.ties.sizes.items()}
    return comparable(graph, magnitude(graph, variables) or alike)


def unproven(mutation: Mutation, gap: str) -> Mutation:
    """A mutation that a time limit cut short, and says so."""
    return replace(mutation, notes=(*mutation.notes, f"not proven to be the best: {gap}"))


def with_axes(graph: Graph, variables: Mapping[str, Any], axes: Mapping[str, AxisPlan], options: Options) -> Mutation:
    """What an alignment has decided, carried out: the graph with these axes, and its variables."""
    strategy, ties = options.strategy, graph.ties
    plan = Plan(axes, {path: leaf.axes for path, leaf in ties.leaves.items()}, rescaled=rescaled(ties.leaves))
    after = with_sizes(graph, {name: axis.after for name, axis in axes.items()}, options.layer_keywords)
    return Mutation(
        graph=after,
        variables=strategy.finished(after, plan, transfer(plan, ties.leaves, variables, strategy, options.rng)),
        plan=plan,
        before=graph,
        variables_before=variables,
        undo_records=(UndoRecord.of(plan, variables, ties.leaves, strategy.copies),),
        incomparable=_incomparable(graph, plan, options),
    )


def rescaled(leaves: Mapping[Path, Leaf]) -> dict[Path, int]:
    """The leaves that follow the root of a size, with the dimension."""
    return {path: leaf.rescaled for path, leaf in leaves.items() if leaf.rescaled is not None}


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
            if named.isdisjoint(_names_of_output(graph, v.name))
        }
    return frozen


def _names_of_output(graph: Graph, name: str) -> set[str]:
    """What a request may call an output: the vertex, or, if there is but one, the axis inside a vertex that makes it.

    The last layer of an imported model is such an axis. Where several are the same neurons (the layers that add to a
    residual stream), none of them means the output.
    """
    axes = graph.ties.axes
    same = [axis for axis, row in axes.items() if row == axes[name] and axis not in graph and axis[0] != "~"]
    return {name, *same} if len(same) == 1 else {name}


def _incomparable(graph: Graph, plan: Plan, options: Options) -> str | None:
    """Why the new network may compute something else even where neurons were only added."""
    grows = any(axis.new.size for axis in plan.axes.values())
    if grows and not options.strategy.keeps_function:
        return f"new={options.new!r} need not keep the function"
    if options.strategy.copies and any(plan.axes[vertex.name].new.size for vertex in graph.inputs):
        return "an input was split, so that the inputs of the new network are others"
    return None
