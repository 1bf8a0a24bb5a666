"""The ways to fill new entries that ``new=`` knows by name."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Shaped

from naivenas_jax.align.axis_plan import NEW
from naivenas_jax.errors import PlanError
from naivenas_jax.paths import subscripts
from naivenas_jax.transfer.copies import models_of, multiplicity
from naivenas_jax.transfer.new_neurons.entries import NewEntries, generator


def keep_function(entries: NewEntries) -> object:
    """Random incoming and zero outgoing weights: the network computes what it did, and new neurons can learn.

    Entries that make a new neuron are normal with variance ``1 / fan_in``; entries by which present neurons read a new
    one are zero. Parameters per neuron (biases, scales, statistics) start at their neutral value.
    """
    if entries.leaf.new is not None or not np.issubdtype(entries.old.dtype, np.inexact):
        return entries.leaf.new or 0.0
    values, draws, made = np.zeros(entries.shape), generator(entries.key), entries.made
    fan_in = max(1, math.prod(size for d, size in enumerate(entries.shape) if d not in made))
    for dim in made:
        axis = entries.axes[dim]
        if axis is not None and axis.new.size:
            index = (slice(None),) * dim + (axis.new,)
            values[index] = draws.normal(size=values[index].shape) / np.sqrt(fan_in)
    return values


def zeros(entries: NewEntries) -> object:
    """Zero weights; scales and variances start at 1."""
    return entries.leaf.new or 0.0


def initialised(entries: NewEntries) -> object:
    """The layer's own initialiser; the function is not kept."""
    if entries.leaf.init is None:
        return keep_function(entries)
    dtype = entries.old.dtype if jnp.issubdtype(entries.old.dtype, jnp.inexact) else jnp.float32
    return np.asarray(entries.leaf.init(entries.key, entries.shape, dtype))


def copied(entries: NewEntries, values: Shaped[np.ndarray, "*after"]) -> Shaped[np.ndarray, "*after"]:
    """The whole parameter after a split: new neurons are copies of surviving ones, and the function is kept.

    Entries that read a neuron which now exists m times are divided by m, old entries too. Net2WiderNet (Chen,
    Goodfellow and Shlens, Net2Net: Accelerating Learning via Knowledge Transfer, ICLR 2016).

    Args:
      entries: the parameter.
      values: shape (m_0, m_1, ...). What new neurons start at that have no survivor to copy.

    Raises:
      PlanError: if the entries that read are whole numbers, which cannot be divided.
    """
    models = [None if axis is None else models_of(axis) for axis in entries.axes]
    copies = np.asarray(entries.old)
    known = np.ones(entries.shape, dtype=bool)
    for dim, model in enumerate(models):
        if model is None:
            continue
        copies = np.take(copies, np.maximum(model, 0), axis=dim)
        shape = [-1 if d == dim else 1 for d in range(len(models))]
        known &= (model != NEW).reshape(shape)
        if entries.leaf.shared_out(dim):
            copies = copies / _shares(entries, model).reshape(shape)
    return np.where(known, copies, values).astype(entries.old.dtype)


def _shares(entries: NewEntries, model: Int[np.ndarray, " after"]) -> Int[np.ndarray, " after"]:
    """Shape (after,): the number of copies among which each entry that reads a neuron is divided."""
    counts = multiplicity(model)
    if jnp.issubdtype(entries.old.dtype, jnp.integer) and (counts > 1).any():
        raise PlanError(
            f"new='split' divides what reads a neuron among its copies, and {subscripts(entries.path)} holds whole "
            f"numbers ({entries.old.dtype}), which cannot be divided. Use new='default' or new='zeros', which keep the "
            "function too."
        )
    return counts


@dataclass(frozen=True)
class Constant:
    """The same number for every new entry."""

    value: float

    def __call__(self, entries: NewEntries) -> float:
        """The number, whatever the parameter."""
        del entries
        return self.value
