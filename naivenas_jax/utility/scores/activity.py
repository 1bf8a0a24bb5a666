"""Scores of neurons by their activations on data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Complex, Float, Int, Shaped

from naivenas_jax.checks import as_number, is_one_of, require_progress, shown
from naivenas_jax.dataflow.reads import Read, reads_of
from naivenas_jax.dataflow.tape import record
from naivenas_jax.errors import UtilityError
from naivenas_jax.graph.evaluation.batches import Batch
from naivenas_jax.graph.given_inputs import inputs_of
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.model_vertex import outputs_of
from naivenas_jax.progress import tracked
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.transfer.variables import check_network, plain
from naivenas_jax.typing import Array, PyTree, Variables
from naivenas_jax.utility.tied import (
    by_handle,
    class_count,
    class_numbers,
    grouped_runs,
    homes,
    require_finite,
    run_numbers,
)
from naivenas_jax.utility.user_scores import Scores


def activity(
    graph: Graph,
    variables: Variables,
    batches: Iterable[PyTree],
    *,
    statistic: Literal["mean", "variance", "active"] = "mean",
    missing: float | None = None,
    progress: bool | None = None,
    **kwargs: object,
) -> Scores:
    """A statistic of the activations of each neuron, where weights read it, over batches of inputs.

    The values of a class are all that its neurons take where a weight reads them: over examples and positions, and over
    all the places where something tied to them is read, each activation once however many weights read it. A neuron
    that no weight reads has the values that it takes in an output of the graph. One statistic is taken of all these
    values together, so that what is tied counts once; it is given at the first handle that holds the class.

    Args:
      graph: the network.
      variables: its variables.
      batches: an iterable of inputs: arrays, or tuples of arrays where the graph has several inputs.
      statistic: "mean": mean of ``|value|``. "variance". "active": the fraction of values that are not zero, which is
        1 - APoZ, the average percentage of zeros; it tells something after activation functions such as ReLU.
      missing: the score of neurons whose values are out of sight: neurons that are read inside loops only (recurrent
        and scanned layers), or looked up by index only. None: neurons that are out of sight are an error.
      progress: whether to show how far it is: None: in a terminal and a notebook, after a second; True: elsewhere
        too, in lines on standard error; False: never.
      **kwargs: passed to ``graph.apply``.

    Returns:
      Scores by handle, each of shape (size,).

    Raises:
      UtilityError: no batches, or handles whose activations are out of sight.
      GraphError, VariablesError: ``graph`` is no graph, or the variables are not its own.

    Source: APoZ, Hu, Peng, Tai and Tang, Network Trimming, 2016; means and variances as a baseline, Molchanov et al.,
    ICLR 2017.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> hidden = nas.invariant_vertex("relu", nn.relu, nas.layer("hidden", nn.Dense(4), x))
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), hidden))
    >>> batch = jax.random.normal(jax.random.key(1), (8, 3))
    >>> variables = graph.init(jax.random.key(0), batch)
    >>> nas.activity(graph, variables, [batch], statistic="active")["hidden"].shape
    (4,)
    """
    if not is_one_of(statistic, _STATISTICS):
        raise UtilityError(f"statistic must be one of {tuple(_STATISTICS)}, found {statistic!r}.")
    score = None if missing is None else as_number(missing)
    if missing is not None and (score is None or not math.isfinite(score)):
        raise UtilityError(f"missing must be a finite number, or None; found {shown(missing)}.")
    require_progress(progress, UtilityError)
    check_network(graph, variables)
    variables = plain(variables)
    step = jax.jit(lambda values, inputs: _observe(graph, values, inputs, kwargs))
    found: tuple[ValueSums, ValueSums] | None = None
    with tracked(inputs_of(graph, batches, UtilityError), "activity, batches", progress) as every:
        for number, inputs in enumerate(every):
            new = jax.tree.map(_wide, step(variables, inputs))
            for sums in new:
                require_finite(graph, sums.absolute + sums.within + sums.squares, f"activity: with batch {number}")
            found = new if found is None else jax.tree.map(np.add, found, new)
    if found is None:
        raise UtilityError("activity needs at least one batch; batches= was empty (an iterator that was used up?).")
    where_read, in_outputs = found
    sums = ValueSums(*(np.where(where_read.number > 0, a, b) for a, b in zip(where_read, in_outputs, strict=True)))
    seen = _in_sight(graph.ties, np.asarray(sums.number))
    if missing is None:
        _check_seen(graph, seen)
    scores = _STATISTICS[statistic](ValueSums(np.maximum(sums.number, 1), *sums[1:]))
    return by_handle(graph, np.where(sums.number > 0, scores, np.where(seen, 0.0, score or 0.0)))


class ValueSums(NamedTuple):
    """Sums over the values of each class.

    Attributes:
      number: the number of values.
      absolute: the sum of ``|value|``.
      plain: the sum of the values, as complex numbers.
      active: the number of values that are not zero.
      within: the sum of squared distances from the mean of the array that a value is from.
      squares: the sum of the squared means of these arrays, once per value.
    """

    number: Float[Array, " classes"]
    absolute: Float[Array, " classes"]
    plain: Complex[Array, " classes"]
    active: Float[Array, " classes"]
    within: Float[Array, " classes"]
    squares: Float[Array, " classes"]

    @classmethod
    def none(cls, classes: int) -> ValueSums:
        """No values."""
        nothing = jnp.zeros(classes)
        return cls(nothing, nothing, jnp.zeros(classes, jnp.complex64), nothing, nothing, nothing)

    def with_values(self, array: Shaped[Array, "... neurons"], classes: Int[np.ndarray, " neurons"]) -> ValueSums:
        """The sums with the values of an array whose last dimension has neurons of these classes."""
        values = jnp.asarray(array, jnp.complex64 if jnp.iscomplexobj(array) else jnp.float32)
        values = values.reshape(-1, array.shape[-1])
        rows, mean = float(len(values)), values.mean(0)
        new = ValueSums(
            jnp.full(values.shape[-1], rows),
            jnp.abs(values).sum(0),
            values.sum(0),
            (values != 0).sum(0).astype(jnp.float32),
            (jnp.abs(values - mean) ** 2).sum(0),
            rows * jnp.abs(mean) ** 2,
        )
        return ValueSums(*(jnp.asarray(total).at[classes].add(own) for total, own in zip(self, new, strict=True)))


_STATISTICS: Mapping[str, Callable[[ValueSums], np.ndarray]] = {
    "mean": lambda sums: np.asarray(sums.absolute / sums.number),
    "variance": lambda sums: np.maximum(
        (sums.within + sums.squares) / sums.number - np.abs(sums.plain / sums.number) ** 2, 0.0
    ),
    "active": lambda sums: np.asarray(sums.active / sums.number),
}


def _observe(graph: Graph, variables: Variables, inputs: Batch, kwargs: PyTree) -> tuple[ValueSums, ValueSums]:
    """Sums over what weights read, and over the outputs."""
    ties = graph.ties
    tape = record(lambda values, *given: outputs_of(graph, values, given, **kwargs), variables, inputs)
    values = tape.evaluated(variables, inputs)
    where_read = in_outputs = ValueSums.none(class_count(ties))
    found = {(read.value, read.dim, runs): None for read in reads_of(tape, variables) if (runs := _runs(ties, read))}
    for value, dim, runs in found:
        if values[value].shape[dim] == ties.length(runs):
            where_read = where_read.with_values(jnp.moveaxis(values[value], dim, -1), run_numbers(ties, runs))
    results = [values[number] for number in tape.results]
    for vertex, array in zip(graph.outputs, results, strict=True):
        if array.ndim and array.shape[-1] == ties.size(vertex.name):
            in_outputs = in_outputs.with_values(array, class_numbers(ties, vertex.name))
    return where_read, in_outputs


def _runs(ties: Ties, read: Read) -> tuple[int, ...] | None:
    """The runs that lie on a dimension which a weight reads; None where that is not known."""
    axes = ties.leaves[read.path].axes
    own = axes[read.over]
    if read.groups == 1:
        return None if own is None else ties.axes[own]
    made = None if read.makes is None else axes[read.makes]
    if made is None:
        return None
    return grouped_runs(ties, () if own is None else ties.axes[own], ties.axes[made], read.groups)


def _wide(array: Array) -> np.ndarray:
    """An array on the host, with twice the precision."""
    return np.asarray(array).astype(np.complex128 if jnp.iscomplexobj(array) else np.float64)


def _in_sight(ties: Ties, number: Float[np.ndarray, " classes"]) -> Bool[np.ndarray, " classes"]:
    """Which classes have values, or are a factor of combinations that have: those bear the score of their factors."""
    seen = number > 0
    for run, factors in ties.products.items():
        if seen[ties.starts[run] : ties.starts[run + 1]].all():
            for factor in (one for runs in factors for one in runs):
                seen[ties.starts[factor] : ties.starts[factor + 1]] = True
    return seen


def _check_seen(graph: Graph, seen: Bool[np.ndarray, " classes"]) -> None:
    """Raise if classes are out of sight.

    Raises:
      UtilityError: names the first handle that holds such a class.
    """
    for axis, own in homes(graph).items():
        if not seen[own[own >= 0]].all():
            raise UtilityError(
                f"The activations of {axis!r} are out of sight: no weight reads them in a matrix product or "
                "convolution outside of loops, and they are in no output. Say what such neurons shall count with "
                "missing=, or use nas.taylor, which needs gradients only."
            )
