"""Four networks for images in their published sizes, in Flax. They are written after the papers; that they have exactly
as many parameters as the published implementations is checked where they are used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

norm = partial(nn.BatchNorm, use_running_average=True)


def conv(features: int, window: int, stride: int = 1, **kwargs: int) -> nn.Conv:
    return nn.Conv(features, (window, window), (stride, stride), use_bias=False, **kwargs)


class Bottleneck(nn.Module):
    width: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(norm()(conv(self.width, 1)(x)))
        y = nn.relu(norm()(conv(self.width, 3, self.stride)(y)))
        y = norm()(conv(4 * self.width, 1)(y))
        if x.shape != y.shape:
            x = norm()(conv(4 * self.width, 1, self.stride)(x))
        return nn.relu(x + y)


class ResNet50(nn.Module):
    """He et al., Deep Residual Learning for Image Recognition, 2015; strides in the 3 x 3 convolutions."""

    depths: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.max_pool(nn.relu(norm()(conv(self.width, 7, 2)(x))), (3, 3), (2, 2), "SAME")
        for stage, depth in enumerate(self.depths):
            for block in range(depth):
                x = Bottleneck(self.width * 2**stage, 2 if stage and not block else 1)(x)
        return nn.Dense(1000)(x.mean((1, 2)))


class DenseNet121(nn.Module):
    """Huang et al., Densely Connected Convolutional Networks, 2016."""

    growth: int = 32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.max_pool(nn.relu(norm()(conv(2 * self.growth, 7, 2)(x))), (3, 3), (2, 2), "SAME")
        for stage, depth in enumerate((6, 12, 24, 16)):
            for _ in range(depth):
                y = nn.relu(norm()(conv(4 * self.growth, 1)(nn.relu(norm()(x)))))
                x = jnp.concatenate([x, conv(self.growth, 3)(y)], -1)
            if stage < 3:
                x = nn.avg_pool(conv(x.shape[-1] // 2, 1)(nn.relu(norm()(x))), (2, 2), (2, 2))
        return nn.Dense(1000)(nn.relu(norm()(x)).mean((1, 2)))


class InvertedResidual(nn.Module):
    features: int
    stride: int
    expansion: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y, width = x, self.expansion * x.shape[-1]
        if self.expansion > 1:
            y = nn.relu6(norm()(conv(width, 1)(y)))
        y = nn.relu6(norm()(conv(width, 3, self.stride, feature_group_count=width)(y)))
        y = norm()(conv(self.features, 1)(y))
        return x + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, 2018."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu6(norm()(conv(32, 3, 2)(x)))
        for expansion, features, depth, stride in (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ):
            for block in range(depth):
                x = InvertedResidual(features, stride if not block else 1, expansion)(x)
        x = nn.relu6(norm()(conv(1280, 1)(x)))
        return nn.Dense(1000)(x.mean((1, 2)))


class ViTB16(nn.Module):
    """Dosovitskiy et al., An Image is Worth 16x16 Words, 2020."""

    width: int = 768

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(self.width, (16, 16), (16, 16))(x)
        x = x.reshape(x.shape[0], -1, self.width)
        token = self.param("token", nn.initializers.normal(0.02), (1, 1, self.width))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, self.width)), x], 1)
        x = x + self.param("position", nn.initializers.normal(0.02), (1, x.shape[1], self.width))
        for _ in range(12):
            x = x + nn.MultiHeadDotProductAttention(12)(nn.LayerNorm()(x))
            x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x))))
        return nn.Dense(1000)(nn.LayerNorm()(x)[:, 0])


#: Each network with the number of its parameters.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "ResNet-50": (ResNet50, 25_557_032),
    "DenseNet-121": (DenseNet121, 7_978_856),
    "MobileNetV2": (MobileNetV2, 3_504_872),
    "ViT-B/16": (ViTB16, 86_567_656),
}
#: For a short run.
SMALL: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "small ResNet": (partial(ResNet50, depths=(1, 1), width=8), 73_712),
}
