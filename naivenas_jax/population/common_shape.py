"""The common shape of networks that differ in widths, and where the neurons of each of them lie in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from naivenas_jax.align.axis_plan import NEW, AxisPlan, Positions
from naivenas_jax.align.plan import Plan
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.map_ops import with_sizes
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
    """

    graph: Graph
    variables: Variables
    places: Mapping[int, Positions]


def at_run_sizes(graph: Graph, sizes: Mapping[int, int]) -> Graph:
    """The same network with other sizes of its runs of neurons."""
    return with_sizes(graph, graph.ties.sizes_with(sizes))


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
