"""Low-rank adaptation: ``y = x A B``, beside another layer or on its own. The rank is an axis."""

from __future__ import annotations

from dataclasses import replace

from flax import nnx
from flax.nnx.nn import initializers

from naivenas_jax.layers.describe import describes
from naivenas_jax.layers.flax_layers.linear import dense
from naivenas_jax.layers.nesting import joined_rules, within
from naivenas_jax.layers.ops.nnx_value import collection_of
from naivenas_jax.layers.registry import rule_of
from naivenas_jax.layers.rule import LayerRule


@describes(nnx.LoRA)
def lora(layer: nnx.LoRA, nin: tuple[int, ...]) -> LayerRule:
    """``y = x A B``, plus what the base module makes of x.

    (Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022.)
    """
    collection = collection_of(layer.lora_param_type)
    own = LayerRule(
        leaves={f"{collection}/lora_a": "in rank", f"{collection}/lora_b": "rank out"},
        sizes={"in_features": "in", "out_features": "out"},
        inner={"rank": layer.lora_a.shape[1]},
        initialisers={f"{collection}/lora_a": initializers.he_uniform(), f"{collection}/lora_b": initializers.zeros},
    )
    if layer.base_module is None:
        return own
    base = rule_of(layer.base_module, nin)
    passes = {} if base.absorbs else {"out": "in"}  # a base that keeps its neurons: in and out are the same
    part = within("base_module", base)
    return replace(joined_rules(own, part), composed={**part.composed, **passes})


@describes(nnx.LoRALinear)
def lora_linear(layer: nnx.LoRALinear, nin: tuple[int, ...]) -> LayerRule:
    """``y = x W + b + x A B``."""
    own = dense(layer, nin)
    part = within("lora", lora(layer.lora, nin))
    return joined_rules(LayerRule(own.leaves, own.sizes, initialisers=own.initialisers), part)
