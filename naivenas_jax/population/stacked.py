"""Trees of all members, whose leaves have a leading member dimension: put together, and taken apart."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.align.axis_plan import Positions
from naivenas_jax.typing import Array, PyTree, Shape


def row_of(tree: PyTree, number: int) -> PyTree:
    """What belongs to one member. Arrays of jax are taken by one program for all members, those of numpy by none."""
    if all(isinstance(leaf, np.ndarray | np.generic) for leaf in jax.tree.leaves(tree)):
        return jax.tree.map(lambda array: np.array(array[number]), tree)
    return _row_on_device(tree, number)


def row_shapes(tree: PyTree) -> PyTree:
    """The shapes of what belongs to one member."""
    return jax.tree.map(lambda array: Shape(array.shape[1:], array.dtype), tree)


@jax.jit
def _row_on_device(tree: PyTree, number: int) -> PyTree:
    return jax.tree.map(lambda array: array[number], tree)


@jax.jit
def with_row(tree: PyTree, number: int, row: PyTree) -> PyTree:
    """A tree of all members with other values for one of them; compiled once, whichever it is."""
    return jax.tree.map(lambda array, own: array.at[number].set(own), tree, row)


def stacked(trees: Sequence[PyTree]) -> PyTree:
    """One tree of several alike, each leaf with a leading dimension of as many."""
    return jax.tree.map(lambda *arrays: _stacked(arrays), *trees)


def _stacked(arrays: Sequence[Array]) -> Array:
    """On a CPU memory is put together by numpy, where jax would compile a program for each shape."""
    if all(isinstance(each, np.ndarray) or _in_memory(each) for each in arrays):
        placed: Array = jax.device_put(np.stack([np.asarray(each) for each in arrays]))
        return placed
    return jnp.stack(arrays)


def _in_memory(array: Array) -> bool:
    """Whether an array lies in the memory of this machine, as numbers."""
    if not isinstance(array, jax.Array) or isinstance(array, jax.core.Tracer):
        return False
    return (
        not _is_key(array) and len(array.devices()) == 1 and all(device.platform == "cpu" for device in array.devices())
    )


def on_host(tree: PyTree) -> PyTree:
    """A tree of arrays of numpy; keys stay as they are."""
    return jax.tree.map(lambda leaf: leaf if _is_key(leaf) else np.asarray(leaf), tree)


def _is_key(leaf: object) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def mask_of(places: Positions, size: int) -> np.ndarray:
    """Shape (size,), bool: at which places there are neurons."""
    mask = np.zeros(size, bool)
    mask[places] = True
    return mask


def padded(places: Positions, size: int) -> np.ndarray:
    """Places, and behind them those where a member has no neuron."""
    return np.concatenate([places, np.flatnonzero(~mask_of(places, size))]).astype(np.int32)
