"""Prove that the variables of a result fit its graph, before it is handed out."""

from __future__ import annotations

from naivenas_jax.errors import InternalError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.model_vertex import ModelOp
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.paths import subscripts
from naivenas_jax.sizes.ties import leaf_shapes
from naivenas_jax.transfer.take import shape_of_leaf
from naivenas_jax.transfer.variables import fits, flat


def check_fit(mutation: Mutation) -> None:
    """Raise unless the new variables are those of the new graph, each of the shape that the graph computes with.

    Shapes are known without arrays, so this costs next to nothing, and is done for every result. After a change of
    widths alone the sizes are those of the plan: the ties of the new graph need not be found.

    Raises:
      InternalError: names the variable.
    """
    graph, plan = mutation.graph, mutation.plan
    if _edges(graph) != _edges(mutation.before) or plan.created or plan.removed:
        wanted = graph.ties.shapes
    else:
        dims = {path: axes for path, axes in plan.leaves.items() if not plan.changed.keys().isdisjoint(axes)}
        sizes = {name: axis.after for name, axis in plan.axes.items()}
        wanted = {**mutation.before.ties.shapes, **leaf_shapes(dims, sizes)}
    found = {path: shape_of_leaf(array) for path, array in flat(mutation.variables).items()}
    for path in sorted(found.keys() ^ wanted.keys()):
        raise _internal(f"{subscripts(path)} is {'not needed' if path in found else 'missing'}.")
    exact = {path: shape for v in graph.vertices if isinstance(v.op, ModelOp) for path, shape in v.op.shapes.items()}
    for path, shape in {**wanted, **exact}.items():
        if not fits(found[path], shape):
            raise _internal(f"{subscripts(path)} has shape {found[path]}, and the graph needs {shape}.")


def _edges(graph: Graph) -> dict[str, tuple[str, ...]]:
    return {vertex.name: tuple([source.name for source in vertex.inputs]) for vertex in graph.vertices}


def _internal(found: str) -> InternalError:
    return InternalError(
        f"The mutation would not have been right, and is not returned; nothing was changed. {found} This is a mistake "
        "of naivenas_jax: please report it with the graph's summary and the call."
    )
