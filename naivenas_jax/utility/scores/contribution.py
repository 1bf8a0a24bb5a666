"""Scores of neurons by how much of what weights read comes from them: the default within budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from naivenas_jax.graph.graph import Graph
from naivenas_jax.paths import Path
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.transfer.take import to_host
from naivenas_jax.transfer.variables import check_network
from naivenas_jax.typing import Array, Variables
from naivenas_jax.utility.scores.batchnorm_scale import batch_normalised
from naivenas_jax.utility.scores.gates import Gate, gates
from naivenas_jax.utility.scores.magnitude import absolute_values, known_arrays, weight_of
from naivenas_jax.utility.tied import by_handle, class_count, class_numbers, homes
from naivenas_jax.utility.user_scores import Scores


def contribution(graph: Graph, variables: Variables) -> Scores:
    """How much of what the weights read comes from each neuron: the default utility within budgets. Needs no data.

    Neuron c has an amplitude ``a_c``: the norm of the scales of the batch normalisations that it goes through, where
    there are some, since then the size of the weights before says nothing; else the norm of all weights that make it.
    For a weight ``W`` that reads it, ``a_c |W[c]|`` is the size of its contribution to what W makes. With the
    contributions ``s_1 >= s_2 >= ...`` to the same weight in descending order,

        score_i = sum over the weights that read neuron i of  1/m * s_i / (s_1 + ... + s_(i-1)),

    and 1/m for the largest, which is kept anyway. This is what would be lost without the neuron, relative to what would
    be left: nothing for the least of many, and as much as there is for one of two alike, such as two heads. The
    largest sum of scores is close to the largest product, over all weights, of the part of the contributions that is
    kept, whose logarithm it bounds from above. It does not depend on the width or scale of a layer, and
    compares neurons of all layers that are read together, after a concatenation for example. ``m`` is the number of
    weights whose results are added up where W's goes: what is lost in one branch of a sum matters less.
    Neurons that no weight reads count by their amplitudes, handle by handle.

    Args:
      graph: the network.
      variables: its variables; shapes alone (a dry run) make all neurons alike.

    Returns:
      Scores by handle, each of shape (size,); tied neurons have theirs at the first handle that holds them. A score
      that is not finite comes of a weight that is not.

    Raises:
      GraphError, VariablesError: ``graph`` is no graph, or the variables are not its own.
      PlanError: an array is spread over several processes.

    Source: the order of the sums is that of the layer-adaptive magnitude of weights (LAMP), Lee et al., Layer-adaptive
    Sparsity for the Magnitude-based Pruning, ICLR 2021, here for neurons and for each weight that reads them; scales of
    normalisations, Liu et al., Network Slimming, ICCV 2017.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 1)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(1), nas.layer("hidden", nn.Dense(3), x)))
    >>> kernels = {"hidden": [[4.0, 1.0, 2.0]], "out": [[1.0], [1.0], [2.0]]}
    >>> params = {name: {"kernel": np.array(own), "bias": np.zeros(len(own[0]))} for name, own in kernels.items()}
    >>> nas.contribution(graph, {"params": params})["hidden"].round(2).tolist()
    [1.0, 0.12, 1.0]
    """
    check_network(graph, variables)
    arrays = known_arrays(variables)
    if not arrays:
        alike = np.zeros(class_count(graph.ties))
        for own in homes(graph).values():
            alike[own[own >= 0]] = _shares(np.ones(int((own >= 0).sum())))
        return by_handle(graph, alike)
    weights = [weight for weight in _weights(graph, arrays) if not weight.diagonal]
    amplitudes = _amplitudes(graph.ties, arrays, weights)
    writers, unread = np.zeros(len(amplitudes)), np.ones(len(amplitudes), bool)
    for weight in weights:
        writers[np.unique(weight.made)] += 1
        for read, _ in weight.reads:
            unread[read] = False
    totals = np.zeros(len(amplitudes))
    with np.errstate(all="ignore"):  # whoever uses scores that are not finite reports them, with their handle
        for weight in weights:
            summed = weight.made[~unread[weight.made]]
            part = float(np.mean(1 / writers[summed])) if len(summed) else 1.0
            for read, norms in weight.reads:
                totals[read] += part * _shares(amplitudes[read] * norms)
        for own in homes(graph).values():
            alone = own[own >= 0]
            alone = alone[unread[alone]]
            totals[alone] += _shares(amplitudes[alone])
    return by_handle(graph, totals)


class _Weight(NamedTuple):
    """The weight that a variable becomes.

    Attributes:
      made: the classes that it makes.
      norms: the norm of the entries that make each of them.
      reads: for each dimension that reads neurons, the classes, each once, and the norm of the entries that read them.
      diagonal: whether each neuron that it makes is one that it reads, as in a depthwise convolution.
    """

    made: Int[np.ndarray, " made"]
    norms: Float[np.ndarray, " made"]
    reads: tuple[tuple[Int[np.ndarray, " read"], Float[np.ndarray, " read"]], ...]
    diagonal: bool


def _weights(graph: Graph, arrays: Mapping[Path, Array]) -> list[_Weight]:
    """Every weight, with the dimensions on which it reads neurons of which some may be dropped."""
    ties = graph.ties
    droppable = np.zeros(class_count(ties), bool)
    for own in homes(graph).values():
        droppable[own[own >= 0]] = True
    readers: dict[Path, list[Gate]] = {}
    for gate in gates(graph):
        leaf = ties.leaves[gate.path]
        reads = any(leaf.roles[d] == "in" and d not in leaf.looked_up for d in gate.dims)
        if reads and droppable[gate.classes].any():
            readers.setdefault(gate.path, []).append(gate)
    return [
        _weight(ties, path, arrays, readers.get(path, ()), droppable)
        for path in arrays
        if ties.leaves[path].new is None
    ]


def _weight(
    ties: Ties,
    path: Path,
    arrays: Mapping[Path, Array],
    readers: Sequence[Gate],
    droppable: Bool[np.ndarray, " classes"],
) -> _Weight:
    leaf = ties.leaves[path]
    makes = {d: class_numbers(ties, axis) for d, axis in enumerate(leaf.axes) if leaf.roles[d] == "out" and axis}
    makes = {d: classes for d, classes in makes.items() if droppable[classes].any()}
    made, norms = [np.zeros(0, np.int64)], [np.zeros(0)]
    if not makes and not readers:
        return _Weight(made[0], norms[0], (), False)
    squares, largest = _squares(weight_of(leaf, path, arrays))

    def summed(dims: tuple[int, ...]) -> Float[np.ndarray, ...]:
        return np.asarray(squares.sum(tuple(d for d in range(squares.ndim) if d not in dims), dtype=np.float64))

    for d, classes in makes.items():
        made.append(classes)
        norms.append(largest * np.sqrt(summed((d,))))
    reads = []
    for gate in readers:
        classes, places = np.unique(gate.classes, return_inverse=True)
        sums = np.bincount(places.ravel(), summed(gate.dims).ravel(), len(classes))
        reads.append((classes, largest * np.sqrt(np.where(np.isfinite(sums), sums, 0.0))))  # see `_amplitudes`
    diagonal = any(
        len(gate.dims) > 1 and any(np.array_equal(gate.classes.ravel(), classes) for classes in makes.values())
        for gate in readers
    )
    return _Weight(np.concatenate(made), np.concatenate(norms), tuple(reads), diagonal)


def _squares(weight: Array) -> tuple[Float[np.ndarray, ...], float]:
    """The squares of all entries divided by the largest one, which a float can hold, and the largest one."""
    host = to_host(weight)
    # in float64 ten million entries take their time
    sizes = np.abs(host) if host.dtype == np.float32 else absolute_values(host)
    largest = float(sizes.max(initial=0.0))
    if not 0 < largest < np.inf:
        largest = 1.0
    return np.square(sizes / sizes.dtype.type(largest)), largest


def _amplitudes(ties: Ties, arrays: Mapping[Path, Array], weights: Sequence[_Weight]) -> Float[np.ndarray, " classes"]:
    """For each class the norm of the scales of its batch normalisations, else of the weights that make it, else 1."""
    made = np.zeros(class_count(ties))
    with np.errstate(all="ignore"):
        for weight in weights:
            np.hypot.at(made, weight.made, weight.norms)
    scaled, normalised = np.zeros(len(made)), np.zeros(len(made), bool)
    for axis, path in batch_normalised(ties):
        own = class_numbers(ties, axis)
        np.hypot.at(scaled, own, absolute_values(arrays[path]) if path in arrays else np.ones(len(own)))
        normalised[own] = True
    known = np.zeros(len(made), bool)
    for weight in weights:
        known[weight.made] = True
    # weights that are not finite show at what they make, normalised or not
    return np.where(normalised & np.isfinite(made), scaled, np.where(known, made, 1.0))


def _shares(sizes: Float[np.ndarray, " read"]) -> Float[np.ndarray, " read"]:
    """Each size divided by the sum of all larger ones, 1 for the largest; if all are 0 they count as alike."""
    if not sizes.any():
        sizes = np.ones(len(sizes))
    order = np.argsort(-sizes, kind="stable")
    shares = np.empty(len(sizes))
    left = np.cumsum(sizes[order])
    shares[order[:1]], shares[order[1:]] = 1.0, sizes[order[1:]] / left[:-1]
    return shares
