"""The arguments of a model: its arrays, and what else it is called with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from naivenas_jax.errors import GraphError

_ARRAYS = jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct


class _Array:
    """Stands where an array was."""

    def __repr__(self) -> str:
        return "an array"


_ARRAY = _Array()


@dataclass(frozen=True)
class Arguments:
    """A pytree of arguments without its arrays: a hashable value.

    Attributes:
      tree: its structure.
      leaves: what is no array (numbers, flags, names) as it is; a mark in place of each array.
    """

    tree: Any
    leaves: tuple[Any, ...]

    @classmethod
    def split(cls, values: Any) -> tuple[Arguments, list[Any]]:
        """Arguments, and their arrays in order."""
        leaves, tree = jax.tree.flatten(values)
        marked = tuple(_ARRAY if isinstance(leaf, _ARRAYS) else leaf for leaf in leaves)
        try:
            hash(marked)
        except TypeError as error:
            raise GraphError(f"Arguments of a model must be arrays or hashable ({error}).") from error
        return cls(tree, marked), [leaf for leaf in leaves if isinstance(leaf, _ARRAYS)]

    def join(self, arrays: Sequence[Any]) -> Any:
        """The inverse of `split`."""
        rest = iter(arrays)
        return jax.tree.unflatten(self.tree, [next(rest) if leaf is _ARRAY else leaf for leaf in self.leaves])


def shape_of(array: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype as JAX sees them.

    Raises:
      GraphError: if it is an array of text or objects.
    """
    array = np.asarray(array) if isinstance(array, int | float | complex) else array
    if not any(jax.dtypes.issubdtype(array.dtype, kind) for kind in (np.number, np.bool_, jax.dtypes.extended)):
        raise GraphError(
            f"An array of dtype {array.dtype} and shape {np.shape(array)} cannot be traced: arrays hold numbers. Give "
            "numbers (tokens) in its place, or, if it decides how the model computes, a str, which is a constant."
        )
    return jax.ShapeDtypeStruct(np.shape(array), jax.dtypes.canonicalize_dtype(array.dtype, allow_extended_dtype=True))


@dataclass(frozen=True)
class Signature:
    """What a model may be called with.

    Attributes:
      positional: names of the arguments that can be given by position.
      keywords: names of all arguments that can be given by name; None: any.
    """

    positional: tuple[str, ...]
    keywords: frozenset[str] | None

    @classmethod
    def of(cls, fn: Callable[..., Any], skip: int = 1) -> Signature:
        """That of a function, its first arguments left out."""
        try:
            parameters = list(inspect.signature(fn).parameters.values())
        except (TypeError, ValueError):  # some built-in functions have none
            return cls((), None)
        positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][skip:]
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return cls(tuple(positional), None)
        keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        return cls(tuple(positional), frozenset((*positional, *keywords)))

    def name(self, position: int) -> str:
        """The name of an argument that is given by position."""
        return self.positional[position] if position < len(self.positional) else f"input{position}"

    def call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call. What was a constant by position when it was imported may be given by name now.

        Raises:
          GraphError: if the model does not understand a keyword argument.
        """
        given = {**kwargs}
        arguments = tuple(
            given.pop(self.name(i)) if self.name(i) in given and not _has_arrays(value) else value
            for i, value in enumerate(args)
        )
        if self.keywords is not None and given.get("train") is False and "train" not in self.keywords:
            del given["train"]  # evaluation is what it does anyway
        unknown = [name for name in given if self.keywords is not None and name not in self.keywords]
        if unknown:
            known = ", ".join(sorted(self.keywords or ())) or "none"
            raise GraphError(f"The imported model takes no argument {unknown[0]!r}; its arguments are {known}.")
        return arguments, given


def _has_arrays(value: Any) -> bool:
    return any(isinstance(leaf, _ARRAYS) for leaf in jax.tree.leaves(value))
