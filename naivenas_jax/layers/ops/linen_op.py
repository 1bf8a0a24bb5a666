"""A linen layer as the computation of a vertex."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import flax.linen as nn
from flax.core import Scope

from naivenas_jax.errors import GraphError
from naivenas_jax.graph.evaluation.name_scopes import computing_in_linen
from naivenas_jax.graph.vertices.expression import names_in
from naivenas_jax.layers.attributes import hashable, with_attribute
from naivenas_jax.layers.ops.layer_op import LayerOp
from naivenas_jax.layers.rule import RuleOf, port_name
from naivenas_jax.typing import PyTree


@dataclass(frozen=True)
class LinenOp(LayerOp):
    """A linen layer; its variables live in the scope of the vertex, as a submodule's would."""

    layer: nn.Module

    @classmethod
    def of(cls, layer: nn.Module, nin: tuple[int, ...], rule_of: RuleOf) -> LinenOp:
        """The op of a layer as a user made it.

        Raises:
          GraphError: if the layer has an attribute that cannot be hashed.
        """
        value = hashable(layer)
        try:
            hash(value)
        except TypeError as error:
            raise GraphError(
                f"Layer {layer!r:.120} must be hashable, for graphs are: give functions, tuples or frozen dataclasses "
                f"as attributes, and no arrays ({error})."
            ) from error
        return cls(value, nin, rule_of)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """The hash: that of a linen layer goes through all its attributes, and every change hashes every layer."""
        return hash((self.layer, self.nin))

    @property
    def module(self) -> nn.Module:
        """The layer itself."""
        return self.layer

    @cached_property
    def _own_axes(self) -> tuple[str, ...]:
        """The axes whose sizes the layer holds: its output, and the axes inside it."""
        named = [port_name(name) for text in (*self.rule.sizes.values(), *self.rule.inner) for name in names_in(text)]
        ports = {f"in{i}" for i in range(len(self.nin))}
        return tuple(dict.fromkeys(axis for axis in ("out", *named) if axis not in ports))

    def with_attributes(
        self, attributes: Mapping[str, object], then: Callable[[object], object] | None = None
    ) -> nn.Module:
        """The layer with other values of some attributes, then changed further by a function."""
        layer: object = self.layer
        for name, value in attributes.items():
            layer = with_attribute(layer, name.split("."), value)
        layer = layer if then is None else then(layer)
        assert isinstance(layer, nn.Module)
        return layer

    def resized(self, ports: tuple[int, ...], sizes: Mapping[str, int], **keywords: object) -> LinenOp:
        """The same layer for other sizes; a search that comes back to a configuration finds the op that it had."""
        if keywords:
            return super().resized(ports, sizes, **keywords)
        wanted = tuple((axis, size) for axis in self._own_axes if (size := sizes.get(axis)) is not None)
        return _resized(self, ports, wanted)

    def bound(self, scope: Scope) -> nn.Module:
        """The layer with the variables that live in ``scope``."""
        return self.layer.clone(parent=scope)

    def call(self, scope: Scope, inputs: tuple[PyTree, ...], kwargs: Mapping[str, object]) -> PyTree:
        """Call the layer, with the variables that live in ``scope``."""
        with computing_in_linen():
            return self.bound(scope)(*inputs, **self.call_keywords(kwargs))


@lru_cache(maxsize=1024)
def _resized(op: LinenOp, ports: tuple[int, ...], sizes: tuple[tuple[str, int], ...]) -> LinenOp:
    """The layer for other sizes."""
    return LayerOp.resized(op, ports, dict(sizes))
