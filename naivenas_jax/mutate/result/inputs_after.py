"""Inputs for the new network, made of those for the old one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import jax
import numpy as np

from naivenas_jax.align.axis_plan import AxisPlan
from naivenas_jax.align.plan import Plan
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.source import holds_words
from naivenas_jax.transfer.take import take
from naivenas_jax.typing import Array, Shape

A = TypeVar("A", bound=Array | Shape)


def inputs_after(before: Graph, plan: Plan, inputs: Sequence[A]) -> list[A]:
    """The same inputs without the neurons that the plan drops, and zero where it adds some.

    Args:
      before: the graph before the change.
      plan: of the change.
      inputs: arrays or shapes, one per input of the graph, neurons on the last dimension. Indices of neurons (tokens)
        stay as they are.
    """
    found = []
    for vertex, given in zip(before.inputs, inputs, strict=True):
        axis = plan.axes.get(vertex.name)
        resized = axis is not None and axis.changed and np.shape(given)[-1:] == (axis.before,)
        words = holds_words(before.ties, vertex.name, vertex.op, given)
        found.append(_resized(given, axis) if resized and axis and not words else given)
    return found


def _resized(given: A, axis: AxisPlan) -> A:
    if isinstance(given, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((*given.shape[:-1], axis.after), given.dtype)  # type: ignore[return-value]
    array = given if isinstance(given, np.ndarray | jax.Array) else np.asarray(given)
    return take(array, [*[None] * (array.ndim - 1), axis.source])  # type: ignore[return-value]  # an array
