"""Arrays as users give them, one by one and in batches, read in one place and refused by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.errors import NaiveNASError
from naivenas_jax.typing import Array

Batch = tuple[Any, ...]


def check_array(value: Any, name: str, error: type[NaiveNASError]) -> None:
    """Raise unless a value is an array, or the shape of one."""
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        raise error(
            f"{name} must be an array; found {type(value).__name__}: {value!r:.80}. Each array of a dict or list is an "
            "input of its own: tuple(jax.tree.leaves(inputs)); a shape alone is jax.ShapeDtypeStruct(shape, dtype)."
        )
    if getattr(value.dtype, "kind", "f") in "OSUMm":
        raise error(f"{name} must be an array of numbers; found one of {value.dtype}.")


def batches_of(batches: Any, error: type[NaiveNASError]) -> Iterator[Any]:
    """Batches of any trees of arrays.

    Raises:
      error: if they are no iterable of batches, or one has an array without entries: nothing is the mean of none.
    """
    if isinstance(batches, str | bytes | Mapping) or not isinstance(batches, Iterable):
        raise error(
            "batches= must be an iterable of batches, each an array or a tree of arrays: [batch]; found "
            f"{type(batches).__name__}."
        )
    for number, batch in enumerate(batches):
        empty = [np.shape(array) for array in jax.tree.leaves(batch) if 0 in np.shape(array)]
        if empty:
            raise error(f"Batch {number} has an array without entries, of shape {empty[0]}. Leave it out.")
        if any(isinstance(array, jax.ShapeDtypeStruct) for array in jax.tree.leaves(batch)):
            raise error(f"Batch {number} holds the shape of an array; values are needed.")
        yield batch


def inputs_of(batches: Iterable[Any], error: type[NaiveNASError], finite: bool = False) -> Iterator[Batch]:
    """Batches of inputs: each an array, or a tuple of arrays, one per input of the graph.

    Args:
      batches: what a user gives.
      error: the exception to raise.
      finite: whether entries must be finite: a NaN would be in all that is fitted.

    Raises:
      error: as `batches_of`, and if an input is no array, or has entries that are not finite where they must be.
    """
    for number, batch in enumerate(batches_of(batches, error)):
        inputs = batch if isinstance(batch, tuple) else (batch,)
        for position, given in enumerate(inputs):
            name = f"Batch {number}" + (f", input {position}," if len(inputs) > 1 else "")
            check_array(given, name, error)
            if finite and (bad := _not_finite(given)) is not None:
                raise error(f"{name} is not finite: {np.asarray(given)[bad]} at {bad}. Leave it out.")
        yield inputs


def _not_finite(array: Array) -> tuple[int, ...] | None:
    """The position of the first entry that is not finite; None: all are."""
    if not jnp.issubdtype(array.dtype, jnp.inexact) or bool((finite := jnp.isfinite(array)).all()):
        return None
    return tuple(int(i) for i in np.argwhere(~np.asarray(finite))[0])
