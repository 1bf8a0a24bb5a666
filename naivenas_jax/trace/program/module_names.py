"""Names for values inside a traced model: what each module takes in, and what it returns.

Of several arrays the first of floats is named. A name is a `jax.ad_checkpoint.checkpoint_name`, which computes nothing.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from naivenas_jax.graph.evaluation.name_scopes import computing, computing_in_linen, path_of
from naivenas_jax.graph.model_vertex import Place


def place_of(name: str, rank: int) -> Place | None:
    """The place that a name in a jaxpr stands for; None: the name is the model's own, or the array has been batched.

    What users have named with `jax.ad_checkpoint.checkpoint_name` are outputs.
    """
    if not name.startswith("~"):
        return Place(name, "out")
    end, dimensions, path = name[1:].split(":", 2)
    return Place(path, end) if int(dimensions) == rank else None


def mark(array: Any, place: Place) -> Any:
    """An array with a name. Its rank is part of it: under `jax.vmap` it is another array."""
    return checkpoint_name(array, f"~{place.end}:{array.ndim}:{place.name}")


def _marked(tree: Any, end: str, path: str) -> Any:
    """A pytree whose first array of floats, wherever it occurs, has a name."""
    leaves = jax.tree.leaves(tree, is_leaf=_opaque)
    first = next((leaf for leaf in leaves if isinstance(leaf, jax.Array) and _floats(leaf)), None)
    if first is None:
        return tree
    named = mark(first, Place(path, end))
    return jax.tree.map(lambda leaf: named if leaf is first else leaf, tree, is_leaf=_opaque)


def _opaque(node: Any) -> bool:
    return isinstance(node, nnx.Pytree | nn.Module)  # copies of modules would lose what they update


def _floats(array: jax.Array) -> bool:
    return array.ndim > 0 and jnp.issubdtype(array.dtype, jnp.inexact)


@contextmanager
def linen_marks() -> Iterator[None]:
    """Within, the calls of linen modules are marked."""

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        path = path_of(context.module)
        if context.method_name != "__call__" or not path:
            return call(*args, **kwargs)
        args, kwargs = _marked((args, kwargs), "in", path)
        return _marked(call(*args, **kwargs), "out", path)

    with nn.intercept_methods(intercept), computing_in_linen():  # ends lie outside of what is computed between them
        yield


def mark_nnx(model: nnx.Module) -> None:
    """From now on, the calls of the modules in an nnx model are marked."""
    for path, module in nnx.iter_modules(model):
        if path and not isinstance(module, nnx.List | nnx.Dict):
            object.__setattr__(module, "__class__", _marked_type(type(module), "/".join(map(str, path))))


@functools.cache
def _marked_type(kind: type, path: str) -> type:
    """The same class, but its call is marked. The path lies on the class, so that it outlives `nnx.split`."""

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        args, kwargs = _marked((args, kwargs), "in", path)
        with computing(path):
            result = kind.__call__(self, *args, **kwargs)
        return _marked(result, "out", path)

    body: dict[str, Any] = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": None}
    body |= {name: _computing(method, path) for name, method in _methods(kind)}
    body |= {"__call__": __call__} if hasattr(kind, "__call__") else {}  # noqa: B004
    keywords = {"pytree": getattr(kind, "_pytree__is_pytree", True)}
    return types.new_class(kind.__name__, (kind,), keywords, lambda namespace: namespace.update(body))


def _methods(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """What a user's module computes by other names than its call (``attend``, ``encode``)."""
    for name in dir(kind):
        method = inspect.getattr_static(kind, name)
        if inspect.isfunction(method) and not name.startswith("__") and not hasattr(nnx.Module, name):
            yield name, method


def _computing(method: Callable[..., Any], path: str) -> Callable[..., Any]:
    @functools.wraps(method)
    def computed(*args: Any, **kwargs: Any) -> Any:
        with computing(path):
            return method(*args, **kwargs)

    return computed
