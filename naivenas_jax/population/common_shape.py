"""The common shape of networks that differ in widths, and where the neurons of each of them lie in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from naivenas_jax.align.axis_plan import NEW, AxisPlan, Positions
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.map_ops import with_axes
from naivenas_jax.sizes.origins import Origins
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.transfer.take import take
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


def common_graph(first: Graph, members: Sequence[Placed], ladder: Sequence[int] = ()) -> Graph:
    """A network in the common shape of its changes; its own neurons come first in every run.

    Args:
      first: the network.
      members: its changes, or networks that differ from it in widths.
      ladder: sizes in rising order, to the next of which runs are rounded up.
    """
    whole = {run: np.arange(n) for run, n in enumerate(first.ties.run_sizes) if run not in first.ties.products}
    every = [whole, *(member.places for member in members)]
    sizes = {run: max(int(places[run].max(initial=-1)) + 1 for places in every if run in places) for run in whole}
    ties = first.ties.resized(_rounded_up(first, sizes, ladder) if ladder else sizes)
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


def free_runs(graph: Graph) -> frozenset[int]:
    """The runs whose size a search changes: neither fixed, nor of an input or output, nor words or layers."""
    ties = graph.ties
    ends = ties.plain(run for vertex in (*graph.inputs, *graph.outputs) for run in ties.axes[vertex.name])
    return ties.plain(range(len(ties.run_sizes))) - ends - ties.fixed.keys() - ties.indexed - ties.layers


def _rounded_up(graph: Graph, sizes: Mapping[int, int], ladder: Sequence[int]) -> dict[int, int]:
    """Sizes of runs, each as the next one of a ladder, but where the network could not have it."""
    ties, free = graph.ties, free_runs(graph)
    found = {run: next((n for n in ladder if n >= size and run in free), size) for run, size in sizes.items()}
    while broken := [each for each in ties.conditions if not each.holds(ties.sizes_with(found))]:
        back = {run: sizes[run] for each in broken for run in ties.plain(r for a in each.axes for r in ties.axes[a])}
        if back.items() <= found.items():
            break  # no rounding is to blame: the largest sizes of all members break it
        found |= back
    return found


def there_and_back(common: Graph, graph: Graph, places: Mapping[int, Positions]) -> Graph:
    """The graph of a member, widened everywhere and narrowed again: its layers say sizes that they leave out else.

    Args:
      common: the network in the common shape.
      graph: of the member.
      places: of its neurons.
    """
    ties = common.ties
    plain = (run for run in range(len(ties.run_sizes)) if run not in ties.products)
    wider = ties.resized({run: ties.run_sizes[run] + 1 for run in plain})
    way = plan_to(wider, places)
    return with_axes(with_axes(graph, inverse(way)), way)


def axis_places(ties: Ties, places: Mapping[int, Positions]) -> dict[str, Positions]:
    """For every axis of the common shape the places of the neurons of a member, in order."""
    member = Origins.of_classes(ties, {run: ties.starts[run] + own for run, own in places.items()})
    return {axis: member.positions(row) for axis, row in ties.axes.items()}


def plan_to(ties: Ties, places: Mapping[int, Positions]) -> dict[str, AxisPlan]:
    """From the common shape to a member, axis by axis."""
    return {axis: AxisPlan.of(ties.size(axis), own) for axis, own in axis_places(ties, places).items()}


def inverse(axes: Mapping[str, AxisPlan]) -> dict[str, AxisPlan]:
    """From a member to the common shape: neurons that it does not have are new."""
    return {name: _inverse(axis) for name, axis in axes.items()}


def _inverse(axis: AxisPlan) -> AxisPlan:
    source = np.full(axis.before, NEW)
    source[axis.source] = np.arange(axis.after)
    return AxisPlan.of(axis.after, source)


def moved(variables: Variables, ties: Ties, axes: Mapping[str, AxisPlan]) -> Variables:
    """Variables on other axes, as they are: nothing is rescaled, and new entries change nothing."""
    taken = {}
    for path, array in flat(variables).items():
        leaf = ties.leaves[path]
        taken[path] = take(array, [None if a is None else axes[a].source for a in leaf.axes], leaf.new or 0)
    made: Variables = as_given(nested(taken), variables)
    return made


def in_common_shape(ties: Ties, member: Placed) -> Variables:
    """The variables of a member in the common shape."""
    return moved(member.variables, ties, inverse(plan_to(ties, member.places)))
