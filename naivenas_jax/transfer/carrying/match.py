"""Which variable a leaf of another tree belongs to.

A leaf belongs to the variable with the longest path that ends the leaf's key path and whose shape is the leaf's.
Variables are named with or without their collection, because optimizers are initialised on either
``variables["params"]`` or ``variables``. Nothing else is guessed: a leaf without a variable is an error.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from naivenas_jax.align.plan import Plan
from naivenas_jax.errors import CarryError
from naivenas_jax.paths import Path, path_text
from naivenas_jax.transfer.carrying.states import StateLeaf, leaves_and_holes
from naivenas_jax.transfer.take import Sources, new_shape
from naivenas_jax.typing import PyTree


@dataclass(frozen=True, eq=False)
class VariableMatcher:
    """The variables before and after a plan, found by the ends of key paths.

    Attributes:
      plan: the plan that leads from one to the other.
      before: the old leaves by path.
      after: the new leaves by path.
      under: trees are shaped like the variables below this path (empty: all of them, or one collection).
      forms: for each ending of key paths that spells a variable, the old variables that it may mean.
      gone: for each ending that spells a variable or a branch of them, whether its variables were removed: True where
        some were, False where some were not.
    """

    plan: Plan
    before: Mapping[Path, PyTree]
    after: Mapping[Path, PyTree]
    under: Path = ()
    forms: Mapping[Path, tuple[Path, ...]] = field(default_factory=dict)
    gone: Mapping[Path, frozenset[bool]] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan, before: PyTree, after: PyTree, under: Path = ()) -> VariableMatcher:
        """The matcher for a plan that leads from ``before`` to ``after``.

        Raises:
          CarryError: if it does not, or if ``under`` is no path of the variables.
        """
        old = {leaf.names: leaf.value for leaf in leaves_and_holes(before)}
        new = {leaf.names: leaf.value for leaf in leaves_and_holes(after)}
        if under and not any(path[: len(under)] == under for path in old):
            raise CarryError(f"under={under} is no path of the variables, which have {_some(old)}.")
        forms, branches = defaultdict(list), defaultdict(set)
        gone = plan.removed - plan.created
        # params first: they win where a bare name also names an equally treated statistic
        for path in sorted(old, key=lambda path: path[0] != "params"):
            for start in _starts(path, under):
                forms[path[start:]].append(path)
                for end in range(max(start, 1) + 1, len(path) + 1):
                    branches[path[start:end]].add(path in gone)
        found = cls(
            plan=plan,
            before=old,
            after=new,
            under=under,
            forms={form: tuple(paths) for form, paths in forms.items()},
            gone={form: frozenset(flags) for form, flags in branches.items()},
        )
        found._check()
        return found

    def match(self, leaf: StateLeaf, fits: Callable[[tuple[int, ...]], bool]) -> Path | None:
        """The old variable that a leaf belongs to, or None.

        Args:
          leaf: a leaf of a tree.
          fits: whether the leaf can belong to a variable of a given shape.

        Raises:
          CarryError: if it may belong to several that change differently.
        """
        names = leaf.names
        for start in range(len(names)):
            found = [path for path in self.forms.get(names[start:], ()) if fits(self.shape(path))]
            if len({self._treatment(path) for path in found}) > 1:
                raise CarryError(
                    f"{leaf.label} of shape {leaf.shape} may belong to {_some(found)}, which have the same name and "
                    "shape and are changed differently. Carry each collection by itself, with under=(collection,), "
                    "or a tree that names the collections."
                )
            if found:
                return found[0]
        return None

    def is_statistic(self, path: Path) -> bool:
        """Whether a variable is none that gradients are taken of: beside parameters, in another collection."""
        collections = {own[0] for own in self.after}
        return "params" in collections and "param" not in path[0].lower()

    @property
    def spelled(self) -> frozenset[Path]:
        """The paths of all old variables, with and without their collections."""
        return frozenset(path[start:] for path in self.before for start in _starts(path, self.under))

    def is_gone(self, hole: StateLeaf) -> bool:
        """Whether all variables that a hole stands for were removed; it may stand for one, or for a whole branch."""
        names = hole.names
        for start in range(len(names)):
            flags = self.gone.get(names[start:])
            if flags is not None:
                return flags == {True}
        return False

    def created_at(self, names: Path) -> Path | None:
        """The new variable that a key path ends with, if it ends with one."""
        ends = {path[start:]: path for path in self.plan.created for start in _starts(path, self.under)}
        return next((ends[names[k:]] for k in range(len(names)) if names[k:] in ends), None)

    def shape(self, path: Path) -> tuple[int, ...]:
        """The old shape of a variable."""
        return tuple(np.shape(self.before[path]))

    def sources(self, path: Path) -> Sources:
        """For each dimension of an old variable the old index of each new position; None if it does not change."""
        axes = [None if name is None else self.plan.axis(name) for name in self.plan.leaves.get(path, ())]
        if not axes:
            return [None] * len(self.shape(path))
        return [None if axis is None or not axis.changed else axis.source for axis in axes]

    def form_of(self, path: Path, leaf: StateLeaf) -> Path:
        """The end of a matched leaf's key path that spells its variable: with or without the collection."""
        forms = [path[start:] for start in _starts(path, self.under)]
        return next(form for form in forms if form == leaf.names[-len(form) :])

    def unmatched(self, leaf: StateLeaf) -> CarryError:
        """The error for a leaf that belongs to no variable."""
        named = [path for start in range(len(leaf.names)) for path in self.forms.get(leaf.names[start:], ())]
        found = (
            f"It is named like {path_text(named[0])}, which has shape {self.shape(named[0])}."
            if named
            else f"No variable's path ends it: they are {_some(self.before)}."
        )
        return CarryError(
            f"{leaf.label} of shape {leaf.shape} belongs to no variable. {found} A leaf belongs to the variable "
            "with the longest path that ends its key path, and of its shape; scalars pass through. What works: carry "
            "a tree that was made for the variables before the change, give under=(...) if it was made for a part of "
            "them only, or start this part again, e.g. with tx.init(new_params)."
        )

    def _treatment(self, path: Path) -> tuple[object, ...]:
        sources = tuple(None if source is None else source.tobytes() for source in self.sources(path))
        return path in self.plan.removed, path in self.plan.created, sources

    def _check(self) -> None:
        """The plan must lead from the old variables to the new ones, or every later answer is wrong."""
        for path in self.before.keys() - self.plan.created - self.plan.removed:
            name, shape = path_text(path), self.shape(path)
            dims = self.plan.leaves.get(path, (None,) * len(shape))
            planned = tuple(
                size if axis is None else self.plan.axis(axis).before for axis, size in zip(dims, shape, strict=False)
            )
            if len(dims) != len(shape) or planned != shape:
                raise CarryError(
                    f"`before` is not what the plan was made for: {name} has shape {shape}, and lies on the "
                    f"axes {dims}, of sizes {planned}."
                )
            wanted = new_shape(self.sources(path), shape)
            if path not in self.after or tuple(np.shape(self.after[path])) != wanted:
                found = np.shape(self.after[path]) if path in self.after else "missing"
                raise CarryError(f"`after` is not what the plan leads to: {name} should be {wanted}, but is {found}.")
        missing = self.plan.created - self.after.keys()
        if missing:
            raise CarryError(f"`after` is not what the plan leads to: it lacks the new {_some(missing)}.")


def _starts(path: Path, under: Path) -> tuple[int, ...]:
    """Where in a variable's path the part begins that other trees may spell."""
    if under:
        return (len(under),) if path[: len(under)] == under and len(path) > len(under) else ()
    return (0, 1) if len(path) > 1 else (0,)


def _some(paths: Iterable[Path], most: int = 4) -> str:
    shown = sorted(path_text(path) for path in paths)
    return ", ".join(shown[:most]) + (f", ... ({len(shown)} in all)" if len(shown) > most else "")
