"""Other names for vertices; nothing else changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

from naivenas_jax.align.plan import Plan
from naivenas_jax.errors import RequestError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.map_ops import map_ops
from naivenas_jax.mutate.around.keywords import VerbKeywords
from naivenas_jax.mutate.around.verb import verb
from naivenas_jax.mutate.request.edit_arguments import vertex_of
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.transfer.undo import UndoRecord
from naivenas_jax.transfer.variables import flat, nested
from naivenas_jax.typing import Variables


@verb
def rename(graph: Graph, variables: Variables, names: Mapping[str, str], **keywords: Unpack[VerbKeywords]) -> Mutation:
    """Call vertices otherwise. Their variables move along, and so does what `Mutation.carry` is given.

    Args:
      graph: the network.
      variables: its variables.
      names: ``{"old": "new"}``; names may be swapped.
      **keywords: ``inputs``, ``fallback``, ``on_change``: as for `delta_nout`.

    Returns:
      A `Mutation`; its plan has the axes by their new names, and says in ``renamed`` and ``moved`` what they were.

    Raises:
      UnknownNameError: if there is no vertex of an old name.
      DuplicateNameError: if two vertices would have the same name.
      GraphError: if a new name is empty, has a ":" or is no string.
      Others: as `delta_nout`.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(5), x)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> mutation = nas.rename(graph, variables, {"hidden": "stem"})
    >>> mutation.graph.inputs_of("out"), sorted(mutation.variables["params"])
    (('stem',), ['out', 'stem'])
    """
    del keywords  # they are for what happens around the change
    if not isinstance(names, Mapping):
        raise RequestError(f"rename takes {{'old': 'new'}}, found {type(names).__name__}: {names!r:.80}.")
    for old in names:
        vertex_of(graph, old)
    final = map_ops(graph, lambda vertex, _: vertex.op.renamed(names), names)
    # the same vertices in the same order: what they tie comes in the same order as well
    renamed = {new: old for old, new in zip(graph.ties.axes, final.ties.axes, strict=True) if new != old}
    moved = {new: old for old, new in zip(graph.ties.leaves, final.ties.leaves, strict=True) if new != old}
    forward = {old: new for new, old in moved.items()}
    plan = Plan.identity(final.ties, moved=moved, renamed=renamed)
    return Mutation(
        graph=final,
        variables=nested({forward.get(path, path): array for path, array in flat(variables).items()}),
        plan=plan,
        before=graph,
        variables_before=variables,
        undo_records=(UndoRecord(plan, {}, {}, final.ties.leaves),),
    )
