"""Where an edit changes a width as it were in passing: what reads it keeps its own until sizes are aligned."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.vertices.arithmetic import Elementwise
from naivenas_jax.graph.vertices.output_shapes import shape_of
from naivenas_jax.graph.vertices.stack import Flatten, positions_at
from naivenas_jax.mutate.rules.draft import Draft, Slot, StandIn


def held(graph: Graph, draft: Draft) -> Draft:
    """A sum or product of another width than before (it lost the only input that others were broadcast to)."""
    for name, slots in draft.slots.items():
        if name in graph and isinstance(draft.ops[name], Elementwise):
            widths = [_width(graph, slot) for slot in slots]
            if max(widths) != graph.nout(name) and 0 not in widths:
                draft = _standing_in(draft, name, graph.nout(name), graph.outputs_of(name))
    return draft


def _width(graph: Graph, slot: Slot) -> int:
    """The width of a slot while sizes are aligned; 0: not known, since its source is new."""
    if slot.stand_in:
        return slot.stand_in.width
    return graph.nout(slot.source) if slot.source in graph and slot.source else 0


def _standing_in(draft: Draft, name: str, width: int, readers: Iterable[str]) -> Draft:
    """What reads a vertex keeps its width until sizes are aligned."""
    stand = StandIn(f"~{name}", width, name)
    slots = {
        reader: tuple(Slot(s.source, stand) if s.source == name else s for s in draft.slots[reader])
        for reader in readers
        if reader in draft.slots
    }
    return draft.with_slots(slots)


def restacked(graph: Graph) -> Draft | None:
    """Where the edit has changed how many positions a flatten stacks: its readers get a stand-in of the old width."""
    draft = Draft.of(graph)
    for vertex in graph.vertices:
        if not isinstance(vertex.op, Flatten) or shape_of(vertex.inputs[0]) is None:
            continue
        positions = positions_at(vertex.inputs[0], vertex.name)
        if positions != vertex.op.positions:
            draft = replace(draft, ops={**draft.ops, vertex.name: Flatten(positions)})
            draft = _standing_in(draft, vertex.name, vertex.nout, graph.outputs_of(vertex.name))
    return None if draft == Draft.of(graph) else draft
