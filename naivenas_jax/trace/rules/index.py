"""Reading and writing at positions that are known only when the network runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from naivenas_jax.trace.analysis import Analysis, Frame, unknown
from naivenas_jax.trace.rebind import Sizes, bind
from naivenas_jax.trace.table import binds, ties
from naivenas_jax.trace.value import Value


@ties("gather")
def gather(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """Dimensions that are taken whole pass; those that are indexed are fixed, unless an embedding reads them.

    Into an embedding table the indices are tokens, whose number is fixed as the model's inputs are.
    """
    operand, indices = values
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if numbers.operand_batching_dims or numbers.start_indices_batching_dims:
        return unknown(analysis, frame, eqn, values)
    shape = eqn.invars[0].aval.shape
    analysis.fix_all(indices, "it holds indices")
    whole = {d for d in range(len(shape)) if sizes[d] == shape[d] and d not in numbers.start_index_map}
    for d in set(range(len(shape))) - whole:
        analysis.fix(operand.dims[d], "it is read by index")
        analysis.reads(operand, d)
    offset = [d for d in range(len(shape)) if d not in numbers.collapsed_slice_dims]
    dims: list[Any] = [None] * eqn.outvars[0].aval.ndim
    for place, d in zip(numbers.offset_dims, offset, strict=True):
        dims[place] = operand.dims[d] if d in whole else None
    return [Value(tuple(dims))]


@binds("gather")
def bind_gather(sizes: Sizes, frame: Frame, eqn: Any, arrays: Sequence[Any]) -> list[Any]:
    operand, old = frame.read(eqn.invars[0]), eqn.params["slice_sizes"]
    new = tuple(
        n if dim is None else arrays[0].shape[d] for d, (dim, n) in enumerate(zip(operand.dims, old, strict=True))
    )
    del sizes
    return bind(eqn, arrays, slice_sizes=new)


@ties("dynamic_slice")
def dynamic_slice(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """Dimensions that are taken whole pass, the others are fixed."""
    del frame
    operand, shape, sizes = values[0], eqn.invars[0].aval.shape, eqn.params["slice_sizes"]
    dims = []
    for dim, old, new in zip(operand.dims, shape, sizes, strict=True):
        if old != new:
            analysis.fix(dim, "a part of it is read at a position known only when the network runs")
        dims.append(dim if old == new else None)
    return [Value(tuple(dims), operand.weight)]


@binds("dynamic_slice")
def bind_dynamic_slice(sizes: Sizes, frame: Frame, eqn: Any, arrays: Sequence[Any]) -> list[Any]:
    return bind(eqn, arrays, slice_sizes=sizes.result_shape(frame, eqn))


@ties("dynamic_update_slice")
def dynamic_update_slice(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """Dimensions that are written whole are tied, the others are fixed."""
    del frame
    operand, update = values[0], values[1]
    dims = []
    for d, (a, b) in enumerate(zip(operand.dims, update.dims, strict=True)):
        if eqn.invars[0].aval.shape[d] == eqn.invars[1].aval.shape[d]:
            dims.append(analysis.tie(a, b, "it is written into an axis of fixed size"))
            continue
        for dim in (a, b):
            analysis.fix(dim, "a part of it is written at a position known only when the network runs")
        dims.append(None)
    return [Value(tuple(dims))]
