"""Primitives that rearrange dimensions: neurons pass as they are."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from naivenas_jax.jaxpr.interpret import Equation, bind
from naivenas_jax.sizes.vector import Vector
from naivenas_jax.trace.program.analysis import Analysis, ties
from naivenas_jax.trace.program.frame import Frame
from naivenas_jax.trace.program.rebind import NewSizes, binds
from naivenas_jax.trace.program.value import Dim, Origin, Value, together, weight_of
from naivenas_jax.typing import Array


def moved(value: Value, order: Sequence[int | None], dims: Sequence[Dim]) -> Value:
    """A value with rearranged dimensions.

    Args:
      value: the value before.
      order: for each dimension now the one before; None: it is new.
      dims: the dimensions now.
    """
    origins = [frozenset() if d is None else value.origin(d) for d in order]
    moved = weight_of(dims, origins, [value]) if value.weight else Value(tuple(dims))
    return replace(moved, sums=value.sums, share=value.share)


@ties("transpose")
def transpose(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """Dimensions change places."""
    del analysis, frame
    order = eqn.params["permutation"]
    return [moved(values[0], order, [values[0].dims[d] for d in order])]


@ties("squeeze")
def squeeze(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """Dimensions of size one are removed."""
    del frame
    for d in eqn.params["dimensions"]:
        analysis.fix_single(values[0].dims[d], "squeeze")
    kept = [d for d in range(len(values[0].dims)) if d not in eqn.params["dimensions"]]
    return [moved(values[0], kept, [values[0].dims[d] for d in kept])]


@ties("expand_dims")
def expand_dims(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """Dimensions of size one are added."""
    del analysis, frame
    old = iter(range(len(values[0].dims)))
    order = [None if d in eqn.params["dimensions"] else next(old) for d in range(eqn.outvars[0].aval.ndim)]
    return [moved(values[0], order, [None if d is None else values[0].dims[d] for d in order])]


@ties("broadcast_in_dim")
def broadcast(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """A new dimension, along which all entries are equal, has neurons of its own, which are tied to nothing yet.

    A dimension of size one that is put into an array is no neuron, unless it is put where one neuron was summed.
    """
    del frame
    value, places = values[0], list(eqn.params["broadcast_dimensions"])
    old, new = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    order = [places.index(d) if d in places and old[places.index(d)] == new[d] else None for d in range(len(new))]
    for d in set(range(len(old))) - set(order):
        analysis.fix_single(value.dims[d], "broadcast_in_dim")
    filled = not old or any(each.count() == 1 for each in value.sums)
    fresh = [analysis.new(n) if d is None and (n > 1 or filled) else None for d, n in zip(order, new, strict=True)]
    dims = [own if d is None else value.dims[d] for d, own in zip(order, fresh, strict=True)]
    return [moved(value, order, dims)]


@binds("broadcast_in_dim")
def bind_broadcast(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """To the shape that the result has now."""
    return bind(eqn, arrays, shape=sizes.result_shape(frame, eqn))


@ties("iota")
def iota(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """Positions along one dimension, which is fixed; along the others all entries are equal."""
    del frame, values
    shape, along = eqn.params["shape"], eqn.params["dimension"]
    return [Value(tuple(None if d == along else analysis.new(n) for d, n in enumerate(shape)), True)]


@binds("iota")
def bind_iota(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """Of the shape that the result has now."""
    return bind(eqn, arrays, shape=sizes.result_shape(frame, eqn))


@ties("concatenate")
def concatenate(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """Neurons of the operands one after the other; the other dimensions are tied."""
    del frame
    along = eqn.params["dimension"]
    dims = list(values[0].dims)
    for value in values[1:]:
        dims = [a if d == along else analysis.tie(a, b, "it is concatenated beside an axis of fixed size")
                for d, (a, b) in enumerate(zip(dims, value.dims, strict=True))]  # fmt: skip
    parts = [value.dims[along] for value in values]
    sizes = [atom.aval.shape[along] for atom in eqn.invars]
    whole = None in parts and all(value.constant for value in values)  # computed as it was, and cut where it is read
    dims[along] = None if whole else _stacked(analysis, parts, sizes)
    return [together(dims, values)]


def _stacked(analysis: Analysis, parts: list[Dim], sizes: list[int]) -> Dim:
    """Dimensions one after the other, given with their sizes; fixed only if all of them are."""
    if all(part is None for part in parts):
        return None
    made = []
    for part, size in zip(parts, sizes, strict=True):
        if part is None:  # fixed neurons beside free ones: they have to be counted too
            if not size:
                continue
            part = analysis.tying.new(size)
            analysis.fix(part, "it is a fixed part of a concatenation")
        made.append(part)
    return Vector.concat(made)


@ties("split")
def split(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """The neurons of an axis in ranges."""
    del analysis, frame
    along, dim, start, results = eqn.params["axis"], values[0].dims[eqn.params["axis"]], 0, []
    for size in map(int, eqn.params["sizes"]):  # jnp.split gives numbers of numpy, and sizes of ties are Python's
        dims = list(values[0].dims)
        dims[along] = None if dim is None else dim.cut(start, start + size)
        results.append(replace(values[0], dims=tuple(dims), sums=()))
        start += size
    return results


@binds("split")
def bind_split(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """Each range is as long as it is now."""
    along = eqn.params["axis"]
    parts = [sizes.shape(frame.values[var], var.aval.shape)[along] for var in eqn.outvars]
    return bind(eqn, arrays, sizes=tuple(parts))


@ties("tile")
def tile(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """The neurons of an axis several times over."""
    del frame
    value, times = values[0], eqn.params["reps"]
    dims = [
        dim.tile(k) if dim is not None else analysis.new(k) if n == 1 < k else None
        for dim, k, n in zip(value.dims, times, eqn.invars[0].aval.shape, strict=True)
    ]
    return [moved(value, [d if k == 1 else None for d, k in enumerate(times)], dims)]


@binds("tile")
def bind_tile(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """An axis of size one may be repeated another number of times: all neurons of the result are equal."""
    shape, old, dims = sizes.result_shape(frame, eqn), eqn.invars[0].aval.shape, frame.read(eqn.invars[0]).dims
    reps = tuple(
        new if n == 1 and dim is None else k
        for new, n, dim, k in zip(shape, old, dims, eqn.params["reps"], strict=True)
    )
    return bind(eqn, arrays, reps=reps)


@ties("stack")
def stack(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """All operands are tied; the new dimension is fixed."""
    del frame
    tied = values[0]
    for value in values[1:]:
        tied = analysis.tie_all(tied, value, "it is stacked beside an axis of fixed size")
    order: list[int | None] = list(range(len(tied.dims)))
    order.insert(eqn.params["axis"], None)
    return [moved(together(tied.dims, values), order, [None if d is None else tied.dims[d] for d in order])]


@ties("unstack")
def unstack(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """There is one array for each neuron, so their number is fixed."""
    del frame
    value, axis = values[0], eqn.params["axis"]
    analysis.fix(value.dims[axis], "every neuron of it is used by itself")
    kept = [d for d in range(len(value.dims)) if d != axis]
    return [moved(value, kept, [value.dims[d] for d in kept])] * len(eqn.outvars)


@ties("pad")
def pad(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """Entries that are added at the ends of an axis are fixed; a pad inside of an axis, or one that cuts, fixes it."""
    del frame
    dims = []
    for dim, (low, high, inside) in zip(values[0].dims, eqn.params["padding_config"], strict=True):
        if dim is not None and (low < 0 or high < 0 or inside):
            analysis.fix(dim, "it is cut off or dilated by a pad")
            dim = None
        if dim is not None and (low or high):
            dim = _stacked(analysis, [None, dim, None], [low, len(dim), high])
        dims.append(dim)
    origins = [values[0].origin(d) for d in range(len(dims))]
    weight = all(value.weight for value in values)
    return [weight_of(dims, origins, values[:1]) if weight else Value(tuple(dims))]


@ties("reshape")
def reshape(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """Groups of old dimensions become groups of new ones with as many elements, in row-major order."""
    del frame
    order = eqn.params["dimensions"] or range(eqn.invars[0].aval.ndim)
    value, new = moved(values[0], order, [values[0].dims[d] for d in order]), eqn.outvars[0].aval.shape
    old = [eqn.invars[0].aval.shape[d] for d in order]
    dims: list[Dim] = [None] * len(new)
    origins: list[frozenset[Origin]] = [frozenset()] * len(new)
    single = {d for d, size in enumerate(old) if size == 1 and value.dims[d] is not None}
    for d, place in _places_of(single, old, new).items():
        dims[place], origins[place] = value.dims[d], value.origin(d)
        single.remove(d)
    groups = list(_groups(old, new, single))
    for d in single.difference(*(before for before, _ in groups)):
        analysis.fix_single(value.dims[d], "reshape")
    for before, after in groups:
        merged = _merge(analysis, [(value.dims[d], old[d]) for d in before])
        for d, dim in zip(after, _factor(analysis, merged, [new[d] for d in after]), strict=True):
            dims[d] = dim
            origins[d] = frozenset().union(*(value.origin(b) for b in before))
    result = weight_of(dims, origins, [value]) if value.weight else Value(tuple(dims))
    return [replace(result, sums=value.sums, share=value.share)]


@binds("reshape")
def bind_reshape(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """To the shape that the result has now."""
    return bind(eqn, arrays, new_sizes=sizes.result_shape(frame, eqn))


def _places_of(single: Collection[int], old: Sequence[int], new: Sequence[int]) -> dict[int, int]:
    """For dimensions of one neuron the new dimension of size one that they become, the last that may be it.

    That is one with as many entries before it. No entry tells such dimensions apart, and any choice is a network that
    is the same for one neuron.
    """
    found: dict[int, int] = {}
    for d in sorted(single, reverse=True):
        alike = (n for n, size in enumerate(new) if size == 1 and math.prod(new[:n]) == math.prod(old[:d]))
        place = max((n for n in alike if n not in found.values()), default=None)
        if place is not None:
            found[d] = place
    return found


def _groups(
    old: Sequence[int], new: Sequence[int], single: Collection[int] = ()
) -> Iterator[tuple[list[int], list[int]]]:
    """Match old with new dimensions from the left, few at a time.

    Dimensions of size one belong to no group, but for those of one neuron (``single``) behind dimensions that are
    merged, as in a flatten.
    """
    left = [d for d, size in enumerate(old) if size != 1]
    right = [d for d, size in enumerate(new) if size != 1]
    while left and right:
        before, after = [left.pop(0)], [right.pop(0)]
        while (a := math.prod(old[d] for d in before)) != (b := math.prod(new[d] for d in after)):
            if a < b:
                before.append(left.pop(0))
            else:
                after.append(right.pop(0))
        end = left[0] if left else len(old)
        inside = {d for d in single if before[0] < d < end} if len(before) > 1 and len(after) == 1 else set()
        yield sorted({*before, *inside}), after


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
