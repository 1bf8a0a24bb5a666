"""Edges come and go: `create_edge`, `remove_edge`."""

from __future__ import annotations

from typing import Unpack

from naivenas_jax.errors import StructureError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.around.keywords import EditKeywords
from naivenas_jax.mutate.around.verb import verb
from naivenas_jax.mutate.edit.model_edits import connect_inside
from naivenas_jax.mutate.edit.realign import realign
from naivenas_jax.mutate.request.edit_arguments import vertex_of
from naivenas_jax.mutate.request.options import Options
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.mutate.rules.answer import granted
from naivenas_jax.mutate.rules.model_places import model_at
from naivenas_jax.mutate.rules.structural_edits import edge_added, edge_removed
from naivenas_jax.transfer.new_neurons.strategy import New
from naivenas_jax.typing import Variables


@verb
def create_edge(
    graph: Graph,
    variables: Variables,
    source: str,
    target: str,
    *,
    position: int | None = None,
    new: New = None,
    **keywords: Unpack[EditKeywords],
) -> Mutation:
    """Let ``target`` read ``source`` as well. It may read it already.

    Args:
      graph: the network.
      variables: its variables.
      source: name of the vertex to read.
      target: name of a vertex that takes any number of inputs: a concatenation, a sum, a product, or an
        `invariant_vertex` with a function of any number of arrays. Inside an imported model both are paths of modules:
        what ``source`` returns is added to what ``target`` takes in.
      position: among the inputs of ``target``; default: the last.
      new, **keywords: as for `remove_vertex`.

    Returns:
      A `Mutation`; unpacks to the new graph and its variables.

    Raises:
      UnknownNameError: if there is no vertex or module of one of the names.
      StructureError: if the edge would close a loop, or ``target`` takes a fixed number of inputs.
      InfeasibleError: if no sizes satisfy all ties afterwards (a size cycle).
      Others: as `delta_nout`.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> a, b = nas.layer("a", nn.Dense(4), x), nas.layer("b", nn.Dense(5), x)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.concat("cat", a, b)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> nas.create_edge(graph, variables, "a", "cat", position=0).graph.nin("cat")
    (4, 4, 5)
    """
    if where := granted(model_at(graph, source, target)):
        if position is not None:
            raise StructureError(
                f"{target!r} is a module inside {where.vertex.name!r}: what {source!r} returns is added to what it "
                f"takes in, whose position is given by the model. Found position={position!r}."
            )
        return connect_inside(graph, variables, where, source, target, Options.of(keywords, new))
    vertex, producer = vertex_of(graph, target), vertex_of(graph, source)
    draft = granted(edge_added(graph, producer, vertex, position))
    return realign(graph, variables, draft, Options.of(keywords, new))


@verb
def remove_edge(
    graph: Graph,
    variables: Variables,
    source: str,
    target: str,
    *,
    occurrence: int = 0,
    new: New = None,
    **keywords: Unpack[EditKeywords],
) -> Mutation:
    """Let ``target`` no longer read ``source``.

    Args:
      graph: the network.
      variables: its variables.
      source: name of the vertex that is read. Edges inside an imported model cannot be removed, only modules.
      target: name of the reader, which must be left with an input.
      occurrence: which of them, if ``target`` reads ``source`` more than once; 0 is the first.
      new, **keywords: as for `remove_vertex`.

    Returns:
      A `Mutation`; unpacks to the new graph and its variables.

    Raises:
      UnknownNameError: if there is no vertex of one of the names.
      StructureError: if there is no such edge, or ``target`` cannot do with one input less.
      Others: as `delta_nout`.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> a, b = nas.layer("a", nn.Dense(4), x), nas.layer("b", nn.Dense(5), x)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.concat("cat", a, b)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> nas.remove_edge(graph, variables, "a", "cat").graph.nin("cat")
    (5,)
    """
    if where := granted(model_at(graph, source, target)):
        raise StructureError(
            f"{source!r} and {target!r} are modules inside {where.vertex.name!r}. What their model does with a value "
            "is not removed edge by edge: remove a whole module with nas.remove_vertex, or undo the mutation that "
            "created the edge."
        )
    vertex, producer = vertex_of(graph, target), vertex_of(graph, source)
    draft = granted(edge_removed(graph, producer, vertex, occurrence))
    return realign(graph, variables, draft, Options.of(keywords, new))
