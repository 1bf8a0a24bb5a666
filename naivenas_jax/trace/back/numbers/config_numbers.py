"""The numbers that a model is configured with: where they are, and a copy with others in their place."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import partial
from typing import Literal, NamedTuple, TypeAlias, TypeVar, cast

import flax.linen as nn
import jax
import numpy as np
from flax import nnx

T = TypeVar("T")


class ConfigKey(NamedTuple):
    """One step into a value of a configuration.

    Attributes:
      kind: "." for an attribute, "[" for an item; "argument" or "keyword" for what a partial function holds.
      key: the name of the attribute or keyword, the key of the item, or the position.
    """

    kind: Literal[".", "[", "argument", "keyword"]
    key: object

    def __str__(self) -> str:
        return f".{self.key}" if self.kind == "." else f"[{self.key!r}]"


#: The steps from a module to a number in its configuration.
ConfigPath: TypeAlias = tuple[ConfigKey, ...]
#: New numbers, by where they go.
NewNumbers: TypeAlias = Mapping[ConfigPath, int | float]


class ConfigNumber(NamedTuple):
    """A number in a configuration.

    Attributes:
      path: the steps to it.
      value: the number; None: an integer that may be left out, and is.
    """

    path: ConfigPath
    value: int | float | None


def config_text(path: ConfigPath) -> str:
    """The steps as Python has them, without the leading dot."""
    return "".join(map(str, path)).removeprefix(".")


def config_numbers(value: object) -> Iterator[ConfigNumber]:
    """The numbers in a module's own fields, and in the tuples, dicts, configurations and partials that they hold.

    Modules and nnx objects inside are left out: they are looked at by themselves.
    """
    seen: set[int] = set()

    def walk(child: object, path: ConfigPath, may_be_none: bool) -> Iterator[ConfigNumber]:
        if isinstance(child, int | float | np.integer) and not isinstance(child, bool):
            yield ConfigNumber(path, int(child) if isinstance(child, np.integer) else child)
        elif child is None:
            if may_be_none:
                yield ConfigNumber(path, None)
        elif not isinstance(child, nn.Module | nnx.Pytree) and len(path) < _DEEPEST:
            yield from inside(child, path)

    def inside(holder: object, path: ConfigPath) -> Iterator[ConfigNumber]:
        if _is_object(holder):
            if id(holder) in seen:
                return
            seen.add(id(holder))
        optional = _optional_integers(holder)
        for step, child in held_values(holder):
            yield from walk(child, (*path, step), step.key in optional)

    yield from inside(value, ())


#: Configurations are not nested deeper than this.
_DEEPEST = 8


def held_values(value: object) -> list[tuple[ConfigKey, object]]:
    """The values that a value holds, each with the step that leads to it."""
    if isinstance(value, nn.Module):
        fields = [f.name for f in dataclasses.fields(value) if f.init and f.name not in ("parent", "name")]
        return [(ConfigKey(".", name), getattr(value, name)) for name in fields]
    if isinstance(value, partial):
        given = [(ConfigKey("argument", i), arg) for i, arg in enumerate(value.args)]
        return given + [(ConfigKey("keyword", key), arg) for key, arg in value.keywords.items()]
    if isinstance(value, Mapping):
        return [(ConfigKey("[", key), item) for key, item in value.items()]
    if isinstance(value, tuple | list):
        return [(ConfigKey("[", i), item) for i, item in enumerate(value)]
    if _is_object(value):
        return [(ConfigKey(".", name), item) for name, item in vars(value).items()]
    return []


def reconfigured(value: T, changes: NewNumbers) -> T:
    """A copy in which these numbers are others.

    An object that occurs in several places stays one object. Nothing is mutated.
    """
    memo: dict[int, object] = {}

    def copy(child: object, path: ConfigPath) -> object:
        if path in changes:
            return changes[path]
        shared = _is_object(child) or isinstance(child, nn.Module)
        if shared and id(child) in memo:
            return memo[id(child)]
        result = child
        if len(path) <= _DEEPEST:
            new = {step: copy(part, (*path, step)) for step, part in held_values(child)}
            if any(new[step] is not part for step, part in held_values(child)):
                result = _with_parts(child, new)
        if shared:
            memo[id(child)] = result
        return result

    return cast(T, copy(value, ()))  # numbers take the place of numbers, so the kind of the value stays


def _with_parts(value: object, new: Mapping[ConfigKey, object]) -> object:
    """The same value with other parts."""
    named = {str(step.key): part for step, part in new.items()}
    remake: Callable[..., object] = type(value)
    if isinstance(value, nn.Module):
        clone: Callable[..., object] = value.clone
        return clone(**named)
    if isinstance(value, partial):
        args = [part for step, part in new.items() if step.kind == "argument"]
        return partial(value.func, *args, **{str(s.key): part for s, part in new.items() if s.kind == "keyword"})
    if isinstance(value, Mapping):
        return remake({step.key: part for step, part in new.items()})
    if isinstance(value, tuple | list):
        items = list(new.values())
        return remake(*items) if hasattr(value, "_fields") else remake(items)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        if all(f.init for f in fields):
            return dataclasses.replace(value, **{f.name: named[f.name] for f in fields if f.name in named})
    twin = object.__new__(type(value))
    vars(twin).update(named)
    return twin


def _is_object(value: object) -> bool:
    """Whether a value is a configuration: an object with attributes, and no function, array or container."""
    return (
        hasattr(value, "__dict__")
        and not callable(value)
        and not isinstance(value, nnx.Pytree | nnx.Variable | jax.Array | np.ndarray | np.dtype)
        and not isinstance(value, Mapping | tuple | list | Enum | types.ModuleType)
    )


def _optional_integers(value: object) -> set[str]:
    """Fields that are annotated as an integer or None."""
    if not dataclasses.is_dataclass(value):
        return set()
    return {f.name for f in dataclasses.fields(value) if "int" in str(f.type) and "None" in f"{f.type}{f.default}"}
