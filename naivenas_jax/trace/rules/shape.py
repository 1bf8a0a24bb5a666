"""Primitives that move neurons without touching them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from naivenas_jax.sizes.blocks import Vector
from naivenas_jax.trace.analysis import Analysis, Frame, fixed_results
from naivenas_jax.trace.rebind import Sizes, bind
from naivenas_jax.trace.table import binds, ties
from naivenas_jax.trace.value import Dim, Value


def _moved(value: Value, order: Sequence[int | None], dims: Sequence[Dim]) -> Value:
    """A value whose dimensions come from those of another; None: a new dimension."""
    leaf_dims = tuple(value.leaf_dims[d] if d is not None else None for d in order) if value.leaf else ()
    return Value(tuple(dims), value.weight, value.leaf, leaf_dims)


@ties("transpose")
def transpose(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """Dimensions change places."""
    del analysis, frame
    order = eqn.params["permutation"]
    return [_moved(values[0], order, [values[0].dims[d] for d in order])]


@ties("squeeze")
def squeeze(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """Dimensions of size one go."""
    del analysis, frame
    kept = [d for d in range(len(values[0].dims)) if d not in eqn.params["dimensions"]]
    return [_moved(values[0], kept, [values[0].dims[d] for d in kept])]


@ties("expand_dims")
def expand_dims(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """Dimensions of size one come."""
    del analysis, frame
    old = iter(range(len(values[0].dims)))
    order = [None if d in eqn.params["dimensions"] else next(old) for d in range(eqn.outvars[0].aval.ndim)]
    return [_moved(values[0], order, [None if d is None else values[0].dims[d] for d in order])]


@ties("broadcast_in_dim")
def broadcast(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """A dimension along which nothing differs has neurons of its own, until it is tied to something."""
    del frame
    value, places = values[0], list(eqn.params["broadcast_dimensions"])
    old, new = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    order = [places.index(d) if d in places and old[places.index(d)] == new[d] else None for d in range(len(new))]
    dims = [analysis.new(n) if d is None else value.dims[d] for d, n in zip(order, new, strict=True)]
    return [_moved(value, order, dims)]


@binds("broadcast_in_dim")
def bind_broadcast(sizes: Sizes, frame: Frame, eqn: Any, arrays: Sequence[Any]) -> list[Any]:
    return bind(eqn, arrays, shape=sizes.result_shape(frame, eqn))


@ties("iota")
def iota(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """Numbers along one dimension, which is fixed; the same along the others."""
    del frame, values
    shape, along = eqn.params["shape"], eqn.params["dimension"]
    return [Value(tuple(None if d == along else analysis.new(n) for d, n in enumerate(shape)), True)]


@binds("iota")
def bind_iota(sizes: Sizes, frame: Frame, eqn: Any, arrays: Sequence[Any]) -> list[Any]:
    return bind(eqn, arrays, shape=sizes.result_shape(frame, eqn))


@ties("concatenate")
def concatenate(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """Neurons of the operands one after the other; the other dimensions are tied."""
    del frame
    along = eqn.params["dimension"]
    dims = list(values[0].dims)
    for value in values[1:]:
        dims = [a if d == along else analysis.tie(a, b, "it is concatenated beside an axis of fixed size")
                for d, (a, b) in enumerate(zip(dims, value.dims, strict=True))]  # fmt: skip
    parts = [value.dims[along] for value in values]
    sizes = [atom.aval.shape[along] for atom in eqn.invars]
    dims[along] = _stacked(analysis, parts, sizes)
    weight = all(value.weight for value in values)
    leaves = {value.leaf for value in values}
    if len(leaves) == 1 and weight:
        return [Value(tuple(dims), True, values[0].leaf, values[0].leaf_dims)]
    return [Value(tuple(dims), weight)]


def _stacked(analysis: Analysis, parts: list[Dim], sizes: list[int]) -> Dim:
    if all(part is None for part in parts):
        return None
    made = []
    for part, size in zip(parts, sizes, strict=True):
        if part is None:  # fixed neurons beside free ones: they have to be counted too
            part = analysis.tying.new(size)
            analysis.fix(part, "it is a fixed part of a concatenation")
        made.append(part)
    return Vector.concat(made)


@ties("split")
def split(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """Ranges of neurons go their own ways."""
    del analysis, frame
    along, dim, start, results = eqn.params["axis"], values[0].dims[eqn.params["axis"]], 0, []
    for size in eqn.params["sizes"]:
        dims = list(values[0].dims)
        dims[along] = (
            dim.cut(start, start + size) if dim is not None and size > 1 else dim and dim.cut(start, start + size)
        )
        results.append(replace(values[0], dims=tuple(dims), summed=None))
        start += size
    return results


@binds("split")
def bind_split(sizes: Sizes, frame: Frame, eqn: Any, arrays: Sequence[Any]) -> list[Any]:
    along = eqn.params["axis"]
    parts = [sizes.shape(frame.values[var], var.aval.shape)[along] for var in eqn.outvars]
    return bind(eqn, arrays, sizes=tuple(parts))


@ties("slice")
def slice_(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """A range of neurons; every k-th of them fixes the axis for now."""
    value, params, dims, before = values[0], eqn.params, [], []
    strides = params["strides"] or (1,) * len(value.dims)
    for dim, start, stop, stride in zip(
        value.dims, params["start_indices"], params["limit_indices"], strides, strict=True
    ):
        if dim is not None and stride != 1:
            analysis.fix(dim, "every k-th neuron of it is taken")
            dim = None
        if dim is None:
            dims.append(None)
            continue
        before.append(dim.cut(0, start))
        dims.append(dim.cut(start, stop))
    frame.extra[frame.position] = before
    return [replace(value, dims=tuple(dims), summed=None)]


@binds("slice")
def bind_slice(sizes: Sizes, frame: Frame, eqn: Any, arrays: Sequence[Any]) -> list[Any]:
    before = iter(frame.extra[frame.position])
    starts, stops = list(eqn.params["start_indices"]), list(eqn.params["limit_indices"])
    for d, dim in enumerate(frame.values[eqn.outvars[0]].dims):
        if dim is not None:
            starts[d] = sizes.length(next(before))
            stops[d] = starts[d] + sizes.length(dim)
    return bind(eqn, arrays, start_indices=tuple(starts), limit_indices=tuple(stops))


@ties("pad")
def pad(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """Axes that are not padded pass."""
    del frame
    dims = []
    for dim, padding in zip(values[0].dims, eqn.params["padding_config"], strict=True):
        if tuple(padding) != (0, 0, 0):
            analysis.fix(dim, "it is padded")
            dim = None
        dims.append(dim)
    return [Value(tuple(dims), values[0].weight)]


@ties("rev")
def rev(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """Reversed neuron axes are fixed for now; other axes pass."""
    del frame
    for d in eqn.params["dimensions"]:
        analysis.fix(values[0].dims[d], "it is reversed")
    dims = tuple(None if d in eqn.params["dimensions"] else dim for d, dim in enumerate(values[0].dims))
    return [replace(values[0], dims=dims, summed=None)]


@ties("random_bits", "random_seed", "random_wrap", "random_unwrap", "random_split", "random_fold_in", "threefry2x32")
def random(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """Random bits are alike along every dimension; keys are fixed."""
    del frame
    if eqn.primitive.name == "random_bits" and not values[0].dims:
        return [Value(tuple(analysis.new(n) for n in eqn.outvars[0].aval.shape))]
    for value in values:
        analysis.fix_all(value, "keys are derived from it")
    return fixed_results(eqn, values)


@binds("random_bits")
def bind_random(sizes: Sizes, frame: Frame, eqn: Any, arrays: Sequence[Any]) -> list[Any]:
    shape = sizes.result_shape(frame, eqn) if not np.shape(arrays[0]) else eqn.params["shape"]
    return bind(eqn, arrays, shape=shape)
