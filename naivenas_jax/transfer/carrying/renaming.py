"""Trees across a change of names: what lies under the old path of a variable is put under the new one."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from naivenas_jax.align.plan import Plan
from naivenas_jax.paths import Path
from naivenas_jax.transfer.carrying.carry_rules import variable_of
from naivenas_jax.transfer.carrying.graft import TreeEdit, graft
from naivenas_jax.transfer.carrying.key_paths import KeyPath
from naivenas_jax.transfer.carrying.match import VariableMatcher
from naivenas_jax.transfer.carrying.states import StateLeaf, leaves_and_holes
from naivenas_jax.typing import PyTree


def follow_names(plan: Plan, tree: PyTree, before: PyTree, under: Path) -> tuple[Plan, PyTree, PyTree]:
    """A plan without changes of names, and the tree and the old variables with the new names.

    A variable that was removed, and whose name another one has got, is put out of its way under a name that starts with
    ``~``, and is removed there.

    Args:
      plan: a plan that moves variables.
      tree: a tree whose leaves belong to the old variables.
      before: the old variables.
      under: the tree is shaped like the variables below this path.
    """
    forward = {old: new for new, old in plan.moved.items()}
    aside = {path: _aside(path) for path in plan.moved.keys() & plan.removed - forward.keys()}
    forward |= aside
    removed = frozenset(aside.get(path, path) for path in plan.removed)
    identity = Plan({}, {})
    variables = VariableMatcher.of(identity, before, before, under)
    renamed = _renamed(tree, variables, forward, under)
    old = VariableMatcher.of(identity, before, before)
    return replace(plan, removed=removed, moved={}, renamed={}), renamed, _renamed(before, old, forward, ())


def _aside(path: Path) -> Path:
    """A name that no variable has, in the same collection; whole vertices move there as one."""
    return (*path[:1], f"~{path[1]}", *path[2:]) if len(path) > 1 else (f"~{path[0]}",)


def _renamed(tree: PyTree, variables: VariableMatcher, forward: dict[Path, Path], under: Path) -> PyTree:
    branches = _branches(forward)
    grown: dict[KeyPath, list[tuple[Path, PyTree]]] = defaultdict(list)
    cut = set()
    for leaf in leaves_and_holes(tree):
        found = _new_form(leaf, variables, forward, branches)
        if found is None:
            continue
        old, new = found
        root = leaf.keys[: len(leaf.names) - len(old)]
        cut.add(leaf.keys)
        grown[root].append((new, leaf.wrapped(leaf.value)))
    return graft(tree, TreeEdit({}, frozenset(cut), grown)) if cut else tree


def _new_form(
    leaf: StateLeaf, variables: VariableMatcher, forward: dict[Path, Path], branches: dict[Path, Path]
) -> tuple[Path, Path] | None:
    """The end of a leaf's key path that spells a variable which has moved, and how it is spelled now."""
    if leaf.hole:  # it may stand for a whole branch
        ends = (leaf.names[start:] for start in range(len(leaf.names)))
        return next(((end, branches[end]) for end in ends if end in branches), None)
    path = variable_of(variables, leaf)
    if path is None or path not in forward:
        return None
    old = variables.form_of(path, leaf)
    return old, forward[path][len(path) - len(old) :]


def _branches(forward: dict[Path, Path]) -> dict[Path, Path]:
    """Every branch all of whose variables move in the same way, with and without its collection."""
    found: dict[Path, set[Path]] = defaultdict(set)
    for old, new in forward.items():
        for start in (0, 1):
            for end in range(start + 1, len(old) + 1):
                found[old[start:end]].add(new[start:end])
    return {old: next(iter(new)) for old, new in found.items() if len(new) == 1 and old not in new}
