"""Arrays as users give them, one by one and in batches: what is no array is refused by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.errors import NaiveNASError
from naivenas_jax.typing import Array, PyTree

#: The inputs of one evaluation: one array per input vertex.
Batch: TypeAlias = tuple[PyTree, ...]


def check_array(value: object, name: str, error: type[NaiveNASError]) -> None:
    """Raise unless a value is an array, or the shape of one."""
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        raise error(
            f"{name} must be an array; found {type(value).__name__}: {value!r:.80}. Each array of a dict or list is an "
            "input of its own: tuple(jax.tree.leaves(inputs)); a shape alone is jax.ShapeDtypeStruct(shape, dtype)."
        )
    if getattr(value.dtype, "kind", "f") in "OSUMm":
        raise error(f"{name} must be an array of numbers; found one of {value.dtype}.")


def batches_of(batches: object, error: type[NaiveNASError]) -> Iterator[PyTree]:
    """Read batches of any trees of arrays.

    Args:
      batches: what a user gave as ``batches=``.
      error: the class of what is raised.

    Yields:
      The batches, one by one.

    Raises:
      error: if ``batches`` is no iterable, or a batch has an array without entries, which have no mean.
    """
    single = getattr(batches, "ndim", 1) == 0
    if single or isinstance(batches, str | bytes | Mapping) or not isinstance(batches, Iterable):
        raise error(
            "batches= must be an iterable of batches, each an array or a tree of arrays: [batch]; found "
            f"{type(batches).__name__}."
        )
    if isinstance(batches, jax.Array) and batches.is_deleted():
        raise error("batches= is an array that was deleted, or donated to a call.")
    for number, batch in enumerate(batches):
        leaves = jax.tree.leaves(batch)
        if not leaves:
            raise error(f"Batch {number} holds no arrays: {batch!r:.80}.")
        if any(isinstance(array, jax.Array) and array.is_deleted() for array in leaves):
            raise error(f"Batch {number} has an array that was deleted, or donated to a call.")
        empty = [np.shape(array) for array in jax.tree.leaves(batch) if 0 in np.shape(array)]
        if empty:
            raise error(f"Batch {number} has an array without entries, of shape {empty[0]}. Leave it out.")
        if any(isinstance(array, jax.ShapeDtypeStruct) for array in jax.tree.leaves(batch)):
            raise error(f"Batch {number} holds the shape of an array; values are needed.")
        yield batch


def inputs_of(batches: Iterable[PyTree], error: type[NaiveNASError], finite: bool = False) -> Iterator[Batch]:
    """Read batches of inputs: each an array, or a tuple of arrays, one per input of the graph.

    Args:
      batches: what a user gave as ``batches=``.
      error: the class of what is raised.
      finite: whether entries must be finite: a NaN would be in all that is fitted.

    Yields:
      The inputs of the graph for each batch, always as a tuple.

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
