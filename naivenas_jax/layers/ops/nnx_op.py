"""An nnx layer as the computation of a vertex: its arrays live in the variables of the graph, the rest is a value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import nnx
from flax.core import Scope

from naivenas_jax.errors import GraphError, SizeMismatchError
from naivenas_jax.graph.vertices.expression import is_name, size_of
from naivenas_jax.layers.attributes import set_attribute
from naivenas_jax.layers.ops.layer_op import LayerOp, RuleOf, bool_of
from naivenas_jax.layers.ops.nnx_streams import connect, disconnect, streams
from naivenas_jax.layers.ops.nnx_value import NnxLayer, Variable, collection_of
from naivenas_jax.layers.rule import by_path, port_name
from naivenas_jax.paths import Path
from naivenas_jax.sizes.blocks import Vector
from naivenas_jax.sizes.tying import Tying

#: Collections that a layer may write to in vain, as in linen: nobody asked to see them.
_OPTIONAL = ("params", "intermediates", "perturbations")


@dataclass(frozen=True, eq=False)
class Brought:
    """The arrays that a layer was created with, by variable. Compared by identity, and no part of the layer's value.

    A `jax.ShapeDtypeStruct` stands where there is no array, since a change made its shape another one.
    """

    values: Mapping[Variable, Any]

    @property
    def shapes(self) -> dict[Path, tuple[int, ...]]:
        """The shape of each variable by its path in the variables of the layer."""
        return {variable.names: tuple(value.shape) for variable, value in self.values.items()}

    def fitted(self, shapes: Mapping[Path, tuple[int, ...]]) -> Brought:
        """The arrays of these shapes; in place of the others only their new shape."""
        return Brought({variable: _fitted(value, shapes[variable.names]) for variable, value in self.values.items()})


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

    def with_attributes(self, sizes: Mapping[str, Any], then: Callable[[Any], Any] | None = None) -> NnxLayer:
        if not sizes and then is None:
            return self.layer
        module = self._abstract()
        for attribute, size in sizes.items():
            set_attribute(module, attribute.split("."), size)
        return NnxLayer.split(module if then is None else then(module))[0]

    # -- ties and sizes ----------------------------------------------------------------------------------------

    def tie(self, ports: tuple[Vector, ...], tying: Tying) -> Vector:
        where = repr("/".join(tying.scope))
        self._check_leaves(where)
        output = super().tie(ports, tying)
        for path, wanted in self._shapes(tuple(len(port) for port in ports), {}).items():
            found = self.brought.shapes[path]
            if found != wanted:
                raise SizeMismatchError(
                    f"Vertex {where}: {'/'.join(path)} of the layer has shape {found}, but by its rule it must be "
                    f"{wanted} for inputs of {[len(port) for port in ports]} neurons. Make the layer for this input, "
                    "or correct the rule."
                )
        return output

    def _check_leaves(self, where: str) -> None:
        own, ruled = self.brought.shapes, self.rule.patterns
        for path in (*(path for path in own if path not in ruled), *(path for path in ruled if path not in own)):
            problem = "is not among leaves= of its rule" if path in own else "of its rule does not exist in the layer"
            raise GraphError(
                f"Vertex {where}: variable {'/'.join(path)!r} {problem}. The {type(self.module).__name__} has "
                f"{_listed(own) or 'no variables'}; the rule names {_listed(ruled) or 'none'}. See docs/layers.md."
            )
        for path, shape in own.items():
            if len(ruled[path].axes) != len(shape):
                raise GraphError(
                    f"Vertex {where}: {'/'.join(path)} has shape {shape}, and its pattern has "
                    f"{len(ruled[path].axes)} tokens. Give one token per dimension."
                )

    def _shapes(self, ports: tuple[int, ...], changed: Mapping[str, int]) -> dict[Path, tuple[int, ...]]:
        """The shape of each variable with these inputs, and other sizes of axes than now where they have changed."""
        rule = self.rule
        sizes = {port_name(axis): self.size_of(attribute) for attribute, axis in rule.sizes.items() if is_name(axis)}
        sizes |= {**rule.inner, **{f"in{i}": size for i, size in enumerate(ports)}}
        sizes |= {axis: changed[axis] for axis in sizes if axis in changed}
        for axis, text in rule.composed.items():
            sizes[port_name(axis)] = size_of(text, sizes)
        return {path: rule.patterns[path].shape(sizes, shape) for path, shape in self.brought.shapes.items()}

    def resized(self, ports: tuple[int, ...], sizes: Mapping[str, int], **keywords: Any) -> Self:
        shapes, op = self._shapes(ports, sizes), super().resized(ports, sizes, **keywords)
        if op is self and shapes == self.brought.shapes:
            return self
        follow = {attribute: shapes[path] for attribute, path in _paths_of(self.rule.shapes).items()}
        return replace(op, layer=op.with_attributes(follow), brought=self.brought.fitted(shapes))

    def reshaped(self, attributes: Mapping[str, Any], dims: Mapping[Path, tuple[int, ...]]) -> Self:
        found = self.brought.shapes
        shapes = {path: (*dims.get(path, ()), *shape[len(dims.get(path, ())) :]) for path, shape in found.items()}
        follow = {attribute: shapes[path] for attribute, path in _paths_of(self.rule.shapes).items()}
        layer = self.with_attributes({**attributes, **follow})
        return replace(self, layer=layer, brought=self.brought.fitted(shapes))

    # -- computing ---------------------------------------------------------------------------------------------

    def bound(self, scope: Scope) -> nnx.Module:
        return self.layer.merge({variable: self._read(scope, variable) for variable in self.brought.values})

    def call(self, scope: Scope, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        values = {variable: self._read(scope, variable) for variable in self.brought.values}
        module = self.layer.merge(values)
        train = bool_of(kwargs.get("train", False))
        (nnx.Module.train if train else nnx.Module.eval)(module)
        connect(module, scope)
        given = self.call_keywords(kwargs)
        own = getattr(module, "rngs", None) is not None  # a stream of its own, which is connected
        if scope.rngs and not own and "rngs" in (self.keywords or ()):
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
        value, rule, path = self.brought.values[variable], self.rule, variable.names
        if not isinstance(value, jax.ShapeDtypeStruct):
            return jnp.array(value)  # a copy: variables may be donated, and the layer keeps its own
        default = _default_init(rule.patterns[path].roles, by_path(rule.new).get(path, 0.0))
        return by_path(rule.initialisers).get(path, default)(key, value.shape, value.dtype)


def _listed(paths: Iterable[Path]) -> str:
    return ", ".join(map("/".join, paths))


def _paths_of(shapes: Mapping[str, Any]) -> dict[str, Path]:
    """The variable whose shape each attribute holds, by path."""
    return {attribute: next(iter(by_path({key: None}))) for attribute, key in shapes.items()}


def _default_init(roles: tuple[str | None, ...], constant: float) -> Any:
    if "in" not in roles:
        return jax.nn.initializers.constant(constant)
    out = [i for i, role in enumerate(roles) if role == "out"]
    return jax.nn.initializers.lecun_normal([i for i in range(len(roles)) if i not in out], out)


def _place(scope: Scope, variable: Variable) -> tuple[Scope, str]:
    """The scope of the submodule that a variable belongs to, and its name there."""
    _, *parents, name = variable.names
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
