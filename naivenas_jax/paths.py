"""Paths of variables and names of axes, and how messages spell them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

#: Where an array lies in nested variables: the collection, then vertices or modules, then the parameter.
Path: TypeAlias = tuple[str, ...]


def path_text(path: Iterable[object]) -> str:
    """A path, or a part of one, with slashes.

    >>> path_text(("params", "dense", "kernel"))
    'params/dense/kernel'
    """
    return "/".join(map(str, path))


def subscripts(path: Iterable[object]) -> str:
    """The expression in Python that reads the variable at ``path``.

    >>> subscripts(("params", "dense", "kernel"))
    "variables['params']['dense']['kernel']"
    """
    return "variables" + "".join(f"[{key!r}]" for key in path)


def key_text(key: object) -> str:
    """A key of a path in a pytree, as jax gives them, without its brackets.

    >>> from jax.tree_util import DictKey, GetAttrKey, SequenceKey
    >>> [key_text(key) for key in (DictKey("image"), GetAttrKey("mask"), SequenceKey(0))]
    ['image', 'mask', '0']
    """
    for name in ("key", "name", "idx"):
        if hasattr(key, name):
            return str(getattr(key, name))
    return str(key)


def unnamed_axis(path: Path, dim: int) -> str:
    """The name of an axis that nobody has named: the first dimension of a variable that lies on it.

    >>> unnamed_axis(("params", "dense", "kernel"), 0)
    '~params/dense/kernel[0]'
    """
    return f"~{path_text(path)}[{dim}]"


def is_unnamed(axis: str) -> bool:
    """Whether nobody has named an axis, so that it is no handle and no message lists it.

    >>> is_unnamed("~params/dense/kernel[0]"), is_unnamed("dense")
    (True, False)
    """
    return axis.startswith("~")
