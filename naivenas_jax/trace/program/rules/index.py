"""Reading by index: positions that are known when the model is traced pick neurons, others fix the axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jax.lax import GatherScatterMode

from naivenas_jax.jaxpr.interpret import Equation, bind
from naivenas_jax.trace.program.analysis import Analysis, ties
from naivenas_jax.trace.program.frame import Frame
from naivenas_jax.trace.program.rebind import NewSizes, binds
from naivenas_jax.trace.program.rules.pick import pick
from naivenas_jax.trace.program.value import Dim, Lookup, Origin, Value, weight_of
from naivenas_jax.typing import Array


@ties("gather")
def gather(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """A dimension that is taken whole passes. Of one that is indexed known positions pick; it is fixed if they are not.

    The indices into an embedding table are tokens, inputs of the model: their axis of the table may change at its end.
    """
    operand, indices = values
    numbers, shape = eqn.params["dimension_numbers"], eqn.invars[0].aval.shape
    analysis.fix_all(indices, "it holds indices")
    whole, weight = _whole(eqn), operand.weight and indices.weight
    dims: list[Dim] = [None] * eqn.outvars[0].aval.ndim
    origins: list[frozenset[Origin]] = [frozenset()] * len(dims)
    offset = [d for d in range(len(shape)) if d not in (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)]
    for place, d in zip(sorted(numbers.offset_dims), offset, strict=True):
        if d in whole:
            dims[place], origins[place] = operand.dims[d], operand.origin(d)
    found = _picked(analysis, eqn, operand, indices, whole)
    if found is not None:
        place, picked = found
        frame.picked[eqn] = (picked,)
        dims[place], origins[place] = picked, operand.origin(numbers.start_index_map[0])
        return [weight_of(dims, origins, [operand]) if weight else Value(tuple(dims))]
    lookups = _lookups(eqn, whole, indices)
    for d in set(range(len(shape))) - whole:
        lookup = lookups.get(d)
        if not analysis.looks_up(operand.dims[d], lookup):
            analysis.fix(operand.dims[d], "it is read by index")
        analysis.indexes(operand.origin(d))
        if lookup is not None and lookup.over is not None:
            analysis.drawn.update(operand.origin(d))
    if not lookups:
        analysis.fix_positions(indices.lookup, "it looks up in a way that is not understood")
    for d in whole:
        analysis.made(operand.origin(d))
    return [weight_of(dims, origins, [operand]) if weight else Value(tuple(dims))]


def _whole(eqn: Equation) -> set[int]:
    """The dimensions that every index takes whole; JAX may keep indices inside, so that such a one begins at 0."""
    shape, sizes, numbers = eqn.invars[0].aval.shape, eqn.params["slice_sizes"], eqn.params["dimension_numbers"]
    inside = eqn.params["mode"] in (GatherScatterMode.CLIP, GatherScatterMode.PROMISE_IN_BOUNDS)
    moved = {d for d in numbers.start_index_map if not (inside and shape[d] > 1)} | {*numbers.operand_batching_dims}
    return {d for d in range(len(shape)) if sizes[d] == shape[d] and d not in moved}


def _lookups(eqn: Equation, whole: set[int], indices: Value) -> dict[int, Lookup | None]:
    """For the dimension on which entries are looked up one by one, if it is only one, the positions."""
    axes, sizes = eqn.params["dimension_numbers"].start_index_map, eqn.params["slice_sizes"]
    found = [(column, d) for column, d in enumerate(axes) if d not in whole]
    if indices.lookup is None or len(found) != 1 or sizes[found[0][1]] != 1:
        return {}
    ((column, d),) = found
    if len(axes) == 1:
        return {d: indices.lookup}
    return {d: indices.lookup.columns[column]} if len(indices.lookup.columns) == len(axes) else {}


def _picked(
    analysis: Analysis, eqn: Equation, operand: Value, indices: Value, whole: set[int]
) -> tuple[int, Dim] | None:
    """Where in the result the one indexed dimension lies, and its neurons; None if the positions are not known."""
    numbers = eqn.params["dimension_numbers"]
    if len(numbers.start_index_map) != 1 or tuple(numbers.collapsed_slice_dims) != tuple(numbers.start_index_map):
        return None
    (d,), shape = numbers.start_index_map, eqn.invars[1].aval.shape[:-1]
    axis = operand.dims[d]
    if axis is None or len(whole) != len(operand.dims) - 1 or sum(n != 1 for n in shape) != 1:
        return None
    known = analysis.content(indices)
    if known is None or not ((known >= 0) & (known < len(axis))).all():
        return None
    batch = [p for p in range(eqn.outvars[0].aval.ndim) if p not in numbers.offset_dims]
    place = batch[next(i for i, n in enumerate(shape) if n != 1)]
    return place, pick(axis, known.reshape(-1).astype(np.int64))


@binds("gather")
def bind_gather(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """A dimension that is taken whole is as long as it is now; known positions follow their neurons."""
    arrays, whole, numbers = list(arrays), _whole(eqn), eqn.params["dimension_numbers"]
    lengths = tuple(arrays[0].shape[d] if d in whole else n for d, n in enumerate(eqn.params["slice_sizes"]))
    known = frame.read(eqn.invars[1]).known
    (picked,) = frame.picked.get(eqn, (None,))
    if picked is not None and known is not None:
        axis = frame.operand(eqn, 0).dims[numbers.start_index_map[0]]
        assert axis is not None  # neurons were picked from it
        places = sizes.positions(axis, picked, known.array.reshape(-1).astype(np.int64))
        shape = tuple(n if n == 1 else len(places) for n in eqn.invars[1].aval.shape)
        arrays[1] = places.reshape(shape).astype(eqn.invars[1].aval.dtype)
    return bind(eqn, arrays, slice_sizes=lengths)
