"""The axes of one layer as vectors of neurons: inputs, output, and the axes inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from naivenas_jax.checks import as_count
from naivenas_jax.errors import GraphError, SizeMismatchError
from naivenas_jax.graph.vertices.expression import is_name, names_in, size_of, vector_of
from naivenas_jax.graph.vertices.pattern import port_axes
from naivenas_jax.layers.rule import LayerRule, port_name
from naivenas_jax.paths import path_text
from naivenas_jax.sizes.tying import Tying
from naivenas_jax.sizes.vector import Vector


class RuledLayer(Protocol):
    """A layer with its rule."""

    @property
    def rule(self) -> LayerRule:
        """What the layer ties."""

    @property
    def module(self) -> object:
        """The Flax layer."""

    def size_of(self, attribute: str) -> object:
        """The value of an attribute that holds a size."""


def axis_vectors(layer: RuledLayer, ports: tuple[Vector, ...], tying: Tying) -> dict[str, Vector]:
    """The neurons of every axis that the rule of a layer names, by name; inner axes are declared as handles.

    Raises:
      SizeMismatchError: if the layer was made for inputs of other sizes, or if the size of an axis is not the size of
        the expression that makes it.
      GraphError: if a size is no number.
    """
    where, vectors = f"Vertex {path_text(tying.scope)!r}", port_axes(ports)
    composed = {port_name(axis): text for axis, text in layer.rule.composed.items()}
    given = _given_sizes(where, layer)
    _check_sizes(where, given, composed, vectors)
    for axis, (_, size) in given.items():
        if axis not in vectors and axis not in composed:
            vectors[axis] = tying.new(size)
    for axis, text in composed.items():
        whole = vector_of(text, vectors, tying.blocks)
        if axis in vectors:
            tying.tie(vectors[axis], whole)
        vectors.setdefault(axis, whole)
    for axis in given:
        if axis != "out" and axis not in port_axes(ports):
            tying.axis(vectors[axis], axis)
    return vectors


def _check_sizes(
    where: str, given: Mapping[str, tuple[str, int]], composed: Mapping[str, str], inputs: Mapping[str, Vector]
) -> None:
    """Raise unless the sizes that the layer holds fit its inputs and one another."""
    for axis, (label, size) in given.items():
        if axis in inputs and len(inputs[axis]) != size:
            raise SizeMismatchError(
                f"{where}: the layer was made with {label}={size}, but its input has "
                f"{len(inputs[axis])} neurons. Make it with {label}={len(inputs[axis])}."
            )
    sizes = {axis: len(vector) for axis, vector in inputs.items()} | {axis: size for axis, (_, size) in given.items()}
    for axis, text in composed.items():
        if axis in sizes and sizes[axis] != size_of(text, sizes):
            parts = ", ".join(f"{name} = {sizes[name]}" for name in names_in(text))
            raise SizeMismatchError(f"{where}: {sizes[axis]} neurons ({axis}) are not {text} with {parts}.")


def _given_sizes(where: str, layer: RuledLayer) -> dict[str, tuple[str, int]]:
    """The sizes that attributes of the layer hold, or that its rule gives: by axis, the attribute and the size."""
    found = {port_name(axis): (axis, size) for axis, size in layer.rule.inner.items()}
    for attribute, axis in layer.rule.sizes.items():
        if not is_name(axis):
            continue  # it follows from the others
        size = _count(where, layer, attribute)
        label, known = found.setdefault(port_name(axis), (attribute, size))
        if size != known:
            raise SizeMismatchError(f"{where}: {attribute}={size}, but {label}={known}, and they are the same size.")
    return found


def _count(where: str, layer: RuledLayer, attribute: str) -> int:
    size = layer.size_of(attribute)
    count = as_count(size)
    if count is None:
        raise GraphError(
            f"{where}: {type(layer.module).__name__} was made with {attribute}={size!r}; "
            "a size is a whole number, at least 1."
        )
    return count
