"""Scores of neurons by the size of their weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import jax
import numpy as np
from jaxtyping import Float, Shaped

from naivenas_jax.checks import as_items, is_one_of, require_flag, shown
from naivenas_jax.errors import UtilityError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.paths import Path
from naivenas_jax.sizes.ties import Leaf, Ties
from naivenas_jax.transfer.take import to_host
from naivenas_jax.transfer.variables import check_network, flat
from naivenas_jax.typing import Array, Variables
from naivenas_jax.utility.tied import by_handle, class_count, class_numbers
from naivenas_jax.utility.user_scores import Scores


def magnitude(
    graph: Graph,
    variables: Variables,
    *,
    norm: Literal["l1", "l2"] = "l1",
    group: bool = False,
    axes: Collection[str] | None = None,
) -> Scores:
    """How large the weights of each neuron are.

    For the neuron j that a weight ``W`` of shape (..., in, out) makes,

        score_j = mean |W[..., j]|      (l1),      or sqrt(mean W[..., j]^2)      (l2).

    Every weight counts once: at the axis that it makes. An axis made by several weights gets the sum of their scores,
    and so do neurons that are tied, in the alignment: where the outputs of two layers are added, the scores are too.

    With ``group=True`` all weights of everything tied are one group: those that make one of the tied neurons, and those
    that read one. The score of a class c is ``sum |w|`` (l1) or ``sqrt(sum w ** 2)`` (l2) over the entries of all these
    weights that belong to c, each entry once, wherever and however often the neuron occurs. It is given at the first
    handle that holds the class, and at no other. Biases, scales and statistics are no weights between neurons, and do
    not count. Of weights that are functions of variables (``softplus(w)``) the values of the function count.

    Args:
      graph: the network.
      variables: its variables.
      norm: "l1" or "l2".
      group: whether weights that read a neuron count as well, and the norm is taken over everything tied.
      axes: the axes whose scores are wanted; None: all.

    Returns:
      Scores by axis, each of shape (size,); only axes that a weight makes.

    Raises:
      UtilityError: ``norm`` is neither.
      GraphError, VariablesError: ``graph`` is no graph, or the variables are not its own.
      PlanError: an array is spread over several processes.

    Source: magnitude pruning of filters, Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017; groups, Fang et
    al., DepGraph: Towards Any Structural Pruning, CVPR 2023.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("dense", nn.Dense(2), x))
    >>> variables = {"params": {"dense": {"kernel": np.array([[1., 2.], [3., 4.], [5., 6.]]), "bias": np.zeros(2)}}}
    >>> magnitude(graph, variables)["dense"].tolist()
    [3.0, 4.0]
    """
    if not is_one_of(norm, ("l1", "l2")):
        raise UtilityError(f"norm must be 'l1' or 'l2', found {norm!r}.")
    wanted = None if axes is None else as_items(axes)
    if axes is not None and (wanted is None or not all(isinstance(axis, str) for axis in wanted)):
        raise UtilityError(f"axes must be names of axes, ('a', 'b'), or None for all; found {shown(axes)}.")
    require_flag(group, "group", UtilityError)
    check_network(graph, variables)
    if group:
        arrays = known_arrays(variables)
        found = by_handle(graph, _of_groups(graph.ties, arrays, norm)) if arrays else {}
        return {axis: values for axis, values in found.items() if axes is None or axis in axes}
    return weight_magnitude(graph.ties, variables, norm=norm, axes=axes)


def weight_magnitude(
    ties: Ties,
    variables: Variables,
    *,
    norm: Literal["l1", "l2"] = "l1",
    axes: Collection[str] | None = None,
) -> Scores:
    """As `magnitude` without groups, of variables that were checked already.

    Args:
      ties: of the graph.
      variables: its variables.
      norm: "l1" or "l2".
      axes: the axes whose scores are wanted; None: all.
    """
    scores = dict[str, np.ndarray]()
    arrays = known_arrays(variables)
    reached = frozenset(ties.axes if axes is None else axes)
    for path in arrays:
        leaf = ties.leaves[path]
        if reached.isdisjoint(leaf.axes) or "in" not in leaf.roles or "out" not in leaf.roles or leaf.new is not None:
            continue
        lying = {d: axis for d, axis in enumerate(leaf.axes) if axis in reached}
        wanted = {d: axis for d, axis in lying.items() if leaf.roles[d] == "out" or ties.counts_layers(axis)}
        weight = to_host(weight_of(leaf, path, arrays)) if wanted else np.zeros(())
        for made, axis in wanted.items():
            others = tuple(d for d in range(weight.ndim) if d != made)
            scores[axis] = scores.get(axis, 0.0) + _mean_size(weight, others, norm)
    return scores


def _mean_size(
    weight: Shaped[np.ndarray, ...], dims: tuple[int, ...], norm: Literal["l1", "l2"]
) -> Float[np.ndarray, " neurons"]:
    """The mean size of the entries along some dimensions, in float64."""
    if norm == "l1" and weight.dtype in (np.float16, np.float32):  # the same without a copy in float64
        mean: np.ndarray = np.abs(weight).mean(dims, dtype=np.float64)
        return mean
    sizes = absolute_values(weight)
    return np.asarray(sizes.mean(dims) if norm == "l1" else np.sqrt((sizes**2).mean(dims)))


def known_arrays(variables: Variables) -> dict[Path, Array]:
    """The arrays by path; none in a dry run on shapes, where all neurons are alike."""
    return {path: array for path, array in flat(variables).items() if not isinstance(array, jax.ShapeDtypeStruct)}


def weight_of(leaf: Leaf, path: Path, arrays: Mapping[Path, Array]) -> Array:
    """The weight that a variable becomes; 0 if it is the part of one that counts at another variable."""
    if leaf.weight is None:
        return arrays[path]
    if not leaf.weight.holds:
        return np.zeros(np.shape(arrays[path]))
    value = leaf.weight.value(arrays)
    return arrays[path] if value is None else value


def _of_groups(ties: Ties, arrays: Mapping[Path, Array], norm: Literal["l1", "l2"]) -> Float[np.ndarray, " classes"]:
    """The norm of all entries of weights that belong to a class."""
    totals = np.zeros(class_count(ties))
    for path in arrays:
        leaf = ties.leaves[path]
        if leaf.new is not None:
            continue
        values = absolute_values(weight_of(leaf, path, arrays)) ** (1 if norm == "l1" else 2)
        classes = {d: class_numbers(ties, axis) for d, axis in enumerate(leaf.axes) if axis is not None}
        for d, own in classes.items():
            counted = values
            for earlier in (e for e in classes if e < d):  # an entry that has the class on two dimensions counts once
                shape = [-1 if k == earlier else 1 for k in range(values.ndim)]
                mine = own.reshape([-1 if k == d else 1 for k in range(values.ndim)])
                counted = np.where(classes[earlier].reshape(shape) == mine, 0.0, counted)
            np.add.at(totals, own, counted.sum(tuple(k for k in range(values.ndim) if k != d)))
    return totals if norm == "l1" else np.sqrt(totals)


def absolute_values(array: Shaped[Array, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """``|array|`` in float64, of any dtype; of complex numbers the modulus.

    >>> absolute_values(np.array([3 + 4j, -1])).tolist()
    [5.0, 1.0]
    """
    host = to_host(array)
    # widened first: the absolute value of the smallest integer of a dtype is none of its numbers
    return np.abs(host.astype(np.complex128 if np.iscomplexobj(host) else np.float64))
