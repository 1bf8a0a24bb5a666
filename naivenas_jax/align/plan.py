"""The answer of an alignment as a value: where each neuron of the new network comes from.

A plan knows nothing of graphs or arrays. It is printed, stored, composed and applied to any tree that is shaped
like the variables it was made for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from naivenas_jax.align.names import in_names_of
from naivenas_jax.errors import PlanError, UnknownNameError
from naivenas_jax.paths import Path, is_unnamed, path_text
from naivenas_jax.sizes.ties import Ties

NEW = -1
Dims = tuple[str | None, ...]


def _frozen(values: Iterable[int]) -> np.ndarray:
    array = np.array(values, dtype=np.int64)
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class AxisPlan:
    """Where each neuron of one axis comes from.

    Attributes:
      before: the number of neurons before the change.
      source: shape (after,). The old position of each new position, or ``NEW``.
      twin: shape (after,). For a new neuron, the old position of a surviving neuron of its group, which it may copy;
        else ``NEW``.
    """

    before: int
    source: np.ndarray
    twin: np.ndarray

    @classmethod
    def of(cls, before: int, source: Iterable[int], twin: Iterable[int] | None = None) -> AxisPlan:
        frozen = _frozen(source)
        old = frozen[frozen != NEW]
        if old.size and (old.min() < 0 or old.max() >= before or np.bincount(old).max() > 1):
            raise PlanError(
                f"The sources of an axis of {before} neurons must be different positions from 0 to {before - 1}, or "
                f"{NEW} for a new neuron; found {_abbreviate(frozen)}."
            )
        return cls(int(before), frozen, _frozen(np.full(len(frozen), NEW) if twin is None else twin))

    @classmethod
    def identity(cls, size: int) -> AxisPlan:
        return cls.of(size, np.arange(size))

    @property
    def after(self) -> int:
        """The number of neurons after the change."""
        return len(self.source)

    @property
    def changed(self) -> bool:
        return self.after != self.before or not np.array_equal(self.source, np.arange(self.before))

    @property
    def kept(self) -> np.ndarray:
        """Old positions that survive, in their new order."""
        return self.source[self.source != NEW]

    @property
    def new(self) -> np.ndarray:
        """New positions that have no source."""
        return np.flatnonzero(self.source == NEW)

    @property
    def dropped(self) -> np.ndarray:
        """Old positions that do not survive."""
        return np.setdiff1d(np.arange(self.before), self.kept)

    def after_plan(self, earlier: AxisPlan) -> AxisPlan:
        """``earlier`` and then this one, as one step."""
        return AxisPlan.of(earlier.before, _look_up(earlier.source, self.source), _look_up(earlier.source, self.twin))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, AxisPlan)
            and self.before == other.before
            and np.array_equal(self.source, other.source)
            and np.array_equal(self.twin, other.twin)
        )

    def __hash__(self) -> int:
        return hash((self.before, self.source.tobytes(), self.twin.tobytes()))

    def __repr__(self) -> str:
        parts = [f"{self.before} -> {self.after}"]
        if self.dropped.size:
            parts.append(f"drops {_abbreviate(self.dropped)}")
        if self.new.size:
            parts.append(f"new at {_abbreviate(self.new)}")
        return ", ".join(parts)


def _look_up(table: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """``table[positions]``, where NEW stays NEW."""
    return np.where(positions == NEW, NEW, table[positions] if table.size else NEW)


def _abbreviate(values: np.ndarray, most: int = 8) -> str:
    shown = ", ".join(map(str, values[:most]))
    return f"[{shown}, ... {len(values)} in all]" if len(values) > most else f"[{shown}]"


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """What an alignment decided: for each axis the source of each neuron, and the axes that each leaf lies on.

    Attributes:
      axes: every axis of the graph by name.
      leaves: for each leaf of the new variables, by path, the axis of each dimension; None: the dimension is fixed.
      created: paths of leaves that the old variables did not have (they belong to inserted vertices).
      removed: paths of leaves that the new variables no longer have.
      rescaled: for each leaf that is multiplied by the root of ``after / before`` of one of its dimensions, that
        dimension.
      moved: for each leaf that has another path than before, that path.
      renamed: for each axis that has another name than before, that name.

    >>> plan = Plan({"a": AxisPlan.of(3, [0, 2, NEW])}, {("params", "a", "bias"): ("a",)})
    >>> print(plan)
    a: 3 -> 3, drops [1], new at [2]
    >>> Plan.from_json(plan.to_json()) == plan
    True
    """

    axes: Mapping[str, AxisPlan]
    leaves: Mapping[Path, Dims]
    created: frozenset[Path] = field(default_factory=frozenset)
    removed: frozenset[Path] = field(default_factory=frozenset)
    rescaled: Mapping[Path, int] = field(default_factory=dict)
    moved: Mapping[Path, Path] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def identity(
        cls,
        ties: Ties,
        *,
        axes: Mapping[str, AxisPlan] = MappingProxyType({}),
        leaves: Mapping[Path, Dims] = MappingProxyType({}),
        created: frozenset[Path] = frozenset(),
        removed: frozenset[Path] = frozenset(),
        moved: Mapping[Path, Path] = MappingProxyType({}),
        renamed: Mapping[str, str] = MappingProxyType({}),
    ) -> Plan:
        """The plan by which every neuron of a graph stays in its place, but for what is given here.

        Args:
          ties: of the graph after the change.
          axes: axes that change, or that the graph does not have (the windows of kernels).
          leaves: leaves that lie on other axes than ``ties`` says.
          created: see the attributes of `Plan`, as for ``removed``, ``moved`` and ``renamed``.
          removed: see there.
          moved: see there.
          renamed: see there.

        >>> Plan.identity(Ties((2,), {"a": (0,)}, {}, {}, {}), removed=frozenset({("params", "b", "bias")}))
        Plan(removed leaf params/b/bias)
        """
        return cls(
            axes={**{axis: AxisPlan.identity(size) for axis, size in ties.sizes.items()}, **axes},
            leaves={**{path: leaf.axes for path, leaf in ties.leaves.items()}, **leaves},
            created=created,
            removed=removed,
            moved=moved,
            renamed=renamed,
        )

    def factor(self, path: Path) -> float:
        """What the entries of a leaf that are kept are multiplied by; 1 for most."""
        axis = self.leaves[path][self.rescaled[path]] if path in self.rescaled else None
        return 1.0 if axis is None else math.sqrt(self.axes[axis].after / self.axes[axis].before)

    def axis(self, name: str) -> AxisPlan:
        """The plan of one axis; raises if there is none of that name."""
        if name not in self.axes:
            known = ", ".join(sorted(axis for axis in self.axes if not is_unnamed(axis)))
            raise UnknownNameError(f"The plan has no axis {name!r}. It has: {known}.")
        return self.axes[name]

    @property
    def changed(self) -> dict[str, AxisPlan]:
        """The axes that are not as they were."""
        return {name: axis for name, axis in self.axes.items() if axis.changed}

    @property
    def named(self) -> dict[str, AxisPlan]:
        """The axes that are not as they were, without those whose names begin with ``~``, which nobody gave."""
        return {name: axis for name, axis in self.changed.items() if not is_unnamed(name)}

    def __matmul__(self, earlier: Plan) -> Plan:
        """``later @ earlier``: first ``earlier``, then ``later``, as one plan."""
        if not isinstance(earlier, Plan):
            raise PlanError(f"Plans are composed with plans, later.plan @ earlier.plan; found {earlier!r:.80}.")
        removed = frozenset(earlier.moved.get(path, path) for path in self.removed - earlier.created)
        earlier = in_names_of(self, replace(earlier, created=earlier.created - self.removed))
        created = earlier.created | self.created
        axes = {name: _axis_after(axis, earlier.axes.get(name), name) for name, axis in self.axes.items()}
        leaves = {}
        for path, dims in self.leaves.items():
            before = dims if path in self.created else earlier.leaves.get(path, dims)
            leaves[path] = tuple(_joint(late, early) for late, early in zip(dims, before, strict=True))
            for joint, late, early in zip(leaves[path], dims, before, strict=True):
                if joint is None or joint in axes:
                    continue
                if late is None:  # a window that only the earlier plan changes
                    axes[joint] = earlier.axes[joint]
                elif early is not None:  # an edit has put the leaf on another axis in between
                    axes[joint] = _axis_after(self.axes[late], earlier.axes[early], joint)
        return Plan(
            axes=axes,
            leaves=leaves,
            created=created,
            removed=(earlier.removed | removed) - self.created,
            rescaled=self.rescaled,
            moved={new: old for new, old in earlier.moved.items() if new in leaves and new not in created},
            renamed={new: old for new, old in earlier.renamed.items() if new in axes},
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and _fields(self) == _fields(other)

    def __hash__(self) -> int:
        return hash((frozenset(self.axes.items()), frozenset(self.leaves.items()), self.created, self.removed))

    def __str__(self) -> str:
        lines = [f"{name}: {axis!r}" for name, axis in (self.named or self.changed).items()]
        lines += [f"new leaf {path_text(path)}" for path in sorted(self.created)]
        lines += [f"removed leaf {path_text(path)}" for path in sorted(self.removed)]
        lines += [f"{old} is now {new}" for new, old in self.renamed.items()]
        return "\n".join(lines) or "nothing changes"

    def __repr__(self) -> str:
        return f"Plan({'; '.join(str(self).splitlines())})"

    def to_json(self) -> str:
        """The plan as JSON text; an unchanged axis is stored as its size alone."""
        return json.dumps(
            {
                "axes": {name: _axis_to_json(axis) for name, axis in self.axes.items()},
                "leaves": [[list(path), list(dims)] for path, dims in self.leaves.items()],
                "created": [list(path) for path in sorted(self.created)],
                "removed": [list(path) for path in sorted(self.removed)],
                "rescaled": [[list(path), dim] for path, dim in self.rescaled.items()],
                "moved": [[list(new), list(old)] for new, old in self.moved.items()],
                "renamed": dict(self.renamed),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what ``to_json`` wrote."""
        try:
            data = json.loads(text)
            return cls(
                axes={name: _axis_from_json(axis) for name, axis in data["axes"].items()},
                leaves={tuple(path): tuple(dims) for path, dims in data["leaves"]},
                created=frozenset(map(tuple, data["created"])),
                removed=frozenset(map(tuple, data["removed"])),
                rescaled={tuple(path): dim for path, dim in data.get("rescaled", ())},
                moved={tuple(new): tuple(old) for new, old in data.get("moved", ())},
                renamed=dict(data.get("renamed", {})),
            )
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise PlanError(f"This is not a plan written by Plan.to_json: {error!r}.") from error


def _fields(plan: Plan) -> tuple:
    names = dict(plan.moved), dict(plan.renamed)
    return dict(plan.axes), dict(plan.leaves), plan.created, plan.removed, dict(plan.rescaled), *names


def _joint(late: str | None, early: str | None) -> str | None:
    if late is None or early is None:
        return late or early
    return late if late == early else f"{early} => {late}"


def _axis_after(later: AxisPlan, earlier: AxisPlan | None, name: str) -> AxisPlan:
    if earlier is None:  # the axis came into being with the later plan
        return later
    if earlier.after != later.before:
        raise PlanError(
            f"Plans do not follow one another: the earlier leaves axis {name!r} with {earlier.after} neurons, "
            f"the later expects {later.before}. Compose as later @ earlier, in the order they were made."
        )
    return later.after_plan(earlier)


def _axis_to_json(axis: AxisPlan) -> int | dict:
    if not axis.changed and not (axis.twin != NEW).any():
        return axis.before
    return {"before": axis.before, "source": axis.source.tolist(), "twin": axis.twin.tolist()}


def _axis_from_json(data: int | dict) -> AxisPlan:
    if isinstance(data, int):
        return AxisPlan.identity(data)
    return AxisPlan.of(data["before"], data["source"], data["twin"])
