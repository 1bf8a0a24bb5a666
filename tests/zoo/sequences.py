"""Models of packages for sequences: state spaces, memories, spikes, and transformers for text and proteins."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn, nnx
from loading import TOKENS, Loaded, linen, nnx_model, normal, of


class Logits(nnx.Module):
    """A language model that answers with a dict, of which the logits are wanted."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, tokens: jax.Array) -> jax.Array:
        return self.model(tokens)["logits"]


def mamba(package: str, number: int, **config: Any) -> Loaded:
    module = importlib.import_module(package)
    sizes = {"vocab_size": 60, "hidden_size": 16, "state_size": 8, "head_dim": 8, "num_hidden_layers": 2}
    made = getattr(module, f"Mamba{number}Config")(**sizes, chunk_size=4, **config)
    return nnx_model(Logits(getattr(module, f"Mamba{number}ForCausalLM")(made, rngs=nnx.Rngs(0))), TOKENS)


class Remembering(nn.Module):
    """A network with a memory as the package memorax composes one: embedding, memory, head."""

    memory: Callable[[], nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, done: jax.Array) -> jax.Array:
        x = nn.relu(nn.Dense(10)(x))
        _, x = self.memory()(x, done)
        return nn.Dense(3)(x)


def memorax(cell: str, wrapper: str = "Memoroid", **config: Any) -> Loaded:
    package = importlib.import_module("memorax.networks")

    def memory() -> nn.Module:
        return getattr(package, wrapper)(cell=getattr(package, cell)(**config))

    return linen(Remembering(memory), normal(2, 6, 5), jnp.zeros((2, 6), jnp.int32))


def gated(**config: Any) -> Loaded:
    """The recurrent network of memorax around Flax's own cell."""
    package = importlib.import_module("memorax.networks")
    return linen(
        Remembering(lambda: package.RNN(cell=nn.GRUCell(8))), normal(2, 6, 5), jnp.zeros((2, 6), jnp.int32), **config
    )


class Spiking(nnx.Module):
    """Two layers of spiking neurons and an integrating one, run over time."""

    def __init__(self, neuron: str) -> None:
        spyx, rngs = importlib.import_module("spyx.nn"), nnx.Rngs(0)
        cell = getattr(spyx, neuron)
        self.layers = spyx.Sequential(
            nnx.Linear(5, 12, rngs=rngs),
            cell((12,), rngs=rngs),
            nnx.Linear(12, 10, rngs=rngs),
            cell((10,), rngs=rngs),
            nnx.Linear(10, 3, rngs=rngs),
            spyx.LI((3,), rngs=rngs),
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return importlib.import_module("spyx.nn").run(self.layers, x, self.layers.initial_state(x.shape[1]))[0]


def ablanx() -> Loaded:
    """One block of the encoder of antibodies, whose sizes are constants of its module."""
    module = importlib.import_module("ablang_jax.model")
    module.HID, module.N_HEAD, module.HEAD_DIM, module.N_BLOCK = 16, 4, 4, 1
    return linen(module.Ablanx(), TOKENS % 26, jnp.ones(TOKENS.shape), return_attn=False)


def nano_moe() -> Loaded:
    config = of("nano_moe.config", "NanoMoEConfig", vocab_size=60, n_layers=2, n_heads=2, d_model=16, d_ff=24,
                block_size=12)  # fmt: skip
    return linen(of("nano_moe.model", "NanoMoE", config), TOKENS)


class Output(nnx.Module):
    """A model that answers with an object, of which the logits are wanted."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, tokens: jax.Array) -> jax.Array:
        return self.model(tokens, deterministic=True).logits


def dantinox(**config: Any) -> Loaded:
    made = of("dantinox.core.config", "Config", dim=16, n_heads=4, head_size=4, num_blocks=2, vocab_size=60,
              max_context=12, **config)  # fmt: skip
    return nnx_model(Output(of("dantinox.core.model", "Transformer", made, rngs=nnx.Rngs(0))), TOKENS)


SEQUENCES: dict[str, Callable[[], Loaded]] = {
    "mamba2-jax/Mamba 2": partial(mamba, "mamba2_jax", 2),
    "mamba3-jax/Mamba 3": partial(mamba, "mamba3_jax", 3),
    "memorax/GRU": gated,
    "memorax/minimal GRU": partial(memorax, "MinGRUCell", features=8),
    "memorax/LRU": partial(memorax, "LRUCell", features=10, hidden_dim=8),
    "memorax/mLSTM": partial(memorax, "mLSTMCell", features=10, hidden_dim=8, num_heads=2),
    "memorax/Mamba": partial(memorax, "MambaCell", features=10, num_heads=2, head_dim=4, hidden_dim=6),
    "spyx/LIF": lambda: nnx_model(Spiking("LIF"), 5 * normal(6, 2, 5)),
    "spyx/recurrent LIF": lambda: nnx_model(Spiking("RLIF"), 5 * normal(6, 2, 5)),
    "ablanx/encoder": ablanx,
    "nano-moe-jax/NanoMoE": nano_moe,
    "dantinox/transformer": dantinox,
    "local-attention-flax/attention": lambda: linen(
        of("local_attention_flax", "LocalAttention", dim=12, window_size=4, heads=2, dim_head=4), normal(16, 12)
    ),
}
