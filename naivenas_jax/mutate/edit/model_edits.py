"""Changes of structure inside a vertex that holds a whole model, at what its modules take in and return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from naivenas_jax.align.axis_plan import NEW, AxisPlan
from naivenas_jax.align.plan import Plan
from naivenas_jax.errors import DuplicateNameError, StructureError, TimeLimitError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.model_vertex import ModelEdit, Place
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.graph.vertices.function import immutable_vertex
from naivenas_jax.mutate.edit.initial import initial_variables
from naivenas_jax.mutate.edit.reconcile import reconcile
from naivenas_jax.mutate.edit.widths import carry_out
from naivenas_jax.mutate.request.options import Options
from naivenas_jax.mutate.result.mutation import Mutation, then
from naivenas_jax.mutate.rules.draft import Draft
from naivenas_jax.mutate.rules.model_places import ModelAt, equal_places, models_in, not_met
from naivenas_jax.paths import Path
from naivenas_jax.transfer.new_neurons.strategy import New
from naivenas_jax.transfer.take import where_they_are
from naivenas_jax.transfer.undo import UndoRecord
from naivenas_jax.transfer.variables import flat, nested
from naivenas_jax.typing import Array, PyTree, Shape, Variables

_CHANGED = "the edit need not keep the function"


def insert_inside(
    graph: Graph,
    variables: Variables,
    where: ModelAt,
    name: str,
    insert: Callable[[Graph], Mutation],
) -> Mutation:
    """Insert after a module: ``insert`` does it in a graph of one vertex that stands for the module, and its reader."""
    place = Place(name, "out")
    stand = where.source(place, name)
    small = Graph(stand, immutable_vertex("~reader", _same, stand))
    inserted = insert(small)
    piece = Graph(inserted.graph.inputs, inserted.graph["~reader"].inputs)
    edit = ModelEdit(place, (place,), piece)
    mutation = _edited(graph, variables, where, edit, inserted.variables, inserted.incomparable)
    return replace(mutation, aligned=inserted.aligned, notes=inserted.notes, gap=inserted.gap)


def _same(x: PyTree) -> PyTree:
    return x


def remove_inside(graph: Graph, variables: Variables, where: ModelAt, name: str, options: Options) -> Mutation:
    """What read a module reads what the module took in instead."""
    taken, returned = Place(name, "in"), Place(name, "out")

    def edit(graph: Graph, variables: Variables, where: ModelAt) -> Mutation:
        source = where.source(taken, name)
        return _edited(graph, variables, where, ModelEdit(returned, (taken,), Graph(source, source)), {}, _CHANGED)

    return _equal_first(graph, variables, where, (taken, returned), edit, options)


def replace_inside(
    graph: Graph,
    variables: Variables,
    where: ModelAt,
    name: str,
    make: Callable[[Vertex], Vertex],
    new: New,
    options: Options,
) -> Mutation:
    """What read a module reads what ``make`` computes of what the module took in."""
    taken, returned = Place(name, "in"), Place(name, "out")
    source, width = where.source(taken, "taken"), where.shape(returned).shape[-1]
    made = make(source)
    if made.nout != width:
        raise StructureError(
            f"{returned} has {width} neurons, what takes its place {made.nout}. Inside a model it must be as wide: "
            "change the width with nas.delta_nout, before or after."
        )
    piece = Graph(source, made)
    added, _ = initial_variables(piece, [made.name], {"taken": np.arange(source.nout)}, {}, new, options.rng)
    return _edited(graph, variables, where, ModelEdit(returned, (taken,), piece), nested(added), _CHANGED)


def connect_inside(
    graph: Graph, variables: Variables, where: ModelAt, source: str, target: str, options: Options
) -> Mutation:
    """What a module takes in is added to what another one returned before."""
    made, taken = Place(source, "out"), Place(target, "in")

    def edit(graph: Graph, variables: Variables, where: ModelAt) -> Mutation:
        old, new = where.source(taken, "taken"), where.source(made, "made")
        return _edited(
            graph, variables, where, ModelEdit(taken, (taken, made), Graph((old, new), old + new)), {}, _CHANGED
        )

    return _equal_first(graph, variables, where, (made, taken), edit, options)


def _equal_first(
    graph: Graph,
    variables: Variables,
    where: ModelAt,
    places: tuple[Place, Place],
    edit: Callable[[Graph, Variables, ModelAt], Mutation],
    options: Options,
) -> Mutation:
    """The edit, which reads the first place at the second, after the neurons there have been made equally many."""
    if problem := not_met(where, *places):
        raise problem
    one, other = (where.shape(place).shape for place in places)
    if one[-1] == other[-1]:
        return edit(graph, variables, where)
    aligned = _aligned(graph, variables, where, places, options)
    after = models_in(aligned.graph)[where.vertex.name]
    edited = replace(edit(aligned.graph, aligned.variables, after), aligned=aligned.aligned)
    return then(aligned, edited, "sizes were aligned first")


def _aligned(
    graph: Graph, variables: Variables, where: ModelAt, places: tuple[Place, Place], options: Options
) -> Mutation:
    """As many neurons at one place as at the other: the first stands in for the second."""
    draft, staged, stands = equal_places(graph, where, places)
    try:
        axes, aligned = reconcile(graph, variables, draft, staged, stands, options)
    except TimeLimitError as error:  # what was found is of the staged graph, and the edit is still to come
        raise TimeLimitError(str(error), gap=error.gap, share=error.share) from error
    kept = {axis: plan for axis, plan in axes.items() if axis in graph.ties.axes}
    return replace(carry_out(graph, variables, kept, options), aligned=aligned)


def _edited(
    graph: Graph,
    variables: Variables,
    where: ModelAt,
    edit: ModelEdit,
    added: Variables,
    incomparable: str | None,
) -> Mutation:
    """The mutation that an edit of the model's vertex makes."""
    _check_names(graph, variables, edit.piece)
    op, kept = where.op.edited(edit, variables, where_they_are(added, variables))
    draft = Draft.of(graph)
    final = replace(draft, ops={**draft.ops, where.vertex.name: op}).staged()
    before, after = flat(variables), flat(kept)
    plan = _plan(graph, final, before, after)
    gone = sorted({"/".join(path[1:-1]) for path in plan.removed})
    return Mutation(
        graph=final,
        variables=kept,
        plan=plan,
        before=graph,
        notes=(f"no longer used: {', '.join(gone)}",) if gone else (),
        variables_before=variables,
        undo_records=(UndoRecord.of(plan, variables, final.ties.leaves, False),),
        incomparable=incomparable,
    )


def _check_names(graph: Graph, variables: Variables, piece: Graph) -> None:
    """Inserted vertices lie beside the variables of the model."""
    taken = {name for collection in variables.values() if isinstance(collection, Mapping) for name in collection}
    for vertex in piece.vertices:
        if vertex not in piece.inputs and (vertex.name in taken or vertex.name in graph):
            raise DuplicateNameError(
                f"The inserted {vertex!r} needs another name: the variables or the graph have {vertex.name!r} already."
            )


def _plan(
    graph: Graph, final: Graph, before: Mapping[Path, Array | Shape], after: Mapping[Path, Array | Shape]
) -> Plan:
    """No neuron changes; what lies on inserted vertices alone is new."""
    leaves = {path: leaf.axes for path, leaf in final.ties.leaves.items()}
    new = {axis for path, axes in leaves.items() if path not in before for axis in axes}
    new -= {*graph.ties.axes, *(axis for path, axes in leaves.items() if path in before for axis in axes)}
    return Plan.identity(
        final.ties,
        axes={axis: AxisPlan.of(0, np.full(final.ties.size(axis), NEW)) for axis in new if axis is not None},
        created=frozenset(after) - frozenset(before),
        removed=frozenset(before) - frozenset(after),
    )
