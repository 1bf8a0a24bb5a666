"""Functions and classes by name: those of JAX and Flax that networks are made of, layers, and what users register."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Hashable
from functools import cache, lru_cache, partial
from weakref import WeakValueDictionary

import jax
import numpy as np

from naivenas_jax.checks import shown
from naivenas_jax.errors import SaveError
from naivenas_jax.layers.ops.nnx_streams import Absent
from naivenas_jax.layers.ops.value_sized_attention import ValueSizedAttention, value_sized_attention
from naivenas_jax.layers.registry import registered_layers
from naivenas_jax.pickling import NestedFunction

#: Whose public names are known.
_PUBLIC = ("jax.nn", "jax.nn.initializers", "jax.numpy", "jax.lax", "flax.linen", "flax.linen.initializers", "flax.nnx")
#: Modules of layers, of which attributes of layers hold functions that have no public name.
_OF_LAYERS = ("flax.linen.", "flax.nnx.nn.")
#: What reads and writes files, or makes functions of data.
_NO_OPERATIONS = (
    *("load", "save", "savez", "fromfile", "fromfunction", "frompyfunc", "from_dlpack", "vectorize"),
    *("printoptions", "set_printoptions"),
)
_OWN: dict[str, object] = {
    f"naivenas_jax:{each.__name__}": each for each in (Absent, ValueSizedAttention, value_sized_attention)
}

_registered: dict[str, Callable[..., object]] = {}
#: Functions made by functions, by how they were made: what is loaded twice, or where it was saved, is one function.
MADE: WeakValueDictionary[str, Callable[..., object]] = WeakValueDictionary()


def register_function(name: str, fn: Callable[..., object]) -> None:
    """Give a function a name, under which `save` writes it down and `load` finds it.

    Needed for functions of your own in a network that is saved (``invariant_vertex("act", my_activation, x)``). Those
    of jax.nn, jax.numpy, jax.lax, flax.linen and flax.nnx are known, and layer classes are once they are registered
    (`register_layer`). The code of a function is never saved: register the same one, under the same name, where the
    network is loaded. A second registration of a name replaces the first.

    Args:
      name: any text, such as ``"my_model.scaled"``.
      fn: the function; or another value that can be called and hashed.

    Raises:
      SaveError: if ``name`` is no text or empty, or ``fn`` cannot be called or hashed.

    >>> import naivenas_jax as nas
    >>> def doubled(x):
    ...     return 2 * x
    >>> nas.register_function("doubled", doubled)
    """
    if not isinstance(name, str) or not name:
        raise SaveError(f"register_function takes a name first, a text such as 'scaled'; found {shown(name)}.")
    if not callable(fn):
        raise SaveError(f"register_function({name!r}, fn) takes a function; found {shown(fn)}.")
    try:
        hash(fn)
    except TypeError as error:
        raise SaveError(f"register_function({name!r}, fn): fn must be hashable, for graphs are ({error}).") from error
    _registered[name] = fn


def name_of(value: Hashable) -> dict[str, str] | None:
    """How a function or class is called in a file: registered by the user, of a layer, or known; None: not at all."""
    for name, fn in _registered.items():
        if fn is value:
            return {"registered": name}
    if isinstance(value, type) and value in registered_layers() and not _is_known_module(value.__module__):
        return {"layer": f"{value.__module__}:{value.__qualname__}"}
    for name, found in _OWN.items():
        if found is value:
            return {"known": name}
    found_name = _public_names().get(id(value)) or _name_in_layers(value)
    return None if found_name is None or _known(found_name) is not value else {"known": found_name}


def named(kind: str, name: object) -> object:
    """The inverse of `name_of`.

    Raises:
      SaveError: if nothing of that name is known; it says how to register it.
    """
    if not isinstance(name, str):
        raise SaveError(f"A name must be a text; found {shown(name)}.")
    if kind == "registered":
        if name not in _registered:
            raise SaveError(
                f"The network was saved with a function named {name!r}, which is not registered here. Register it "
                f"before loading: nas.register_function({name!r}, ...)."
            )
        return _registered[name]
    if kind == "layer":
        found = [each for each in registered_layers() if f"{each.__module__}:{each.__qualname__}" == name]
        if not found:
            raise SaveError(
                f"The network was saved with layers of the type {name.replace(':', '.')}, which is not registered "
                "here. Import its module and call nas.register_layer for it before loading."
            )
        return found[-1]
    return _known(name)


def _known(name: str) -> object:
    if name in _OWN:
        return _OWN[name]
    module, _, own = name.partition(":")
    scope = vars(sys.modules[module]) if _is_known_module(module) and module in sys.modules else {}
    value = scope.get(own)
    if own not in scope or not _may_be_named(module, own, value):
        raise SaveError(
            f"The file names {name!r:.80}, which is no function, layer or dtype of JAX and Flax that is known here: it "
            "was written with other versions of them, or is no save of this library."
        )
    return value


def _is_known_module(module: str) -> bool:
    return module in (*_PUBLIC, "numpy") or module.startswith(_OF_LAYERS)


def _may_be_named(module: str, name: str, value: object) -> bool:
    """Whether a value of a module is an operation, a layer or a dtype, and no more."""
    if name.startswith("_") or name in _NO_OPERATIONS or inspect.ismodule(value):
        return False
    if module == "numpy":
        return isinstance(value, type) and issubclass(value, np.generic)
    if not callable(value):
        return False
    own = str(getattr(value, "__module__", None) or getattr(type(value), "__module__", ""))
    return own.partition(".")[0] in ("jax", "flax", "jaxlib", "numpy")


@cache
def _public_names() -> dict[int, str]:
    """The name of every known value by its identity; modules never go away."""
    found: dict[int, str] = {}
    for module in (*_PUBLIC, "numpy"):
        for name, value in vars(sys.modules[module]).items():
            if _may_be_named(module, name, value):
                found.setdefault(id(value), f"{module}:{name}")
    return found


@lru_cache(maxsize=1024)
def _name_in_layers(value: Hashable) -> str | None:
    for module in [name for name in tuple(sys.modules) if name.startswith(_OF_LAYERS)]:
        for name, found in tuple(vars(sys.modules[module]).items()):
            if found is value and _may_be_named(module, name, value):
                return f"{module}:{name}"
    return None


def maker_of(fn: object) -> tuple[str, dict[str, object]] | None:
    """The function of jax.nn.initializers that has made an initialiser, and with what; None: none of them has."""
    if not inspect.isfunction(fn) or (parts := NestedFunction.of(fn)) is None:
        return None
    name = parts.name.partition(".")[0]
    maker = vars(jax.nn.initializers).get(name)
    if not inspect.isfunction(maker) or fn.__code__ not in maker.__code__.co_consts:
        return None
    takes, own = inspect.signature(maker).parameters, inspect.signature(fn).parameters
    given = {key: own[key].default for key in own.keys() & takes.keys() if own[key].default is not own[key].empty}
    given |= zip(fn.__code__.co_freevars, parts.cells, strict=True)
    return (name, given) if given.keys() <= takes.keys() else None


def made_by(name: object, given: dict[str, object]) -> Callable[..., object]:
    """An initialiser made again.

    Raises:
      SaveError: if there is no such maker.
    """
    maker = vars(jax.nn.initializers).get(name) if isinstance(name, str) else None
    if not inspect.isfunction(maker) or str(name).startswith("_"):
        raise SaveError(f"The file has an initialiser made by {name!r:.80}, which jax.nn.initializers does not have.")
    made: Callable[..., object] = maker(**given)
    return made


def unnamed(fn: object, where: str) -> SaveError:
    """The error about a function or class that has no name: it says where it is, and the line that gives it one."""
    inner = fn if isinstance(fn, type) or not callable(fn) else inspect.unwrap(fn)
    own = getattr(fn, "__name__", "functools.partial, with an array" if isinstance(fn, partial) else type(fn).__name__)
    code = getattr(inner, "__code__", None)
    place = f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
    known = own.isidentifier() and inner is fn and hasattr(fn, "__name__")  # a line with that name gives this function
    name = own if known else where.split("'")[-2] if "'" in where else "my_function"
    if isinstance(fn, type):
        return SaveError(
            f"{where} is of the type {fn.__module__}.{fn.__qualname__}, which has no name in a file. Layers have one "
            "once they are registered with nas.register_layer."
        )
    return SaveError(
        f"{where} holds the function {own}{place}, which has no name that a file could hold, and code is never saved. "
        f"Give it one, here and before loading: nas.register_function({name!r}, {own if known else 'fn'})."
    )
