"""What is inserted: makers of vertices, and names for what they make."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import count

import flax.linen as nn

from naivenas_jax.errors import StructureError
from naivenas_jax.graph.dag import topological
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.graph.vertices.function import invariant_vertex
from naivenas_jax.graph.vertices.output_shapes import shape_of
from naivenas_jax.layers.ops.layer_vertex import layer


def dense(vertex: Vertex) -> Vertex:
    """A dense layer of the same width."""
    return layer("dense", nn.Dense(vertex.nout), vertex)


def conv(vertex: Vertex) -> Vertex:
    """A convolution of 3 x 3 of the same width.

    Raises:
      StructureError: if it is not known that there are two spatial axes.
    """
    shape = shape_of(vertex)
    if shape is None or len(shape) != 4:
        raise StructureError(f"A convolution needs two spatial axes; what {vertex.name!r} makes has the shape {shape}.")
    return layer("conv", nn.Conv(vertex.nout, (3, 3)), vertex)


def relu(vertex: Vertex) -> Vertex:
    """A relu."""
    return invariant_vertex("relu", nn.relu, vertex)


#: What is inserted where nobody says otherwise.
DEFAULT_MAKERS = (dense, conv, relu)


def with_free_names(make: Callable[[Vertex], Vertex], taken: Collection[str]) -> Callable[[Vertex], Vertex]:
    """The same maker, which gives names that are taken a number: "dense", "dense2", "dense3", ...

    Args:
      make: gets a vertex, and returns a new one that reads it.
      taken: names that there are.
    """

    def named(after: Vertex) -> Vertex:
        last = make(after)
        if not isinstance(last, Vertex):
            return last  # for the verb to refuse
        old = set(topological((after,)))
        added = [vertex for vertex in topological((last,)) if vertex not in old]
        names: dict[str, str] = {}
        for vertex in added:
            names[vertex.name] = free_name(vertex.name, {*taken, *names.values()})
        renamed = {vertex: vertex for vertex in old}
        for vertex in added:
            inputs = tuple(renamed[source] for source in vertex.inputs)
            renamed[vertex] = Vertex(names[vertex.name], vertex.op.renamed(names), inputs)
        return renamed[last]

    return named


def free_name(name: str, taken: Collection[str]) -> str:
    """The name itself, or with the first number that makes it one that is not taken."""
    if name not in taken:
        return name
    stem = name.rstrip("0123456789") or name
    return next(each for n in count(2) if (each := f"{stem}{n}") not in taken)
