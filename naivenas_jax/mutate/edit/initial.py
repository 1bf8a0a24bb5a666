"""What the variables of inserted vertices start at."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import core

from naivenas_jax.align.axis_plan import NEW, AxisPlan
from naivenas_jax.checks import is_one_of
from naivenas_jax.errors import StructureError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.op import Op
from naivenas_jax.graph.source import Source
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.graph.vertices.output_shapes import shape_of, value_of
from naivenas_jax.paths import Path
from naivenas_jax.sizes.ties import Leaf
from naivenas_jax.transfer.new_neurons.entries import Fill, NewEntries, filled, key_for
from naivenas_jax.transfer.new_neurons.fills import initialised
from naivenas_jax.transfer.new_neurons.strategy import New, strategy_of
from naivenas_jax.transfer.variables import flat
from naivenas_jax.typing import Array, PyTree, Shape


def initial_variables(
    graph: Graph,
    inserted: Collection[str],
    kept: Mapping[str, np.ndarray],
    wanted: Mapping[str, np.ndarray],
    how: New,
    rng: jax.Array | None,
) -> tuple[dict[Path, Array], bool]:
    """Variables of inserted vertices.

    Args:
      graph: the network after the edit, with its final sizes.
      inserted: names of the inserted vertices.
      kept: for vertices that were there before, which old neuron each of their neurons is.
      wanted: for inserted vertices that take the place of an old one, which old neuron the consumers' weights expect at
        each position.
      how: "identity" (layers pass the old neurons on; a layer that cannot starts as "init"), "init", or what else
        ``new=`` may be.
      rng: a key, or None.

    Returns:
      Arrays by path, and whether all neurons that the consumers expect arrive unchanged.
    """
    arrays: dict[Path, Array] = {}
    carried = dict(kept)
    as_identity, fill = is_one_of(how, ("identity",)), strategy_of(how).fill
    identical = as_identity
    for vertex in graph.vertices:
        if vertex.name not in inserted:
            continue
        arriving = carried[vertex.inputs[0].name]
        leaving = wanted.get(vertex.name, _widened(arriving, vertex.nout)) if vertex.op.absorbs else arriving
        start = _Start.of(vertex, rng)
        if as_identity:
            passes = (arriving[:, None] == leaving[None, :]) & (leaving[None, :] != NEW)
            values = vertex.op.identity()
            identical &= vertex.op.keeps_values(bool(values)) and bool(passes.any(0)[leaving != NEW].all())
            named = {(path[0], vertex.name, *path[1:]): value for path, value in values.items()}
            set_here = {p: _as(named[p](a.shape, passes), a) for p, a in start.shapes.items() if p in named}
        else:
            leaves = {} if fill is initialised else graph.ties.leaves
            set_here = {p: _filled(p, a, leaves[p], fill, rng) for p, a in start.shapes.items() if p in leaves}
        arrays |= start.values(set_here)
        carried[vertex.name] = leaving
    return arrays, identical


def _widened(arriving: np.ndarray, size: int) -> np.ndarray:
    """The same neurons for as long as there is room, then new ones."""
    return np.concatenate([arriving, np.full(max(0, size - len(arriving)), NEW)])[:size]


def _as(value: object, like: Shape) -> Array:
    """Values of the dtype of a variable, on the device; nothing is compiled."""
    placed: Array = jax.device_put(np.array(value).astype(like.dtype))
    return placed


def _dtype(vertex: Vertex) -> str:
    """The dtype of what a vertex makes, as far as it is known: words stay whole numbers."""
    known = vertex.op if isinstance(vertex.op, Source) else value_of(vertex)
    return str(getattr(known, "dtype", "float32"))


@dataclass(frozen=True, eq=False)
class _Start:
    """The vertex's own initial variables, tried on its true input shapes or on such as it may expect.

    Attributes:
      vertex: the vertex.
      key: its key.
      inputs: shapes of its inputs.
      shapes: of its variables, by path. Nothing is computed to know them.
    """

    vertex: Vertex
    key: jax.Array
    inputs: tuple[Shape, ...]
    shapes: Mapping[Path, Shape]

    @classmethod
    def of(cls, vertex: Vertex, rng: jax.Array | None) -> _Start:
        """What a vertex starts with.

        Raises:
          StructureError: if it cannot be initialised.
        """
        true = [shape_of(source) for source in vertex.inputs]
        if None in true and vertex.op.positional:
            raise StructureError(
                f"The variables of {vertex.name!r} ({vertex.op.describe()}) depend on the number of positions that it "
                "reads. Give every graph input its whole shape: nas.input_vertex(name, size, shape=...)."
            )
        shapes = vertex.op.example_shapes(vertex.nin) if None in true else true
        inputs = tuple(
            Shape(shape, _dtype(source))
            for shape, source in zip(shapes, vertex.inputs, strict=True)
            if shape is not None
        )
        start = cls(vertex, key_for(rng, (vertex.name,)), inputs, {})
        return replace(start, shapes=flat(start._tried(lambda make: jax.eval_shape(make, start.key))))

    def values(self, given: Mapping[Path, Array]) -> dict[Path, Array]:
        """All variables, some of which are given: the others come from the initialisers, as one program."""
        wanted = tuple(path for path in self.shapes if path not in given)
        made = self._tried(lambda _: _initialiser(*self._what, wanted)(self.key)) if wanted else {}
        return {path: given[path] if path in given else made[path] for path in self.shapes}

    @property
    def _what(self) -> tuple[Op, str, tuple[Shape, ...]]:
        return self.vertex.op, self.vertex.name, self.inputs

    def _tried(self, run: Callable[[Callable[[jax.Array], PyTree]], PyTree]) -> dict[Any, Any]:
        try:
            return dict(run(partial(_made, *self._what)))
        except Exception as error:
            raise StructureError(
                f"Vertex {self.vertex.name!r} cannot be initialised on inputs of shapes "
                f"{[x.shape for x in self.inputs]}. If it needs another shape, give every graph input its whole shape: "
                f"nas.input_vertex(name, size, shape=...). ({type(error).__name__}: {error})"
            ) from error


def _made(op: Op, name: str, inputs: tuple[Shape, ...], key: jax.Array) -> PyTree:
    """The variables of an op, made in a scope of this name."""
    zeros = [jnp.zeros(one.shape, one.dtype) for one in inputs]
    _, variables = core.init(lambda scope, *xs: op.call(scope.push(name), xs, {}))(
        {"params": key, "dropout": key}, *zeros
    )
    return variables


@lru_cache(maxsize=256)
def _initialiser(
    op: Op, name: str, inputs: tuple[Shape, ...], paths: tuple[Path, ...]
) -> Callable[[jax.Array], dict[Path, Array]]:
    """The program that makes some of the variables; what they do not need, such as outputs, is no part of it."""

    def wanted(key: jax.Array) -> list[Array]:
        made = flat(_made(op, name, inputs, key))
        return [made[path] for path in paths]

    program = jax.jit(wanted)
    return lambda key: dict(zip(paths, program(key), strict=True))


def _filled(path: Path, array: Shape, leaf: Leaf, fill: Fill, rng: jax.Array | None) -> Array:
    axes = tuple(None if a is None else AxisPlan.of(0, [NEW] * n) for a, n in zip(leaf.axes, array.shape, strict=True))
    old = np.zeros([n if axis is None else 0 for axis, n in zip(axes, array.shape, strict=True)], array.dtype)
    entries = NewEntries(
        path=path,
        old=old,
        shape=array.shape,
        is_new=np.ones(array.shape, bool),
        axes=axes,
        leaf=leaf,
        key=key_for(rng, path),
    )
    return _as(filled(entries, fill), array)
