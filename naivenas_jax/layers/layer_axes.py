"""The axes of one layer as vectors of neurons: inputs, output, and what lies inside."""

from __future__ import annotations

from typing import Any

from naivenas_jax.errors import GraphError, SizeMismatchError
from naivenas_jax.graph.op import is_count
from naivenas_jax.graph.vertices.expression import is_name, names_in, size_of, vector_of
from naivenas_jax.graph.vertices.pattern import port_axes
from naivenas_jax.layers.rule import port_name
from naivenas_jax.sizes.blocks import Vector
from naivenas_jax.sizes.tying import Tying


def axes_of(op: Any, ports: tuple[Vector, ...], tying: Tying) -> dict[str, Vector]:
    """The neurons of every axis that the rule of a layer names, by name; inner ones are declared as handles.

    Raises:
      SizeMismatchError: if the layer was made for inputs of other sizes, or a size is not what it is made of.
      GraphError: if a size is no number.
    """
    where, vectors = f"Vertex {'/'.join(tying.scope)!r}", port_axes(ports)
    composed = {port_name(axis): text for axis, text in op.rule.composed.items()}
    given = _given(where, op)
    sizes = {axis: len(vector) for axis, vector in vectors.items()} | {axis: size for axis, (_, size) in given.items()}
    for axis, (label, size) in given.items():
        if axis in vectors and len(vectors[axis]) != size:
            raise SizeMismatchError(
                f"{where}: the layer was made with {label}={size}, but its input has "
                f"{len(vectors[axis])} neurons. Make it with {label}={len(vectors[axis])}."
            )
    for axis, text in composed.items():
        if axis in sizes and sizes[axis] != size_of(text, sizes):
            parts = ", ".join(f"{name} = {sizes[name]}" for name in names_in(text))
            raise SizeMismatchError(f"{where}: {sizes[axis]} neurons ({axis}) are not {text} with {parts}.")
    for axis in given:
        if axis not in vectors and axis not in composed:
            vectors[axis] = tying.new(sizes[axis])
    for axis, text in composed.items():
        whole = vector_of(text, vectors, tying.blocks)
        if axis in vectors:
            tying.tie(vectors[axis], whole)
        vectors.setdefault(axis, whole)
    for axis in given:
        if axis != "out" and axis not in port_axes(ports):
            tying.axis(vectors[axis], axis)
    return vectors


def _given(where: str, op: Any) -> dict[str, tuple[str, int]]:
    """The sizes that attributes of the layer hold, or that the rule gives: by axis what gives it, and the size."""
    found = {port_name(axis): (axis, size) for axis, size in op.rule.inner.items()}
    for attribute, axis in op.rule.sizes.items():
        if not is_name(axis):
            continue  # it follows from the others
        size = op.size_of(attribute)
        if not is_count(size):
            raise GraphError(
                f"{where}: {type(op.module).__name__} was made with {attribute}={size!r}; "
                "a size is a whole number, at least 1."
            )
        label, known = found.setdefault(port_name(axis), (attribute, int(size)))
        if int(size) != known:
            raise SizeMismatchError(f"{where}: {attribute}={size}, but {label}={known}, and they are the same size.")
    return found
