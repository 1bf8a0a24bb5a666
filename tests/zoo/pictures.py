"""Models of packages for pictures, for diffusion, for control, and for functions in general."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from flax import nnx
from loading import Loaded, image, linen, nnx_model, normal, of


def flaxdiff(module: str, name: str, **config: Any) -> Loaded:
    """A network that takes noise away, given an embedding of time and of a text."""
    model = of(f"flaxdiff.models.{module}", name, **config)
    return linen(model, image(16), normal(2), normal(2, 4, 8))


def orlax(name: str, *inputs: jax.Array, **config: Any) -> Loaded:
    return linen(of("orlax.models.nets", name, hidden_dims=(12, 10), **config), *inputs)


PICTURES: dict[str, Callable[[], Loaded]] = {
    "vitax/ViT": lambda: nnx_model(
        of(
            "vitax.models.vit",
            "VisionTransformer",
            num_classes=5,
            img_size=16,
            patch_size=8,
            num_layers=2,
            num_heads=4,
            mlp_dim=24,
            hidden_size=16,
            fsdp=False,
            rngs=nnx.Rngs(0),
        ),
        image(16),
    ),
    "flaxdiff/U-Net": partial(
        flaxdiff,
        "simple_unet",
        "Unet",
        emb_features=16,
        feature_depths=[8, 16],
        attention_configs=[None, {"heads": 2}],
        num_res_blocks=1,
        norm_groups=4,
    ),
    "flaxdiff/DiT": partial(
        flaxdiff, "simple_dit", "SimpleDiT", patch_size=4, emb_features=16, num_layers=2, num_heads=2, mlp_ratio=2
    ),
    "jax-nca/cellular automaton": lambda: linen(
        of("jax_nca.nca", "NCA", 8, trainable_perception=True), normal(1, 8, 8, 12), jax.random.key(0)
    ),
    "avitai-artifex/transformer encoder": lambda: nnx_model(
        of(
            "artifex.generative_models.core.layers.transformers",
            "TransformerEncoder",
            hidden_dim=16,
            num_layers=2,
            num_heads=4,
            mlp_ratio=2.0,
            rngs=nnx.Rngs(0),
        ),
        normal(2, 6, 16),
    ),
    "orlax/ensemble of dynamics": partial(
        orlax, "EnsembleDynamics", normal(3, 5), normal(3, 2), obs_dim=5, num_models=2
    ),
    "orlax/conditional VAE": partial(orlax, "ConditionalVAE", normal(3, 5), normal(3, 2), action_dim=2, latent_dim=6),
    "orlax/diffusion of actions": partial(
        orlax, "DiffusionModel", normal(3, 5), normal(3, 2), normal(3), action_dim=2, time_dim=8
    ),
    "rationalnets/MLP": lambda: linen(of("rationalnets", "RationalMLP", [12, 10, 2]), normal(5, 3)),
    "jaxkit/fully connected": lambda: nnx_model(
        of("jaxkit.fully_connected", "FullyConnected", [3, 12, 10, 8, 2], rngs=nnx.Rngs(0)), normal(4, 3)
    ),
}
