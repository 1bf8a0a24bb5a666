"""Shapes of arrays inside a graph, as far as the inputs' shapes are known."""

from __future__ import annotations

from typing import Any

import jax
from flax import core

from naivenas_jax.graph.evaluate import run
from naivenas_jax.graph.order import topological
from naivenas_jax.graph.source import Source
from naivenas_jax.graph.vertex import Vertex


def shape_of(vertex: Vertex) -> tuple[int, ...] | None:
    """The shape of what ``vertex`` computes for a batch of one; None if an input's shape is not known."""
    order = topological((vertex,))
    sources = [v for v in order if isinstance(v.op, Source)]
    arrays = [example_input(source.op) for source in sources if isinstance(source.op, Source)]
    if any(array is None for array in arrays):
        return None

    def compute(key: jax.Array, *inputs: Any) -> Any:
        return core.init(lambda scope, *xs: run(order, (vertex,), dict(zip(sources, xs, strict=True)), scope, {}))(
            {"params": key}, *inputs
        )[0]

    (result,) = jax.eval_shape(compute, jax.random.key(0), *arrays)
    return tuple(result.shape)


def example_input(source: Source) -> jax.ShapeDtypeStruct | None:
    """What a batch of one looks like."""
    if source.shape is None:
        return None
    return jax.ShapeDtypeStruct((1, *source.shape), source.dtype)
