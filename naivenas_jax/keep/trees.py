"""Any tree of arrays as nested dicts and lists, and back into a tree of the same structure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from naivenas_jax.errors import SaveError
from naivenas_jax.paths import key_text
from naivenas_jax.transfer.take import placed_like
from naivenas_jax.typing import PyTree


def as_nested(tree: PyTree) -> Any:
    """A tree as nested dicts and lists: tuples as lists, and other nodes as dicts of their fields.

    >>> import optax
    >>> as_nested(optax.sgd(0.1, momentum=0.9).init({"bias": 0.0}))[0]["trace"]["bias"].shape
    ()
    """
    if isinstance(tree, nnx.Variable):
        return tree.get_value()
    if isinstance(tree, Mapping):
        return {key: as_nested(child) for key, child in tree.items()}
    if _is_sequence(tree):
        return [as_nested(child) for child in tree]
    children = _children(tree)
    return tree if children is None else {key_text(key): as_nested(child) for key, child in children}


def as_it_was(saved: Any, like: PyTree, where: str = "") -> PyTree:
    """The inverse of `as_nested`: a tree with the structure of ``like``, and the saved leaves.

    Args:
      saved: nested dicts and lists.
      like: a tree of the structure that was saved.
      where: the path so far, for error messages.

    Raises:
      SaveError: names the first leaf that is missing, unknown, or of another shape or dtype.
    """
    if isinstance(like, nnx.Variable):
        return like.replace(as_it_was(saved, like.get_value(), where))
    children = _children(like)
    if children is None:
        return _leaf(saved, like, where)
    sequence = _is_sequence(like)
    names = [key_index(key) if sequence else _own_key(key) for key, _ in children]
    if sequence:
        own: dict[Any, Any] | None = dict(enumerate(saved)) if isinstance(saved, list) else None
    else:
        own = {_text(key): value for key, value in saved.items()} if isinstance(saved, dict) else None
    if own is None or own.keys() != set(names):
        raise SaveError(f"{where or 'The tree'} {_differs(own, names, saved)}")
    made = [
        as_it_was(own[name], child, f"{where}/{name}".strip("/"))
        for name, (_, child) in zip(names, children, strict=True)
    ]
    treedef = jax.tree.structure(like, is_leaf=lambda value: value is not like)
    return jax.tree.unflatten(treedef, made)


def _differs(own: dict[Any, Any] | None, names: list[Any], saved: Any) -> str:
    """How what was saved differs from a node of ``like``, in words."""
    if own is None:
        return f"was saved as {type(saved).__name__}, and like= has {len(names)} children there."
    if missing := [name for name in names if name not in own]:
        return f"was saved without {missing[0]!r}, which like= has."
    return f"was saved with {next(name for name in own if name not in names)!r}, which like= does not have."


def _children(node: PyTree) -> list[tuple[Any, Any]] | None:
    """The children of a node with their keys, those that are None included; None: it is a leaf."""
    if node is None:
        return None
    found = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda value: value is not node)[0]
    if len(found) == 1 and not found[0][0]:
        return None
    return [(path[0], child) for path, child in found]


def _is_sequence(node: PyTree) -> bool:
    return isinstance(node, list | tuple) and not hasattr(node, "_fields")


def key_index(key: Any) -> int:
    """The position that a key of a list or tuple is."""
    return int(key.idx)


def _own_key(key: Any) -> str:
    return _text(key.key) if hasattr(key, "key") else key_text(key)


def _text(key: object) -> str:
    return key if isinstance(key, str) else f"{type(key).__name__}:{key}"


def _leaf(saved: Any, like: PyTree, where: str) -> PyTree:
    if like is None or saved is None:
        if like is not saved:
            raise SaveError(f"{where} was {_said(saved)}, and like= has {_said(like)}.")
        return None
    if not (hasattr(like, "dtype") and hasattr(like, "shape")):  # a module of Flax has a dtype
        if isinstance(saved, dict | list):
            raise SaveError(f"{where} was saved as {_said(saved)}, and like= has {_said(like)}.")
        return saved
    found = np.shape(saved), getattr(saved, "dtype", type(saved).__name__)
    if found != (tuple(like.shape), _as_stored(like.dtype)):
        raise SaveError(f"{where} was {_said(saved)}, and like= has {_said(like)}.")
    if isinstance(like, np.ndarray) and isinstance(saved, np.ndarray):
        return saved.astype(like.dtype, copy=False)  # in its order of bytes
    if isinstance(like, jax.Array) and not jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return placed_like(np.asarray(saved), like)
    if isinstance(like, jax.ShapeDtypeStruct) and like.sharding is not None:
        return jax.device_put(saved, like.sharding)
    return saved


def _as_stored(dtype: Any) -> Any:
    """A dtype in the order of bytes of this machine, in which arrays come back."""
    return dtype.newbyteorder("=") if isinstance(dtype, np.dtype) else dtype


def _said(leaf: Any) -> str:
    return (
        f"{leaf.dtype}{list(np.shape(leaf))}" if hasattr(leaf, "dtype") and hasattr(leaf, "shape") else f"{leaf!r:.40}"
    )
