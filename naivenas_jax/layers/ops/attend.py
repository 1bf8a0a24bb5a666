"""Scores of every entry of an embedding: the table of one vertex, read by another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import flax.linen as nn
from flax import nnx
from flax.core import Scope

from naivenas_jax.errors import GraphError, SizeMismatchError
from naivenas_jax.graph.op import Op
from naivenas_jax.graph.vertex import Vertex, vertices_only
from naivenas_jax.layers.ops.layer_op import LayerOp
from naivenas_jax.paths import path_text
from naivenas_jax.sizes.tying import Tying
from naivenas_jax.sizes.vector import Vector
from naivenas_jax.typing import PyTree


@dataclass(frozen=True)
class Attend(Op):
    """``y = query @ table.T``, with the variables of another vertex.

    The ports are the query, the embedding (whose output neurons are the features of the table) and what it embeds
    (whose neurons are the entries of the table); their values are not needed.

    Attributes:
      table: the name of the vertex that embeds.
      embed: what it computes.
    """

    table: str
    embed: LayerOp

    absorbs = True
    at_root = True

    def tie(self, ports: tuple[Vector, ...], tying: Tying) -> Vector:
        """Tie the query to the features of the table, which reads them; the output neurons are its entries."""
        query, features, entries = ports
        if len(query) != len(features):
            raise SizeMismatchError(
                f"Vertex {path_text(tying.scope)!r} compares queries of {len(query)} neurons with entries of "
                f"{self.table!r} of {len(features)}. Both must be equally wide."
            )
        tying.tie(query, features)
        tying.reads(("params", *tying.scope[:-1], self.table, "embedding"), 1)
        return entries

    def call(self, scope: Scope, inputs: tuple[PyTree, ...], kwargs: Mapping[str, object]) -> PyTree:
        """The products of the query with every entry of the table."""
        del kwargs
        embed = self.embed.bound(scope.push(self.table, reuse=True))
        assert isinstance(embed, nn.Embed | nnx.Embed)  # `attend` has seen to it
        return embed.attend(inputs[0])

    def resized(self, ports: tuple[int, ...], sizes: Mapping[str, int]) -> Attend:
        """The same for other sizes of the table."""
        del sizes
        return replace(self, embed=self.embed.resized(ports[2:], {"out": ports[1]}))

    def renamed(self, names: Mapping[str, str]) -> Attend:
        """The same, with the new name of the vertex that embeds."""
        return replace(self, table=names.get(self.table, self.table))

    def describe(self) -> str:
        """For example ``attend(embed)``."""
        return f"attend({self.table})"


def ports_for_values(reader: Vertex, source: Vertex) -> tuple[int, ...]:
    """The inputs at which a vertex reads what another computes; `attend` reads the table of an embedding besides."""
    tables = (1,) if isinstance(reader.op, Attend) else ()
    return tuple(port for port, read in enumerate(reader.inputs) if read == source and port not in tables)


def attend(name: str, table: Vertex, query: Vertex) -> Vertex:
    """Compare a query with every entry of an embedding: ``y = query @ table.T``, with the table of another vertex.

    This is what the ``attend`` method of Flax's embeddings computes, for output layers that share the table of the
    input. The query is tied to the features of the table, and the output to its entries, which are the neurons of the
    vertex that is embedded. The vertex has no variables of its own.

    Args:
      name: name of the vertex.
      table: a vertex that is an `nn.Embed` or `nnx.Embed`.
      query: the vertex to compare with the entries, as wide as the embedding.

    Returns:
      A vertex with one neuron for each entry of the table.

    Raises:
      GraphError: if ``table`` is no embedding.
      SizeMismatchError: if the query has another width.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> tokens = nas.input_vertex("tokens", 10, dtype="int32")
    >>> embedded = nas.layer("embed", nn.Embed(10, 4), tokens)
    >>> graph = nas.Graph(tokens, nas.attend("logits", embedded, nas.layer("hidden", nn.Dense(4), embedded)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.zeros((1, 7), "int32"))
    >>> graph2, variables2 = nas.delta_nout(graph, variables, {"embed": -1})
    >>> graph2.nout("hidden"), graph2.nout("logits"), sorted(variables2["params"])
    (3, 10, ['embed', 'hidden'])
    """
    vertices_only(name, (table, query))
    if not isinstance(table.op, LayerOp) or not isinstance(table.op.module, nn.Embed | nnx.Embed):
        raise GraphError(f"Vertex {name!r} reads the table of an embedding, and {table!r} is none.")
    return Vertex(name, Attend(table.name, table.op), (query, table, table.inputs[0]))
