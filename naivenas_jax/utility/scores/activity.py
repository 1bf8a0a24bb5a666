"""Utility of neurons by what they do on data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.errors import UtilityError
from naivenas_jax.graph.evaluation.batches import inputs_of
from naivenas_jax.graph.graph import Graph
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.transfer.variables import check_network
from naivenas_jax.utility.reading import read
from naivenas_jax.utility.tied import by_handle, count, homes, numbers


def activity(
    graph: Graph,
    variables: Mapping[str, Any],
    batches: Iterable[Any],
    *,
    statistic: Literal["mean", "variance", "active"] = "mean",
    missing: float | None = None,
    **kwargs: Any,
) -> dict[str, np.ndarray]:
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
      missing: the score of neurons whose values are out of sight: those read inside loops (recurrent and scanned
        layers), or looked up by index only. Without it such neurons are an error.
      **kwargs: passed to ``graph.apply``.

    Returns:
      Scores by handle, each of shape (size,).

    Raises:
      UtilityError: no batches, or handles whose activations are out of sight.

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
    if statistic not in _STATISTICS:
        raise UtilityError(f"statistic must be one of {tuple(_STATISTICS)}, found {statistic!r}.")
    check_network(graph, variables)
    step = jax.jit(lambda values, inputs: _observe(graph, values, inputs, kwargs))
    found: tuple[Sums, Sums] | None = None
    for inputs in inputs_of(batches, UtilityError):
        new = jax.tree.map(lambda array: np.asarray(array).astype(_wide(array.dtype)), step(variables, inputs))
        found = new if found is None else jax.tree.map(np.add, found, new)
    if found is None:
        raise UtilityError("activity needs at least one batch; batches= was empty (an iterator that was used up?).")
    where_read, in_outputs = found
    sums = Sums(*(np.where(where_read.number > 0, a, b) for a, b in zip(where_read, in_outputs, strict=True)))
    _check_seen(graph, sums, missing)
    scores = _STATISTICS[statistic](Sums(np.maximum(sums.number, 1), *sums[1:]))
    return by_handle(graph, np.where(sums.number > 0, scores, 0.0 if missing is None else missing))


class Sums(NamedTuple):
    """Sums over the values of each class; each of shape (classes,).

    Attributes:
      number: of values.
      absolute: of ``|value|``.
      plain: of the values; complex, as they may be.
      active: of those that are not zero.
      within: of squared distances from the mean of the place that a value is from.
      squares: of the squared means of these places, once per value.
    """

    number: Any
    absolute: Any
    plain: Any
    active: Any
    within: Any
    squares: Any


_STATISTICS = {
    "mean": lambda sums: sums.absolute / sums.number,
    "variance": lambda sums: np.maximum(
        (sums.within + sums.squares) / sums.number - np.abs(sums.plain / sums.number) ** 2, 0.0
    ),
    "active": lambda sums: sums.active / sums.number,
}


def _observe(
    graph: Graph, variables: Mapping[str, Any], inputs: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Sums, Sums]:
    """Sums over what weights read, and over the outputs."""
    ties = graph.ties
    seen: dict[tuple[int, int, str], Any] = {}

    def show(path: tuple[str, ...], dim: int, array: Any, where: int) -> None:
        axis = ties.leaves[path].axes[dim]
        if axis is not None and array.shape[where] == ties.size(axis):
            seen[id(array), where, axis] = array

    outputs = read(lambda values, *given: graph.apply(values, *given, **kwargs), variables, inputs, show)
    where_read = _nothing(ties)
    for (_, where, axis), array in seen.items():
        where_read = _add(where_read, ties, axis, jnp.moveaxis(array, where, -1))
    in_outputs = _nothing(ties)
    results = outputs if isinstance(outputs, tuple) else (outputs,)
    for vertex, array in zip(graph.outputs, results, strict=True):
        if array.ndim and array.shape[-1] == ties.size(vertex.name):
            in_outputs = _add(in_outputs, ties, vertex.name, array)
    return where_read, in_outputs


def _nothing(ties: Ties) -> Sums:
    return Sums(*(jnp.zeros(count(ties)) for _ in Sums._fields))._replace(plain=jnp.zeros(count(ties), jnp.complex64))


def _add(sums: Sums, ties: Ties, axis: str, array: Any) -> Sums:
    """With the values of an array whose last dimension is the axis."""
    values = jnp.asarray(array, jnp.complex64 if jnp.iscomplexobj(array) else jnp.float32)
    values = values.reshape(-1, array.shape[-1])
    rows, mean = float(len(values)), values.mean(0)
    new = Sums(
        jnp.full(values.shape[-1], rows),
        jnp.abs(values).sum(0),
        values.sum(0),
        (values != 0).sum(0).astype(jnp.float32),
        (jnp.abs(values - mean) ** 2).sum(0),
        rows * jnp.abs(mean) ** 2,
    )
    classes = numbers(ties, axis)
    return Sums(*(total.at[classes].add(own) for total, own in zip(sums, new, strict=True)))


def _wide(dtype: Any) -> Any:
    return np.complex128 if np.issubdtype(dtype, np.complexfloating) else np.float64


def _check_seen(graph: Graph, sums: Sums, missing: float | None) -> None:
    if missing is not None:
        return
    for axis, own in homes(graph).items():
        if (sums.number[own[own >= 0]] == 0).any():
            raise UtilityError(
                f"The activations of {axis!r} are out of sight: no weight reads them in a matrix product or "
                "convolution outside of loops, and they are in no output. Say what such neurons shall count with "
                "missing=, or use nas.taylor, which needs gradients only."
            )
