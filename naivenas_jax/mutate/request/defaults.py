"""What holds where a user says nothing: inputs and outputs keep their neurons, magnitudes decide which others stay."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from naivenas_jax.errors import RequestError, UnknownNameError
from naivenas_jax.graph.dag import unknown_name
from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.request.options import FreeOutputs
from naivenas_jax.typing import Variables
from naivenas_jax.utility.scores.comparable import comparable
from naivenas_jax.utility.scores.magnitude import magnitude, weight_magnitude
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
    return frozenset(v.name for v in graph.outputs if not _names_of_output(graph, v.name).isdisjoint(names))


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
        if not any(name in _names_of_output(graph, output) for output in known):
            raise UnknownNameError(f"free_outputs: {unknown_name(str(name), known)} Only outputs can be freed.")


def kept_ends(graph: Graph, named: Collection[str], free_outputs: FreeOutputs) -> dict[str, str]:
    """The inputs and outputs that keep their neurons, with the reason.

    Args:
      graph: the network.
      named: the axes that a request names; these may change.
      free_outputs: which outputs may change without being named: all, none, or those of these names.
    """
    frozen = {
        v.name: f"{v.name!r} is an input of the graph, which changes only when a request names it"
        for v in graph.inputs
        if v.name not in named
    }
    freed = freed_outputs(graph, free_outputs)
    return frozen | {
        v.name: f"{v.name!r} is an output of the graph and keeps every neuron, unless a request names it or "
        f"free_outputs=True or free_outputs=({v.name!r},) is passed"
        for v in graph.outputs
        if v.name not in freed and _names_of_output(graph, v.name).isdisjoint(named)
    }


def _names_of_output(graph: Graph, name: str) -> set[str]:
    """What a request may call an output: the vertex, or, if there is but one, the axis inside a vertex that makes it.

    The last layer of an imported model is such an axis. Where several are the same neurons (the layers that add to a
    residual stream), none of them means the output.
    """
    axes = graph.ties.axes
    same = [axis for axis, row in axes.items() if row == axes[name] and axis not in graph and axis[0] != "~"]
    return {name, *same} if len(same) == 1 else {name}


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
      graph: the network.
      variables: its variables.
      given: what a user gave as ``utility=``; None: magnitudes.
      within_budgets: whether a budget compares neurons of different layers, so that magnitudes are made comparable.
      axes: those whose magnitudes are wanted; None: all.

    Raises:
      UtilityError: if the user's utility, or a magnitude, is not finite, or has another shape than the axis.
    """
    if given is None:
        given = (
            comparable_magnitude(graph, variables)
            if within_budgets
            else weight_magnitude(graph.ties, variables, axes=axes)
        )
    return scores(given, graph.ties.sizes)


def comparable_magnitude(graph: Graph, variables: Variables) -> dict[str, np.ndarray]:
    """Magnitudes that say something about neurons of different layers. In a dry run on shapes all neurons are alike."""
    alike = {axis: np.ones(size) for axis, size in graph.ties.sizes.items()}
    return comparable(graph, magnitude(graph, variables) or alike)
