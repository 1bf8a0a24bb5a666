"""New neurons that can learn where weights of zero have no derivative.

Where the weight that reads a new neuron is a function without a derivative at its zero (``softplus(w)`` far down,
``w ** 2`` at 0), a neuron that is read by weights of zero hardly learns. It is better read by weights of the usual
size, and reads zero itself: if it then is zero, which is tried, the network computes what it did, and the neuron learns
by what it reads.

Where the array that makes a neuron is the one that reads it (the tied weights of an autoencoder), all weights of a new
neuron are zero. If none of them has a derivative, as behind a tanh, they are a millionth of the usual size instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.align.plan import Plan
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.source import Source, holds_words
from naivenas_jax.paths import Path
from naivenas_jax.transfer.new_neurons.entries import generator, key_for
from naivenas_jax.transfer.take import placed_like, to_host
from naivenas_jax.transfer.variables import flat, nested
from naivenas_jax.typing import Array, PyTree

#: Dimensions before the neurons of an input whose shape is not known.
_LEADING = ((4,), (4, 8, 8), (4, 8))
Arrays = dict[Path, Array]
#: How large weights are, of the usual size, that have to be almost zero.
_SMALL = 1e-6


def learnable(graph: Graph, plan: Plan, variables: dict[str, PyTree]) -> dict[str, PyTree]:
    """The variables, in which new neurons that are read without a derivative read zero, if that keeps the function.

    Args:
      graph: the network with new neurons.
      plan: where its neurons come from.
      variables: its variables, in which weights that read new neurons are about zero.
    """
    if not any(axis.new.size for axis in plan.changed.values()):
        return variables
    if any(isinstance(leaf, jax.ShapeDtypeStruct | jax.core.Tracer) for leaf in flat(variables).values()):
        return variables
    return _tied_weights_move(graph, plan, _read_with_derivative(graph, plan, variables))


def _read_with_derivative(graph: Graph, plan: Plan, variables: dict[str, PyTree]) -> dict[str, PyTree]:
    """New neurons that are read by functions without a derivative at zero read zero, if that keeps the function."""
    readers = [one for one in _new(graph, plan, "in") if _is_flat(graph, one[0])]
    if not readers:
        return variables
    arrays = flat(variables)
    runs = {run for _, _, axis in readers for run in graph.ties.plain(graph.ties.axes.get(axis, ()))}
    made = _new(graph, plan, "out")
    makers = [one for one in made if runs & graph.ties.plain(graph.ties.axes.get(one[2], ()))]
    if not makers:
        return variables
    tried = _reading_zero(graph, plan, arrays, readers, makers)
    for inputs in _inputs(graph):
        try:
            fits = _same(graph, arrays, tried, inputs) and _learns(graph, plan, tried, makers, inputs)
        except Exception:  # whatever a model raises for made-up inputs
            continue
        return nested(tried) if fits else variables
    return variables


def _tied_weights_move(graph: Graph, plan: Plan, variables: dict[str, PyTree]) -> dict[str, PyTree]:
    """Arrays that make the new neurons that they read have small weights, if weights of zero would stay zero."""
    tied = _made_by_readers(graph, plan)
    if not tied:
        return variables
    arrays = flat(variables)
    tried = _small(plan, arrays, tied)
    for inputs in _inputs(graph):
        try:
            fits = not _learns(graph, plan, arrays, tied, inputs) and _same(graph, arrays, tried, inputs)
        except Exception:  # whatever a model raises for made-up inputs
            continue
        return nested(tried) if fits else variables
    return variables


def _made_by_readers(graph: Graph, plan: Plan) -> list[tuple[Path, int, str]]:
    """The dimensions of weights that read new neurons which neither an input has nor another weight makes."""

    def runs(axis: str) -> frozenset[int]:
        return frozenset(graph.ties.plain(graph.ties.axes.get(axis, ())))

    weights = [one for one in _new(graph, plan, "out") if graph.ties.leaves[one[0]].new is None]
    known = [*(axis for _, _, axis in weights), *(vertex.name for vertex in graph.inputs)]
    made = frozenset[int]().union(*map(runs, known))
    return [
        (path, dim, axis)
        for path, dim, axis in _new(graph, plan, "in")
        if (own := runs(axis)) and not own & made and _is_plain_weight(graph, path, dim)
    ]


def _is_plain_weight(graph: Graph, path: Path, dim: int) -> bool:
    """Whether an array is summed over on a dimension as it is, and no function of it."""
    leaf = graph.ties.leaves[path]
    return leaf.weight is None and dim not in leaf.looked_up and len(leaf.axes) > 1


def _small(plan: Plan, arrays: Arrays, tied: Sequence[tuple[Path, int, str]]) -> Arrays:
    """The variables, in which new neurons have weights of a millionth of the usual size."""
    tried = {path: np.array(to_host(arrays[path])) for path, _, _ in tied}
    for path, dim, axis in tied:
        if jnp.issubdtype(tried[path].dtype, jnp.floating):
            index = (slice(None),) * dim + (plan.axes[axis].new,)
            usual = float(np.std(np.asarray(tried[path], np.float64))) or 1.0
            drawn = generator(key_for(None, path)).normal(size=tried[path][index].shape)
            tried[path][index] = (drawn * usual * _SMALL).astype(tried[path].dtype)
    return {**arrays, **{path: placed_like(array, arrays[path]) for path, array in tried.items()}}


def _new(graph: Graph, plan: Plan, role: str) -> list[tuple[Path, int, str]]:
    """The dimensions of weights that were there on which new neurons are read ("in") or made ("out")."""
    return [
        (path, dim, axis)
        for path, leaf in graph.ties.leaves.items()
        if leaf.new is None and path in plan.leaves and path not in plan.created
        for dim, axis in enumerate(plan.leaves[path])
        if axis is not None and leaf.roles[dim] == role and plan.axes[axis].new.size
    ]


def _is_flat(graph: Graph, path: Path) -> bool:
    """Whether a weight has no derivative where it is zero."""
    weight = graph.ties.leaves[path].weight
    return weight is not None and weight.near is not None


def _reading_zero(
    graph: Graph,
    plan: Plan,
    arrays: Arrays,
    readers: Sequence[tuple[Path, int, str]],
    makers: Sequence[tuple[Path, int, str]],
) -> Arrays:
    """The variables, in which new neurons read zero, and are read by weights like those that there are."""
    tried = {path: np.array(to_host(arrays[path])) for path, _, _ in (*readers, *makers)}
    for path, dim, axis in readers:
        old = np.take(tried[path], np.flatnonzero(plan.axes[axis].source >= 0), dim)
        if not old.size:  # all neurons of the axis are new: no weight is left to be like
            continue
        index = (slice(None),) * dim + (plan.axes[axis].new,)
        tried[path][index] = generator(key_for(None, path)).choice(old.ravel(), tried[path][index].shape)
    for path, dim, axis in makers:
        weight = graph.ties.leaves[path].weight
        index = (slice(None),) * dim + (plan.axes[axis].new,)
        if weight is None or weight.linear:
            tried[path][index] = 0
        elif weight.switches and weight.near is not None:
            tried[path][index] = weight.near
        elif weight.switches:
            off = np.broadcast_to(np.asarray(weight.switched_off({**arrays, **tried})), tried[path].shape)
            tried[path][index] = off[index]
    return {**arrays, **{path: placed_like(array, arrays[path]) for path, array in tried.items()}}


def _inputs(graph: Graph) -> Iterator[list[Array]]:
    """Made-up inputs of the network, for each of some shapes where the shape is not known."""
    draws = np.random.default_rng(0)
    for leading in _LEADING:
        found: list[Array] = []
        for vertex in graph.inputs:
            known = vertex.op.shape if isinstance(vertex.op, Source) else None
            shape = (*leading, vertex.nout) if known is None else (leading[0], *known)
            if holds_words(graph.ties, vertex.name, vertex.op):
                found.append(jnp.zeros(shape, jnp.int32))
            elif isinstance(vertex.op, Source) and vertex.op.whole:
                found.append(jnp.asarray(draws.integers(0, 100, size=shape), vertex.op.dtype))
            else:
                found.append(jnp.asarray(draws.normal(size=shape), jnp.float32))
        yield found


def _outputs(graph: Graph, arrays: Arrays, inputs: Sequence[Array]) -> list[jax.Array]:
    return [
        leaf
        for leaf in jax.tree.leaves(graph.apply(nested(arrays), *inputs))
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]


def _same(graph: Graph, arrays: Arrays, tried: Arrays, inputs: Sequence[Array]) -> bool:
    """Whether two sets of variables compute the same."""
    pairs = zip(_outputs(graph, arrays, inputs), _outputs(graph, tried, inputs), strict=True)
    return all(bool(jnp.abs(a - b).max() <= 1e-5 * jnp.maximum(1.0, jnp.abs(a).max())) for a, b in pairs)


def _learns(
    graph: Graph, plan: Plan, tried: Arrays, makers: Sequence[tuple[Path, int, str]], inputs: Sequence[Array]
) -> bool:
    """Whether what makes the new neurons has a gradient, for every one of them."""

    def total(own: Arrays) -> jax.Array:
        outputs = _outputs(graph, {**tried, **own}, inputs)
        return sum((jnp.sum(jnp.real(array) ** 2) for array in outputs), start=jnp.zeros(()))

    slopes = jax.grad(total)({path: tried[path] for path, _, _ in makers})
    for path, dim, axis in makers:
        size = np.abs(np.asarray(slopes[path], np.float64))
        each = np.moveaxis(size, dim, 0)[plan.axes[axis].new].reshape(len(plan.axes[axis].new), -1).max(1)
        if (each > 1e-6 * size.max()).all() and np.isfinite(size).all() and size.max() > 0:
            return True
    return False
