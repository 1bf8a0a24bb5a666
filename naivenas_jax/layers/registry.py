"""The registry: which kinds of layers are known, and the rule of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

from naivenas_jax.errors import GraphError, UnregisteredLayerError
from naivenas_jax.layers.rule import LayerRule, RuleOf
from naivenas_jax.sizes.tying import Tying

RuleOfT = TypeVar("RuleOfT", bound=RuleOf)

_registry: dict[type, RuleOf] = {}
#: For rules that tie more where sizes happen to be one, those that hold for all sizes.
_general: dict[RuleOf, RuleOf] = {}


@overload
def register_layer(layer_type: type) -> Callable[[RuleOfT], RuleOfT]: ...
@overload
def register_layer(layer_type: type, rule: LayerRule | RuleOf) -> None: ...
@overload
def register_layer(layer_type: type, rule: None = None, **fields: Any) -> None: ...
def register_layer(
    layer_type: type, rule: LayerRule | RuleOf | None = None, **fields: Any
) -> Callable[[RuleOfT], RuleOfT] | None:
    """Say what a new kind of layer ties, so that `layer` makes vertices of it.

    The rule can be given in three ways: as the fields of a `LayerRule`, as keywords; as a `LayerRule`; or as a function
    that makes one, for layers whose variables depend on their configuration. ``@register_layer(LayerType)`` decorates
    such a function. A second registration of the same class replaces the first.

    Args:
      layer_type: a linen or nnx layer class. Its subclasses are not covered: they may compute something else.
      rule: a `LayerRule`, or a function ``(layer, nin) -> LayerRule``, where ``layer`` is the layer (an nnx layer with
        shapes in place of arrays) and ``nin`` a tuple with the number of neurons of each input.
      **fields: fields of `LayerRule`, in place of ``rule``.

    Returns:
      None; without ``rule`` and ``fields`` a decorator, which registers the function that it is given and returns it.

    Raises:
      GraphError: if ``layer_type`` is no class, if both a rule and fields are given, if a field is unknown, or if
        ``rule`` is neither a `LayerRule` nor a function.

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
    if rule is not None and fields:
        raise GraphError("register_layer takes a rule or the fields of one, not both.")
    if rule is None and not fields:
        return _registering(layer_type)
    rule = _rule_with(fields) if rule is None else rule
    _register(layer_type, _constant(rule) if isinstance(rule, LayerRule) else rule)
    return None


def _register(layer_type: type, rule_of: RuleOf) -> None:
    if not callable(rule_of):
        raise GraphError(
            f"The rule of {layer_type.__name__} must be a LayerRule, or a function (layer, nin) -> LayerRule; "
            f"found {rule_of!r:.80}."
        )
    _registry[layer_type] = rule_of
    Tying.rules_known += 1


def _registering(layer_type: type) -> Callable[[RuleOfT], RuleOfT]:
    def register(rule_of: RuleOfT) -> RuleOfT:
        _register(layer_type, rule_of)
        return rule_of

    return register


def _constant(rule: LayerRule) -> RuleOf:
    return lambda layer, nin: rule


def _rule_with(fields: Mapping[str, Any]) -> LayerRule:
    known = [field.name for field in dataclasses.fields(LayerRule)]
    unknown = fields.keys() - known
    if unknown:
        raise GraphError(
            f"register_layer does not know {min(unknown)!r}. The fields of a rule are: {', '.join(known)}."
        )
    return LayerRule(**fields)


def registered_rule(kind: type, name: str) -> RuleOf:
    """The registered function that makes the rule of a layer of this type.

    Args:
      kind: the type of the layer.
      name: the vertex or layer to name in the error.

    Raises:
      UnregisteredLayerError: if nobody has said what a layer of this type ties; the message says how.
    """
    if kind not in _registry:
        raise UnregisteredLayerError(_how_to_register(name, kind))
    return _registry[kind]


def generalises(rule_of: RuleOf) -> Callable[[RuleOfT], RuleOfT]:
    """The decorated function makes the rules that ``rule_of`` makes for most sizes, but for all sizes.

    Both describe the same computation. Where a size is one, ``rule_of`` may have fewer handles: a convolution of groups
    of one channel is depthwise. Networks that came there by a change of widths have the general rule in common.
    """

    def register(general: RuleOfT) -> RuleOfT:
        _general[rule_of] = general
        return general

    return register


def general_rule(rule_of: RuleOf) -> RuleOf:
    """The function that makes rules for all sizes; ``rule_of`` itself if it makes them."""
    return _general.get(rule_of, rule_of)


def rule_of(layer: object, nin: tuple[int, ...]) -> LayerRule:
    """The rule of a layer inside another one.

    Args:
      layer: the inner layer.
      nin: the number of neurons of each of its inputs.

    Raises:
      UnregisteredLayerError: if nobody has said what a layer of its type ties.
    """
    return registered_rule(type(layer), type(layer).__name__)(layer, nin)


def registered_layers() -> dict[type, RuleOf]:
    """The function that makes the rule, for every registered type of layer."""
    return dict(_registry)


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
