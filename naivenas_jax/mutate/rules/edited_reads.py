"""What vertices of an edited graph read, where it is no array of neurons: numbers of words, a table, a whole model."""

from __future__ import annotations

import flax.linen as nn
from flax import nnx

from naivenas_jax.errors import SizeMismatchError, StructureError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.model_vertex import ModelOp, ModelPick
from naivenas_jax.graph.op import Op
from naivenas_jax.graph.source import Source
from naivenas_jax.graph.vertices.arithmetic import Elementwise
from naivenas_jax.graph.vertices.function import Invariant
from naivenas_jax.graph.vertices.stack import Concat, Flatten
from naivenas_jax.graph.vertices.subgraph import Subgraph
from naivenas_jax.layers.ops.attend import Attend
from naivenas_jax.layers.ops.layer_op import LayerOp
from naivenas_jax.mutate.rules.readers import Reader, Readers, readers


def no_reads(before: Graph, after: Readers) -> StructureError | SizeMismatchError | None:
    """Why a vertex of an edited graph cannot read what it would: there are no neurons. None: all can.

    It would read numbers of words, a whole model, or the table of an embedding that is none any more.

    Args:
      before: the graph before the edit, whose embeddings tell which inputs are numbers of words.
      after: the edited graph.
    """
    for name, reader in after.items():
        if isinstance(reader.op, Attend) and (problem := _no_table(name, reader, after)):
            return problem
    words = _inputs_of_words(readers(before)) | _inputs_of_words(after)
    for name, reader in after.items():
        for port, source in enumerate(reader.sources):
            if isinstance(after[source].op, ModelOp) and not isinstance(reader.op, ModelPick):
                return StructureError(
                    f"After the edit vertex {name!r} ({reader.op.describe()}) would read {source!r}, an imported model "
                    "as a whole, which returns all of its outputs at once. Keep the vertex of the output between the "
                    "two."
                )
            if source in words and _reads_values(reader.op, port) and not _was_there(name, reader, before):
                size = after[source].nout
                return SizeMismatchError(
                    f"After the edit vertex {name!r} ({reader.op.describe()}) would read the values of {size} neurons, "
                    f"and {source!r} holds numbers of words below {size}. Only embeddings read them; edit the graph "
                    "behind the embedding."
                )
    return None


def _inputs_of_words(graph: Readers) -> set[str]:
    """The inputs that hold numbers of words for certain: an embedding reads them, or their shape says so."""
    found = set()
    for reader in graph.values():
        for port, source in enumerate(reader.sources):
            op = graph[source].op
            if isinstance(op, Source) and op.whole and ((op.words and op.shape) or _looks_up(reader.op, port)):
                found.add(source)
    return found


def _was_there(name: str, reader: Reader, before: Graph) -> bool:
    """Whether a vertex read the same before the edit, and did the same with it."""
    if name not in before or before.inputs_of(name) != reader.sources:
        return False
    return _kind(before[name].op) is _kind(reader.op)


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


def _no_table(name: str, reader: Reader, after: Readers) -> StructureError | None:
    assert isinstance(reader.op, Attend)
    table, entries = reader.sources[1:]
    found = after[table]
    embeds = isinstance(found.op, LayerOp) and isinstance(found.op.module, nn.Embed | nnx.Embed)
    if table == reader.op.table and embeds and found.sources[0] == entries:
        return None
    return StructureError(
        f"Vertex {name!r} reads the table of the embedding {reader.op.table!r}, which the edit would take away. Remove "
        f"{name!r} first, or put a layer in its place: nas.replace_layer."
    )
