"""What holds where a user says nothing.

Inputs, outputs and vocabularies keep their neurons. Of a vocabulary that a request names the first words stay; which
neurons of other axes stay magnitudes decide.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from naivenas_jax.errors import RequestError, UnknownNameError
from naivenas_jax.graph.dag import unknown_name
from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.request.options import FreeOutputs
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.typing import Variables
from naivenas_jax.utility.scores.contribution import contribution
from naivenas_jax.utility.scores.magnitude import weight_magnitude
from naivenas_jax.utility.user_scores import Utility, scores


def freed_outputs(graph: Graph, given: FreeOutputs) -> frozenset[str]:
    """The outputs that may change without being named by a request.

    Args:
      graph: the network. A name that is none of its outputs says nothing here: an edit may have moved the output.
      given: what ``free_outputs=`` was given.
    """
    if isinstance(given, bool | np.bool_):
        return frozenset(v.name for v in graph.outputs if given)
    names = {given} if isinstance(given, str) else set(given)
    return frozenset(v.name for v in graph.outputs if any(_means(graph, name, v.name) for name in names))


def check_free_outputs(graph: Graph, given: object) -> None:
    """Raise unless ``free_outputs=`` was given True, False or names of outputs.

    Raises:
      RequestError: if it is something else.
      UnknownNameError: if an output of that name does not exist.
    """
    if isinstance(given, bool | np.bool_):
        return
    array = hasattr(given, "dtype")  # of numbers or keys, and no collection of names
    names = (
        [given] if isinstance(given, str) else list(given) if isinstance(given, Collection) and not array else [None]
    )
    if not all(isinstance(name, str) for name in names):
        raise RequestError(
            "free_outputs= takes True, False, or the names of the outputs that may change, such as ('output1',); found "
            f"{given!r:.80}."
        )
    known = [v.name for v in graph.outputs]
    for name in names:
        if not any(_means(graph, str(name), output) for output in known):
            raise UnknownNameError(f"free_outputs: {unknown_name(str(name), known)} Only outputs can be freed.")


def kept_ends(
    graph: Graph, named: Collection[str], free_outputs: FreeOutputs, known: Ties | None = None
) -> dict[str, str]:
    """The inputs, outputs, vocabularies and numbers of layers that keep their neurons, with the reason.

    An output whose neurons are looked up (the words of a vocabulary that is tied to the output) is named by the name of
    the vocabulary, and the other way round.

    Args:
      graph: the network.
      named: the axes that a request names; these may change.
      free_outputs: which outputs may change without being named: all, none, or those of these names.
      known: the ties, where they were found for the same vertices with further outputs.
    """
    ties = graph.ties if known is None else known
    frozen = {
        v.name: f"{v.name!r} is an input of the graph, which changes only when a request names it"
        for v in graph.inputs
        if ties.same_indices(v.name).isdisjoint(named)
    }
    asked = {run for axis in named for run in ties.axes.get(axis, ())}
    for run in sorted(ties.indexed - asked):
        own = ties.index_axis(run)
        frozen.setdefault(own, f"entries of {own!r} are looked up by position: it changes only when a request names it")
    for run in sorted(ties.layers - asked - ties.indexed):
        own = ties.index_axis(run)
        frozen.setdefault(own, f"{own!r} is a number of layers, which changes only when a request names it")
    freed = freed_outputs(graph, free_outputs)
    return frozen | {
        v.name: f"{v.name!r} is an output of the graph and keeps every neuron, unless a request names it or "
        f"free_outputs=True or free_outputs=({v.name!r},) is passed"
        for v in graph.outputs
        if v.name not in freed and _names_of_output(graph, ties, v.name).isdisjoint(named)
    }


def _means(graph: Graph, name: str, output: str) -> bool:
    """Whether a name means an output: one of its names, or the name of a part of what a model returns that it is in."""
    return name in _names_of_output(graph, graph.ties, output) or output.startswith(f"{name}/")


def _names_of_output(graph: Graph, ties: Ties, name: str) -> set[str]:
    """What a request may call an output: the vertex, or, if there is but one, the axis inside a vertex that makes it.

    The last layer of an imported model is such an axis. Where several are the same neurons (the layers that add to a
    residual stream), none of them means the output.
    """
    axes = ties.axes
    same = [axis for axis, row in axes.items() if row == axes[name] and axis not in graph and axis[0] != "~"]
    return {name, *ties.same_indices(name), *(same if len(same) == 1 else ())}


def deciding_utility(
    graph: Graph,
    variables: Variables,
    given: Utility | None,
    *,
    within_budgets: bool = False,
    axes: Collection[str] | None = None,
) -> dict[str, np.ndarray]:
    """Scores of every neuron, by axis.

    Args:
      graph: the network. Of a vocabulary the first words stay, so that the others keep their numbers.
      variables: its variables.
      given: what a user gave as ``utility=``; None: magnitudes, and within budgets contributions.
      within_budgets: whether a budget compares neurons of different layers, which contributions are made for.
      axes: those whose magnitudes are wanted; None: all.

    Raises:
      UtilityError: if the user's utility, or a magnitude, is not finite, or has another shape than the axis.
    """
    if given is not None:
        return scores(given, graph.ties.sizes)
    return _first_words(
        graph.ties,
        contribution(graph, variables) if within_budgets else weight_magnitude(graph.ties, variables, axes=axes),
    )


def _first_words(ties: Ties, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same scores, but neurons that are looked up by position stay in the order of their positions."""
    found = dict(scores(given, ties.sizes))
    for run in sorted(ties.indexed):
        for axis in [axis for axis in found if run in ties.axes[axis]]:
            found[axis] = np.where(_places(ties, axis, run), 0.0, found[axis])
        own = ties.index_axis(run)
        places = _places(ties, own, run)
        falling = np.zeros(len(places))
        falling[places] = np.linspace(1.0, 0.5, int(places.sum()))
        found[own] = found[own] + falling if own in found else falling
    return found


def _places(ties: Ties, axis: str, run: int) -> np.ndarray:
    """Shape (neurons of the axis,): which of them lie on a run."""
    row = ties.axes[axis]
    return np.repeat([one == run for one in row], [ties.run_sizes[one] for one in row])
