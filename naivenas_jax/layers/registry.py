"""The registry: which kinds of layers are known, and `layer`, which makes a vertex of one."""

from __future__ import annotations

import copyreg
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn

from naivenas_jax.errors import GraphError, UnregisteredLayerError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.vertex import Vertex, vertices_only
from naivenas_jax.graph.vertices.subgraph import graph_vertex
from naivenas_jax.layers.ops.layer_op import LayerOp, LinenOp
from naivenas_jax.layers.rule import LayerRule

RuleOf = Callable[[Any, tuple[int, ...]], LayerRule]


@dataclass(frozen=True)
class Registration:
    """How layers of one type become vertices."""

    rule: RuleOf


_registry: dict[type, Registration] = {}
#: How a kind of layer library makes an op of a layer: (base class, constructor). Integrations register inward.
_kinds: dict[type, Callable[[Any, tuple[int, ...], RuleOf], LayerOp]] = {nn.Module: LinenOp.of}


def register_kind(base: type, make: Callable[[Any, tuple[int, ...], RuleOf], LayerOp]) -> None:
    """Teach the library how layers derived from ``base`` are called and keep their variables."""
    _kinds[base] = make


def register_layer(layer_type: type, rule: LayerRule | RuleOf | None = None, **fields: Any) -> Any:
    """Say what a new kind of layer ties.

    Args:
      layer_type: a linen or nnx layer class. Subclasses are not covered: they may compute something else.
      rule: a `LayerRule`, or a function ``(layer, nin) -> LayerRule`` for layers whose variables depend on their
        configuration. Left out, the fields of `LayerRule` are given as keywords, or the result is a decorator.
      **fields: fields of `LayerRule`.

    >>> import flax.linen as nn, naivenas_jax as nas
    >>> class Scale(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         return x * self.param("scale", nn.initializers.ones, (x.shape[-1],))
    >>> nas.register_layer(Scale, leaves={"params/scale": "in"}, new={"params/scale": 1.0})
    >>> nas.layer("scale", Scale(), nas.input_vertex("x", 3)).nout
    3
    """
    if not isinstance(layer_type, type):
        raise GraphError(f"register_layer takes a layer class, found {layer_type!r:.80}.")
    if rule is None and not fields:
        return lambda function: (register_layer(layer_type, function), function)[1]
    if rule is not None and fields:
        raise GraphError("register_layer takes a rule or the fields of one, not both.")
    unknown = set(fields) - {field.name for field in dataclasses.fields(LayerRule)}
    if unknown:
        raise GraphError(
            f"register_layer does not know {min(unknown)!r}. The fields of a rule are: "
            f"{', '.join(field.name for field in dataclasses.fields(LayerRule))}."
        )
    known = LayerRule(**fields) if rule is None else rule
    _registry[layer_type] = Registration(known if callable(known) else lambda layer, nin: known)
    return None


def layer(name: str, flax_module: Any, *inputs: Vertex) -> Vertex:
    """A Flax layer as a vertex; what it ties comes from the registry. A whole `Graph` is welcome too.

    Args:
      name: name of the vertex; its variables are found under it, ``variables["params"][name]``.
      flax_module: a linen or nnx layer of a registered kind, or a `Graph` with one output.
      *inputs: the vertices it reads.

    Raises:
      UnregisteredLayerError: if nobody has said what such a layer ties; the message says how.
      SizeMismatchError: if the layer has been made for another input size.

    >>> import flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> nas.layer("conv", nn.Conv(8, (3, 3)), x)
    Vertex('conv', Conv(3 -> 8), inputs=[x], nout=8)
    """
    if isinstance(flax_module, Graph):
        return graph_vertex(name, flax_module, *inputs)
    make = next((make for base, make in _kinds.items() if isinstance(flax_module, base)), None)
    if isinstance(flax_module, type):
        raise UnregisteredLayerError(
            f"Vertex {name!r} needs a layer, found the class {flax_module.__name__}. "
            f"Make one: {flax_module.__name__}(...)."
        )
    if make is None:
        raise UnregisteredLayerError(
            f"Vertex {name!r} needs a Flax layer (linen or nnx), found {type(flax_module).__name__}: "
            f"{flax_module!r:.80}. For a plain function use nas.invariant_vertex, nas.absorb_vertex or "
            "nas.immutable_vertex."
        )
    if not inputs:
        raise GraphError(f"Vertex {name!r} needs at least one input vertex.")
    vertices_only(name, inputs)
    registration = _registry.get(type(flax_module))
    if registration is None:
        raise UnregisteredLayerError(_how_to_register(name, type(flax_module)))
    if hasattr(flax_module, "initialize_carry"):
        raise GraphError(
            f"Vertex {name!r}: a {type(flax_module).__name__} has a state, and computes one step. Put it into a layer "
            "that runs it along a sequence: nn.RNN(cell), nnx.RNN(cell)."
        )
    _check_arity(name, type(flax_module), len(inputs))
    return Vertex(name, make(flax_module, tuple(source.nout for source in inputs), registration.rule), inputs)


def _check_arity(name: str, kind: type, count: int) -> None:
    signature = inspect.signature(kind.__call__)
    positional = [each for each in signature.parameters.values() if each.kind is not each.KEYWORD_ONLY]
    try:
        signature.replace(parameters=positional).bind(None, *[None] * count)
    except TypeError as error:
        raise GraphError(
            f"Vertex {name!r}: a {kind.__name__} cannot be called with {count} input{'s' * (count != 1)}: {error}. "
            "Join them first, with nas.concat or +."
        ) from error


def rule_of(layer: Any, nin: tuple[int, ...]) -> LayerRule:
    """The rule of a layer inside another one.

    Raises:
      UnregisteredLayerError: if nobody has said what such a layer ties.
    """
    if type(layer) not in _registry:
        raise UnregisteredLayerError(_how_to_register(type(layer).__name__, type(layer)))
    return _registry[type(layer)].rule(layer, nin)


def registered_layers() -> Mapping[type, Registration]:
    """All layer types that `layer` accepts."""
    return dict(_registry)


@dataclass(frozen=True)
class _Parts:
    """A linen layer for pickle. Fields at their default are left out: Flax's own functions cannot all be pickled."""

    kind: type
    attributes: Mapping[str, Any]


def _reduced(op: LinenOp) -> tuple[Any, ...]:
    return _restored, (_apart(op.layer), op.nin)


def _apart(value: Any) -> Any:
    """Layers, and layers inside them, as parts."""
    if type(value) is tuple:
        return tuple(map(_apart, value))
    if not isinstance(value, nn.Module):
        return value
    fields = [each for each in dataclasses.fields(value) if each.init and each.name not in ("parent", "name")]
    own = {each.name: getattr(value, each.name) for each in fields if getattr(value, each.name) is not each.default}
    return _Parts(type(value), {name: _apart(item) for name, item in own.items()})


def _whole(value: Any) -> Any:
    if type(value) is tuple:
        return tuple(map(_whole, value))
    if not isinstance(value, _Parts):
        return value
    return value.kind(**{name: _whole(item) for name, item in value.attributes.items()}, parent=None)


def _restored(parts: _Parts, nin: tuple[int, ...]) -> LinenOp:
    if parts.kind not in _registry:
        raise UnregisteredLayerError(_how_to_register("read from a file", parts.kind))
    return LinenOp(_whole(parts), nin, _registry[parts.kind].rule)


copyreg.pickle(LinenOp, _reduced)


def _how_to_register(name: str, kind: type) -> str:
    full = f"{kind.__module__}.{kind.__qualname__}"
    return (
        f"Vertex {name!r}: nobody has said what a layer of type {full} ties, and guessing could be silently wrong. "
        f"Register it, for example\n\n"
        f"    nas.register_layer({kind.__name__},\n"
        f'        leaves={{"params/kernel": "in out", "params/bias": "out"}},  # what lies on each dimension\n'
        f'        sizes={{"features": "out"}})                              # attributes that hold a size\n\n'
        "or, if neuron i of its output depends on neuron i of its input only,\n\n"
        f'    nas.register_layer({kind.__name__}, leaves={{"params/scale": "in"}})\n\n'
        "See docs/layers.md."
    )
