"""An nnx layer as the computation of a vertex: its arrays live in the variables of the graph, the rest is a value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import jax
import jax.numpy as jnp
from flax import nnx
from flax.core import Scope

from naivenas_jax.errors import GraphError, SizeMismatchError
from naivenas_jax.layers.attributes import set_attribute
from naivenas_jax.layers.ops.layer_op import LayerOp, bool_of, with_composed
from naivenas_jax.layers.ops.nnx_streams import connect, disconnect, streams
from naivenas_jax.layers.ops.nnx_value import LayerArray, NnxLayer, VariablePlace, collection_of
from naivenas_jax.layers.rule import RuleOf, by_path, variable_path
from naivenas_jax.paths import Path, path_text
from naivenas_jax.sizes.ties import Initialiser
from naivenas_jax.sizes.tying import Tying
from naivenas_jax.sizes.vector import Vector
from naivenas_jax.typing import PyTree

#: Collections that a layer may write to in vain, as in linen: nobody asked to see them.
_OPTIONAL = ("params", "intermediates", "perturbations")


@dataclass(frozen=True, eq=False)
class CreatedArrays:
    """The arrays that a layer was created with. Compared by identity, and no part of the layer's value.

    Attributes:
      values: the arrays by variable. A `jax.ShapeDtypeStruct` stands where there is no array, since a change has given
        it another shape.
    """

    values: Mapping[VariablePlace, LayerArray]

    @property
    def shapes(self) -> dict[Path, tuple[int, ...]]:
        """The shape of each variable by its path in the variables of the layer."""
        return {place.names: tuple(value.shape) for place, value in self.values.items()}

    def abstract(self) -> dict[VariablePlace, LayerArray]:
        """Shapes in place of all arrays."""
        return {place: jax.ShapeDtypeStruct(value.shape, value.dtype) for place, value in self.values.items()}

    def fitted(self, shapes: Mapping[Path, tuple[int, ...]]) -> CreatedArrays:
        """The arrays of these shapes; in place of the others only their new shape."""
        return CreatedArrays({place: _fitted(value, shapes[place.names]) for place, value in self.values.items()})


def _fitted(value: LayerArray, shape: tuple[int, ...]) -> LayerArray:
    return value if tuple(value.shape) == shape else jax.ShapeDtypeStruct(shape, value.dtype)


@dataclass(frozen=True)
class NnxOp(LayerOp):
    """An nnx layer: equal to another if the layers have the same configuration, whatever their arrays.

    ``graph.init`` returns the arrays that the layer was created with. Where a change of width has given a variable
    another shape, the initialiser of the rule makes a new one.

    Attributes:
      created: the arrays that the layer was created with.

    >>> import jax, flax.nnx as nnx, naivenas_jax as nas
    >>> linear = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("fc", linear, x))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> bool((variables["params"]["fc"]["kernel"] == linear.kernel[...]).all())
    True
    """

    layer: NnxLayer
    created: CreatedArrays = field(compare=False, kw_only=True)

    @classmethod
    def of(cls, layer: nnx.Module, nin: tuple[int, ...], rule_of: RuleOf) -> NnxOp:
        """The op of a layer as a user made it.

        Raises:
          GraphError: if an attribute cannot be hashed, or if an array lies outside of an ``nnx.Variable``.
        """
        own = nnx.clone(layer)
        disconnect(own)
        _set_mode(own, train=False)  # train= decides, not the mode that the layer was left in
        value, arrays = NnxLayer.split(own)
        return cls(value, nin, rule_of, created=CreatedArrays(arrays))

    @cached_property
    def module(self) -> nnx.Module:
        """The layer with shapes in place of arrays."""
        return self._abstract()

    def _abstract(self) -> nnx.Module:
        return self.layer.merge(self.created.abstract())

    def with_attributes(
        self, attributes: Mapping[str, object], then: Callable[[object], object] | None = None
    ) -> NnxLayer:
        """The layer value with other values of some attributes, then changed further by a function."""
        if not attributes and then is None:
            return self.layer
        module: object = self._abstract()
        for attribute, value in attributes.items():
            set_attribute(module, attribute.split("."), value)
        module = module if then is None else then(module)
        assert isinstance(module, nnx.Module)
        return NnxLayer.split(module)[0]

    # -- ties and sizes ----------------------------------------------------------------------------------------

    def declare(self, ports: tuple[Vector, ...], tying: Tying) -> Vector:
        """As for every layer; besides, the rule has to fit the arrays that the layer brings."""
        where = repr(path_text(tying.scope))
        self._check_leaves(where)
        output = super().declare(ports, tying)
        for path, wanted in self._shapes(tuple(len(port) for port in ports), {}).items():
            found = self.created.shapes[path]
            if found != wanted:
                raise SizeMismatchError(
                    f"Vertex {where}: {path_text(path)} of the layer has shape {found}, but by its rule it must be "
                    f"{wanted} for inputs of {[len(port) for port in ports]} neurons. Make the layer for this input, "
                    "or correct the rule."
                )
        return output

    def _check_leaves(self, where: str) -> None:
        own, ruled = self.created.shapes, self.rule.patterns
        for path in (*(path for path in own if path not in ruled), *(path for path in ruled if path not in own)):
            problem = "is not among leaves= of its rule" if path in own else "of its rule does not exist in the layer"
            raise GraphError(
                f"Vertex {where}: variable {path_text(path)!r} {problem}. The {type(self.module).__name__} has "
                f"{_listed(own) or 'no variables'}; the rule names {_listed(ruled) or 'none'}. See docs/layers.md."
            )
        for path, shape in own.items():
            if len(ruled[path].axes) != len(shape):
                raise GraphError(
                    f"Vertex {where}: {path_text(path)} has shape {shape}, and its pattern has "
                    f"{len(ruled[path].axes)} tokens. Give one token per dimension."
                )

    def _shapes(self, ports: tuple[int, ...], changed: Mapping[str, int]) -> dict[Path, tuple[int, ...]]:
        """The shape of each variable with these inputs, and other sizes of axes than now where they have changed."""
        sizes = self.sizes_now(ports)
        sizes |= {axis: changed[axis] for axis in sizes if axis in changed}
        sizes = with_composed(self.rule, sizes)
        return {path: self.rule.patterns[path].shape(sizes, shape) for path, shape in self.created.shapes.items()}

    def resized(self, ports: tuple[int, ...], sizes: Mapping[str, int], **keywords: object) -> Self:
        """The same layer for other sizes; arrays that keep their shape are kept."""
        shapes, op = self._shapes(ports, sizes), super().resized(ports, sizes, **keywords)
        if op is self and shapes == self.created.shapes:
            return self
        layer = op.with_attributes(self._shape_attributes(shapes))
        return replace(op, layer=layer, created=self.created.fitted(shapes))

    def reshaped(self, attributes: Mapping[str, object], dims: Mapping[Path, tuple[int, ...]]) -> Self:
        """The same layer with other attributes, which change the first dimensions of some variables."""
        found = self.created.shapes
        shapes = {path: (*dims.get(path, ()), *shape[len(dims.get(path, ())) :]) for path, shape in found.items()}
        layer = self.with_attributes({**attributes, **self._shape_attributes(shapes)})
        return replace(self, layer=layer, created=self.created.fitted(shapes))

    def _shape_attributes(self, shapes: Mapping[Path, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """What the attributes that hold the shape of a variable become."""
        return {attribute: shapes[variable_path(key)] for attribute, key in self.rule.shapes.items()}

    # -- computing ---------------------------------------------------------------------------------------------

    def bound(self, scope: Scope) -> nnx.Module:
        """The layer with the variables that live in ``scope``."""
        return self.layer.merge(self._values(scope))

    def call(self, scope: Scope, inputs: tuple[PyTree, ...], kwargs: Mapping[str, object]) -> PyTree:
        """Call the layer, and keep the variables that it has changed."""
        values = self._values(scope)
        module = self.layer.merge(values)
        _set_mode(module, train=bool_of(kwargs.get("train", False)))
        connect(module, scope)
        given = self.call_keywords(kwargs)
        own = getattr(module, "rngs", None) is not None  # a stream of its own, which is connected
        if scope.rngs and not own and "rngs" in (self.keywords or ()):
            given.setdefault("rngs", streams(scope))
        assert callable(module)
        output = module(*inputs, **given)
        if not scope.get_flag("initializing", False):  # as in linen, statistics stay as they are while initialising
            _write(scope, module, values)
        return output

    def _values(self, scope: Scope) -> dict[VariablePlace, LayerArray]:
        return {place: self._read(scope, place) for place in self.created.values}

    def _read(self, scope: Scope, place: VariablePlace) -> LayerArray:
        inner, name = _scope_of(scope, place)
        if place.collection == "params":
            value: LayerArray = inner.param(name, lambda key: self._initial(place, key))
        else:
            value = inner.variable(place.collection, name, lambda: self._initial(place, inner.make_rng("params"))).value
        return value

    def _initial(self, place: VariablePlace, key: jax.Array) -> LayerArray:
        value, rule, path = self.created.values[place], self.rule, place.names
        if not isinstance(value, jax.ShapeDtypeStruct):
            return jnp.array(value)  # a copy: variables may be donated, and the layer keeps its own
        default = _default_initialiser(rule.patterns[path].roles, by_path(rule.new).get(path, 0.0))
        return by_path(rule.initialisers).get(path, default)(key, value.shape, value.dtype)


def _set_mode(module: nnx.Module, *, train: bool) -> None:
    if train:  # functions of the class: a layer may have an attribute of that name
        nnx.Module.train(module)
    else:
        nnx.Module.eval(module)


def _listed(paths: Iterable[Path]) -> str:
    return ", ".join(map(path_text, paths))


def _default_initialiser(roles: tuple[str | None, ...], constant: float) -> Initialiser:
    if "in" not in roles:
        return jax.nn.initializers.constant(constant)
    out = [i for i, role in enumerate(roles) if role == "out"]
    return jax.nn.initializers.lecun_normal([i for i in range(len(roles)) if i not in out], out)


def _scope_of(scope: Scope, place: VariablePlace) -> tuple[Scope, str]:
    """The scope of the submodule that a variable belongs to, and its name there."""
    _, *parents, name = place.names
    for parent in parents:
        scope = scope.push(parent, reuse=True)
    return scope, name


def _write(scope: Scope, module: nnx.Module, values: Mapping[VariablePlace, LayerArray]) -> None:
    """Keep what the layer has changed."""
    for path, variable in nnx.to_flat_state(nnx.state(module)):
        if isinstance(variable, nnx.RngState):
            continue
        place = VariablePlace(collection_of(type(variable)), path)
        changed = variable.get_raw_value() is not values.get(place)
        if changed and (scope.is_mutable_collection(place.collection) or place.collection not in _OPTIONAL):
            inner, name = _scope_of(scope, place)
            inner.put_variable(place.collection, name, variable.get_raw_value())
