"""A whole graph as the computation of one vertex."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flax.core import Scope

from naivenas_jax.errors import GraphError, SizeMismatchError
from naivenas_jax.graph.evaluation.evaluate import Intercept, NestedOp
from naivenas_jax.graph.graph import Graph, tie_vertices
from naivenas_jax.graph.map_ops import with_sizes
from naivenas_jax.graph.model_vertex import ModelOp
from naivenas_jax.graph.op import select
from naivenas_jax.graph.structure import arrays_in
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.paths import path_text
from naivenas_jax.sizes.tying import Tying
from naivenas_jax.sizes.vector import Vector
from naivenas_jax.typing import PyTree


@dataclass(frozen=True)
class Subgraph(NestedOp):
    """The vertices of ``graph`` keep their own ties; axes and variables are found under ``outer/inner``."""

    graph: Graph

    @property
    def keywords(self) -> frozenset[str] | None:
        """The keyword arguments that some vertex inside understands."""
        return self.graph.keywords

    def tie(self, ports: tuple[Vector, ...], tying: Tying) -> Vector:
        """Let the vertices inside say what they tie."""
        expected = [vertex.nout for vertex in self.graph.inputs]
        if [len(port) for port in ports] != expected:
            raise SizeMismatchError(
                f"Vertex {path_text(tying.scope)!r} wraps a graph with inputs of sizes {expected}, found "
                f"{[len(port) for port in ports]}."
            )
        vectors = tie_vertices(self.graph.vertices, tying, dict(zip(self.graph.inputs, ports, strict=True)))
        return vectors[self.graph.outputs[0]]

    def call_intercepted(
        self,
        scope: Scope,
        inputs: tuple[PyTree, ...],
        kwargs: Mapping[str, object],
        intercept: Intercept | None,
    ) -> PyTree:
        """Compute the graph, with variables under the name of this vertex."""
        known = None if self.keywords is None else self.keywords | {"train"}
        made = self.graph.run(scope, *inputs, intercept=intercept, **select(kwargs, known))
        return made if self.graph.signature is None else arrays_in(made)[0]

    def resized(self, ports: tuple[int, ...], sizes: Mapping[str, int]) -> Subgraph:
        """The same graph with other sizes."""
        del ports
        inner = {name.removeprefix("/"): size for name, size in sizes.items() if name.startswith("/")}
        return Subgraph(with_sizes(self.graph, inner))

    def describe(self) -> str:
        """The words "graph of", and the number of vertices inside."""
        return f"graph of {len(self.graph)}"


def graph_vertex(name: str, graph: Graph, *inputs: Vertex) -> Vertex:
    """A vertex that computes a whole graph with one output.

    Args:
      name: name of the vertex.
      graph: the graph.
      *inputs: the vertices it reads, one for each input of the graph.

    Raises:
      GraphError: if the graph has several outputs, or holds an imported model.
      SizeMismatchError: if the sizes of the inputs are not those of the graph.

    >>> import flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> block = nas.Graph(x, nas.layer("dense", nn.Dense(4), x))
    >>> y = nas.layer("block", block, nas.input_vertex("image", 3))
    >>> y.nout
    4
    """
    if len(graph.outputs) != 1:
        raise GraphError(f"Vertex {name!r} can wrap a graph with one output; this one has {len(graph.outputs)}.")
    if model := next((vertex for vertex in graph.vertices if isinstance(vertex.op, ModelOp)), None):
        raise GraphError(
            f"Vertex {name!r} cannot wrap a graph that holds an imported model, here {model.name!r}: its handles and "
            "variables have the names that they have in the model, wherever it is. Put layers behind it in its own "
            "graph, as in nas.Graph(graph.inputs, nas.layer(..., graph.outputs[0])), or compose the models in Flax."
        )
    return Vertex(name, Subgraph(graph), inputs)
