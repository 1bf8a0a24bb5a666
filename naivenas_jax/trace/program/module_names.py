"""Names for values inside a traced model: the input and the output of each module.

Where a module takes or returns several arrays, the first one of floats is named. A name is a
`jax.ad_checkpoint.checkpoint_name`, which computes nothing. Names are given only in the context `naming`, so that the
same function can be traced with names and without.

A model must not notice that it is named. linen has interceptors for that. For nnx, methods are wrapped in place, in the
classes that define them and for as long as the model computes, so that ``type(self)`` is the class that it was and
``type(self).method`` is inherited or overridden as before. Which module a method belongs to is written into the
module, from where it comes through ``nnx.split`` and ``nnx.merge``. Whoever looks deeper than that computes something
else, which the comparison with a trace without names shows (see `capture`).
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from naivenas_jax.graph.evaluation.name_scopes import computing, path_of, taking_what_fits
from naivenas_jax.graph.model_vertex import Place

T = TypeVar("T")
#: Whether models that compute name their values.
_NAMING: ContextVar[bool] = ContextVar("naming", default=False)
#: The path of the module whose call is the innermost one.
_CALLED: ContextVar[str] = ContextVar("called", default="")
#: Classes are changed by one thread at a time.
_CLASSES = threading.RLock()
#: The attribute that holds the path of a module. nnx does not print attributes that start like this.
_PATH = "_pytree__naivenas_path"


@contextmanager
def naming() -> Iterator[None]:
    """A context in which models that compute name what their modules take in and return."""
    token = _NAMING.set(True)
    try:
        yield
    finally:
        _NAMING.reset(token)


def place_of(name: str, rank: int) -> Place | None:
    """The place that a name in a jaxpr stands for; None: the array has been batched since it was named.

    A name that the user has given with `jax.ad_checkpoint.checkpoint_name` stands for an output of that name.
    """
    if not name.startswith("~"):
        return Place(name, "out")
    end, dimensions, path = name[1:].split(":", 2)
    return Place(path, end) if int(dimensions) == rank else None


def mark(array: jax.Array, place: Place) -> jax.Array:
    """An array with a name. The name tells its rank, since under `jax.vmap` it stands for a part of another array."""
    named: jax.Array = checkpoint_name(array, f"~{place.end}:{array.ndim}:{place.name}")
    return named


def _marked(tree: T, end: str, path: str) -> T:
    """A pytree whose first array of floats, wherever it occurs, has a name."""
    leaves = jax.tree.leaves(tree, is_leaf=_opaque)
    first = next((leaf for leaf in leaves if isinstance(leaf, jax.Array) and _floats(leaf)), None)
    if first is None:
        return tree
    named = mark(first, Place(path, end))
    result: T = jax.tree.map(lambda leaf: named if leaf is first else leaf, tree, is_leaf=_opaque)
    return result


def _opaque(node: object) -> bool:
    """Whether to leave a node of a pytree as it is: a copy of a module would lose what the module updates."""
    return isinstance(node, nnx.Pytree | nn.Module)


def _floats(array: jax.Array) -> bool:
    """Whether an array holds neurons, and not counts or indices."""
    return array.ndim > 0 and jnp.issubdtype(array.dtype, jnp.inexact)


@contextmanager
def linen_marks() -> Iterator[None]:
    """A context in which linen modules take parameters that fit as they are and, within `naming`, mark what they do."""

    def intercept(
        call: Callable[..., object],
        args: tuple[object, ...],
        kwargs: dict[str, object],
        context: nn.module.InterceptorContext,
    ) -> object:
        path = path_of(context.module)
        if context.method_name != "__call__" or not path:
            with computing(path):
                return call(*args, **kwargs)
        args, kwargs = _marked((args, kwargs), "in", path)
        with computing(path):  # names lie outside of the scope of the module
            result = call(*args, **kwargs)
        return _marked(result, "out", path)

    with nn.intercept_methods(intercept) if _NAMING.get() else nullcontext(), nn.intercept_methods(taking_what_fits):
        yield


@contextmanager
def nnx_marks(model: nnx.Module) -> Iterator[None]:
    """A context in which the modules of an nnx model mark their inputs and outputs, within `naming`.

    Args:
      model: a copy of a model that is the caller's own.
    """
    if not _NAMING.get():
        yield
        return
    classes: dict[type, None] = {}
    for path, module in nnx.iter_modules(model):
        if path and not isinstance(module, nnx.List | nnx.Dict):
            object.__setattr__(module, _PATH, "/".join(map(str, path)))
            classes.update(dict.fromkeys(type(module).__mro__))
    with _CLASSES:
        before = [(kind, name, method) for kind in classes for name, method in _methods(kind)]
        try:
            for kind, name, method in before:
                setattr(kind, name, _call(method) if name == "__call__" else _computing(method))
            yield
        finally:
            for kind, name, method in before:
                setattr(kind, name, method)


def _methods(kind: type) -> Iterator[tuple[str, Callable[..., object]]]:
    """The call that a user's class defines, and its other methods (``attend``, ``encode``)."""
    if kind in nnx.Module.__mro__:
        return
    for name, method in vars(kind).items():
        own = inspect.isfunction(method) and not name.startswith("__") and not hasattr(nnx.Module, name)
        if own or name == "__call__":
            yield name, method


def _call(method: Callable[..., T]) -> Callable[..., T]:
    """``__call__``, in which a module marks what it takes in and returns."""

    @functools.wraps(method)
    def __call__(self: object, *args: object, **kwargs: object) -> T:  # noqa: N807
        path = getattr(self, _PATH, "")
        bound = _bound(method, self)
        if path in ("", _CALLED.get()):  # a class calls the one that it is derived from
            return bound(*args, **kwargs)
        token = _CALLED.set(path)
        try:
            args, kwargs = _marked((args, kwargs), "in", path)
            with computing(path):
                result = bound(*args, **kwargs)
            return _marked(result, "out", path)
        finally:
            _CALLED.reset(token)

    return __call__


def _computing(method: Callable[..., T]) -> Callable[..., T]:
    """Another method, whose equations are computed in the module that it belongs to."""

    @functools.wraps(method)
    def computed(self: object, *args: object, **kwargs: object) -> T:
        with computing(getattr(self, _PATH, "")):
            return _bound(method, self)(*args, **kwargs)

    return computed


def _bound(method: Callable[..., T], module: object) -> Callable[..., T]:
    """A method of a class, bound to a module; it may be a function, or what a transformation makes of one."""
    bind = getattr(method, "__get__", None)
    bound: Callable[..., T] = functools.partial(method, module) if bind is None else bind(module, type(module))
    return bound
