"""Shapes of arrays inside a graph, as far as the inputs' shapes are known."""

from __future__ import annotations

from functools import lru_cache
from weakref import WeakKeyDictionary

import jax
from flax import core

from naivenas_jax.graph.dag import topological
from naivenas_jax.graph.op import Op
from naivenas_jax.graph.source import Source
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.typing import PyTree

#: What each vertex computes for a batch of one: the shape of its array, or several; None where it is not known.
_known: WeakKeyDictionary[Vertex, PyTree] = WeakKeyDictionary()


def shape_of(vertex: Vertex) -> tuple[int, ...] | None:
    """The shape of what ``vertex`` computes for a batch of one; None if an input's shape is not known."""
    found = value_of(vertex)
    return tuple(found.shape) if hasattr(found, "shape") else None  # several arrays have no shape


def value_of(vertex: Vertex) -> PyTree:
    """What ``vertex`` computes for a batch of one, as shapes and dtypes; None if an input's shape is not known.

    Every vertex is traced by itself, once for all vertices that compute the same of the same shapes: after an edit all
    that lie behind it are new vertices, and few compute something new. What a vertex makes is remembered for as long as
    it lives.
    """
    if vertex not in _known:
        for each in topological((vertex,)):
            if each not in _known:
                _known[each] = _shape(each)
    return _known[vertex]


def _shape(vertex: Vertex) -> PyTree:
    return made_of(vertex.op, tuple(_known[source] for source in vertex.inputs))


def made_of(op: Op, inputs: tuple[PyTree, ...]) -> PyTree:
    """What a computation makes for a batch of one, as shapes and dtypes; None if that is not known.

    Args:
      op: the computation.
      inputs: what it reads, likewise.
    """
    if isinstance(op, Source):
        return None if op.shape is None else jax.ShapeDtypeStruct((1, *op.shape), op.dtype)
    if (returned := op.returns()) is not None:
        return returned
    if any(known is None for known in inputs):
        return None
    single = all(isinstance(known, jax.ShapeDtypeStruct) for known in inputs)
    return (_remembered if single else _computed)(op, inputs)


def _computed(op: Op, inputs: tuple[PyTree, ...]) -> PyTree:
    def compute(key: jax.Array, *arrays: PyTree) -> PyTree:
        return core.init(lambda scope, *xs: op.call(scope, xs, {}))({"params": key}, *arrays)[0]

    return jax.eval_shape(compute, jax.random.key(0), *inputs)


#: By the computation and the shapes and dtypes of its inputs; what raises is not remembered.
_remembered = lru_cache(maxsize=4096)(_computed)
