"""What the layers of ``flax.nnx`` tie. They bring their variables: see `naivenas_jax.layers.nnx_op`.

An nnx layer does not keep the initialisers it was made with, so that those given here are nnx's defaults.
"""

from __future__ import annotations

from typing import Any

from flax import nnx
from flax.nnx.nn import initializers

from naivenas_jax.layers.linen import (
    as_tuple,
    batch_norm_identity,
    constant,
    conv_example,
    conv_identity,
    groups_reason,
    passing,
    present,
)
from naivenas_jax.layers.nnx_op import NnxOp
from naivenas_jax.layers.registry import register_kind, register_layer
from naivenas_jax.layers.rule import LayerRule

register_kind(nnx.Module, NnxOp.of)

_LINEAR = {"params/kernel": initializers.lecun_normal(), "params/bias": initializers.zeros_init()}
_SCALE = {"params/scale": initializers.ones_init(), "params/bias": initializers.zeros_init()}


@register_layer(nnx.Linear)
def _linear(layer: nnx.Linear, nin: tuple[int, ...]) -> LayerRule:
    del nin
    return LayerRule(
        leaves=present(kernel="in out", bias=layer.use_bias and "out"),
        sizes={"in_features": "in", "out_features": "out"},
        initialisers=_LINEAR,
        identity={"params/kernel": passing, "params/bias": constant(0.0)},
    )


@register_layer(nnx.Conv)
def _conv(layer: nnx.Conv, nin: tuple[int, ...]) -> LayerRule:
    del nin
    spatial = "_ " * len(layer.kernel_size)
    common: dict[str, Any] = {
        "initialisers": _LINEAR,
        "shapes": {"kernel_shape": "params/kernel"},
        "example": conv_example(layer),
    }
    groups = layer.feature_group_count
    if groups == 1:
        return LayerRule(
            leaves=present(kernel=f"{spatial}in out", bias=layer.use_bias and "out"),
            sizes={"in_features": "in", "out_features": "out"},
            identity=conv_identity(layer),
            **common,
        )
    if groups == layer.in_features == layer.out_features:  # depthwise: each channel has a filter of its own
        return LayerRule(
            leaves=present(kernel=f"{spatial}_ in", bias=layer.use_bias and "in"),
            sizes={"in_features": "in", "out_features": "in", "feature_group_count": "in"},
            **common,
        )
    return LayerRule(
        leaves=present(kernel=f"{spatial}_ out", bias=layer.use_bias and "out"),
        sizes={"in_features": "in", "out_features": "out"},
        fixed=groups_reason(groups),
        **common,
    )


@register_layer(nnx.BatchNorm)
def _batch_norm(layer: nnx.BatchNorm, nin: tuple[int, ...]) -> LayerRule:
    del nin
    return LayerRule(
        leaves={
            **present(scale=layer.use_scale and "in", bias=layer.use_bias and "in"),
            "batch_stats/mean": "in",
            "batch_stats/var": "in",
        },
        sizes={"num_features": "in"},
        new={"params/scale": 1.0, "batch_stats/var": 1.0},
        initialisers=_SCALE,
        identity=batch_norm_identity(layer),
        fixed=None if as_tuple(layer.axis) == (-1,) else "it normalises another axis than the last",
    )


@register_layer(nnx.LayerNorm)
def _layer_norm(layer: nnx.LayerNorm, nin: tuple[int, ...]) -> LayerRule:
    del nin
    plain = as_tuple(layer.reduction_axes) == (-1,) and as_tuple(layer.feature_axes) == (-1,)
    return LayerRule(
        leaves=present(scale=layer.use_scale and "in", bias=layer.use_bias and "in"),
        sizes={"num_features": "in"},
        new={"params/scale": 1.0},
        initialisers=_SCALE,
        coupled="it normalises over the neurons",
        fixed=None if plain else "it normalises over other axes than the last",
    )


register_layer(
    nnx.Embed,
    leaves={"params/embedding": "in out"},
    sizes={"num_embeddings": "in", "features": "out"},
    # as nnx.Embed: variance scaling over the features
    initialisers={"params/embedding": initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)},
)
register_layer(nnx.Dropout, leaves={}, identity={})
