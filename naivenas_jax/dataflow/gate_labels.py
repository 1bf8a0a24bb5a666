"""Which neurons lie where on an array that weights are computed of: labels, and what primitives make of them.

A label is the number of a neuron's gate. A neuron lies on whole dimensions of an array, so that labels are held for
the dimensions that they depend on, and not for each entry: what moves an array moves the labels of these dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from types import ModuleType
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.jaxpr.interpret import Equation, bind
from naivenas_jax.jaxpr.weight_expression import reshaped_groups
from naivenas_jax.paths import Path
from naivenas_jax.typing import Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["numbers"],
    meta_fields=["dims", "runs", "sources", "made"],
)
@dataclass(frozen=True, eq=False)
class Labels:
    """Neurons on some dimensions of an array.

    Attributes:
      numbers: for each position on the dimensions the number of the gate; -1: none. In numpy where it is known.
      dims: the dimensions, in ascending order.
      runs: what the neurons are of: labels of one neuron are of the same run.
      sources: the variables that they come from.
      made: whether neurons are gated where weights make them, as nothing reads them.
    """

    numbers: Array
    dims: tuple[int, ...]
    runs: frozenset[int]
    sources: frozenset[Path]
    made: bool = False

    def along(self, dims: Iterable[int]) -> bool:
        """Whether neurons lie on one of the dimensions."""
        return not set(dims).isdisjoint(self.dims)

    def same(self, other: Labels) -> bool:
        """Whether these may be the same neurons."""
        return self.made == other.made and not self.runs.isdisjoint(other.runs)

    def put(self, numbers: Array, dims: Sequence[int]) -> Labels:
        """The same neurons on other dimensions."""
        order = sorted(range(len(dims)), key=lambda i: dims[i])
        moved = numbers if order == list(range(len(dims))) else _of(numbers).transpose(numbers, order)
        return replace(self, numbers=moved, dims=tuple(sorted(dims)))

    def spread(self, shape: Sequence[int], dims: Sequence[int]) -> Array:
        """The numbers on more dimensions, of an array of this shape."""
        wide = [shape[d] if d in self.dims else 1 for d in dims]
        xp = _of(self.numbers)
        spread: Array = xp.broadcast_to(xp.reshape(self.numbers, wide), [shape[d] for d in dims])
        return spread


def _of(numbers: Array) -> ModuleType:
    return np if isinstance(numbers, np.ndarray) else jnp


def united(shape: Sequence[int], labels: Iterable[Labels]) -> tuple[Labels, ...]:
    """The labels of an array that is computed of several entry by entry: a neuron has one, whatever it is made of."""
    found: list[Labels] = []
    for one in labels:
        for i, other in enumerate(found):
            if one.same(other) and (one.along(other.dims)):
                dims = tuple(sorted({*one.dims, *other.dims}))
                both = [each.spread(shape, dims) for each in (other, one)]
                numbers = (np if all(isinstance(n, np.ndarray) for n in both) else jnp).maximum(*both)
                found[i] = Labels(numbers, dims, one.runs | other.runs, one.sources | other.sources, one.made)
                break
        else:
            found.append(one)
    return tuple(found)


#: What an equation makes of labels of one of its operands: (equation, labels, the operands, the number of the one).
#: None: nobody knows where the neurons are.
Rule: TypeAlias = Callable[[Equation, Labels, Sequence[Array], int], "Labels | None"]


def moved(eqn: Equation, one: Labels, arrays: Sequence[Array], number: int) -> list[Labels | None] | None:
    """The labels of each result of an equation that moves, cuts, repeats or joins arrays, as far as these tell.

    Args:
      eqn: the equation.
      one: labels of one of its operands.
      arrays: its operands.
      number: which of them has the labels.

    Returns:
      None where it is not known on which dimensions the neurons are.
    """
    name = eqn.primitive.name
    if name == "split":
        at = np.cumsum([0, *eqn.params["sizes"]])
        return [_cut(one, eqn.params["axis"], int(a), int(b)) for a, b in pairwise(at)]
    rule = _RULES.get(name)
    found = None if rule is None else rule(eqn, one, arrays, number)
    if found is None:
        return None
    return [found if n == number or name != "sort" else None for n in range(len(eqn.outvars))]


def _cut(one: Labels, dim: int, start: int, stop: int) -> Labels:
    return replace(one, numbers=one.numbers[tuple(slice(start, stop) if d == dim else slice(None) for d in one.dims)])


def _transpose(eqn: Equation, one: Labels, arrays: Sequence[Array], number: int) -> Labels:
    del arrays, number
    order = list(eqn.params["permutation"])
    return one.put(one.numbers, [order.index(d) for d in one.dims])


def _broadcast(eqn: Equation, one: Labels, arrays: Sequence[Array], number: int) -> Labels:
    del arrays, number
    to = [eqn.params["broadcast_dimensions"][d] for d in one.dims]
    numbers = _of(one.numbers).broadcast_to(one.numbers, [eqn.params["shape"][d] for d in to])
    return one.put(numbers, to)


def _expand(eqn: Equation, one: Labels, arrays: Sequence[Array], number: int) -> Labels:
    new = eqn.params["dimensions"]
    kept = [d for d in range(np.ndim(arrays[number]) + len(new)) if d not in new]
    return one.put(one.numbers, [kept[d] for d in one.dims])


def without(one: Labels, gone: Sequence[int]) -> Labels:
    """Labels of an array that lost dimensions, of which those with neurons have a single entry."""
    numbers = one.numbers
    for i in reversed([i for i, d in enumerate(one.dims) if d in gone]):
        numbers = numbers[(slice(None),) * i + (0,)]
    return one.put(numbers, [d - sum(g < d for g in gone) for d in one.dims if d not in gone])


def _squeeze(eqn: Equation, one: Labels, arrays: Sequence[Array], number: int) -> Labels:
    del arrays, number
    return without(one, eqn.params["dimensions"])


def _reshape(eqn: Equation, one: Labels, arrays: Sequence[Array], number: int) -> Labels:
    """Dimensions that become one another are taken together; where several become several, the neurons are on all."""
    before, after = np.shape(arrays[number]), eqn.outvars[0].aval.shape
    groups = [pair for pair in reshaped_groups(before, after) if one.along(pair[0])]
    numbers = one.spread(before, [d for mine, _ in groups for d in mine])
    to = [d for _, theirs in groups for d in theirs]
    numbers = _of(numbers).reshape(numbers, [after[d] for d in to])
    return _fewest(one.put(numbers, to), [theirs for _, theirs in groups if len(theirs) > 1])


def _fewest(one: Labels, groups: Iterable[Sequence[int]]) -> Labels:
    """Labels without those dimensions of each group along which they do not change, if they change along others."""
    if not isinstance(one.numbers, np.ndarray):
        return one
    for group in groups:
        same = [d for d in group if (i := one.dims.index(d)) >= 0 and _constant(one.numbers, i)]
        if len(same) < len(group):
            for d in same:
                numbers = one.numbers.take(0, one.dims.index(d))
                one = replace(one, numbers=numbers, dims=tuple(other for other in one.dims if other != d))
    return one


def _constant(numbers: np.ndarray, axis: int) -> bool:
    return bool((numbers == numbers.take([0], axis)).all())


def _slice(eqn: Equation, one: Labels, arrays: Sequence[Array], number: int) -> Labels:
    del arrays, number
    starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or (1,) * len(starts)
    return replace(one, numbers=one.numbers[tuple(slice(starts[d], limits[d], strides[d]) for d in one.dims)])


def _rev(eqn: Equation, one: Labels, arrays: Sequence[Array], number: int) -> Labels:
    del arrays, number
    back = [slice(None, None, -1 if d in eqn.params["dimensions"] else 1) for d in one.dims]
    return replace(one, numbers=one.numbers[tuple(back)])


def _tile(eqn: Equation, one: Labels, arrays: Sequence[Array], number: int) -> Labels:
    del arrays, number
    return replace(one, numbers=_of(one.numbers).tile(one.numbers, [eqn.params["reps"][d] for d in one.dims]))


def _pad(eqn: Equation, one: Labels, arrays: Sequence[Array], number: int) -> Labels | None:
    """What is padded are the dimensions of the first operand; no neurons lie there."""
    del arrays
    own = [eqn.params["padding_config"][d] for d in one.dims]
    if number or all(not any(each) for each in own):
        return None if number else one
    return replace(one, numbers=jax.lax.pad(jnp.asarray(one.numbers), jnp.asarray(-1, one.numbers.dtype), own))


def _joined(eqn: Equation, one: Labels, arrays: Sequence[Array], number: int) -> Labels:
    """What lies on the other dimensions of arrays beside one another is the same for all."""
    dim = eqn.params["dimension"]
    if dim not in one.dims:
        return one
    i, xp = one.dims.index(dim), _of(one.numbers)
    parts = [
        one.numbers if n == number else np.full([_size(array, d) for d in one.dims], -1, one.numbers.dtype)
        for n, array in enumerate(arrays)
    ]
    return replace(one, numbers=xp.concatenate(parts, i))


def _size(array: Array, dim: int) -> int:
    return int(np.shape(array)[dim])


def _stack(eqn: Equation, one: Labels, arrays: Sequence[Array], number: int) -> Labels:
    del arrays, number
    return one.put(one.numbers, [d + (d >= eqn.params["axis"]) for d in one.dims])


def _beside(eqn: Equation, one: Labels, arrays: Sequence[Array], number: int) -> Labels | None:
    """Sums along one dimension, and entries in another order there, leave the others what they are."""
    del arrays, number
    at = eqn.params["axis"] if "axis" in eqn.params else eqn.params["dimension"]
    return None if at in one.dims else one


def _dynamic_slice(eqn: Equation, one: Labels, arrays: Sequence[Array], number: int) -> Labels | None:
    shape, sizes = np.shape(arrays[0]), eqn.params["slice_sizes"]
    cut = [d for d in one.dims if sizes[d] != shape[d]]
    if number or not cut:
        return None if number else one
    starts = [arrays[1 + d] if d in cut else 0 for d in one.dims]
    return replace(one, numbers=jax.lax.dynamic_slice(one.numbers, starts, [sizes[d] for d in one.dims]))


def _updated(eqn: Equation, one: Labels, arrays: Sequence[Array], number: int) -> Labels | None:
    """What is written over lies on the same neurons as what is written, as they are one array."""
    del eqn
    shape, part = np.shape(arrays[0]), np.shape(arrays[1])
    if number != 1 or all(shape[d] == part[d] for d in one.dims):
        return one if number < 2 else None
    blank = jnp.full([shape[d] for d in one.dims], -1, one.numbers.dtype)
    starts = [arrays[2 + d] for d in one.dims]
    return replace(one, numbers=jax.lax.dynamic_update_slice(blank, jnp.asarray(one.numbers), starts))


def looked_up_dims(eqn: Equation) -> frozenset[int]:
    """The dimensions of the array along which a gather looks up entries."""
    how, shape = eqn.params["dimension_numbers"], eqn.invars[0].aval.shape
    sizes = eqn.params["slice_sizes"]
    return frozenset(d for d in how.start_index_map if sizes[d] != shape[d])


def _gather(eqn: Equation, one: Labels, arrays: Sequence[Array], number: int) -> Labels | None:
    if number:
        return None
    how = eqn.params["dimension_numbers"]
    gone = {*how.collapsed_slice_dims, *how.operand_batching_dims}
    windows = [d for d in range(np.ndim(arrays[0])) if d not in gone]
    offsets = dict(zip(windows, how.offset_dims, strict=True))
    to = {offsets[d] for d in one.dims if d in offsets}
    if one.along({*looked_up_dims(eqn), *how.operand_batching_dims}):
        to |= set(range(eqn.outvars[0].aval.ndim)) - set(how.offset_dims)
    whole = jnp.asarray(one.spread(np.shape(arrays[0]), range(np.ndim(arrays[0]))))
    (found,) = bind(eqn, [whole, arrays[1]], fill_value=None if eqn.params["fill_value"] is None else -1)
    return replace(one, numbers=found[_at_first(np.ndim(found), to)], dims=tuple(sorted(to)))


def _at_first(rank: int, dims: Iterable[int]) -> tuple[slice | int, ...]:
    """The first position on all other dimensions."""
    return tuple(slice(None) if d in set(dims) else 0 for d in range(rank))


def _scatter(eqn: Equation, one: Labels, arrays: Sequence[Array], number: int) -> Labels | None:
    """What is written over lies on the same neurons as what is written, as they are one array."""
    if number == 1:
        return None
    if number == 0:
        return one
    how, shape = eqn.params["dimension_numbers"], np.shape(arrays[0])
    gone = {*how.inserted_window_dims, *how.operand_batching_dims}
    windows = dict(zip(how.update_window_dims, [d for d in range(len(shape)) if d not in gone], strict=True))
    to = [windows.get(d) for d in one.dims]
    if any(d is None or shape[d] != np.shape(arrays[2])[e] for d, e in zip(to, one.dims, strict=True)):
        return None
    return one.put(one.numbers, [d for d in to if d is not None])


_RULES: Mapping[str, Rule] = {
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "expand_dims": _expand,
    "squeeze": _squeeze,
    "reshape": _reshape,
    "slice": _slice,
    "rev": _rev,
    "tile": _tile,
    "pad": _pad,
    "concatenate": _joined,
    "stack": _stack,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _updated,
    "gather": _gather,
    **dict.fromkeys(("scatter", "scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max"), _scatter),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "sort"), _beside),
}
