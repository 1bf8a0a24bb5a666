"""Normalisation layers. Statistics over the neurons couple them; statistics per neuron do not."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import flax.linen as nn
from flax import nnx

from naivenas_jax.graph.op import Identity
from naivenas_jax.layers.describe import as_tuple, describes, filled_with, initialisers, present, sizes
from naivenas_jax.layers.rule import LayerRule, Reasons, VariableKey

_LayerNorm: TypeAlias = nn.LayerNorm | nnx.LayerNorm | nn.RMSNorm | nnx.RMSNorm
_InstanceNorm: TypeAlias = nn.InstanceNorm | nnx.InstanceNorm
_GroupNorm: TypeAlias = nn.GroupNorm | nnx.GroupNorm
_BatchNorm: TypeAlias = nn.BatchNorm | nnx.BatchNorm

_OVER_NEURONS = "it normalises over the neurons"


@describes(nn.BatchNorm, nnx.BatchNorm)
def batch_norm(layer: _BatchNorm, nin: tuple[int, ...]) -> LayerRule:
    """In evaluation, ``y = (x - mean) / sqrt(var + epsilon) * scale + bias``."""
    del nin
    plain = as_tuple(layer.axis) == (-1,)
    return LayerRule(
        leaves={**_per_neuron(layer), "batch_stats/mean": "in", "batch_stats/var": "in"},
        sizes=sizes(layer, num_features="in"),
        new={"params/scale": 1.0, "batch_stats/var": 1.0},
        initialisers=initialisers(layer, "scale", "bias"),
        identity=_batch_norm_identity(layer),
        train=lambda train: {"use_running_average": not train},
        fixed=None if plain else "it normalises another axis than the last",
    )


def _per_neuron(layer: _BatchNorm | _LayerNorm | _InstanceNorm | _GroupNorm) -> dict[VariableKey, str]:
    """Scale and bias of each neuron, if the layer has them."""
    return present(scale=layer.use_scale and "in", bias=getattr(layer, "use_bias", False) and "in")


def _batch_norm_identity(layer: _BatchNorm) -> dict[VariableKey, Identity]:
    return {
        "params/scale": filled_with(1.0),
        "params/bias": filled_with(0.0),
        "batch_stats/mean": filled_with(0.0),
        "batch_stats/var": filled_with(1.0 - layer.epsilon),
    }


@describes(nn.LayerNorm, nnx.LayerNorm, nn.RMSNorm, nnx.RMSNorm)
def layer_norm(layer: _LayerNorm, nin: tuple[int, ...]) -> LayerRule:
    """Mean (or none, for RMSNorm) and variance over the last axis."""
    del nin
    plain = as_tuple(layer.reduction_axes) == (-1,) and as_tuple(layer.feature_axes) == (-1,)
    return _rule(layer, _OVER_NEURONS, None if plain else "it normalises over other axes than the last")


@describes(nn.InstanceNorm, nnx.InstanceNorm)
def instance_norm(layer: _InstanceNorm, nin: tuple[int, ...]) -> LayerRule:
    """Mean and variance of each neuron over all positions of an example: neurons stay independent."""
    del nin
    plain = as_tuple(layer.feature_axes) == (-1,)
    return _rule(layer, None, None if plain else "its features lie on other axes than the last")


@describes(nn.GroupNorm, nnx.GroupNorm)
def group_norm(layer: _GroupNorm, nin: tuple[int, ...]) -> LayerRule:
    """Mean and variance over the neurons of each of g groups, which are all equally large.

    The input's neurons are a product of the groups and of their width. Either may change, so that both attributes of
    the layer stay valid.
    """
    given = sizes(layer, num_groups="groups", group_size="width")
    groups = nin[0] // (layer.group_size or 1) if layer.num_groups is None else layer.num_groups
    rule = _rule(layer, {"width": "it normalises over the neurons of a group"}, None)
    return replace(
        rule,
        sizes={**rule.sizes, **given},
        inner={"groups": groups, "width": nin[0] // groups},
        composed={"in": "groups*width"},
    )


def _rule(layer: _LayerNorm | _InstanceNorm | _GroupNorm, coupled: Reasons, fixed: str | None) -> LayerRule:
    """What the layers without running statistics have in common."""
    return LayerRule(
        leaves=_per_neuron(layer),
        sizes=sizes(layer, num_features="in"),
        new={"params/scale": 1.0},
        initialisers=initialisers(layer, "scale", "bias"),
        coupled=coupled,
        fixed=fixed,
    )
