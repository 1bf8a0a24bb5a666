"""ConvNeXt-T and BERT-base in Flax, written after the papers, with as many parameters as the published ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

norm = partial(nn.LayerNorm, epsilon=1e-6)


class ConvNeXt(nn.Module):
    """Liu et al., A ConvNet for the 2020s, 2022."""

    depths: tuple[int, ...] = (3, 3, 9, 3)
    width: int = 96

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = norm()(nn.Conv(self.width, (4, 4), (4, 4))(x))
        for stage, depth in enumerate(self.depths):
            width = self.width * 2**stage
            if stage:
                x = nn.Conv(width, (2, 2), (2, 2))(norm()(x))
            for block in range(depth):
                y = norm()(nn.Conv(width, (7, 7), feature_group_count=width)(x))
                y = nn.Dense(width)(nn.gelu(nn.Dense(4 * width)(y)))
                x = x + y * self.param(f"scale_{stage}_{block}", nn.initializers.constant(1e-6), (width,))
        return nn.Dense(1000)(norm()(x.mean((1, 2))))


class Bert(nn.Module):
    """Devlin et al., BERT, 2018: the encoder with its pooler, which returns one vector for each text."""

    depth: int = 12
    width: int = 768
    words: int = 30522

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = nn.Embed(self.words, self.width, name="words")(tokens)
        x = x + nn.Embed(512, self.width, name="positions")(jnp.arange(tokens.shape[1])[None])
        x = norm()(x + nn.Embed(2, self.width, name="kinds")(jnp.zeros_like(tokens)))
        for _ in range(self.depth):
            x = norm()(x + nn.MultiHeadDotProductAttention(self.width // 64)(x))
            x = norm()(x + nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(x))))
        return nn.tanh(nn.Dense(self.width, name="pooler")(x[:, 0]))


#: Each network with the number of its parameters.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "ConvNeXt-T": (ConvNeXt, 28_589_128),
    "BERT-base": (Bert, 109_482_240),
}
#: For a short run.
SMALL: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "small BERT": (partial(Bert, depth=1, width=64, words=100), 93_568),
}
