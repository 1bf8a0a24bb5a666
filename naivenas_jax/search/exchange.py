"""Two networks of one structure: each group of tied neurons from one parent or the other."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool

from naivenas_jax.align.axis_plan import NEW, AxisPlan, Positions
from naivenas_jax.align.plan import Plan
from naivenas_jax.errors import StructureError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.map_ops import map_ops, with_axes, with_ops
from naivenas_jax.layers.ops.layer_op import LayerOp
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.paths import Path, is_unnamed
from naivenas_jax.population.common_shape import Placed, axis_places, in_common_shape, plan_to
from naivenas_jax.population.members import Member, as_pair, placed_members
from naivenas_jax.sizes.origins import Origins
from naivenas_jax.sizes.ties import Leaf, Ties
from naivenas_jax.transfer.carrying.second_parent import SecondParent, held
from naivenas_jax.transfer.take import HostArray, placed_like, take, to_host
from naivenas_jax.transfer.undo import UndoRecord
from naivenas_jax.transfer.variables import flat, handed_out, nested
from naivenas_jax.typing import Array, PyTree, Shape

#: For each neuron whether it is one of the second parent's.
Theirs: TypeAlias = Bool[np.ndarray, " neurons"]
#: For each entry of a variable whether something holds of it.
Mask: TypeAlias = Bool[np.ndarray, " ..."]


@dataclass(frozen=True, eq=False)
class Choice:
    """The neurons of a child in one run.

    Attributes:
      places: of its neurons in the common shape.
      theirs: which of them have the weights of the second parent.
    """

    places: Positions
    theirs: Theirs


def exchange(first: Member, second: Member, rng: np.random.Generator, *, single: bool) -> Mutation:
    """A child of two networks of one structure, as a mutation of the first.

    Args:
      first: a network.
      second: another one.
      rng: draws which parent each group of tied neurons comes from.
      single: whether neurons of a group are drawn one by one, where they stand for themselves.

    Raises:
      StructureError: if the networks have not one structure.
    """
    common, (one, two) = _placed(first, second)
    ties = common.ties
    ours, theirs = (flat(in_common_shape(ties, parent)) for parent in (one, two))
    choices = _choices(common, one, two, _same(ties, one, two, ours, theirs), rng, single)
    graph = _child_graph(common, (one, two), choices)
    plan = _plan(ties, one, choices)
    parent = _second(ties, (one, two), choices, second)
    arrays = _variables(ties, parent, choices, ours, theirs)
    before, variables = as_pair(first)
    owners = parent.owners
    taken = {ties.axes[axis]: axis for axis in reversed([*owners]) if owners[axis].any() and not is_unnamed(axis)}
    return Mutation(
        graph=_as_usual(graph),
        variables=handed_out(nested(arrays), variables),
        plan=plan,
        before=before,
        notes=(f"crossover: from the second network {', '.join(map(repr, sorted(taken.values()))) or 'nothing'}",),
        variables_before=variables,
        undo_records=(UndoRecord.of(plan, variables, ties.leaves, False),),
        incomparable="weights come from two networks" if plan.changed else None,
        kind="crossover",
        second=parent,
    )


def _placed(first: Member, second: Member) -> tuple[Graph, list[Placed]]:
    """Both networks in a common shape.

    Layers whose axes depend on sizes may have others in the two networks: a convolution of groups of one channel is
    depthwise, and one of one group is plain. These are taken with the axes that they have in general.
    """
    try:
        return placed_members([first, second])
    except StructureError:
        one, two = as_pair(first)[0], as_pair(second)[0]
        names = {name for name, axes in _own_axes(one).items() if _own_axes(two).get(name, axes) != axes}
        if not names:
            raise
    return placed_members([(_in_general(as_pair(each)[0], names), as_pair(each)[1]) for each in (first, second)])


def _own_axes(graph: Graph) -> dict[str, object]:
    """For each vertex with a layer what lies on the dimensions of its variables, and how axes are composed."""
    rules = {vertex.name: vertex.op.rule for vertex in graph.vertices if isinstance(vertex.op, LayerOp)}
    return {name: (rule.leaves, rule.composed, rule.inner.keys()) for name, rule in rules.items()}


def _in_general(graph: Graph, names: Collection[str]) -> Graph:
    ops = {name: graph[name].op for name in names}
    return with_ops(graph, {name: op.in_general() for name, op in ops.items() if isinstance(op, LayerOp)})


def _as_usual(graph: Graph) -> Graph:
    return map_ops(graph, lambda vertex, _: vertex.op.as_usual() if isinstance(vertex.op, LayerOp) else vertex.op)


def _components(ties: Ties) -> list[frozenset[int]]:
    """Runs that are chosen together: the factors of a product, and whatever a condition is about."""
    whole = [ties.plain([product]) for product in ties.products]
    whole += [ties.plain(run for axis in each.axes for run in ties.axes[axis]) for each in ties.conditions]
    found = [frozenset([run]) for run in range(len(ties.run_sizes)) if run not in ties.products]
    for link in whole:
        joined = frozenset().union(*(each for each in found if each & link))
        found = [each for each in found if not each & link] + [joined]
    return sorted(found, key=min)


def _choices(
    common: Graph, one: Placed, two: Placed, same: frozenset[int], rng: np.random.Generator, single: bool
) -> dict[int, Choice]:
    """For each run that is no product the neurons of the child."""
    ties = common.ties
    inputs = ties.plain(run for vertex in common.inputs for run in ties.axes[vertex.name])
    ends = inputs | ties.plain(run for vertex in common.outputs for run in ties.axes[vertex.name])
    grouped = ties.plain(ties.products) | ties.indexed
    found: dict[int, Choice] = {}
    for component in _components(ties):
        second = bool(rng.integers(2)) and component.isdisjoint(inputs)  # nothing makes the neurons of an input
        for run in sorted(component):
            parents = one.places[run], two.places[run]
            if single and len(component) == 1 and component.isdisjoint(grouped | ends):
                found[run] = _mixed(*parents, second, rng)
            else:
                places = parents[1 if second and component.isdisjoint(ends) else 0]
                found[run] = Choice(places, np.isin(places, parents[1]) if second else np.zeros(len(places), bool))
            if run in same:  # the neurons of one parent are those of the other
                found[run] = Choice(parents[0], np.zeros(len(parents[0]), bool))
    return found


def _mixed(ours: Positions, theirs: Positions, second: bool, rng: np.random.Generator) -> Choice:
    """As many neurons as one parent has: those that both have, and others of either; each with the weights of one."""
    wanted = len(theirs) if second else len(ours)
    both = np.intersect1d(ours, theirs)
    others = rng.permutation(np.setxor1d(ours, theirs))[: wanted - len(both)]
    chosen = np.union1d(both, others)
    order = np.concatenate([theirs, ours] if second else [ours, theirs])
    places = np.array(list(dict.fromkeys(place for place in order.tolist() if place in set(chosen.tolist()))), int)
    drawn = rng.integers(2, size=len(places)).astype(bool)
    return Choice(places, np.where(np.isin(places, both), drawn, np.isin(places, theirs)))


def _same(
    ties: Ties, one: Placed, two: Placed, ours: Mapping[Path, Array], theirs: Mapping[Path, Array]
) -> frozenset[int]:
    """The runs on which both parents have the same neurons with the same weights."""
    runs = {run for run, places in one.places.items() if np.array_equal(places, two.places[run])}
    for path, leaf in ties.leaves.items():
        if not equal(ours[path], theirs[path]):
            runs -= {run for axis in leaf.axes if axis is not None for run in ties.plain(ties.axes[axis])}
    return frozenset(runs)


def equal(ours: Array | Shape, theirs: Array | Shape) -> bool:
    """Whether two arrays are equal to the bit; of shapes nothing is known."""
    if isinstance(ours, Shape) or isinstance(theirs, Shape):
        return False
    return ours is theirs or (ours.dtype == theirs.dtype and to_host(ours).tobytes() == to_host(theirs).tobytes())


def _child_graph(common: Graph, parents: Sequence[Placed], choices: Mapping[int, Choice]) -> Graph:
    for parent in parents:
        if all(np.array_equal(choice.places, parent.places[run]) for run, choice in choices.items()):
            return parent.graph
    return with_axes(common, plan_to(common.ties, {run: choice.places for run, choice in choices.items()}))


def _plan(ties: Ties, one: Placed, choices: Mapping[int, Choice]) -> Plan:
    """From a parent to the child: neurons with weights of the second are new. Nothing is rescaled."""
    before = ties.resized({run: len(places) for run, places in one.places.items()})
    classes = {}
    for run, choice in choices.items():
        position = np.full(ties.run_sizes[run], NEW)
        position[one.places[run]] = np.arange(len(one.places[run]))
        source = np.where(choice.theirs, NEW, position[choice.places])
        classes[run] = np.where(source == NEW, -1 - before.starts[run], before.starts[run] + source)
    origins = Origins.of_classes(before, classes)
    sources = {axis: np.maximum(origins.positions(row), NEW) for axis, row in before.axes.items()}
    axes = {axis: AxisPlan.of(before.size(axis), source) for axis, source in sources.items()}
    return Plan(axes, {path: leaf.axes for path, leaf in ties.leaves.items()})


def _second(ties: Ties, placed: tuple[Placed, Placed], choices: Mapping[int, Choice], second: Member) -> SecondParent:
    """What the child has from the second parent."""
    whole = {run: Choice(each.places, np.zeros(len(each.places), bool)) for run, each in choices.items()}
    first_plan, second_plan = (_plan(ties, parent, whole) for parent in placed)
    makes = {path: _owner(leaf) for path, leaf in ties.leaves.items()}
    return SecondParent(as_pair(second)[1], (first_plan, second_plan), _owners(ties, choices), makes)


def _owners(ties: Ties, choices: Mapping[int, Choice]) -> dict[str, Theirs]:
    """For each axis, which neurons of the child have the weights of the second parent."""

    def owners(row: Iterable[int]) -> Theirs:
        return np.concatenate([np.zeros(0, bool), *(of(run) for run in row)])

    def of(run: int) -> Theirs:
        if run not in ties.products:
            return choices[run].theirs
        factors = [owners(row) for row in ties.products[run]]
        return reduce(lambda a, b: (a[:, None] | b[None, :]).ravel(), factors)

    return {axis: owners(row) for axis, row in ties.axes.items()}


def _variables(
    ties: Ties,
    parent: SecondParent,
    choices: Mapping[int, Choice],
    ours: Mapping[Path, Array],
    theirs: Mapping[Path, Array],
) -> dict[Path, PyTree]:
    """The variables of the child: every entry is the one of a parent that has it, or counts for nothing."""
    places = axis_places(ties, {run: choice.places for run, choice in choices.items()})
    found: dict[Path, PyTree] = {}
    nowhere: dict[Path, Mask] = {}
    for path, leaf in ties.leaves.items():
        sources = [None if axis is None else places[axis] for axis in leaf.axes]
        mine, other = take(ours[path], sources), take(theirs[path], sources)
        if isinstance(mine, Shape) or isinstance(other, Shape) or all(axis is None for axis in leaf.axes):
            found[path] = mine
            continue
        one, two = (held(plan, path, mine.shape) for plan in parent.plans)
        found[path] = _either(parent.theirs(path, mine.shape), other, mine)
        nowhere[path] = ~one & ~two
    return {path: _counting_for_nothing(found, path, ties.leaves[path], nowhere.get(path)) for path in found}


def _either(second: Mask, other: Array, mine: Array) -> Array:
    """Entry by entry one of two arrays; the very array of the first where nothing is of the other."""
    if not second.any():
        return mine
    ours = to_host(mine)
    return placed_like(np.where(second, to_host(other).astype(ours.dtype), ours), mine)


def _counting_for_nothing(found: Mapping[Path, PyTree], path: Path, leaf: Leaf, nowhere: Mask | None) -> PyTree:
    """A variable whose entries that no parent has are what makes their weight nothing, if that is not 0."""
    weight = leaf.weight
    if nowhere is None or not nowhere.any() or weight is None or not weight.switches or weight.linear:
        return found[path]
    off = weight.switched_off({each: one for each, one in found.items() if not isinstance(one, Shape)})
    values: HostArray = to_host(found[path])
    return placed_like(np.where(nowhere, np.asarray(off).astype(values.dtype), values), found[path])


def _owner(leaf: Leaf) -> int | None:
    """The dimension whose neurons a variable belongs to: it makes them, else it is one number for each, else reads."""
    for role in ("out", None, "in"):
        dims = [d for d, axis in enumerate(leaf.axes) if axis is not None and leaf.roles[d] == role]
        if dims:
            return dims[-1]
    return None
