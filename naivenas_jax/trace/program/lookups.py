"""Whole numbers by which entries are looked up: where they come from, and what is done to them before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex
from jax.extend.core import JaxprEqn

from naivenas_jax.jaxpr.elementwise_primitives import PASSING
from naivenas_jax.jaxpr.interpret import Atom, Equation, called
from naivenas_jax.sizes.vector import Vector
from naivenas_jax.trace.program.value import Dim, Lookup, Value, Wrap

#: What moves whole numbers, or changes their type, and leaves each what it is.
_MOVING = frozenset(
    (
        *["reshape", "broadcast_in_dim", "squeeze", "expand_dims", "transpose", "slice", "rev", "dynamic_slice"],
        *["gather", "convert_element_type", "copy", "copy_p", "stop_gradient", "tile", "split"],
    )
)


#: What looks up by positions, or looks into a call; its rule says what becomes of them.
LOOKING = frozenset(
    (
        *["gather", "dynamic_slice", "eq", "cond", "scatter"],
        *(f"scatter-{how}" for how in ("add", "sub", "mul", "min", "max")),
    )
)


def are_values(jaxpr: jex.Jaxpr, numbers: Atom) -> bool:
    """Whether whole numbers are values of neurons, as of pictures: before anything else is done they become floats.

    Args:
      jaxpr: a program.
      numbers: one of its arguments.
    """
    moved: set[object] = {numbers}
    made = False
    for eqn in jaxpr.eqns:
        own = [i for i, atom in enumerate(eqn.invars) if not isinstance(atom, jex.Literal) and atom in moved]
        if not own:
            continue
        name, inner = eqn.primitive.name, called(eqn)
        if name == "convert_element_type" and jnp.issubdtype(eqn.params["new_dtype"], jnp.inexact):
            made = True
        elif inner is not None:
            if not all(are_values(inner.jaxpr, inner.jaxpr.invars[i]) for i in own):
                return False
            made = True
        elif (name in _MOVING and own == [0]) or (name in PASSING and len(eqn.invars) == 1):
            moved.update(eqn.outvars)
        else:
            return False
    return made and moved.isdisjoint(atom for atom in jaxpr.outvars if not isinstance(atom, jex.Literal))


def looked_up(
    notes: dict[JaxprEqn, object], eqn: Equation, operands: Sequence[Value], atoms: Sequence[Atom]
) -> Lookup | None:
    """What the result of an equation looks up, if it is whole numbers by which something can be looked up.

    JAX lets negative numbers count from the end: it adds the size of the axis to them, ``where(i < 0, i + n, i)``.

    Args:
      notes: those of the frame of the equation.
      eqn: the equation.
      operands: what is known of its operands.
      atoms: the operands.
    """
    name, given = eqn.primitive.name, [operand.lookup for operand in operands]
    if not any(given):
        return None
    if name == "concatenate" and None in given:
        return _side_by_side(eqn, given)
    if any(lookup.columns for lookup in given if lookup):
        return None
    if name in _MOVING or (name in PASSING and len(given) == 1):
        return given[0]
    if name == "add" and given.count(None) == 1:
        number = given.index(None)
        (lookup,) = (one for one in given if one)
        size = _literal(atoms[number], operands[number])
        return None if size is None or lookup.wrap else replace(lookup, wrap=Wrap(notes, eqn, number, size))
    if name in ("select_n", "concatenate", "stack"):
        cases = given[1:] if name == "select_n" else given
        return _together(cases)
    return None


def _side_by_side(eqn: Equation, given: Sequence[Lookup | None]) -> Lookup | None:
    """Positions on several axes, one column for each."""
    last = eqn.outvars[0].aval.ndim - 1
    columns = eqn.params["dimension"] == last and all(atom.aval.shape[last] == 1 for atom in eqn.invars)
    return Lookup(columns=tuple(given)) if columns else None


def _literal(atom: Atom, value: Value) -> int | None:
    """The whole number that an operand is."""
    if value.known is None or value.known.sources or not np.issubdtype(atom.aval.dtype, np.integer):
        return None
    array = value.known.array
    return int(array) if array.ndim == 0 else None


def _together(cases: Sequence[Lookup | None]) -> Lookup | None:
    """Numbers that come from either of several arrays, if all look up entries of the same axis."""
    known = [case for case in cases if case is not None]
    if len(known) < len(cases) or len({case.over for case in known}) > 1 or all(case.wrap for case in known):
        return None
    wraps = [wrap for case in known for wrap in (*case.wraps, case.wrap) if wrap]
    return replace(known[0], wrap=None, wraps=tuple(dict.fromkeys(wraps)))


def wraps_around(lookup: Lookup, dim: Dim) -> bool:
    """Whether these are positions on a dimension of this size; notes that negative ones count from its end.

    Args:
      lookup: the numbers.
      dim: the neurons on the dimension that is looked up on.
    """
    sizes = [wrap.size for wrap in lookup.wraps] + ([] if lookup.over is None else [len(lookup.over)])
    if dim is None or lookup.wrap or lookup.columns or any(size != len(dim) for size in sizes):
        return False
    for wrap in lookup.wraps:
        wrap.notes.setdefault(wrap.eqn, WrapSize(wrap.operand, dim))
    return True


@dataclass(frozen=True)
class OneHot:
    """All positions on an axis, one after the other, that a traced function compares others with.

    Attributes:
      operand: the operand of its equation that they are.
      place: the dimension that they lie on.
      dim: the neurons of the axis.
    """

    operand: int
    place: int
    dim: Vector


@dataclass(frozen=True)
class WrapSize:
    """A number in a traced function that stands for the size of an axis on which entries are looked up.

    Attributes:
      operand: the operand of its equation that the number is.
      dim: the neurons of the axis.
    """

    operand: int
    dim: Dim
