"""A Flax layer as the computation of a vertex."""

from __future__ import annotations

from abc import abstractmethod
from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import flax.linen as nn
from flax.core import Scope

from naivenas_jax.errors import GraphError, RequestError
from naivenas_jax.graph.evaluation.name_scopes import computing_in_linen
from naivenas_jax.graph.op import Op, keywords_of, select
from naivenas_jax.graph.vertices.expression import is_name, size_of
from naivenas_jax.graph.vertices.pattern import port_axes
from naivenas_jax.layers.attributes import attribute_of, hashable, with_attribute
from naivenas_jax.layers.layer_axes import axes_of
from naivenas_jax.layers.rule import LayerRule, by_path, port_name, reasons
from naivenas_jax.paths import Path
from naivenas_jax.sizes.blocks import Vector
from naivenas_jax.sizes.tying import Tying

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
        return keywords_of(type(self.module).__call__) if self.rule.keywords is None else self.rule.keywords

    def tie(self, ports: tuple[Vector, ...], tying: Tying) -> Vector:
        where = "/".join(tying.scope)
        try:
            rule = self.rule
        except GraphError as error:  # a rule does not know whose it is
            raise type(error)(f"Vertex {where!r}: {error}") from error
        vectors = axes_of(self, ports, tying)
        initialisers, rescaled = by_path(rule.initialisers), by_path(rule.rescaled)
        for path, pattern in rule.patterns.items():
            dims = pattern.dims(vectors, tying.blocks, f"{'/'.join(path)!r} of vertex {where!r}")
            scale = pattern.axes.index(rescaled[path]) if path in rescaled else None
            tying.leaf(path[0], path[1:], dims, pattern.roles, rule.starts[path], initialisers.get(path), scale)
        vectors.setdefault("out", vectors["in0"])
        for axis, reason in reasons(rule.coupled, ("in0",)).items():
            tying.couple(vectors[axis], f"{where!r}: {reason}")
        for axis, reason in reasons(rule.fixed, (*port_axes(ports), "out")).items():
            tying.fix(vectors[axis], f"{where!r}: {reason}")
        tying.require_all(rule.constraints, vectors)
        return vectors["out"]

    def size_of(self, attribute: str) -> Any:
        """The value of a size attribute, as it was given."""
        try:
            return attribute_of(self.module, attribute)
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            kind, known = type(self.module).__name__, [k for k, v in vars(self.module).items() if isinstance(v, int)]
            raise GraphError(
                f"sizes= of the rule for {kind} names attribute {attribute!r}, which the layer does not have. Whole "
                f"numbers among its attributes: {', '.join(known) or 'none'}."
            ) from error

    def resized(self, ports: tuple[int, ...], sizes: Mapping[str, int], **keywords: Any) -> Self:
        rule, read = self.rule, {f"in{i}": size for i, size in enumerate(ports)}
        known = ChainMap(read, sizes)  # type: ignore[arg-type]
        attributes = {attribute: size_of(axis, known) for attribute, axis in rule.sizes.items()}
        changed = {key: size for key, size in attributes.items() if size != self.size_of(key)}
        inner = any(known[port_name(axis)] != size for axis, size in rule.inner.items())
        if not changed and not inner and ports == self.nin and not keywords:
            return self
        resize = rule.resize
        if keywords and (resize is None or set(keywords) - set(select(keywords, keywords_of(resize)))):
            raise RequestError(
                f"layer_keywords: the rule for {type(self.module).__name__} has no resize= function that could take "
                f"{', '.join(keywords)}. Register the layer with one: resize=lambda layer, sizes, **keywords: ..."
            )
        then = None if resize is None else lambda module: resize(module, known, **keywords)
        layer = self.with_attributes(changed, then)
        return replace(self, layer=layer, nin=ports)

    @abstractmethod
    def with_attributes(self, sizes: Mapping[str, int], then: Callable[[Any], Any] | None = None) -> Any:
        """The layer value with other values of its size attributes, then changed further by a function."""

    def reshaped(self, attributes: Mapping[str, Any], dims: Mapping[Path, tuple[int, ...]]) -> Self:
        """The same layer with other attributes, which change the first dimensions of some variables."""
        del dims
        return replace(self, layer=self.with_attributes(attributes))

    @abstractmethod
    def bound(self, scope: Scope) -> Any:
        """The layer with the variables that live in ``scope``."""

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

    @property
    def positional(self) -> bool:  # type: ignore[override]
        return self.rule.positional

    def identity(self, passes: Any) -> Mapping[tuple[str, ...], Any]:
        values = by_path(self.rule.identity or {})
        return {path: value for path, value in values.items() if path in self.rule.patterns}

    def keeps_values(self, as_identity: bool) -> bool:
        return as_identity or (self.rule.identity is not None and not self.rule.leaves)  # dropout, in evaluation

    def describe(self) -> str:
        nin = self.nin[0] if len(self.nin) == 1 else list(self.nin)
        return f"{type(self.module).__name__}({nin} -> {self._nout})"

    @property
    def _nout(self) -> int:
        """The number of output neurons."""
        rule = self.rule
        sizes = {f"in{i}": size for i, size in enumerate(self.nin)} | dict(rule.inner)
        sizes |= {axis: self.size_of(attribute) for attribute, axis in rule.sizes.items() if is_name(axis)}
        for axis, text in rule.composed.items():
            sizes[port_name(axis)] = size_of(text, sizes)
        return sizes.get("out", self.nin[0])


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
        value = hashable(layer)
        try:
            hash(value)
        except TypeError as error:
            raise GraphError(
                f"Layer {layer!r:.120} must be hashable, for graphs are: give functions, tuples or frozen dataclasses "
                f"as attributes, and no arrays ({error})."
            ) from error
        return cls(value, nin, rule_of)

    def with_attributes(self, sizes: Mapping[str, int], then: Callable[[Any], Any] | None = None) -> nn.Module:
        layer = self.layer
        for attribute, size in sizes.items():
            layer = with_attribute(layer, attribute.split("."), size)
        return layer if then is None else then(layer)

    def bound(self, scope: Scope) -> nn.Module:
        return self.layer.clone(parent=scope)

    def call(self, scope: Scope, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        with computing_in_linen():
            return self.bound(scope)(*inputs, **self.call_keywords(kwargs))
