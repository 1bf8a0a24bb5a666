"""Attributes of layers, of layers inside them, and entries of tuples: ``"down.features"``, ``"features.0"``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import flax.linen as nn
from flax import nnx
from flax.core import FrozenDict


def attribute_of(owner: Any, name: str) -> Any:
    """The value of an attribute, however deep.

    >>> attribute_of(nn.Sequential((nn.Dense(4), nn.Dense(2))), "layers.1.features")
    2
    """
    return reduce(_item, name.split("."), owner)


def _item(owner: Any, name: str) -> Any:
    return owner[int(name)] if isinstance(owner, Sequence | nnx.List) else getattr(owner, name)


def with_attribute(owner: Any, path: Sequence[str], value: Any) -> Any:
    """A copy of a linen layer (or tuple) with another value of an attribute, however deep."""
    if not path:
        return value
    inner = with_attribute(_item(owner, path[0]), path[1:], value)
    if isinstance(owner, tuple):
        return (*owner[: int(path[0])], inner, *owner[int(path[0]) + 1 :])
    return owner.clone(**{path[0]: inner})


def set_attribute(owner: Any, path: Sequence[str], value: Any) -> None:
    """Set an attribute of an nnx layer, however deep."""
    current = _item(owner, path[0])
    if len(path) > 1 and not isinstance(current, tuple):
        set_attribute(current, path[1:], value)
    else:
        setattr(owner, path[0], with_attribute(current, path[1:], value))


def hashable(layer: nn.Module) -> nn.Module:
    """The same linen layer without parent or name, with tuples, frozen sets and frozen dicts for mutable attributes."""
    fields = [each.name for each in dataclasses.fields(layer) if each.init and each.name not in ("parent", "name")]
    changed = {}
    for name in fields:
        value = getattr(layer, name)
        frozen = _frozen(value)
        if frozen is not value:
            changed[name] = frozen
    return layer.clone(parent=None, name=None, **changed)


def _frozen(value: Any) -> Any:
    """The value itself wherever nothing has to be changed."""
    if isinstance(value, nn.Module):
        return hashable(value)
    if isinstance(value, list | tuple):
        items = tuple(_frozen(item) for item in value)
        same = type(value) is not list and all(a is b for a, b in zip(items, value, strict=True))
        return value if same else items
    if isinstance(value, set):
        return frozenset(value)
    if isinstance(value, Mapping) and not isinstance(value, FrozenDict):
        return FrozenDict({key: _frozen(item) for key, item in value.items()})
    return value
