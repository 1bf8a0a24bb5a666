"""One array, indexed by a plan: the step that parameters, statistics and optimizer state share.

Indexing is done with numpy on the host: the bits of every dtype are kept (a gather on an accelerator may flush
or canonicalise), and nothing is compiled, where jax would compile one gather per shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import TypeAlias, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Int, Shaped

from naivenas_jax.align.axis_plan import NEW
from naivenas_jax.errors import PlanError
from naivenas_jax.typing import Array, Shape

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
    if isinstance(array, jax.core.Tracer):
        raise PlanError(
            f"Found the traced value {array}. A plan cannot be applied to it: mutations change shapes and run outside "
            "jit, grad and vmap. Apply the plan to the arrays, then call the jitted function with the result."
        )
    shape = shape_of_leaf(array)
    _check(shape, sources)
    if not _changes(shape, sources):
        return array
    if isinstance(array, Shape):
        return placed_like(array, array, new_shape(sources, shape))
    if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return cast(LeafT, _take_keys(array, sources, shape))  # PRNG keys of a jax.Array
    return placed_like(_take_host(to_host(array), sources, fill), array)


def rescale(array: LeafT, factor: float) -> LeafT:
    """The array times a number, rounded once; the very same object for a factor of 1, for shapes and traced values."""
    if factor == 1.0 or isinstance(array, Shape | jax.core.Tracer):
        return array
    values = to_host(array)
    return placed_like((values.astype(np.float64) * factor).astype(values.dtype), array)


def new_shape(sources: Sources, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of ``take(array, sources)`` for an array of this shape."""
    return tuple(size if source is None else len(source) for size, source in zip(shape, sources, strict=True))


def new_mask(sources: Sources, shape: Sequence[int]) -> Bool[np.ndarray, "*after"]:
    """Shape (m_0, m_1, ...), bool: which entries of ``take(array, sources)`` are new in at least one dimension.

    >>> new_mask([np.array([0, NEW]), None], (1, 2)).tolist()
    [[False, False], [True, True]]
    """
    return _take_host(np.zeros(tuple(shape), bool), sources, True)


def shape_of_leaf(array: object) -> tuple[int, ...]:
    """The shape of an array, of a number, or of what has a shape; () for anything else."""
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


def _check(shape: tuple[int, ...], sources: Sources) -> None:
    if len(sources) != len(shape):
        raise PlanError(f"Got index sources for {len(sources)} dimensions, but the array has shape {shape}.")
    for dim, (size, source) in enumerate(zip(shape, sources, strict=True)):
        if source is not None and len(source) and not NEW <= np.min(source) <= np.max(source) < size:
            raise PlanError(
                f"The plan takes index {np.max(source)} (lowest: {np.min(source)}) of dimension {dim} of an array of "
                f"shape {shape}; sources are {NEW} (new) or below {size}. The plan was made for other variables."
            )


def _changes(shape: tuple[int, ...], sources: Sources) -> bool:
    pairs = zip(shape, sources, strict=True)
    return any(source is not None and not np.array_equal(source, np.arange(size)) for size, source in pairs)


def _take_host(values: HostArray, sources: Sources, fill: ArrayLike) -> HostArray:
    shape = new_shape(sources, values.shape)
    start = np.broadcast_to(np.asarray(fill).astype(values.dtype), shape)
    if values.size == 0:  # nothing to take from, e.g. the rows of an input slot that was just created
        return start.copy()
    out = values
    for dim, source in enumerate(sources):  # dimension by dimension copies contiguous blocks; np.ix_ is far slower
        if source is not None:
            out = np.take(out, np.maximum(source, 0), axis=dim)
    for dim, source in enumerate(sources):
        if source is not None and (source == NEW).any():
            where = (slice(None),) * dim + (np.flatnonzero(source == NEW),)
            out[where] = start[where]
    return out


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
