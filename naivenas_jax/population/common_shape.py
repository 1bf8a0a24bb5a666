"""The common shape of networks that differ in widths, and where the neurons of each of them lie in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from naivenas_jax.align.axis_plan import NEW, AxisPlan, Positions
from naivenas_jax.align.plan import Plan
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.map_ops import with_axes
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.transfer.variables import as_given, flat, nested
from naivenas_jax.typing import Variables


@dataclass(frozen=True, eq=False)
class Placed:
    """A network whose neurons have their places in a larger shape.

    Attributes:
      graph: the network.
      variables: its variables.
      places: for each run of neurons that is no product the place of each of its neurons.
      axes: where the neurons of each axis came from, if it is a change of the network that all are changes of.
    """

    graph: Graph
    variables: Variables
    places: Mapping[int, Positions]
    axes: Mapping[str, AxisPlan] = field(default_factory=dict)


def common_graph(first: Graph, members: Sequence[Placed]) -> Graph:
    """A network in the common shape of its changes; its own neurons come first in every run.

    Args:
      first: the network.
      members: its changes, or networks that differ from it in widths.
    """
    whole = {run: np.arange(n) for run, n in enumerate(first.ties.run_sizes) if run not in first.ties.products}
    every = [whole, *(member.places for member in members)]
    sizes = {run: max(int(places[run].max(initial=-1)) + 1 for places in every if run in places) for run in whole}
    ties = first.ties.resized(sizes)
    own = axis_places(ties, whole)
    placed = [(axis_places(ties, member.places), member.axes) for member in members]
    axes = {}
    for axis, positions in own.items():
        source, twin = np.full(ties.size(axis), NEW), np.full(ties.size(axis), NEW)
        source[positions] = np.arange(len(positions))
        for places, changes in reversed(placed):
            if axis in changes:
                new = changes[axis].source == NEW
                twin[places[axis][new]] = changes[axis].twin[new]
        axes[axis] = AxisPlan.of(len(positions), source, np.where(source == NEW, twin, NEW))
    return with_axes(first, axes)


def there_and_back(common: Graph, member: Placed) -> Graph:
    """The graph of a member, widened and narrowed again: its layers say sizes that they leave out elsewhere."""
    way = {axis: _inverse(plan) for axis, plan in plan_to(common, member.places).items()}
    return graph_at(with_axes(member.graph, way), member.places)


def graph_at(common: Graph, places: Mapping[int, Positions]) -> Graph:
    """The network of a member."""
    return with_axes(common, plan_to(common, places))


def axis_places(ties: Ties, places: Mapping[int, Positions]) -> dict[str, Positions]:
    """For every axis of the common shape the places of the neurons of a member, in order."""
    return {axis: _row_places(ties, places, row) for axis, row in ties.axes.items()}


def _row_places(ties: Ties, places: Mapping[int, Positions], row: Sequence[int]) -> Positions:
    parts, start = [np.zeros(0, int)], 0
    for run in row:
        parts.append(start + _run_places(ties, places, run))
        start += ties.run_sizes[run]
    return np.concatenate(parts)


def _run_places(ties: Ties, places: Mapping[int, Positions], run: int) -> Positions:
    if run not in ties.products:
        return places.get(run, np.arange(ties.run_sizes[run]))
    whole = np.zeros(1, int)
    for row in ties.products[run]:
        whole = (whole[:, None] * ties.length(row) + _row_places(ties, places, row)[None, :]).ravel()
    return whole


def plan_to(common: Graph, places: Mapping[int, Positions]) -> dict[str, AxisPlan]:
    """From the common shape to a member, axis by axis."""
    sizes = common.ties.sizes
    return {axis: AxisPlan.of(sizes[axis], own) for axis, own in axis_places(common.ties, places).items()}


def back(plan: Plan) -> Plan:
    """From a member to the common shape: neurons that it does not have are new."""
    return Plan({name: _inverse(axis) for name, axis in plan.axes.items()}, plan.leaves)


def _inverse(axis: AxisPlan) -> AxisPlan:
    source = np.full(axis.before, NEW)
    source[axis.source] = np.arange(axis.after)
    return AxisPlan.of(axis.after, source)


def in_common_shape(ties: Ties, member: Placed) -> Variables:
    """The variables of a member in the common shape; where it has no neuron, what changes nothing."""
    places, arrays = axis_places(ties, member.places), {}
    for path, array in flat(member.variables).items():
        leaf = ties.leaves[path]
        shape = [n if axis is None else ties.size(axis) for n, axis in zip(np.shape(array), leaf.axes, strict=True)]
        whole = np.full(shape, leaf.new or 0, array.dtype)
        own = [np.arange(n) if a is None else places[a] for n, a in zip(shape, leaf.axes, strict=True)]
        whole[np.ix_(*own)] = array
        arrays[path] = whole
    made: Variables = as_given(nested(arrays), member.variables)
    return made
