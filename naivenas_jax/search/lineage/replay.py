"""The changes of a history, made once more of other weights."""

from __future__ import annotations

from naivenas_jax.checks import require_progress, shown
from naivenas_jax.errors import PlanError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.verbs.resize import delta_nout
from naivenas_jax.progress import tracked
from naivenas_jax.search.lineage.history import History
from naivenas_jax.search.lineage.history_entry import HistoryEntry
from naivenas_jax.transfer.variables import check_network
from naivenas_jax.typing import Variables


def replay(
    graph: Graph,
    variables: Variables,
    history: History,
    name: str | int | None = None,
    *,
    progress: bool | None = None,
) -> tuple[Graph, Variables]:
    """Make the changes of a history once more, of other weights of the network that it starts from.

    A change of widths needs nothing but its plan: the same neurons stay, and new ones keep the function. Any other, an
    edit of the structure or a crossover, needs the network that came of it, which the history holds if it was added
    with ``keep=True``: the graph is taken from it, and the new entries, and all else from the weights that are given.

    Args:
      graph: the network that the history starts from.
      variables: its variables, whatever they are now.
      history: which networks came of it, as it is or as it was loaded (`load`).
      name: the network to come to, along first parents; None: the last one.
      progress: whether to show how far it is: None: in a terminal and a notebook, after a second; True: elsewhere
        too, in lines on standard error; False: never.

    Returns:
      The graph and the variables that the same changes lead to.

    Raises:
      PlanError: if ``history`` is no history or empty, if a change is no change of widths and the history does not hold
        the network that came of it, or if a plan does not fit the variables.
      UnknownNameError: if there is no such network.
      GraphError, VariablesError: if ``graph`` is no graph, or the variables are not its own.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(8), x)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> history = nas.History().add("start", graph)
    >>> history = history.add("narrow", nas.delta_nout(graph, variables, {"hidden": -3}), "start")
    >>> other = graph.init(jax.random.key(1), jax.numpy.ones((1, 3)))
    >>> narrow, its_variables = nas.replay(graph, other, nas.History.from_json(history.to_json()))
    >>> narrow.nout("hidden"), its_variables["params"]["out"]["kernel"].shape
    (5, (5, 2))
    """
    if not isinstance(history, History) or not len(history):
        raise PlanError(f"history must be a nas.History of at least one network; found {shown(history)}.")
    require_progress(progress, PlanError)
    check_network(graph, variables)
    way = history.path(list(history)[-1].name if name is None else name)
    now: tuple[Graph, Variables] = graph, variables
    with tracked(way[1:], "replay, changes", progress) as every:
        for each in every:
            now = _once_more(*now, history[each])
    return now


def _once_more(graph: Graph, variables: Variables, entry: HistoryEntry) -> tuple[Graph, Variables]:
    """The change that an entry tells of, of other weights."""
    plan = entry.plan
    if entry.network is not None:
        known, values = entry.network
        made: Variables = plan.apply(variables, new=values)
        check_network(known, made)
        return known, made
    if plan.created or plan.removed or plan.moved or plan.renamed or len(entry.parents) != 1:
        raise PlanError(
            f"{entry.name!r} came of more than a change of widths ({entry.change}), and the history does not hold what "
            "it made: add it with history.add(..., keep=True)."
        )
    mutation = delta_nout(graph, variables, plan)
    return mutation.graph, mutation.variables
