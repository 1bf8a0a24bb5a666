"""Finish an edit: reconcile the sizes, transfer the variables, put producers in the place of stand-ins."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from naivenas_jax.align.axis_plan import NEW, AxisPlan
from naivenas_jax.align.plan import Plan
from naivenas_jax.errors import TimeLimitError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.map_ops import with_axes
from naivenas_jax.mutate.edit.initial import initial_variables
from naivenas_jax.mutate.edit.reconcile import reconcile
from naivenas_jax.mutate.request.options import Options
from naivenas_jax.mutate.result.mutation import Mutation, then, unproven
from naivenas_jax.mutate.rules.draft import Draft
from naivenas_jax.mutate.rules.edited_graph import check_computable, check_outputs
from naivenas_jax.mutate.rules.kept_widths import held, restacked
from naivenas_jax.transfer.new_neurons.apply_plan import transfer
from naivenas_jax.transfer.new_neurons.strategy import New
from naivenas_jax.transfer.take import where_they_are
from naivenas_jax.transfer.undo import UndoRecord
from naivenas_jax.transfer.variables import flat, nested
from naivenas_jax.typing import Variables


def realign(
    graph: Graph,
    variables: Variables,
    draft: Draft,
    options: Options,
    *,
    created_as: New = "identity",
    comparable: bool = False,
) -> Mutation:
    """Align the sizes of an edited graph, transfer the variables, and put producers in the place of stand-ins.

    Args:
      graph: before the edit.
      variables: its variables.
      draft: the edit.
      options: keywords of the verb.
      created_as: what variables of inserted vertices start at.
      comparable: whether the edit itself keeps the function, so that the oracle may compare with ``graph``.
    """
    finish = partial(complete, graph, options, created_as)
    try:
        mutation = _realign_once(graph, variables, held(graph, draft), options, created_as, comparable)
    except TimeLimitError as error:
        raise error.then(lambda mutation, stop: finish(mutation)) from error
    return finish(mutation)


def complete(graph: Graph, options: Options, created_as: New, mutation: Mutation) -> Mutation:
    """Check how wide the outputs have become, and realign what reads a flatten that now stacks other positions."""
    check_outputs(graph, mutation.graph, options.free_outputs)
    draft = restacked(mutation.graph)
    if draft is None:
        return mutation
    follow_up = _realign_once(mutation.graph, mutation.variables, draft, options, created_as, False)
    return then(mutation, follow_up, "a flatten stacks another number of positions: what reads it was realigned")


def _realign_once(
    graph: Graph,
    variables: Variables,
    draft: Draft,
    options: Options,
    created_as: New,
    comparable: bool,
) -> Mutation:
    options.strategy  # noqa: B018  raises if there is none of that name, before sizes are looked for
    stands, staged = draft.stand_ins(draft.final_order()), draft.staged()
    finish = partial(_edited, graph, variables, draft, staged, options, created_as, comparable)
    try:
        axes, aligned = reconcile(graph, variables, draft, staged, stands, options)
    except TimeLimitError as error:
        raise error.then(lambda found, stop: unproven(finish(*found), stop)) from error
    return finish(axes, aligned)


def _edited(
    graph: Graph,
    variables: Variables,
    draft: Draft,
    staged: Graph,
    options: Options,
    created_as: New,
    comparable: bool,
    axes: dict[str, AxisPlan],
    aligned: str,
) -> Mutation:
    """The mutation that an edit comes down to, once the sizes are known."""
    strategy, leaves, stands = options.strategy, staged.ties.leaves, draft.stand_ins(draft.final_order())
    resized = with_axes(staged, axes, options.layer_keywords)
    final = draft.final(resized)
    check_computable(graph, final)
    inserted = [v.name for v in final.vertices if v.name not in graph]
    plan = _plan(graph, variables, staged, axes, inserted)
    fresh, identical = initial_variables(
        final,
        inserted,
        {v.name: axes[v.name].source for v in final.vertices if v.name not in inserted},
        {source: axes[name].source for name, (_, source) in stands.items() if source},
        created_as,
        options.rng,
    )
    gone = [v.name for v in graph.vertices if v.name not in final]
    own = where_they_are(fresh, variables)
    merged = nested({**flat(transfer(plan, leaves, variables, strategy, options.rng)), **own})
    return Mutation(
        graph=final,
        variables=strategy.finished(final, plan, merged),
        plan=plan,
        before=graph,
        aligned=aligned,
        notes=(f"removed: {', '.join(gone)}",) if gone else (),
        variables_before=variables,
        undo_records=(UndoRecord.of(plan, variables, leaves, strategy.copies),),
        incomparable=_incomparable(plan, comparable and identical),
    )


def _plan(graph: Graph, variables: Variables, staged: Graph, axes: Mapping[str, AxisPlan], inserted: list[str]) -> Plan:
    """The plan in terms of the old and the new variables."""
    leaves, known = staged.ties.leaves, flat(variables)
    return Plan(
        axes={name: _since(graph, name, axis, inserted) for name, axis in axes.items()},
        leaves={path: leaf.axes for path, leaf in leaves.items()},
        created=frozenset(path for path in leaves if path not in known),
        removed=frozenset(path for path in known if path not in leaves),
        rescaled=staged.ties.rescaled,
    )


def _since(graph: Graph, name: str, axis: AxisPlan, inserted: list[str]) -> AxisPlan:
    """The plan of an axis since before the edit: inserted vertices, and those that stack anew, have new neurons."""
    if name not in graph and any(
        name == vertex or name.startswith((f"{vertex}:", f"{vertex}/")) for vertex in inserted
    ):
        return AxisPlan.of(0, np.full(axis.after, NEW))
    if name in graph and graph.nout(name) != axis.before:
        return AxisPlan.of(graph.nout(name), np.full(axis.after, NEW))
    return axis


def _incomparable(plan: Plan, keeps_function: bool) -> str | None:
    if not keeps_function:
        return "the edit need not keep the function"
    if any(axis.dropped.size for axis in plan.axes.values()):
        return "the edit dropped neurons"
    return None
