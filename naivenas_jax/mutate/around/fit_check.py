"""Prove that the variables of a result fit its graph, before it is handed out."""

from __future__ import annotations

import numpy as np

from naivenas_jax.errors import InternalError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.model_vertex import ModelOp
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.paths import subscripts
from naivenas_jax.transfer.variables import flat


def check_fit(mutation: Mutation) -> None:
    """Raise unless the new variables are those of the new graph, each of the shape that the graph computes with.

    Shapes are known without arrays, so this costs next to nothing, and is done for every result. After a change of
    widths alone the sizes are those of the plan: the ties of the new graph need not be found.

    Raises:
      InternalError: names the variable.
    """
    graph, plan = mutation.graph, mutation.plan
    leaves, sizes = plan.leaves, {name: axis.after for name, axis in plan.axes.items()}
    if _edges(graph) != _edges(mutation.before) or plan.created or plan.removed:
        leaves, sizes = {path: leaf.axes for path, leaf in graph.ties.leaves.items()}, dict(graph.ties.sizes)
    found = {path: np.shape(array) for path, array in flat(mutation.variables).items()}
    for path in sorted(found.keys() ^ leaves.keys()):
        raise _internal(f"{subscripts(path)} is {'not needed' if path in found else 'missing'}.")
    wanted = {path: tuple(None if axis is None else sizes[axis] for axis in axes) for path, axes in leaves.items()}
    exact = {path: shape for v in graph.vertices if isinstance(v.op, ModelOp) for path, shape in v.op.shapes.items()}
    for path, shape in {**wanted, **exact}.items():
        if len(shape) != len(found[path]) or any(n not in (None, m) for n, m in zip(shape, found[path], strict=True)):
            raise _internal(f"{subscripts(path)} has shape {found[path]}, and the graph needs {shape}.")


def _edges(graph: Graph) -> dict[str, list[str]]:
    return {vertex.name: [source.name for source in vertex.inputs] for vertex in graph.vertices}


def _internal(found: str) -> InternalError:
    return InternalError(
        f"The mutation would not have been right, and is not returned; nothing was changed. {found} This is a mistake "
        "of naivenas_jax: please report it with the graph's summary and the call."
    )
