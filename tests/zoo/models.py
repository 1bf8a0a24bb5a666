"""Models that other people wrote, in small sizes and with random weights: nothing is downloaded."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from loading import TOKENS, Loaded, image, linen, nnx_model, noisy, of
from pictures import PICTURES
from science import SCIENCE
from sequences import SEQUENCES

import naivenas_jax as nas


def hugging_face(module: str, prefix: str, task: str, *inputs: Any, output: str = "logits", **config: Any) -> Loaded:
    """A Flax class of the package transformers, called as its users call it."""
    package = importlib.import_module(f"transformers.models.{module}.modeling_flax_{module}")
    configs = importlib.import_module(f"transformers.models.{module}.configuration_{module}")
    model = getattr(package, f"Flax{prefix}{task}")(getattr(configs, f"{prefix}Config")(**config), seed=0)
    own = model.params if "params" in model.params else {"params": model.params}
    variables, flat = noisy(own), "params" not in model.params

    def function(values: Any, *xs: Any) -> Any:
        return getattr(model(*xs, params=values["params"] if flat else values, train=False), output)

    return Loaded(lambda: nas.from_function(function, variables, *inputs), function, inputs, "function")


def flaim(name: str, size: int, **changed: Any) -> Loaded:
    jax.random.KeyArray = jax.Array  # an alias that flaim 0.0.5 still expects
    try:
        config = dict(importlib.import_module("flaim.models.factory").CONFIGS[name])
    finally:
        del jax.random.KeyArray
    cls = config.pop("model_cls")
    config.pop("norm_stats", None)
    mode = {"training": False} if "training" in inspect.signature(cls.__call__).parameters else {}
    return linen(cls(**{**config, **changed}, n_classes=5), image(size), **mode)


def one_device() -> Any:
    """The mesh that the package jimm must have, of the one device that there is."""
    return jax.set_mesh(_MESH)


_EXPLICIT = jax.sharding.AxisType.Explicit
_MESH = jax.make_mesh((1, 1), ("data", "fsdp"), axis_types=(_EXPLICIT, _EXPLICIT))


def jimm(name: str, *inputs: jax.Array, **config: Any) -> Loaded:
    """A model of the package jax-image-models."""
    whole = jax.sharding.NamedSharding(_MESH, jax.sharding.PartitionSpec())
    with one_device():
        config["sharding"] = importlib.import_module("jimm.common.sharding").NoSharding()
        model = of("jimm.models", name, **config, rngs=nnx.Rngs(0))
        return nnx_model(model, *(jax.device_put(x, whole) for x in inputs), context=one_device)


def tunix(module: str, name: str, **config: Any) -> Loaded:
    """A language model of the package google-tunix."""
    package = importlib.import_module(f"tunix.models.{module}.model")
    sizes = {"num_layers": 2, "embed_dim": 32, "hidden_dim": 48, "num_heads": 4, "head_dim": 8, "num_kv_heads": 2}
    model = getattr(package, name)(package.ModelConfig(**sizes, **config), rngs=nnx.Rngs(0))
    steps = TOKENS.shape[1]
    positions = jnp.broadcast_to(jnp.arange(steps), TOKENS.shape)
    return nnx_model(model, TOKENS, positions, None, jnp.tril(jnp.ones((len(TOKENS), steps, steps), bool)))


_BERT = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_GPT = {"vocab_size": 60, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 4}
_VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 32,
        "patch_size": 8}  # fmt: skip
_LLAMA = {**_BERT, "num_key_value_heads": 2, "max_position_embeddings": 32}
_JIMM = {"img_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 4, "mlp_dim": 48, "hidden_size": 32}
_TWO_TOWERS = {"image_resolution": 32, "vision_layers": 1, "vision_hidden_size": 128, "vision_patch_size": 8,
               "context_length": 12, "vocab_size": 60, "text_hidden_size": 128, "num_text_heads": 4,
               "num_text_layers": 1}  # fmt: skip
_ROPE = {"rope_theta": 10_000, "norm_eps": 1e-6}
hf = hugging_face

#: Those that the zoo began with, cheap packages first.
FIRST: dict[str, Callable[[], Loaded]] = {
    "brax/MLP": lambda: linen(of("brax.training.networks", "MLP", [32, 24, 4]), jnp.ones((2, 9))),
    "brax/MLP normalised": lambda: linen(
        of("brax.training.networks", "MLP", [32, 24, 4], layer_norm=True), jnp.ones((2, 9))
    ),
    "brax/CNN": lambda: linen(
        of("brax.training.networks", "CNN", [8, 12], [(3, 3), (3, 3)], [(1, 1), (2, 2)]), image(16)
    ),
    "transformers/BERT": partial(hf, "bert", "Bert", "ForSequenceClassification", TOKENS, **_BERT),
    "transformers/GPT2": partial(hf, "gpt2", "GPT2", "LMHeadModel", TOKENS, **_GPT),
    "transformers/Llama": partial(hf, "llama", "Llama", "ForCausalLM", TOKENS, **_LLAMA),
    "transformers/ViT": partial(hf, "vit", "ViT", "ForImageClassification", image(32).transpose(0, 3, 1, 2), **_VIT),
    "google-tunix/Llama 3": partial(tunix, "llama3", "Llama3", vocab_size=60, **_ROPE),
    "google-tunix/Qwen 2": partial(tunix, "qwen2", "Qwen2", vocab_size=60, **_ROPE),
    "google-tunix/Qwen 3": partial(tunix, "qwen3", "Qwen3", vocab_size=60, **_ROPE),
    "google-tunix/Qwen 3 with experts": partial(
        tunix, "qwen3", "Qwen3", vocab_size=60, num_experts=4, num_experts_per_tok=2, **_ROPE
    ),
    "google-tunix/Gemma 3": partial(
        tunix, "gemma3", "Gemma3", num_embed=60, sliding_window_size=4, param_dtype=jnp.float32
    ),
    "jax-models/ConvMixer": lambda: linen(
        of("jax_models.models.conv_mixer", "ConvMixer", features=16, num_mixer_layers=2, num_classes=5),
        image(28),
        static=(True,),
    ),
    "jax-models/MLPMixer": lambda: linen(
        of("jax_models.models.mlp_mixer", "MLPMixer", 8, 2, 32, 24, 20, 0.0, True, 5), image(32), static=(True,)
    ),
    "jax-image-models/ViT": lambda: jimm("VisionTransformer", image(32), num_classes=5, **_JIMM),
    "jax-image-models/DINOv2": lambda: jimm("DINOv2Model", image(32), **_JIMM),
    "jax-image-models/DINOv3": lambda: jimm("DINOv3Model", image(32), **_JIMM, use_gated_mlp=True),
    "jax-image-models/SigLIP": lambda: jimm("SigLIP", image(32), TOKENS, **_TWO_TOWERS),
    "flaim/VAN": lambda: flaim("van_b0", 64, depths=(1, 1, 1, 1)),
    "flaim/RegNetX": lambda: flaim("regnetx_200mf", 32, depths=(1, 1, 2, 2)),
    "flaim/PVTv2": lambda: flaim("pvtv2_b0", 64, depths=(1, 1, 1, 1)),
    "transformers/ResNet": partial(
        hf,
        "resnet",
        "ResNet",
        "ForImageClassification",
        image(32).transpose(0, 3, 1, 2),
        embedding_size=8,
        hidden_sizes=[8, 16, 32, 32],
        depths=[1, 1, 1, 1],
    ),
    "jax-resnet/ResNet18": lambda: linen(
        of("jax_resnet", "ResNet18", n_classes=5, hidden_sizes=(8, 16, 24, 32)), image(32)
    ),
    "flaxmodels/ResNet18": lambda: linen(
        of("flaxmodels", "ResNet18", output="logits", pretrained=None, num_classes=5), image(32), train=False
    ),
}

ZOO: dict[str, Callable[[], Loaded]] = {**FIRST, **SCIENCE, **SEQUENCES, **PICTURES}
