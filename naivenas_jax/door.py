"""The doors between a user and the package: tracebacks of errors that leave it end at the user's line.

Who has made a mistake wants to see it, and not how the library found out. What a door cuts is shown with
``JAX_TRACEBACK_FILTERING=off``, or after ``jax.config.update("jax_traceback_filtering", "off")``, which show the frames
of JAX as well. A mistake of the library itself (`InternalError`) keeps all frames, and so does whatever is no error of
ours.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from pathlib import Path
from types import FunctionType, TracebackType
from typing import Any

import flax
import jax

from naivenas_jax import errors
from naivenas_jax.errors import InternalError, NaiveNASError

#: Whose frames are cut: ours, and those of the libraries in between, as JAX cuts its own.
_CUT = tuple(str(Path(module.__file__).parent) for module in (errors, flax, jax) if module.__file__)
#: Methods that a user calls without naming them.
_OPERATORS = ("init", "post_init", "call", "getitem", "matmul", "add", "sub", "mul", "truediv", "neg")
_SPECIAL = frozenset(f"__{name}__" for name in _OPERATORS)
_DOOR = """
def behind_door(function, errors, leaving, functions, made):
    def door(*args, **kwargs):
        try:
            result = function(*args, **kwargs)
        except errors as error:
            raise leaving(error)
        return made(result) if type(result) is functions else result
    return door
"""


def open_doors(public: MutableMapping[str, Any], names: Iterable[str]) -> None:
    """Put a door before every public function, every method of a public class and every function of a public module.

    What the package has imported by then goes on without doors, so that an error passes one.

    Args:
      public: where a user finds them by name; the doors are put there, and where the functions are defined.
      names: their names.
    """
    for name in names:
        value = public[name]
        if inspect.isclass(value) and not issubclass(value, BaseException):
            for owner, method, made in list(_methods(value)):
                setattr(owner, method, made)
        elif inspect.ismodule(value):
            own = [each for each in value.__all__ if inspect.isfunction(getattr(value, each))]
            vars(value).update({each: door(getattr(value, each)) for each in own})
        elif inspect.isfunction(value):
            public[name] = made = door(value)
            setattr(sys.modules[value.__module__], value.__name__, made)


def _methods(cls: type) -> Iterator[tuple[type, str, object]]:
    """The doors of the methods of a class, each with the class that defines it."""
    for owner in cls.__mro__:
        for name, value in vars(owner).items() if owner.__module__.startswith("naivenas_jax.") else ():
            inner = value.__func__ if isinstance(value, staticmethod | classmethod) else value
            called = name in _SPECIAL or not name.startswith("_")
            if not called or not isinstance(inner, FunctionType) or hasattr(inner, "_is_door"):
                continue
            if inner.__code__.co_filename != "<string>":  # a constructor of a dataclass only calls what is written
                made = door(inner)
                yield owner, name, made if inner is value else type(value)(made)


def door(function: FunctionType) -> FunctionType:
    """A function that does what another one does. In tracebacks it looks like the line where that one is defined.

    A function that it makes and returns, such as a callback or a decorator, has a door as well.

    Args:
      function: a function of the package.

    >>> def fails():
    ...     raise NaiveNASError("a mistake")
    >>> try:
    ...     door(lambda: fails())()
    ... except NaiveNASError as error:
    ...     frames = []
    ...     while error.__traceback__:
    ...         frames.append(error.__traceback__.tb_frame.f_code.co_name)
    ...         error = error.with_traceback(error.__traceback__.tb_next)
    >>> frames
    ['<module>', '<lambda>']
    """
    decorators, inner = 0, function
    while hasattr(inner, "__wrapped__"):
        decorators, inner = decorators + 1, inner.__wrapped__
    made: FunctionType = _behind_door(function, NaiveNASError, leaving, FunctionType, _made)
    made.__code__ = made.__code__.replace(
        co_filename=getattr(sys.modules.get(inner.__module__), "__file__", None) or inner.__code__.co_filename,
        co_firstlineno=inner.__code__.co_firstlineno + decorators,
        co_name=inner.__code__.co_name,
        co_qualname=inner.__code__.co_qualname,
    )
    functools.update_wrapper(made, function)
    made._is_door = True  # type: ignore[attr-defined]  # a function takes attributes
    return made


def _made(result: FunctionType) -> FunctionType:
    """What a function has returned; with a door, if code of the package has made it."""
    ours = str(result.__module__).startswith("naivenas_jax.") and "<locals>" in result.__qualname__
    return door(result) if ours and not hasattr(result, "_is_door") else result


def leaving(error: NaiveNASError) -> NaiveNASError:
    """An error at the door: without our frames, and so are the errors that it comes from.

    Args:
      error: the error, which is changed.
    """
    if isinstance(error, InternalError) or jax.config.jax_traceback_filtering == "off":  # type: ignore[attr-defined]
        return error
    seen: set[int] = {id(error)}
    cause = error.__cause__ or error.__context__
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        cause.__traceback__ = _without_ours(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__
    return error.with_traceback(None)


def _without_ours(traceback: TracebackType | None) -> TracebackType | None:
    """A traceback with the frames of the user and of other libraries alone."""
    kept = []
    while traceback is not None:
        if not traceback.tb_frame.f_code.co_filename.startswith(_CUT):
            kept.append(traceback)
        traceback = traceback.tb_next
    found: TracebackType | None = None
    for each in reversed(kept):
        found = TracebackType(found, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return found


def _compiled() -> Callable[..., FunctionType]:
    """What makes doors, all of whose code is on one line, so that a traceback shows the line where the door is put."""
    tree = ast.parse(_DOOR)
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt | ast.expr | ast.excepthandler | ast.arg):
            node.lineno = node.end_lineno = 1
            node.col_offset, node.end_col_offset = 0, 1000  # no part of the line is underlined
    made: dict[str, Any] = {}
    exec(compile(tree, __file__, "exec"), made)
    behind: Callable[..., FunctionType] = made["behind_door"]
    return behind


_behind_door = _compiled()
