"""Names and axes of two plans that follow one another, for the plan of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from naivenas_jax.align.axis_plan import AxisPlan
from naivenas_jax.errors import PlanError

KeyT = TypeVar("KeyT")


def new_names(names: Iterable[KeyT], old_by_new: Mapping[KeyT, KeyT]) -> dict[KeyT, KeyT]:
    """The new name of each old one; without those whose name has been given to another."""
    new_by_old = {old: new for new, old in old_by_new.items()}
    return {name: new_by_old.get(name, name) for name in names if name in new_by_old or name not in old_by_new}


def first_names(names: Iterable[KeyT], first: Mapping[KeyT, KeyT], last: Mapping[KeyT, KeyT]) -> dict[KeyT, KeyT]:
    """The first name, by the last one, of everything for which these differ."""
    pairs = ((last[name], first.get(name, name)) for name in names)
    return {new: old for new, old in pairs if new != old}


def joint(late: str | None, early: str | None, in_both: bool) -> str | None:
    """The name of the axis of a dimension over two plans; a name of its own if the dimension was put on another.

    Args:
      late: the axis in the later plan; None: the size is fixed there.
      early: the axis in the earlier plan.
      in_both: if only one of the two is an axis, whether both plans have it. The dimension has been on it for a part of
        its changes only: the kernel of a depthwise convolution that is left with one channel reads like any other.
    """
    if late is None or early is None:
        return f"{early or 'fixed'} => {late or 'fixed'}" if in_both and (late or early) else late or early
    return late if late == early else f"{early} => {late}"


def axis_after(later: AxisPlan, earlier: AxisPlan | None, name: str) -> AxisPlan:
    """Two plans of the axis ``name`` as one."""
    if earlier is None:  # the axis came into being with the later plan
        return later
    if earlier.after != later.before:
        raise PlanError(
            f"Plans do not follow one another: the earlier leaves axis {name!r} with {earlier.after} neurons, "
            f"the later expects {later.before}. Compose as later @ earlier, in the order they were made."
        )
    return later.after_plan(earlier)
