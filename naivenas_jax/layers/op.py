"""A Flax layer as the computation of a vertex."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import attrgetter
from typing import Any, Self

import flax.linen as nn
from flax.core import Scope

from naivenas_jax.errors import GraphError, SizeMismatchError
from naivenas_jax.graph.op import Op, is_count, keywords_of, select
from naivenas_jax.graph.pattern import parse, port_axes
from naivenas_jax.layers.rule import LayerRule
from naivenas_jax.sizes.blocks import Vector
from naivenas_jax.sizes.ties import Tying

RuleOf = Callable[[Any, tuple[int, ...]], LayerRule]


@dataclass(frozen=True)
class LayerOp(Op):
    """What linen and nnx layers have in common: a rule says what they tie.

    Attributes:
      layer: the layer, as a hashable value.
      nin: the number of neurons of each input that its variables are made for.
      rule_of: the registered function that makes the rule.
    """

    layer: Any
    nin: tuple[int, ...]
    rule_of: RuleOf = field(compare=False)

    @cached_property
    def rule(self) -> LayerRule:
        return self.rule_of(self.module, self.nin)

    @property
    def module(self) -> Any:
        """The layer as its users know it."""
        return self.layer

    @property
    def absorbs(self) -> bool:  # type: ignore[override]
        return self.rule.absorbs

    @property
    def keywords(self) -> frozenset[str] | None:  # type: ignore[override]
        return keywords_of(type(self.module).__call__)

    def tie(self, ports: tuple[Vector, ...], tying: Tying) -> Vector:
        rule, where = self.rule, "/".join(tying.scope)
        vectors = port_axes(ports)
        for attribute, axis in rule.sizes.items():
            self._tie_attribute(attribute, axis, vectors, tying)
        for key, text in rule.leaves.items():
            collection, *path = key.split("/")
            pattern = parse(text)
            constant = rule.new.get(key, 0.0) if "in" not in pattern.roles else None
            dims = pattern.dims(vectors, f"{key!r} of vertex {where!r}")
            tying.leaf(collection, tuple(path), dims, pattern.roles, constant, rule.initialisers.get(key))
        if rule.coupled:
            tying.couple(vectors["in0"], f"{where!r}: {rule.coupled}")
        output = vectors.get("out", vectors["in0"])
        if rule.fixed:
            for vector in (*ports, output):
                tying.fix(vector, f"{where!r}: {rule.fixed}")
        return output

    def _tie_attribute(self, attribute: str, axis: str, vectors: dict[str, Vector], tying: Tying) -> None:
        """An attribute holds the size of an axis: of a new one, or of one that must agree."""
        axis, size = ("in0" if axis == "in" else axis), self.size_of(attribute)
        if not is_count(size):
            raise GraphError(
                f"Vertex {'/'.join(tying.scope)!r}: {type(self.module).__name__} was made with {attribute}={size!r}; "
                "a size is a whole number, at least 1."
            )
        size = int(size)
        if axis not in vectors:
            vectors[axis] = tying.new(size)
            if axis != "out":
                tying.axis(vectors[axis], axis)
        elif len(vectors[axis]) != size:
            raise SizeMismatchError(
                f"Vertex {'/'.join(tying.scope)!r}: the layer was made with {attribute}={size}, but its input has "
                f"{len(vectors[axis])} neurons. Make it with {attribute}={len(vectors[axis])}."
            )

    def size_of(self, attribute: str) -> Any:
        """The value of a size attribute, as it was given; ``"up.features"`` is one of a submodule (nnx)."""
        try:
            return attrgetter(attribute)(self.module)
        except AttributeError as error:
            kind, known = type(self.module).__name__, [k for k, v in vars(self.module).items() if isinstance(v, int)]
            raise GraphError(
                f"sizes= of the rule for {kind} names attribute {attribute!r}, which the layer does not have. Whole "
                f"numbers among its attributes: {', '.join(known) or 'none'}."
            ) from error

    def resized(self, ports: tuple[int, ...], sizes: Mapping[str, int]) -> Self:
        known = {f"in{i}": size for i, size in enumerate(ports)} | {"in": ports[0]}
        attributes = {
            attribute: known[axis] if axis in known else sizes[axis] for attribute, axis in self.rule.sizes.items()
        }
        changed = {key: size for key, size in attributes.items() if size != self.size_of(key)}
        return replace(self, layer=self.with_attributes(changed), nin=ports) if changed or ports != self.nin else self

    @abstractmethod
    def with_attributes(self, sizes: Mapping[str, int]) -> Any:
        """The layer value with other values of its size attributes."""

    def call_keywords(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The keyword arguments that the layer is called with."""
        given = select({key: value for key, value in kwargs.items() if key != "train"}, self.keywords)
        train = bool_of(kwargs.get("train", False))
        translated = self.rule.train(train) if self.rule.train else {}
        if self.keywords is not None and "train" in self.keywords and "train" in kwargs:
            given["train"] = kwargs["train"]
        unset = {key: value for key, value in translated.items() if getattr(self.module, key, None) is None}
        return {**unset, **given}

    def example_shapes(self, nin: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        return tuple((*self.rule.example, size) for size in nin)

    def identity(self, passes: Any) -> Mapping[tuple[str, ...], Any]:
        values = self.rule.identity or {}
        return {tuple(key.split("/")): value for key, value in values.items() if key in self.rule.leaves}

    def keeps_values(self, as_identity: bool) -> bool:
        return as_identity or (self.rule.identity is not None and not self.rule.leaves)  # dropout, in evaluation

    def describe(self) -> str:
        nin = self.nin[0] if len(self.nin) == 1 else list(self.nin)
        nout = next((self.size_of(key) for key, axis in self.rule.sizes.items() if axis == "out"), nin)
        return f"{type(self.module).__name__}({nin} -> {nout})"


def bool_of(train: Any) -> bool:
    """``train`` as a Python bool; a traced value cannot choose between two programs."""
    try:
        return bool(train)
    except Exception as error:
        raise GraphError(
            "train= must be True or False while tracing. Under jax.jit name it in static_argnames=('train',)."
        ) from error


@dataclass(frozen=True)
class LinenOp(LayerOp):
    """A linen layer."""

    @classmethod
    def of(cls, layer: nn.Module, nin: tuple[int, ...], rule_of: RuleOf) -> LinenOp:
        """The op of a layer as a user made it."""
        value = layer.clone(parent=None, name=None)
        try:
            hash(value)
        except TypeError as error:
            raise GraphError(
                f"Layer {layer!r:.120} must be hashable, for graphs are: give tuples and not lists, and functions or "
                f"frozen dataclasses as attributes ({error})."
            ) from error
        return cls(value, nin, rule_of)

    def with_attributes(self, sizes: Mapping[str, int]) -> nn.Module:
        return self.layer.clone(**sizes)

    def call(self, scope: Scope, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return self.layer.clone(parent=scope)(*inputs, **self.call_keywords(kwargs))
