"""A plan carried out again, on a network that is as the one was that it was made for."""

from __future__ import annotations

import numpy as np

from naivenas_jax.align.axis_plan import AxisPlan
from naivenas_jax.align.plan import Plan
from naivenas_jax.errors import PlanError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.edit.widths import carry_out
from naivenas_jax.mutate.request.options import Options
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.typing import Variables


def repeat(graph: Graph, variables: Variables, plan: Plan, options: Options) -> Mutation:
    """The change of widths that a plan says: the same sizes, and the same neurons.

    Args:
      graph: the network.
      variables: its variables.
      plan: a plan of changes of width, one or several, of a graph with the same axes.
      options: what new neurons start at, and keywords for the resize rules of layers.

    Raises:
      PlanError: if the plan is of another graph, of changes of structure, or contradicts the ties of the graph.
    """
    if plan.created or plan.removed or plan.moved or plan.renamed:
        raise PlanError(
            "A plan can be carried out again if it changes widths only, and this one makes, removes or renames "
            "parameters. Make the edits of structure again, and carry out the plans between them."
        )
    before = {name: axis.before for name, axis in plan.axes.items()}
    for name in sorted(before.keys() | graph.ties.sizes.keys(), key=lambda name: name.startswith("~")):
        if before.get(name) != graph.ties.sizes.get(name):
            raise PlanError(
                f"The plan is of another graph: its axis {name!r} has {before.get(name, 'no')} neurons, here it has "
                f"{graph.ties.sizes.get(name, 'no')}. Carry it out on the graph that its first change began with."
            )
    _check_ties(graph.ties, plan)
    mutation = carry_out(graph, variables, plan.axes, options)
    for name, size in mutation.graph.ties.sizes.items():
        if plan.axes[name].after != size:
            raise _contradiction(name, f"has {plan.axes[name].after} neurons after it, and has to have {size}")
    return mutation


def _check_ties(ties: Ties, plan: Plan) -> None:
    """Raise unless every axis keeps the same neurons of each run, and of fixed runs all."""
    kept: dict[int, bytes] = {run: np.arange(ties.run_sizes[run]).tobytes() for run in ties.fixed}
    for name, row in ties.axes.items():
        start = 0
        for run in row:
            stop = start + ties.run_sizes[run]
            if kept.setdefault(run, _kept(plan.axes[name], start, stop)) != _kept(plan.axes[name], start, stop):
                raise _contradiction(name, "keeps other neurons than what it is tied to")
            start = stop


def _kept(axis: AxisPlan, start: int, stop: int) -> bytes:
    """Which neurons of a range stay."""
    return (axis.kept[(axis.kept >= start) & (axis.kept < stop)] - start).tobytes()


def _contradiction(name: str, what: str) -> PlanError:
    return PlanError(f"The plan contradicts the ties of the graph: {name!r} {what}.")
