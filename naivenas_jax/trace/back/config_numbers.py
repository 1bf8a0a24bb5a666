"""The numbers that a model is configured with: where they are, and a copy with others in their place."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax import nnx


class Step(NamedTuple):
    """One step into a value: an attribute, an item, or an argument that a partial holds."""

    kind: str
    key: Any

    def __str__(self) -> str:
        return f".{self.key}" if self.kind == "." else f"[{self.key!r}]"


Route = tuple[Step, ...]
#: New numbers, by where they go.
Changes = Mapping[Route, Any]


class Number(NamedTuple):
    """A number in a configuration.

    Attributes:
      route: where it is.
      value: what it is; None: an integer that may be left out, and is.
    """

    route: Route
    value: int | float | None


def written(route: Route) -> str:
    """As a reader would write it, without the leading dot."""
    return "".join(map(str, route)).removeprefix(".")


def numbers(value: Any) -> Iterator[Number]:
    """The numbers of a module's own fields, and of what they hold: tuples, dicts, configurations, partials.

    Modules and nnx objects inside are left out: they are looked at by themselves.
    """
    seen: set[int] = set()

    def walk(child: Any, route: Route, may_be_none: bool) -> Iterator[Number]:
        if isinstance(child, int | float | np.integer) and not isinstance(child, bool):
            yield Number(route, int(child) if isinstance(child, np.integer) else child)
        elif child is None:
            if may_be_none:
                yield Number(route, None)
        elif not isinstance(child, nn.Module | nnx.Pytree) and len(route) < _DEEPEST:
            yield from inside(child, route)

    def inside(holder: Any, route: Route) -> Iterator[Number]:
        if _is_object(holder):
            if id(holder) in seen:
                return
            seen.add(id(holder))
        optional = _optional_integers(holder)
        for step, child in parts(holder):
            yield from walk(child, (*route, step), step.key in optional)

    yield from inside(value, ())


#: Configurations are not nested deeper than this.
_DEEPEST = 8


def parts(value: Any) -> list[tuple[Step, Any]]:
    """What a value holds, and by which step."""
    if isinstance(value, nn.Module):
        fields = [f.name for f in dataclasses.fields(value) if f.init and f.name not in ("parent", "name")]
        return [(Step(".", name), getattr(value, name)) for name in fields]
    if isinstance(value, partial):
        given = [(Step("argument", i), arg) for i, arg in enumerate(value.args)]
        return given + [(Step("keyword", key), arg) for key, arg in value.keywords.items()]
    if isinstance(value, Mapping):
        return [(Step("[", key), item) for key, item in value.items()]
    if isinstance(value, tuple | list):
        return [(Step("[", i), item) for i, item in enumerate(value)]
    if _is_object(value):
        return [(Step(".", name), item) for name, item in vars(value).items()]
    return []


def replaced(value: Any, changes: Changes) -> Any:
    """A copy in which these numbers are others. What is one object in several places stays one; nothing is mutated."""
    memo: dict[int, Any] = {}

    def copy(child: Any, route: Route) -> Any:
        if route in changes:
            return changes[route]
        shared = _is_object(child) or isinstance(child, nn.Module)
        if shared and id(child) in memo:
            return memo[id(child)]
        result = child
        if len(route) <= _DEEPEST:
            new = {step: copy(part, (*route, step)) for step, part in parts(child)}
            if any(new[step] is not part for step, part in parts(child)):
                result = _with_parts(child, new)
        if shared:
            memo[id(child)] = result
        return result

    return copy(value, ())


def _with_parts(value: Any, new: Mapping[Step, Any]) -> Any:
    """The same with other parts."""
    if isinstance(value, nn.Module):
        return value.clone(**{step.key: part for step, part in new.items()})
    if isinstance(value, partial):
        args = [part for step, part in new.items() if step.kind == "argument"]
        return partial(value.func, *args, **{step.key: part for step, part in new.items() if step.kind == "keyword"})
    if isinstance(value, Mapping):
        return type(value)({step.key: part for step, part in new.items()})  # type: ignore[call-arg]
    if isinstance(value, tuple | list):
        items = list(new.values())
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if dataclasses.is_dataclass(value) and all(f.init for f in dataclasses.fields(value)):
        names = {f.name for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **{step.key: part for step, part in new.items() if step.key in names})  # type: ignore[type-var]
    twin = object.__new__(type(value))
    vars(twin).update({step.key: part for step, part in new.items()})
    return twin


def _is_object(value: Any) -> bool:
    """Whether it is a configuration: an object with attributes that is nothing else."""
    return (
        hasattr(value, "__dict__")
        and not callable(value)
        and not isinstance(value, nnx.Pytree | nnx.Variable | jax.Array | np.ndarray | np.dtype)
        and not isinstance(value, Mapping | tuple | list | Enum | types.ModuleType)
    )


def _optional_integers(value: Any) -> set[str]:
    """Fields that are annotated as an integer or None."""
    if not dataclasses.is_dataclass(value):
        return set()
    return {f.name for f in dataclasses.fields(value) if "int" in str(f.type) and "None" in f"{f.type}{f.default}"}
