"""Inputs and outputs of a graph, which keep their neurons unless a user says otherwise."""

from __future__ import annotations

from collections.abc import Collection

from naivenas_jax.graph.graph import Graph


def kept_ends(graph: Graph, named: Collection[str], free_outputs: bool) -> dict[str, str]:
    """The inputs and outputs that keep their neurons, with the reason.

    Args:
      graph: the network.
      named: the axes that a request names; these may change.
      free_outputs: whether outputs may change without being named.
    """
    frozen = {
        v.name: f"{v.name!r} is an input of the graph, which changes only when a request names it"
        for v in graph.inputs
        if v.name not in named
    }
    if not free_outputs:
        frozen |= {
            v.name: f"{v.name!r} is an output of the graph and keeps every neuron, unless a request names it or "
            "free_outputs=True is passed"
            for v in graph.outputs
            if _names_of_output(graph, v.name).isdisjoint(named)
        }
    return frozen


def _names_of_output(graph: Graph, name: str) -> set[str]:
    """What a request may call an output: the vertex, or, if there is but one, the axis inside a vertex that makes it.

    The last layer of an imported model is such an axis. Where several are the same neurons (the layers that add to a
    residual stream), none of them means the output.
    """
    axes = graph.ties.axes
    same = [axis for axis, row in axes.items() if row == axes[name] and axis not in graph and axis[0] != "~"]
    return {name, *same} if len(same) == 1 else {name}
