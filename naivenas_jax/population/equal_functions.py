"""Functions that are equal by value: one of them stands for all.

Two functions made by running one ``def`` or ``lambda`` twice are different objects to Python, and to `Graph`, which
compares functions by identity. They compute the same if their code is the same, and so is all that it refers to:
default values, what it closes over, and the globals that it names. Where that cannot be told (a list, an array of
numpy, an object of an unknown class, which may all change), a function is equal to itself alone.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Hashable, Iterator, Mapping
from typing import Any
from weakref import WeakValueDictionary

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict

from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.map_ops import map_ops
from naivenas_jax.graph.op import Op
from naivenas_jax.pickling import import_path

#: Values that are told by their type and how they print, for which ``-0.0`` and ``0.0``, ``1`` and ``True`` differ.
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))
#: Arrays of at most so many bytes are compared by value.
_SMALL = 2**20

#: For each value of a function that somebody still holds the first function that had it.
_KNOWN: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()


@dataclasses.dataclass(frozen=True)
class _Itself:
    """What is equal to itself alone; holds it, so that no other object gets its address."""

    value: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def representative(value: Any) -> Any:
    """The same value, in which each function is the first that was seen of all that are equal by value.

    Looks into tuples, layers of Flax, computations of vertices and graphs.

    >>> make = lambda factor: lambda x: x * factor
    >>> kept = representative(make(2))
    >>> representative(make(2)) is kept, representative(make(3)) is kept, representative(make(2.0)) is kept
    (True, False, False)
    """
    if isinstance(value, types.FunctionType | functools.partial):
        return _KNOWN.setdefault(value_of(value), value)
    if type(value) is tuple:
        return tuple(map(representative, value))
    if isinstance(value, Graph):
        return map_ops(value, lambda vertex, _: representative(vertex.op))
    if isinstance(value, nn.Module) and value.scope is None:
        changed = _changed(value)
        return value.clone(**changed) if changed else value
    if isinstance(value, Op) and dataclasses.is_dataclass(value):
        changed = _changed(value)
        return dataclasses.replace(value, **changed) if changed else value
    return value


def _changed(value: Any) -> dict[str, Any]:
    """The fields of a dataclass that are another object with representatives in it."""
    fields = (each.name for each in dataclasses.fields(value) if each.init and each.name != "parent")
    found = {name: (own := getattr(value, name), representative(own)) for name in fields}
    return {name: other for name, (own, other) in found.items() if other is not own and other != own}


def value_of(value: object, within: tuple[int, ...] = ()) -> Hashable:
    """What a value is compared by: equal only if the values are the same, as far as that can be told.

    Args:
      value: anything.
      within: the addresses of the functions that are being looked into.
    """
    look = functools.partial(value_of, within=within)
    if type(value) in _PLAIN or isinstance(value, np.generic):
        return type(value), repr(value)
    if isinstance(value, tuple):
        return type(value), tuple(map(look, value))
    if type(value) is frozenset:
        return frozenset, frozenset(map(look, value))
    if isinstance(value, FrozenDict) and all(isinstance(name, str) for name in value):
        return FrozenDict, _items(value, within)
    if isinstance(value, types.FunctionType):
        return _value_of_function(value, within)
    if isinstance(value, types.MethodType):
        return types.MethodType, look(value.__self__), look(value.__func__)
    if type(value) is functools.partial:
        return functools.partial, look(value.func), look(value.args), _items(value.keywords, within)
    if isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer):
        return _value_of_array(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and _is_frozen(value):
        fields = {each.name: getattr(value, each.name) for each in dataclasses.fields(value) if each.compare}
        return type(value), _items(fields, within)
    return _Itself(value)


def _items(mapping: Mapping[str, object], within: tuple[int, ...]) -> Hashable:
    return tuple((name, value_of(mapping[name], within)) for name in sorted(mapping))


def _value_of_array(array: jax.Array) -> Hashable:
    key = jnp.issubdtype(array.dtype, jax.dtypes.extended)
    if key or array.nbytes > _SMALL or not array.is_fully_addressable:
        return _Itself(array)
    return jax.Array, array.shape, str(array.dtype), array.weak_type, array.sharding, np.asarray(array).tobytes()


def _is_frozen(value: object) -> bool:
    """Whether an instance of a dataclass is frozen and compared by its fields, or is a layer of linen."""
    if isinstance(value, nn.Module):
        return value.scope is None and value.parent is None
    how: Any = vars(type(value)).get("__dataclass_params__")  # a class may inherit from a dataclass without being one
    return how is not None and how.frozen and how.eq


def _value_of_function(fn: types.FunctionType, within: tuple[int, ...]) -> Hashable:
    if fn.__module__ != "__main__" and import_path(fn) is not None:
        return _Itself(fn)  # there is one of it
    if id(fn) in within:
        return "calls itself", within[::-1].index(id(fn))
    inside = (*within, id(fn))
    try:
        cells = tuple(value_of(cell.cell_contents, inside) for cell in fn.__closure__ or ())
    except ValueError:  # a cell that has not been filled
        return _Itself(fn)
    named = {name: fn.__globals__[name] for name in _names(fn.__code__) if name in fn.__globals__}
    return (
        types.FunctionType,
        _value_of_code(fn.__code__),
        cells,
        value_of(fn.__defaults__, inside),
        _items(fn.__kwdefaults__ or {}, inside),
        _items(named, inside),
        _items(vars(fn), inside),
    )


def _value_of_code(code: types.CodeType) -> Hashable:
    """All of a code object but where it is written."""
    constants = tuple(_value_of_code(c) if isinstance(c, types.CodeType) else value_of(c) for c in code.co_consts)
    names = (code.co_names, code.co_varnames, code.co_cellvars, code.co_freevars)
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    return code.co_code, code.co_exceptiontable, constants, names, counts


def _names(code: types.CodeType) -> Iterator[str]:
    """The names of globals and attributes in a function and the functions that it makes."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
