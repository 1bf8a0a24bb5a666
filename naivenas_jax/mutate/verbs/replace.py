"""Other computations in the place of vertices: `replace_layer`, `map_vertices`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias, Unpack

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from naivenas_jax.align.axis_plan import NEW, AxisPlan
from naivenas_jax.align.plan import Plan
from naivenas_jax.align.problem.request import Target
from naivenas_jax.checks import require_flag, require_function
from naivenas_jax.errors import StructureError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.map_ops import with_ops
from naivenas_jax.graph.model_vertex import ModelOp
from naivenas_jax.graph.op import Op
from naivenas_jax.graph.source import Source
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.layers.ops.layer_vertex import layer
from naivenas_jax.mutate.around.keywords import EditKeywords
from naivenas_jax.mutate.around.verb import verb
from naivenas_jax.mutate.edit.initial import initial_variables
from naivenas_jax.mutate.edit.model_edits import replace_inside
from naivenas_jax.mutate.edit.realign import complete
from naivenas_jax.mutate.edit.widths import change_widths
from naivenas_jax.mutate.request.edit_arguments import vertex_of
from naivenas_jax.mutate.request.options import Options, conditions
from naivenas_jax.mutate.result.mutation import Mutation, then
from naivenas_jax.mutate.rules.answer import granted
from naivenas_jax.mutate.rules.edited_graph import check_computable
from naivenas_jax.mutate.rules.model_places import model_at
from naivenas_jax.paths import Path
from naivenas_jax.sizes.condition import size
from naivenas_jax.transfer.new_neurons.strategy import New
from naivenas_jax.transfer.take import where_they_are
from naivenas_jax.transfer.undo import UndoRecord
from naivenas_jax.transfer.variables import flat, nested, unshared
from naivenas_jax.typing import Array, Shape, Variables

#: A layer, a whole graph, or a function of the inputs of a vertex that returns a vertex which reads them.
Replacement: TypeAlias = nn.Module | nnx.Module | Graph | Callable[..., Vertex]

_REPLACED = "a computation was replaced by another"


@verb
def replace_layer(
    graph: Graph,
    variables: Variables,
    name: str,
    make: Replacement,
    *,
    keep: bool = True,
    new: New = "init",
    **keywords: Unpack[EditKeywords],
) -> Mutation:
    """Put another layer, or any other computation, in the place of a vertex. It keeps its name and its inputs.

    A layer of another width first changes the width of the vertex, as by ``delta_nout(graph, variables,
    {name: nas.to(width)})``, and then takes its place.

    Args:
      graph: the network.
      variables: its variables.
      name: of the vertex; inside an imported model the path of a module. What takes its place there must be as wide,
        and has its variables beside those of the model, under the path with "_" for "/" and "_new", or the name that
        ``make`` gives it; nothing is kept of the module's.
      make: a linen or nnx layer, or a `Graph`; or a function that gets the inputs of the vertex and returns a new one
        that reads them, ``lambda x: nas.invariant_vertex("act", nn.gelu, x)``. Its name does not matter.
      keep: whether variables that old and new have in common (the same path, shape and axes) keep their values. A
        kernel of another window, say, starts anew.
      new: what the other variables start at: "init", their own initialisers, or else as for `insert_vertex`.
      **keywords: as for `remove_vertex`.

    Returns:
      A `Mutation`; unpacks to the new graph and its variables.

    Raises:
      UnknownNameError: if there is no such vertex.
      StructureError: if it is an input, the new vertex does not read the same vertices, or its width is another one and
        not its own to choose.
      InfeasibleError: if the vertex cannot have the new width.
      Others: as `delta_nout`.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("digits", nn.Dense(5), nas.layer("hidden", nn.Dense(4), x)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> mutation = nas.replace_layer(graph, variables, "digits", nn.Dense(10), keep=False)  # a new head
    >>> mutation.graph.nout("digits"), mutation.variables["params"]["digits"]["kernel"].shape
    (10, (4, 10))
    """
    options = Options.of(keywords)
    if where := granted(model_at(graph, name)):
        own = f"{name.replace('/', '_')}_new"
        return replace_inside(graph, variables, where, name, lambda v: _made(own, (v,), make), new, options)
    vertex = vertex_of(graph, name)
    made = _replacement(vertex, make)
    if made.nout == vertex.nout:
        return _swapped(graph, variables, {name: made.op}, keep, new, options)
    if not (made.op.absorbs and vertex.op.absorbs):
        raise StructureError(
            f"{name!r} ({vertex.op.describe()}) makes {vertex.nout} neurons, its replacement ({made.op.describe()}) "
            f"{made.nout}, and the two do not both have a width of their own. Make it {vertex.nout} wide and change "
            "the width with nas.delta_nout, or use nas.insert_vertex and nas.remove_vertex."
        )
    target = Target(name, vertex.nout, made.nout)
    wider = change_widths(graph, variables, [target], replace(options, new="zeros"))
    again = _replacement(wider.graph[name], make)
    swapped = _swapped(wider.graph, wider.variables, {name: again.op}, keep, new, options)
    return then(wider, swapped, _REPLACED)


@verb
def map_vertices(
    graph: Graph,
    variables: Variables,
    fn: Callable[[Vertex], Vertex | None],
    *,
    keep: bool = True,
    new: New = "init",
    **keywords: Unpack[EditKeywords],
) -> Mutation:
    """Transform all vertices by a function, all at once.

    Args:
      graph: the network.
      variables: its variables.
      fn: gets each vertex but inputs of the graph and imported models, and returns what takes its place: a vertex that
        reads the same vertices, ``vertex.inputs``, and is as wide; None or the vertex itself: it stays.
      keep, new, **keywords: as for `replace_layer`.

    Returns:
      A `Mutation`; unpacks to the new graph and its variables.

    Raises:
      StructureError: if a vertex that ``fn`` returns reads others or has another width.
      Others: as `delta_nout`.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> y = nas.invariant_vertex("act", nn.relu, nas.layer("hidden", nn.Dense(4), x))
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), y))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> def smooth(vertex):
    ...     if vertex.op.describe() == "relu":
    ...         return nas.invariant_vertex(vertex.name, nn.gelu, *vertex.inputs)
    >>> nas.map_vertices(graph, variables, smooth).graph["act"]
    Vertex('act', gelu, inputs=[hidden], nout=4)
    """
    require_function(fn, "map_vertices: fn", "vertex", StructureError)
    ops = {}
    for vertex in graph.vertices:
        made = None if isinstance(vertex.op, Source | ModelOp) else fn(vertex)
        if made is None or made is vertex:
            continue
        ops[vertex.name] = _checked(vertex.name, vertex.inputs, made).op
        if made.nout != vertex.nout:
            raise StructureError(
                f"map_vertices would make {vertex.name!r} {made.nout} wide in place of {vertex.nout}. Change widths "
                "with nas.delta_nout, before or after."
            )
    return _swapped(graph, variables, ops, keep, new, Options.of(keywords))


def _replacement(vertex: Vertex, make: Replacement) -> Vertex:
    """What ``make`` stands for, in the place of a vertex."""
    if isinstance(vertex.op, Source):
        raise StructureError(
            f"{vertex.name!r} is an input of the graph. Change its width with nas.delta_nout(graph, variables, "
            f"{{{vertex.name!r}: nas.to(size)}})."
        )
    if isinstance(vertex.op, ModelOp):
        raise StructureError(f"{vertex.name!r} holds a whole model; what it computes cannot be replaced.")
    return _made(vertex.name, vertex.inputs, make)


def _made(name: str, inputs: tuple[Vertex, ...], make: Replacement) -> Vertex:
    """What ``make`` stands for, on these inputs."""
    if isinstance(make, nn.Module | nnx.Module | Graph) or not callable(make):
        return layer(name, make, *inputs)
    require_function(make, "make", ", ".join(["input"] * len(inputs)), StructureError)
    return _checked(name, inputs, make(*inputs))


def _checked(name: str, inputs: tuple[Vertex, ...], made: object) -> Vertex:
    if not isinstance(made, Vertex) or made.inputs != inputs:
        reads = f"one that reads {[v.name for v in made.inputs]}" if isinstance(made, Vertex) else repr(made)[:80]
        raise StructureError(
            f"In the place of {name!r} goes a vertex that reads the same vertices, in the same order: "
            f"{[v.name for v in inputs]}; found {reads}. Further vertices are inserted with nas.insert_vertex."
        )
    return made


def _swapped(
    graph: Graph, variables: Variables, ops: Mapping[str, Op], keep: bool, new: New, options: Options
) -> Mutation:
    """Other computations of the same widths."""
    require_flag(keep, "keep", StructureError)
    final = with_ops(graph, ops)
    check_computable(graph, final)
    sizes = {v.name: np.arange(v.nout) for v in final.vertices}
    start, _ = initial_variables(final, tuple(ops), sizes, sizes, new, options.rng)
    old = flat(variables)
    fits = {path for path, array in start.items() if keep and _fits(graph, final, path, array, old)}
    fresh = where_they_are({path: array for path, array in start.items() if path not in fits}, variables)
    stays = {path: array for path, array in old.items() if _stays(graph, path, ops, fits)}
    kept = {path: _cast(a, start[path].dtype) if path in fits else a for path, a in stays.items()}
    plan = _plan(graph, final, kept, fresh, old)
    gone = unshared({path: array for path, array in old.items() if path not in kept}, old)
    # where a flatten now stacks other positions its readers follow, and not what was put in on purpose
    widths = [*conditions(options.constraints, final.ties.sizes), *(size(n) == final.nout(n) for n in ops)]
    return complete(
        graph,
        replace(options, constraints=widths),
        new,
        Mutation(
            graph=final,
            variables=nested({**kept, **fresh}),
            plan=plan,
            before=graph,
            notes=tuple(f"replaced: {name}" for name in ops),
            variables_before=variables,
            undo_records=(UndoRecord(plan, {}, gone, final.ties.leaves),),
            incomparable=_REPLACED if ops else None,
        ),
    )


def _cast(array: Array | Shape, dtype: np.dtype) -> Array | Shape:
    """An array of a variable that stays; in a dry run its shape."""
    if isinstance(array, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(array.shape, dtype)
    return jnp.asarray(array, dtype)


def _fits(graph: Graph, final: Graph, path: Path, array: Array | Shape, old: Mapping[Path, Array | Shape]) -> bool:
    """Whether a variable of a new computation means what one of the old did."""
    before, after = graph.ties.leaves.get(path), final.ties.leaves.get(path)
    if before is None or after is None or np.shape(array) != np.shape(old[path]):
        return False
    return before.roles == after.roles and before.axes == after.axes


def _stays(graph: Graph, path: Path, ops: Mapping[str, Op], fits: set[Path]) -> bool:
    """Whether an old variable stays: if it belongs to another vertex, or the new computation can use it."""
    return path in fits or not (path[1:2] and path[1] in ops and not graph[path[1]].op.at_root)


def _plan(
    graph: Graph,
    final: Graph,
    kept: Mapping[Path, Array | Shape],
    fresh: Mapping[Path, Array | Shape],
    old: Mapping[Path, Array | Shape],
) -> Plan:
    """Neurons of vertices stay; inner axes that only the new computation has are new."""
    known = graph.ties.sizes
    return Plan.identity(
        final.ties,
        axes={
            axis: AxisPlan.of(known.get(axis, 0), [NEW] * size)
            for axis, size in final.ties.sizes.items()
            if known.get(axis) != size
        },
        created=frozenset(fresh),
        removed=frozenset(old) - frozenset(kept),
    )
