"""An nnx layer as the computation of a vertex: its arrays live in the variables of the graph, the rest is a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import nnx
from flax.core import Scope

from naivenas_jax.errors import GraphError, SizeMismatchError
from naivenas_jax.graph.pattern import parse
from naivenas_jax.layers.nnx_streams import connect, disconnect, streams
from naivenas_jax.layers.nnx_value import NnxLayer, Variable, collection_of
from naivenas_jax.layers.op import LayerOp, RuleOf, bool_of
from naivenas_jax.layers.rule import LayerRule
from naivenas_jax.sizes.blocks import Vector
from naivenas_jax.sizes.ties import Tying

#: Collections that a layer may write to in vain, as in linen: nobody asked to see them.
_OPTIONAL = ("params", "intermediates", "perturbations")


@dataclass(frozen=True, eq=False)
class Brought:
    """The arrays that a layer was created with, by variable. Compared by identity, and no part of the layer's value.

    A `jax.ShapeDtypeStruct` stands where there is no array, since a change made its shape another one.
    """

    values: Mapping[Variable, Any]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each variable by the key that rules use, ``"collection/path"``."""
        return {variable.key: tuple(value.shape) for variable, value in self.values.items()}

    def fitted(self, shapes: Mapping[str, tuple[int, ...]]) -> Brought:
        """The arrays of these shapes; in place of the others only their new shape."""
        return Brought({variable: _fitted(value, shapes[variable.key]) for variable, value in self.values.items()})


def _fitted(value: Any, shape: tuple[int, ...]) -> Any:
    return value if tuple(value.shape) == shape else jax.ShapeDtypeStruct(shape, value.dtype)


@dataclass(frozen=True)
class NnxOp(LayerOp):
    """An nnx layer: equal to another if the layers have the same configuration, whatever their arrays.

    ``graph.init`` returns the arrays that the layer was created with. Where a change of width has given a variable
    another shape, the initialiser of the rule makes a new one.

    Attributes:
      brought: the arrays that the layer was created with.

    >>> import jax, flax.nnx as nnx, naivenas_jax as nas
    >>> linear = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("fc", linear, x))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> bool((variables["params"]["fc"]["kernel"] == linear.kernel[...]).all())
    True
    """

    brought: Brought = field(compare=False, kw_only=True)

    @classmethod
    def of(cls, layer: nnx.Module, nin: tuple[int, ...], rule_of: RuleOf) -> NnxOp:
        """The op of a layer as a user made it."""
        own = nnx.clone(layer)
        disconnect(own)
        nnx.Module.eval(own)  # train= decides, not the mode that the layer was left in
        value, arrays = NnxLayer.split(own)
        return cls(value, nin, rule_of, brought=Brought(arrays))

    @cached_property
    def module(self) -> nnx.Module:
        """The layer with shapes in place of arrays."""
        return self._abstract()

    def _abstract(self) -> nnx.Module:
        values = self.brought.values
        return self.layer.merge({key: jax.ShapeDtypeStruct(value.shape, value.dtype) for key, value in values.items()})

    def with_attributes(self, sizes: Mapping[str, Any]) -> NnxLayer:
        if not sizes:
            return self.layer
        module = self._abstract()
        for attribute, size in sizes.items():
            *parents, name = attribute.split(".")
            setattr(reduce(getattr, parents, module), name, size)
        return NnxLayer.split(module)[0]

    # -- ties and sizes ----------------------------------------------------------------------------------------

    def tie(self, ports: tuple[Vector, ...], tying: Tying) -> Vector:
        where = repr("/".join(tying.scope))
        self._check_leaves(where)
        output = super().tie(ports, tying)
        for key, wanted in self._shapes(self.rule, tuple(len(port) for port in ports)).items():
            found = self.brought.shapes[key]
            if found != wanted:
                raise SizeMismatchError(
                    f"Vertex {where}: {key} of the layer has shape {found}, but by its rule "
                    f"{self.rule.leaves[key]!r} it must be {wanted} for inputs of {[len(port) for port in ports]} "
                    "neurons. Make the layer for this input, or correct the rule."
                )
        return output

    def _check_leaves(self, where: str) -> None:
        own, ruled = self.brought.shapes, self.rule.leaves
        for key in (*(key for key in own if key not in ruled), *(key for key in ruled if key not in own)):
            problem = "is not among leaves= of its rule" if key in own else "of its rule does not exist in the layer"
            raise GraphError(
                f"Vertex {where}: variable {key!r} {problem}. The {type(self.module).__name__} has "
                f"{', '.join(own) or 'no variables'}; the rule names {', '.join(ruled) or 'none'}. See docs/layers.md."
            )
        for key, shape in own.items():
            if len(parse(ruled[key]).axes) != len(shape):
                raise GraphError(
                    f"Vertex {where}: {key} has shape {shape}, and its pattern {ruled[key]!r} has "
                    f"{len(parse(ruled[key]).axes)} tokens. Give one token per dimension."
                )

    def _shapes(self, rule: LayerRule, ports: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """The shape of each variable with these inputs and the present size attributes."""
        named = {axis: self.size_of(attribute) for attribute, axis in rule.sizes.items()}
        sizes = {**named, **{f"in{i}": size for i, size in enumerate(ports)}}
        axes = {key: parse(text).axes for key, text in rule.leaves.items()}
        return {
            key: tuple(n if axis is None else sizes[axis] for axis, n in zip(axes[key], shape, strict=True))
            for key, shape in self.brought.shapes.items()
        }

    def resized(self, ports: tuple[int, ...], sizes: Mapping[str, int]) -> Self:
        op = super().resized(ports, sizes)
        if op is self:
            return self
        shapes = op._shapes(self.rule, ports)
        follow = {attribute: shapes[key] for attribute, key in self.rule.shapes.items()}
        return replace(op, layer=op.with_attributes(follow), brought=self.brought.fitted(shapes))

    # -- computing ---------------------------------------------------------------------------------------------

    def call(self, scope: Scope, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        values = {variable: self._read(scope, variable) for variable in self.brought.values}
        module = self.layer.merge(values)
        train = bool_of(kwargs.get("train", False))
        (nnx.Module.train if train else nnx.Module.eval)(module)
        connect(module, scope)
        given = self.call_keywords(kwargs)
        if scope.rngs and "rngs" in (self.keywords or ()):
            given.setdefault("rngs", streams(scope))
        output = module(*inputs, **given)
        if not scope.get_flag("initializing", False):  # as in linen, statistics stay as they are while initialising
            _write(scope, module, values)
        return output

    def _read(self, scope: Scope, variable: Variable) -> Any:
        inner, name = _place(scope, variable)
        if variable.collection == "params":
            return inner.param(name, lambda key: self._initial(variable, key))
        return inner.variable(
            variable.collection, name, lambda: self._initial(variable, inner.make_rng("params"))
        ).value

    def _initial(self, variable: Variable, key: jax.Array) -> Any:
        value, text = self.brought.values[variable], self.rule.leaves[variable.key]
        if not isinstance(value, jax.ShapeDtypeStruct):
            return jnp.array(value)  # a copy: variables may be donated, and the layer keeps its own
        default = _default_init(parse(text).roles, self.rule.new.get(variable.key, 0.0))
        return self.rule.initialisers.get(variable.key, default)(key, value.shape, value.dtype)


def _default_init(roles: tuple[str | None, ...], constant: float) -> Any:
    if "in" not in roles:
        return jax.nn.initializers.constant(constant)
    out = roles.index("out")
    return jax.nn.initializers.lecun_normal([i for i in range(len(roles)) if i != out], out)


def _place(scope: Scope, variable: Variable) -> tuple[Scope, str]:
    """The scope of the submodule that a variable belongs to, and its name there."""
    *parents, name = map(str, variable.path)
    for parent in parents:
        scope = scope.push(parent, reuse=True)
    return scope, name


def _write(scope: Scope, module: nnx.Module, values: Mapping[Variable, Any]) -> None:
    """Keep what the layer has changed."""
    for path, variable in nnx.to_flat_state(nnx.state(module)):
        if isinstance(variable, nnx.RngState):
            continue
        place = Variable(collection_of(type(variable)), path)
        changed = variable.get_raw_value() is not values.get(place)
        if changed and (scope.is_mutable_collection(place.collection) or place.collection not in _OPTIONAL):
            inner, name = _place(scope, place)
            inner.put_variable(place.collection, name, variable.get_raw_value())
