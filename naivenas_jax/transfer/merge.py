"""Weights of some neurons moved to others, so that these stand for all: three channels as one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import jax
import numpy as np

from naivenas_jax.checks import as_whole, is_one_of, require_mapping, shown
from naivenas_jax.errors import RequestError, UnknownNameError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.queries.handles import unknown_axis
from naivenas_jax.graph.source import Source
from naivenas_jax.paths import path_text
from naivenas_jax.sizes.ties import Leaf
from naivenas_jax.transfer.take import HostArray, placed_like, to_host
from naivenas_jax.transfer.variables import check_network, flat, handed_out, nested
from naivenas_jax.typing import Shape, Variables


def merge_neurons(
    graph: Graph,
    variables: Variables,
    keep: Mapping[str, Collection[int]],
    *,
    how: Literal["sum", "mean"] = "sum",
) -> Variables:
    """Let some neurons of an input stand for all: weights that read the others are added to theirs.

    Of a weight ``W`` that reads neurons ``i``, of which the ``k`` in ``keep`` stay and the others go,

        W'[i] = W[i] + sum of W[j] over all j that go / k      for i that stay,      W'[j] = 0      for j that go.

    Where all neurons of the input are equal, as the channels of a grey image are, the network computes with ``W'`` what
    it does with ``W``. So with the others dropped, ``nas.delta_nout(graph, merged, {"image": nas.to(keep=[0])})``, it
    computes of one channel what it did of that channel repeated. An average of the parameters is merged likewise.

    Args:
      graph: the network.
      variables: its variables; untouched.
      keep: for each axis the positions of the neurons that are to stand for all, ``{"image": [0]}``. Weights read the
        axis, and nothing is computed of a neuron before.
      how: "sum", as above; "mean": all is multiplied by k / n besides, where n is the number of neurons, so that
        weights are as large as before and stand for an input that is n / k times as large.

    Returns:
      Variables of the same shapes.

    Raises:
      GraphError, VariablesError: if ``graph`` is no graph, or the variables are not its own.
      UnknownNameError: if there is no such axis.
      RequestError: if positions are not those of neurons, ``how`` is something else, or something else is done with the
        neurons than to read them (a sum over them, a normalisation).

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> image = nas.input_vertex("image", 3)
    >>> graph = nas.Graph(image, nas.layer("conv", nn.Conv(4, (3, 3)), image))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 8, 8, 3)))
    >>> merged = nas.merge_neurons(graph, variables, {"image": [0]})
    >>> grey = nas.delta_nout(graph, merged, {"image": nas.to(keep=[0])})
    >>> one = jax.random.normal(jax.random.key(1), (1, 8, 8, 1))
    >>> three = jax.numpy.repeat(one, 3, axis=-1)
    >>> bool(np.allclose(grey.graph.apply(grey.variables, one), graph.apply(variables, three), atol=1e-5))
    True
    """
    check_network(graph, variables)
    require_mapping(keep, "keep", RequestError)
    if not is_one_of(how, ("sum", "mean")):
        raise RequestError(f"how must be 'sum' or 'mean', found {shown(how)}.")
    merged = flat(variables)
    for axis, positions in keep.items():
        stay = _stays(graph, axis, positions)
        if axis in graph.ties.coupled:
            raise RequestError(
                f"Neurons of {axis!r} cannot be merged: they are coupled ({graph.ties.coupled[axis]}), so that fewer "
                "of them are not the same as some that are equal. Leave that out of the model, or keep the neurons."
            )
        for path, leaf in graph.ties.leaves.items():
            for dim in _reading(graph, axis, leaf, path_text(path)):
                if not isinstance(merged[path], Shape):
                    values = _merged(to_host(merged[path]), dim, stay, how)
                    merged[path] = placed_like(values, merged[path])
    made: Variables = handed_out(nested(merged), variables)
    if how == "sum":
        _check_alike(graph, variables, made, list(keep))
    return made


def _check_alike(graph: Graph, variables: Variables, merged: Variables, axes: list[str]) -> None:
    """Raise if the network does not compute the same of equal neurons, where the shapes of inputs are known.

    Constants of the model may belong to single neurons, such as the mean of each channel.
    """
    shapes = [vertex.op.shape if isinstance(vertex.op, Source) else None for vertex in graph.inputs]
    if None in shapes or any(isinstance(leaf, Shape) for leaf in jax.tree.leaves(variables)):
        return
    draws, inputs = np.random.default_rng(0), list[np.ndarray]()
    for vertex, shape in zip(graph.inputs, shapes, strict=True):
        assert isinstance(vertex.op, Source)  # else it has no shape
        assert shape is not None  # seen above
        whole = np.zeros((1, *shape), vertex.op.dtype)
        inputs.append(whole + draws.normal(size=(*whole.shape[:-1], 1)).astype(vertex.op.dtype))
    before, after = (jax.tree.leaves(graph.apply(each, *inputs)) for each in (variables, merged))
    for one, other in zip(before, after, strict=True):
        if not np.allclose(one, other, rtol=1e-3, atol=1e-3 * float(np.max(np.abs(one), initial=1e-6))):
            raise RequestError(
                f"Neurons of {', '.join(map(repr, axes))} cannot be merged: of equal neurons the network would compute "
                "something else, so that something is computed of single ones before weights read them (a constant for "
                "each channel, say). Leave that out of the model, or give it one value for all."
            )


def _stays(graph: Graph, axis: str, positions: object) -> np.ndarray:
    """Shape (neurons,), bool: which neurons stand for all."""
    sizes = graph.ties.sizes
    if axis not in sizes:
        raise UnknownNameError(unknown_axis(axis, graph.handles(), graph.ties, graph.vertices))
    given = list(positions) if isinstance(positions, Iterable) and not isinstance(positions, str | Mapping) else [None]
    found = [number for one in given if (number := as_whole(one)) is not None and 0 <= number < sizes[axis]]
    if not found or len(set(found)) < len(given):
        raise RequestError(
            f"keep[{axis!r}] takes positions of neurons from 0 to {sizes[axis] - 1}, each once and at least one; found "
            f"{shown(positions)}."
        )
    return np.isin(np.arange(sizes[axis]), found)


def _reading(graph: Graph, axis: str, leaf: Leaf, name: str) -> list[int]:
    """The dimensions on which a variable reads the neurons of an axis.

    Raises:
      RequestError: if it makes them, or has an entry for each, or looks them up.
    """
    ties = graph.ties
    runs = ties.plain(ties.axes[axis])
    own = [d for d, other in enumerate(leaf.axes) if other is not None and runs & ties.plain(ties.axes[other])]
    for dim in own:
        if leaf.roles[dim] != "in" or dim in leaf.looked_up or ties.axes[leaf.axes[dim] or ""] != ties.axes[axis]:
            raise RequestError(
                f"Neurons of {axis!r} cannot be merged: {name} does something else with them than to read them, so "
                "that they are not equal where weights read them. Merge inputs, before anything is computed of them."
            )
    return own


def _merged(values: HostArray, dim: int, stay: np.ndarray, how: str) -> HostArray:
    """A weight in which the neurons that stay stand for all."""
    wide = np.moveaxis(values.astype(np.promote_types(values.dtype, np.float64)), dim, 0)
    share = wide[~stay].sum(0) / stay.sum()
    found = np.where(stay.reshape(-1, *[1] * (wide.ndim - 1)), wide + share, 0)
    if how == "mean":
        found = found * (stay.sum() / len(stay))
    return np.moveaxis(found, 0, dim).astype(values.dtype)
