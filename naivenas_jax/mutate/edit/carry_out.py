"""Carry out what an alignment has decided."""

from __future__ import annotations

from collections.abc import Mapping

from naivenas_jax.align.axis_plan import AxisPlan
from naivenas_jax.align.plan import Plan
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.map_ops import with_sizes
from naivenas_jax.mutate.request.options import Options
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.transfer.new_neurons.apply_plan import transfer
from naivenas_jax.transfer.undo import UndoRecord
from naivenas_jax.typing import Variables


def carry_out(graph: Graph, variables: Variables, axes: Mapping[str, AxisPlan], options: Options) -> Mutation:
    """The graph with these axes, and its variables.

    Args:
      graph: the network.
      variables: its variables.
      axes: where the neurons of every axis come from.
      options: what new neurons start at, and keywords for the resize rules of layers.
    """
    strategy, ties = options.strategy, graph.ties
    plan = Plan(axes, {path: leaf.axes for path, leaf in ties.leaves.items()}, rescaled=ties.rescaled)
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


def _incomparable(graph: Graph, plan: Plan, options: Options) -> str | None:
    """Why the new network may compute something else even where neurons were only added."""
    grows = any(axis.new.size for axis in plan.axes.values())
    if grows and not options.strategy.keeps_function:
        return f"new={options.new!r} need not keep the function"
    if options.strategy.copies and any(plan.axes[vertex.name].new.size for vertex in graph.inputs):
        return "an input was split, so that the inputs of the new network are others"
    return None
