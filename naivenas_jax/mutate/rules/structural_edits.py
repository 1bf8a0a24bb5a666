"""Which edges may come and go, and which vertices may go: each answer is a draft, or the error that says why not.

The verbs raise such an error, and the queries of a graph say no: there is one rule for both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from naivenas_jax.checks import as_whole, shown
from naivenas_jax.errors import StructureError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.model_vertex import ModelOp
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.graph.vertices.arithmetic import Elementwise
from naivenas_jax.graph.vertices.stack import Concat
from naivenas_jax.mutate.rules.draft import Draft, Slot, StandIn, loop_error


def readable(graph: Graph, source: Vertex) -> StructureError | None:
    """Why no other vertex can read a vertex: it returns several arrays, as an imported model does."""
    if isinstance(source.op, ModelOp):
        return StructureError(
            f"{source.name!r} is an imported model as a whole, which returns all of its outputs at once: no layer "
            f"reads it. Name one of its outputs ({', '.join(graph.outputs_of(source.name))}), or a module inside."
        )
    return None


def edge_added(graph: Graph, source: Vertex, target: Vertex, position: object = None) -> Draft | StructureError:
    """The graph in which a vertex reads another one as well.

    Args:
      graph: the network.
      source: what is to be read.
      target: what is to read it.
      position: among the inputs of ``target``; None: the last.
    """
    if problem := readable(graph, source):
        return problem
    if not target.op.takes(len(target.inputs) + 1):
        return StructureError(
            f"{target.name!r} ({target.op.describe()}) takes exactly {len(target.inputs)} inputs. Only "
            "concatenations, sums, products and functions of any number of arrays (lambda *values: ...) take further "
            "ones; insert one before it with nas.insert_vertex."
        )
    way = _way(graph, target.name, source.name)
    if way:
        return loop_error((*way, target.name))
    at = len(target.inputs) if position is None else as_whole(position)
    if at is None or not 0 <= at <= len(target.inputs):
        return StructureError(
            f"position of the new edge to {target.name!r} must be 0 to {len(target.inputs)}, found {position!r}."
        )
    width = 0 if isinstance(target.op, Concat) else target.nout
    broadcast = isinstance(target.op, Elementwise) and source.nout == 1
    stand = None if broadcast or width == source.nout else StandIn(f"~{source.name}>{target.name}", width, None)
    draft = Draft.of(graph)
    slots = list(draft.slots[target.name])
    slots.insert(at, Slot(source.name, stand))
    return draft.with_slots({target.name: tuple(slots)})


def _way(graph: Graph, start: str, end: str) -> tuple[str, ...]:
    """The vertices on a way along edges from one vertex to another one; none if there is no way."""
    came_from: dict[str, str | None] = {start: None}
    todo = [start]
    while todo and end not in came_from:
        for reader in graph.outputs_of(now := todo.pop()):
            if reader not in came_from:
                came_from[reader] = now
                todo.append(reader)
    way: list[str] = []
    at = end if end in came_from else None
    while at is not None:
        way.append(at)
        at = came_from[at]
    return tuple(reversed(way))


def edge_removed(graph: Graph, source: Vertex, target: Vertex, occurrence: object = 0) -> Draft | StructureError:
    """The graph in which a vertex reads another one once less.

    Args:
      graph: the network.
      source: what is read.
      target: what reads it.
      occurrence: which of the edges between the two goes; 0 is the first.
    """
    places = [i for i, read in enumerate(target.inputs) if read is source]
    if not places:
        return StructureError(
            f"There is no edge from {source.name!r} to {target.name!r}: {target.name!r} reads {source.name!r} 0 times. "
            f"It reads: {', '.join(graph.inputs_of(target.name)) or 'nothing'}."
        )
    which = as_whole(occurrence)
    if which is None or not 0 <= which < len(places):
        several = len(places) > 1
        return StructureError(
            f"{target.name!r} reads {source.name!r} {len(places)} time{'s' * several}, so there is no occurrence "
            f"{shown(occurrence)}; it must be "
            f"{f'a whole number from 0 to {len(places) - 1}' if several else 0}."
        )
    draft = Draft.of(graph)
    slots = list(draft.slots[target.name])
    slots.pop(places[which])
    if isinstance(target.op, Concat):
        gone = StandIn(f"~{source.name}>{target.name}", source.nout, source.name)
        slots.insert(places[which], Slot(None, gone))
    return _too_few(target, slots, source.name) or draft.with_slots({target.name: tuple(slots)})


def vertex_removed(graph: Graph, vertex: Vertex, inputs: tuple[Vertex, ...]) -> Draft | StructureError:
    """The graph without a vertex.

    Args:
      graph: the network.
      vertex: what goes.
      inputs: what those read that read it.
    """
    name = vertex.name
    if vertex in graph.inputs or vertex in graph.outputs:
        end = "input" if vertex in graph.inputs else "output"
        return StructureError(
            f"{name!r} is an {end} of the graph and cannot be removed. Build a graph with other {end}s instead: "
            "nas.Graph(inputs, outputs)."
        )
    draft = Draft.of(graph)
    changes = {}
    for reader in dict.fromkeys(graph.outputs_of(name)):
        parts = [_in_place_of(graph, vertex, inputs, reader) if s.source == name else (s,) for s in draft.slots[reader]]
        slots = tuple(slot for part in parts for slot in part)
        if problem := _too_few(graph[reader], slots, name):
            return problem
        changes[reader] = slots
    ops = {key: op for key, op in draft.ops.items() if key != name}
    return replace(draft, ops=ops, slots={k: v for k, v in {**draft.slots, **changes}.items() if k != name})


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


def _too_few(reader: Vertex, slots: Iterable[Slot], removed: str) -> StructureError | None:
    """Why a reader that lost ``removed`` cannot do with its slots: none is left, or it takes a fixed number."""
    final = sum(slot.source is not None for slot in slots)
    if final > 0 and (final == len(reader.inputs) or reader.op.takes(final)):
        return None
    takes = ("more" if final else "at least one") if reader.op.variadic else len(reader.inputs)
    return StructureError(
        f"Without {removed!r}, vertex {reader.name!r} would have {final} inputs, but {reader.op.describe()} takes "
        f"{takes}. Remove {reader.name!r} first, or name the inputs to read: reconnect=."
    )
