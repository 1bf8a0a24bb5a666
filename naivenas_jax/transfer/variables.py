"""A plan applied to the variables of a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax.core import FrozenDict, freeze

from naivenas_jax.align.axis_plan import AxisPlan
from naivenas_jax.align.plan import Plan
from naivenas_jax.errors import PlanError, VariablesError
from naivenas_jax.graph.graph import Graph, require_graph
from naivenas_jax.paths import Path
from naivenas_jax.sizes.ties import Leaf
from naivenas_jax.transfer.new_neurons.fill import ByName, Fill, NewEntries, copied, key_for, split
from naivenas_jax.transfer.take import new_mask, new_shape, placed_like, rescale, take, to_host

Variables = Mapping[str, Any]


def flat(variables: Variables) -> dict[Path, Any]:
    """All arrays by path."""
    return dict(_walk(variables, ()))


def _walk(node: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _walk(value, (*path, str(key)))
    else:
        yield path, node


def nested(arrays: Mapping[Path, Any]) -> dict[str, Any]:
    """The inverse of `flat`."""
    tree: dict[str, Any] = {}
    for path, value in arrays.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = value
    return tree


def as_given(variables: Any, given: Any) -> Any:
    """Variables as a `FrozenDict` where those that a user gave are one, so that states of an optimizer fit them."""
    return freeze(variables) if isinstance(given, FrozenDict) else variables


def check_network(graph: Graph, variables: Variables) -> None:
    """Raise if ``graph`` is no graph, or the variables are not its own.

    Raises:
      GraphError, VariablesError: names what was found.
    """
    ties = require_graph(graph).ties
    check_variables(ties.leaves, ties.sizes, variables)


def check_variables(leaves: Mapping[Path, Leaf], sizes: Mapping[str, int], variables: Variables) -> None:
    """Raise if the variables are not those of a graph with these leaves.

    Raises:
      VariablesError: names the first variable that is missing, unknown, or of another shape.
    """
    if not isinstance(variables, Mapping):
        raise VariablesError(
            f"variables must be a dict of collections, {{'params': ...}}, as graph.init makes it; found "
            f"{type(variables).__name__}."
        )
    found = flat(variables)
    for path, leaf in leaves.items():
        if path not in found:
            raise VariablesError(
                f"The variables have no {_show(path)}, which the graph needs. Found: {_some(found)}. Are they those of "
                "another graph, or is a collection missing?"
            )
        if isinstance(found[path], jax.core.Tracer):
            raise VariablesError(
                f"{_show(path)} is traced. Mutations change shapes and happen outside jax.jit, jax.grad and jax.vmap: "
                "change the graph and its variables first, then call the transformed function with the result."
            )
        shape = tuple(np.shape(found[path]))
        wanted = tuple(None if axis is None else sizes[axis] for axis in leaf.axes)
        if len(shape) != len(wanted) or any(w not in (None, n) for n, w in zip(shape, wanted, strict=True)):
            expected = ", ".join("any" if n is None else str(n) for n in wanted)
            raise VariablesError(
                f"{_show(path)} has shape {shape}, but in this graph it must have ({expected}). The variables belong "
                "to another graph, or to this one before or after a mutation."
            )
    unknown = [path for path in found if path not in leaves]
    if unknown:
        raise VariablesError(
            f"The graph has no variable {_show(unknown[0])}, so what lies on its axes is unknown. The variables belong "
            f"to another graph, or a registered layer leaves it out of leaves=. The graph has: {_some(leaves)}."
        )


def _show(path: Path) -> str:
    return "variables" + "".join(f"[{key!r}]" for key in path)


def _some(paths: Mapping[Path, Any], most: int = 6) -> str:
    shown = ", ".join("/".join(path) for path in list(paths)[:most])
    return shown + (", ..." if len(paths) > most else "") if paths else "nothing"


def transfer(plan: Plan, leaves: Mapping[Path, Leaf], variables: Variables, fill: Fill, rng: Any) -> dict[str, Any]:
    """New variables: kept entries as they were, new entries as ``fill`` says. Leaves that do not change are shared.

    Args:
      plan: what to keep.
      leaves: of the graph that the variables belong to.
      variables: the old ones; leaves that the plan removes are left out.
      fill: what new entries are.
      rng: a key, or None.
    """
    if isinstance(fill, ByName):
        fill.check(leaves)
    arrays = flat(variables)
    result = {
        path: _one(path, array, plan, leaves[path], fill, rng)
        for path, array in arrays.items()
        if path in leaves and path not in plan.removed
    }
    return nested(result)


def _one(path: Path, array: Any, plan: Plan, leaf: Leaf, fill: Fill, rng: Any) -> Any:
    axes = tuple(None if axis is None else plan.axes[axis] for axis in leaf.axes)
    sources = [None if axis is None else axis.source for axis in axes]
    grows = any(axis is not None and axis.new.size for axis in axes)
    array = rescale(array, plan.factor(path))
    if not grows or isinstance(array, jax.ShapeDtypeStruct | jax.core.Tracer):
        return take(array, sources)
    entries = entries_of(path, array, axes, leaf, rng)
    values = filled(entries, fill)
    return placed_like(copied(entries, values), array) if fill is split else take(array, sources, values)


def entries_of(path: Path, array: Any, axes: tuple[AxisPlan | None, ...], leaf: Leaf, rng: Any) -> NewEntries:
    """What a fill function gets to see."""
    old = to_host(array)
    sources = [None if axis is None else axis.source for axis in axes]
    shape = new_shape(sources, old.shape)
    return NewEntries(path, old, shape, new_mask(sources, old.shape), axes, leaf, key_for(rng, path))


def filled(entries: NewEntries, fill: Fill) -> np.ndarray:
    """What ``fill`` makes of the entries, in their shape.

    Raises:
      PlanError: if it returned no numbers, or an array that does not broadcast.
    """
    given = fill(entries)
    values = np.asarray(given)
    if values.dtype.kind in "OSUmM":
        raise PlanError(f"new= returned {given!r:.80} for {_show(entries.path)}; it must be an array of numbers.")
    try:
        values = np.broadcast_to(values, entries.shape)
    except ValueError as error:
        raise PlanError(
            f"new= returned shape {values.shape} for {_show(entries.path)}; it must be {entries.shape} or "
            "broadcast to it."
        ) from error
    return values
