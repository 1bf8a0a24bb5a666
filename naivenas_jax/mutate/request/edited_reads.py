"""What vertices of an edited graph read, where it is no array of neurons: numbers of words, a table, a whole model."""

from __future__ import annotations

import flax.linen as nn
from flax import nnx

from naivenas_jax.errors import SizeMismatchError, StructureError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.model_vertex import ModelOp, ModelPick
from naivenas_jax.graph.op import Op
from naivenas_jax.graph.source import Source
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.graph.vertices.arithmetic import Elementwise
from naivenas_jax.graph.vertices.function import Invariant
from naivenas_jax.graph.vertices.stack import Concat, Flatten
from naivenas_jax.graph.vertices.subgraph import Subgraph
from naivenas_jax.layers.ops.attend import Attend
from naivenas_jax.layers.ops.layer_op import LayerOp


def check_reads(before: Graph, after: Graph) -> None:
    """Raise if a vertex of an edited graph would read neurons where there are none.

    Args:
      before: the graph before the edit, whose embeddings tell which inputs are numbers of words.
      after: the edited graph.

    Raises:
      SizeMismatchError: names a vertex that would read numbers of words.
      StructureError: names a vertex that would read a whole model, or the table of an embedding that is none any more.
    """
    words = _inputs_of_words(before) | _inputs_of_words(after)
    for vertex in after.vertices:
        if isinstance(vertex.op, Attend):
            _check_table(vertex, vertex.op.table)
    for vertex in after.vertices:
        for port, source in enumerate(vertex.inputs):
            if isinstance(source.op, ModelOp) and not isinstance(vertex.op, ModelPick):
                raise StructureError(
                    f"After the edit vertex {vertex.name!r} ({vertex.op.describe()}) would read {source.name!r}, an "
                    "imported model as a whole, which returns all of its outputs at once. Keep the vertex of the "
                    "output between the two."
                )
            if source.name in words and _reads_values(vertex.op, port) and not _was_there(vertex, before):
                raise SizeMismatchError(
                    f"After the edit vertex {vertex.name!r} ({vertex.op.describe()}) would read the values of "
                    f"{source.nout} neurons, and {source.name!r} holds numbers of words below {source.nout}. Only "
                    "embeddings read them; edit the graph behind the embedding."
                )


def _inputs_of_words(graph: Graph) -> set[str]:
    """The inputs that hold numbers of words for certain: an embedding reads them, or their shape says so."""
    found = set()
    for vertex in graph.vertices:
        for port, source in enumerate(vertex.inputs):
            op = source.op
            if isinstance(op, Source) and op.whole and ((op.words and op.shape) or _looks_up(vertex.op, port)):
                found.add(source.name)
    return found


def _was_there(vertex: Vertex, before: Graph) -> bool:
    """Whether a vertex read the same before the edit, and did the same with it."""
    if vertex.name not in before or before.inputs_of(vertex.name) != tuple(each.name for each in vertex.inputs):
        return False
    return _kind(before[vertex.name].op) is _kind(vertex.op)


def _kind(op: Op) -> type:
    return type(op.module) if isinstance(op, LayerOp) else type(op)


def _looks_up(op: Op, port: int) -> bool:
    """Whether a computation uses the numbers at an input as positions in a table."""
    if isinstance(op, Subgraph):
        return any(_looks_up(*reader) for reader in _readers(op.graph, port))
    return isinstance(op, LayerOp) and op.rule.indexed


def _reads_values(op: Op, port: int) -> bool:
    """Whether a computation takes what is at an input for values; functions of users may do otherwise."""
    if isinstance(op, Subgraph):
        return any(_reads_values(*reader) for reader in _readers(op.graph, port))
    if isinstance(op, LayerOp):
        return not op.rule.indexed
    return isinstance(op, Invariant | Elementwise | Concat | Flatten)


def _readers(graph: Graph, port: int) -> list[tuple[Op, int]]:
    """What reads an input inside a graph, and at which of its own inputs."""
    given = graph.inputs[port]
    return [(v.op, i) for v in graph.vertices for i, source in enumerate(v.inputs) if source is given]


def _check_table(vertex: Vertex, name: str) -> None:
    _, table, entries = vertex.inputs
    embeds = isinstance(table.op, LayerOp) and isinstance(table.op.module, nn.Embed | nnx.Embed)
    if table.name != name or not embeds or table.inputs[0] is not entries:
        raise StructureError(
            f"Vertex {vertex.name!r} reads the table of the embedding {name!r}, which the edit would take away. Remove "
            f"{vertex.name!r} first, or put a layer in its place: nas.replace_layer."
        )
