"""Key paths of trees as strings."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeAlias

import jax

from naivenas_jax.paths import Path

#: The keys that lead to a node of a tree, as ``jax.tree_util`` gives them.
KeyPath: TypeAlias = tuple[Hashable, ...]


def names_of(keys: KeyPath) -> Path:
    """A key path as strings. The ``.value`` at the end of an nnx variable's key path is left out."""
    if len(keys) > 1 and isinstance(keys[-1], jax.tree_util.GetAttrKey) and keys[-1].name == "value":
        keys = keys[:-1]
    return tuple(key_name(key) for key in keys)


def key_name(key: object) -> str:
    """One key as a string."""
    for attribute in ("key", "name", "idx"):  # DictKey and FlattenedIndexKey, GetAttrKey, SequenceKey
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)
