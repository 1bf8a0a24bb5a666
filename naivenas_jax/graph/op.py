"""What a vertex computes, and what it ties: the four questions that every operation answers."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import jax
import numpy as np
from flax.core import Scope

from naivenas_jax.errors import GraphError
from naivenas_jax.sizes.blocks import Vector
from naivenas_jax.sizes.tying import Tying


class Op(ABC):
    """The computation of a vertex. Implementations are frozen dataclasses: hashable, compared by value.

    Functions and closures inside an op compare by identity.
    """

    #: Whether the computation may be given any number of inputs.
    variadic = False
    #: Whether its weights read the inputs, so that input and output neurons are independent (SizeAbsorb).
    absorbs = False
    #: Whether it evaluates vertices of its own.
    nested = False
    #: Whether its output has as many neurons on the last axis as it says; checked when it is computed.
    declares_width = True
    #: Whether shapes of its variables depend on how many positions it reads, and not on neurons alone.
    positional = False
    #: Whether its variables lie beside those of the other vertices, and not under the name of its own.
    at_root = False
    #: Names of the keyword arguments that the computation understands; None: any.
    keywords: frozenset[str] | None = frozenset()

    @abstractmethod
    def tie(self, ports: tuple[Vector, ...], tying: Tying) -> Vector:
        """Say what is tied, given the neurons that arrive at each port; returns the neurons of the output.

        Raises:
          SizeMismatchError: if the sizes of the ports do not fit the computation.
        """

    @abstractmethod
    def call(self, scope: Scope, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Compute, with the variables that live in ``scope``."""

    def resized(self, ports: tuple[int, ...], sizes: Mapping[str, int]) -> Op:
        """The same computation for other sizes.

        Args:
          ports: the new number of neurons of each input.
          sizes: the new size of each axis of the vertex: the output under ``"out"``, inner axes under their factor,
            axes of vertices inside this one under ``"/vertex"``.

        An implementation may take further keyword arguments: those of ``layer_keywords=`` of the verbs.
        """
        del ports, sizes
        return self

    def renamed(self, names: Mapping[str, str]) -> Op:
        """The same in a graph whose vertices have other names, for what refers to another vertex by name."""
        del names
        return self

    def example_shapes(self, nin: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Input shapes, with a batch of one, that the computation can be tried on when the true ones are not known."""
        return tuple((1, size) for size in nin)

    def identity(self, passes: Any) -> Mapping[tuple[str, ...], Any]:
        """Values of the variables that make the computation pass neurons on; empty: it cannot, or has none.

        Args:
          passes: shape (nin, nout), 1 where an input neuron is to arrive at an output neuron unchanged.
        """
        del passes
        return {}

    def keeps_values(self, as_identity: bool) -> bool:
        """Whether output neurons have the values of the inputs they pass on, given whether `identity` was applied."""
        return as_identity

    def returns(self) -> tuple[jax.ShapeDtypeStruct, ...] | None:
        """The shapes of the arrays that lie side by side in the output, for other vertices to pick from.

        No request means such an output as a whole. None: the output is one array.
        """
        return None

    def describe(self) -> str:
        """A few words for tables and error messages."""
        return type(self).__name__.lower()


def is_count(size: Any) -> bool:
    """Whether this is a number of neurons: whole, and at least 1."""
    return not isinstance(size, bool) and hasattr(size, "__index__") and np.ndim(size) == 0 and size >= 1


def checked_function(name: str, fn: Any) -> Callable[..., Any]:
    """``fn``, if it can be what a vertex of that name computes.

    Raises:
      GraphError: if it cannot be called, or not be hashed.
    """
    if not callable(fn):
        raise GraphError(f"Vertex {name!r} needs a function of arrays, found {type(fn).__name__}: {fn!r:.80}.")
    try:
        hash(fn)
    except TypeError as error:
        raise GraphError(
            f"The function of vertex {name!r} must be hashable, for graphs are; found {fn!r:.80}."
        ) from error
    return fn


@cache
def keywords_of(fn: Callable[..., Any]) -> frozenset[str] | None:
    """The keyword arguments that ``fn`` understands besides its positional ones; None if it takes any."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):  # some built-in functions have no signature: they take no keywords of ours
        return frozenset()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(
        parameter.name
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY
        or (parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is not parameter.empty)
    )


def select(kwargs: Mapping[str, Any], keywords: frozenset[str] | None) -> dict[str, Any]:
    """Those of ``kwargs`` that are among ``keywords``."""
    return {key: value for key, value in kwargs.items() if keywords is None or key in keywords}
