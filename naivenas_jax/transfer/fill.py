"""What the parameters of new neurons start at."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.align.plan import NEW, AxisPlan
from naivenas_jax.errors import PlanError
from naivenas_jax.sizes.ties import Leaf


@dataclass(frozen=True, eq=False)
class NewEntries:
    """One parameter that gets new entries, as a function for ``new=`` sees it.

    Attributes:
      path: where it lies in the variables, ``("params", "conv1", "kernel")``.
      old: its values before the change.
      shape: the shape after the change.
      is_new: bool, of that shape: which entries are new.
      axes: for each dimension the plan of its axis, or None where the size is fixed.
      leaf: what is known of it: the role of each dimension ("in": read, "out": made), the layer's own initialiser.
      key: a PRNG key of its own.
    """

    path: tuple[str, ...]
    old: np.ndarray
    shape: tuple[int, ...]
    is_new: np.ndarray
    axes: tuple[AxisPlan | None, ...]
    leaf: Leaf
    key: jax.Array

    @property
    def out(self) -> int | None:
        """The dimension on which the parameter makes neurons."""
        return self.leaf.roles.index("out") if "out" in self.leaf.roles else None


#: ``NewEntries -> array`` of the new shape (or broadcast to it); only its entries at new positions are used.
Fill = Callable[[NewEntries], Any]


def keep_function(entries: NewEntries) -> Any:
    """Random incoming and zero outgoing weights: the network computes what it did, and new neurons can learn.

    Entries that make a new neuron are normal with variance ``1 / fan_in``; entries by which present neurons read a new
    one are zero. Parameters per neuron (biases, scales, statistics) start at their neutral value.
    """
    if entries.leaf.new is not None or not np.issubdtype(entries.old.dtype, np.inexact):
        return entries.leaf.new or 0.0
    values = np.zeros(entries.shape)
    axis = None if entries.out is None else entries.axes[entries.out]
    if axis is not None and axis.new.size:
        shape = tuple(len(axis.new) if d == entries.out else size for d, size in enumerate(entries.shape))
        fan_in = max(1, int(np.prod(entries.shape)) // max(1, axis.after))
        index = tuple(axis.new if d == entries.out else slice(None) for d in range(len(shape)))
        values[index] = generator(entries.key).normal(size=shape) / np.sqrt(fan_in)
    return values


def zeros(entries: NewEntries) -> Any:
    """Zero weights; scales and variances start at 1."""
    return entries.leaf.new or 0.0


def initialised(entries: NewEntries) -> Any:
    """The layer's own initialiser; the function is not kept."""
    if entries.leaf.init is None:
        return keep_function(entries)
    dtype = entries.old.dtype if jnp.issubdtype(entries.old.dtype, jnp.inexact) else jnp.float32
    return np.asarray(entries.leaf.init(entries.key, entries.shape, dtype))


def split(entries: NewEntries) -> Any:
    """New neurons copy surviving ones, and readers divide by the number of copies: the function is kept.

    Net2WiderNet (Chen, Goodfellow and Shlens, Net2Net, ICLR 2016). See `copied`.
    """
    return keep_function(entries)  # for groups without a survivor; the others are overwritten by `copied`


def copied(entries: NewEntries, values: np.ndarray) -> np.ndarray:
    """The whole parameter after splitting: neuron j of each changed axis is a copy of ``model(j)``.

    Every entry that reads a neuron which now exists m times is divided by m, old entries too.
    """
    models = [None if axis is None else np.where(axis.source == NEW, axis.twin, axis.source) for axis in entries.axes]
    copies = np.asarray(entries.old)
    known = np.ones(entries.shape, dtype=bool)
    for dim, model in enumerate(models):
        if model is None:
            continue
        copies = np.take(copies, np.maximum(model, 0), axis=dim)
        shape = [-1 if d == dim else 1 for d in range(len(models))]
        known &= (model != NEW).reshape(shape)
        if entries.leaf.roles[dim] == "in":
            copies = copies / multiplicity(model).reshape(shape)
    return np.where(known, copies, values).astype(entries.old.dtype)


def multiplicity(model: np.ndarray) -> np.ndarray:
    """How many positions share the model of each position."""
    counts = np.bincount(model[model != NEW], minlength=1)
    return np.where(model == NEW, 1, counts[np.minimum(np.maximum(model, 0), len(counts) - 1)])


STRATEGIES: dict[str, Fill] = {
    "default": keep_function,
    "zeros": zeros,
    "split": split,
    "identity": keep_function,  # an inserted layer starts as the identity; neurons that a width gains keep the function
    "init": initialised,
}


def strategy(new: str | Fill | None) -> Fill:
    """The fill that ``new=`` stands for."""
    if new is None:
        return keep_function
    if callable(new):
        return new
    if not isinstance(new, str) or new not in STRATEGIES:
        raise PlanError(
            f"new={new!r} is unknown. It says what parameters of new neurons start at: "
            f"{', '.join(map(repr, STRATEGIES))}, or a function of nas.NewEntries."
        )
    return STRATEGIES[new]


def generator(key: jax.Array) -> np.random.Generator:
    """A numpy generator seeded by a key; unlike ``jax.random`` it compiles nothing per shape."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())


def key_for(rng: Any, path: tuple[str, ...]) -> jax.Array:
    """The key of one parameter: ``rng`` (default ``jax.random.key(0)``) folded with its path."""
    key = jax.random.key(0) if rng is None else rng
    try:
        return jax.random.fold_in(key, zlib.crc32("/".join(path).encode()))
    except (TypeError, ValueError) as error:
        raise PlanError(f"rng= must be one key, such as jax.random.key(0); found {rng!r:.80}.") from error
