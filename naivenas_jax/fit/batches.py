"""Batches as users give them, checked: a number that is none would be in every weight that is fitted to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from naivenas_jax.errors import VariablesError

Batch = tuple[Any, ...]


def repeatable(batches: Any) -> Iterable[Any]:
    """What can be gone through again: an iterator is made into a list.

    Raises:
      VariablesError: if it is no iterable of batches.
    """
    if isinstance(batches, str | bytes | Mapping) or not isinstance(batches, Iterable):
        raise VariablesError(
            "batches= must be an iterable of batches, each an array or a tuple of arrays, one per input: "
            f"[batch]; found {type(batches).__name__}."
        )
    return list(batches) if isinstance(batches, Iterator) else batches


def inputs_of(batch: Any, number: int) -> Batch:
    """The inputs that a batch has.

    Args:
      batch: an array, or a tuple of arrays.
      number: of the batch, for messages.

    Raises:
      VariablesError: if one is no array, has no entries, or entries that are not finite.
    """
    inputs = batch if isinstance(batch, tuple) else (batch,)
    for position, given in enumerate(inputs):
        where = f"Batch {number}" + (f", input {position}," if len(inputs) > 1 else "")
        if not hasattr(given, "shape") or not hasattr(given, "dtype"):
            raise VariablesError(
                f"{where} must be an array, or a tuple of arrays, one per input of the graph; found "
                f"{type(given).__name__}. Of an imported model each array of a dict or list is an input of its own: "
                "tuple(jax.tree.leaves(batch))."
            )
        if 0 in given.shape:
            raise VariablesError(f"{where} has no examples: its shape is {given.shape}. Leave it out.")
        if jnp.issubdtype(given.dtype, jnp.inexact) and not bool(jnp.isfinite(given).all()):
            place = tuple(int(i) for i in np.argwhere(~np.asarray(jnp.isfinite(given)))[0])
            raise VariablesError(f"{where} is not finite: {np.asarray(given)[place]} at {place}. Leave it out.")
    return inputs
