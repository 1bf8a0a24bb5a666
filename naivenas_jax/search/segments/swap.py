"""A segment of one network in the place of a segment of another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from naivenas_jax.align.axis_plan import NEW, AxisPlan
from naivenas_jax.align.plan import Dims, Plan
from naivenas_jax.errors import InfeasibleError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.map_ops import map_ops
from naivenas_jax.graph.source import Source
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.graph.vertices.output_shapes import value_of
from naivenas_jax.mutate.edit.realign import realign
from naivenas_jax.mutate.request.options import Options
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.mutate.rules.draft import Draft, Slot, StandIn
from naivenas_jax.paths import Path
from naivenas_jax.search.makers import free_name
from naivenas_jax.search.segments.segment import Segment
from naivenas_jax.sizes.condition import size
from naivenas_jax.transfer.carrying.second_parent import SecondParent
from naivenas_jax.transfer.undo import UndoRecord
from naivenas_jax.transfer.variables import as_given, flat, nested, unshared
from naivenas_jax.typing import Variables

#: While both networks are one, names of the second begin so, and its entry is called so.
_THEIRS, _ENTRY = "second network/", "second network"


@dataclass(frozen=True)
class Side:
    """A network, and the part of it that is exchanged."""

    graph: Graph
    variables: Variables
    segment: Segment


def swap(ours: Side, theirs: Side, options: Options) -> Mutation:
    """The first network with a segment of the second in the place of one of its own.

    Both are put into one graph, in which the segment of the second reads an input of its own. There the edit is one of
    edges: the segment reads the entry of the first, and what read the segment of the first reads that of the second.

    Raises:
      InfeasibleError: if no sizes satisfy all ties.
      StructureError: if the network could not be computed.
    """
    whole = _both(ours.graph, theirs.segment)
    own = {(path[0], _THEIRS + str(path[1]), *path[2:]): array for path, array in _of_segment(theirs).items()}
    variables = nested({**flat(ours.variables), **own})
    edited = _realigned(whole, variables, _draft(whole, ours, theirs), ours, theirs, options)
    names = _names(ours, theirs)
    final = map_ops(edited.graph, lambda vertex, _: vertex.op.renamed(names), names)
    # the same vertices in the same order: what they tie comes in the same order as well
    axes = dict(zip(edited.graph.ties.axes, final.ties.axes, strict=True))
    leaves = dict(zip(edited.graph.ties.leaves, final.ties.leaves, strict=True))
    plan = _plan(ours.graph, edited, axes, leaves)
    plans = plan, _from_second(theirs, ours.graph, edited, axes, leaves)
    arrays = nested({leaves[path]: array for path, array in flat(edited.variables).items()})
    after = {path: replace(leaf, axes=plan.leaves[path]) for path, leaf in final.ties.leaves.items()}
    return Mutation(
        graph=final,
        variables=as_given(unshared(arrays, ours.variables, theirs.variables), ours.variables),
        plan=plan,
        before=ours.graph,
        aligned=edited.aligned,
        notes=(f"crossover: {theirs.segment} of the second network in the place of {ours.segment}", *_renamed(names)),
        gap=edited.gap,
        variables_before=ours.variables,
        undo_records=(UndoRecord.of(plan, ours.variables, after, False),),
        incomparable="a part comes from another network",
        kind="crossover",
        second=SecondParent(theirs.variables, plans),
    )


def _both(graph: Graph, segment: Segment) -> Graph:
    """A graph with another network's segment beside it, which reads an input of its own."""
    known = value_of(segment.entry)
    shape = tuple(known.shape[1:]) if hasattr(known, "shape") else None
    dtype = str(known.dtype) if hasattr(known, "dtype") else getattr(segment.entry.op, "dtype", "float32")
    made = {segment.entry: Vertex(_ENTRY, Source(segment.entry.nout, shape, dtype))}
    names = {vertex.name: _THEIRS + vertex.name for vertex in segment.vertices}
    for vertex in segment.vertices:
        inputs = tuple(made[source] for source in vertex.inputs)
        made[vertex] = Vertex(names[vertex.name], vertex.op.renamed(names), inputs)
    return Graph([*graph.inputs, made[segment.entry]], [*graph.outputs, made[segment.last]])


def _of_segment(side: Side) -> dict[Path, object]:
    inside = {vertex.name for vertex in side.segment.vertices}
    return {path: array for path, array in flat(side.variables).items() if path[1] in inside}


def _draft(whole: Graph, ours: Side, theirs: Side) -> Draft:
    """The edit: stand-ins keep the widths at both ends of the segment until sizes are aligned."""
    draft, gone = Draft.of(whole), {vertex.name for vertex in ours.segment.vertices}
    entry, last = ours.segment.entry, ours.segment.last
    before = StandIn(f"~{_ENTRY}", theirs.segment.entry.nout, _ENTRY)
    after = StandIn(f"~{last.name}", last.nout, last.name)
    slots = {_ENTRY: Slot(entry.name, before), last.name: Slot(_THEIRS + theirs.segment.last.name, after)}
    return replace(
        draft,
        ops={name: op for name, op in draft.ops.items() if name not in {*gone, _ENTRY}},
        slots={
            name: tuple(slots.get(str(slot.source), slot) for slot in own)
            for name, own in draft.slots.items()
            if name not in {*gone, _ENTRY}
        },
        inputs=tuple(vertex.name for vertex in ours.graph.inputs),
        outputs=tuple(vertex.name for vertex in ours.graph.outputs),
    )


def _realigned(
    whole: Graph, variables: Variables, draft: Draft, ours: Side, theirs: Side, options: Options
) -> Mutation:
    """The edit with sizes that fit: if it can be the entry and the segment keep theirs, else the entry, else neither.

    Raises:
      InfeasibleError: if no sizes satisfy all ties.
    """
    entry, last = ours.segment.entry, theirs.segment.last
    stays = [size(entry.name) == entry.nout, size(_THEIRS + last.name) == last.nout]
    for kept in (stays, stays[:1]):
        try:
            return realign(whole, variables, draft, replace(options, align="both", constraints=kept))
        except InfeasibleError:
            continue
    return realign(whole, variables, draft, options)


def _names(ours: Side, theirs: Side) -> dict[str, str]:
    """What the vertices of the second network are called in the child: as there, with a number where that is taken."""
    gone = {vertex.name for vertex in ours.segment.vertices}
    taken = {vertex.name for vertex in ours.graph.vertices} - gone
    names: dict[str, str] = {}
    for vertex in theirs.segment.vertices:
        names[_THEIRS + vertex.name] = free_name(vertex.name, {*taken, *names.values()})
    return names


def _renamed(names: Mapping[str, str]) -> tuple[str, ...]:
    """A note on names that were taken."""
    other = [f"{old!r} is {new!r}" for full, new in names.items() if (old := full.removeprefix(_THEIRS)) != new]
    return (f"names that were taken: {', '.join(other)}",) if other else ()


def _plan(ours: Graph, edited: Mutation, axes: Mapping[str, str], leaves: Mapping[Path, Path]) -> Plan:
    """The plan of the edit as one from the first network: what comes from the second is new."""
    found, theirs, known = edited.plan, _axes_of_second(ours, edited), ours.ties.sizes
    new = {path for path in found.leaves if _is_theirs(path)}
    kept = {leaves[path] for path in found.leaves if path not in new}
    return Plan(
        axes={
            now: AxisPlan.of(known.get(now, 0), np.full(axis.after, NEW)) if name in theirs else axis
            for name, axis in found.axes.items()
            for now in [axes.get(name, name)]
        },
        leaves=_leaves(found, axes, leaves),
        created=frozenset(leaves[path] for path in new),
        removed=frozenset(path for path in ours.ties.leaves if path not in kept),
        rescaled={leaves[path]: dim for path, dim in found.rescaled.items()},
    )


def _from_second(
    theirs: Side, ours: Graph, edited: Mutation, axes: Mapping[str, str], leaves: Mapping[Path, Path]
) -> Plan:
    """The plan of the edit as one from the second network: all but the segment is new."""
    found, own, known = edited.plan, _axes_of_second(ours, edited), theirs.graph.ties.sizes
    moved = {leaves[path]: _bare(path) for path in found.leaves if _is_theirs(path)}
    return Plan(
        axes={
            now: axis if name in own else AxisPlan.of(known.get(now, 0), np.full(axis.after, NEW))
            for name, axis in found.axes.items()
            for now in [axes.get(name, name)]
        },
        leaves=_leaves(found, axes, leaves),
        created=frozenset(leaves[path] for path in found.leaves if not _is_theirs(path)),
        removed=frozenset(theirs.graph.ties.leaves.keys() - moved.values()),
        rescaled={leaves[path]: dim for path, dim in found.rescaled.items()},
        moved={new: old for new, old in moved.items() if new != old},
    )


def _leaves(plan: Plan, axes: Mapping[str, str], leaves: Mapping[Path, Path]) -> dict[Path, Dims]:
    """What lies on the dimensions of each variable, by the final names."""
    return {leaves[path]: tuple(axis and axes.get(axis, axis) for axis in dims) for path, dims in plan.leaves.items()}


def _is_theirs(path: Path) -> bool:
    return str(path[1]).startswith(_THEIRS)


def _bare(path: Path) -> Path:
    """The path of a variable in the second network."""
    return (path[0], str(path[1]).removeprefix(_THEIRS), *path[2:])


def _axes_of_second(ours: Graph, edited: Mutation) -> set[str]:
    """The axes of the edit whose neurons are those of the second network."""
    theirs = {name for name in edited.before.ties.axes if name not in ours.ties.axes} | {f"~{_ENTRY}"}
    return {name for name in edited.plan.axes if not theirs.isdisjoint(name.split(" => "))}
