"""Bring sizes back in line after an edit, and finish it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from naivenas_jax.align.align import align
from naivenas_jax.align.plan import NEW, AxisPlan, Plan
from naivenas_jax.align.request import Target
from naivenas_jax.errors import InfeasibleError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.rebuild import with_sizes
from naivenas_jax.graph.shapes import shape_of
from naivenas_jax.graph.stack import Flatten, positions_at
from naivenas_jax.mutate.draft import Draft, Slot, StandIn
from naivenas_jax.mutate.initial import initial_variables
from naivenas_jax.mutate.mutation import Mutation, then
from naivenas_jax.mutate.options import ALIGN, Options
from naivenas_jax.mutate.widths import ends, sizes_of
from naivenas_jax.transfer.fill import Fill, split, strategy
from naivenas_jax.transfer.undo import UndoRecord
from naivenas_jax.transfer.variables import check_variables, flat, nested, transfer
from naivenas_jax.utility.magnitude import magnitude
from naivenas_jax.utility.scores import scores


def realign(
    graph: Graph,
    variables: Mapping[str, Any],
    draft: Draft,
    options: Options,
    *,
    created_as: str | Fill = "identity",
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
    mutation = _realign_once(graph, variables, draft, options, created_as, comparable)
    restacked = _restacked(mutation.graph)
    if restacked is None:
        return mutation
    follow_up = _realign_once(mutation.graph, mutation.variables, restacked, options, created_as, False)
    return then(mutation, follow_up, "a flatten stacks another number of positions: what reads it was realigned")


def _restacked(graph: Graph) -> Draft | None:
    """Where the edit has changed how many positions a flatten stacks: its readers get a stand-in of the old width."""
    draft = Draft.of(graph)
    for vertex in graph.vertices:
        if not isinstance(vertex.op, Flatten) or shape_of(vertex.inputs[0]) is None:
            continue
        positions = positions_at(vertex.inputs[0], vertex.name)
        if positions == vertex.op.positions:
            continue
        stand = StandIn(f"~{vertex.name}", vertex.nout, vertex.name)
        slots = {
            name: tuple(Slot(s.source, stand) if s.source == vertex.name else s for s in draft.slots[name])
            for name in graph.outputs_of(vertex.name)
        }
        draft = replace(draft, ops={**draft.ops, vertex.name: Flatten(positions)}).with_slots(slots)
    return None if draft == Draft.of(graph) else draft


def _realign_once(
    graph: Graph,
    variables: Mapping[str, Any],
    draft: Draft,
    options: Options,
    created_as: str | Fill,
    comparable: bool,
) -> Mutation:
    fill = strategy(options.new)
    check_variables(graph.ties.leaves, sizes_of(graph.ties), variables)
    stands, staged = draft.stand_ins(draft.final_order()), draft.staged()
    leaves = staged.ties.leaves
    axes, aligned = _align(graph, variables, draft, staged, stands, options)
    resized = with_sizes(staged, {name: axis.after for name, axis in axes.items()})
    final = draft.final(resized)
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
    return Mutation(
        graph=final,
        variables=nested({**flat(transfer(plan, leaves, variables, fill, options.rng)), **fresh}),
        plan=plan,
        before=graph,
        aligned=aligned,
        notes=(f"removed: {', '.join(gone)}",) if gone else (),
        _variables_before=variables,
        _records=(UndoRecord.of(plan, variables, leaves, fill is split),),
        _comparable=_incomparable(plan, comparable and identical),
    )


def _plan(
    graph: Graph, variables: Mapping[str, Any], staged: Graph, axes: Mapping[str, AxisPlan], inserted: list[str]
) -> Plan:
    """The plan in terms of the old and the new variables."""
    leaves, known = staged.ties.leaves, flat(variables)
    return Plan(
        axes={name: _since(graph, name, axis, inserted) for name, axis in axes.items()},
        leaves={path: leaf.axes for path, leaf in leaves.items()},
        created=frozenset(path for path in leaves if path not in known),
        removed=frozenset(path for path in known if path not in leaves),
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


def _align(
    graph: Graph,
    variables: Mapping[str, Any],
    draft: Draft,
    staged: Graph,
    stands: Mapping[str, tuple[StandIn, str | None]],
    options: Options,
) -> tuple[dict[str, AxisPlan], str]:
    ties = staged.ties
    sizes = sizes_of(ties)
    bounds = _insertable(staged, stands, options, sizes_of(graph.ties))
    given = {} if options.utility is None else scores(options.utility, sizes_of(graph.ties))
    if not stands:
        return {axis: AxisPlan.identity(size) for axis, size in sizes.items()}, "none"
    if options.utility is None:
        given = magnitude(graph, variables)
    utility = {axis: value for axis, value in given.items() if axis in sizes and len(value) == sizes[axis]}
    for name, (stand, _) in stands.items():
        inherited = given.get(stand.heir_of) if stand.heir_of else None
        if inherited is not None and len(inherited) == stand.width:
            utility[name] = inherited
    open_ends = set(stands)
    frozen = ends(Graph(staged.inputs, [staged[n] for n in draft.outputs]), open_ends, options.free_outputs)
    errors: dict[str, InfeasibleError] = {}
    for mode in ALIGN if options.align == "auto" else (options.align,):
        wanted = _targets(mode, stands, sizes)
        if wanted is None:
            continue
        try:
            return align(
                ties,
                wanted,
                utility,
                time_limit=options.time_limit,
                frozen=frozen,
                reached=ties.reach([*stands, *(source for _, source in stands.values() if source)]),
                equal=[(name, source) for name, (_, source) in stands.items() if source],
                least=dict.fromkeys(stands, 0),
                insertable=bounds,
            ), mode if any(source and sizes[source] != stand.width for stand, source in stands.values()) else "none"
        except InfeasibleError as error:
            errors[mode] = error
    reasons = dict.fromkeys(reason for error in errors.values() for reason in error.reasons if "~" not in reason)
    raise InfeasibleError(
        _impossible(stands, sizes, list(reasons), list(errors)), tuple(_names(stands)), reasons=tuple(reasons)
    )


def _insertable(
    staged: Graph, stands: Mapping[str, tuple[StandIn, str | None]], options: Options, before: Mapping[str, int]
) -> dict[str, int]:
    """How many neurons each axis may gain.

    What a wider producer brings along is not counted on the axes that read it: the edit asks for it.
    """
    ties, sizes = staged.ties, sizes_of(staged.ties)
    bounds = options.insertable({axis: size for axis, size in sizes.items() if axis not in stands}, also=before)
    for name, (stand, source) in stands.items():
        brought = sizes[source] - stand.width if source else 0
        for axis in staged.descendants(name) if brought > 0 else ():
            bounds[axis] += brought * max((ties.axes[axis].count(run) for run in set(ties.axes[name])), default=0)
    return bounds


def _targets(
    mode: str, stands: Mapping[str, tuple[StandIn, str | None]], sizes: Mapping[str, int]
) -> tuple[Target, ...] | None:
    """What sizes a mode asks for; None if it asks for the impossible."""
    wanted: dict[str, Target] = {}
    for name, (stand, source) in stands.items():
        if source is None:
            wanted[name] = Target(name, stand.width, 0)
            continue
        if mode == "both":
            continue
        size = (max if mode == "grow" else min)(stand.width, sizes[source])
        if size < 1 or wanted.get(source, Target(source, 0, size)).wish != size:
            return None
        wanted[name] = Target(name, stand.width, size)
        wanted[source] = Target(source, sizes[source], size)
    return tuple(wanted.values())


def _names(stands: Mapping[str, tuple[StandIn, str | None]]) -> Iterator[str]:
    for stand, source in stands.values():
        yield from (name for name in (stand.heir_of, source) if name)


def _impossible(
    stands: Mapping[str, tuple[StandIn, str | None]], sizes: Mapping[str, int], reasons: list[str], tried: list[str]
) -> str:
    wanted = "; ".join(
        f"{source!r} (now {sizes[source]}) must become as wide as the place it takes (now {stand.width})"
        for stand, source in stands.values()
        if source
    )
    lines = [
        "The edit is impossible, because no sizes satisfy all ties afterwards: "
        f"{wanted or 'a slot cannot be emptied'}. The old graph stands.",
        *(f"Fixed: {reason}." for reason in reasons),
    ]
    if not reasons and "both" in tried:
        lines.append("Nothing is fixed there: some size would depend on itself (a size cycle), or not divide.")
    elif "both" not in tried:
        lines.append(f"Tried: align={', '.join(map(repr, tried)) or 'nothing'}; align='auto' tries all there is.")
    lines.append("What always works is a layer of the right width in between: nas.insert_vertex.")
    return "\n".join(lines)
