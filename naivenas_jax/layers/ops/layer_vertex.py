"""`layer`, which makes a vertex of a Flax layer."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import flax.linen as nn
from flax import nnx

from naivenas_jax.checks import shown
from naivenas_jax.errors import GraphError, SizeMismatchError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.op import Op
from naivenas_jax.graph.source import Source
from naivenas_jax.graph.vertex import Vertex, vertices_only
from naivenas_jax.graph.vertices.subgraph import graph_vertex
from naivenas_jax.layers.ops.linen_op import LinenOp
from naivenas_jax.layers.ops.nnx_op import NnxOp
from naivenas_jax.layers.registry import registered_rule


def layer(name: str, flax_module: nn.Module | nnx.Module | Graph, *inputs: Vertex) -> Vertex:
    """A Flax layer as a vertex; what it ties comes from the registry. A whole `Graph` is welcome too.

    Args:
      name: name of the vertex; its variables are found under it, ``variables["params"][name]``.
      flax_module: a linen or nnx layer of a registered type, or a `Graph` with one output.
      *inputs: the vertices it reads, in the order of the layer's arguments.

    Returns:
      A vertex with as many neurons as the layer makes.

    Raises:
      UnregisteredLayerError: if nobody has said what a layer of this type ties; the message says how.
      SizeMismatchError: if the layer has been made for another input size, or reads values where there are indices.
      GraphError: if what is given is no layer, cannot be called with this number of inputs, or computes one step of a
        recurrence only.

    >>> import flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> nas.layer("conv", nn.Conv(8, (3, 3)), x)
    Vertex('conv', Conv(3 -> 8), inputs=[x], nout=8)
    """
    if isinstance(flax_module, Graph):
        return graph_vertex(name, flax_module, *inputs)
    _check_module(name, flax_module)
    if not inputs:
        raise GraphError(f"Vertex {name!r} needs at least one input vertex.")
    vertices_only(name, inputs)
    rule_of = registered_rule(type(flax_module), name)
    if hasattr(flax_module, "initialize_carry"):
        raise GraphError(
            f"Vertex {name!r}: a {type(flax_module).__name__} has a state, and computes one step. Put it into a layer "
            "that runs it along a sequence: nn.RNN(cell), nnx.RNN(cell)."
        )
    _check_arity(name, type(flax_module), len(inputs))
    nin = tuple(source.nout for source in inputs)
    op: LinenOp | NnxOp
    if isinstance(flax_module, nn.Module):
        op = LinenOp.of(flax_module, nin, rule_of)
    else:
        op = NnxOp.of(flax_module, nin, rule_of)
    vertex = Vertex(name, op, inputs)
    if problem := no_values(name, op, (source.op for source in inputs)):
        raise problem
    return vertex


def no_values(name: str, op: LinenOp | NnxOp, sources: Iterable[Op]) -> SizeMismatchError | None:
    """Why a layer that reads the values of neurons cannot: it would read numbers of words, which lie on no axis.

    Args:
      name: of the layer's vertex.
      op: the layer.
      sources: the computations of what it reads.
    """
    for source in () if op.rule.indexed else sources:
        if isinstance(source, Source) and source.words and source.shape:
            return SizeMismatchError(
                f"Vertex {name!r} ({op.describe()}) reads the values of {source.size} neurons, and its input holds "
                f"numbers of words below {source.size}, of shape {source.shape}. Embed them first: nas.layer('embed', "
                f"nn.Embed({source.size}, features), tokens)."
            )
    return None


def _check_module(name: str, given: object) -> None:
    if isinstance(given, type):
        raise GraphError(
            f"Vertex {name!r} needs a layer, found the class {given.__name__}. Make one: {given.__name__}(...)."
        )
    if not isinstance(given, nn.Module | nnx.Module):
        raise GraphError(
            f"Vertex {name!r} needs a Flax layer (linen or nnx), found {type(given).__name__}: "
            f"{shown(given)}. For a plain function use nas.invariant_vertex, nas.absorb_vertex or "
            "nas.immutable_vertex."
        )


def _check_arity(name: str, kind: type, count: int) -> None:
    signature = inspect.signature(kind.__call__)
    positional = [each for each in signature.parameters.values() if each.kind is not each.KEYWORD_ONLY]
    try:
        signature.replace(parameters=positional).bind(None, *[None] * count)
    except TypeError as error:
        raise GraphError(
            f"Vertex {name!r}: a {kind.__name__} cannot be called with {count} input{'s' * (count != 1)}: {error}. "
            "Join them first, with nas.concat or +."
        ) from error
