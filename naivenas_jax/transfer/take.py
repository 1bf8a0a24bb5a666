"""One array, indexed by a plan: the step that parameters, statistics and optimizer state share.

Indexing is done with numpy on the host: the bits of every dtype are kept (a gather on an accelerator may flush
or canonicalise), and nothing is compiled, where jax would compile one gather per shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple, TypeAlias, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Int, Shaped

from naivenas_jax.align.axis_plan import NEW
from naivenas_jax.errors import PlanError
from naivenas_jax.graph.evaluation.variable_trees import is_array
from naivenas_jax.typing import Array, PyTree, Shape

#: For each dimension the old index of each new position or ``NEW``; None where the dimension stays as it is.
Sources: TypeAlias = Sequence[Int[np.ndarray, " _"] | None]
#: An array, a number, or the shape of an array.
LeafValue: TypeAlias = ArrayLike | Shape
LeafT = TypeVar("LeafT", bound=LeafValue)
HostArray: TypeAlias = Shaped[np.ndarray, "..."]


def take(array: LeafT, sources: Sources, fill: ArrayLike = 0) -> LeafT:
    """``out[i, j, ...] = array[sources[0][i], sources[1][j], ...]``, and ``fill`` where a source is ``NEW``.

    Args:
      array: shape (n_0, n_1, ...); a jax.Array, a numpy array or a Shape.
      sources: one entry per dimension; shape (m_d,), the old index of each new position or ``NEW``; None leaves
        the dimension as it is.
      fill: what new entries are; broadcast to the new shape (m_0, m_1, ...) and cast to the array's dtype.

    Returns:
      The same kind of array, of the same dtype and shape (m_0, m_1, ...); the very same object if nothing changes.
      A jax.Array stays on its device or sharding; where a sharding does not divide the new shape, the result lies
      on the first device of that sharding.

    Raises:
      PlanError: the sources do not fit the array, the array is traced, or new entries of PRNG keys are asked for.

    >>> take(np.array([1.0, 2.0, 3.0]), [np.array([2, NEW, 0])])
    array([3., 0., 1.])
    """
    values = taken(array, sources, fill)
    return array if values is array else cast(LeafT, placed_all([values], [array])[0])  # the same kind


def taken(array: LeafT, sources: Sources, fill: ArrayLike = 0) -> LeafT | HostArray:
    """As `take`, but values of a jax.Array stay on the host, in memory of their own, as `placed_all` wants them."""
    if isinstance(array, jax.core.Tracer):
        raise PlanError(
            f"Found the traced value {array}. A plan cannot be applied to it: mutations change shapes and run outside "
            "jit, grad and vmap. Apply the plan to the arrays, then call the jitted function with the result."
        )
    shape = shape_of_leaf(array)
    changes = _changes(shape, sources)
    if not changes:
        return array
    if isinstance(array, Shape):
        return placed_like(array, array, new_shape(sources, shape))
    if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return cast(LeafT, _take_keys(array, sources, shape))  # PRNG keys of a jax.Array
    values, empty = to_host(array), _aligned if isinstance(array, jax.Array) else np.empty
    return _take_host(values, changes, empty(new_shape(sources, shape), values.dtype), fill)


def rescale(array: LeafT, factor: float) -> LeafT:
    """The array times a number, rounded once; the very same object for a factor of 1, for shapes and traced values."""
    if factor == 1.0 or isinstance(array, Shape | jax.core.Tracer):
        return array
    return placed_like(rescaled_host(to_host(array), factor), array)


def rescaled_host(values: HostArray, factor: float) -> HostArray:
    """The values times a number, rounded once."""
    return (values.astype(np.float64) * factor).astype(values.dtype)


def new_shape(sources: Sources, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of ``take(array, sources)`` for an array of this shape."""
    return tuple(size if source is None else len(source) for size, source in zip(shape, sources, strict=True))


def new_mask(sources: Sources, shape: Sequence[int]) -> Bool[np.ndarray, "*after"]:
    """Shape (m_0, m_1, ...), bool: which entries of ``take(array, sources)`` are new in at least one dimension.

    >>> new_mask([np.array([0, NEW]), None], (1, 2)).tolist()
    [[False, False], [True, True]]
    """
    old = np.zeros(tuple(shape), bool)
    return _take_host(old, _changes(old.shape, sources), np.empty(new_shape(sources, old.shape), bool), True)


def shape_of_leaf(array: object) -> tuple[int, ...]:
    """The shape of an array, of a number, or of what has a shape; () for anything else."""
    if is_array(array):
        return array.shape
    return tuple(np.shape(cast(ArrayLike, array)))  # numpy asks any object


def to_host(array: object) -> HostArray:
    """The values of an array as numpy.

    Raises:
      PlanError: if parts of the array live on other hosts.
    """
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        raise PlanError(
            f"An array of shape {array.shape} is spread over several processes ({array.sharding}), and plans are "
            "applied on the host. Gather it first, e.g. with jax.experimental.multihost_utils.process_allgather."
        )
    return np.asarray(array)


def placed_like(values: Array | Shape, like: LeafT, shape: tuple[int, ...] | None = None) -> LeafT:
    """Host values as the kind of array that ``like`` is, on its device or, where that divides, its sharding.

    Args:
      values: the values, or their shape; the result has their dtype.
      like: an array, a number or a shape.
      shape: the shape of the result where ``like`` is a shape; by default the shape of ``values``.
    """
    return cast(LeafT, _placed(values, like, shape_of_leaf(values) if shape is None else shape))  # the same kind


def _placed(values: Array | Shape, like: LeafValue, shape: tuple[int, ...]) -> LeafValue:
    if isinstance(like, Shape):
        sharding = like.sharding if like.sharding is not None and _fits(like.sharding, shape) else None
        return Shape(shape, values.dtype, sharding=sharding)
    if not isinstance(like, jax.Array) or isinstance(values, Shape):
        return values
    if not like.committed:  # committing would forbid to mix the result with arrays on other devices
        on_device: jax.Array = jax.device_put(values)
    elif _fits(like.sharding, shape):
        on_device = jax.device_put(values, like.sharding)
    else:
        on_device = jax.device_put(values, min(like.sharding.device_set, key=attrgetter("id")))
    return on_device


def placed_all(values: Sequence[LeafValue], like: Sequence[LeafValue]) -> list[LeafValue]:
    """Host values that nobody else holds, each as `placed_like` would place it.

    They go to the device together, which takes a fraction of the time, and share their memory with the result where
    the device is the host.

    >>> placed_all([np.ones(2), np.zeros(1)], [np.zeros(3), jnp.zeros(2)])
    [array([1., 1.]), Array([0.], dtype=float32)]
    """
    pairs = list(zip(values, like, strict=True))
    alone = [i for i, (value, own) in enumerate(pairs) if _is_free(own) and isinstance(value, np.ndarray)]
    together = jax.device_put([values[i] for i in alone], may_alias=True)
    done: dict[int, LeafValue] = dict(zip(alone, together, strict=True))
    return [done[i] if i in done else _one_placed(value, own) for i, (value, own) in enumerate(pairs)]


def where_they_are(made: PyTree, others: PyTree) -> PyTree:
    """Arrays that were made for others, on the device or devices that somebody has put all of these on.

    What is made afresh (a count of steps, the parameters of an inserted layer) is on no device that was chosen. After
    the first step it is, so that a jitted step would be compiled a second time. What cannot be divided among devices
    as all others are stays where it is.

    Args:
      made: a tree of arrays.
      others: a tree of arrays, or of shapes, which are nowhere.
    """
    arrays = [leaf for leaf in jax.tree.leaves(others) if isinstance(leaf, jax.Array)]
    if any(isinstance(leaf, jax.core.Tracer) or not leaf.committed for leaf in arrays):
        return made
    shardings = {leaf.sharding for leaf in arrays}
    if len(shardings) != 1:
        return made
    (own,) = shardings
    return jax.tree.map(lambda leaf: jax.device_put(leaf, own) if _can_lie(own, np.shape(leaf)) else leaf, made)


def _can_lie(sharding: jax.sharding.Sharding, shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape can be divided among devices in this way."""
    try:
        sharding.shard_shape(shape)
    except ValueError:  # it has too few dimensions, or one that is not divisible
        return False
    return True


def _is_free(array: object) -> bool:
    """Whether an array lies on a device that nobody has chosen."""
    return isinstance(array, jax.Array) and not array.committed


def _one_placed(value: LeafValue, like: LeafValue) -> LeafValue:
    return placed_like(value, like) if isinstance(value, np.ndarray) else value  # shapes and keys have been placed


class _Change(NamedTuple):
    """A dimension that changes.

    Attributes:
      dim: its number.
      source: the old index of each new position, or ``NEW``.
      new: the positions that are new.
    """

    dim: int
    source: Int[np.ndarray, " _"]
    new: Int[np.ndarray, " _"]

    @property
    def known(self) -> Int[np.ndarray, " _"]:
        """An old index for each new position; for new ones any."""
        return np.maximum(self.source, 0) if self.new.size else self.source


def _changes(shape: tuple[int, ...], sources: Sources) -> list[_Change]:
    """The dimensions that change.

    Raises:
      PlanError: if the sources do not fit the shape.
    """
    if len(sources) != len(shape):
        raise PlanError(f"Got index sources for {len(sources)} dimensions, but the array has shape {shape}.")
    found = []
    for dim, (size, source) in enumerate(zip(shape, sources, strict=True)):
        if source is None:
            continue
        lowest, highest = (int(source.min()), int(source.max())) if len(source) else (0, 0)
        if len(source) and (lowest < NEW or highest >= size):
            raise PlanError(
                f"The plan takes index {highest} (lowest: {lowest}) of dimension {dim} of an array of shape {shape}; "
                f"sources are {NEW} (new) or below {size}. The plan was made for other variables."
            )
        if len(source) != size or not np.array_equal(source, np.arange(size)):
            found.append(_Change(dim, source, np.flatnonzero(source == NEW) if lowest == NEW else _NONE))
    return found


_NONE = np.zeros(0, int)


def _take_host(values: HostArray, changes: Sequence[_Change], out: HostArray, fill: ArrayLike) -> HostArray:
    """Write what `take` returns to ``out``, which has its shape."""
    if values.size == 0:  # nothing to take from, e.g. the rows of an input slot that was just created
        out[...] = np.asarray(fill).astype(values.dtype)
        return out
    # dimension by dimension copies contiguous blocks; np.ix_ is far slower. What shrinks most goes first.
    first = sorted(changes, key=lambda change: len(change.source) / values.shape[change.dim])
    for change in first:
        # the sources are in range; with mode="raise" numpy would write through a buffer
        into = out if change is first[-1] else None
        values = np.take(values, change.known, axis=change.dim, out=into, mode="clip")
    if any(change.new.size for change in changes):
        start = np.broadcast_to(np.asarray(fill).astype(out.dtype), out.shape)
        for change in changes:
            where = (slice(None),) * change.dim + (change.new,)
            out[where] = start[where]
    return out


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> HostArray:
    """An array without values whose memory jax can take over as it is; other memory it would copy once more."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def in_one_piece(wanted: Sequence[tuple[tuple[int, ...], np.dtype]]) -> list[HostArray]:
    """Arrays of these shapes and dtypes, without values, whose memory is freed together.

    Memory of one piece has large pages, where the system has them, so that it is there in a fraction of the time.

    >>> [array.shape for array in in_one_piece([((2, 3), np.dtype(np.float32)), ((0,), np.dtype(np.int8))])]
    [(2, 3), (0,)]
    """
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in wanted]
    starts = np.cumsum([0, *(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes)]).tolist()
    memory = np.empty(starts[-1], np.uint8)
    return [
        memory[start : start + size].view(dtype).reshape(shape)
        for start, size, (shape, dtype) in zip(starts, sizes, wanted, strict=False)
    ]


#: Where the memory of an array of jax begins: at a multiple of as many bytes.
_ALIGNMENT = 64


def _take_keys(keys: jax.Array, sources: Sources, shape: tuple[int, ...]) -> jax.Array:
    if new_mask(sources, shape).any():
        raise PlanError(f"PRNG keys of shape {shape} would need new keys. Draw them with jax.random.split and retry.")
    data = jax.random.key_data(keys)
    data = take(data, [*sources, *[None] * (data.ndim - len(shape))])
    taken: jax.Array = jax.random.wrap_key_data(data, impl=jax.random.key_impl(keys))
    return taken


def _fits(sharding: jax.sharding.Sharding, shape: tuple[int, ...]) -> bool:
    try:
        sharding.shard_shape(shape)
    except ValueError:
        return False
    return True
