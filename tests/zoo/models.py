"""Models that other people wrote, in small sizes and with random weights: nothing is downloaded."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

import naivenas_jax as nas


class Loaded(NamedTuple):
    """A model that is ready: imported, and as a function of (variables, inputs) by itself."""

    bring: Callable[[], Any]
    function: Callable[..., Any]
    inputs: tuple[Any, ...]


def image(size: int) -> jax.Array:
    return jax.random.normal(jax.random.key(3), (2, size, size, 3))


TOKENS = jax.random.randint(jax.random.key(4), (2, 12), 3, 60)


def linen(module: Any, *inputs: Any, static: tuple[Any, ...] = (), **kwargs: Any) -> Loaded:
    """A linen module."""
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1), "drop_path": jax.random.key(2)}
    variables = noisy(module.init(rngs, *inputs, *static, **kwargs))
    return Loaded(
        lambda: nas.from_linen(module, variables, *inputs, *static, **kwargs),
        lambda v, *xs: module.apply(v, *xs, *static, **kwargs),
        inputs,
    )


def nnx_model(model: nnx.Module, *inputs: Any) -> Loaded:
    """An nnx model, called through what nnx itself offers."""
    model.eval()
    nnx.update(model, noisy(nnx.state(model, nnx.Param)))

    def function(variables: Any, *xs: Any) -> Any:
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)
        flat = {path: _at(variables["params"], path) for path, _ in nnx.to_flat_state(params)}
        for path, leaf in nnx.to_flat_state(params):
            leaf.set_raw_value(flat[path])
        return nnx.merge(graphdef, params, rest)(*xs)

    return Loaded(lambda: nas.from_nnx(model, *inputs), function, inputs)


def _at(tree: Any, path: Any) -> Any:
    for key in path:
        tree = tree[str(key)]
    return tree


def hugging_face(module: str, prefix: str, task: str, *inputs: Any, output: str = "logits", **config: Any) -> Loaded:
    """A Flax class of the package transformers, called as its users call it."""
    package = importlib.import_module(f"transformers.models.{module}.modeling_flax_{module}")
    configs = importlib.import_module(f"transformers.models.{module}.configuration_{module}")
    model = getattr(package, f"Flax{prefix}{task}")(getattr(configs, f"{prefix}Config")(**config), seed=0)
    own = model.params if "params" in model.params else {"params": model.params}
    variables, flat = noisy(own), "params" not in model.params

    def function(values: Any, *xs: Any) -> Any:
        return getattr(model(*xs, params=values["params"] if flat else values, train=False), output)

    return Loaded(lambda: nas.from_function(function, variables, *inputs), function, inputs)


def noisy(tree: Any) -> Any:
    """Add noise everywhere, so that what starts at zero does not hide anything."""

    def one(path: Any, x: Any) -> Any:
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return x
        noise = 0.02 * jax.random.normal(jax.random.key(len(jax.tree_util.keystr(path))), x.shape, x.dtype)
        return jnp.abs(x + noise) + 0.1 if "var" in jax.tree_util.keystr(path[-1:]) else x + noise

    return jax.tree_util.tree_map_with_path(one, tree)


def of(package: str, name: str, *args: Any, **kwargs: Any) -> Any:
    """An object of a package, called."""
    return getattr(importlib.import_module(package), name)(*args, **kwargs)


def flaim(name: str, size: int, **changed: Any) -> Loaded:
    jax.random.KeyArray = jax.Array  # an alias that flaim 0.0.5 still expects
    try:
        config = dict(importlib.import_module("flaim.models.factory").CONFIGS[name])
    finally:
        del jax.random.KeyArray
    cls = config.pop("model_cls")
    config.pop("norm_stats", None)
    return linen(cls(**{**config, **changed}, n_classes=5), image(size), training=False)


def jimm(classes: bool) -> Loaded:
    with nnx.use_eager_sharding(False):  # one device, no mesh
        create = importlib.import_module("jimm.models").VisionTransformer
        model = create(5, 3, 32, 8, 2, 4, 48, 32, do_classification=classes, rngs=nnx.Rngs(0))
        return nnx_model(model, image(32))


_BERT = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_GPT = {"vocab_size": 60, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 4}
_VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 32,
        "patch_size": 8}  # fmt: skip
_LLAMA = {**_BERT, "num_key_value_heads": 2, "max_position_embeddings": 32}
hf = hugging_face

ZOO: dict[str, Callable[[], Loaded]] = {
    "transformers/BERT": partial(hf, "bert", "Bert", "ForSequenceClassification", TOKENS, **_BERT),
    "transformers/RoBERTa": partial(hf, "roberta", "Roberta", "ForSequenceClassification", TOKENS, **_BERT),
    "transformers/DistilBERT": partial(
        hf,
        "distilbert",
        "DistilBert",
        "ForSequenceClassification",
        TOKENS,
        vocab_size=60,
        dim=32,
        n_layers=2,
        n_heads=4,
        hidden_dim=48,
    ),
    "transformers/ALBERT": partial(
        hf, "albert", "Albert", "ForSequenceClassification", TOKENS, embedding_size=16, **_BERT
    ),
    "transformers/ELECTRA": partial(
        hf, "electra", "Electra", "ForSequenceClassification", TOKENS, embedding_size=16, **_BERT
    ),
    "transformers/GPT2": partial(hf, "gpt2", "GPT2", "LMHeadModel", TOKENS, **_GPT),
    "transformers/GPT-J": partial(hf, "gptj", "GPTJ", "ForCausalLM", TOKENS, rotary_dim=4, **_GPT),
    "transformers/Llama": partial(hf, "llama", "Llama", "ForCausalLM", TOKENS, **_LLAMA),
    "transformers/Mistral": partial(hf, "mistral", "Mistral", "ForCausalLM", TOKENS, **_LLAMA),
    "transformers/ViT": partial(hf, "vit", "ViT", "ForImageClassification", image(32).transpose(0, 3, 1, 2), **_VIT),
    "transformers/BEiT": partial(hf, "beit", "Beit", "ForImageClassification", image(32).transpose(0, 3, 1, 2), **_VIT),
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
    "jax-resnet/ResNetD50": lambda: linen(
        of("jax_resnet", "ResNetD50", n_classes=5, hidden_sizes=(8, 16, 24, 32)), image(32)
    ),
    "jax-resnet/ResNeXt50": lambda: linen(
        of("jax_resnet", "ResNeXt50", n_classes=5, stage_sizes=[1, 1, 1, 1]), image(32)
    ),
    "jax-models/ConvMixer": lambda: linen(
        of("jax_models.models.conv_mixer", "ConvMixer", features=16, num_mixer_layers=2, num_classes=5),
        image(28),
        static=(True,),
    ),
    "jax-models/MLPMixer": lambda: linen(
        of("jax_models.models.mlp_mixer", "MLPMixer", 8, 2, 32, 24, 20, 0.0, True, 5), image(32), static=(True,)
    ),
    "flaxmodels/ResNet18": lambda: linen(
        of("flaxmodels", "ResNet18", output="logits", pretrained=None, num_classes=5), image(32), train=False
    ),
    "flaim/VAN": lambda: flaim("van_b0", 64, depths=(1, 1, 1, 1)),
    "flaim/RegNetX": lambda: flaim("regnetx_200mf", 32, depths=(1, 1, 2, 2)),
    "flaim/EfficientNetV2": lambda: flaim("efficientnetv2_small", 32, depths=(1, 1, 1, 1, 2, 2)),
    "flaim/PVTv2": lambda: flaim("pvtv2_b0", 64, depths=(1, 1, 1, 1)),
    "flaim/HorNet": lambda: flaim("hornet_tiny", 64, depths=(1, 1, 1, 1), out_dim_first_stage=32),
    "flaim/ResNet18": lambda: flaim("resnet18", 32),
    "jax-image-models/ViT": lambda: jimm(True),
    "jax-image-models/ViT without classes": lambda: jimm(False),
    "brax/MLP": lambda: linen(of("brax.training.networks", "MLP", [32, 24, 4]), jnp.ones((2, 9))),
    "brax/MLP normalised": lambda: linen(
        of("brax.training.networks", "MLP", [32, 24, 4], layer_norm=True), jnp.ones((2, 9))
    ),
    "brax/CNN": lambda: linen(
        of("brax.training.networks", "CNN", [8, 12], [(3, 3), (3, 3)], [(1, 1), (2, 2)]), image(16)
    ),
}
