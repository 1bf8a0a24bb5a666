"""Values in pickles that hold what pickle alone cannot: functions made by functions, layers of Flax.

A value is packed into bytes and a tuple of what is beside them: classes, and functions that only their names or their
code can stand for. Those are left to the pickler that the user has chosen, so that cloudpickle takes the functions of a
script along by value. All else is taken apart here:

- a function that has been assigned to a name in its module, or in Flax, by that name;
- a function made by a function of a module, as initialisers are (``nn.initializers.he_normal()``), by the name of the
  maker and the values that it has closed over;
- a linen module by its class, and its fields that are not at their default.

Functions are compared by identity. Within a process what is unpickled holds the function that was pickled, as long as
that is alive; elsewhere everything that is unpickled from the same function holds the same one.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import io
import pickle
import sys
import types
import uuid
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

import flax.linen as nn

T = TypeVar("T")
#: Bytes, and what is beside them for another pickler.
Packed: TypeAlias = tuple[bytes, tuple[object, ...]]


def packed(value: object) -> Packed:
    """A value as bytes, and what is beside them.

    >>> unpacked(*packed(nn.Dense(3))) == nn.Dense(3)
    True
    """
    stream = io.BytesIO()
    pickler = _Pickler(stream, protocol=pickle.HIGHEST_PROTOCOL)
    pickler.dump(value)
    return stream.getvalue(), tuple(pickler.beside)


def unpacked(data: bytes, beside: tuple[object, ...]) -> Any:
    """The inverse of `packed`."""
    return _Unpickler(io.BytesIO(data), beside).load()


def remade(kind: Callable[..., T], data: bytes, beside: tuple[object, ...]) -> T:
    """What a class makes of packed fields, a dict by name."""
    return kind(**unpacked(data, beside))


def reduced_fields(
    value: object, kind: Callable[..., object], without: tuple[str, ...] = ()
) -> tuple[Callable[..., object], tuple[object, ...]]:
    """For ``__reduce__``: the fields of a dataclass, packed.

    Args:
      value: an instance of a dataclass.
      kind: what takes the fields by name, to make it again.
      without: fields that are left out.
    """
    assert dataclasses.is_dataclass(value)
    own = [each.name for each in dataclasses.fields(value) if each.init and each.name not in without]
    return remade, (kind, *packed({name: getattr(value, name) for name in own}))


@dataclass(frozen=True)
class ImportPath:
    """Where something can be imported from.

    Attributes:
      module: the name of the module.
      name: the qualified name in it.
    """

    module: str
    name: str

    def resolve(self) -> object:
        """What is found there.

        Raises:
          AttributeError, ImportError: if nothing is.
        """
        return functools.reduce(getattr, self.name.split("."), importlib.import_module(self.module))


def import_path(fn: object) -> ImportPath | None:
    """Where a function can be imported from; None where something else, or nothing, is found under its name."""
    path = ImportPath(str(getattr(fn, "__module__", "")), str(getattr(fn, "__qualname__", "")))
    try:
        return path if path.module in sys.modules and path.resolve() is fn else None
    except AttributeError:
        return None


def assigned_path(fn: object) -> ImportPath | None:
    """Where a function that its own name does not lead to has been assigned to a name: in its module, or in Flax."""
    own = str(getattr(fn, "__module__", ""))
    for module in (own, *(name for name in tuple(sys.modules) if name.startswith("flax."))):
        for name, value in tuple(getattr(sys.modules.get(module), "__dict__", {}).items()):
            if value is fn:
                return ImportPath(module, name)
    return None


@dataclass(frozen=True)
class NestedFunction:
    """A function that a function of a module has made.

    Attributes:
      module: the name of the module.
      name: the qualified name, with ``<locals>`` behind the name of the maker.
      cells: the values that it has closed over.
      defaults: those of its arguments.
      keyword_defaults: those of its arguments that are given by name alone.
    """

    module: str
    name: str
    cells: tuple[object, ...]
    defaults: tuple[object, ...] | None
    keyword_defaults: dict[str, object] | None

    @classmethod
    def of(cls, fn: types.FunctionType) -> NestedFunction | None:
        """The function taken apart; None if its code is not found in that of its maker, or it closes over itself."""
        try:
            cells = tuple(cell.cell_contents for cell in fn.__closure__ or ())
        except ValueError:  # a cell that has not been filled
            return None
        parts = cls(fn.__module__, fn.__qualname__, cells, fn.__defaults__, fn.__kwdefaults__)
        known = fn.__module__ in sys.modules and fn.__module__ not in _SCRIPTS
        found = parts._code() if known and not any(cell is fn for cell in cells) else None
        return parts if found is fn.__code__ else None

    def _code(self) -> types.CodeType | None:
        """The code of the function, inside that of its maker."""
        first, *names = self.name.split(".<locals>.")
        try:
            maker = ImportPath(self.module, first).resolve()
        except AttributeError:
            return None
        code = getattr(maker, "__code__", None)
        for name in names:
            inner = [each for each in getattr(code, "co_consts", ()) if isinstance(each, types.CodeType)]
            same = [each for each in inner if each.co_name == name]
            code = same[0] if len(same) == 1 else None
        return code if names else None

    def resolve(self) -> types.FunctionType:
        """The function made again.

        Raises:
          AttributeError: if its maker is not what it was.
        """
        code = self._code()
        if code is None or len(code.co_freevars) != len(self.cells):
            raise AttributeError(f"The module {self.module!r} has no function {self.name!r} any more.")
        scope = vars(importlib.import_module(self.module))
        made = types.FunctionType(code, scope, code.co_name, self.defaults, tuple(map(types.CellType, self.cells)))
        made.__kwdefaults__ = self.keyword_defaults
        made.__qualname__, made.__module__ = self.name, self.module
        return made


#: Modules whose names mean something else in other processes.
_SCRIPTS = ("__main__", "__mp_main__")


@dataclass(frozen=True)
class _Functions:
    """The functions that have been pickled or unpickled here, and are still alive.

    Attributes:
      made: by token.
      tokens: by function.
    """

    made: MutableMapping[str, Callable[..., object]] = field(default_factory=WeakValueDictionary)
    tokens: MutableMapping[Callable[..., object], str] = field(default_factory=WeakKeyDictionary)

    def token(self, fn: Callable[..., object]) -> str:
        """The token of a function, which it gets when it is first asked for."""
        token = self.tokens.setdefault(fn, uuid.uuid4().hex)
        self.made[token] = fn
        return token

    def known(self, token: str, fn: Callable[..., object]) -> Callable[..., object]:
        """The function that has this token already, or ``fn``, which has it from now on."""
        found = self.made.setdefault(token, fn)
        self.tokens[found] = token
        return found


_FUNCTIONS = _Functions()


def _function(token: str, parts: NestedFunction) -> Callable[..., object]:
    return _FUNCTIONS.made.get(token) or _FUNCTIONS.known(token, parts.resolve())


@dataclass(frozen=True)
class _ByValue:
    """A function that nothing but its code can stand for: pickle refuses it, and cloudpickle takes its code along."""

    token: str
    fn: Callable[..., object]


def _linen_module(kind: type[nn.Module], fields: dict[str, object]) -> nn.Module:
    return kind(**fields, parent=None)


class _Pickler(pickle.Pickler):
    """Takes apart what pickle cannot, and puts beside it what another pickler is to decide on."""

    _PLAIN: ClassVar[tuple[type, ...]] = (types.BuiltinFunctionType, types.FunctionType)

    def __init__(self, stream: io.BytesIO, protocol: int):
        super().__init__(stream, protocol)
        self.beside: list[object] = []
        self._numbers: dict[int, int] = {}

    def persistent_id(self, value: object) -> int | None:
        """The number of a value among those beside; None if it is taken apart here."""
        if isinstance(value, type):
            return self._beside(value, value)
        if not isinstance(value, types.FunctionType):
            return None
        if import_path(value) is not None:
            return self._beside(value, value)
        if self._parts(value) is not None:
            return None
        return self._beside(value, _ByValue(_FUNCTIONS.token(value), value))

    def _beside(self, key: object, value: object) -> int:
        if id(key) not in self._numbers:
            self._numbers[id(key)] = len(self.beside)
            self.beside.append(value)
        return self._numbers[id(key)]

    def _parts(self, fn: types.FunctionType) -> ImportPath | NestedFunction | None:
        assigned = None if fn.__module__ in _SCRIPTS else assigned_path(fn)
        return NestedFunction.of(fn) if assigned is None else assigned

    def reducer_override(self, value: object) -> Any:  # NotImplemented is of no type
        """How functions and linen modules are taken apart."""
        if isinstance(value, types.FunctionType):
            parts = self._parts(value)
            if isinstance(parts, NestedFunction):
                return _function, (_FUNCTIONS.token(value), parts)
            return NotImplemented if parts is None else (ImportPath.resolve, (parts,))
        if isinstance(value, nn.Module) and type(value).__reduce__ is object.__reduce__:
            return _linen_module, (type(value), dict(_changed_fields(value)))
        if callable(value) and not isinstance(value, self._PLAIN) and not isinstance(value, type):
            path = import_path(value)  # what jax has wrapped
            if path is not None and path.module not in _SCRIPTS:
                return ImportPath.resolve, (path,)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    """Takes what is beside the bytes from where it is."""

    def __init__(self, stream: io.BytesIO, beside: tuple[object, ...]):
        super().__init__(stream)
        self._beside = beside

    def persistent_load(self, pid: int) -> object:
        """What has this number among the values beside."""
        found = self._beside[pid]
        return _FUNCTIONS.known(found.token, found.fn) if isinstance(found, _ByValue) else found


def _changed_fields(module: nn.Module) -> Iterator[tuple[str, object]]:
    """The fields of a linen module that are not at their default, by name."""
    for each in dataclasses.fields(module):
        if each.init and each.name != "parent" and (value := getattr(module, each.name)) is not each.default:
            yield each.name, value
