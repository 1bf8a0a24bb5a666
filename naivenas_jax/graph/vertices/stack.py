"""SizeStack: concatenation, and flatten, which stacks a channel's copies at every position."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp
from flax.core import Scope

from naivenas_jax.errors import GraphError
from naivenas_jax.graph.op import Op
from naivenas_jax.graph.vertex import Vertex, vertices_only
from naivenas_jax.graph.vertices.output_shapes import shape_of
from naivenas_jax.sizes.tying import Tying
from naivenas_jax.sizes.vector import Vector
from naivenas_jax.typing import PyTree


@dataclass(frozen=True)
class Concat(Op):
    """``y = [x_1, x_2, ...]`` on the neuron axis: neuron i of input k is neuron ``offset_k + i`` of the output."""

    @property
    def variadic(self) -> bool:
        """True: it stacks any number of inputs."""
        return True

    def tie(self, ports: tuple[Vector, ...], tying: Tying) -> Vector:
        """The neurons of the inputs, one input after the other."""
        del tying
        return Vector.concat(ports)

    def call(self, scope: Scope, inputs: tuple[PyTree, ...], kwargs: Mapping[str, object]) -> PyTree:
        """Concatenate on the last axis."""
        del scope, kwargs
        return jnp.concatenate(inputs, axis=-1)


@dataclass(frozen=True)
class Flatten(Op):
    """All axes but the batch into one: element ``p * n + i`` of the output is neuron i at position p.

    Attributes:
      positions: the number of positions, the product of all axes between batch and neurons.
    """

    positions: int

    def tie(self, ports: tuple[Vector, ...], tying: Tying) -> Vector:
        """The neurons of the input, once per position."""
        del tying
        return ports[0].tile(self.positions)

    def call(self, scope: Scope, inputs: tuple[PyTree, ...], kwargs: Mapping[str, object]) -> PyTree:
        """Reshape to (batch, positions * neurons)."""
        del scope, kwargs
        return inputs[0].reshape(inputs[0].shape[0], -1)


def concat(name: str, *inputs: Vertex) -> Vertex:
    """Concatenate on the neuron axis (the last one).

    The size of the output is the sum of the sizes of the inputs.

    Args:
      name: name of the vertex.
      *inputs: the vertices to concatenate, in order; the same one may occur more than once.

    Returns:
      The vertex; its neurons are those of the inputs, one input after the other.

    Raises:
      GraphError: if there is no input.

    >>> import naivenas_jax as nas
    >>> a, b = nas.input_vertex("a", 2), nas.input_vertex("b", 3)
    >>> nas.concat("ab", a, b, a).nout
    7
    """
    if not inputs:
        raise GraphError(f"Concatenation {name!r} needs at least one input vertex.")
    return Vertex(name, Concat(), inputs)


def flatten(name: str, vertex: Vertex) -> Vertex:
    """Flatten everything but the batch axis, ``(batch, ..., n) -> (batch, positions * n)``.

    Every neuron of ``vertex`` appears once per position, and all copies of a neuron live and die together.

    Args:
      name: name of the new vertex.
      vertex: the vertex to flatten.

    Returns:
      The new vertex, with ``positions * n`` neurons.

    Raises:
      GraphError: if the shape that arrives is not known.

    >>> import naivenas_jax as nas
    >>> nas.flatten("flat", nas.input_vertex("image", 3, shape=(4, 4, 3))).nout
    48
    """
    vertices_only(name, (vertex,))
    return Vertex(name, Flatten(positions_at(vertex, name)), (vertex,))


def positions_at(vertex: Vertex, name: str) -> int:
    """How many positions a flatten after ``vertex`` has to stack."""
    shape = shape_of(vertex)
    if shape is None:
        raise GraphError(
            f"Flatten {name!r} must know the shape that {vertex.name!r} makes. Give every input its whole shape: "
            "nas.input_vertex(name, size, shape=(height, width, size))."
        )
    return math.prod(shape[1:-1])
