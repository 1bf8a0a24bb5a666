"""Arrays as users give them, one by one and in batches: what is no array is refused by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import SequenceKey, keystr

from naivenas_jax.checks import shown
from naivenas_jax.errors import NaiveNASError
from naivenas_jax.graph.structure import is_array
from naivenas_jax.typing import Array, PyTree

#: The inputs of one evaluation: one array per input vertex.
Batch: TypeAlias = tuple[PyTree, ...]


def check_array(value: object, name: str, error: type[NaiveNASError]) -> None:
    """Raise unless a value is an array, or the shape of one."""
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        raise error(
            f"{name} must be an array; found {type(value).__name__}: {shown(value)}. Each array of a dict or list is "
            "an input of its own: tuple(jax.tree.leaves(inputs)); a shape alone is jax.ShapeDtypeStruct(shape, dtype)."
        )
    if getattr(value.dtype, "kind", "f") in "OSUMm":
        raise error(f"{name} must be an array of numbers; found one of {value.dtype}.")


def batches_of(
    batches: object, error: type[NaiveNASError], *, inputs: bool = False, words: bool = False
) -> Iterator[PyTree]:
    """Read batches of any trees of arrays.

    Args:
      batches: what a user gave as ``batches=``.
      error: the class of what is raised.
      inputs: whether a tuple holds the inputs of a graph, for messages.
      words: whether a tuple or list may hold words: the constants of an imported model, which its graph knows.

    Yields:
      The batches, one by one.

    Raises:
      error: if ``batches`` is no iterable, or one array, or a batch has an array without entries, which have no mean,
        or with entries that are not finite; names the batch and the leaf.
    """
    if hasattr(batches, "shape") and hasattr(batches, "dtype"):  # whatever library's array: it would be read in rows
        raise error(
            f"batches= must be an iterable of batches; found one array, of shape {tuple(batches.shape)}. Write [array] "
            "if it is one batch, and list(array) if its first axis counts batches."
        )
    if isinstance(batches, str | bytes | Mapping) or not isinstance(batches, Iterable):
        raise error(
            "batches= must be an iterable of batches, each an array or a tree of arrays: [batch]; found "
            f"{type(batches).__name__}."
        )
    for number, batch in enumerate(batches):
        leaves = jax.tree_util.tree_leaves_with_path(batch)
        if not leaves:
            raise error(f"Batch {number} holds no arrays: {shown(batch)}.")
        for path, leaf in (pair for pair in leaves if not _is_word(*pair, words)):
            _check_leaf(leaf, _name(number, path, inputs), error)
        yield batch


def examples_of(batches: object, error: type[NaiveNASError], *, words: bool = False) -> Iterator[PyTree]:
    """Read batches whose arrays all have the examples along their first axis.

    Args:
      batches: what a user gave as ``batches=``.
      error: the class of what is raised.
      words: as for `batches_of`.

    Yields:
      The batches, one by one.

    Raises:
      error: as `batches_of`, and if an array has no first axis, or another number of examples than the others.
    """
    for number, batch in enumerate(batches_of(batches, error, words=words)):
        count: int | None = None
        for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
            if path and not is_array(leaf):
                continue  # a constant, the same for each example
            name, shape = _name(number, path), np.shape(leaf)
            if not shape:
                raise error(f"{name} is one number; every array must have the examples along its first axis.")
            if count not in (None, shape[0]):
                raise error(f"{name} has {shape[0]} examples along its first axis, other arrays of the batch {count}.")
            count = shape[0]
        if count is None:
            raise error(f"Batch {number} holds no arrays, with the examples along their first axis: {shown(batch)}.")
        yield batch


def _is_word(path: tuple[Any, ...], leaf: PyTree, anywhere: bool) -> bool:
    """Whether a leaf is a word beside arrays: a constant of the model, under a name of its own or ``anywhere``."""
    return isinstance(leaf, str) and bool(path) and (anywhere or not isinstance(path[-1], SequenceKey))


def _name(number: int, path: tuple[Any, ...], inputs: bool = False) -> str:
    """What messages call a leaf of a batch."""
    if not path:
        return f"Batch {number}"
    if inputs and len(path) == 1 and isinstance(path[0], SequenceKey):
        return f"Batch {number}, input {path[0].idx},"
    return f"Batch {number}, at {keystr(path)},"


def _check_leaf(leaf: PyTree, name: str, error: type[NaiveNASError]) -> None:
    """Raise unless a leaf of a batch is an array of finite numbers, or a number."""
    if isinstance(leaf, jax.core.Tracer):
        raise error(f"{name} is traced. Batches are looked at outside jax.jit, jax.grad and jax.vmap: give arrays.")
    if isinstance(leaf, jax.Array) and leaf.is_deleted():
        raise error(f"{name} has an array that was deleted, or donated to a call.")
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raise error(f"{name} holds the shape of an array; values are needed.")
    if not isinstance(leaf, bool | int | float | complex):
        check_array(leaf, name, error)
    if 0 in np.shape(leaf):
        raise error(f"{name} has an array without entries, of shape {np.shape(leaf)}. Leave it out.")
    if (bad := _not_finite(leaf if hasattr(leaf, "dtype") else np.asarray(leaf))) is not None:
        found = f"{np.asarray(leaf)[bad]}{f' at {bad}' if bad else ''}"
        raise error(f"{name} is not finite: {found}. What is computed of it would not be either. Leave it out.")


def _not_finite(array: Array) -> tuple[int, ...] | None:
    """The position of the first entry that is not finite; None: all are."""
    if not jnp.issubdtype(array.dtype, jnp.inexact) or bool((finite := jnp.isfinite(array)).all()):
        return None
    return tuple(int(i) for i in np.argwhere(~np.asarray(finite))[0])
