"""Simple criteria by which neurons are dropped within a budget, to compare the default of the library with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import naivenas_jax as nas
from naivenas_jax.transfer.variables import flat
from naivenas_jax.utility.tied import by_handle, class_count, class_numbers, class_totals

#: Cuts a network to a number of parameters.
Cut = Callable[[nas.Graph, Any, int], nas.Mutation]
Criterion = Callable[[nas.Graph, Any], Any]


def squares(graph: nas.Graph, variables: Any, role: str) -> np.ndarray:
    """For each class the sum of squares of all weights that make it ("out") or read it ("in")."""
    totals = np.zeros(class_count(graph.ties))
    for path, array in flat(variables).items():
        leaf = graph.ties.leaves[path]
        for d, axis in enumerate(leaf.axes):
            if axis is not None and leaf.new is None and leaf.roles[d] == role:
                others = tuple(k for k in range(np.ndim(array)) if k != d)
                np.add.at(totals, class_numbers(graph.ties, axis), (np.asarray(array, np.float64) ** 2).sum(others))
    return totals


def makes_times_reads(graph: nas.Graph, variables: Any) -> Any:
    """The norm of what makes a neuron times the norm of what reads it; neurons that nothing reads count once."""
    made, read = squares(graph, variables, "out"), squares(graph, variables, "in")
    return by_handle(graph, np.sqrt(np.where(made > 0, made, 1.0) * np.where(read > 0, read, 1.0)))


def scales(graph: nas.Graph, variables: Any) -> Any:
    """The scale of the batch normalisation; where there is none, magnitude. Both by the mean of the layer."""
    scale = class_totals(graph, nas.normalise(graph, nas.batchnorm_scale(graph, variables)))
    others = class_totals(graph, nas.normalise(graph, nas.magnitude(graph, variables)))
    return by_handle(graph, np.where(scale > 0, scale, others))


def squared(graph: nas.Graph, variables: Any) -> Any:
    """The squares of all weights of a group of tied neurons, by the mean of the layer: what Torch-Pruning calls L2."""
    group = class_totals(graph, nas.magnitude(graph, variables, norm="l2", group=True))
    return nas.normalise(graph, by_handle(graph, group**2))


def within_budget(criterion: Criterion) -> Cut:
    """The largest sum of scores that the budget allows."""
    return lambda graph, variables, most: nas.resize(
        graph, variables, max_params=most, utility=criterion(graph, variables)
    )


def ranked(criterion: Criterion) -> Cut:
    """All neurons below one threshold go, the smallest threshold that meets the budget; no layer below a tenth."""

    def cut(graph: nas.Graph, variables: Any, most: int) -> nas.Mutation:
        totals = class_totals(graph, criterion(graph, variables))
        # Where scores of one neuron are at several handles, the sums count, of which there is one for each class.
        low, high = 0.0, float(totals.max())
        found = None
        for _ in range(12):
            middle = (low + high) / 2
            utility = by_handle(graph, totals - middle)
            mutation = nas.resize(graph, variables, utility=utility, min_size=0.1)
            if nas.costs(*mutation).params <= most:
                found, high = mutation, middle
            else:
                low = middle
        return found if found is not None else nas.resize(graph, variables, max_params=most, utility=utility)

    return cut


def compared(criterion: Criterion) -> Criterion:
    """The same, made comparable between layers."""
    return lambda graph, variables: nas.comparable(graph, criterion(graph, variables))


def averaged(criterion: Criterion) -> Criterion:
    """The same, divided by the mean of the layer."""
    return lambda graph, variables: nas.normalise(graph, criterion(graph, variables))


def l1(graph: nas.Graph, variables: Any) -> Any:
    return nas.magnitude(graph, variables)


def l2(graph: nas.Graph, variables: Any) -> Any:
    return nas.magnitude(graph, variables, norm="l2")


def group(graph: nas.Graph, variables: Any) -> Any:
    return nas.magnitude(graph, variables, norm="l2", group=True)


CRITERIA: dict[str, Cut] = {
    "L1 of what makes, mean": within_budget(l1),
    "L2 of what makes, mean": within_budget(l2),
    "L2 of the group": within_budget(group),
    "L1 by the layer's mean": within_budget(averaged(l1)),
    "L2 of the group by the layer's mean": within_budget(averaged(group)),
    "L1, comparable": within_budget(compared(l1)),
    "L2 of the group, comparable": within_budget(compared(group)),
    "makes times reads": within_budget(makes_times_reads),
    "makes times reads, comparable": within_budget(compared(makes_times_reads)),
    "BatchNorm scale by the layer's mean": within_budget(scales),
    "BatchNorm scale, comparable": within_budget(compared(scales)),
    "squares of the group by the layer's mean, ranked": ranked(squared),
    "L2 of the group, ranked": ranked(group),
}
