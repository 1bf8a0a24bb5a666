"""The ways to fill new entries that ``new=`` knows by name."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Shaped

from naivenas_jax.align.axis_plan import NEW, AxisPlan
from naivenas_jax.errors import PlanError
from naivenas_jax.paths import subscripts
from naivenas_jax.transfer.copies import models_of, multiplicity
from naivenas_jax.transfer.new_neurons.entries import NewEntries, generator


def keep_function(entries: NewEntries) -> object:
    """Random incoming and zero outgoing weights: the network computes what it did, and new neurons can learn.

    Entries that make a new neuron are normal with variance ``1 / fan_in``; entries by which present neurons read a new
    one are zero. Weights that only make neurons (of experts that are picked by position) vary as the present ones do.
    Parameters per neuron (biases, scales, statistics) start at their neutral value.

    Where the weight is a function of the parameter, new entries are drawn from those that there are, so that they are
    of their kind (positive, say); entries that read a new neuron are where the function is zero, or near that place
    if the function has no derivative there, so that they can learn.
    """
    weight = entries.leaf.weight
    if weight is not None and not weight.switches:
        return _drawn(entries)
    if entries.leaf.new is not None or not jnp.issubdtype(entries.old.dtype, jnp.inexact):
        return entries.off if entries.leaf.new is None else entries.leaf.new
    off = entries.off if weight is None or weight.near is None else weight.near
    if weight is not None and not weight.linear:
        drawn = _drawn(entries)
        return _with_made(entries, np.broadcast_to(off, entries.shape).astype(drawn.dtype), drawn)
    values, draws, made = np.zeros(entries.shape), generator(entries.key), entries.made
    fan_in = max(1, math.prod(size for d, size in enumerate(entries.shape) if d not in made))
    scale = float(np.std(entries.old)) if len(made) == len(entries.shape) else 1 / np.sqrt(fan_in)
    for dim in made:
        axis = entries.axes[dim]
        if axis is not None and axis.new.size:
            index = (slice(None),) * dim + (axis.new,)
            values[index] = draws.normal(size=values[index].shape) * scale
    return values


def _drawn(entries: NewEntries) -> Shaped[np.ndarray, "*after"]:
    """Entries drawn from those that there are."""
    known = np.asarray(entries.old).ravel()
    return generator(entries.key).choice(known, entries.shape) if known.size else np.zeros(entries.shape, known.dtype)


def _with_made(
    entries: NewEntries, values: Shaped[np.ndarray, "*after"], made: Shaped[np.ndarray, "*after"]
) -> Shaped[np.ndarray, "*after"]:
    """Values, with others where new neurons are made."""
    for dim in entries.made:
        axis = entries.axes[dim]
        if axis is not None and axis.new.size:
            index = (slice(None),) * dim + (axis.new,)
            values[index] = made[index]
    return values


def zeros(entries: NewEntries) -> object:
    """Zero weights; scales and variances start at 1."""
    weight = entries.leaf.weight
    if weight is not None and not weight.switches:
        return _drawn(entries)  # another parameter makes the weight zero
    return entries.off if entries.leaf.new is None else entries.leaf.new


def initialised(entries: NewEntries) -> object:
    """The layer's own initialiser; the function is not kept."""
    if entries.leaf.init is None:
        return keep_function(entries)
    dtype = entries.old.dtype if jnp.issubdtype(entries.old.dtype, jnp.inexact) else jnp.float32
    return np.asarray(entries.leaf.init(entries.key, entries.shape, dtype))


def copied(entries: NewEntries, values: Shaped[np.ndarray, "*after"]) -> Shaped[np.ndarray, "*after"]:
    """The whole parameter after a split: new neurons are copies of surviving ones, and the function is kept.

    Entries that read a neuron which now exists m times are divided by m, old entries too. Net2WiderNet (Chen,
    Goodfellow and Shlens, Net2Net: Accelerating Learning via Knowledge Transfer, ICLR 2016). Where the weight is a
    function of the parameter and does not share alike, the neuron that was there is read as before, and its copies by
    weights of zero.

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
        if entries.leaf.roles[dim] == "out":  # a copy reads new neurons as the neuron does that it copies
            values = np.take(values, _survivors(entries.axes[dim], model), axis=dim)
        shape = [-1 if d == dim else 1 for d in range(len(models))]
        known &= (model != NEW).reshape(shape)
        if entries.leaf.shared_out(dim):
            copies = copies / _shares(entries, model).reshape(shape)
        elif entries.leaf.roles[dim] == "in" and entries.leaf.weight is not None and entries.leaf.weight.switches:
            axis = entries.axes[dim]
            assert axis is not None  # it has new neurons
            known &= (axis.source != NEW).reshape(shape)
    return np.where(known, copies, values).astype(entries.old.dtype)


def _survivors(axis: AxisPlan | None, model: Int[np.ndarray, " after"]) -> Int[np.ndarray, " after"]:
    """Shape (after,): the position after the change of the neuron that each one copies; its own if it copies none."""
    assert axis is not None  # it has new neurons
    now = np.full(axis.before, NEW)
    now[axis.source[axis.source != NEW]] = np.flatnonzero(axis.source != NEW)
    return np.where(model == NEW, np.arange(len(model)), now[np.maximum(model, 0)])


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
