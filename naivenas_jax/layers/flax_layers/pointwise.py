"""Layers that treat every number alike."""

from __future__ import annotations

import flax.linen as nn
from flax import nnx

from naivenas_jax.layers.describe import describes, filled_with
from naivenas_jax.layers.rule import LayerRule


@describes(nn.Dropout, nnx.Dropout)
def dropout(layer: nn.Dropout | nnx.Dropout, nin: tuple[int, ...]) -> LayerRule:
    """The identity in evaluation. With ``broadcast_dims`` whole axes are dropped, which changes no size."""
    del layer, nin
    return LayerRule(leaves={}, identity={}, train=lambda train: {"deterministic": not train})


@describes(nn.PReLU, nnx.PReLU)
def prelu(layer: nn.PReLU | nnx.PReLU, nin: tuple[int, ...]) -> LayerRule:
    """``x`` where it is positive, else ``slope * x``, with one slope for all neurons."""
    del layer, nin
    return LayerRule(leaves={"params/negative_slope": ""}, identity={"params/negative_slope": filled_with(1.0)})
