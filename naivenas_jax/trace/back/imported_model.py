"""Whether a graph and a model belong together."""

from __future__ import annotations

import flax.linen as nn
from flax import nnx

from naivenas_jax.errors import RebuildError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.source import Source
from naivenas_jax.trace.back.nnx_rebuild import nnx_shapes
from naivenas_jax.trace.model.imported_op import ImportedOp, ModelOutput
from naivenas_jax.trace.model.traced_model import TracedModel


def check_same_model(model: object, imported: TracedModel) -> None:
    """Raise unless this is the linen module, or may be the nnx model, that was imported.

    Raises:
      RebuildError: if it is another one, or neither a linen module nor an nnx model.
    """
    if isinstance(model, nn.Module):
        same = not isinstance(imported.identity, nn.Module) or imported.identity == model
    elif isinstance(model, nnx.Module):
        same = nnx_shapes(model) == {path: tuple(struct.shape) for path, struct in imported.variables}
    else:
        raise RebuildError(
            f"rebuild takes the linen module or nnx model that was imported, found {type(model).__name__}. What "
            "from_function has imported has no class to go back to: keep using mutation.graph."
        )
    if not same:
        raise RebuildError(_OTHER.format(type(model).__name__))


_OTHER = (
    "This {} is not the model that the graph was imported from. Pass the very model that from_linen or from_nnx was "
    "given, also after several mutations; or import this one and mutate that."
)


def imported_op(graph: Graph) -> ImportedOp:
    """The imported model that a graph consists of.

    Raises:
      RebuildError: if the graph holds no imported model, several, or other vertices, or if the model has been edited.
    """
    found = [vertex.op for vertex in graph.vertices if isinstance(vertex.op, ImportedOp)]
    others = [v.name for v in graph.vertices if not isinstance(v.op, ImportedOp | ModelOutput | Source)]
    if len(found) != 1:
        raise RebuildError(
            "The graph of this mutation is not that of one imported model, so there is no class to go back to. Keep "
            "using mutation.graph, or mutation.graph.as_module() or .as_nnx(mutation.variables)."
        )
    if others:
        raise RebuildError(
            f"The graph has vertices that the model has not: {', '.join(others[:6])}. Its own class cannot compute "
            "them. Keep using mutation.graph, or mutation.graph.as_module() or .as_nnx(mutation.variables)."
        )
    if found[0].model.edits:
        raise RebuildError(
            "The structure of the model has been changed since its import (a layer was inserted or removed, or an edge "
            "created), which its own class does not know. Keep using mutation.graph, or mutation.graph.as_module() or "
            ".as_nnx(mutation.variables)."
        )
    return found[0]
