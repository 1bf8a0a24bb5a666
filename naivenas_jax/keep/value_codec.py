"""Values as JSON and arrays beside it: plain data, trees of arrays, functions by name, layers by their configuration.

``None``, bools, whole numbers, text and finite numbers are themselves in JSON, and a list is a list. All else is an
object with a single key, its kind. Nothing is imported, and no code that a file holds is run: functions are found by
name, and layers are made of the classes that are known.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.core import FrozenDict
from flax.nnx.pytreelib import PytreeState
from flax.typing import HashableMapping

from naivenas_jax.errors import NaiveNASError, SaveError
from naivenas_jax.graph.structure import ARRAY
from naivenas_jax.keep.known_names import MADE, made_by, maker_of, name_of, named, unnamed
from naivenas_jax.keep.tensors import dtype_named, read_as
from naivenas_jax.layers.attributes import own_fields
from naivenas_jax.transfer.take import to_host
from naivenas_jax.typing import Array

#: What JSON holds.
Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None
#: Kinds of random keys.
_KEYS = ("threefry2x32", "rbg", "unsafe_rbg")
_ENUMS: dict[str, type[enum.Enum]] = {"jax.lax:Precision": jax.lax.Precision}
#: Filters of variables, as attributes of nnx layers.
_FILTERS = (nnx.PathContains, nnx.OfType, nnx.Everything, nnx.Nothing)
_OF_PYTREE = ("_pytree__state", "_pytree__nodes")


@dataclass(eq=False)
class Encoder:
    """Writes values; the arrays that it meets are collected beside.

    Attributes:
      arrays: by name.
      where: what is being written, for error messages.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    where: str = "The value"
    _shared: dict[int, int] = field(default_factory=dict)
    _alive: list[object] = field(default_factory=list)
    _made: dict[str, list[Callable[..., object]]] = field(default_factory=dict)

    def value(self, value: object, hint: str = "") -> Json:
        """A value as JSON.

        Args:
          value: the value.
          hint: a name for the arrays in it.

        Raises:
          SaveError: if there is no way to write it down.
        """
        if value is None or isinstance(value, bool | str) or type(value) is int:
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if type(value) is list:
            return [self.value(each, _below(hint, i)) for i, each in enumerate(value)]
        for fits, kind, write in self._kinds():
            if fits(value):
                return {kind: write(value, hint)}
        if callable(value):
            return self._function(value)
        own = type(value).__name__
        how = (
            f" Give its type a name: nas.register_function({own!r}, {own})." if dataclasses.is_dataclass(value) else ""
        )
        raise SaveError(f"{self.where} holds a value of the type {own}, which cannot be saved: {value!r:.80}.{how}")

    def _kinds(self) -> list[tuple[Callable[[Any], bool], str, Callable[[Any, str], Json]]]:
        """What each kind of value is known by, its name, and how it is written."""
        return [
            (lambda v: type(v) is tuple, "tuple", lambda v, h: [self.value(each, h) for each in v]),
            (lambda v: type(v) is dict, "dict", self._pairs),
            (lambda v: isinstance(v, FrozenDict), "frozendict", self._pairs),
            (lambda v: type(v) in (set, frozenset), "frozenset", lambda v, h: sorted_json(map(self.value, v))),
            (lambda v: v is ARRAY, "mark", lambda v, h: "array"),
            (lambda v: v is ..., "mark", lambda v, h: "ellipsis"),
            (lambda v: type(v) is nnx.StateAxes, "axes", lambda v, h: self._pairs(dict(v.items()), h)),
            (lambda v: type(v) is complex, "complex", lambda v, h: [self.value(v.real), self.value(v.imag)]),
            (lambda v: isinstance(v, jax.ShapeDtypeStruct), "shape", lambda v, h: _shape(v)),
            (lambda v: isinstance(v, jax.Array | np.ndarray | np.generic), "array", self.array),
            (lambda v: isinstance(v, np.dtype), "dtype", lambda v, h: dtype_named(v.name).name),
            (lambda v: type(v) in _ENUMS.values(), "enum", lambda v, h: [_enum_name(type(v)), v.name]),
            (lambda v: type(v) is functools.partial, "partial", self._partial),
            (_is_data, "data", self._data),
            (lambda v: isinstance(v, nn.Module | nnx.Pytree | nnx.Variable), "layer", self._shared_layer),
        ]

    def _pairs(self, value: Mapping[Any, object], hint: str) -> Json:
        return [[self.value(key), self.value(each, _below(hint, key))] for key, each in value.items()]

    def _partial(self, value: functools.partial[object], hint: str) -> Json:
        parts = [self._function(value.func), self.value(value.args, hint), self.value(value.keywords, hint)]
        if _holds_array(parts):  # read again, it would be another function
            raise unnamed(value, self.where)
        return self._numbered(value, parts)

    def _numbered(self, fn: Callable[..., object], parts: list[Json]) -> Json:
        """How a function was made, with a number that tells it from others that were made alike."""
        alike = self._made.setdefault(canonical(parts), [])
        if all(fn is not known for known in alike):
            alike.append(fn)
        written: Json = [*parts, next(number for number, known in enumerate(alike) if known is fn)]
        MADE[canonical(written)] = fn
        return written

    def _data(self, value: Any, hint: str) -> Json:
        made_of = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
        own = {each.name: getattr(value, each.name) for each in made_of if each.init}
        return [self._function(type(value)), self._pairs(own, hint)]

    def _function(self, fn: Any) -> Json:
        """A function or class by its name, or an initialiser by its maker."""
        if (name := name_of(fn)) is not None:
            return {"name": dict[str, Json](name)}
        maker = maker_of(fn)
        if maker is None:
            raise unnamed(fn, self.where)
        given: Json = [[key, self.value(each)] for key, each in sorted(maker[1].items())]
        return {"made": self._numbered(fn, [maker[0], given])}

    def array(self, array: Array | np.generic, hint: str = "") -> Json:
        """An array, put beside under a name of its own; in JSON its name, dtype and shape.

        Raises:
          SaveError: if it holds no numbers, or lies on several hosts.
        """
        try:
            key = array if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key) else None
            host = to_host(array if key is None else jax.random.key_data(key))
            dtype_named(host.dtype.name)
        except NaiveNASError as error:
            raise SaveError(f"{self.where}: {hint} cannot be saved: {error}") from error
        name, number = hint or "array", 1
        while name in self.arrays:
            name, number = f"{hint or 'array'}.{number}", number + 1
        self.arrays[name] = host
        written: dict[str, Json] = {"in": name, "dtype": host.dtype.name, "shape": list(host.shape)}
        if key is not None:
            written["key"] = str(jax.random.key_impl(key))
        if isinstance(array, np.ndarray | np.generic):
            written["numpy"] = "array" if isinstance(array, np.ndarray) else "number"
        return written

    def _shared_layer(self, layer: nn.Module | nnx.Pytree | nnx.Variable[Any], hint: str) -> Json:
        """A layer; what is one layer in two places is so afterwards."""
        if id(layer) in self._shared:
            return {"same": self._shared[id(layer)]}
        self._shared[id(layer)] = len(self._shared)
        self._alive.append(layer)
        kind = type(layer)
        named_kind = name_of(kind)  # type: ignore[arg-type]  # mypy takes the hash of instances for that of classes
        if named_kind is None:
            raise unnamed(kind, self.where)
        written: dict[str, Json] = {"kind": dict[str, Json](named_kind)}
        if isinstance(layer, nn.Module):
            changed = {each.name: getattr(layer, each.name) for each in own_fields(layer) if _differs(layer, each)}
            return {**written, "fields": self._pairs(changed, hint)}
        if isinstance(layer, nnx.Variable):
            held = {"value": layer.get_raw_value(), "metadata": dict(layer.get_metadata())}
            return {**written, "variable": self._pairs(held, hint)}
        own = {name: each for name, each in vars(layer).items() if name not in _OF_PYTREE}
        nodes = vars(layer).get("_pytree__nodes", {})
        return {**written, "attributes": self._pairs(own, hint), "nodes": self._pairs(dict(nodes), hint)}


def _is_data(value: object) -> bool:
    return _holds_data(type(value))


def _holds_data(kind: type) -> bool:
    """Whether instances are made of their fields: filters of nnx, and dataclasses that a user has registered."""
    if kind in _FILTERS:
        return True
    own = dataclasses.is_dataclass(kind) and not issubclass(kind, nn.Module | nnx.Pytree | nnx.Variable)
    return own and "registered" in (name_of(kind) or {})


def _holds_array(data: Json) -> bool:
    """Whether a written value has an array beside it, whose entries are not part of what is written here."""
    if isinstance(data, dict):
        return "array" in data or any(map(_holds_array, data.values()))
    return isinstance(data, list) and any(map(_holds_array, data))


def _below(hint: str, key: object) -> str:
    return f"{hint}/{key}" if hint else str(key)


def _differs(layer: nn.Module, each: dataclasses.Field[object]) -> bool:
    """Whether a field is written: all but functions at their default. Defaults of numbers may be others some day."""
    value = getattr(layer, each.name)
    return value is not each.default or not callable(value)


def _shape(value: jax.ShapeDtypeStruct) -> Json:
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return [list(value.shape), {"key": str(value.dtype._impl.name)}]  # jax has no public name for it
    return [list(value.shape), dtype_named(np.dtype(value.dtype).name).name]


def _enum_name(kind: type[enum.Enum]) -> str:
    return next(name for name, known in _ENUMS.items() if known is kind)


def canonical(value: Json) -> str:
    """JSON text that equal values have in common."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sorted_json(values: Any) -> list[Json]:
    """Values in an order that depends on nothing but them."""
    return sorted(values, key=canonical)


@dataclass(eq=False)
class Decoder:
    """Reads what an `Encoder` has written.

    Attributes:
      arrays: what lay beside, by name.
    """

    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    _shared: list[object] = field(default_factory=list)

    def value(self, data: Json) -> Any:
        """The value.

        Raises:
          SaveError: if this is nothing that an `Encoder` writes.
        """
        if data is None or isinstance(data, bool | str | int | float):
            return data
        if isinstance(data, list):
            return [self.value(each) for each in data]
        if not isinstance(data, dict) or len(data) != 1:
            raise SaveError(f"Found {data!r:.80}, which is no value.")
        ((kind, written),) = data.items()
        read: Callable[[Any], Any] | None = getattr(self, f"_read_{kind}", None) if kind in _KINDS else None
        if read is None:
            raise SaveError(f"Found a value of the unknown kind {kind!r:.40}.")
        return read(written)

    def _read_float(self, data: Any) -> float:
        if data not in ("nan", "inf", "-inf"):
            raise SaveError(f"Found the number {data!r:.40}.")
        return float(data)

    def _read_tuple(self, data: Any) -> tuple[Any, ...]:
        return tuple(self.value(each) for each in data)

    def _read_dict(self, data: Any) -> dict[Any, Any]:
        made = {self.value(key): self.value(each) for key, each in data}
        if len(made) != len(data):
            raise SaveError("Found a dict with a key twice.")
        return made

    def _read_frozendict(self, data: Any) -> FrozenDict[Any, Any]:
        return FrozenDict(self._read_dict(data))

    def _read_frozenset(self, data: Any) -> frozenset[Any]:
        return frozenset(self.value(each) for each in data)

    def _read_mark(self, data: Any) -> object:
        if data not in ("array", "ellipsis"):
            raise SaveError(f"Found the mark {data!r:.40}.")
        return ARRAY if data == "array" else ...

    def _read_axes(self, data: Any) -> nnx.StateAxes:
        return nnx.StateAxes(self._read_dict(data))

    def _read_complex(self, data: Any) -> complex:
        real, imaginary = data
        return complex(self.value(real), self.value(imaginary))

    def _read_shape(self, data: Any) -> jax.ShapeDtypeStruct:
        shape, dtype = data
        if isinstance(dtype, dict):
            key = jax.eval_shape(lambda: jax.random.key(0, impl=_key_kind(dtype.get("key"))))
            return jax.ShapeDtypeStruct(_dimensions(shape), key.dtype)
        return jax.ShapeDtypeStruct(_dimensions(shape), dtype_named(dtype))

    def _read_array(self, data: Any) -> Any:
        name, key, kind = data["in"], data.get("key"), data.get("numpy")
        if name not in self.arrays:
            raise SaveError(f"There is no array {name!r:.80}.")
        try:
            array = read_as(self.arrays[name], data["dtype"], _dimensions(data["shape"]))
        except SaveError as error:
            raise SaveError(f"{name}: {error}") from error
        if kind is not None:
            return array[()] if kind == "number" else array.copy()  # one that can be written to
        on_device = jnp.asarray(array)
        if on_device.dtype != array.dtype:
            raise SaveError(
                f"{name} is of {array.dtype}, which JAX would cut to {on_device.dtype}. Load it where it was saved "
                'with: jax.config.update("jax_enable_x64", True).'
            )
        return on_device if key is None else jax.random.wrap_key_data(on_device, impl=_key_kind(key))

    def _read_dtype(self, data: Any) -> np.dtype:
        return dtype_named(data)

    def _read_enum(self, data: Any) -> enum.Enum:
        name, member = data
        return _ENUMS[name][member]

    def _read_partial(self, data: Any) -> functools.partial[Any]:
        fn, args, keywords = map(self.value, data[:3])
        made: functools.partial[Any] = self._known(data, lambda: functools.partial(fn, *args, **keywords))
        return made

    def _read_data(self, data: Any) -> Any:
        kind, own = self.value(data[0]), self._read_dict(data[1])
        made = kind(**own) if isinstance(kind, type) and _holds_data(kind) else None
        if made is None:
            raise SaveError(f"{kind!r:.80} is no class of data.")
        return made

    def _read_name(self, data: Any) -> Any:
        ((kind, name),) = data.items()
        return named(kind, name)

    def _read_made(self, data: Any) -> Any:
        name, given, _ = data
        return self._known(data, lambda: made_by(name, {str(key): self.value(each) for key, each in given}))

    def _known(self, data: Json, make: Callable[[], Callable[..., Any]]) -> Any:
        """A function that is alive, if it was made like this, or one that is made now."""
        found = MADE.get(canonical(data))
        if found is None or _holds_array(data):
            found = MADE[canonical(data)] = make()
        return found

    def _read_layer(self, data: Any) -> Any:
        if "same" in data:
            return self._shared[data["same"]]
        number = len(self._shared)
        self._shared.append(None)
        kind = self._read_name(data["kind"])
        self._shared[number] = made = self._made_layer(kind, data, number)
        return made

    def _made_layer(self, kind: Any, data: Any, number: int) -> Any:
        if isinstance(kind, type) and issubclass(kind, nn.Module) and "fields" in data:
            return kind(**self._read_dict(data["fields"]), parent=None)
        if isinstance(kind, type) and issubclass(kind, nnx.Variable) and "variable" in data:
            held = self._read_dict(data["variable"])
            return kind._new(held["value"], held["metadata"])
        if not isinstance(kind, type) or not issubclass(kind, nnx.Pytree):
            raise SaveError(f"{kind!r:.80} is no class of layers.")
        layer = self._shared[number] = object.__new__(kind)
        own = vars(layer)
        own["_pytree__state"] = PytreeState()
        own["_pytree__nodes"] = HashableMapping(self._read_dict(data["nodes"]))
        for name, each in self._read_dict(data["attributes"]).items():
            if not isinstance(name, str) or name.startswith("__"):
                raise SaveError(f"{name!r:.40} is no attribute of a layer.")
            own[name] = each
        return layer


_KINDS = frozenset(name.removeprefix("_read_") for name in vars(Decoder) if name.startswith("_read_"))


def _dimensions(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 2**48 for size in shape):
        raise SaveError(f"Found {shape!r:.80}, which is no shape.")
    return tuple(shape)


def _key_kind(name: object) -> str:
    if name not in _KEYS:
        raise SaveError(f"There is no kind of random keys {name!r:.40}; known are {', '.join(_KEYS)}.")
    return str(name)
