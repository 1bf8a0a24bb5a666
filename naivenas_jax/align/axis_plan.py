"""Where each neuron of one axis comes from when a network changes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias, TypedDict

import numpy as np
from jaxtyping import Bool, Int

from naivenas_jax.checks import MOST_NEURONS, as_whole, shown
from naivenas_jax.errors import PlanError

#: Stands for a position where there is none: a new neuron has no source.
NEW = -1


class AxisJson(TypedDict):
    """An axis that changes, as `Plan.to_json` stores it."""

    before: int
    source: list[int]
    twin: list[int]


#: Positions on an axis, old or new.
Positions: TypeAlias = Int[np.ndarray, " neurons"]
#: Positions as they are given.
AnyPositions: TypeAlias = Iterable[int] | Int[np.ndarray, " _"]


@dataclass(frozen=True, eq=False)
class AxisPlan:
    """Where each neuron of one axis comes from.

    Attributes:
      before: the number of neurons before the change.
      source: shape (after,). The old position of each new position, or ``NEW``.
      twin: shape (after,). For a new neuron, the old position of a surviving neuron of its group, which it may copy;
        else ``NEW``.

    >>> from naivenas_jax import AxisPlan
    >>> axis = AxisPlan.of(4, [0, 2, -1])
    >>> axis
    4 -> 3, drops [1, 3], new at [2]
    >>> axis.before, axis.after, axis.changed
    (4, 3, True)
    >>> axis.kept.tolist(), axis.dropped.tolist(), axis.new.tolist()
    ([0, 2], [1, 3], [2])
    """

    before: int
    source: Int[np.ndarray, " after"]
    twin: Int[np.ndarray, " after"]

    @classmethod
    def of(cls, before: int, source: AnyPositions, twin: AnyPositions | None = None) -> AxisPlan:
        """A plan from positions that are checked.

        Args:
          before: the number of neurons before the change.
          source: for each new position the old one, or ``NEW``.
          twin: for each new position the old position of a neuron that it may copy, or ``NEW``; nothing is copied where
            not given.

        Returns:
          The plan, whose arrays are read-only.

        Raises:
          PlanError: if ``before`` is no number of neurons, a source is no old position or occurs twice, or there is not
            one twin for each source.

        >>> AxisPlan.of(3, [2, 0]).source.tolist()
        [2, 0]
        """
        size = _size(before, "before")
        frozen = _positions(source, "source")
        old = frozen[frozen != NEW]
        if old.size and (old.min() < 0 or old.max() >= before or np.bincount(old).max() > 1):
            raise PlanError(
                f"The sources of an axis of {before} neurons must be different positions from 0 to {before - 1}, or "
                f"{NEW} for a new neuron; found {_abbreviate(frozen)}."
            )
        copied = _frozen(np.full(len(frozen), NEW)) if twin is None else _positions(twin, "twin")
        if len(copied) != len(frozen) or (copied.size and not NEW <= copied.min() <= copied.max() < size):
            raise PlanError(
                f"The twins of an axis of {size} neurons must be one for each of its {len(frozen)} sources, a position "
                f"from 0 to {size - 1} or {NEW} for none; found {_abbreviate(copied)}."
            )
        return cls(size, frozen, copied)

    @classmethod
    def identity(cls, size: int) -> AxisPlan:
        """The plan by which every neuron stays where it is.

        Args:
          size: the number of neurons.

        Returns:
          A plan with ``before == after == size``.

        >>> AxisPlan.identity(3).changed
        False
        """
        return keeping(np.ones(_size(size, "size"), bool))

    @cached_property
    def after(self) -> int:
        """The number of neurons after the change."""
        return len(self.source)

    @cached_property
    def changed(self) -> bool:
        """Whether any neuron is dropped, added or moved."""
        return self.after != self.before or not np.array_equal(self.source, np.arange(self.before))

    @cached_property
    def kept(self) -> Positions:
        """Shape (kept,): the old positions that survive, in their new order."""
        return _frozen(self.source[self.source != NEW])

    @cached_property
    def new(self) -> Positions:
        """Shape (new,): the new positions that have no source."""
        return _frozen(np.flatnonzero(self.source == NEW))

    @cached_property
    def dropped(self) -> Positions:
        """Shape (dropped,): the old positions that do not survive, in order."""
        stays = np.zeros(self.before, bool)
        stays[self.kept] = True
        return _frozen(np.flatnonzero(~stays))

    def after_plan(self, earlier: AxisPlan) -> AxisPlan:
        """``earlier`` and then this plan, as one step.

        Args:
          earlier: a plan that leaves as many neurons as this one starts from.

        Returns:
          The plan from the neurons before ``earlier`` to those after this plan.

        Raises:
          PlanError: if ``earlier`` is no plan of an axis, or leaves another number of neurons.

        >>> AxisPlan.of(3, [2, NEW]).after_plan(AxisPlan.of(4, [0, 1, 3])).source.tolist()
        [3, -1]
        """
        if not isinstance(earlier, AxisPlan):
            raise PlanError(f"earlier must be an AxisPlan; found {type(earlier).__name__}: {shown(earlier)}.")
        if earlier.after != self.before:
            raise PlanError(
                f"earlier leaves {earlier.after} neurons ({earlier!r}), and this plan starts from {self.before} "
                f"({self!r}). Compose plans in the order in which they were made: later.after_plan(earlier)."
            )
        return AxisPlan.of(earlier.before, _look_up(earlier.source, self.source), _look_up(earlier.source, self.twin))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, AxisPlan)
            and self.before == other.before
            and np.array_equal(self.source, other.source)
            and np.array_equal(self.twin, other.twin)
        )

    @property
    def moved(self) -> bool:
        """Whether a position that there was before, and still is, has another neuron now: one that moved, or a new one.

        >>> AxisPlan.of(3, [0, 1]).moved, AxisPlan.of(3, [0, 2]).moved, AxisPlan.of(3, [0, NEW]).moved
        (False, True, True)
        """
        shared = min(self.before, self.after)
        return bool(np.any(self.source[:shared] != np.arange(shared)))

    def __hash__(self) -> int:
        return hash((self.before, self.source.tobytes(), self.twin.tobytes()))

    def __repr__(self) -> str:
        parts = [f"{self.before} -> {self.after}"]
        if self.dropped.size:
            parts.append(f"drops {_abbreviate(self.dropped)}")
        if self.new.size:
            parts.append(f"new at {_abbreviate(self.new)}")
        return ", ".join(parts)


def keeping(stays: Bool[np.ndarray, " before"]) -> AxisPlan:
    """The plan by which some neurons are dropped, and the others stay in their order.

    Args:
      stays: shape (before,): for each neuron whether it stays.

    >>> keeping(np.array([True, False, True]))
    3 -> 2, drops [1]
    """
    source = np.flatnonzero(stays).astype(np.int64, copy=False)
    twin = np.full(len(source), NEW)
    for array in (source, twin):
        array.setflags(write=False)
    return AxisPlan(len(stays), source, twin)


def axis_to_json(axis: AxisPlan) -> int | AxisJson:
    """What JSON can hold of an axis: the size alone where nothing changes, and there is nothing to copy."""
    if not axis.changed and not (axis.twin != NEW).any():
        return axis.before
    return {"before": axis.before, "source": axis.source.tolist(), "twin": axis.twin.tolist()}


def axis_from_json(data: int | AxisJson) -> AxisPlan:
    """Read what `axis_to_json` made."""
    if not isinstance(data, dict):
        return AxisPlan.identity(data)
    return AxisPlan.of(data["before"], data["source"], data["twin"])


def _size(value: object, name: str) -> int:
    """The number of neurons of an axis, which may be 0."""
    size = as_whole(value)
    if size is None or not 0 <= size <= MOST_NEURONS:
        raise PlanError(f"{name} must be a whole number of neurons from 0 to {MOST_NEURONS}; found {shown(value)}.")
    return size


def _positions(values: object, name: str) -> Positions:
    """Positions as an array that nobody can change.

    Raises:
      PlanError: if they are no whole numbers in a row.
    """
    try:
        array = np.asarray(values if isinstance(values, Collection | np.ndarray) else list(values))  # type: ignore[call-overload]  # it raises
    except (TypeError, ValueError, OverflowError, RuntimeError):
        array = np.array("")
    if array.ndim != 1 or (array.size and (array.dtype.kind not in "iu" or array.max() > MOST_NEURONS)):
        raise PlanError(
            f"{name} must be whole numbers in a row, the position of a neuron or {NEW}; found {shown(values)}."
        )
    return _frozen(array)


def _frozen(values: AnyPositions) -> Positions:
    """Positions as an array that nobody can change."""
    array = np.array(values if isinstance(values, Collection | np.ndarray) else list(values), dtype=np.int64)
    array.setflags(write=False)
    return array


def _look_up(table: Int[np.ndarray, " old"], positions: Int[np.ndarray, " new"]) -> Int[np.ndarray, " new"]:
    """``table[positions]``, where NEW stays NEW."""
    return np.where(positions == NEW, NEW, table[positions] if table.size else NEW)


def _abbreviate(values: Positions, most: int = 8) -> str:
    shown = ", ".join(map(str, values[:most]))
    return f"[{shown}, ... {len(values)} in all]" if len(values) > most else f"[{shown}]"
