"""How many parameters a network has, and how many bytes, as counts of its sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from naivenas_jax.paths import Path
from naivenas_jax.sizes.count import Count
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.transfer.variables import flat, parameters_of
from naivenas_jax.typing import Array, Variables


def parameters(ties: Ties, variables: Variables) -> Count:
    """The number of entries of all parameters (`Ties.parameters`)."""
    return _entries(ties, parameters_of(ties, variables), lambda array: 1)


def variable_bytes(ties: Ties, variables: Variables) -> Count:
    """The number of bytes of all variables, of every collection."""
    return _entries(ties, flat(variables), lambda array: np.dtype(array.dtype).itemsize)


def _entries(ties: Ties, arrays: Mapping[Path, Array], each: Callable[[Array], int]) -> Count:
    """The entries of all arrays, each entry counted as often as ``each(array)`` says."""
    return Count.total(_array(ties, path, array) * each(array) for path, array in arrays.items())


def _array(ties: Ties, path: Path, array: Array) -> Count:
    """The number of entries of one variable."""
    entries = Count.constant(1)
    for axis, size in zip(ties.leaves[path].axes, np.shape(array), strict=True):
        entries *= size if axis is None else Count.axis(axis)
    return entries
