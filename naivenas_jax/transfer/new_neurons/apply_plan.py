"""A plan applied to the variables of a network: what stays, and what new neurons start at."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from naivenas_jax.align.plan import Plan
from naivenas_jax.paths import Path
from naivenas_jax.sizes.ties import Leaf
from naivenas_jax.transfer.new_neurons.entries import entries_of, filled
from naivenas_jax.transfer.new_neurons.fills import copied
from naivenas_jax.transfer.new_neurons.strategy import Strategy
from naivenas_jax.transfer.take import placed_like, rescale, take
from naivenas_jax.transfer.variables import flat, nested
from naivenas_jax.typing import Array, PyTree, Shape, Variables


def transfer(
    plan: Plan, leaves: Mapping[Path, Leaf], variables: Variables, strategy: Strategy, rng: jax.Array | None
) -> dict[str, PyTree]:
    """New variables: kept entries as they were, new entries by a strategy. Leaves that do not change are shared.

    Args:
      plan: where each neuron comes from.
      leaves: what lies on the dimensions of each variable of the graph before.
      variables: of the graph before; leaves that the plan removes are left out.
      strategy: what new entries are.
      rng: a key, or None.

    Raises:
      PlanError: if the strategy gives no numbers, or values of another shape.
    """
    strategy.check_names(leaves)
    return nested(
        {
            path: _transferred(path, array, plan, leaves[path], strategy, rng)
            for path, array in flat(variables).items()
            if path in leaves and path not in plan.removed
        }
    )


def _transferred(
    path: Path, array: Array | Shape, plan: Plan, leaf: Leaf, strategy: Strategy, rng: jax.Array | None
) -> Array | Shape:
    if path not in plan.rescaled and plan.changed.keys().isdisjoint(leaf.axes):
        return array
    changing = [None if axis is None else plan.changed.get(axis) for axis in leaf.axes]
    sources = [None if axis is None else axis.source for axis in changing]
    grows = any(axis is not None and axis.new.size for axis in changing)
    if path in plan.rescaled:
        array = rescale(array, plan.factor(path))
    if not grows or isinstance(array, Shape | jax.core.Tracer):
        return take(array, sources)
    axes = tuple(None if axis is None else plan.axes[axis] for axis in leaf.axes)
    entries = entries_of(path, array, axes, leaf, rng)
    values = filled(entries, strategy.fill)
    return placed_like(copied(entries, values), array) if strategy.copies else take(array, sources, values)
