"""Neurons picked at positions that are known when the model is traced: slices, reversal, constant indices.

The picked neurons are a `Vector` of their own. When sizes change, their positions follow from where its runs lie on the
axis. They are read with a slice where they are evenly spaced, else with a gather.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.jaxpr.interpret import Atom, Equation, bind
from naivenas_jax.sizes.vector import Vector
from naivenas_jax.trace.program.analysis import Analysis, ties
from naivenas_jax.trace.program.frame import Frame
from naivenas_jax.trace.program.rebind import NewSizes, binds
from naivenas_jax.trace.program.value import Dim, Value, together
from naivenas_jax.typing import Array


def pick(dim: Dim, positions: np.ndarray) -> Vector | None:
    """The neurons at these positions of a dimension; None if the dimension is fixed."""
    if dim is None or (len(positions) == len(dim) and (positions == np.arange(len(dim))).all()):
        return dim
    ends = [0, *(np.flatnonzero(np.diff(positions) != 1) + 1).tolist(), len(positions)]
    ranges = [(int(positions[a]), int(positions[b - 1]) + 1) for a, b in pairwise(ends) if len(positions)]
    return Vector.concat([dim.cut(start, stop) for start, stop in ranges])


def _strided(eqn: Equation, d: int) -> np.ndarray:
    """The positions that a slice takes along a dimension."""
    params = eqn.params
    strides = params["strides"] or (1,) * len(params["start_indices"])
    return np.arange(params["start_indices"][d], params["limit_indices"][d], strides[d])


@ties("slice")
def slice_(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """A range of neurons, or every k-th of a range."""
    picked = tuple(pick(dim, _strided(eqn, d)) for d, dim in enumerate(values[0].dims))
    frame.picked[eqn] = picked
    return [replace(values[0], dims=picked, known=None)]


@binds("slice")
def bind_slice(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """A slice with bounds that follow the neurons; along dimensions where they are not evenly spaced, a gather."""
    params = eqn.params
    starts, stops = list(params["start_indices"]), list(params["limit_indices"])
    strides = list(params["strides"] or (1,) * len(starts))
    irregular: list[tuple[int, np.ndarray]] = []
    for d, (dim, picked) in enumerate(zip(frame.read(eqn.invars[0]).dims, frame.picked[eqn], strict=True)):
        if picked is None or dim is None:
            continue
        places = sizes.positions(dim, picked, _strided(eqn, d))
        step = _spacing(places)
        if step is None:
            starts[d], stops[d], strides[d] = 0, arrays[0].shape[d], 1
            irregular.append((d, places))
        else:
            first, last = (int(places[0]), int(places[-1])) if len(places) else (0, -1)
            starts[d], stops[d], strides[d] = first, last + 1, step
    result = bind(eqn, arrays, start_indices=tuple(starts), limit_indices=tuple(stops), strides=tuple(strides))[0]
    for d, places in irregular:
        result = _take(result, places, d)
    return [result]


def _spacing(places: np.ndarray) -> int | None:
    """The distance between neighbours if it is positive and always the same."""
    steps = np.unique(np.diff(places))
    return 1 if not len(steps) else int(steps[0]) if len(steps) == 1 and steps[0] > 0 else None


def _take(array: Array, places: np.ndarray, axis: int) -> jax.Array:
    """The entries at known positions of an axis."""
    return jnp.take(array, places, axis=axis, mode="clip")


def first_of(places: np.ndarray, atom: Atom) -> np.ndarray:
    """Where a range begins, of the type of the operand that says so; an empty one begins at 0."""
    return np.asarray(places[0] if len(places) else 0, atom.aval.dtype)


@ties("rev")
def rev(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """The last neuron comes first."""
    turned = eqn.params["dimensions"]
    dims = tuple(
        pick(dim, np.arange(n)[::-1]) if d in turned else dim
        for d, (dim, n) in enumerate(zip(values[0].dims, eqn.invars[0].aval.shape, strict=True))
    )
    frame.picked[eqn] = dims
    return [replace(values[0], dims=dims, known=None)]


@binds("rev")
def bind_rev(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """Axes are reversed; where a run of several neurons has come in the place of one, these keep their order."""
    result, plain = arrays[0], []
    for d in eqn.params["dimensions"]:
        dim, n = frame.read(eqn.invars[0]).dims[d], eqn.invars[0].aval.shape[d]
        if dim is None:
            plain.append(d)
            continue
        places = sizes.positions(dim, frame.picked[eqn][d], np.arange(n)[::-1])
        if (np.diff(places) == -1).all():
            plain.append(d)
        else:
            result = _take(result, places, d)
    return bind(eqn, [result], dimensions=tuple(plain)) if plain else [result]


@ties("dynamic_slice")
def dynamic_slice(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """A dimension that is taken whole passes. Of others a range is picked; they are fixed if its start is not known."""
    operand, shape, sizes = values[0], eqn.invars[0].aval.shape, eqn.params["slice_sizes"]
    dims: list[Dim] = []
    for d, (dim, old, new) in enumerate(zip(operand.dims, shape, sizes, strict=True)):
        start = _start(analysis, values[1 + d], old - new) if dim is not None and old != new else None
        if start is not None:
            dim = pick(dim, np.arange(start, start + new))
        elif old != new:
            if new == 1 and analysis.looks_up(dim, values[1 + d].lookup):
                analysis.indexes(operand.origin(d))
            else:
                analysis.fix(dim, "a part of it is read at a position known only when the network runs")
            dim = None
        dims.append(dim)
    frame.picked[eqn] = tuple(dims)
    weight = all(value.weight for value in values)
    return [together(dims, [operand]) if weight else Value(tuple(dims))]


def _start(analysis: Analysis, value: Value, most: int) -> int | None:
    """The start of a range, if it is known; JAX keeps ranges inside of the array."""
    known = analysis.content(value)
    return None if known is None else int(np.clip(known, 0, most))


@binds("dynamic_slice")
def bind_dynamic_slice(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """A range follows its neurons, and begins where the first of them lies now."""
    arrays, lengths = list(arrays), list(eqn.params["slice_sizes"])
    operand = frame.operand(eqn, 0)
    for d, picked in enumerate(frame.picked[eqn]):
        dim, start = operand.dims[d], frame.read(eqn.invars[1 + d]).known
        if picked is not None and dim is not None:
            whole = lengths[d] == eqn.invars[0].aval.shape[d]
            old = 0 if whole or start is None else int(np.clip(start.array, 0, None))
            old = min(old, eqn.invars[0].aval.shape[d] - lengths[d])
            places = sizes.positions(dim, picked, np.arange(old, old + lengths[d]))
            lengths[d] = len(places)
            arrays[1 + d] = first_of(places, eqn.invars[1 + d])
    return bind(eqn, arrays, slice_sizes=tuple(lengths))
