"""Elementwise primitives: the i-th neuron of every operand is tied to the i-th of the result."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.jaxpr.elementwise_primitives import ELEMENTWISE
from naivenas_jax.jaxpr.interpret import Equation, bind
from naivenas_jax.trace.program.analysis import Analysis, ties, unknown
from naivenas_jax.trace.program.frame import Frame
from naivenas_jax.trace.program.lookups import OneHot, WrapSize
from naivenas_jax.trace.program.means import TermCount, scaled
from naivenas_jax.trace.program.rebind import NewSizes, binds
from naivenas_jax.trace.program.value import Dim, Sum, Value, weight_of
from naivenas_jax.typing import Array

_MULTIPLYING = ("mul", "div", "rsqrt", "sqrt", "pow", "log", "integer_pow")


@ties(*ELEMENTWISE)
def elementwise(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """Tie all operands dimension by dimension; scalars, and dimensions of size one, are broadcast."""
    name = eqn.primitive.name
    if name == "eq" and (found := _one_hot(analysis, frame, eqn, values)):
        return [found]
    if name in _MULTIPLYING:
        for value in values:
            analysis.multiplies(value)
    shapes = [atom.aval.shape for atom in eqn.invars]
    dims = tuple(
        _tied(analysis, [(v.dims[d], s[d]) for v, s in zip(values, shapes, strict=True) if s], size, name)
        for d, size in enumerate(eqn.outvars[0].aval.shape)
    )
    weight = all(value.weight for value in values)
    result = _weight(dims, values, shapes, eqn.outvars[0].aval.shape) if weight else Value(dims)
    return [scaled(frame, eqn, values, result)]


def _one_hot(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> Value | None:
    """Positions that are compared with all positions, one after the other: a dimension of the neurons they are of."""
    result = eqn.outvars[0].aval.shape
    for number, lookup in enumerate(value.lookup for value in values):
        every, shapes = values[1 - number], [atom.aval.shape for atom in eqn.invars]
        long = [d for d, n in enumerate(shapes[1 - number]) if n != 1]
        if lookup is None or len(long) != 1 or shapes[number] != (*result[: long[0]], 1, *result[long[0] + 1 :]):
            continue
        content = frame.read(eqn.invars[1 - number]).known
        known = content.array.ravel() if content else np.zeros(0)
        dim = every.dims[long[0]] or analysis.tying.new(result[long[0]])
        if np.array_equal(known, np.arange(len(dim))) and analysis.looks_up(dim, lookup):
            frame.notes[eqn] = OneHot(1 - number, long[0], dim)
            return Value(tuple(dim if d == long[0] else one for d, one in enumerate(values[number].dims)))
    for value in values:
        analysis.fix_positions(value.lookup, "eq compares it")
    return None


@binds("eq")
def bind_one_hot(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """All positions that there are now."""
    found, arrays = frame.notes.get(eqn), list(arrays)
    if isinstance(found, OneHot):
        atom = eqn.invars[found.operand]
        shape = [1] * atom.aval.ndim
        shape[found.place] = -1
        arrays[found.operand] = np.arange(sizes.length(found.dim), dtype=atom.aval.dtype).reshape(shape)
    return bind(eqn, arrays)


def _weight(
    dims: Sequence[Dim], values: Sequence[Value], shapes: Sequence[tuple[int, ...]], shape: Sequence[int]
) -> Value:
    """A weight that is computed from others; the origins of dimensions that are broadcast are no origins of its own."""
    arrays = [(value, old) for value, old in zip(values, shapes, strict=True) if old]
    origins = [frozenset().union(*(v.origin(d) for v, old in arrays if old[d] == n)) for d, n in enumerate(shape)]
    return weight_of(dims, origins, [value for value, _ in arrays])


def _tied(analysis: Analysis, operands: list[tuple[Dim, int]], size: int, name: str) -> Dim:
    """Tie one dimension of all operands, given with its size in each; ``size`` is the size of the result."""
    for dim, n in operands:
        if n != size:
            analysis.fix_single(dim, name)
    full = [dim for dim, n in operands if n == size]
    if not full:
        return None
    tied = full[0]
    for dim in full[1:]:
        tied = analysis.tie(tied, dim, f"{name} ties it to an axis of fixed size")
    return tied


@ties("bitcast_convert_type")
def bitcast(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """Elementwise between types of the same width."""
    if eqn.invars[0].aval.shape == eqn.outvars[0].aval.shape:
        return list(elementwise(analysis, frame, eqn, values))
    return unknown(analysis, frame, eqn, values)


@binds("add")
def bind_wrapped(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """A number by which negative positions count from the end is the size that there is now."""
    found, arrays = frame.notes.get(eqn), list(arrays)
    if isinstance(found, WrapSize) and found.dim is not None:
        atom = eqn.invars[found.operand]
        arrays[found.operand] = np.asarray(sizes.length(found.dim), atom.aval.dtype)
    return bind(eqn, arrays)


@binds("div", "mul")
def bind_scaled(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """A number that counts the terms of a sum counts those that there are now."""
    found, arrays = frame.notes.get(eqn), list(arrays)
    if isinstance(found, Sum):  # a share of it
        operand = 1 if eqn.primitive.name == "div" or math.prod(eqn.invars[1].aval.shape) == 1 else 0
        found = TermCount(operand, found, 1.0 if eqn.primitive.name == "div" else -1.0)
    if isinstance(found, TermCount):
        atom = eqn.invars[found.operand]
        number, shape = found.number(sizes.count), np.shape(arrays[found.operand])
        fill = jnp.full if isinstance(number, jax.Array) else np.full
        arrays[found.operand] = fill(shape, number, atom.aval.dtype)
    return bind(eqn, arrays)
