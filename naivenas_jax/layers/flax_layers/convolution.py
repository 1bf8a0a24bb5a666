"""Convolutions: plain, grouped, depthwise, transposed, and those with weights of their own at every position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import flax.linen as nn
import numpy as np
from flax import nnx

from naivenas_jax.graph.op import Identity
from naivenas_jax.layers.describe import as_tuple, describes, filled_with, initialisers, present, shapes, sizes
from naivenas_jax.layers.registry import generalises
from naivenas_jax.layers.rule import LayerRule, VariableKey

_Conv: TypeAlias = nn.Conv | nnx.Conv
_ConvTranspose: TypeAlias = nn.ConvTranspose | nnx.ConvTranspose

_MASKED = "its kernel is masked, and what the mask means for other sizes is not known"


@describes(nn.Conv, nnx.Conv)
def conv(layer: _Conv, nin: tuple[int, ...]) -> LayerRule:
    """A convolution, plain, grouped or depthwise.

    With g groups, input and output neurons are g groups of equal width each, and an output neuron reads the input
    neurons of its own group. Both are products of the groups and a width, which are handles. With one channel per group
    (depthwise) the groups are the channels.
    """
    groups, features = layer.feature_group_count, _features(layer)
    if 1 < groups < nin[0]:
        return _grouped(layer, nin)
    depthwise = groups == nin[0] > 1
    makes = "in" if depthwise and groups == features else "out"
    rule = _any_conv(layer, nin, "_" if depthwise else "in", makes, "in" if depthwise else None)
    if depthwise and groups != features:
        return replace(rule, composed={"out": "in*multiplier"}, inner={"multiplier": features // groups})
    return rule


@generalises(conv)
def conv_in_groups(layer: _Conv, nin: tuple[int, ...]) -> LayerRule:
    """A convolution of any number of groups of any width, one included: it has the handles of all of them."""
    rule, multiplier = _grouped(layer, nin), _features(layer) // layer.feature_group_count
    return replace(
        rule,
        composed={**rule.composed, "multiplier": "out_per_group"},
        inner={**rule.inner, "multiplier": multiplier},
    )


def _grouped(layer: _Conv, nin: tuple[int, ...]) -> LayerRule:
    """Groups of some width, of input and of output neurons."""
    groups = layer.feature_group_count
    return replace(
        _any_conv(layer, nin, "in_per_group", "out", "groups"),
        composed={"in": "groups*in_per_group", "out": "groups*out_per_group"},
        inner={"in_per_group": nin[0] // groups, "out_per_group": _features(layer) // groups},
    )


def _any_conv(layer: _Conv, nin: tuple[int, ...], reads: str, makes: str, groups: str | None) -> LayerRule:
    """What all convolutions have in common: a kernel ``(..., reads, makes)``, and a number of groups."""
    window = "_ " * len(as_tuple(layer.kernel_size))
    return LayerRule(
        leaves=present(kernel=f"{window}{reads} {makes}", bias=layer.use_bias and makes),
        sizes=sizes(layer, features=makes, in_features="in", out_features=makes)
        | ({} if groups is None else {"feature_group_count": groups}),
        shapes=shapes(layer, kernel_shape="params/kernel"),
        initialisers=initialisers(layer, "kernel", "bias"),
        identity=_identity(layer, layer.feature_group_count, _features(layer), nin[0]),
        fixed=None if getattr(layer, "mask", None) is None else _MASKED,
        example=example(layer),
    )


def _features(layer: _Conv) -> int:
    return layer.features if isinstance(layer, nn.Module) else layer.out_features


def _identity(layer: _Conv, groups: int, features: int, nin: int) -> dict[VariableKey, Identity] | None:
    """The identity of a convolution, if it keeps every position where it is and every channel in its group."""
    one = all(
        factor in (None, 1) for factor in (*as_tuple(layer.strides), *as_tuple(getattr(layer, "input_dilation", None)))
    )
    centred = all(  # a dilated window of even size has no tap at the position that its padding makes the centre
        (size - 1) // 2 * (extent - 1) == (extent - 1) // 2 * (size - 1)
        for size, extent in zip(as_tuple(layer.kernel_size), example(layer)[1:], strict=True)
    )
    kept = layer.padding in ("SAME", "CIRCULAR", "REFLECT") and (groups == 1 or features == nin)
    if not (one and centred and kept):
        return None
    return {"params/kernel": centred_identity_kernel(groups), "params/bias": filled_with(0.0)}


def centred_identity_kernel(groups: int) -> Identity:
    """A kernel ``(..., in / groups, out)`` that passes neurons on at the centre of its window."""

    def identity(shape: tuple[int, ...], passes: np.ndarray) -> np.ndarray:
        kernel, width = np.zeros(shape), shape[-2]
        centre = kernel[tuple((size - 1) // 2 for size in shape[:-2])]  # a view
        for out in range(shape[-1]):
            first = out * groups // shape[-1] * width
            centre[:, out] = passes[first : first + width, out]
        return kernel

    return identity


def example(layer: _Conv | _ConvTranspose | nn.ConvLocal) -> tuple[int, ...]:
    """An input that the window fits into, without the channels."""
    return (1, *(_spread(size, layer.kernel_dilation, i) for i, size in enumerate(as_tuple(layer.kernel_size))))


def _spread(size: int, dilation: int | Sequence[int | None] | None, axis: int) -> int:
    """The extent of a dilated window."""
    factors = as_tuple(dilation)
    return (size - 1) * (factors[axis % len(factors)] or 1) + 1


@describes(nn.ConvTranspose, nnx.ConvTranspose)
def conv_transpose(layer: _ConvTranspose, nin: tuple[int, ...]) -> LayerRule:
    """A transposed convolution; with ``transpose_kernel`` its kernel is stored as ``(..., out, in)``."""
    del nin
    channels = "<out in" if layer.transpose_kernel else "in out"
    return LayerRule(
        leaves=present(kernel="_ " * len(as_tuple(layer.kernel_size)) + channels, bias=layer.use_bias and "out"),
        sizes=sizes(layer, features="out", in_features="in", out_features="out"),
        shapes=shapes(layer, kernel_shape="params/kernel"),
        initialisers=initialisers(layer, "kernel", "bias"),
        fixed=None if layer.mask is None else _MASKED,
        example=example(layer),
    )


@describes(nn.ConvLocal)
def conv_local(layer: nn.ConvLocal, nin: tuple[int, ...]) -> LayerRule:
    """A convolution with weights of its own at every position: kernel ``(positions..., in * window, out)``."""
    del nin
    window = as_tuple(layer.kernel_size)
    positions = "_ " * len(window)
    return LayerRule(
        leaves=present(kernel=f"{positions}in*window out", bias=layer.use_bias and f"{positions}out"),
        sizes={"features": "out"},
        inner={"window": math.prod(window)},
        initialisers=initialisers(layer, "kernel", "bias"),
        fixed={"window": "it is the window of a convolution"},
        example=example(layer),
        positional=True,
    )
