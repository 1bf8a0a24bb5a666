"""The original without some neurons, by the user's own model and by its arrays alone.

Which entries went is read off the values of the old and the new arrays, not off the plan. Those that read the dropped
neurons are given the value that makes their weight zero, and whether that is so is asked of the user's model: all other
entries that went are changed at random, and the outputs must not move. Then the neurons are dead there, whatever this
library believes, and what the user's model returns is what the new network has to return.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from naivenas_jax.transfer.variables import flat, nested

#: What a stored entry may be so that its weight is zero: the weight itself, or its logarithm, or before a softplus.
ZEROS = (0.0, -1e4)
#: Why there is nothing to make dead.
UNREAD = "lost neurons that no parameter reads"


def kept(old: np.ndarray, new: np.ndarray) -> list[np.ndarray]:
    """For each dimension, which of its indices are still there, as flags."""
    stayed = np.isin(old, new)
    found = []
    for dim, (before, after) in enumerate(zip(old.shape, new.shape, strict=True)):
        share = stayed.mean(axis=tuple(d for d in range(old.ndim) if d != dim))
        found.append(np.ones(before, bool) if before == after else share > share.max() / 2)
    return found


def without(own: Any, variables: Any, mutation: Any, inputs: Any) -> tuple[list[Any], str]:
    """What the user's own model returns without the neurons that a shrink dropped.

    Returns:
      Its outputs, and nothing; or nothing, and why there are none.
    """
    old, new, leaves = flat(variables), flat(mutation.variables), mutation.before.ties.leaves
    read, other = {}, {}
    for path, array in old.items():
        before, after = np.asarray(array), np.asarray(new[path])
        if before.shape == after.shape or not np.issubdtype(before.dtype, np.inexact):
            continue
        flags = kept(before, after)
        if [int(f.sum()) for f in flags] != list(after.shape):
            return [], "which entries went cannot be read off the values"
        gone = np.zeros(before.shape, bool)
        for dim, flag in enumerate(flags):
            if leaves[path].roles[dim] == "in":
                gone[(slice(None),) * dim + (~flag,)] = True
        stayed = np.zeros(before.shape, bool)
        stayed[np.ix_(*map(np.flatnonzero, flags))] = True
        read[path], other[path] = gone, ~stayed & ~gone
    if not any(mask.any() for mask in read.values()):
        return [], UNREAD
    for zero in ZEROS:
        dead = {path: np.where(mask, zero, np.asarray(old[path])) for path, mask in read.items()}
        moved = {path: _disturbed(dead[path], other[path]) for path in dead}
        quiet = own(_with(old, dead), *inputs)
        if far(jax.tree.leaves(quiet), jax.tree.leaves(own(_with(old, moved), *inputs))) < 1e-5:
            return jax.tree.leaves(quiet), ""
    return [], "no value of what reads them makes the neurons dead in the user's own model"


def _disturbed(array: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Other positive factors of the entries, as of variances too."""
    factors = np.random.default_rng(0).uniform(0.5, 1.5, array.shape)
    return np.where(where, array * factors, array).astype(array.dtype)


def _with(old: dict[Any, Any], changed: dict[Any, np.ndarray]) -> Any:
    return nested({path: np.asarray(changed.get(path, array), np.asarray(array).dtype) for path, array in old.items()})


def far(a: list[Any], b: list[Any]) -> float:
    """The largest difference, relative to the largest entry. In numpy, which compiles nothing."""
    pairs = [(as_numbers(x), as_numbers(y)) for x, y in zip(a, b, strict=True)]
    return max(float(np.abs(x - y).max() / max(np.abs(x).max(), 1e-6)) for x, y in pairs)


def as_numbers(x: Any) -> np.ndarray:
    """In double precision, complex numbers too."""
    array = np.asarray(x)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)
