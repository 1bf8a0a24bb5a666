"""A change of width: align, then carry out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from naivenas_jax.align.align import align
from naivenas_jax.align.problem.budget import Budget
from naivenas_jax.align.problem.request import Target
from naivenas_jax.align.problem.restrictions import Restrictions
from naivenas_jax.errors import TimeLimitError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.edit.carry_out import carry_out
from naivenas_jax.mutate.request.conditions import axes_of, conditions, objectives
from naivenas_jax.mutate.request.deciding_utility import deciding_utility
from naivenas_jax.mutate.request.kept_ends import kept_ends
from naivenas_jax.mutate.request.options import Options
from naivenas_jax.mutate.result.mutation import Mutation, unproven
from naivenas_jax.mutate.result.request_record import RequestRecord
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
                insertable=options.insertable(sizes),
                conditions=required,
                objectives=sums,
                budgets=budgets,
            ),
            time_limit=options.time_limit,
            grow=grow,
        )
    except TimeLimitError as error:
        raise error.then(lambda axes, gap: unproven(carry_out(graph, variables, axes, options), gap)) from error
    mutation = carry_out(graph, variables, aligned.axes, options)
    record = replace(record, kept=aligned.kept, lost=aligned.lost)
    return replace(mutation, gap=aligned.gap, request_record=record)
