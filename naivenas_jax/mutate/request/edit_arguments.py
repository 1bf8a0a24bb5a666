"""Arguments of the structural verbs, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import core, nnx

from naivenas_jax.checks import as_items, require_function, shown
from naivenas_jax.errors import DuplicateNameError, StructureError
from naivenas_jax.graph.dag import topological
from naivenas_jax.graph.graph import Graph, require_graph
from naivenas_jax.graph.model_vertex import ModelOp
from naivenas_jax.graph.source import Source
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.graph.vertices.output_shapes import shape_of, value_of
from naivenas_jax.graph.vertices.stack import Flatten
from naivenas_jax.layers.ops.attend import ports_for_values
from naivenas_jax.layers.ops.layer_op import LayerOp
from naivenas_jax.layers.ops.layer_vertex import check_values
from naivenas_jax.layers.ops.linen_op import LinenOp
from naivenas_jax.layers.ops.nnx_op import NnxOp
from naivenas_jax.mutate.request.defaults import freed_outputs
from naivenas_jax.mutate.request.edited_reads import check_reads
from naivenas_jax.mutate.request.options import FreeOutputs
from naivenas_jax.typing import PyTree


def vertex_of(graph: Graph, name: str) -> Vertex:
    """The vertex that an argument of a verb names."""
    return require_graph(graph).vertex(name)


def source_of(graph: Graph, name: str) -> Vertex:
    """The vertex that an argument of a verb names, to be read by another.

    Raises:
      StructureError: if it returns several arrays, as an imported model does.
    """
    vertex = vertex_of(graph, name)
    if isinstance(vertex.op, ModelOp):
        raise StructureError(
            f"{name!r} is an imported model as a whole, which returns all of its outputs at once: no layer reads "
            f"it. Name one of its outputs ({', '.join(graph.outputs_of(name))}), or a module inside."
        )
    return vertex


def added_by(graph: Graph, after: Vertex, make: Callable[[Vertex], Vertex]) -> tuple[Vertex, tuple[Vertex, ...]]:
    """What ``make`` builds after a vertex: the last new vertex, and all of them."""
    if not callable(make) or isinstance(make, nn.Module | nnx.Module):
        raise StructureError(f"make must be a function of a vertex, {_example(after)}; found {make!r:.120}.")
    require_function(make, "make", "vertex", StructureError)
    last = make(after)
    if not isinstance(last, Vertex) or last in graph.vertices:
        raise StructureError(
            f"make must return a new vertex that reads {after.name!r}, {_example(after)}; found {last!r:.120}."
        )
    order = topological((last,))
    if after not in order:
        raise StructureError(f"What make returned, {last!r}, does not read {after.name!r}.")
    present = set(graph.vertices)
    added = tuple(vertex for vertex in order if vertex not in present)
    for vertex in added:
        if vertex.name in graph:
            raise DuplicateNameError(
                f"The inserted {vertex!r} has the name of {graph[vertex.name]!r}. Names are unique in a graph."
            )
        if isinstance(vertex.op, Source):
            raise StructureError(
                f"The inserted vertices depend on input {vertex.name!r}, which the graph does not have."
            )
    return last, added


def _example(after: Vertex) -> str:
    return f"such as lambda v: nas.layer('new', nn.Dense({after.nout}), v)"


def readers_of(graph: Graph, after: str, outputs: Iterable[str] | None) -> tuple[str, ...]:
    """The readers of ``after`` that ``outputs=`` names; None: all."""
    readers = dict.fromkeys(graph.outputs_of(after))
    every = tuple(name for name in readers if ports_for_values(graph[name], graph[after]))
    if outputs is None:
        if not every and graph[after] not in graph.outputs:
            raise StructureError(f"Nothing reads {after!r}, so nothing can be inserted after it.")
        return every
    chosen = (outputs,) if isinstance(outputs, str) else as_items(outputs)
    names = tuple(name for name in chosen or () if isinstance(name, str))
    if not chosen or len(names) < len(chosen):
        raise StructureError(
            f"outputs must name vertices that read {after!r} ({', '.join(every)}), found {shown(outputs)}."
        )
    for name in names:
        if graph.vertex(name).name not in every:
            raise StructureError(f"{name!r} does not read {after!r}. Read by: {', '.join(every) or 'nothing'}.")
    return names


def reconnected(vertex: Vertex, reconnect: str | Iterable[str]) -> tuple[Vertex, ...]:
    """The inputs of a removed vertex that ``reconnect=`` names."""
    if isinstance(reconnect, str) and reconnect in ("all", "none"):
        return vertex.inputs if reconnect == "all" else ()
    items = as_items(reconnect)
    chosen: tuple[object, ...] = (reconnect,) if items is None else items
    known = {source.name: source for source in vertex.inputs}
    for name in chosen:
        if not isinstance(name, str) or name not in known:
            raise StructureError(
                f"reconnect must be 'all', 'none' or inputs of {vertex.name!r} ({', '.join(known) or 'none'}), "
                f"found {shown(name)}."
            )
    return tuple(known[str(name)] for name in chosen)


def check_edited(before: Graph, after: Graph, free_outputs: FreeOutputs) -> None:
    """Raise if an edited graph cannot be computed, as far as the shapes of its inputs are known.

    Raises:
      StructureError: names the first vertex whose inputs no longer fit together, or an output of another width.
      Others: as `check_reads`.
    """
    freed = freed_outputs(after, free_outputs)
    for vertex in after.outputs:
        if vertex.name in before and vertex.nout != before.nout(vertex.name) and vertex.name not in freed:
            raise StructureError(
                f"Output {vertex.name!r} would have {vertex.nout} neurons in place of {before.nout(vertex.name)}. Pass "
                "free_outputs=True if it may."
            )
    check_reads(before, after)
    for vertex in after.vertices:
        if isinstance(vertex.op, LinenOp | NnxOp):
            check_values(vertex.name, vertex.op, vertex.inputs)
        shapes = [shape for source in vertex.inputs if (shape := shape_of(source)) is not None]
        if isinstance(vertex.op, Flatten) or len(shapes) < len(vertex.inputs):
            continue
        examples = vertex.op.example_shapes(vertex.nin)
        if any(len(shape) < len(example) for shape, example in zip(shapes, examples, strict=True)):
            problem: str | None = "it needs more axes than that"
        elif len({len(shape) for shape in shapes}) > 1 and not vertex.op.absorbs:
            problem = "one would be broadcast over the batch or the positions of another"
        else:
            problem = _uncomputable(vertex)
        if problem:
            raise StructureError(
                f"After the edit vertex {vertex.name!r} ({vertex.op.describe()}) would read arrays of shapes {shapes}, "
                f"which it cannot: {problem}. The positions have to fit as well as the neurons."
            )


def _uncomputable(vertex: Vertex) -> str | None:
    try:
        shape_of(vertex)
        if isinstance(vertex.op, LayerOp):
            _check_training(vertex.op, [value_of(source) for source in vertex.inputs])
    except Exception as error:  # whatever a layer or function says to shapes that do not fit
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None


def _check_training(op: LayerOp, inputs: list[PyTree]) -> None:
    """Raise what a layer says in training to whole numbers: dropout passes them on in evaluation only."""
    if op.rule.indexed or all(jnp.issubdtype(value.dtype, jnp.inexact) for value in inputs):
        return

    def compute(key: jax.Array, *arrays: PyTree) -> PyTree:
        keys = {"params": key, "dropout": key}
        return core.init(lambda scope, *xs: op.call(scope, xs, {"train": True}))(keys, *arrays)[0]

    jax.eval_shape(compute, jax.random.key(0), *inputs)
