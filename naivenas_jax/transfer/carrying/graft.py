"""Branches cut from a tree and grafted onto it: what insertion and removal of vertices do to co-shaped trees.

Only mappings gain and lose children; every other node (states, tuples) is put back as it was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import jax
import numpy as np
from flax import nnx

from naivenas_jax.errors import CarryError
from naivenas_jax.paths import Path, path_text
from naivenas_jax.transfer.carrying.carry_rules import HINT, CarriedLeaf, CarryRules
from naivenas_jax.transfer.carrying.key_paths import KeyPath
from naivenas_jax.transfer.carrying.states import StateLeaf, is_hole, one_level
from naivenas_jax.typing import PyTree

#: A new leaf, and its path below the node that gains it.
Branch: TypeAlias = tuple[Path, PyTree]
#: The new leaves of each node that gains some.
Grown: TypeAlias = Mapping[KeyPath, list[Branch]]

_GONE = object()

#: What works where a model of nnx has no class for the changed graph.
GO_ON_IN_NNX = (
    "Go on with\n"
    "  model = mutation.graph.as_nnx(mutation.variables)\n"
    "  optimizer = mutation.carry(optimizer, fresh=nnx.Optimizer(model, tx, wrt=nnx.Param))"
)


@dataclass(frozen=True, eq=False)
class TreeEdit:
    """What becomes of a tree.

    Attributes:
      values: the new leaves by key path.
      cut: key paths of leaves, and of whole branches, that vanish.
      grown: new leaves, by the key path of the node that gains them.
    """

    values: Mapping[KeyPath, PyTree]
    cut: frozenset[KeyPath]
    grown: Grown = field(default_factory=dict)


def graft(tree: PyTree, edit: TreeEdit) -> PyTree:
    """The tree with the edit made. A mapping inside another one vanishes with its last child.

    Raises:
      CarryError: if nothing would be left, or if a node that is no mapping would gain or lose children.
    """
    done = _graft(tree, (), edit)
    if done is _GONE:
        raise CarryError("Nothing would be left of the tree: every variable it belongs to was removed.")
    return done


def growth(rules: CarryRules, entries: list[tuple[StateLeaf, CarriedLeaf]]) -> Grown:
    """Where leaves of created variables go: below every node that holds one leaf for each old variable.

    Args:
      rules: how leaves are carried.
      entries: every leaf of the tree, and what it becomes.

    Raises:
      CarryError: if a node holds leaves for some of the variables only, so that it is unknown whether it would have
        leaves for the new ones.
    """
    roots = defaultdict(list)
    for leaf, entry in entries:
        if leaf.hole:
            raise CarryError(
                f"{leaf.label} is masked, and whether the new variables {_names(rules)} are is unknown. {HINT}"
            )
        if entry.path is not None:
            below = rules.variables.form_of(entry.path, leaf)
            if not rules.variables.under and len(below) == len(entry.path):
                below = below[1:]  # the collection is part of the root, so that each collection is a root of its own
            roots[leaf.keys[: len(leaf.names) - len(below)], entry.path[: -len(below)]].append((leaf, entry.path))
    return {keys: _grown(rules, keys, stem, held) for (keys, stem), held in roots.items()}


def _grown(rules: CarryRules, keys: KeyPath, stem: Path, held: list[tuple[StateLeaf, Path]]) -> list[Branch]:
    variables, sample = rules.variables, held[0][0]
    wanted = {path for path in variables.before if path[: len(stem)] == stem}
    new = sorted(p for p in variables.plan.created if p[: len(stem)] == stem and p not in variables.before)
    if new and (lacking := wanted - {path for _, path in held}):
        raise CarryError(
            f"{jax.tree_util.keystr(keys) or 'The tree'} lacks {path_text(min(lacking))}, so whether it has a place "
            f"for the new variable {path_text(new[0])} is unknown. {HINT}"
        )
    return [(p[len(stem) :], sample.wrapped(rules.started(sample, p, None, _dtype(rules, held, p)))) for p in new]


def _dtype(rules: CarryRules, held: list[tuple[StateLeaf, Path]], path: Path) -> np.dtype | None:
    """The dtype of a new variable's leaf.

    The dtype of the new variable, if the leaves of all others have the dtypes of their variables; else the dtype that
    they share.
    """
    found: set[np.dtype] = {leaf.value.dtype for leaf, _ in held if leaf.is_array}
    if all(leaf.is_array and leaf.value.dtype == rules.variables.before[old].dtype for leaf, old in held):
        own: np.dtype = rules.variables.after[path].dtype
        return own
    if len(found) > 1:
        raise CarryError(
            f"{held[0][0].label} and its siblings are of several dtypes: {sorted(map(str, found))}. {HINT}"
        )
    return next(iter(found), None)


def _graft(node: PyTree, keys: KeyPath, edit: TreeEdit) -> PyTree:
    if keys in edit.cut:
        return _GONE
    if keys in edit.values:
        return edit.values[keys]
    level = None if is_hole(node) else one_level(node)
    if level is None:
        return node
    children, treedef = level
    done = [(key, _graft(child, (*keys, key), edit)) for key, child in children]
    grown = edit.grown.get(keys, [])
    if not grown and not any(child is _GONE for _, child in done):
        return treedef.unflatten([child for _, child in done])
    if isinstance(node, nnx.Module):
        raise CarryError(
            f"{jax.tree_util.keystr(keys) or 'The tree'} is a {type(node).__name__}, whose class says which layers it "
            f"has: it would not compute what the changed graph does. {GO_ON_IN_NNX}"
        )
    if not isinstance(node, Mapping):
        raise CarryError(
            f"{jax.tree_util.keystr(keys) or 'The tree'} is a {type(node).__name__}, and variables were created or "
            f"removed below it; only mappings can gain and lose children. {HINT}"
        )
    kept: dict[Hashable, PyTree] = {_dict_key(key): child for key, child in done if child is not _GONE}
    if not kept and not grown and keys and isinstance(keys[-1], jax.tree_util.DictKey):
        return _GONE
    for path, value in grown:
        kept = _put(kept, path, value, type(node))
    return type(node)(kept)  # type: ignore[call-arg]


def _dict_key(key: Hashable) -> Hashable:
    assert isinstance(key, jax.tree_util.DictKey | jax.tree_util.FlattenedIndexKey)  # the children of mappings
    name: Hashable = key.key
    return name


def _put(items: dict[Hashable, PyTree], path: Path, value: PyTree, kind: type) -> dict[Hashable, PyTree]:
    """The items with the value at a path below, in mappings of the given kind."""
    inner = items.get(path[0], {})
    if any(not isinstance(key, str) for key in items) or not isinstance(inner, Mapping):
        raise CarryError(f"There is no place for the new variable {path_text(path)} among {list(items)}. {HINT}")
    return {**items, path[0]: value if len(path) == 1 else kind(_put(dict(inner), path[1:], value, kind))}


def _names(rules: CarryRules) -> str:
    return ", ".join(path_text(path) for path in sorted(rules.variables.plan.created))
