"""States of two networks, carried to a child of both: each entry goes where its weight went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import jax
import numpy as np
from jaxtyping import Bool

from naivenas_jax.align.axis_plan import NEW, AxisPlan
from naivenas_jax.align.plan import Plan
from naivenas_jax.errors import CarryError
from naivenas_jax.paths import Path
from naivenas_jax.transfer.carrying import factored
from naivenas_jax.transfer.carrying.carry import CarryReport, carry, log
from naivenas_jax.transfer.carrying.carry_rules import variable_of
from naivenas_jax.transfer.carrying.match import VariableMatcher
from naivenas_jax.transfer.carrying.states import StateLeaf, leaves_and_holes
from naivenas_jax.transfer.take import placed_like, to_host
from naivenas_jax.transfer.variables import plain
from naivenas_jax.typing import PyTree, Shape, Variables

#: For each entry of an array whether it is one of the second network.
Theirs: TypeAlias = Bool[np.ndarray, "..."]


@dataclass(frozen=True, eq=False)
class SecondParent:
    """What a child of two networks has from the second.

    Attributes:
      variables: of the second network.
      plans: where each neuron of the child lies in the first network, and where in the second, whichever its weights
        are from.
      owners: where both have weights, for each axis of the child, shape (neurons,), which neurons have those of the
        second.
      makes: for each variable the dimension whose neurons it belongs to, if it belongs to any.
    """

    variables: Variables
    plans: tuple[Plan, Plan]
    owners: Mapping[str, Bool[np.ndarray, " neurons"]] = field(default_factory=dict)
    makes: Mapping[Path, int | None] = field(default_factory=dict)

    def theirs(self, path: Path, shape: tuple[int, ...]) -> Theirs:
        """Which entries of a variable of the child are those of the second network.

        An entry is the one of the network that its neuron is chosen from, if that has the neuron which is read as well;
        else the one of the other.
        """
        one, two = (held(plan, path, shape) for plan in self.plans)
        dim, axes = self.makes.get(path), self.plans[0].leaves[path]
        axis = None if dim is None else axes[dim]
        wanted = np.zeros(shape, bool) if axis is None or dim is None else _along(self.owners[axis], dim, len(shape))
        entries: Theirs = two & (wanted | ~one)
        return entries


def held(plan: Plan, path: Path, shape: tuple[int, ...]) -> Theirs:
    """Which entries of a variable a network has, of which a plan says where the neurons lie in it."""
    if path in plan.created:
        return np.zeros(shape, bool)
    known = np.ones(shape, bool)
    for dim, axis in enumerate(plan.leaves[path]):
        if axis is not None:
            known &= _along(plan.axes[axis].source != NEW, dim, len(shape))
    return known


def _along(values: Bool[np.ndarray, " neurons"], dim: int, ndim: int) -> Theirs:
    return values.reshape([-1 if d == dim else 1 for d in range(ndim)])


def carry_both(
    parent: SecondParent,
    trees: tuple[PyTree, PyTree],
    before: PyTree,
    after: PyTree,
    *,
    fresh: PyTree = None,
    new: Literal["zeros", "params"] = "zeros",
    under: Path = (),
) -> tuple[PyTree, CarryReport]:
    """Carry the trees of two networks to their child: every entry goes where its weight went.

    Args:
      parent: what the child has from the second network.
      trees: of the first network, and of the second. What belongs to no variable (step counts) is the first one's.
      before: the variables of the first network.
      after: the variables of the child.
      fresh, new, under: as for `carry`.

    Returns:
      The carried tree, and a report, as of `carry`.

    Raises:
      CarryError: if the trees have different structures; and as `carry`.
    """
    olds = (before, plain(parent.variables))
    (ours, found), (theirs, _) = (
        carry(plan, tree, old, after, fresh=fresh, new=new, under=under, quiet=True)
        for plan, tree, old in zip(parent.plans, trees, olds, strict=True)
    )
    axes = {name: AxisPlan.identity(axis.after) for name, axis in parent.plans[0].axes.items()}
    variables = VariableMatcher.of(Plan(axes, parent.plans[0].leaves), after, after, under)
    leaves, others = (
        [leaf for leaf in leaves_and_holes(tree, variables.spelled) if not leaf.hole] for tree in (ours, theirs)
    )
    _check_alike(leaves, others)
    pairs = [(leaf, other.value) for leaf, other in zip(leaves, others, strict=True)]
    values = [_merged(leaf, value, parent, variables) for leaf, value in pairs]
    known = {leaf.label for leaf, value in zip(leaves, values, strict=True) if value is not leaf.value}
    again = tuple((label, reason) for label, reason in found.restarted if label not in known)
    carried = tuple(leaf.label for leaf in leaves if leaf.label in known or leaf.label in found.carried)
    report = CarryReport(carried, again)
    log(report)
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(ours), values), report


def _check_alike(ours: list[StateLeaf], theirs: list[StateLeaf]) -> None:
    """Raise unless two trees for the same network have the same leaves; optimizers are others where made twice.

    Raises:
      CarryError: names leaves that one of them lacks.
    """
    names, others = ({leaf.names: leaf.label for leaf in leaves} for leaves in (ours, theirs))
    if list(names) != list(others):
        lacking = [label for path, label in names.items() if path not in others]
        more = [label for path, label in others.items() if path not in names]
        raise CarryError(
            "second= must be a tree like the first one, the state of the same optimizer. Carried to the child, it "
            f"lacks {', '.join(lacking[:3]) or 'nothing'}, and has {', '.join(more[:3]) or 'nothing'} besides."
        )


def _merged(leaf: StateLeaf, other: PyTree, parent: SecondParent, variables: VariableMatcher) -> PyTree:
    path = variable_of(variables, leaf)
    if path is None or not leaf.shape or isinstance(leaf.value, Shape) or isinstance(other, Shape):
        return leaf.value
    wanted = _like(leaf, parent.theirs(path, variables.shape(path)))
    if not wanted.any():
        return leaf.value
    values = to_host(leaf.value)
    return placed_like(np.where(wanted, to_host(other).astype(values.dtype), values), leaf.value)


def _like(leaf: StateLeaf, wanted: Theirs) -> Theirs:
    """The entries of a leaf; a mean over several entries is of the network that most of them are from."""
    if leaf.shape == wanted.shape:
        return wanted
    if leaf.shape == factored.UNUSED:
        return np.zeros(leaf.shape, bool)
    dim = factored.reduced(leaf.owner.field, wanted.shape)
    mostly: Theirs = wanted.mean(axis=dim) > 0.5
    return mostly
