"""How the rules of Flax's layers are written: one description serves linen and nnx, which differ in three things.

- A size is an attribute of one name in linen and of another in nnx: `sizes` takes both and keeps what the layer has.
- A linen layer keeps its initialisers, an nnx layer does not: `initialisers` takes nnx's default.
- An nnx layer may keep the shape of a variable: `shapes`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import numpy as np
from flax.nnx.nn import initializers

from naivenas_jax.graph.op import Identity
from naivenas_jax.layers.registry import register_layer
from naivenas_jax.layers.rule import RuleOf, VariableKey
from naivenas_jax.sizes.ties import Initialiser

T = TypeVar("T")
RuleOfT = TypeVar("RuleOfT", bound=RuleOf)

#: What nnx initialises parameters of these names with, unless told otherwise.
_DEFAULTS: dict[str, Initialiser] = {
    "kernel": initializers.lecun_normal(),
    "bias": initializers.zeros_init(),
    "scale": initializers.ones_init(),
    "embedding": initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0),
}


def describes(*layer_types: type) -> Callable[[RuleOfT], RuleOfT]:
    """The decorated function makes the rules of all these layers."""

    def register(rule_of: RuleOfT) -> RuleOfT:
        for layer_type in layer_types:
            register_layer(layer_type, rule_of)
        return rule_of

    return register


def present(**leaves: str | bool | None) -> dict[VariableKey, str]:
    """The patterns of parameters by name; False or None stands for a parameter that the layer does not have."""
    return {f"params/{name}": text for name, text in leaves.items() if isinstance(text, str)}


def sizes(layer: object, **axes: str) -> dict[str, str]:
    """The axis that each attribute is the size of, for the attributes that the layer has."""
    return {attribute: axis for attribute, axis in axes.items() if getattr(layer, attribute, None) is not None}


def initialisers(layer: object, *names: str) -> dict[VariableKey, Initialiser]:
    """The initialiser of each parameter: the layer's own, or nnx's default."""
    return {f"params/{name}": getattr(layer, f"{name}_init", _DEFAULTS[name]) for name in names}


def shapes(layer: object, **variables: str) -> dict[str, VariableKey]:
    """The variable whose shape each attribute holds, for the attributes that an nnx layer has; none in linen."""
    return {
        attribute: key for attribute, key in variables.items() if hasattr(layer, "kernel") and hasattr(layer, attribute)
    }


def as_tuple(value: T | Sequence[T]) -> tuple[T, ...]:
    """A list or tuple as a tuple, and anything else as a tuple of one."""
    return tuple(value) if isinstance(value, list | tuple) else (cast(T, value),)  # Flax takes no other sequences


def filled_with(value: float) -> Identity:
    """The same number everywhere."""
    return lambda shape, passes: np.full(shape, value)
