"""Dense layers, contractions written as an equation, and embeddings."""

from __future__ import annotations

import flax.linen as nn
import numpy as np
from flax import nnx

from naivenas_jax.layers.describe import describes, filled_with, initialisers, present, sizes
from naivenas_jax.layers.rule import LayerRule


@describes(nn.Dense, nnx.Linear)
def dense(layer: nn.Dense | nnx.Linear | nnx.LoRALinear, nin: tuple[int, ...]) -> LayerRule:
    """``y = x W + b``."""
    del nin
    return LayerRule(
        leaves=present(kernel="in out", bias=layer.use_bias and "out"),
        sizes=sizes(layer, features="out", in_features="in", out_features="out"),
        initialisers=initialisers(layer, "kernel", "bias"),
        identity={"params/kernel": identity_kernel, "params/bias": filled_with(0.0)},
    )


def identity_kernel(shape: tuple[int, ...], passes: np.ndarray) -> np.ndarray:
    """A kernel ``(in, out)`` that passes neurons on."""
    return passes.astype(float).reshape(shape)


@describes(nn.Embed, nnx.Embed)
def embed(layer: nn.Embed | nnx.Embed, nin: tuple[int, ...]) -> LayerRule:
    """Row i of a table for index i: the input's neurons are the vocabulary."""
    del nin
    return LayerRule(
        leaves=present(embedding="in out"),
        sizes={"num_embeddings": "in", "features": "out"},
        initialisers=initialisers(layer, "embedding"),
        indexed=True,
    )
