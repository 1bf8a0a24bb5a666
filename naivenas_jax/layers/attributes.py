"""Attributes of layers, of layers inside them, and entries of tuples: ``"down.features"``, ``"features.0"``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import flax.linen as nn
from flax import nnx
from flax.core import FrozenDict, freeze


def attribute_of(owner: object, name: str) -> object:
    """The value of an attribute, however deep.

    Raises:
      AttributeError, IndexError, TypeError, ValueError: if there is none of that name.

    >>> attribute_of(nn.Sequential((nn.Dense(4), nn.Dense(2))), "layers.1.features")
    2
    """
    return reduce(_item, name.split("."), owner)


def _item(owner: object, name: str) -> object:
    return owner[int(name)] if isinstance(owner, Sequence | nnx.List) else getattr(owner, name)


def with_attribute(owner: object, path: Sequence[str], value: object) -> object:
    """A copy of a linen layer, or of a tuple, with another value of the attribute at ``path``."""
    if not path:
        return value
    inner: Any = with_attribute(_item(owner, path[0]), path[1:], value)
    if isinstance(owner, tuple):
        return (*owner[: int(path[0])], inner, *owner[int(path[0]) + 1 :])
    assert isinstance(owner, nn.Module)
    return owner.clone(**{path[0]: inner})


def set_attribute(owner: object, path: Sequence[str], value: object) -> None:
    """Set the attribute of an nnx layer at ``path``."""
    current = _item(owner, path[0])
    if len(path) > 1 and not isinstance(current, tuple):
        set_attribute(current, path[1:], value)
    else:
        setattr(owner, path[0], with_attribute(current, path[1:], value))


def own_fields(layer: nn.Module) -> list[dataclasses.Field[object]]:
    """The fields that a linen layer is made with, besides its parent and its name."""
    return [each for each in dataclasses.fields(layer) if each.init and each.name not in ("parent", "name")]


def hashable(layer: nn.Module) -> nn.Module:
    """The same linen layer without parent or name, with tuples, frozen sets and frozen dicts for mutable attributes."""
    return _frozen_layer(layer, {}).clone(parent=None, name=None)


def _frozen(value: object, done: dict[int, nn.Module]) -> object:
    """The value itself wherever nothing has to be changed. What was one layer in two places is one afterwards."""
    if isinstance(value, nn.Module):
        if id(value) not in done:
            done[id(value)] = _frozen_layer(value, done)
        return done[id(value)]
    if isinstance(value, list | tuple):
        items = tuple(_frozen(item, done) for item in value)
        same = isinstance(value, tuple) and all(a is b for a, b in zip(items, value, strict=True))
        return value if same else items
    if isinstance(value, set):
        return frozenset(value)
    if isinstance(value, Mapping) and not isinstance(value, FrozenDict):
        return freeze({key: _frozen(item, done) for key, item in value.items()})
    return value


def _frozen_layer(layer: nn.Module, done: dict[int, nn.Module]) -> nn.Module:
    values = {each.name: getattr(layer, each.name) for each in own_fields(layer)}
    changed: dict[str, Any] = {
        name: frozen for name, value in values.items() if (frozen := _frozen(value, done)) is not value
    }
    return layer.clone(**changed) if changed else layer


#: Parts of the names of attributes that hold the functions which layers of Flax contract weights with.
_CONTRACTING = ("dot_general", "conv_general_dilated", "promote_dtype")


def is_of_flax(value: object) -> bool:
    """Whether a layer, and all layers inside it, are Flax's own, and contract weights as Flax and JAX do.

    >>> is_of_flax(nn.Dense(3)), is_of_flax(nn.Dense(3, dot_general=lambda *args, **keywords: None))
    (True, False)
    """
    if isinstance(value, tuple | list | nnx.List):
        return all(map(is_of_flax, value))
    if isinstance(value, nn.Module):
        parts = {each.name: getattr(value, each.name, None) for each in own_fields(value)}
    elif isinstance(value, nnx.Module):
        parts = dict(vars(value))
    else:
        return True
    own = [part for name, part in parts.items() if any(each in name for each in _CONTRACTING)]
    return _belongs(type(value)) and all(map(_belongs, own)) and all(map(is_of_flax, parts.values()))


def _belongs(thing: object) -> bool:
    """Whether a class or function is of JAX or Flax; None is."""
    thing = getattr(thing, "func", thing)
    return thing is None or getattr(thing, "__module__", "").partition(".")[0] in ("flax", "jax")
