"""A linen module whose inner modules have other sizes than its code gives them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias, cast

import flax.linen as nn

from naivenas_jax.paths import path_text
from naivenas_jax.pickling import packed, remade
from naivenas_jax.trace.back.linen.linen_search import NumbersByModule, give, held
from naivenas_jax.trace.back.numbers.changed_sizes import ModulePath
from naivenas_jax.trace.back.numbers.config_numbers import ConfigPath, NewNumbers, config_text, reconfigured
from naivenas_jax.typing import PyTree

#: `NewNumbers` as a hashable value.
FrozenNumbers: TypeAlias = tuple[tuple[ConfigPath, int | float], ...]


@dataclass(frozen=True, repr=False)
class Resizing:
    """The numbers of modules inside a module that are others than its code says: the field ``resized``.

    Attributes:
      modules: for each module its path and its numbers.

    >>> from naivenas_jax.trace.back.numbers.config_numbers import ConfigKey
    >>> Resizing(((("block", "up"), (((ConfigKey(".", "features"),), 6),)),))
    {'block/up': {'features': 6}}
    """

    modules: tuple[tuple[ModulePath, FrozenNumbers], ...] = ()

    def __repr__(self) -> str:
        return repr({path_text(at): {config_text(path): new for path, new in own} for at, own in self.modules})


def resized_module(module: nn.Module, found: NumbersByModule, lift: bool = True) -> nn.Module:
    """The module with these numbers: of its own class if its fields hold all of them, else of a class derived from it.

    Args:
      module: the module as its code has it.
      found: the numbers, by module.
      lift: whether numbers of modules that lie in its fields are set there.
    """
    inner = {place: dict(changes) for place, changes in found.items() if place}
    own, rest = _lifted(module, found) if lift else (dict(found.get((), {})), inner)
    module = reconfigured(module, own)
    if not any(rest.values()):
        return module
    frozen = Resizing(tuple((place, tuple(changes.items())) for place, changes in rest.items() if changes))
    fields = {name: getattr(module, name) for name in _fields(module)}
    return resized_class(cast(Hashable, type(module)))(**fields, resized=frozen)


def without_resizing(module: nn.Module) -> tuple[nn.Module, NumbersByModule]:
    """The inverse of `resized_module`: the module as its code has it, and the numbers of the modules inside."""
    frozen = getattr(module, "resized", None)
    if not getattr(type(module), "is_resized", False) or not isinstance(frozen, Resizing):
        return module, {}
    base = type(module).__bases__[0]
    fields = {name: getattr(module, name) for name in _fields(module) if name != "resized"}
    return base(**fields), {place: dict(changes) for place, changes in frozen.modules}


def _lifted(
    module: nn.Module, found: NumbersByModule
) -> tuple[dict[ConfigPath, int | float], dict[ModulePath, NewNumbers]]:
    """Which numbers can be changed in the fields of a module, and which belong to modules that its code makes."""
    own = dict(found.get((), {}))
    rest: dict[ModulePath, NewNumbers] = {}
    for name in dict.fromkeys(place[0] for place in found if place):
        inner = {place[1:]: changes for place, changes in found.items() if place[:1] == (name,)}
        field = next(((path, child) for own_name, path, child in held(module) if own_name == name), None)
        if field is None:
            rest.update({(name, *place): changes for place, changes in inner.items()})
            continue
        path, child = field
        child_own, child_rest = _lifted(child, inner)
        own.update({(*path, *at): value for at, value in child_own.items()})
        rest.update({(name, *place): changes for place, changes in child_rest.items()})
    return own, rest


@cache
def resized_class(base: type[nn.Module]) -> type[nn.Module]:
    """A class like ``base`` whose inner modules are given the sizes in its field ``resized`` while it runs."""
    namespace: dict[str, object] = {name: _within(base, name) for name in _methods(base)}
    namespace |= {
        "__annotations__": {"resized": Resizing},
        "__reduce__": _reduced,
        "resized": Resizing(),
        "is_resized": True,
        "__module__": base.__module__,
        "__doc__": f"{base.__name__}, with inner modules of the sizes in ``resized``.",
    }
    return type(f"Resized{base.__name__}", (base,), namespace)


def _reduced(self: nn.Module) -> tuple[object, ...]:
    """How a module is pickled: by its own class, since nobody finds the derived one by its name."""
    fields = {name: getattr(self, name) for name in _fields(self)}
    return _remade, (type(self).__bases__[0], *packed(fields))


def _remade(base: type[nn.Module], data: bytes, beside: tuple[object, ...]) -> nn.Module:
    """The inverse of `_reduced`."""
    return remade(resized_class(cast(Hashable, base)), data, beside)


def _within(base: type[nn.Module], name: str) -> Callable[..., PyTree]:
    """A method in which modules that are called get their numbers first."""
    original = getattr(base, name)

    def method(self: Any, *args: PyTree, **kwargs: PyTree) -> PyTree:  # Any: it has a field that no class declares
        if self.scope is None:
            return original(self, *args, **kwargs)
        with nn.intercept_methods(_giving(dict(self.resized.modules), len(self.path))):
            return original(self, *args, **kwargs)

    method.__name__, method.__qualname__, method.__doc__ = name, f"Resized{base.__name__}.{name}", original.__doc__
    method.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    return method


def _giving(resized: Mapping[ModulePath, FrozenNumbers], depth: int) -> nn.module.Interceptor:
    """Gives modules their numbers before they are called; their paths count from a module at this depth."""

    def interceptor(
        call: Callable[..., PyTree],
        args: tuple[PyTree, ...],
        kwargs: dict[str, PyTree],
        context: nn.module.InterceptorContext,
    ) -> PyTree:
        give(context.module, lambda place: dict(resized.get(place[depth:], ())))
        return call(*args, **kwargs)

    return interceptor


def _methods(base: type[nn.Module]) -> list[str]:
    """The methods in which Flax lets modules be called."""
    own = [kind for kind in base.__mro__ if issubclass(kind, nn.Module) and kind is not nn.Module]
    names = dict.fromkeys(name for kind in own for name, value in vars(kind).items() if inspect.isfunction(value))
    return [
        name
        for name in names
        if (name == "__call__" or not name.startswith("_"))
        and name != "setup"
        and not getattr(getattr(base, name), "nowrap", False)
    ]


def _fields(module: nn.Module) -> list[str]:
    return [name for name in module.__dataclass_fields__ if name != "parent" and module.__dataclass_fields__[name].init]
