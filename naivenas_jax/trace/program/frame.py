"""What an analysis finds out about the values of one evaluation of a jaxpr."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
from jax.extend import core as jex

from naivenas_jax.jaxpr.interpret import Atom, Equation
from naivenas_jax.sizes.vector import Vector
from naivenas_jax.trace.program.value import Dim, Value, constant


class Entries(NamedTuple):
    """The neurons that a constant has entries for, where an equation reads it.

    Attributes:
      dims: for each dimension its neurons; None: the constant is read as it is.
      reads: the dimensions on which it reads the neurons of activations. New ones are read with 0 there; elsewhere they
        have the entries of the neurons that they are like.
    """

    dims: tuple[Dim, ...]
    reads: frozenset[int]


@dataclass(frozen=True, eq=False)
class Frame:
    """The values of one evaluation of a jaxpr. A jaxpr that is called twice has two frames.

    Attributes:
      jaxpr: what is evaluated.
      values: what is known of each of its variables.
      inner: for each call, loop and branch the frames of the jaxprs inside, in the order of their analysis.
      picked: for equations that read or write at known positions the neurons there, per dimension of the operand.
      notes: what the rule of an equation has to remember until the equation is bound again.
      constants: for equations that read constants with an entry per neuron these, by the number of the operand.
    """

    jaxpr: jex.Jaxpr
    values: dict[jex.Var, Value] = field(default_factory=dict)
    inner: dict[jex.JaxprEqn, list[Frame]] = field(default_factory=dict)
    picked: dict[jex.JaxprEqn, tuple[Dim, ...]] = field(default_factory=dict)
    notes: dict[jex.JaxprEqn, object] = field(default_factory=dict)
    constants: dict[jex.JaxprEqn, dict[int, Entries]] = field(default_factory=dict)

    def read(self, atom: Atom | jex.Var | jex.Literal) -> Value:
        """What is known of an operand."""
        return self.values[atom] if isinstance(atom, jex.Var) else constant(atom.val)

    def operand(self, eqn: Equation, number: int) -> Value:
        """What is known of an operand of an equation: of a constant with the neurons that it has entries for."""
        value, entries = self.read(eqn.invars[number]), self.constants.get(eqn, {}).get(number)
        if entries is None:
            return value
        return replace(
            value, dims=tuple(a if a is not None else b for a, b in zip(value.dims, entries.dims, strict=True))
        )

    def enter(self, eqn: Equation, jaxpr: jex.Jaxpr) -> Frame:
        """A new frame, for a jaxpr inside an equation of this one."""
        child = Frame(jaxpr)
        self.inner.setdefault(eqn, []).append(child)
        return child

    def every(self) -> Iterator[Frame]:
        """This frame and all frames inside, outer ones first."""
        yield self
        for children in self.inner.values():
            for child in children:
                yield from child.every()

    def around(self, inner: Frame) -> list[jex.JaxprEqn] | None:
        """The equations of this frame and of those inside that a frame lies in, outer ones first; None: in none."""
        if inner is self:
            return []
        for eqn, children in self.inner.items():
            for child in children:
                if (within := child.around(inner)) is not None:
                    return [eqn, *within]
        return None

    def cut(self) -> Iterator[tuple[Dim, ...]]:
        """The neurons that constants have entries for, in this frame."""
        for operands in self.constants.values():
            yield from (entries.dims for entries in operands.values())

    def vectors(self) -> dict[Vector, None]:
        """The neurons on all dimensions of all values, in this frame and those inside; each once."""
        found: dict[Vector, None] = {}
        for frame in self.every():
            dims = (*(value.dims for value in frame.values.values()), *frame.picked.values(), *frame.cut())
            found.update(dict.fromkeys(dim for own in dims for dim in own if dim is not None))
        return found


class NamedValue(NamedTuple):
    """A value that the model has a name for.

    Attributes:
      value: what is known of it.
      aval: its shape and dtype.
      frame: where it is computed.
      eqn: the equation of the frame that names it.
    """

    value: Value
    aval: jax.core.ShapedArray
    frame: Frame
    eqn: Equation

    def before(self, other: NamedValue) -> bool:
        """Whether it is known in the frame of the other one when that is named."""
        eqns = self.frame.jaxpr.eqns
        return self.frame is other.frame and eqns.index(self.eqn) <= eqns.index(other.eqn)
