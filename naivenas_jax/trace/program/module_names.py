"""Names for values inside a traced model: the input and the output of each module.

Where a module takes or returns several arrays, the first one of floats is named. A name is a
`jax.ad_checkpoint.checkpoint_name`, which computes nothing.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from naivenas_jax.graph.evaluation.name_scopes import computing, computing_in_linen, path_of
from naivenas_jax.graph.model_vertex import Place

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")


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
    """A context in which linen modules mark their inputs and outputs."""

    def intercept(
        call: Callable[..., object],
        args: tuple[object, ...],
        kwargs: dict[str, object],
        context: nn.module.InterceptorContext,
    ) -> object:
        path = path_of(context.module)
        if context.method_name != "__call__" or not path:
            return call(*args, **kwargs)
        args, kwargs = _marked((args, kwargs), "in", path)
        return _marked(call(*args, **kwargs), "out", path)

    with nn.intercept_methods(intercept), computing_in_linen():  # names lie outside of the scope of the module
        yield


def mark_nnx(model: nnx.Module) -> None:
    """Make the modules of an nnx model mark their inputs and outputs."""
    for path, module in nnx.iter_modules(model):
        if path and not isinstance(module, nnx.List | nnx.Dict):
            object.__setattr__(module, "__class__", _marked_type(type(module), "/".join(map(str, path))))


@functools.cache
def _marked_type(kind: type, path: str) -> type:
    """A subclass whose call is marked. The path belongs to the class, so that it outlives `nnx.split`."""

    def __call__(self: object, *args: object, **kwargs: object) -> object:  # noqa: N807
        args, kwargs = _marked((args, kwargs), "in", path)
        with computing(path):
            result = kind.__call__(self, *args, **kwargs)
        return _marked(result, "out", path)

    body: dict[str, object] = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": None}
    body |= {name: _computing(method, path) for name, method in _methods(kind)}
    body |= {"__call__": __call__} if hasattr(kind, "__call__") else {}  # noqa: B004
    keywords = {"pytree": getattr(kind, "_pytree__is_pytree", True)}
    return types.new_class(kind.__name__, (kind,), keywords, lambda namespace: namespace.update(body))


def _methods(kind: type) -> Iterator[tuple[str, Callable[..., object]]]:
    """The methods of a user's module besides its call (``attend``, ``encode``)."""
    for name in dir(kind):
        method = inspect.getattr_static(kind, name)
        if inspect.isfunction(method) and not name.startswith("__") and not hasattr(nnx.Module, name):
            yield name, method


def _computing(method: Callable[P, R], path: str) -> Callable[P, R]:
    """A method whose equations are computed in the module at ``path``."""

    @functools.wraps(method)
    def computed(*args: P.args, **kwargs: P.kwargs) -> R:
        with computing(path):
            return method(*args, **kwargs)

    return computed
