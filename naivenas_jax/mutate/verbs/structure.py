"""Changes of structure: `insert_vertex`, `remove_vertex`, `create_edge`, `remove_edge`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Unpack

from naivenas_jax.checks import as_whole
from naivenas_jax.errors import StructureError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.graph.vertices.arithmetic import Elementwise
from naivenas_jax.graph.vertices.stack import Concat
from naivenas_jax.mutate.around.keywords import EditKeywords
from naivenas_jax.mutate.around.verb import verb
from naivenas_jax.mutate.edit.draft import Draft, Slot, StandIn
from naivenas_jax.mutate.edit.model_edits import connect_inside, insert_inside, model_at, remove_inside
from naivenas_jax.mutate.edit.realign import realign
from naivenas_jax.mutate.request.edit_arguments import added_by, readers_of, reconnected, vertex_of
from naivenas_jax.mutate.request.options import Options
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.transfer.new_neurons.strategy import New
from naivenas_jax.typing import Variables


@verb
def insert_vertex(
    graph: Graph,
    variables: Variables,
    after: str,
    make: Callable[[Vertex], Vertex],
    *,
    outputs: Iterable[str] | None = None,
    new: New = "identity",
    **keywords: Unpack[EditKeywords],
) -> Mutation:
    """Insert what ``make`` builds between a vertex and those that read it.

    Args:
      graph: the network.
      variables: its variables.
      after: name of the vertex to insert after; inside an imported model the path of a module. What is inserted there
        gets the width of its place, and its variables lie beside those of the model.
      make: gets that vertex and returns a new one that reads it, directly or through further new vertices.
      outputs: the readers of ``after`` that shall read the new vertex instead; default: all of them, and if ``after``
        is an output of the graph, the new vertex becomes that output.
      new: what variables of the inserted layers start at. Default "identity": each layer passes its input on, so that
        the function is kept; layers that cannot (an activation, a normalisation over neurons) do what they do. "init":
        their own initialisers; else as for `delta_nout`.
      **keywords: ``align``, see `EditKeywords`; the others as for `delta_nout`.

    Returns:
      A `Mutation`; unpacks to the new graph and its variables.

    Raises:
      UnknownNameError: if there is no vertex or module of that name.
      StructureError: if ``make`` returns no new vertex, or ``outputs`` names one that does not read ``after``.
      DuplicateNameError: if the name of a new vertex is taken.
      InfeasibleError: if the new vertex has another width than the readers expect, and no sizes satisfy all ties.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(4), x)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> mutation = nas.insert_vertex(graph, variables, "hidden", lambda v: nas.layer("between", nn.Dense(6), v))
    >>> mutation.graph.nin("out"), mutation.aligned, mutation.check(jax.numpy.ones((2, 3))).compared
    ((6,), 'grow', True)
    """
    if where := model_at(graph, after):
        if outputs is not None:
            raise StructureError(
                f"{after!r} is a module inside {where.vertex.name!r}, where everything that reads it reads what is "
                "inserted; outputs= is for vertices."
            )
        insert = partial(insert_vertex, variables={}, after=after, make=make, new=new, **keywords)
        return insert_inside(graph, variables, where, after, insert)
    source = vertex_of(graph, after)
    last, added = added_by(graph, source, make)
    readers = readers_of(graph, after, outputs)
    draft = Draft.of(graph).with_vertices(added)
    stand = StandIn(f"~{after}", source.nout, after)  # equally wide or not, the new neurons are others
    draft = draft.with_slots(
        {
            name: tuple(Slot(last.name, stand) if slot.source == after else slot for slot in draft.slots[name])
            for name in readers
        }
    )
    if outputs is None:
        draft = replace(draft, outputs=tuple(last.name if name == after else name for name in draft.outputs))
    how = "identity" if new is None else new
    kept = isinstance(how, str) and how == "identity"
    return realign(
        graph,
        variables,
        draft,
        Options.of(keywords, None if kept else new),
        created_as=how,
        comparable=kept,
    )


@verb
def remove_vertex(
    graph: Graph,
    variables: Variables,
    name: str,
    *,
    reconnect: str | Iterable[str] = "all",
    new: New = None,
    **keywords: Unpack[EditKeywords],
) -> Mutation:
    """Remove a vertex.

    Args:
      graph: the network.
      variables: its variables.
      name: of the vertex; inside an imported model the path of a module. What read it then reads what it took in (of
        several arrays the first), and variables that nothing depends on any more are left out.
      reconnect: "all": what read the vertex reads all of its inputs instead; "none": it reads nothing instead, which
        takes readers that can do with one input less; or the names of the inputs that it shall read.
      new: what parameters of new neurons start at, as for `delta_nout`.
      **keywords: ``align``, see `EditKeywords`; the others as for `delta_nout`.

    Returns:
      A `Mutation`; unpacks to the new graph and its variables.

    Raises:
      UnknownNameError: if there is no vertex or module of that name.
      StructureError: if the vertex is an input or output of the graph, or a reader cannot take the inputs.
      InfeasibleError: if no sizes satisfy all ties afterwards.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(5), x)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> mutation = nas.remove_vertex(graph, variables, "hidden")
    >>> mutation.variables["params"]["out"]["kernel"].shape, mutation.aligned
    ((3, 2), 'shrink')
    """
    if where := model_at(graph, name):
        if reconnect != "all":
            raise StructureError(
                f"{name!r} is a module inside {where.vertex.name!r}: what reads it reads what it took in. Other ways "
                f"to reconnect are for vertices; found reconnect={reconnect!r}."
            )
        return remove_inside(graph, variables, where, name, Options.of(keywords, new))
    vertex = vertex_of(graph, name)
    if vertex in graph.inputs or vertex in graph.outputs:
        end = "input" if vertex in graph.inputs else "output"
        raise StructureError(
            f"{name!r} is an {end} of the graph and cannot be removed. Build a graph with other {end}s instead: "
            "nas.Graph(inputs, outputs)."
        )
    inputs = reconnected(vertex, reconnect)
    draft = Draft.of(graph)
    changes = {}
    for reader in dict.fromkeys(graph.outputs_of(name)):
        parts = [_in_place_of(graph, vertex, inputs, reader) if s.source == name else (s,) for s in draft.slots[reader]]
        changes[reader] = _checked_slots(graph[reader], tuple(slot for part in parts for slot in part), name)
    ops = {key: op for key, op in draft.ops.items() if key != name}
    slots = {key: value for key, value in {**draft.slots, **changes}.items() if key != name}
    return realign(graph, variables, replace(draft, ops=ops, slots=slots), Options.of(keywords, new))


def _in_place_of(graph: Graph, removed: Vertex, inputs: tuple[Vertex, ...], reader: str) -> tuple[Slot, ...]:
    """The slots that take the place of one slot which read ``removed``."""
    stacked = isinstance(graph[reader].op, Concat)
    if not inputs:  # a concatenation loses the neurons of the slot, a sum just a summand
        gone = StandIn(f"~{removed.name}>{reader}", removed.nout, removed.name)
        return (Slot(None, gone),) if stacked else ()
    if stacked and sum(source.nout for source in inputs) == removed.nout:
        return tuple(Slot(source.name) for source in inputs)
    slots = []
    for i, source in enumerate(inputs):
        width = removed.nout if i == 0 or not stacked else 0
        stand = StandIn(f"~{removed.name}.{i}", width, removed.name if width else None)
        slots.append(Slot(source.name, None if width == source.nout else stand))
    return tuple(slots)


def _checked_slots(reader: Vertex, slots: tuple[Slot, ...], removed: str) -> tuple[Slot, ...]:
    final = sum(slot.source is not None for slot in slots)
    if final == 0 or (final != len(reader.inputs) and not reader.op.variadic):
        raise StructureError(
            f"Without {removed!r}, vertex {reader.name!r} would have {final} inputs, but {reader.op.describe()} takes "
            f"{'at least one' if reader.op.variadic else len(reader.inputs)}. Remove {reader.name!r} first, or name "
            "the inputs to read: reconnect=."
        )
    return slots


@verb
def create_edge(
    graph: Graph,
    variables: Variables,
    source: str,
    target: str,
    *,
    position: int | None = None,
    new: New = None,
    **keywords: Unpack[EditKeywords],
) -> Mutation:
    """Let ``target`` read ``source`` as well. It may read it already.

    Args:
      graph: the network.
      variables: its variables.
      source: name of the vertex to read.
      target: name of a vertex that takes any number of inputs: a concatenation, a sum or a product. Inside an imported
        model both are paths of modules: what ``source`` returns is added to what ``target`` takes in.
      position: among the inputs of ``target``; default: the last.
      new, **keywords: as for `remove_vertex`.

    Returns:
      A `Mutation`; unpacks to the new graph and its variables.

    Raises:
      UnknownNameError: if there is no vertex or module of one of the names.
      StructureError: if the edge would close a loop, or ``target`` takes a fixed number of inputs.
      InfeasibleError: if no sizes satisfy all ties afterwards (a size cycle).

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> a, b = nas.layer("a", nn.Dense(4), x), nas.layer("b", nn.Dense(5), x)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.concat("cat", a, b)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> nas.create_edge(graph, variables, "a", "cat", position=0).graph.nin("cat")
    (4, 4, 5)
    """
    if where := model_at(graph, source, target):
        if position is not None:
            raise StructureError(
                f"{target!r} is a module inside {where.vertex.name!r}: what {source!r} returns is added to what it "
                f"takes in, whose position is given by the model. Found position={position!r}."
            )
        return connect_inside(graph, variables, where, source, target, Options.of(keywords, new))
    vertex, producer = vertex_of(graph, target), vertex_of(graph, source)
    if not vertex.op.variadic:
        raise StructureError(
            f"{target!r} ({vertex.op.describe()}) takes exactly {len(vertex.inputs)} inputs. Only concatenations, sums "
            "and products take further ones; insert one before it with nas.insert_vertex."
        )
    at = len(vertex.inputs) if position is None else as_whole(position)
    if at is None or not 0 <= at <= len(vertex.inputs):
        raise StructureError(
            f"position of the new edge to {target!r} must be 0 to {len(vertex.inputs)}, found {position!r}."
        )
    width = 0 if isinstance(vertex.op, Concat) else vertex.nout
    broadcast = isinstance(vertex.op, Elementwise) and producer.nout == 1
    stand = None if broadcast or width == producer.nout else StandIn(f"~{source}>{target}", width, None)
    draft = Draft.of(graph)
    slots = list(draft.slots[target])
    slots.insert(at, Slot(source, stand))
    return realign(graph, variables, draft.with_slots({target: tuple(slots)}), Options.of(keywords, new))


@verb
def remove_edge(
    graph: Graph,
    variables: Variables,
    source: str,
    target: str,
    *,
    occurrence: int = 0,
    new: New = None,
    **keywords: Unpack[EditKeywords],
) -> Mutation:
    """Let ``target`` no longer read ``source``.

    Args:
      graph: the network.
      variables: its variables.
      source: name of the vertex that is read. Edges inside an imported model cannot be removed, only modules.
      target: name of the reader, which must be left with an input.
      occurrence: which of them, if ``target`` reads ``source`` more than once; 0 is the first.
      new, **keywords: as for `remove_vertex`.

    Returns:
      A `Mutation`; unpacks to the new graph and its variables.

    Raises:
      UnknownNameError: if there is no vertex of one of the names.
      StructureError: if there is no such edge, or ``target`` cannot do with one input less.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> a, b = nas.layer("a", nn.Dense(4), x), nas.layer("b", nn.Dense(5), x)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.concat("cat", a, b)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> nas.remove_edge(graph, variables, "a", "cat").graph.nin("cat")
    (5,)
    """
    if where := model_at(graph, source, target):
        raise StructureError(
            f"{source!r} and {target!r} are modules inside {where.vertex.name!r}. What their model does with a value "
            "is not removed edge by edge: remove a whole module with nas.remove_vertex, or undo the mutation that "
            "created the edge."
        )
    vertex, producer = vertex_of(graph, target), vertex_of(graph, source)
    places = [i for i, read in enumerate(vertex.inputs) if read is producer]
    which = as_whole(occurrence)
    if which is None or not 0 <= which < len(places):
        raise StructureError(
            f"{target!r} reads {source!r} {len(places)} times, so there is no occurrence {occurrence!r}. It reads: "
            f"{', '.join(graph.inputs_of(target)) or 'nothing'}."
        )
    draft = Draft.of(graph)
    slots = list(draft.slots[target])
    slots.pop(places[which])
    if isinstance(vertex.op, Concat):
        slots.insert(places[which], Slot(None, StandIn(f"~{source}>{target}", graph.nout(source), source)))
    return realign(
        graph,
        variables,
        draft.with_slots({target: _checked_slots(vertex, tuple(slots), source)}),
        Options.of(keywords, new),
    )
