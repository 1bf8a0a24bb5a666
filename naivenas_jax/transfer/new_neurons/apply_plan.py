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
from naivenas_jax.transfer.take import LeafValue, placed_all, rescaled_host, taken, to_host
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
    arrays = {path: a for path, a in flat(variables).items() if path in leaves and path not in plan.removed}
    changing = [path for path in arrays if _changes(path, plan, leaves[path])]
    late = [path for path in changing if _computed(leaves[path])]
    found = {**arrays, **{path: _kept(arrays[path], plan, leaves[path]) for path in late}}
    for path in changing:
        if path not in late:
            found[path] = _transferred(path, arrays[path], plan, leaves[path], strategy, rng)
    for path in late:  # where these weights are zero may depend on the other variables
        grows = any(axis is not None and plan.axes[axis].new.size for axis in leaves[path].axes)
        off = _off(arrays[path], leaves[path], found) if grows else 0.0
        found[path] = _transferred(path, arrays[path], plan, leaves[path], strategy, rng, off)
    return nested(_placed(found, arrays))


def _placed(found: Mapping[Path, Array | Shape], arrays: Mapping[Path, Array | Shape]) -> dict[Path, LeafValue]:
    """What was found, as the kinds of arrays that there were; what did not change is there already."""
    made = [path for path in arrays if found[path] is not arrays[path]]
    placed = placed_all([found[path] for path in made], [arrays[path] for path in made])
    return {**arrays, **dict(zip(made, placed, strict=True))}


def _changes(path: Path, plan: Plan, leaf: Leaf) -> bool:
    """Whether a plan changes a variable."""
    return not plan.changed.keys().isdisjoint(leaf.axes) or path in plan.rescaled


def _computed(leaf: Leaf) -> bool:
    """Whether a variable switches neurons off, and somewhere else than at 0."""
    return leaf.weight is not None and leaf.weight.switches and not leaf.weight.linear


def _kept(array: Array | Shape, plan: Plan, leaf: Leaf) -> Array | Shape:
    """What stays of a variable, and 0 in new entries."""
    if isinstance(array, jax.core.Tracer):
        return array
    changing = [None if axis is None else plan.changed.get(axis) for axis in leaf.axes]
    return taken(array, [None if axis is None else axis.source for axis in changing])


def _off(array: Array | Shape, leaf: Leaf, arrays: Mapping[Path, Array | Shape]) -> Array | float:
    """What the entries of a variable are to be for a weight of zero; ``arrays`` have their new shapes."""
    if leaf.weight is None or isinstance(array, Shape | jax.core.Tracer):
        return 0.0
    return leaf.weight.switched_off({path: one for path, one in arrays.items() if not isinstance(one, Shape)})


def _transferred(
    path: Path,
    array: Array | Shape,
    plan: Plan,
    leaf: Leaf,
    strategy: Strategy,
    rng: jax.Array | None,
    off: Array | float = 0.0,
) -> Array | Shape:
    changing = [None if axis is None else plan.changed.get(axis) for axis in leaf.axes]
    sources = [None if axis is None else axis.source for axis in changing]
    grows = any(axis is not None and axis.new.size for axis in changing)
    if path in plan.rescaled and not isinstance(array, Shape | jax.core.Tracer) and (factor := plan.factor(path)) != 1:
        array = rescaled_host(to_host(array), factor)
    if not grows or isinstance(array, Shape | jax.core.Tracer):
        return taken(array, sources)
    axes = tuple(None if axis is None else plan.axes[axis] for axis in leaf.axes)
    entries = entries_of(path, array, axes, leaf, rng, off)
    values = filled(entries, strategy.fill)
    return copied(entries, values) if strategy.copies else taken(array, sources, values)
