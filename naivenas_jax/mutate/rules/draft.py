"""A graph that is being edited: vertices by name, and what feeds each of their slots.

While an edit is on its way, sizes disagree: a slot has weights for the old producer's neurons and gets a new producer.
Such a slot has a *stand-in* of its old width. The **staged** graph reads the stand-ins, so that every size and every
variable fits; the **final** graph reads the new producers. Sizes are aligned on the staged graph, under the condition
that each stand-in becomes as wide as the producer it stands for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter

from naivenas_jax.errors import StructureError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.op import Op
from naivenas_jax.graph.signature import Signature
from naivenas_jax.graph.source import Source
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.mutate.rules.readers import Reader, Readers


@dataclass(frozen=True)
class StandIn:
    """A source that keeps a slot's old width until sizes are aligned.

    Attributes:
      name: in the staged graph.
      width: the old width of the slot; 0 if the slot is new.
      heir_of: the old producer, whose utility its neurons have; None if there was none.
    """

    name: str
    width: int
    heir_of: str | None


@dataclass(frozen=True)
class Slot:
    """What feeds one input of a vertex: finally ``source`` (None: the slot goes away), while staged ``stand_in``."""

    source: str | None
    stand_in: StandIn | None = None

    @property
    def staged(self) -> str:
        """The name of what feeds the input while the graph is edited."""
        return self.stand_in.name if self.stand_in else str(self.source)


@dataclass(frozen=True)
class Draft:
    """Vertices by name, their slots, the names of the inputs and outputs, and the signature of an imported model."""

    ops: Mapping[str, Op]
    slots: Mapping[str, tuple[Slot, ...]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    signature: Signature | None = None

    @classmethod
    def of(cls, graph: Graph) -> Draft:
        """A graph as it is."""
        return cls(
            {v.name: v.op for v in graph.vertices},
            {v.name: tuple(Slot(source.name) for source in v.inputs) for v in graph.vertices},
            tuple(v.name for v in graph.inputs),
            tuple(v.name for v in graph.outputs),
            graph.signature,
        )

    def with_vertices(self, vertices: Iterable[Vertex]) -> Draft:
        """With further vertices."""
        added = tuple(vertices)
        ops = {**self.ops, **{v.name: v.op for v in added}}
        slots = {**self.slots, **{v.name: tuple(Slot(source.name) for source in v.inputs) for v in added}}
        return replace(self, ops=ops, slots=slots)

    def with_slots(self, changes: Mapping[str, tuple[Slot, ...]]) -> Draft:
        """With other slots of some vertices."""
        return replace(self, slots={**self.slots, **changes})

    def final_order(self) -> tuple[str, ...]:
        """The vertices of the final graph, each after those it reads.

        Raises:
          StructureError: if there is a loop.
        """
        reads = {name: [slot.source for slot in slots if slot.source] for name, slots in self.slots.items()}
        needed = _reachable(reads, (*self.inputs, *self.outputs))
        sorter = TopologicalSorter({name: [s for s in reads[name] if s in needed] for name in needed})
        try:
            return tuple(sorter.static_order())
        except CycleError as error:
            raise loop_error(reversed(error.args[1])) from error

    def stand_ins(self, order: Iterable[str]) -> dict[str, tuple[StandIn, str | None]]:
        """By name, the stand-ins that the vertices of ``order`` read, with the producer that each stands for."""
        return {
            slot.stand_in.name: (slot.stand_in, slot.source)
            for name in order
            for slot in self.slots[name]
            if slot.stand_in is not None
        }

    def staged(self) -> Graph:
        """The graph in which every size fits; what the final graph needs is kept alive by further outputs."""
        order = self.final_order()
        stands = self.stand_ins(order)
        made = {name: Vertex(name, Source(stand.width)) for name, (stand, _) in stands.items()}
        for name in order:
            made[name] = Vertex(name, self.ops[name], tuple(made[slot.staged] for slot in self.slots[name]))
        producers = [source for _, source in stands.values() if source and source not in self.outputs]
        outputs = dict.fromkeys((*self.outputs, *producers))
        signature = None if stands else self.signature  # which knows of no stand-ins
        return Graph(
            [made[name] for name in (*self.inputs, *stands)], [made[name] for name in outputs], signature=signature
        )

    def readers(self, staged: Graph) -> Readers:
        """The final graph, whose sizes need not fit yet: a slot that has a stand-in reads as many neurons as that has.

        Args:
          staged: the staged graph, whose sizes fit.
        """
        found = {}
        for name in self.final_order():
            vertex, slots = staged[name], self.slots[name]
            left = [(slot.source, width) for slot, width in zip(slots, vertex.nin, strict=True) if slot.source]
            found[name] = Reader(vertex.op, tuple(s for s, _ in left), tuple(width for _, width in left), vertex.nout)
        return found

    def final(self, aligned: Graph) -> Graph:
        """The graph that reads the producers, with the sizes that the staged graph has been given."""
        made: dict[str, Vertex] = {}
        for name in self.final_order():
            inputs = tuple(made[slot.source] for slot in self.slots[name] if slot.source)
            made[name] = Vertex(name, aligned[name].op, inputs)
        ends = ([made[name] for name in names] for names in (self.inputs, self.outputs))
        return Graph(*ends, signature=self.signature)


def _reachable(reads: Mapping[str, list[str]], ends: Iterable[str]) -> dict[str, None]:
    found: dict[str, None] = {}
    todo = list(ends)
    while todo:
        name = todo.pop()
        if name not in found:
            found[name] = None
            todo.extend(reads[name])
    return found


def loop_error(loop: Iterable[str]) -> StructureError:
    """The error about an edge that would close a loop.

    Args:
      loop: the vertices on it, in the direction of the edges; the first one is the last one, too.
    """
    return StructureError(f"The edge would close a loop: {' -> '.join(loop)}. A graph computes in one direction.")
