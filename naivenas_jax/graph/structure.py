"""The structure of a tree of arguments or results: everything but its arrays, as a value."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

import jax
import numpy as np

from naivenas_jax.errors import GraphError
from naivenas_jax.paths import key_text
from naivenas_jax.typing import Array, PyTree, Shape

T = TypeVar("T")
_ARRAYS = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)
#: Where a leaf lies in a tree.
KeyPath = tuple[object, ...]


class Hashed:
    """A key whose hash is computed once.

    What a weak dictionary drops at the end of a process, it looks up by its hash, and a module of Flax has none any
    more then.

    >>> {Hashed((1, 2)): "a"}[Hashed((1, 2))]
    'a'
    """

    __slots__ = ("code", "value")

    def __init__(self, value: Hashable):
        self.value, self.code = value, hash(value)

    def __hash__(self) -> int:
        return self.code

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hashed) and self.code == other.code and self.value == other.value


class _Mark(Enum):
    """Stands where an array was."""

    ARRAY = "an array"


ARRAY = _Mark.ARRAY


@dataclass(frozen=True)
class Structure:
    """A pytree without its arrays: a hashable value.

    Attributes:
      tree: the structure of the pytree, None entries included.
      leaves: for each leaf that is no array (a number, a flag, a name) the leaf itself; for each array a mark.
    """

    tree: jax.tree_util.PyTreeDef
    leaves: tuple[object, ...]

    def __deepcopy__(self, memo: object) -> Structure:
        return self  # a value

    @classmethod
    def split(cls, values: PyTree) -> tuple[Structure, list[Array | Shape]]:
        """The structure of a pytree, and its arrays in order.

        Raises:
          GraphError: if a leaf is neither an array nor hashable.
        """
        leaves, tree = jax.tree.flatten(values)
        leaves = [leaf if is_array(leaf) else _as_array(leaf) for leaf in leaves]
        marked = tuple(ARRAY if is_array(leaf) else leaf for leaf in leaves)
        try:
            hash(marked)
        except TypeError as error:
            raise GraphError(
                f"Arguments and results of a model must be arrays or hashable ({error}). A class that holds arrays has "
                "to be a pytree: flax.struct.dataclass, or jax.tree_util.register_dataclass."
            ) from error
        arrays = (leaf for leaf in leaves if is_array(leaf))
        return cls(tree, marked), [np.asarray(leaf) if isinstance(leaf, np.generic) else leaf for leaf in arrays]

    def join(self, arrays: Iterable[PyTree]) -> PyTree:
        """The inverse of `split`: the pytree with these arrays in the places of the marks."""
        rest = iter(arrays)
        return jax.tree.unflatten(self.tree, [next(rest) if leaf is ARRAY else leaf for leaf in self.leaves])

    def paths(self) -> Iterator[KeyPath]:
        """Where each array lies."""
        every, _ = jax.tree_util.tree_flatten_with_path(jax.tree.unflatten(self.tree, self.leaves))
        return (path for path, leaf in every if leaf is ARRAY)


def _as_array(leaf: object) -> object:
    """What JAX would take for an array, as one."""
    convert = getattr(leaf, "__jax_array__", None)
    return convert() if callable(convert) else leaf


def is_array(leaf: object) -> bool:
    """Whether a leaf is an array, or the shape of one; numbers of Python are none."""
    return isinstance(leaf, _ARRAYS)


def arrays_in(tree: PyTree) -> tuple[PyTree, ...]:
    """The arrays of a pytree in order, without what is beside them."""
    return tuple(leaf for leaf in jax.tree.leaves(tree) if is_array(leaf))


def compiled(fn: Callable[[PyTree, PyTree], T]) -> Callable[[PyTree, PyTree], T]:
    """``fn(values, tree)``, compiled once for each structure of the tree: what is no array in it stays a constant."""
    step = jax.jit(lambda structure, values, arrays: fn(values, structure.join(arrays)), static_argnums=0)

    def call(values: PyTree, tree: PyTree) -> T:
        structure, arrays = Structure.split(tree)
        made: T = step(structure, values, arrays)
        return made

    return call


def same_constant(one: object, other: object) -> bool:
    """Whether two leaves that are no arrays are the same and of one type: True is 1, and not computed with alike."""
    return one is other or (type(one) is type(other) and bool(one == other))


def leaf_name(base: str, path: KeyPath) -> str:
    """The name of an array in an argument or result: the name of the whole, then the keys on the way, with slashes.

    Entries of a tuple or list are numbered, without a slash where they follow the name of the whole.

    Args:
      base: the name of the whole.
      path: the keys.

    >>> leaf_name("batch", (jax.tree_util.DictKey("image"),)), leaf_name("output", (jax.tree_util.SequenceKey(1),))
    ('batch/image', 'output1')
    """
    numbered = bool(path) and isinstance(path[0], jax.tree_util.SequenceKey)
    keys = [key_text(key).replace(":", "_") for key in path]  # a colon separates a vertex from a factor of its axis
    return "/".join([base + keys[0], *keys[1:]] if numbered else [base, *keys])
