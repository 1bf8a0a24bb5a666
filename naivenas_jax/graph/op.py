"""What a vertex computes, and what it ties."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import cache
from typing import TypeAlias, TypeVar

import jax
import numpy as np
from flax.core import Scope

from naivenas_jax.errors import GraphError
from naivenas_jax.paths import Path
from naivenas_jax.pickling import reduced_fields
from naivenas_jax.sizes.tying import Tying
from naivenas_jax.sizes.vector import Vector
from naivenas_jax.typing import PyTree

T = TypeVar("T")

#: The value of a variable with which a computation passes neurons on: ``(shape, passes) -> array``, where ``passes`` of
#: shape (nin, nout) is 1 where an input neuron is to arrive at an output neuron unchanged.
Identity: TypeAlias = Callable[[tuple[int, ...], np.ndarray], np.ndarray]


class Op(ABC):
    """The computation of a vertex. Implementations are frozen dataclasses: hashable, compared by value.

    Functions and closures inside an op are compared by identity. An op has to say what it ties (`tie`) and what it
    computes (`call`); all else has a default.
    """

    @property
    def variadic(self) -> bool:
        """Whether the computation may be given further inputs, and do with fewer."""
        return False

    def takes(self, inputs: int) -> bool:
        """Whether the computation may be given so many inputs in place of those that it has."""
        return self.variadic and inputs > 0

    @property
    def absorbs(self) -> bool:
        """Whether its weights read the inputs, so that input and output neurons are independent (SizeAbsorb)."""
        return False

    @property
    def declares_width(self) -> bool:
        """Whether its output has as many neurons on the last axis as `tie` says; checked when it is computed."""
        return True

    @property
    def positional(self) -> bool:
        """Whether shapes of its variables depend on the number of positions it reads, and not on neurons alone."""
        return False

    @property
    def at_root(self) -> bool:
        """Whether its variables lie beside the names of vertices, and not under the name of its own vertex."""
        return False

    @property
    def keywords(self) -> frozenset[str] | None:
        """Names of the keyword arguments that the computation understands; None: any."""
        return frozenset()

    def axes_inside(self, name: str) -> tuple[str, ...]:
        """The axes of the graph on which the output of something inside lies, such as a module of an imported model.

        Args:
          name: what the graph calls it.
        """
        return ()

    @abstractmethod
    def tie(self, ports: tuple[Vector, ...], tying: Tying) -> Vector:
        """Say what is tied.

        Args:
          ports: the neurons that arrive at each input.
          tying: takes down what is tied, fixed and coupled, and the inner axes and arrays of the vertex.

        Returns:
          The neurons of the output.

        Raises:
          SizeMismatchError: if the sizes of the ports do not fit the computation.
        """

    def width(self, name: str, nin: tuple[int, ...]) -> int:
        """The number of neurons of the output, of a vertex that reads inputs of given sizes.

        An op that returns several arrays side by side knows their shapes. Any other op is asked what it would tie.

        Args:
          name: of the vertex.
          nin: the number of neurons of each input.

        Raises:
          SizeMismatchError: if the inputs do not fit.
        """
        if (arrays := self.returns()) is not None:
            return sum((array.shape or (1,))[-1] for array in arrays)
        scratch = Tying(scope=(name,))
        return len(self.tie(tuple(map(scratch.new, nin)), scratch))

    @abstractmethod
    def call(self, scope: Scope, inputs: tuple[PyTree, ...], kwargs: Mapping[str, object]) -> PyTree:
        """Compute the output.

        Args:
          scope: holds the variables of the vertex.
          inputs: one array per input, neurons on the last axis. What a vertex with several arrays makes is a tuple.
          kwargs: the keyword arguments of the whole graph; the computation picks those that it understands.
        """

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
        """The same computation in a graph whose vertices have other names, if it refers to another vertex by name.

        Args:
          names: the new name of each vertex that gets another one.
        """
        del names
        return self

    def example_shapes(self, nin: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Input shapes, with a batch of one, that the computation can be tried on when the true ones are not known."""
        return tuple((1, size) for size in nin)

    def identity(self) -> Mapping[Path, Identity]:
        """For each variable the value that makes the computation pass neurons on; empty: it cannot, or has none."""
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

    def __deepcopy__(self, memo: object) -> Op:
        return self  # a value

    def __reduce__(self) -> str | tuple[object, ...]:
        return reduced_fields(self, type(self)) if is_dataclass(self) else super().__reduce__()


def checked_function(name: str, fn: object) -> Callable[..., PyTree]:
    """``fn``, if it can be what the vertex ``name`` computes.

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
    function: Callable[..., PyTree] = fn
    return function


@cache
def keywords_of(fn: Callable[..., object]) -> frozenset[str] | None:
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


@cache
def least_arrays_of(fn: Callable[..., object]) -> int | None:
    """How many arrays a function of any number of arrays needs; None if it takes a certain number.

    >>> least_arrays_of(lambda *values: values), least_arrays_of(lambda a, b, *more: a), least_arrays_of(lambda a: a)
    (0, 2, None)
    """
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):  # as for keywords_of
        return None
    if all(parameter.kind is not parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    return sum(each.default is each.empty for each in positional)


def select(kwargs: Mapping[str, T], keywords: frozenset[str] | None) -> dict[str, T]:
    """The entries of ``kwargs`` that are among ``keywords``; all of them if that is None."""
    return {key: value for key, value in kwargs.items() if keywords is None or key in keywords}
