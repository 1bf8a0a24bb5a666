"""Models in a module of their own, which another process can import."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import naivenas_jax as nas


class Blocks(nn.Module):
    """Draws in training, keeps statistics, and has a constant with an entry for each neuron."""

    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()

    @nn.compact
    def __call__(self, x, train=False):
        for i, width in enumerate((8, 6)):
            x = nn.Dense(width, kernel_init=self.kernel_init, name=f"dense{i}")(x)
            x = nn.BatchNorm(use_running_average=not train, name=f"norm{i}")(x)
            x = nn.relu(nn.Dropout(0.5, deterministic=not train)(x)) * np.arange(1, width + 1, dtype=np.float32)
        return {"y": nn.Dense(2, name="out")(x)}


class Hidden(nn.Module):
    """Has sizes that are no fields, and no constant that depends on them."""

    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()

    @nn.compact
    def __call__(self, x):
        for i, width in enumerate((8, 6)):
            x = nn.relu(nn.Dense(width, kernel_init=self.kernel_init, name=f"dense{i}")(x))
        return nn.Dense(2, name="out")(x)


class NnxBlocks(nnx.Module):
    def __init__(self, rngs):
        self.dense0, self.out = nnx.Linear(3, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)
        self.norm, self.drop = nnx.BatchNorm(8, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.out(self.drop(nnx.relu(self.norm(self.dense0(x)))))


def mlp(variables, x, scale=2.0):
    return jnp.maximum(x @ variables["dense0"]["kernel"], 0) @ variables["out"]["kernel"] * scale


def doubled(x):
    return 2 * x


def low_rank(params, x):
    return x @ params["down"] @ params["up"]


def every_kind_of_vertex() -> nas.Graph:
    """A graph with functions of every kind; ``doubled`` and ``low_rank`` have names once they are given one."""
    x = nas.input_vertex("x", 3)
    h = nas.layer("dense0", nn.Dense(8, kernel_init=nn.initializers.he_normal(), dtype=jnp.float32), x)
    h = nas.invariant_vertex("doubled", doubled, nas.invariant_vertex("act", partial(nn.gelu, approximate=False), h))
    other = nas.layer("nnx", nnx.Linear(3, 8, kernel_init=nnx.initializers.lecun_normal(), rngs=nnx.Rngs(0)), x)
    both = nas.concat("both", (h + other).named("sum"), -h, nas.layer("drop", nn.Dropout(0.5), other))
    block_in = nas.input_vertex("block_in", both.nout)
    block = nas.Graph(block_in, nas.layer("inner", nn.LayerNorm(), block_in))
    h = nas.layer("norm", nn.BatchNorm(momentum=0.9), nas.layer("block", block, both))
    made = {"down": "in r", "up": ("r out", nn.initializers.ones)}
    h = nas.absorb_vertex("low", low_rank, h, nout=5, params=made, inner={"r": 2})
    h = nas.immutable_vertex("soft", jax.nn.softmax, h)
    return nas.Graph(x, [nas.layer("out", nn.Dense(2), h), h])
