"""The answer of an alignment as a value: where each neuron of the new network comes from.

A plan knows nothing of graphs or arrays. It is printed, stored, composed and applied to any tree that is shaped
like the variables it was made for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, TypeAlias

from naivenas_jax.align.axis_plan import AxisPlan, axis_from_json, axis_to_json
from naivenas_jax.align.composition import axis_after, first_names, joint, new_names
from naivenas_jax.checks import as_whole, require_mapping, shown
from naivenas_jax.errors import PlanError, UnknownNameError
from naivenas_jax.paths import Path, is_unnamed, path_text
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.views.viewable import Viewable

#: The axis that each dimension of a leaf lies on; None where its size is fixed.
Dims: TypeAlias = tuple[str | None, ...]


class Apply(Protocol):
    """Applies a plan to a tree of arrays: `Plan.apply`."""

    def __call__(self, tree: Any, *, new: Any = None, sharding: Any = None) -> Any:  # trees of whatever kind
        """The tree in the new shape."""


@dataclass(frozen=True, eq=False, repr=False)
class Plan(Viewable):
    """What an alignment decided: for each axis the source of each neuron, and the axes that each leaf lies on.

    Attributes:
      axes: every axis of the graph by name.
      leaves: for each leaf of the new variables, by path, the axis of each dimension; None: the dimension is fixed.
      created: paths of leaves that the old variables did not have (they belong to inserted vertices).
      removed: paths of leaves of the old variables that were removed. A leaf that was made anew is removed and created.
      rescaled: for each leaf that is multiplied by the root of ``after / before`` of one of its dimensions, that
        dimension. It is a property of the leaf, whether or not the size of that dimension changes.
      moved: for each leaf that has another path than before, that path.
      renamed: for each axis that has another name than before, that name.

    >>> from naivenas_jax import AxisPlan, Plan
    >>> axes = {"a": AxisPlan.of(3, [0, 2, -1]), "b": AxisPlan.identity(2), "~0": AxisPlan.of(2, [0])}
    >>> plan = Plan(axes, {("params", "a", "bias"): ("a",)})
    >>> list(plan.changed), plan.named
    (['a', '~0'], {'a': 3 -> 3, drops [1], new at [2]})
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

    #: Set by naivenas_jax.transfer.co_shaped, which knows arrays.
    apply: ClassVar[Apply]

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

        Returns:
          A plan of all axes and leaves of the graph.

        Raises:
          PlanError: if ``ties`` are none, or what is given beside them is no mapping.

        >>> Plan.identity(Ties((2,), {"a": (0,)}, {}, {}, {}), removed=frozenset({("params", "b", "bias")}))
        Plan(removed leaf params/b/bias)
        """
        if not isinstance(ties, Ties):
            raise PlanError(f"ties must be those of a graph, graph.ties; found {type(ties).__name__}: {shown(ties)}.")
        for argument, given in (("axes", axes), ("leaves", leaves), ("moved", moved), ("renamed", renamed)):
            require_mapping(given, argument, PlanError)
        return cls(
            axes={**{axis: AxisPlan.identity(size) for axis, size in ties.sizes.items()}, **axes},
            leaves={**{path: leaf.axes for path, leaf in ties.leaves.items()}, **leaves},
            created=created,
            removed=removed,
            rescaled=ties.rescaled,
            moved=dict(moved),
            renamed=dict(renamed),
        )

    def factor(self, path: Path) -> float:
        """The number by which the entries of a leaf that stay are multiplied.

        The square root of ``after / before`` of the axis by the root of whose size the layer divides (queries of an
        attention); 1 for leaves that are not in ``rescaled``, and for those that are new.

        Args:
          path: of a leaf of the new variables.

        Returns:
          A positive number.

        Raises:
          UnknownNameError: if the plan has no such leaf.

        >>> plan = Plan({"a": AxisPlan.of(4, [0])}, {("params", "q"): ("a",)}, rescaled={("params", "q"): 0})
        >>> plan.factor(("params", "q"))
        0.5
        """
        if not isinstance(path, tuple) or path not in self.leaves:
            known = ", ".join(map(repr, [*self.leaves][:3]))
            raise UnknownNameError(f"The plan has no leaf {shown(path)}; path is a tuple of names, such as {known}.")
        axis = self.leaves[path][self.rescaled[path]] if path in self.rescaled.keys() - self.created else None
        return 1.0 if axis is None else math.sqrt(self.axes[axis].after / self.axes[axis].before)

    def axis(self, name: str) -> AxisPlan:
        """The plan of one axis.

        Args:
          name: of a vertex, or of an inner axis ``vertex:axis``.

        Returns:
          Where the neurons of the axis come from.

        Raises:
          UnknownNameError: if the plan has no axis of that name.

        >>> Plan({"a": AxisPlan.of(2, [1])}, {}).axis("a")
        2 -> 1, drops [0]
        """
        if not isinstance(name, str) or name not in self.axes:
            known = ", ".join(sorted(axis for axis in self.axes if not is_unnamed(axis)))
            raise UnknownNameError(f"The plan has no axis {shown(name)}. It has: {known}.")
        return self.axes[name]

    @cached_property
    def changed(self) -> Mapping[str, AxisPlan]:
        """The axes on which neurons are dropped, added or moved."""
        return {name: axis for name, axis in self.axes.items() if axis.changed}

    @property
    def named(self) -> Mapping[str, AxisPlan]:
        """As ``changed``, without the axes that nobody has named, whose names begin with ``~``."""
        return {name: axis for name, axis in self.changed.items() if not is_unnamed(name)}

    def __matmul__(self, earlier: Plan) -> Plan:
        """``later @ earlier``: first ``earlier``, then ``later``, as one plan.

        Args:
          earlier: the plan that led to the network which this plan starts from.

        Raises:
          PlanError: if ``earlier`` is no plan, or leaves an axis with another size than this plan starts from; or if
            both change the size of an axis by the root of whose size only one of them multiplies a leaf, since its
            layer was replaced in between.

        >>> Plan({"a": AxisPlan.of(3, [0, 1])}, {}) @ Plan({"a": AxisPlan.of(4, [0, 1, 3])}, {})
        Plan(a: 4 -> 2, drops [2, 3])
        """
        if not isinstance(earlier, Plan):
            raise PlanError(f"Plans are composed with plans, later.plan @ earlier.plan; found {earlier!r:.80}.")
        removed = earlier.removed | _first_names_of_lost(self, earlier)
        earlier = _renamed(self, replace(earlier, created=earlier.created - self.removed))
        created = earlier.created | self.created
        axes = {name: axis_after(axis, earlier.axes.get(name), name) for name, axis in self.axes.items()}
        leaves = {}
        for path, dims in self.leaves.items():
            before = dims if path in self.created else earlier.leaves.get(path, dims)
            pairs = list(zip(dims, before, strict=True))
            known = [early in self.axes if late is None else late in earlier.axes for late, early in pairs]
            leaves[path] = tuple(joint(*pair, both) for pair, both in zip(pairs, known, strict=True))
            for name, (late, early) in zip(leaves[path], pairs, strict=True):
                if name is None or name in axes:
                    continue
                if late is None and early is not None:  # a window that only the earlier plan changes
                    axes[name] = earlier.axes[early]
                elif early is None and late is not None:  # a dimension of fixed size that was put on an axis
                    axes[name] = self.axes[late]
                elif late is not None and early is not None:  # an edit has put the leaf on another axis in between
                    axes[name] = axis_after(self.axes[late], earlier.axes[early], name)
        return Plan(
            axes=axes,
            leaves=leaves,
            created=created,
            removed=removed,
            rescaled=_rescaled_by_both(self, earlier, leaves.keys() - created),
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
        """The plan as JSON text; an unchanged axis is stored as its size alone.

        Returns:
          Text that `from_json` reads.

        >>> Plan({"a": AxisPlan.identity(3)}, {("params", "a", "bias"): ("a",)}).to_json()[:15]
        '{"axes": {"a": '
        """
        return json.dumps(
            {
                "axes": {name: axis_to_json(axis) for name, axis in self.axes.items()},
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
        """Read what ``to_json`` wrote.

        Args:
          text: JSON.

        Returns:
          A plan that equals the one that was written.

        Raises:
          PlanError: if the text is none that ``to_json`` has written, or what it says contradicts itself.

        >>> Plan.from_json('{"axes": {"a": 3}, "leaves": [], "created": [], "removed": []}')
        Plan(nothing changes)
        """
        try:
            data = json.loads(text)
            plan = cls(
                axes={name: axis_from_json(axis) for name, axis in data["axes"].items()},
                leaves={tuple(path): tuple(dims) for path, dims in data["leaves"]},
                created=frozenset(map(tuple, data["created"])),
                removed=frozenset(map(tuple, data["removed"])),
                rescaled={tuple(path): dim for path, dim in data.get("rescaled", ())},
                moved={tuple(new): tuple(old) for new, old in data.get("moved", ())},
                renamed=dict(data.get("renamed", {})),
            )
            contradictions = list(_contradictions(plan))
        except PlanError as error:
            raise PlanError(f"This is not a plan written by Plan.to_json: {error}") from error
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise PlanError(f"This is not a plan written by Plan.to_json: {error!r:.200}.") from error
        if contradictions:
            raise PlanError(f"This is not a plan written by Plan.to_json: {contradictions[0]}.")
        return plan


def _contradictions(plan: Plan) -> Iterator[str]:
    """What no plan says that an alignment has made, in words."""
    paths = {*plan.leaves, *plan.created, *plan.removed, *plan.rescaled, *plan.moved, *plan.moved.values()}
    for path in paths:
        if not path or not all(isinstance(name, str | int) for name in path):
            yield f"{path!r:.80} is no path of a leaf"
    names = {*plan.axes, *plan.renamed, *plan.renamed.values()}
    yield from (f"{name!r:.80} is no name of an axis" for name in names if not isinstance(name, str))
    for path, dims in plan.leaves.items():
        for axis in dims:
            if axis is not None and axis not in plan.axes:
                yield f"leaf {path_text(path)} lies on the axis {axis!r:.80}, which the plan does not have"
    for path, dim in plan.rescaled.items():
        if as_whole(dim) is None or not 0 <= dim < len(plan.leaves.get(path, ())) or plan.leaves[path][dim] is None:
            yield f"leaf {path_text(path)} is rescaled along dimension {dim!r:.80}, on which no axis lies"
        elif plan.axes[plan.leaves[path][dim] or ""].before < 1:
            yield f"leaf {path_text(path)} is rescaled by the root of a size of 0"
    for what, given in (("created", plan.created), ("moved", plan.moved), ("rescaled", plan.rescaled)):
        yield from (
            f"{path_text(path)} is {what}, and no leaf of the plan" for path in given if path not in plan.leaves
        )
    yield from (
        f"axis {name!r} is renamed, and the plan does not have it" for name in plan.renamed if name not in plan.axes
    )
    both = plan.created & set(plan.moved)
    yield from (f"{path_text(path)} is both created and moved" for path in both)


def _fields(plan: Plan) -> tuple[object, ...]:
    """What plans that are equal have in common."""
    names = dict(plan.moved), dict(plan.renamed)
    return dict(plan.axes), dict(plan.leaves), plan.created, plan.removed, dict(plan.rescaled), *names


def _first_names_of_lost(later: Plan, earlier: Plan) -> frozenset[Path]:
    """What the leaves that ``later`` removes or makes anew were called before ``earlier``; new ones are left out."""
    stays = {later.moved.get(path, path) for path in later.leaves.keys() - later.created}
    anew = (later.created & earlier.leaves.keys()) - stays
    return frozenset(earlier.moved.get(path, path) for path in (later.removed | anew) - earlier.created)


def _rescaled_by_both(later: Plan, earlier: Plan, paths: Iterable[Path]) -> dict[Path, int]:
    """The leaves among ``paths`` that either plan rescales, with that dimension. Their names are those after both.

    Raises:
      PlanError: if one of two plans that change the size does not rescale the leaf.
    """
    found = {}
    for path in paths:
        plans = [plan for plan in (later, earlier) if path in plan.rescaled]
        if not plans:
            continue
        found[path] = dim = plans[0].rescaled[path]
        if len(plans) == 1 and _resizes(later, path, dim) and _resizes(earlier, path, dim):
            raise PlanError(
                f"One of the plans multiplies {path_text(path)} by the root of the change of its size along dimension "
                f"{dim}, the other changes that size without doing so, since the layer was replaced in between. Such "
                "plans are no single plan: apply them one after the other."
            )
    return found


def _resizes(plan: Plan, path: Path, dim: int) -> bool:
    """Whether a plan changes the size of a leaf along a dimension."""
    axis = plan.leaves[path][dim] if path in plan.leaves and path not in plan.created else None
    return axis is not None and plan.axes[axis].before != plan.axes[axis].after


def _renamed(later: Plan, earlier: Plan) -> Plan:
    """Rename the axes and leaves of ``earlier`` to the names they have after ``later``.

    Whatever ``later`` removes keeps its name. For every axis and leaf the result says what it was called first.
    """
    axis = new_names(earlier.axes, later.renamed)
    leaf = new_names(earlier.leaves, later.moved)
    return replace(
        earlier,
        axes={axis[name]: plan for name, plan in earlier.axes.items() if name in axis},
        leaves={leaf[p]: tuple(d and axis.get(d, d) for d in dims) for p, dims in earlier.leaves.items() if p in leaf},
        created=frozenset(leaf[path] for path in earlier.created if path in leaf),
        rescaled={leaf[path]: dim for path, dim in earlier.rescaled.items() if path in leaf},
        moved=first_names(leaf.keys() - earlier.created - later.removed, earlier.moved, leaf),
        renamed=first_names(axis.keys(), earlier.renamed, axis),
    )
