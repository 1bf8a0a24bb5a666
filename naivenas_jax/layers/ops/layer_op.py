"""A Flax layer as the computation of a vertex."""

from __future__ import annotations

from abc import abstractmethod
from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from typing import NamedTuple, Self, SupportsIndex

import flax.linen as nn
from flax import nnx
from flax.core import Scope

from naivenas_jax.errors import GraphError, RequestError
from naivenas_jax.graph.op import Identity, Op, keywords_of, select
from naivenas_jax.graph.vertices.expression import is_name, size_of
from naivenas_jax.graph.vertices.op_weights import LEADING, PLAIN, op_weights
from naivenas_jax.graph.vertices.pattern import port_axes
from naivenas_jax.jaxpr.weight_use import WeightUses
from naivenas_jax.layers.attributes import attribute_of, is_of_flax
from naivenas_jax.layers.layer_axes import axis_vectors
from naivenas_jax.layers.registry import general_rule, registered_rule
from naivenas_jax.layers.rule import LayerRule, RuleOf, by_path, port_name, reasons
from naivenas_jax.paths import Path, is_unnamed, path_text
from naivenas_jax.pickling import packed, remade
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.sizes.tying import Tying
from naivenas_jax.sizes.vector import Vector


class _Alone(NamedTuple):
    """What a layer ties by itself.

    Attributes:
      ties: of the layer alone. Its inputs are the axes "in0", "in1", ..., its output is the axis "out".
      ports: the names of the inputs.
      inner: the names of the axes inside the layer, each by itself.
    """

    ties: Ties
    ports: tuple[str, ...]
    inner: Mapping[str, str]


@dataclass(frozen=True)
class LayerOp(Op):
    """What linen and nnx layers have in common: a rule says what they tie.

    Attributes:
      layer: the layer, as a hashable value.
      nin: the number of neurons of each input that its variables are made for.
      rule_of: the registered function that makes the rule; equal layers tie alike.
    """

    layer: object
    nin: tuple[int, ...]
    rule_of: RuleOf = field(hash=False)

    @cached_property
    def rule(self) -> LayerRule:
        """What the layer ties."""
        return self.rule_of(self.module, self.nin)

    @property
    @abstractmethod
    def module(self) -> nn.Module | nnx.Module:
        """The layer as its users know it."""

    def __reduce__(self) -> tuple[object, ...]:
        data, beside = packed({each.name: getattr(self, each.name) for each in fields(self) if each.name != "rule_of"})
        return _restored, (type(self), type(self.module), data, beside)

    @property
    def absorbs(self) -> bool:
        """Whether the rule gives the output neurons of its own."""
        return self.rule.absorbs

    @property
    def positional(self) -> bool:
        """Whether the rule says that variables depend on the number of positions."""
        return self.rule.positional

    @property
    def keywords(self) -> frozenset[str] | None:
        """The keyword arguments that the layer understands; None: any."""
        return keywords_of(type(self.module).__call__) if self.rule.keywords is None else self.rule.keywords

    def tie(self, ports: tuple[Vector, ...], tying: Tying) -> Vector:
        """Tie what the rule says: the variables of the layer and the axes inside it."""
        alone = self._alone(tying.scope, tuple(map(len, ports)))
        given = dict(zip(alone.ports, ports, strict=True))
        return tying.outside().include(alone.ties, alone.inner, given=given).axes["out"]

    def width(self, name: str, nin: tuple[int, ...]) -> int:
        """The number of output neurons, by the rule."""
        return self._alone((name,), nin).ties.sizes["out"]

    def _alone(self, scope: Path, nin: tuple[int, ...]) -> _Alone:
        """What the layer ties by itself, worked out once for a vertex and sizes of its inputs: an op never changes."""
        if (scope, nin) not in self._known:
            tying = Tying(scope=scope)
            ports = tuple(map(tying.new, nin))
            names = {f"in{i}": port for i, port in enumerate(ports)}
            for axis, port in names.items():
                tying.called(port, axis)
            tying.called(self.declare(ports, tying), "out")
            ties = tying.freeze()
            inner = [axis for axis in ties.axes if axis not in names and axis != "out" and not is_unnamed(axis)]
            self._known[scope, nin] = _Alone(ties, tuple(names), {axis: axis for axis in inner})
        return self._known[scope, nin]

    @cached_property
    def _known(self) -> dict[tuple[Path, tuple[int, ...]], _Alone]:
        """What `_alone` has found."""
        return {}

    def declare(self, ports: tuple[Vector, ...], tying: Tying) -> Vector:
        """Declare the variables of the layer and the axes inside it, as its rule says.

        Args:
          ports: the neurons that arrive at each input.
          tying: takes down what the layer ties.

        Returns:
          The neurons of the output.
        """
        where = path_text(tying.scope)
        try:
            rule = self.rule
        except GraphError as error:  # a rule does not know whose it is
            raise type(error)(f"Vertex {where!r}: {error}") from error
        vectors = axis_vectors(self, ports, tying)
        self._declare_leaves(vectors, tying, where)
        vectors.setdefault("out", vectors["in0"])
        for axis, reason in reasons(rule.coupled, ("in0",)).items():
            tying.couple(vectors[axis], f"{where!r}: {reason}")
        for axis, reason in reasons(rule.fixed, (*port_axes(ports), "out")).items():
            tying.fix(vectors[axis], f"{where!r}: {reason}")
        if rule.indexed:
            tying.index(vectors["in0"])
        tying.require_all(rule.constraints, vectors)
        return vectors["out"]

    def _declare_leaves(self, vectors: Mapping[str, Vector], tying: Tying, where: str) -> None:
        rule, weights = self.rule, self._weights()
        initialisers, rescaled = by_path(rule.initialisers), by_path(rule.rescaled)
        for path, pattern in rule.patterns.items():
            dims = pattern.dims(vectors, tying.blocks, f"{path_text(path)!r} of vertex {where!r}")
            scale = pattern.axes.index(rescaled[path]) if path in rescaled else None
            looked_up = tuple(d for d, axis in enumerate(pattern.axes) if rule.indexed and axis == "in0")
            start, init, weight = rule.starts[path], initialisers.get(path), weights.uses.get(path)
            tying.leaf(path[0], path[1:], dims, pattern.roles, start, init, scale, looked_up, weight)
            for d, dim in enumerate(dims):
                if dim is not None and (path, d) in weights.never_zero:
                    tying.couple(dim, f"{where!r}: {weights.never_zero[path, d]}")

    def _weights(self) -> WeightUses:
        """What weights are as functions of variables. Flax's own layers take variables as they are."""
        if is_of_flax(self.module):
            return PLAIN
        nin, rule = self.nin, self.rule
        shapes = (self.example_shapes(nin), *(tuple((*leading, n) for n in nin) for leading in LEADING))
        return op_weights(self, shapes, {path: pattern.roles for path, pattern in rule.patterns.items()})

    def size_of(self, attribute: str) -> object:
        """The value of a size attribute, as it was given.

        Raises:
          GraphError: if the layer has no attribute of that name.
        """
        try:
            return attribute_of(self.module, attribute)
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            kind, known = type(self.module).__name__, [k for k, v in vars(self.module).items() if isinstance(v, int)]
            raise GraphError(
                f"sizes= of the rule for {kind} names attribute {attribute!r}, which the layer does not have. Whole "
                f"numbers among its attributes: {', '.join(known) or 'none'}."
            ) from error

    def sizes_now(self, ports: tuple[int, ...]) -> dict[str, int]:
        """The size of every axis that an attribute of the layer or the rule gives, with these inputs."""
        given = {axis: self.size_of(attribute) for attribute, axis in self.rule.sizes.items() if is_name(axis)}
        counts = {port_name(axis): int(size) for axis, size in given.items() if isinstance(size, SupportsIndex)}
        return {**counts, **self.rule.inner, **_port_sizes(ports)}

    def resized(self, ports: tuple[int, ...], sizes: Mapping[str, int], **keywords: object) -> Self:
        """The same layer for other sizes; ``keywords`` go to the ``resize=`` function of the rule.

        Raises:
          RequestError: if there are keywords, and no function that takes them.
        """
        rule, known = self.rule, ChainMap(_port_sizes(ports), sizes)  # type: ignore[arg-type]  # is only read
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
        return replace(self, layer=self.with_attributes(changed, then), nin=ports)

    def in_general(self) -> Self:
        """The same layer, with the axes that it has for most sizes, also where a size is one; see `generalises`."""
        rule_of = general_rule(self.rule_of)
        return self if rule_of is self.rule_of else replace(self, rule_of=rule_of)

    def as_usual(self) -> Self:
        """The same layer, with the rule that is registered for it: the inverse of `in_general`."""
        kind = type(self.module)
        rule_of = registered_rule(kind, kind.__name__)
        return self if rule_of is self.rule_of else replace(self, rule_of=rule_of)

    @abstractmethod
    def with_attributes(
        self, attributes: Mapping[str, object], then: Callable[[object], object] | None = None
    ) -> object:
        """The layer value with other values of some attributes, then changed further by a function."""

    def reshaped(self, attributes: Mapping[str, object], dims: Mapping[Path, tuple[int, ...]]) -> Self:
        """The same layer with other attributes, which change the first dimensions of some variables."""
        del dims
        return replace(self, layer=self.with_attributes(attributes))

    @abstractmethod
    def bound(self, scope: Scope) -> nn.Module | nnx.Module:
        """The layer with the variables that live in ``scope``."""

    def call_keywords(self, kwargs: Mapping[str, object]) -> dict[str, object]:
        """The keyword arguments that the layer is called with."""
        given = select({key: value for key, value in kwargs.items() if key != "train"}, self.keywords)
        train = bool_of(kwargs.get("train", False))
        translated = self.rule.train(train) if self.rule.train else {}
        if self.keywords is not None and "train" in self.keywords and "train" in kwargs:
            given["train"] = kwargs["train"]
        unset = {key: value for key, value in translated.items() if getattr(self.module, key, None) is None}
        return {**unset, **given}

    def example_shapes(self, nin: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Input shapes that the layer can be initialised with, by its rule."""
        return tuple((*self.rule.example, size) for size in nin)

    def identity(self) -> Mapping[Path, Identity]:
        """For each variable the function that makes its identity value, by path below the vertex."""
        values = by_path(self.rule.identity or {})
        return {path: value for path, value in values.items() if path in self.rule.patterns}

    def keeps_values(self, as_identity: bool) -> bool:
        """Whether outputs have the values of the inputs; those of dropout, without variables, always have."""
        return as_identity or (self.rule.identity is not None and not self.rule.leaves)

    def describe(self) -> str:
        """For example ``Dense(3 -> 4)``."""
        nin = self.nin[0] if len(self.nin) == 1 else list(self.nin)
        return f"{type(self.module).__name__}({nin} -> {self._nout})"

    @property
    def _nout(self) -> int:
        """The number of output neurons."""
        sizes = with_composed(self.rule, self.sizes_now(self.nin))
        return sizes.get("out", self.nin[0])


def with_composed(rule: LayerRule, sizes: Mapping[str, int]) -> dict[str, int]:
    """The given sizes, and the sizes of the axes that the rule composes of them."""
    found = dict(sizes)
    for axis, text in rule.composed.items():
        found[port_name(axis)] = size_of(text, found)
    return found


def _port_sizes(ports: tuple[int, ...]) -> dict[str, int]:
    return {f"in{i}": size for i, size in enumerate(ports)}


def bool_of(train: object) -> bool:
    """``train`` as a Python bool; a traced value cannot choose between two programs."""
    try:
        return bool(train)
    except Exception as error:
        raise GraphError(
            "train= must be True or False while tracing. Under jax.jit name it in static_argnames=('train',)."
        ) from error


def _restored(
    kind: type[LayerOp], layer: type[nn.Module | nnx.Module], data: bytes, beside: tuple[object, ...]
) -> LayerOp:
    """The op that was pickled, with the rule that is registered for its layer now."""
    return remade(partial(kind, rule_of=registered_rule(layer, "read from a pickle")), data, beside)
