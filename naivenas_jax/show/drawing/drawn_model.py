"""An imported model as boxes: its modules inside one another, and what each reads, as its traced program says.

A value comes from the boxes that have made it. Where an operation outside of all modules joins values of different
boxes, as the sum of a residual stream does, it is a box of its own.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import jax
from jax.extend import core as jex

from naivenas_jax.graph.evaluation.name_scopes import computed_in
from naivenas_jax.graph.model_vertex import Place
from naivenas_jax.jaxpr.interpret import Equation, called, closed, interpret
from naivenas_jax.paths import path_text
from naivenas_jax.show.drawing.drawing import Box, Edge, Neurons, Row
from naivenas_jax.trace.model.imported_op import ImportedOp
from naivenas_jax.trace.program.module_names import place_of
from naivenas_jax.typing import Array

#: The boxes that a value comes from.
Origin: TypeAlias = frozenset[str]

_SYMBOLS = {
    "add": "+",
    "add_any": "+",
    "sub": "−",
    "mul": "×",
    "div": "÷",
    "dot_general": "·",
    "concatenate": "concat",
    "select_n": "where",
}
_NOTHING: Origin = frozenset()


class Colouring(Protocol):
    """Which neurons are drawn alike."""

    def neurons(self, axis: str) -> tuple[Neurons, ...]:
        """The neurons on an axis of the graph."""

    def size(self, axis: str) -> int:
        """How many neurons lie on an axis of the graph."""


def model_boxes(
    op: ImportedOp, fed: Sequence[str], colours: Colouring, inside: tuple[str, ...]
) -> tuple[list[Box], list[Edge], tuple[Origin, ...]]:
    """The modules of an imported model, what they read, and where each output comes from.

    Args:
      op: the model.
      fed: the boxes of its inputs.
      colours: which neurons are drawn alike.
      inside: the vertices that it lies in.
    """
    program = op.model.base.program
    walk = _Walk(op, _leaf_modules(op.model.base.places), op.neurons_at(), op.places(), colours, inside)
    arguments = [
        frozenset((fed[role.which],)) if role.kind == "input" and isinstance(role.which, int) else _NOTHING
        for role in program.arguments
    ]
    results = walk.walk(program.closed, arguments)
    pairs = zip(program.results, results, strict=True)
    return walk.boxes, walk.edges, tuple(origin for role, origin in pairs if role.kind == "output")


def _leaf_modules(places: Iterable[Place]) -> frozenset[str]:
    """The modules that hold no others."""
    names = {place.name for place in places}
    holders = {name[:i] for name in names for i, letter in enumerate(name) if letter == "/"}
    return frozenset(names - holders)


@dataclass
class _Walk:
    """The boxes of a model, made while its program is followed."""

    op: ImportedOp
    leaves: frozenset[str]
    axes: Mapping[Place, tuple[tuple[str, ...], ...]]
    shapes: Mapping[Place, jax.ShapeDtypeStruct]
    colours: Colouring
    inside: tuple[str, ...]
    boxes: list[Box] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def walk(self, program: jex.ClosedJaxpr, arguments: Sequence[Origin]) -> list[Origin]:
        """Where the results of a program come from."""

        def constant(value: Array, aval: jax.core.AbstractValue) -> Origin:
            del value, aval
            return _NOTHING

        return interpret(program, arguments, self.equation, constant)

    def equation(self, eqn: Equation, operands: list[Origin]) -> list[Origin]:
        """Where the results of an equation come from."""
        inner = called(eqn)
        if inner is None and eqn.primitive.name == "scan":
            inner = closed(eqn.params["jaxpr"])
        if inner is not None and len(inner.jaxpr.invars) == len(operands):
            return self.walk(inner, operands)
        if eqn.primitive.name == "name":
            place = place_of(eqn.params["name"], eqn.invars[0].aval.ndim)
            if place is not None and place.end == "out" and place.name in self.leaves:
                return [self._module(place.name, operands[0])]
        return [self._joined(eqn, operands)] * len(eqn.outvars)

    def _joined(self, eqn: Equation, operands: Sequence[Origin]) -> Origin:
        """Where what an equation makes of values comes from."""
        every = _NOTHING.union(*operands)
        if any(own >= every for own in operands) or self._within_leaf(eqn):
            return every
        name = eqn.primitive.name
        read = zlib.crc32("|".join((name, *computed_in(eqn), *sorted(every))).encode())
        key = self._counted(f"~{name}{read:08x}")
        self._box(Box(key, (Row(_SYMBOLS.get(name, name)),), (*self.inside, *_within(eqn)), "operation"), every)
        return frozenset((key,))

    def _within_leaf(self, eqn: Equation) -> bool:
        return any(path in self.leaves for path in computed_in(eqn))

    def _counted(self, key: str) -> str:
        """A key that no other box has."""
        count = self.counts[key] = self.counts.get(key, 0) + 1
        return key if count == 1 else f"{key} ({count})"

    def _module(self, name: str, reads: Origin) -> Origin:
        *outer, last = name.split("/")
        key = self._counted(name)
        shown = last if key == name else f"{last}, called again"
        place = Place(name, "out")
        own = tuple(axis for axes in self.axes[place] for axis in axes)
        neurons = tuple(each for axis in own for each in self.colours.neurons(axis))
        size = "×".join(str(sum(self.colours.size(axis) for axis in axes)) for axes in self.axes[place])
        row = Row(
            shown, self._weight(name), size or str(self.shapes[place].shape[-1]), neurons, own, remark=f"module {name}"
        )
        self._box(Box(key, (row,), (*self.inside, *outer)), reads)
        return frozenset((key,))

    def _weight(self, name: str) -> str:
        """The name and the shape of the largest parameter of a module."""
        own = {path[-1]: shape for path, shape in self.op.shapes.items() if path_text(path[1:-1]) == name}
        largest = max(own, key=lambda each: math.prod(own[each]), default="")
        return f"{largest} {'×'.join(map(str, own[largest]))}" if own else ""

    def _box(self, box: Box, reads: Origin) -> None:
        self.boxes.append(box)
        self.edges += [Edge(source, box.key) for source in sorted(reads)]


def _within(eqn: Equation) -> tuple[str, ...]:
    """The modules that an equation is computed in, outermost first."""
    paths = list(computed_in(eqn))
    return tuple(paths[-1].split("/")) if paths else ()
