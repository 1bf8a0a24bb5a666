"""Vertices come and go: `insert_vertex`, `remove_vertex`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Unpack

from naivenas_jax.errors import StructureError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.layers.ops.attend import ports_for_values
from naivenas_jax.mutate.around.keywords import EditKeywords
from naivenas_jax.mutate.around.verb import verb
from naivenas_jax.mutate.edit.model_edits import insert_inside, remove_inside
from naivenas_jax.mutate.edit.realign import realign
from naivenas_jax.mutate.request.defaults import check_free_outputs
from naivenas_jax.mutate.request.edit_arguments import added_by, readers_of, reconnected, vertex_of
from naivenas_jax.mutate.request.options import Options
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.mutate.rules.answer import granted
from naivenas_jax.mutate.rules.draft import Draft, Slot, StandIn
from naivenas_jax.mutate.rules.model_places import model_at
from naivenas_jax.mutate.rules.structural_edits import readable, vertex_removed
from naivenas_jax.transfer.new_neurons.strategy import New
from naivenas_jax.typing import Variables
from naivenas_jax.utility.user_scores import scores


@verb
def insert_vertex(
    graph: Graph,
    variables: Variables,
    after: str,
    make: Callable[[Vertex], Vertex],
    *,
    outputs: Iterable[str] | None = None,
    new: New = "identity",
    **keywords: Unpack[EditKeywords],
) -> Mutation:
    """Insert what ``make`` builds between a vertex and those that read it.

    Args:
      graph: the network.
      variables: its variables.
      after: name of the vertex to insert after; inside an imported model the path of a module. What is inserted there
        gets the width of its place, and its variables lie beside those of the model.
      make: gets that vertex and returns a new one that reads it, directly or through further new vertices.
      outputs: the readers of ``after`` that shall read the new vertex instead; default: all of them, and if ``after``
        is an output of the graph, the new vertex becomes that output. `attend` goes on reading the table of ``after``.
      new: what variables of the inserted layers start at. Default "identity": each layer passes its input on, so that
        the function is kept; layers that cannot (an activation, a normalisation over neurons) do what they do. "init":
        their own initialisers; else as for `delta_nout`.
      **keywords: ``align``, see `EditKeywords`; the others as for `delta_nout`.

    Returns:
      A `Mutation`; unpacks to the new graph and its variables.

    Raises:
      UnknownNameError: if there is no vertex or module of that name.
      StructureError: if ``make`` returns no new vertex, or ``outputs`` names one that does not read ``after``.
      DuplicateNameError: if the name of a new vertex is taken.
      SizeMismatchError: if a new vertex would read numbers of words as values.
      InfeasibleError: if the new vertex has another width than the readers expect, and no sizes satisfy all ties.
      Others: as `delta_nout`.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(4), x)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> mutation = nas.insert_vertex(graph, variables, "hidden", lambda v: nas.layer("between", nn.Dense(6), v))
    >>> mutation.graph.nin("out"), mutation.aligned, mutation.check(jax.numpy.ones((2, 3))).compared
    ((6,), 'grow', True)
    """
    if where := granted(model_at(graph, after)):
        if outputs is not None:
            raise StructureError(
                f"{after!r} is a module inside {where.vertex.name!r}, where everything that reads it reads what is "
                "inserted; outputs= is for vertices."
            )
        own = _of_the_piece(graph, keywords)
        insert = partial(insert_vertex, variables={}, after=after, make=make, new=new, **own)
        return insert_inside(graph, variables, where, after, insert)
    source = vertex_of(graph, after)
    if problem := readable(graph, source):
        raise problem
    last, added = added_by(graph, source, make)
    readers = readers_of(graph, after, outputs)
    draft = Draft.of(graph).with_vertices(added)
    stand = StandIn(f"~{after}", source.nout, after)  # equally wide or not, the new neurons are others
    draft = draft.with_slots(
        {
            name: tuple(
                Slot(last.name, stand) if port in ports_for_values(graph[name], source) else slot
                for port, slot in enumerate(draft.slots[name])
            )
            for name in readers
        }
    )
    if outputs is None:
        draft = replace(draft, outputs=tuple(last.name if name == after else name for name in draft.outputs))
    how = "identity" if new is None else new
    kept = isinstance(how, str) and how == "identity"
    return realign(
        graph,
        variables,
        draft,
        Options.of(keywords, None if kept else new),
        created_as=how,
        comparable=kept,
    )


def _of_the_piece(graph: Graph, keywords: EditKeywords) -> EditKeywords:
    """The keywords without those that choose among neurons of the whole network, all of which stay: these are checked.

    What is inserted inside a model has the width of its place, and is made in a graph of its own.
    """
    check_free_outputs(graph, keywords.get("free_outputs", False))
    utility = keywords.get("utility")
    if utility is not None:
        scores(utility, graph.ties.sizes)
    own = keywords.copy()
    own.pop("free_outputs", None)
    own.pop("utility", None)
    return own


@verb
def remove_vertex(
    graph: Graph,
    variables: Variables,
    name: str,
    *,
    reconnect: str | Iterable[str] = "all",
    new: New = None,
    **keywords: Unpack[EditKeywords],
) -> Mutation:
    """Remove a vertex.

    Args:
      graph: the network.
      variables: its variables.
      name: of the vertex; inside an imported model the path of a module. What read it then reads what it took in (of
        several arrays the first), and variables that nothing depends on any more are left out.
      reconnect: "all": what read the vertex reads all of its inputs instead; "none": it reads nothing instead, which
        takes readers that can do with one input less; or the names of the inputs that it shall read.
      new: what parameters of new neurons start at, as for `delta_nout`.
      **keywords: ``align``, see `EditKeywords`; the others as for `delta_nout`.

    Returns:
      A `Mutation`; unpacks to the new graph and its variables.

    Raises:
      UnknownNameError: if there is no vertex or module of that name.
      StructureError: if the vertex is an input or output of the graph, a reader cannot take the inputs, or `attend`
        reads its table.
      SizeMismatchError: if a reader would read numbers of words as values.
      InfeasibleError: if no sizes satisfy all ties afterwards.
      Others: as `delta_nout`.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(5), x)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> mutation = nas.remove_vertex(graph, variables, "hidden")
    >>> mutation.variables["params"]["out"]["kernel"].shape, mutation.aligned
    ((3, 2), 'shrink')
    """
    if where := granted(model_at(graph, name)):
        if reconnect != "all":
            raise StructureError(
                f"{name!r} is a module inside {where.vertex.name!r}: what reads it reads what it took in. Other ways "
                f"to reconnect are for vertices; found reconnect={reconnect!r}."
            )
        return remove_inside(graph, variables, where, name, Options.of(keywords, new))
    vertex = vertex_of(graph, name)
    draft = granted(vertex_removed(graph, vertex, reconnected(vertex, reconnect)))
    return realign(graph, variables, draft, Options.of(keywords, new))
