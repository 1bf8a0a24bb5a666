"""Writing into a part of an array: neurons of the update are tied to the neurons that they replace.

Known positions pick the neurons that are replaced, as in `pick`. Where positions are known only when the network runs,
both axes are fixed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from naivenas_jax.jaxpr.interpret import Equation, bind
from naivenas_jax.trace.program.analysis import Analysis, ties
from naivenas_jax.trace.program.frame import Frame
from naivenas_jax.trace.program.rebind import NewSizes, binds
from naivenas_jax.trace.program.rules.pick import first_of, pick
from naivenas_jax.trace.program.value import Dim, Lookup, Value, weight_of
from naivenas_jax.typing import Array


def _written(analysis: Analysis, dim: Dim, positions: np.ndarray | None, update: Dim, name: str) -> tuple[Dim, Dim]:
    """Tie an update to the neurons at the positions that it is written to.

    Returns:
      The dimension, and its neurons at the positions; None where they are fixed.
    """
    if positions is None:
        for one in (dim, update):
            analysis.fix(one, f"{name} writes into it at a position known only when the network runs")
        return None, None
    picked = pick(dim, positions)
    reason = f"{name} writes something of fixed size into it"
    if picked is None:
        analysis.fix(update, f"{name} writes it into an axis of fixed size")
        return None, None
    if update is None:
        analysis.fix(picked, reason)
    else:
        analysis.tie(picked, update, reason)
    return dim, picked


def _overwritten(
    operand: Value, update: Value, indices: Sequence[Value], dims: Sequence[Dim], places: Mapping[int, int]
) -> list[Value]:
    """What is known of the operand when an update has been written into it.

    Args:
      operand, update, indices: the operands.
      dims: the dimensions of the result.
      places: for dimensions of the operand the dimension of the update that lies on it.
    """
    if not all(value.weight for value in (operand, update, *indices)):
        return [Value(tuple(dims))]
    written = {d: update.origin(place) for d, place in places.items()}
    origins = [operand.origin(d) | written.get(d, frozenset()) for d in range(len(dims))]
    return [weight_of(dims, origins, [operand, update])]


@ties("dynamic_update_slice")
def dynamic_update_slice(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """A window of the operand is replaced."""
    (operand, update), starts = values[:2], values[2:]
    shapes = [atom.aval.shape for atom in eqn.invars[:2]]
    dims: list[Dim] = []
    windows: list[Dim] = []
    for d, (size, width) in enumerate(zip(*shapes, strict=True)):
        positions: np.ndarray | None = np.arange(width)
        if size != width:
            known = analysis.content(starts[d]) if operand.dims[d] or update.dims[d] else None
            positions = None if known is None else np.clip(int(known), 0, size - width) + np.arange(width)
        dim, picked = _written(analysis, operand.dims[d], positions, update.dims[d], "dynamic_update_slice")
        dims.append(dim)
        windows.append(picked if size != width else None)
    frame.picked[eqn] = tuple(windows)
    return _overwritten(operand, update, starts, dims, {d: d for d in range(len(dims))})


@binds("dynamic_update_slice")
def bind_dynamic_update_slice(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """A window begins where the first of its neurons lies now."""
    arrays, operand = list(arrays), frame.operand(eqn, 0)
    for d, picked in enumerate(frame.picked[eqn]):
        known = frame.read(eqn.invars[2 + d]).known
        dim = operand.dims[d]
        if dim is not None and picked is not None and known is not None:
            size, width = (atom.aval.shape[d] for atom in eqn.invars[:2])
            old = np.clip(int(known.array), 0, size - width) + np.arange(width)
            arrays[2 + d] = first_of(sizes.positions(dim, picked, old), eqn.invars[2 + d])
    return bind(eqn, arrays)


@ties("scatter", *(f"scatter-{how}" for how in ("add", "sub", "mul", "min", "max")))
def scatter(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """A dimension that is written whole is tied to the update, or its neurons at known positions; others are fixed."""
    operand, indices, updates = values
    name, numbers = eqn.primitive.name, eqn.params["dimension_numbers"]
    analysis.fix_all(indices, "it holds indices")
    dims: list[Dim] = [None] * len(operand.dims)
    picks: list[Dim] = [None] * len(operand.dims)
    places, lookups = _places(eqn), _lookups(eqn, indices)
    for d, dim in enumerate(operand.dims):
        place = places.get(d)
        if d in lookups and analysis.looks_up(dim, lookups[d]):
            analysis.fix(None if place is None else updates.dims[place], f"{name} writes it to a list of positions")
            dims[d] = dim
            continue
        update = None if place is None else updates.dims[place]
        positions = _positions(analysis, eqn, d, indices if dim or update else None)
        dims[d], picked = _written(analysis, dim, positions, update, name)
        picks[d] = picked if d in numbers.scatter_dims_to_operand_dims else None
    if not any(dims[d] is not None for d in lookups):
        analysis.fix_positions(indices.lookup, f"{name} writes there")
    for place in set(range(len(updates.dims))) - set(places.values()):
        analysis.fix(updates.dims[place], f"{name} writes it to several places")
    frame.picked[eqn] = tuple(picks)
    return _overwritten(operand, updates, [indices], dims, places)


def _lookups(eqn: Equation, indices: Value) -> dict[int, Lookup | None]:
    """For dimensions of the operand that are written to one entry at a time the positions, where they are known."""
    numbers, lookup = eqn.params["dimension_numbers"], indices.lookup
    axes = numbers.scatter_dims_to_operand_dims
    columns = () if lookup is None else lookup.columns or ((lookup,) if len(axes) == 1 else ())
    pairs = zip(axes, columns, strict=True) if columns else ()
    return {d: column for d, column in pairs if column is not None and d in numbers.inserted_window_dims}


def _places(eqn: Equation) -> dict[int, int]:
    """For dimensions of the operand of a scatter the dimension of the updates that lies on it."""
    numbers, ndim = eqn.params["dimension_numbers"], eqn.invars[0].aval.ndim
    windows = [d for d in range(ndim) if d not in (*numbers.inserted_window_dims, *numbers.operand_batching_dims)]
    found = dict(zip(windows, sorted(numbers.update_window_dims), strict=True))
    rest = [p for p in range(eqn.invars[2].aval.ndim) if p not in numbers.update_window_dims]
    if len(rest) == len(numbers.inserted_window_dims) == len(numbers.scatter_dims_to_operand_dims) == 1:
        found[numbers.inserted_window_dims[0]] = rest[0]  # entries at a list of positions
    return found


def _positions(analysis: Analysis, eqn: Equation, d: int, indices: Value | None) -> np.ndarray | None:
    """The positions that a scatter writes to along a dimension of the operand; None if they are not known."""
    numbers, shapes = eqn.params["dimension_numbers"], [atom.aval.shape for atom in eqn.invars]
    place, size = _places(eqn).get(d), shapes[0][d]
    if d not in numbers.scatter_dims_to_operand_dims:
        whole = place is not None and shapes[2][place] == size
        return np.arange(size) if whole else None
    known = None if indices is None else analysis.content(indices)
    if known is None or numbers.operand_batching_dims:
        return None
    start = known[..., numbers.scatter_dims_to_operand_dims.index(d)].reshape(-1).astype(np.int64)
    if d not in numbers.inserted_window_dims and place is not None and len(start) == 1:
        start = start[0] + np.arange(shapes[2][place])
    elif d not in numbers.inserted_window_dims or (place is None and len(start) != 1):
        return None
    return start if ((start >= 0) & (start < size)).all() else None


@binds("scatter", *(f"scatter-{how}" for how in ("add", "sub", "mul", "min", "max")))
def bind_scatter(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """Known positions follow the neurons."""
    arrays, operand, known = list(arrays), frame.operand(eqn, 0), frame.read(eqn.invars[1]).known
    numbers, picks = eqn.params["dimension_numbers"], frame.picked[eqn]
    if known is None or all(picked is None for picked in picks):
        return bind(eqn, arrays)
    columns = []
    for i, d in enumerate(numbers.scatter_dims_to_operand_dims):
        old, picked = known.array[..., i].reshape(-1).astype(np.int64), picks[d]
        if picked is not None:
            window = d not in numbers.inserted_window_dims
            now = sizes.positions(operand.dims[d], picked, old[0] + np.arange(len(picked)) if window else old)
            old = now[:1] if window and len(now) else np.zeros(1, np.int64) if window else now
        columns.append(old)
    count = max(map(len, columns))
    shape = tuple(count if n != 1 else 1 for n in known.array.shape[:-1])
    stacked = np.stack([np.broadcast_to(column, (count,)) for column in columns], -1)
    arrays[1] = stacked.reshape(*shape, len(columns)).astype(eqn.invars[1].aval.dtype)
    return bind(eqn, arrays)
