"""Random models to import: a model is a list of blocks, each of which is written once, for linen and nnx.

A block gets a `Build`, which makes layers and parameters, and ``h``, the neurons so far: (batch, positions, neurons) or
(batch, height, width, neurons). It depends on nothing but its own number, the seed, and the shape of ``h``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

Array = Any


class Build(Protocol):
    """Makes the layers of one model; a name is given once, and again where a layer is shared."""

    def dense(self, name: str, x: Array, size: int, bias: bool = True) -> Array: ...

    def conv(self, name: str, x: Array, size: int, window: Sequence[int], groups: int = 1, **how: Any) -> Array: ...

    def transposed(self, name: str, x: Array, size: int, window: Sequence[int]) -> Array: ...

    def norm(self, name: str, kind: str, x: Array) -> Array: ...

    def attention(self, name: str, x: Array, heads: int, inner: int) -> Array: ...

    def recurrent(self, name: str, kind: str, x: Array, size: int) -> Array: ...

    def embed(self, name: str, words: int, size: int) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]: ...

    def param(self, name: str, shape: Sequence[int]) -> Array: ...

    def dropout(self, name: str, x: Array) -> Array: ...

    def key(self) -> Array: ...


@dataclass
class Block:
    """One block of a model while it is computed.

    Attributes:
      build: makes its layers.
      rng: makes its choices.
      name: the name of the block.
      context: a second input, (batch, neurons).
      sizes: the range of widths.
    """

    build: Build
    rng: random.Random
    name: str
    context: Array
    sizes: tuple[int, int] = (2, 6)

    def size(self) -> int:
        return self.rng.randint(*self.sizes)

    def dense(self, part: str, x: Array, size: int, bias: bool = True) -> Array:
        return self.build.dense(f"{self.name}_{part}", x, size, bias)

    def param(self, part: str, *shape: int) -> Array:
        return self.build.param(f"{self.name}_{part}", shape)

    def activation(self, x: Array) -> Array:
        return self.rng.choice([jax.nn.relu, jnp.tanh, jax.nn.gelu, jax.nn.silu, jnp.cos, jax.nn.sigmoid])(x)


BLOCKS: dict[str, Callable[[Block, Array], Array]] = {}
#: For parameters that are no weights themselves: the number that stands for a weight of 0.
SILENT: dict[str, float] = {}


def block(fn: Callable[[Block, Array], Array]) -> Callable[[Block, Array], Array]:
    BLOCKS[fn.__name__] = fn
    return fn


# -- layers ----------------------------------------------------------------------------------------------------------


@block
def dense(b: Block, h: Array) -> Array:
    return b.activation(b.dense("d", h, b.size(), b.rng.random() < 0.7))


@block
def residual(b: Block, h: Array) -> Array:
    return h + b.dense("down", b.activation(b.dense("up", h, b.size())), h.shape[-1])


@block
def gated(b: Block, h: Array) -> Array:
    size = b.size()
    gate = b.activation(b.dense("gate", h, size))
    return b.dense("down", gate * b.dense("up", h, size), b.size())


@block
def gate_of_halves(b: Block, h: Array) -> Array:
    a, g = jnp.split(b.dense("both", h, 2 * b.size()), 2, -1)
    return a * jax.nn.sigmoid(g)


@block
def conv(b: Block, h: Array) -> Array:
    window = (b.rng.choice([1, 2, 3]),) * (h.ndim - 2)
    how = {"strides": 2} if min(h.shape[1:-1]) >= 4 and b.rng.random() < 0.2 else {}
    return b.activation(b.build.conv(f"{b.name}_c", h, b.size(), window, **how))


@block
def depthwise(b: Block, h: Array) -> Array:
    size, times = h.shape[-1], b.rng.choice([1, 1, 2])
    return b.activation(b.build.conv(f"{b.name}_w", h, times * size, (3,) * (h.ndim - 2), groups=size))


@block
def grouped(b: Block, h: Array) -> Array:
    groups = b.rng.choice([2, 3])
    h = b.dense("in", h, groups * b.rng.randint(1, 2))
    return b.build.conv(f"{b.name}_g", h, groups * b.rng.randint(1, 2), (2,) * (h.ndim - 2), groups=groups)


@block
def transposed(b: Block, h: Array) -> Array:
    return b.activation(b.build.transposed(f"{b.name}_t", h, b.size(), (2,) * (h.ndim - 2)))


@block
def normalised(b: Block, h: Array) -> Array:
    kinds = ["layer", "batch", "rms", "instance"] + ["group"] * (h.shape[-1] % 2 == 0)
    return b.build.norm(f"{b.name}_n", b.rng.choice(kinds), h)


@block
def attention(b: Block, h: Array) -> Array:
    flat = h.reshape(h.shape[0], -1, h.shape[-1])
    heads = b.rng.choice([1, 2])
    return h + b.build.attention(f"{b.name}_a", flat, heads, heads * b.rng.randint(1, 3)).reshape(h.shape)


@block
def attention_by_hand(b: Block, h: Array) -> Array:
    heads, each, size = b.rng.choice([1, 2]), b.rng.randint(2, 3), h.shape[-1]
    flat = h.reshape(h.shape[0], -1, size)
    q, k, v = (jnp.einsum("btd,dhk->bthk", flat, b.param(n, size, heads, each)) for n in "qkv")
    weights = jax.nn.softmax(jnp.einsum("bthk,bshk->bhts", q, k) / np.sqrt(each))
    mixed = jnp.einsum("bhts,bshk->bthk", weights, v).reshape(*flat.shape[:2], -1)
    return b.dense("o", mixed, b.size()).reshape(*h.shape[:-1], -1)


@block
def recurrent(b: Block, h: Array) -> Array:
    kind = b.rng.choice(["LSTMCell", "GRUCell", "SimpleCell", "OptimizedLSTMCell"])
    flat = h.reshape(h.shape[0], -1, h.shape[-1])
    return b.build.recurrent(f"{b.name}_r", kind, flat, b.rng.randint(2, 4)).reshape(*h.shape[:-1], -1)


@block
def positional_convolution(b: Block, h: Array) -> Array:
    return h + b.build.conv(f"{b.name}_p", h, h.shape[-1], (3,) * (h.ndim - 2), groups=h.shape[-1])


# -- loops -----------------------------------------------------------------------------------------------------------


@block
def scanned_time(b: Block, h: Array) -> Array:
    """A recurrence by hand along the first axis of positions."""
    size = b.size()
    inner, outer = b.param("h", size, size), b.dense("x", h, size)

    def step(carry: Array, x: Array) -> tuple[Array, Array]:
        carry = jnp.tanh(carry @ inner + x)
        return carry, carry

    _, ys = jax.lax.scan(step, jnp.zeros_like(outer[:, 0]), jnp.moveaxis(outer, 1, 0))
    return jnp.moveaxis(ys, 0, 1)


@block
def scanned_layers(b: Block, h: Array) -> Array:
    """Layers whose weights are stacked."""
    size, inner = h.shape[-1], b.size()
    up, down = b.param("up", 2, size, inner), b.param("down", 2, inner, size)
    return jax.lax.scan(lambda x, w: (x + jnp.tanh(x @ w[0]) @ w[1], None), h, (up, down))[0]


@block
def repeated(b: Block, h: Array) -> Array:
    """The same weights some times over."""
    size = h.shape[-1]
    weight = b.param("w", size, size)
    return jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(x @ weight), h)


@block
def branches(b: Block, h: Array) -> Array:
    size = b.size()
    left, right = b.param("left", h.shape[-1], size), b.param("right", h.shape[-1], size)
    return jax.lax.cond(h.sum() > 0, lambda x: jnp.tanh(x @ left), lambda x: x @ right, h)


@block
def decaying(b: Block, h: Array) -> Array:
    """A cumulative sum along the positions, with a rate for each neuron."""
    rate = jax.nn.sigmoid(b.param("rate", h.shape[-1]))
    return jnp.cumsum(h * rate, axis=1)


@block
def remat(b: Block, h: Array) -> Array:
    size = b.size()
    weight = b.param("w", h.shape[-1], size)
    return jax.checkpoint(lambda x: jnp.tanh(x @ weight))(h)


# -- random draws ----------------------------------------------------------------------------------------------------


@block
def dropout(b: Block, h: Array) -> Array:
    return b.build.dropout(f"{b.name}_drop", h)


@block
def noise_for_all(b: Block, h: Array) -> Array:
    """One number for all neurons."""
    return h * (1 + 0.1 * jax.random.normal(b.build.key(), (*h.shape[:-1], 1)))


@block
def noise(b: Block, h: Array) -> Array:
    return h + 0.1 * jax.random.normal(b.build.key(), h.shape)


@block
def sampled(b: Block, h: Array) -> Array:
    mean, log = jnp.split(b.dense("both", h, 2 * b.size()), 2, -1)
    return mean + jnp.exp(0.1 * log) * jax.random.normal(b.build.key(), mean.shape)


# -- constants -------------------------------------------------------------------------------------------------------


@block
def positions(b: Block, h: Array) -> Array:
    table = np.sin(np.arange(h[0].size).reshape(h.shape[1:])).astype(np.float32)
    return h + table


@block
def fixed_mask(b: Block, h: Array) -> Array:
    return h * (np.arange(h.shape[-1]) % 2).astype(np.float32)


@block
def triangular(b: Block, h: Array) -> Array:
    """A masked weight, as of an autoregressive network."""
    size = h.shape[-1]
    return jnp.tanh(h @ (b.param("w", size, size) * np.tril(np.ones((size, size), np.float32))))


@block
def radial(b: Block, h: Array) -> Array:
    centres = np.linspace(-1, 1, 4).astype(np.float32)
    first = h @ b.param("w", h.shape[-1], 1)
    return b.dense("o", jnp.exp(-((first - centres) ** 2)), b.size())


@block
def learned_centres(b: Block, h: Array) -> Array:
    centres = b.param("c", b.size(), h.shape[-1])
    return b.dense("o", jnp.exp(-((h[..., None, :] - centres) ** 2).sum(-1)), b.size())


@block
def rotated(b: Block, h: Array) -> Array:
    h = b.dense("in", h, 4)
    a, c = jnp.split(h, 2, -1)
    angle = np.arange(2, dtype=np.float32) + 0.5
    return jnp.concatenate([a * np.cos(angle) - c * np.sin(angle), a * np.sin(angle) + c * np.cos(angle)], -1)


# -- weights that are computed ---------------------------------------------------------------------------------------


def computed(name: str, fn: Callable[[Array], Array], silent: float) -> None:
    """A dense layer whose weights are a function of its parameter."""
    SILENT[name] = silent

    def made(b: Block, h: Array) -> Array:
        h = h @ fn(b.param(name, h.shape[-1], b.size()))
        return b.activation(h)

    made.__name__ = name
    block(made)


computed("softplus_weight", jax.nn.softplus, -200.0)
computed("exp_weight", jnp.exp, -200.0)
computed("offset_weight", lambda w: w - 0.3, 0.3)
computed("squared_weight", lambda w: w**2, 0.0)
computed("tanh_weight", jnp.tanh, 0.0)
computed("standardised_weight", lambda w: (w - w.mean(0)) / jnp.sqrt(w.var(0) + 1e-3), 0.0)
computed("quantised_weight", lambda w: w + jax.lax.stop_gradient(jnp.round(w * 8) / 8 - w), 0.0)


@block
def masked_weight(b: Block, h: Array) -> Array:
    """Weights times learned gates."""
    shape = h.shape[-1], b.size()
    return jnp.tanh(h @ (jax.nn.sigmoid(b.param("gate", *shape)) * b.param("w", *shape)))


@block
def low_rank(b: Block, h: Array) -> Array:
    rank, size = b.rng.randint(1, 2), b.size()
    weight = b.param("w", h.shape[-1], size) + b.param("l", h.shape[-1], rank) @ b.param("r", rank, size)
    return h @ weight


@block
def normalised_weight(b: Block, h: Array) -> Array:
    weight = b.param("w", h.shape[-1], b.size())
    return h @ (weight / jnp.sqrt((weight**2).sum(0) + 1e-3))


# -- shared weights --------------------------------------------------------------------------------------------------


@block
def shared(b: Block, h: Array) -> Array:
    for _ in range(2):
        h = jnp.tanh(b.dense("d", h, h.shape[-1]))
    return h


@block
def transposed_again(b: Block, h: Array) -> Array:
    """There by a weight, and back by the same."""
    weight = b.param("w", h.shape[-1], b.size())
    return jnp.tanh(h @ weight) @ weight.T


@block
def twins(b: Block, h: Array) -> Array:
    """One layer on two values."""
    size = b.size()
    other = b.dense("other", h, h.shape[-1])
    return b.dense("twin", h, size) * b.dense("twin", other, size)


# -- shapes ----------------------------------------------------------------------------------------------------------


@block
def concatenated(b: Block, h: Array) -> Array:
    parts = [h, b.dense("a", h, b.size()), b.activation(b.dense("b", h, b.size()))]
    b.rng.shuffle(parts)
    return jnp.concatenate(parts[: b.rng.choice([2, 3])], -1)


@block
def split(b: Block, h: Array) -> Array:
    first, second = b.size(), b.size()
    both = b.dense("both", h, first + second)
    return b.dense("o", both[..., :first], 3) + b.dense("p", jnp.tanh(both[..., first:]), 3)


@block
def shuffled(b: Block, h: Array) -> Array:
    """Groups of channels change places."""
    groups, each = 2, b.rng.randint(1, 2)
    h = b.dense("in", h, groups * each)
    return h.reshape(*h.shape[:-1], groups, each).swapaxes(-1, -2).reshape(h.shape)


@block
def turned(b: Block, h: Array) -> Array:
    return h[..., ::-1] + h


@block
def stacked(b: Block, h: Array) -> Array:
    size = b.size()
    return jnp.stack([b.dense("a", h, size), b.dense("b", h, size)], -1).max(-1)


@block
def interleaved(b: Block, h: Array) -> Array:
    size = b.size()
    both = jnp.stack([b.dense("a", h, size), jnp.cos(b.dense("b", h, size))], -1)
    return both.reshape(*h.shape[:-1], -1)


@block
def repeated_neurons(b: Block, h: Array) -> Array:
    return jnp.repeat(h, 2, axis=-1) if b.rng.random() < 0.5 else jnp.tile(h, 2)


@block
def pooled(b: Block, h: Array) -> Array:
    window = (1, *(2,) * (h.ndim - 2), 1)
    if b.rng.random() < 0.5:
        return jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, window, (1,) * h.ndim, "SAME")
    return jax.lax.reduce_window(h, 0.0, jax.lax.add, window, (1,) * h.ndim, "SAME") / 4


@block
def squeeze_and_excite(b: Block, h: Array) -> Array:
    mean = h.mean(tuple(range(1, h.ndim - 1)), keepdims=True)
    return h * jax.nn.sigmoid(b.dense("up", jax.nn.relu(b.dense("down", mean, b.size())), h.shape[-1]))


@block
def mean_over_neurons(b: Block, h: Array) -> Array:
    return h * jax.nn.sigmoid(h.mean(-1, keepdims=True))


@block
def scaled(b: Block, h: Array) -> Array:
    return h * b.param("scale", h.shape[-1]) + b.param("shift", h.shape[-1])


@block
def conditioned(b: Block, h: Array) -> Array:
    """A scale for each neuron that is computed from the second input."""
    scale = b.dense("scale", b.context, h.shape[-1])
    return h * (1 + jnp.tanh(scale).reshape(scale.shape[0], *(1,) * (h.ndim - 2), -1))


@block
def joined(b: Block, h: Array) -> Array:
    """The second input beside the neurons."""
    beside = jnp.broadcast_to(
        b.context.reshape(h.shape[0], *(1,) * (h.ndim - 2), -1), (*h.shape[:-1], b.context.shape[-1])
    )
    return b.dense("o", jnp.concatenate([h, beside], -1), b.size())


@block
def experts(b: Block, h: Array) -> Array:
    count, size = 2, b.size()
    routed = jax.nn.softmax(b.dense("route", h, count))
    return jnp.einsum(
        "...e,...ed->...d", routed, jnp.einsum("...i,eid->...ed", h, b.param("w", count, h.shape[-1], size))
    )


@block
def flattened(b: Block, h: Array) -> Array:
    """All positions read all."""
    wide = b.dense("o", h.reshape(h.shape[0], -1), b.size())
    return h * wide.mean(-1).reshape(-1, *(1,) * (h.ndim - 1))


@block
def positions_mixed(b: Block, h: Array) -> Array:
    """A mixer's other half: dense along the positions."""
    flat = h.reshape(h.shape[0], -1, h.shape[-1])
    mixed = b.dense("mix", flat.swapaxes(1, 2), flat.shape[1]).swapaxes(1, 2)
    return h + mixed.reshape(h.shape)


@dataclass(frozen=True)
class Design:
    """Which model: everything that its ``__call__`` depends on.

    Attributes:
      seed: of the choices of its blocks.
      blocks: their numbers.
      images: whether there are two axes of positions.
      words: the size of the vocabulary, if the input is tokens; else 0.
      pair: whether a second array comes out.
      named: whether what comes in and goes out are dicts.
    """

    seed: int
    blocks: tuple[int, ...]
    images: bool
    words: int
    pair: bool
    named: bool

    def block(self, number: int) -> tuple[str, random.Random]:
        """Which kind of block one is, and what makes its further choices."""
        rng = random.Random(f"{self.seed}:block:{number}")
        return rng.choice(list(BLOCKS)), rng

    def compute(self, build: Build, x: Array, context: Array) -> Any:
        """The model."""
        if self.words:
            look_up, attend = build.embed("words", self.words, 4)
            x = look_up(x)
        h = x
        for number in self.blocks:
            kind, rng = self.block(number)
            h = BLOCKS[kind](Block(build, rng, f"b{number}", context), h)
        if self.words:
            return attend(build.dense("head", h, 4))
        out = build.dense("head", h.mean(tuple(range(1, h.ndim - 1))), 3)
        if self.named:
            return {"logits": out, "features": {"last": h}} if self.pair else {"logits": out}
        return (out, h) if self.pair else out
