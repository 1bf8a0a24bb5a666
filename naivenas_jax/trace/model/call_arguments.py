"""What a model is called with: arrays, and the arguments that its signature names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.errors import GraphError
from naivenas_jax.graph.structure import is_array
from naivenas_jax.typing import Array, PyTree, Shape


def traced_shape(array: Array | Shape | complex) -> Shape:
    """Shape and dtype of an array or number, as JAX sees them.

    Raises:
      GraphError: if it is an array of text or objects.
    """
    array = np.asarray(array) if isinstance(array, int | float | complex) else array
    if not hasattr(array, "dtype"):
        raise GraphError(
            "An input must be an array, a number or a jax.ShapeDtypeStruct; found "
            f"{type(array).__name__}: {array!r:.80}."
        )
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (np.number, np.bool_, jax.dtypes.extended)):
        raise GraphError(
            f"An array of dtype {array.dtype} and shape {np.shape(array)} cannot be traced: arrays hold numbers. Give "
            "numbers (tokens) in its place, or, if it decides how the model computes, a str, which is a constant."
        )
    return jax.ShapeDtypeStruct(np.shape(array), jax.dtypes.canonicalize_dtype(array.dtype, allow_extended_dtype=True))


@dataclass(frozen=True)
class CallSignature:
    """The arguments that a model may be called with, besides its variables.

    Attributes:
      positional: names of the arguments that can be given by position.
      keywords: names of all arguments that can be given by name; None: any name.
    """

    positional: tuple[str, ...]
    keywords: frozenset[str] | None

    @classmethod
    def of(cls, fn: Callable[..., object]) -> CallSignature:
        """The signature of a method or function without its first argument (the model itself, or its variables)."""
        try:
            parameters = list(inspect.signature(fn).parameters.values())
        except (TypeError, ValueError):  # some built-in functions have none
            return cls((), None)
        positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][1:]
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return cls(tuple(positional), None)
        keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        return cls(tuple(positional), frozenset((*positional, *keywords)))

    def takes(self, keyword: str) -> bool:
        """Whether the model takes an argument of this name."""
        return self.keywords is None or keyword in self.keywords

    def name(self, position: int) -> str:
        """The name of an argument that is given by position."""
        return self.positional[position] if position < len(self.positional) else f"input{position}"

    def call(
        self, args: Sequence[PyTree], kwargs: Mapping[str, PyTree]
    ) -> tuple[tuple[PyTree, ...], dict[str, PyTree]]:
        """The arguments of one call: by position, and by name.

        A constant that was given by position at the import may be given by name now.

        Args:
          args: the inputs, as at the import.
          kwargs: the keyword arguments of this call.

        Raises:
          GraphError: if the model does not take a keyword argument.
        """
        given = {**kwargs}
        arguments = tuple(
            given.pop(self.name(i)) if self.name(i) in given and not _has_arrays(value) else value
            for i, value in enumerate(args)
        )
        if given.get("train") is False and not self.takes("train"):
            del given["train"]  # a model without the argument evaluates anyway
        if unknown := [name for name in given if not self.takes(name)]:
            known = ", ".join(sorted(self.keywords or ())) or "none"
            raise GraphError(f"The imported model takes no argument {unknown[0]!r}; its arguments are {known}.")
        return arguments, given


def _has_arrays(value: PyTree) -> bool:
    return any(map(is_array, jax.tree.leaves(value)))
