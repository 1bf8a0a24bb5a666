"""Reshapes: dimensions merge into one, or one is split into several."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from jax.extend.core import JaxprEqn

from naivenas_jax.jaxpr.interpret import aval_of, bind
from naivenas_jax.sizes.vector import Vector
from naivenas_jax.trace.program.analysis import Analysis, ties
from naivenas_jax.trace.program.frame import Frame
from naivenas_jax.trace.program.rebind import NewSizes, binds
from naivenas_jax.trace.program.rules.shape import moved
from naivenas_jax.trace.program.value import Dim, Origin, Value, weight_of
from naivenas_jax.typing import Array


@ties("reshape")
def reshape(analysis: Analysis, frame: Frame, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Groups of old dimensions become groups of new ones with as many elements, in row-major order."""
    del frame
    order = eqn.params["dimensions"] or range(aval_of(eqn.invars[0]).ndim)
    value, new = moved(values[0], order, [values[0].dims[d] for d in order]), aval_of(eqn.outvars[0]).shape
    old = [aval_of(eqn.invars[0]).shape[d] for d in order]
    dims: list[Dim] = [None] * len(new)
    origins: list[frozenset[Origin]] = [frozenset()] * len(new)
    for dim, size in zip(value.dims, old, strict=True):
        if size == 1:
            analysis.fix_single(dim, "reshape")
    for before, after in _groups(old, new):
        merged = _merge(analysis, [(value.dims[d], old[d]) for d in before])
        for d, dim in zip(after, _factor(analysis, merged, [new[d] for d in after]), strict=True):
            dims[d] = dim
            origins[d] = frozenset().union(*(value.origin(b) for b in before))
    result = weight_of(dims, origins, [value]) if value.weight else Value(tuple(dims))
    return [replace(result, summed=value.summed)]


@binds("reshape")
def bind_reshape(sizes: NewSizes, frame: Frame, eqn: JaxprEqn, arrays: list[Array]) -> list[Array]:
    """To the shape that the result has now."""
    return bind(eqn, arrays, new_sizes=sizes.result_shape(frame, eqn))


def _groups(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Match old with new dimensions from the left, few at a time; those of size one belong to no group."""
    left = [d for d, size in enumerate(old) if size != 1]
    right = [d for d, size in enumerate(new) if size != 1]
    while left and right:
        before, after = [left.pop(0)], [right.pop(0)]
        while (a := math.prod(old[d] for d in before)) != (b := math.prod(new[d] for d in after)):
            if a < b:
                before.append(left.pop(0))
            else:
                after.append(right.pop(0))
        yield before, after


def _merge(analysis: Analysis, parts: list[tuple[Dim, int]]) -> Dim:
    """Several dimensions, given with their sizes, as one whose neurons are all combinations of theirs."""
    if all(dim is None for dim, _ in parts):
        return None
    return analysis.tying.blocks.product([_counted(analysis, dim, size) for dim, size in parts])


def _counted(analysis: Analysis, dim: Dim, size: int) -> Vector:
    """A dimension as a factor; one of fixed size has neurons that are fixed."""
    if dim is None:
        dim = analysis.tying.new(size)
        analysis.fix(dim, "it is a fixed axis that has been merged with a free one")
    return dim


def _factor(analysis: Analysis, dim: Dim, sizes: list[int]) -> list[Dim]:
    """One dimension as several, whose combinations its neurons are from now on."""
    if dim is None or len(sizes) == 1:
        return [dim] * len(sizes)
    return list(analysis.tying.blocks.factor(dim, sizes))
