"""Where data enters a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
from flax.core import Scope
from jax.typing import DTypeLike

from naivenas_jax.checks import MOST_NEURONS, as_count, as_items, shown
from naivenas_jax.errors import GraphError
from naivenas_jax.graph.op import Op
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.sizes.tying import Tying
from naivenas_jax.sizes.vector import Vector
from naivenas_jax.typing import PyTree


@dataclass(frozen=True)
class Source(Op):
    """Neurons that come from outside the graph.

    Attributes:
      size: how many there are.
      shape: the shape of the whole input without the batch axis, where it is known.
      dtype: the dtype of the input, where shapes are inferred.
      words: whether it holds numbers below ``size`` for certain, such as tokens for an embedding, and not values of
        neurons. Whole numbers whose shape ends with ``size`` may be either (pixels); who reads them tells
        (`holds_words`).
    """

    size: int
    shape: tuple[int, ...] | None = None
    dtype: str = "float32"
    words: bool = False

    def tie(self, ports: tuple[Vector, ...], tying: Tying) -> Vector:
        """Make new neurons, which nothing ties to others; of words those that stay keep their positions."""
        del ports
        neurons = tying.new(self.size)
        if self.words:
            tying.index(neurons)
        return neurons

    def width(self, name: str, nin: tuple[int, ...]) -> int:
        """As many neurons as come in."""
        del name, nin
        return self.size

    def call(self, scope: Scope, inputs: tuple[PyTree, ...], kwargs: Mapping[str, object]) -> PyTree:
        """Never called: what a source holds is given to the graph."""
        raise AssertionError("A source is fed by the caller of the graph.")

    def resized(self, ports: tuple[int, ...], sizes: Mapping[str, int]) -> Source:
        """The same source with another number of neurons; the shape of values ends with it."""
        del ports
        shape = self.shape
        if shape and not self.words:
            shape = (*shape[:-1], sizes["out"])
        return replace(self, size=sizes["out"], shape=shape)

    @property
    def whole(self) -> bool:
        """Whether the input holds whole numbers: values of neurons, or numbers of words."""
        return self.dtype.startswith(("int", "uint"))

    def describe(self) -> str:
        """The word "input"."""
        return "input"


def holds_words(ties: Ties, axis: str, op: Op, array: PyTree = None) -> bool:
    """Whether an input holds numbers of words: whole numbers by which neurons of its axis are looked up.

    Args:
      ties: of the graph.
      axis: the input's axis there.
      op: the computation of the input.
      array: what the input is given, where it is known; it may hold whole numbers though none are declared.
    """
    if not isinstance(op, Source) or ties.indexed.isdisjoint(ties.axes.get(axis, ())):
        return False
    return op.whole or (array is not None and bool(jnp.issubdtype(jnp.result_type(array), jnp.integer)))


def _dimensions(name: str, shape: object) -> tuple[int, ...]:
    items = as_items(shape)
    sizes = [None] if items is None else [as_count(size) for size in items]
    if None in sizes:
        raise GraphError(
            f"Input {name!r} needs a shape of whole numbers, at least 1, such as (height, width, size); found "
            f"shape={shown(shape)}."
        )
    return tuple(size for size in sizes if size is not None)


def _dtype_name(name: str, dtype: DTypeLike) -> str:
    try:
        return str(np.dtype(dtype).name)
    except (TypeError, ValueError) as error:
        raise GraphError(
            f"Input {name!r} needs a dtype such as 'float32' or 'int32'; found dtype={shown(dtype)}."
        ) from error


def input_vertex(
    name: str, size: int, *, shape: tuple[int, ...] | None = None, dtype: DTypeLike | None = None
) -> Vertex:
    """A source of data with ``size`` neurons (features, channels) on its last axis.

    An input keeps its size unless a request names it.

    Args:
      name: name of the vertex.
      size: number of neurons, at least 1. For tokens: the number of different indices (the vocabulary).
      shape: the shape of the whole input without the batch axis, ``(..., size)``; for tokens ``(length,)``. Needed
        where other axes matter: by `flatten`, and for counting operations.
      dtype: the dtype of the input, where shapes are inferred. Default: float32, or int32 where ``shape`` is
        ``(length,)``, the shape of tokens. Whole numbers are values of neurons (pixels) where the shape ends with
        ``size`` and no embedding reads them, else tokens.

    Returns:
      A vertex without inputs, to be listed among the inputs of a `Graph`.

    Raises:
      GraphError: if ``size`` is below 1 or ``shape`` does not end with it.

    >>> import naivenas_jax as nas
    >>> nas.input_vertex("image", 3, shape=(32, 32, 3)).nout
    3
    """
    count = as_count(size)
    if count is None:
        raise GraphError(
            f"Input {name!r} needs a whole number of neurons, at least 1 and at most {MOST_NEURONS}; found "
            f"size={shown(size)}."
        )
    dimensions = None if shape is None else _dimensions(name, shape)
    tokens = dimensions is not None and len(dimensions) == 1 and dimensions != (count,)
    source = Source(
        count, dimensions, _dtype_name(name, ("int32" if tokens else "float32") if dtype is None else dtype)
    )
    of_values = dimensions is not None and dimensions[-1:] == (count,)
    if source.whole:
        source = replace(source, words=not of_values)
    elif dimensions is not None and not of_values:
        raise GraphError(
            f"Input {name!r} has {size} neurons, so its shape without the batch axis must end with {size}; found "
            f"shape={source.shape}. For indices below {size} pass dtype='int32' as well."
        )
    return Vertex(name, source)
