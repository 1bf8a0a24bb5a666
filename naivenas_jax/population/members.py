"""The members of a population as they are given, and the places of their neurons in a common shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from naivenas_jax.align.axis_plan import NEW, Positions
from naivenas_jax.checks import as_items, shown
from naivenas_jax.errors import PlanError, StructureError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.map_ops import with_axes
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.population.common_shape import Placed, common_graph, plan_to, there_and_back
from naivenas_jax.population.run_positions import positions_of_runs, sizes_of_runs
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.transfer.variables import check_network
from naivenas_jax.typing import Variables

#: A member of a population, as it is given: a change of a network, or a network with its variables.
Member: TypeAlias = Mutation | tuple[Graph, Variables]
#: For each run of neurons that is no product the place of each of its neurons.
Places: TypeAlias = Mapping[int, Positions]


def placed_members(members: Sequence[Member], ladder: Sequence[int] = ()) -> tuple[Graph, list[Placed]]:
    """The graph of the common shape, and every member in it.

    Neurons of a common ancestor keep their places, and those that a mutation has added come behind them. Without an
    ancestor neurons of different members are aligned by position.

    Args:
      members: mutations of one network, or networks of one structure.
      ladder: sizes in rising order, to the next of which those of the common shape are rounded up.

    Raises:
      StructureError: if the members have no common structure.
    """
    ancestor = ancestor_of(members)
    if ancestor is not None:
        first = ancestor
        whole = _in_order(ancestor.ties)
        placed = [_changed(ancestor.ties, change, whole, number) for number, change in _changes(members)]
    else:
        first = as_pair(members[0])[0]
        placed = [_by_position(first, member, number) for number, member in enumerate(members)]
    common = common_graph(first, placed, ladder)
    for number, member in enumerate(placed):
        _check_structure(common, member, number)
    return common, placed


def listed(members: object) -> list[Member]:
    """The members that a user gave, in a list.

    Raises:
      PlanError: if there are none, or it is no collection.
    """
    items = None if isinstance(members, Mapping | Mutation) else as_items(members)
    if not items:
        raise PlanError(
            "members= takes a list of mutations of one network, or of pairs of a graph and its variables; found "
            f"{shown(members)}."
        )
    return [as_member(item, number) for number, item in enumerate(items)]


def ancestor_of(members: Sequence[Member]) -> Graph | None:
    """The network that all members are changes of, if there is one whose structure they have."""
    changes = [member for member in members if isinstance(member, Mutation)]
    first = changes[0].before if changes else None
    same = len(changes) == len(members) and all(c.before == first and not _restructures(c) for c in changes)
    return first if same else None


def as_member(given: object, number: int) -> Member:
    """What a user gave for a member.

    Raises:
      PlanError: if it is neither a mutation nor a pair of a graph and its variables.
    """
    found = recognised(given)
    if found is not None:
        return found
    raise PlanError(
        f"Member {number} is {given!r:.80}. Members are mutations, or pairs (graph, variables), to which these unpack."
    )


def recognised(given: object) -> Member | None:
    """A mutation, or a pair of a graph and its variables; None if ``given`` is neither."""
    if isinstance(given, Mutation):
        return given
    if isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[0], Graph):
        return given[0], given[1]
    return None


def as_pair(member: Member) -> tuple[Graph, Variables]:
    """A member as a network."""
    return (member.graph, member.variables) if isinstance(member, Mutation) else member


def placed_in(common: Graph, change: Member, others: Iterable[Places]) -> Placed:
    """A further member, in the common shape of others.

    Args:
      common: the network in the common shape.
      change: a mutation of one of the others or of another network, or a network with its variables.
      others: the places of each of them, for the runs in which they differ.

    Raises:
      StructureError: if it has another structure, or needs more neurons than there are places.
    """
    ties = common.ties
    if not isinstance(change, Mutation) or _restructures(change):
        placed = _by_position(common, change, 0)
    else:
        before = sizes_of_runs(ties, _sizes(common, change.before))
        known = next((each for each in others if all(len(own) == before[run] for run, own in each.items())), {})
        places = {run: known.get(run, np.arange(n)) for run, n in before.items() if run not in ties.products}
        placed = _changed(change.before.ties, change, places, 0)
    for run, own in placed.places.items():
        if own.size and int(own.max()) >= ties.run_sizes[run]:
            axis = next(axis for axis, row in ties.axes.items() if run in row)
            raise StructureError(
                f"The new member does not fit in: it needs {int(own.max()) + 1} places for neurons of {axis!r}, and "
                f"the common shape has {ties.run_sizes[run]}. Make a new population: nas.Population.of([...])."
            )
    _check_structure(common, placed, 0)
    return placed


def _restructures(change: Mutation) -> bool:
    plan = change.plan
    return bool(plan.created or plan.removed or plan.moved or plan.renamed) or any(
        plan.leaves.get(path) != leaf.axes for path, leaf in change.before.ties.leaves.items()
    )


def _changes(members: Sequence[Member]) -> list[tuple[int, Mutation]]:
    return [(number, member) for number, member in enumerate(members) if isinstance(member, Mutation)]


def _in_order(ties: Ties) -> dict[int, Positions]:
    return {run: np.arange(n) for run, n in enumerate(ties.run_sizes) if run not in ties.products}


def _changed(ties: Ties, change: Mutation, places: Places, number: int) -> Placed:
    """A mutation of a network whose neurons have places: what stays keeps them, what is new gets free ones."""
    axes = change.plan.axes
    if not ties.axes.keys() <= axes.keys():
        raise StructureError(f"Member {number} is a mutation of a network of another structure: {change!r:.80}.")
    after = sizes_of_runs(ties, {axis: axes[axis].after for axis in ties.axes})
    sources = positions_of_runs(ties, axes, after)
    found = {run: _placed(own, places[run]) for run, own in sources.items()}
    return Placed(change.graph, change.variables, found, axes)


def _placed(source: Positions, places: Positions) -> Positions:
    """The places of the neurons of a run after a change: new ones come behind all others, or in gaps between them.

    Args:
      source: the old position of each neuron, or ``NEW``.
      places: the places of the old neurons.
    """
    new = np.flatnonzero(source == NEW)
    free = np.setdiff1d(np.arange(len(places) + len(new)), places)
    found = np.where(source == NEW, 0, places[source]) if len(places) else np.zeros(len(source), int)
    found[new] = free[: len(new)]
    return found


def _sizes(first: Graph, graph: Graph) -> Mapping[str, int]:
    """The sizes of the axes of a graph that has the axes of another one.

    Raises:
      StructureError: if it has not.
    """
    if graph.ties.sizes.keys() != first.ties.sizes.keys():
        raise StructureError("it has other axes of neurons than the first one")
    return graph.ties.sizes


def _by_position(first: Graph, member: Member, number: int) -> Placed:
    """A network by itself: its neurons come first in every run."""
    graph, variables = as_pair(member)
    check_network(graph, variables)
    try:
        sizes = sizes_of_runs(first.ties, _sizes(first, graph))
    except StructureError as error:
        raise _other_structure(number, str(error)) from error
    places = {run: np.arange(n) for run, n in sizes.items() if run not in first.ties.products}
    return Placed(graph, variables, places)


def _check_structure(common: Graph, member: Placed, number: int) -> None:
    """Raise unless a member is the network of the common shape with other widths."""
    graph = with_axes(common, plan_to(common.ties, member.places))
    if graph == member.graph:
        return
    told = (there_and_back(common, each, member.places) for each in (graph, member.graph))
    if next(told) != next(told):
        raise _other_structure(number, "its graph is not that of the first one with other widths")


def _other_structure(number: int, why: str) -> StructureError:
    return StructureError(
        f"Member {number} has another structure: {why}. A population holds networks that differ in widths alone, with "
        "the same functions (which are compared by identity); nas.populations sorts members."
    )
