"""Walk a jaxpr and find out which neurons are tied."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jax.extend import core as jex

from naivenas_jax.sizes.blocks import Vector
from naivenas_jax.sizes.ties import Tying
from naivenas_jax.trace.capture import Path
from naivenas_jax.trace.rebind import bind
from naivenas_jax.trace.table import FOLDED, FROZEN, TIES
from naivenas_jax.trace.value import Dim, Known, Value, constant


@dataclass
class Frame:
    """The values of one evaluation of a jaxpr; a jaxpr that is called twice has two frames."""

    values: dict[Any, Value] = field(default_factory=dict)
    inner: dict[int, list[Frame]] = field(default_factory=dict)
    extra: dict[int, Any] = field(default_factory=dict)
    rules: dict[int, Any] = field(default_factory=dict)
    position: int = 0

    def read(self, atom: Any) -> Value:
        """What is known of an operand; literals are scalars."""
        if isinstance(atom, jex.Literal):
            return constant(atom.val)
        return self.values[atom]


@dataclass
class Analysis:
    """What the rules fill in.

    Attributes:
      tying: the ties.
      roles: dimensions of variables that are read, by path and dimension.
      indexed: those of them that are read by index.
      neutral: variables that multiply; new entries start at 1.
      quiet: inside a rule for derivatives: it ties, but what it reads or sums says nothing about the network.
      parts: ranges of neurons that are used by themselves.
    """

    tying: Tying = field(default_factory=Tying)
    roles: set[tuple[Path, int]] = field(default_factory=set)
    indexed: set[tuple[Path, int]] = field(default_factory=set)
    neutral: set[Path] = field(default_factory=set)
    quiet: bool = False
    parts: set[Vector] = field(default_factory=set)

    def walk(self, jaxpr: Any, frame: Frame, consts: Sequence[Value], arguments: Sequence[Value]) -> list[Value]:
        """Values of the results of a jaxpr."""
        frame.values.update(zip(jaxpr.constvars, consts, strict=True))
        frame.values.update(zip(jaxpr.invars, arguments, strict=True))
        for position, eqn in enumerate(jaxpr.eqns):
            frame.position = position
            operands = [frame.read(atom) for atom in eqn.invars]
            rule = TIES.get(eqn.primitive.name, unknown)
            results = rule(self, frame, eqn, operands)
            for var, value in zip(eqn.outvars, results, strict=True):
                if len(value.dims) != var.aval.ndim:
                    raise AssertionError(f"The rule of {eqn.primitive} returned {len(value.dims)} dimensions: {eqn}")
                frame.values[var] = self._settled(eqn, var, operands, value)
        return [frame.read(atom) for atom in jaxpr.outvars]

    def _settled(self, eqn: Any, var: Any, operands: Sequence[Value], value: Value) -> Value:
        """A result as others see it: a single neuron is fixed, since it is broadcast; known if the operands are."""
        shape = var.aval.shape
        if 1 in shape and any(dim is not None and n == 1 for dim, n in zip(value.dims, shape, strict=True)):
            for dim, n in zip(value.dims, shape, strict=True):
                if n == 1:
                    self.fix(dim, f"{eqn.primitive.name} takes a single neuron of it")
            value = replace(value, dims=tuple(d if n > 1 else None for d, n in zip(value.dims, shape, strict=True)))
        if eqn.primitive.name not in FOLDED or math.prod(shape) > _LARGEST:
            return value
        known = [operand.known for operand in operands]
        if any(one is None for one in known):
            return value
        number = eqn.outvars.index(var)
        compute = lambda: bind(eqn, [one.array for one in known])[number]  # type: ignore[union-attr]  # noqa: E731
        return replace(value, known=Known(compute, (*operands, value)))

    def content(self, value: Value) -> np.ndarray | None:
        """What is in an array, if it is known. The sizes that it was made with are then fixed."""
        if value.known is None:
            return None
        todo, seen = [value], set()
        while todo:
            one = todo.pop()
            self.fix_all(one, "positions of neurons are computed from it")
            if one.known is not None and id(one.known) not in seen:
                seen.add(id(one.known))
                todo += one.known.sources
        return value.known.array

    def inner(self, frame: Frame, jaxpr: Any, consts: Sequence[Value], arguments: Sequence[Value]) -> list[Value]:
        """Walk a jaxpr inside the equation that is at work."""
        child = Frame()
        frame.inner.setdefault(frame.position, []).append(child)
        return self.walk(jaxpr, child, consts, arguments)

    def new(self, size: int) -> Dim:
        """Fresh neurons for a dimension along which nothing is known to differ."""
        return self.tying.new(size) if size > 1 else None

    def part(self, dim: Dim, start: int, stop: int) -> Dim:
        """A range of the neurons of a dimension. It may not become empty, and a single neuron has to stay."""
        if dim is None:
            return None
        part = dim.cut(start, stop)
        if len(part) == 1:
            self.fix(part, "it is read by itself, at a fixed position")
            return None
        self.keep_some(part)
        return part

    def keep_some(self, part: Vector) -> None:
        """Neurons that are used by themselves may not all go."""
        if len(part) > 1 and part not in self.parts:
            self.parts.add(part)
            self.tying.called(part, f"~part{len(self.parts)}")

    def fix(self, dim: Dim, reason: str) -> None:
        """The neurons of a dimension may not change."""
        if dim is not None:
            self.tying.fix(dim, reason)

    def fix_all(self, value: Value, reason: str) -> None:
        for dim in value.dims:
            self.fix(dim, reason)

    def couple(self, dim: Dim, reason: str) -> None:
        if dim is not None and not self.quiet:
            self.tying.couple(dim, reason)

    def tie(self, a: Dim, b: Dim, reason: str) -> Dim:
        """Tie two dimensions of equal size index by index; one that is fixed fixes the other."""
        if a is None or b is None:
            self.fix(a if b is None else b, reason)
            return None
        self.tying.tie(a, b)
        return a

    def tie_all(self, a: Value, b: Value, reason: str) -> Value:
        """Tie two values dimension by dimension; what they have in common."""
        dims = tuple(self.tie(x, y, reason) for x, y in zip(a.dims, b.dims, strict=True))
        return Value(dims, a.weight and b.weight)

    def reads(self, value: Value, dim: int) -> None:
        """A weight is contracted over this dimension: there it reads neurons."""
        if value.leaf is not None and value.leaf_dims[dim] is not None and not self.quiet:
            self.roles.add((value.leaf, value.leaf_dims[dim]))  # type: ignore[arg-type]

    def indexes(self, value: Value, dim: int) -> None:
        """Entries along this dimension are looked up by index."""
        self.reads(value, dim)
        if value.leaf is not None and value.leaf_dims[dim] is not None:
            self.indexed.add((value.leaf, value.leaf_dims[dim]))  # type: ignore[arg-type]

    def multiplies(self, value: Value) -> None:
        if value.leaf is not None and not self.quiet:
            self.neutral.add(value.leaf)


#: Larger arrays are not looked into.
_LARGEST = 1 << 16


def unknown(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """Freeze what is read; nothing is known of the results."""
    del frame
    name = eqn.primitive.name
    for value in values:
        analysis.fix_all(value, f"it is read by {name}, {FROZEN.get(name, 'which is not understood')}")
    return fixed_results(eqn, values)


def fixed_results(eqn: Any, values: Sequence[Value]) -> list[Value]:
    """Results all of whose dimensions are fixed."""
    weight = all(value.weight for value in values)
    return [Value((None,) * var.aval.ndim, weight=weight) for var in eqn.outvars]


def vectors_of(frame: Frame) -> dict[Vector, None]:
    """All vectors that occur in a frame and those inside it."""
    found: dict[Vector, None] = {}
    stack = [frame]
    while stack:
        one = stack.pop()
        for value in one.values.values():
            found.update(dict.fromkeys(dim for dim in value.dims if dim is not None))
        for extra in one.extra.values():
            found.update(dict.fromkeys(dim for dim in extra if dim is not None))
        stack.extend(child for children in one.inner.values() for child in children)
    return found
