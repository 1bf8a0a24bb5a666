"""What the layers of ``flax.linen`` tie."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import numpy as np

from naivenas_jax.layers.registry import register_layer
from naivenas_jax.layers.rule import Identity, LayerRule


def present(**leaves: str | bool | None) -> dict[str, str]:
    """Parameters by name, without those that the layer does not have."""
    return {f"params/{name}": text for name, text in leaves.items() if isinstance(text, str)}


@register_layer(nn.Dense)
def _dense(layer: nn.Dense, nin: tuple[int, ...]) -> LayerRule:
    del nin
    return LayerRule(
        leaves=present(kernel="in out", bias=layer.use_bias and "out"),
        sizes={"features": "out"},
        initialisers={"params/kernel": layer.kernel_init, "params/bias": layer.bias_init},
        identity={"params/kernel": passing, "params/bias": constant(0.0)},
    )


@register_layer(nn.Conv)
def _conv(layer: nn.Conv, nin: tuple[int, ...]) -> LayerRule:
    kernel = (layer.kernel_size,) if isinstance(layer.kernel_size, int) else tuple(layer.kernel_size)
    spatial = "_ " * len(kernel)
    common: dict[str, Any] = {
        "initialisers": {"params/kernel": layer.kernel_init, "params/bias": layer.bias_init},
        "example": conv_example(layer),
    }
    if layer.feature_group_count == 1:
        return LayerRule(
            leaves=present(kernel=f"{spatial}in out", bias=layer.use_bias and "out"),
            sizes={"features": "out"},
            identity=conv_identity(layer),
            **common,
        )
    if layer.feature_group_count == layer.features == nin[0]:  # depthwise: each channel has a filter of its own
        return LayerRule(
            leaves=present(kernel=f"{spatial}_ in", bias=layer.use_bias and "in"),
            sizes={"features": "in", "feature_group_count": "in"},
            **common,
        )
    return LayerRule(
        leaves=present(kernel=f"{spatial}_ out", bias=layer.use_bias and "out"),
        sizes={"features": "out"},
        fixed=groups_reason(layer.feature_group_count),
        **common,
    )


def passing(shape: tuple[int, ...], passes: np.ndarray) -> np.ndarray:
    """A kernel ``(..., in, out)`` that passes neurons on at the centre of its window."""
    kernel = np.zeros(shape)
    kernel[tuple((size - 1) // 2 for size in shape[:-2])] = passes
    return kernel


def constant(value: float) -> Identity:
    """The same number everywhere."""
    return lambda shape, passes: np.full(shape, value)


def conv_identity(layer: Any) -> dict[str, Any]:
    """The identity of a convolution, if it keeps every position where it is."""
    one = all(stride in (None, 1) for stride in as_tuple(layer.strides)) and all(
        dilation in (None, 1) for dilation in as_tuple(layer.input_dilation)
    )
    extents = conv_example(layer)[1:]
    centred = all(  # a dilated window of even size has no tap at the position that its padding makes the centre
        (size - 1) // 2 * (extent - 1) == (extent - 1) // 2 * (size - 1)
        for size, extent in zip(as_tuple(layer.kernel_size), extents, strict=True)
    )
    if not one or not centred or layer.padding not in ("SAME", "CIRCULAR", "REFLECT"):
        return {}
    return {"params/kernel": passing, "params/bias": constant(0.0)}


def conv_example(layer: Any) -> tuple[int, ...]:
    """An input that the window fits into, without the channels."""
    return (1, *(spread(size, layer.kernel_dilation, i) for i, size in enumerate(as_tuple(layer.kernel_size))))


def groups_reason(groups: int) -> str:
    """Why a grouped convolution keeps its sizes."""
    return f"the channels of its {groups} groups cannot be changed one by one"


def as_tuple(value: Any) -> tuple[Any, ...]:
    """A number or sequence as a tuple."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def spread(size: int, dilation: Any, axis: int) -> int:
    """The extent of a dilated window."""
    factors = as_tuple(dilation)
    factor = factors[axis % len(factors)] or 1
    return (size - 1) * factor + 1


@register_layer(nn.BatchNorm)
def _batch_norm(layer: nn.BatchNorm, nin: tuple[int, ...]) -> LayerRule:
    del nin
    fixed = None if layer.axis in (-1, (-1,)) else "it normalises another axis than the last"
    return LayerRule(
        leaves={
            **present(scale=layer.use_scale and "in", bias=layer.use_bias and "in"),
            "batch_stats/mean": "in",
            "batch_stats/var": "in",
        },
        new={"params/scale": 1.0, "batch_stats/var": 1.0},
        initialisers={"params/scale": layer.scale_init, "params/bias": layer.bias_init},
        identity=batch_norm_identity(layer),
        train=lambda train: {"use_running_average": not train},
        fixed=fixed,
    )


def batch_norm_identity(layer: Any) -> dict[str, Identity]:
    """In evaluation, y = (x - mean) / sqrt(var + eps) * scale + bias."""
    return {
        "params/scale": constant(1.0),
        "params/bias": constant(0.0),
        "batch_stats/mean": constant(0.0),
        "batch_stats/var": constant(1.0 - layer.epsilon),
    }


@register_layer(nn.LayerNorm)
def _layer_norm(layer: nn.LayerNorm, nin: tuple[int, ...]) -> LayerRule:
    del nin
    plain = as_tuple(layer.reduction_axes) == (-1,) and as_tuple(layer.feature_axes) == (-1,)
    return LayerRule(
        leaves=present(scale=layer.use_scale and "in", bias=layer.use_bias and "in"),
        new={"params/scale": 1.0},
        initialisers={"params/scale": layer.scale_init, "params/bias": layer.bias_init},
        coupled="it normalises over the neurons",
        fixed=None if plain else "it normalises over other axes than the last",
    )


@register_layer(nn.Embed)
def _embed(layer: nn.Embed, nin: tuple[int, ...]) -> LayerRule:
    del nin
    return LayerRule(
        leaves=present(embedding="in out"),
        sizes={"num_embeddings": "in", "features": "out"},
        initialisers={"params/embedding": layer.embedding_init},
    )


register_layer(nn.Dropout, leaves={}, train=lambda train: {"deterministic": not train}, identity={})
