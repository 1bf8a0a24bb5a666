"""Walk a jaxpr and find out which neurons are tied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jax.extend import core as jex

from naivenas_jax.sizes.blocks import Vector
from naivenas_jax.sizes.ties import Tying
from naivenas_jax.trace.capture import Path
from naivenas_jax.trace.table import TIES
from naivenas_jax.trace.value import Dim, Value


@dataclass
class Frame:
    """The values of one evaluation of a jaxpr; a jaxpr that is called twice has two frames."""

    values: dict[Any, Value] = field(default_factory=dict)
    inner: dict[int, list[Frame]] = field(default_factory=dict)
    extra: dict[int, Any] = field(default_factory=dict)
    position: int = 0

    def read(self, atom: Any) -> Value:
        """What is known of an operand; literals are scalars."""
        if isinstance(atom, jex.Literal):
            return Value((None,) * atom.aval.ndim, weight=True)
        return self.values[atom]


@dataclass
class Analysis:
    """What the rules fill in.

    Attributes:
      tying: the ties.
      roles: dimensions of variables that are read, by path and dimension.
      neutral: variables that multiply; new entries start at 1.
    """

    tying: Tying = field(default_factory=Tying)
    roles: set[tuple[Path, int]] = field(default_factory=set)
    neutral: set[Path] = field(default_factory=set)

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
                frame.values[var] = value
        return [frame.read(atom) for atom in jaxpr.outvars]

    def inner(self, frame: Frame, jaxpr: Any, consts: Sequence[Value], arguments: Sequence[Value]) -> list[Value]:
        """Walk a jaxpr inside the equation that is at work."""
        child = Frame()
        frame.inner.setdefault(frame.position, []).append(child)
        return self.walk(jaxpr, child, consts, arguments)

    def new(self, size: int) -> Dim:
        """Fresh neurons for a dimension along which nothing is known to differ."""
        return self.tying.new(size) if size > 1 else None

    def fix(self, dim: Dim, reason: str) -> None:
        """The neurons of a dimension may not change."""
        if dim is not None:
            self.tying.fix(dim, reason)

    def fix_all(self, value: Value, reason: str) -> None:
        for dim in value.dims:
            self.fix(dim, reason)

    def couple(self, dim: Dim, reason: str) -> None:
        if dim is not None:
            self.tying.couple(dim, reason)

    def tie(self, a: Dim, b: Dim, reason: str) -> Dim:
        """Tie two dimensions of equal size index by index; one that is fixed fixes the other."""
        if a is None or b is None:
            self.fix(a if b is None else b, reason)
            return None
        self.tying.tie(a, b)
        return a

    def reads(self, value: Value, dim: int) -> None:
        """A weight is contracted over this dimension: there it reads neurons."""
        if value.leaf is not None and value.leaf_dims[dim] is not None:
            self.roles.add((value.leaf, value.leaf_dims[dim]))  # type: ignore[arg-type]

    def multiplies(self, value: Value) -> None:
        if value.leaf is not None:
            self.neutral.add(value.leaf)


def unknown(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """Freeze what is read; nothing is known of the results."""
    del frame
    for value in values:
        analysis.fix_all(value, f"it is read by {eqn.primitive.name}, which is not understood")
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
            found.update(dict.fromkeys(extra))
        stack.extend(child for children in one.inner.values() for child in children)
    return found
