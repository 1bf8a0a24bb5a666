"""A plan applied to any tree that is shaped like the variables it was made for: `Plan.apply`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import jax
import numpy as np

from naivenas_jax.align.plan import Plan
from naivenas_jax.checks import shown
from naivenas_jax.errors import PlanError
from naivenas_jax.paths import Path, path_text
from naivenas_jax.transfer.take import LeafValue, Sources, new_shape, rescale, shape_of_leaf, take
from naivenas_jax.transfer.variables import flat, handed_out, nested
from naivenas_jax.typing import PyTree, Shape

Leaves: TypeAlias = Mapping[Path, LeafValue]


def apply(self: Plan, tree: PyTree, *, new: PyTree = None, sharding: PyTree = None) -> PyTree:
    """Apply the plan to a tree that is shaped like the variables it was made for, leaf by leaf.

    Every entry that stays is taken over to the bit, and multiplied by `factor` where the plan rescales the leaf. Needed
    are neither a graph nor a network: a plan that was read with `from_json` does the same in another process. For the
    states of optimizers there is ``Mutation.carry``, which finds out what is shaped like the variables.

    Args:
      tree: the variables, ``{"params": ..., "batch_stats": ...}``, in mappings of any kind; only some of the
        collections; or ``params`` alone, also as another pytree. Leaves may be jax or numpy arrays, or their
        ``jax.ShapeDtypeStruct``.
      new: what new entries are. "zeros"; or a tree of the new shape, such as ``mutation.variables``, that has them and
        the leaves that the plan creates, of which only these are read. None: there must be none.
      sharding: where the new leaves are to lie: one ``jax.sharding.Sharding`` for all, or a tree of the new shape of
        them. None: where the old leaf lies, if that divides the new shape.

    Returns:
      The tree in the new shape, in mappings of the kind that was given. A jax array that does not change is the
      same one.

    Raises:
      PlanError: if a leaf is missing, unknown to the plan or of another shape, all of which are named; if entries are
        new and ``new`` does not say what they are; if a sharding does not divide the new shape of its leaf; if a leaf
        is traced, or spread over several processes.

    >>> import numpy as np
    >>> from naivenas_jax import AxisPlan, Plan
    >>> plan = Plan({"a": AxisPlan.of(3, [0, 2, -1])}, {("params", "a", "bias"): ("a",)})
    >>> averages = {"params": {"a": {"bias": np.array([1.0, 2.0, 3.0])}}}
    >>> Plan.from_json(plan.to_json()).apply(averages, new="zeros")
    {'params': {'a': {'bias': array([1., 3., 0.])}}}
    """
    inside = _inside_params(self, tree)
    arrays = _flat(self, tree)
    _check_paths(self, arrays)
    given: Leaves = {} if new is None or isinstance(new, str) else _flat(self, new)
    if isinstance(new, str) and new != "zeros":
        raise PlanError(f'new={new!r} is unknown: it is "zeros", a tree of the new shape, or None.')
    made: dict[Path, PyTree] = {}
    for path in _paths_after(self, arrays):
        if path in self.created:
            made[path] = _created(self, path, given)
        else:
            array = arrays[self.moved.get(path, path)]
            _check_shape(self, path, array)
            made[path] = _taken(self, path, array, given, zeros=isinstance(new, str))
    if sharding is not None:
        one = isinstance(sharding, jax.sharding.Sharding)
        made = _placed(made, dict.fromkeys(made, sharding) if one else _flat(self, sharding))
    variables = nested(made)
    return handed_out(variables["params"] if inside else variables, tree)


Plan.apply = apply  # type: ignore[assignment]  # a function becomes a method


def _inside_params(plan: Plan, tree: PyTree) -> bool:
    """Whether a mapping is the collection "params", and not one of collections."""
    if not isinstance(tree, Mapping):
        return False
    collections = {path[0] for path in {*plan.leaves, *plan.removed, *plan.moved.values()}}
    return not set(map(str, tree)) <= collections and "params" in collections


def _flat(plan: Plan, tree: PyTree) -> dict[Path, PyTree]:
    """The leaves of a tree by their path among the variables."""
    return flat({"params": tree} if _inside_params(plan, tree) else tree)


def _old_paths(plan: Plan) -> set[Path]:
    """The paths of all leaves that the plan was made for."""
    return {plan.moved.get(path, path) for path in plan.leaves.keys() - plan.created} | plan.removed


def _check_paths(plan: Plan, arrays: Leaves) -> None:
    """Raise unless these are all leaves of some of the collections."""
    known, collections = _old_paths(plan), {path[0] for path in arrays}
    unknown = sorted(arrays.keys() - known)
    missing = sorted(path for path in known - arrays.keys() if path[0] in collections)
    if unknown or missing or (known and not arrays):
        found = [f"it has {path_text(path)}, which the plan does not know" for path in unknown[:1]]
        found += [f"it lacks {path_text(path)}" for path in missing[:1]] or ["it has no leaves"] * (not arrays)
        raise PlanError(
            f"The tree is not shaped like the variables that the plan was made for: {' and '.join(found)}. It takes "
            "variables as they were before the change, whole collections of them, or the collection params alone; "
            "mutation.carry takes the state of an optimizer."
        )


def _paths_after(plan: Plan, arrays: Leaves) -> list[Path]:
    """The paths of the leaves of the result, those that the tree has had in its order."""
    new_by_old = {plan.moved.get(path, path): path for path in plan.leaves if path not in plan.created}
    collections = {path[0] for path in arrays}
    created = [path for path in plan.leaves if path in plan.created and path[0] in collections | {"params"}]
    return [new_by_old[path] for path in arrays if path in new_by_old] + created


def _check_shape(plan: Plan, path: Path, array: LeafValue) -> None:
    """Raise unless a leaf has the sizes that the plan starts from."""
    sizes = [None if axis is None else plan.axes[axis].before for axis in plan.leaves[path]]
    _require(path, "has shape", array, sizes, "before")


def _require(path: Path, what: str, array: LeafValue, sizes: list[int | None], when: str) -> None:
    shape = shape_of_leaf(array)
    if len(shape) != len(sizes) or any(size not in (None, n) for n, size in zip(shape, sizes, strict=True)):
        expected = ", ".join("any" if size is None else str(size) for size in sizes)
        raise PlanError(
            f"{path_text(path)} {what} {shape}, and by the plan it has ({expected}) {when} the change. The tree is "
            "that of another network, or of this one at another time."
        )


def _taken(plan: Plan, path: Path, array: LeafValue, given: Leaves, zeros: bool) -> LeafValue:
    """A leaf in its new shape."""
    sources = [None if axis is None else plan.axes[axis].source for axis in plan.leaves[path]]
    return take(rescale(array, plan.factor(path)), sources, _fill(plan, path, array, sources, given, zeros))


def _fill(
    plan: Plan, path: Path, array: LeafValue, sources: Sources, given: Leaves, zeros: bool
) -> jax.Array | np.ndarray | int:
    """What the new entries of a leaf are."""
    grown = [axis for axis in plan.leaves[path] if axis is not None and plan.axes[axis].new.size]
    if not grown or zeros or isinstance(array, Shape) or not _has_entries(array, sources):
        return 0
    if path not in given:
        raise PlanError(
            f"{path_text(path)} has new entries, along the axis {grown[0]!r} ({plan.axes[grown[0]]!r}), and the plan "
            'does not say what they are. Pass new="zeros", or a tree of the new shape that has them, such as '
            "new=mutation.variables."
        )
    values = given[path]
    _require(path, "of new= has shape", values, list(new_shape(sources, shape_of_leaf(array))), "after")
    if isinstance(values, Shape):
        raise PlanError(f"{path_text(path)} has new entries, and new= holds only their shape. Give the arrays.")
    return np.asarray(values)


def _has_entries(array: LeafValue, sources: Sources) -> bool:
    """Whether any entry is new: there is none where another dimension has no neurons."""
    return 0 not in new_shape(sources, shape_of_leaf(array))


def _created(plan: Plan, path: Path, given: Leaves) -> LeafValue:
    """A leaf that the plan creates."""
    if path not in given:
        raise PlanError(
            f"The plan creates the leaf {path_text(path)}, and knows neither its dtype nor all of its sizes. Pass a "
            "tree of the new shape that has it, such as new=mutation.variables."
        )
    sizes = [None if axis is None else plan.axes[axis].after for axis in plan.leaves[path]]
    _require(path, "of new= has shape", given[path], sizes, "after")
    return given[path]


def _placed(arrays: Mapping[Path, PyTree], shardings: Mapping[Path, object]) -> dict[Path, PyTree]:
    """The leaves where they are asked to lie."""
    placed = {}
    for path, array in arrays.items():
        place = shardings.get(path)
        if not isinstance(place, jax.sharding.Sharding):
            raise PlanError(
                f"sharding= has {shown(place)} for {path_text(path)}. It is one jax.sharding.Sharding, or a tree of "
                "the new shape that has one for each leaf."
            )
        try:
            place.shard_shape(shape_of_leaf(array))
        except ValueError as error:
            raise PlanError(f"{path_text(path)} cannot lie as sharding= says: {error}") from error
        shape_only = isinstance(array, Shape)
        placed[path] = Shape(array.shape, array.dtype, sharding=place) if shape_only else jax.device_put(array, place)
    return placed
