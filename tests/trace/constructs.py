"""Constructs of real models: attention, gates, recurrences, norms, state spaces, experts, shuffles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


@dataclass(frozen=True)
class Construct:
    """A function that reads its sizes from its variables, and what is to be found out about it.

    Attributes:
      fn: ``(variables, x) -> outputs``.
      shapes: makes the tree of shapes of its variables.
      x: the shape of its input.
      sizes: all handles but those of inputs and outputs, with their sizes.
      changes: by how many neurons each of some handles changes.
      coupled: handles that are coupled.
      fixed: axes that are fixed, wholly or in part, with a piece of the reason.
      exact: the function can be called with the new sizes.
    """

    fn: Callable[[Any, Any], Any]
    shapes: Callable[[], Any]
    x: tuple[int, ...]
    sizes: Mapping[str, int]
    changes: Mapping[str, int]
    coupled: tuple[str, ...] = ()
    fixed: Mapping[str, str] = field(default_factory=dict)
    exact: bool = True


CONSTRUCTS: dict[str, Construct] = {}


def construct(shapes: Mapping[str, tuple[int, ...]], **expected: Any) -> Callable[[Any], Any]:
    """A function of ``(p, x)`` with ``p[name]`` of the given shapes."""

    def register(fn: Any) -> Any:
        tree = {"params": {k: {"kernel": jax.ShapeDtypeStruct(s, jnp.float32)} for k, s in shapes.items()}}
        call = lambda v, x: fn({k: p["kernel"] for k, p in v["params"].items()}, x)  # noqa: E731
        CONSTRUCTS[fn.__name__] = _checked(Construct(call, lambda: tree, **expected))
        return fn

    return register


def module(name: str, make: Callable[[Any], nn.Module], x: tuple[int, ...], **expected: Any) -> None:
    """A linen module, made for given sizes; ``make(None)`` is the original."""
    shapes = lambda: jax.eval_shape(make(None).init, jax.random.key(0), jnp.ones(x))  # noqa: E731
    CONSTRUCTS[name] = _checked(Construct(lambda v, x: make(v).apply(v, x), shapes, x, **expected))


def _checked(found: Construct) -> Construct:
    assert set(found.changes) <= set(found.sizes)
    return found


# Attention.
T = (2, 4, 6)


def _attend(q: Any, k: Any, v: Any) -> Any:
    weights = jax.nn.softmax(0.5 * jnp.einsum("bthk,bshk->bhts", q, k))
    return jnp.einsum("bhts,bshk->bthk", weights, v)


def _project(p: Any, x: Any) -> Any:
    return (jnp.einsum("btd,dhk->bthk", x, p[n]) for n in "qkv")


HEADS = {"q": (6, 4, 3), "k": (6, 2, 3), "v": (6, 2, 3), "o": (12, 2)}
GROUPED = {"q:heads": 4, "q:features": 3, "k:heads": 2, "k:features": 3, "v:heads": 2, "v:features": 3}


@construct(HEADS, x=T, sizes=GROUPED | {"q:heads:heads": 2, "q:heads:features": 2},
           changes={"k:heads": 1, "q:features": 1, "v:features": 1}, coupled=("q:features", "k:features"))  # fmt: skip
def grouped_query_attention(p: Any, x: Any) -> Any:
    q, k, v = _project(p, x)
    k, v = (jnp.repeat(a, q.shape[2] // k.shape[2], axis=2) for a in (k, v))
    return _attend(q, k, v).reshape(*x.shape[:2], -1) @ p["o"]


@construct({"qkv": (6, 18), "o": (6, 2)}, x=T, sizes={"qkv": 18, "qkv:1": 2, "qkv:2": 3}, changes={"qkv:2": 1},
           coupled=("qkv", "qkv:2"), fixed={"qkv:0": "single neuron"})  # fmt: skip
def fused_attention(p: Any, x: Any) -> Any:
    h = (x @ p["qkv"]).reshape(*x.shape[:2], 3, 2, -1)
    return _attend(h[:, :, 0], h[:, :, 1], h[:, :, 2]).reshape(*x.shape[:2], -1) @ p["o"]


@construct({"qkv": (6, 20), "o": (8, 2)}, x=T, sizes={"qkv": 20, "qkv:0": 2, "qkv:1": 3, "qkv:2": 4},
           changes={"qkv:0": 1, "qkv:1": 1, "qkv:2": 1}, coupled=("qkv", "qkv:1"), exact=False)  # fmt: skip
def fused_side_by_side(p: Any, x: Any) -> Any:
    q, k, v = jnp.split(x @ p["qkv"], (6, 12), -1)
    heads = lambda h: h.reshape(*x.shape[:2], 2, -1)  # noqa: E731
    return _attend(heads(q), heads(k), heads(v)).reshape(*x.shape[:2], -1) @ p["o"]


def _rotated(h: Any, halves: bool) -> Any:
    angle = jnp.arange(h.shape[1])[:, None] / 10.0 ** jnp.arange(h.shape[-1] // 2)
    c, s = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    if halves:
        a, b = jnp.split(h, 2, -1)
        return jnp.concatenate([a * c - b * s, b * c + a * s], -1)
    a, b = h[..., ::2], h[..., 1::2]
    return jnp.stack([a * c - b * s, b * c + a * s], -1).reshape(h.shape)


ROTARY: Any = {
    "x": T,
    "sizes": {
        **{f"{name}:heads": 2 for name in "qkv"},
        **{"q:features": 4, "k:features": 4, "v:features": 3},
    },
    "changes": {"q:heads": 1, "v:features": 1},
    "coupled": ("q:features", "k:features"),
}
ROTATED = {"q": (6, 2, 4), "k": (6, 2, 4), "v": (6, 2, 3), "o": (6, 2)}


@construct(ROTATED, **ROTARY)
def rotary_halves(p: Any, x: Any) -> Any:
    q, k, v = _project(p, x)
    return _attend(_rotated(q, True), _rotated(k, True), v).reshape(*x.shape[:2], -1) @ p["o"]


@construct(ROTATED, **ROTARY)
def rotary_interleaved(p: Any, x: Any) -> Any:
    q, k, v = _project(p, x)
    return _attend(_rotated(q, False), _rotated(k, False), v).reshape(*x.shape[:2], -1) @ p["o"]


# Gates, experts, state spaces.
@construct({"g": (6, 8), "o": (4, 2)}, x=(3, 6), sizes={"g": 8}, changes={"g": 2})
def gated_unit(p: Any, x: Any) -> Any:
    a, g = jnp.split(x @ p["g"], 2, -1)
    return (a * jax.nn.sigmoid(g)) @ p["o"]


@construct({"a": (3, 8), "r": (8, 3), "e": (3, 8), "o": (8, 2)}, x=(2, 5, 3), sizes={"a": 8, "r": 3, "e": 8},
           changes={"a": 1, "r": 1})  # fmt: skip
def squeeze_and_excitation(p: Any, x: Any) -> Any:
    h = x @ p["a"]
    return (h * jax.nn.sigmoid(jax.nn.relu(h.mean(1) @ p["r"]) @ p["e"])[:, None]) @ p["o"]


@construct({"r": (5, 3), "u": (3, 5, 6), "d": (3, 6, 5), "o": (5, 2)}, x=(4, 5),
           sizes={"r": 3, "u:0": 3, "u:1": 6, "d:0": 3, "d:1": 5}, changes={"u:1": 1, "d:1": 1, "r": 1},
           coupled=("r", "u:0", "d:0"))  # fmt: skip
def soft_experts(p: Any, x: Any) -> Any:
    routed = jax.nn.softmax(x @ p["r"])
    h = jnp.einsum("ebf,efd->ebd", jnp.tanh(jnp.einsum("bd,edf->ebf", x, p["u"])), p["d"])
    return jnp.einsum("be,ebd->bd", routed, h) @ p["o"]


@construct({"r": (5, 3), "u": (3, 5, 6), "d": (3, 6, 2)}, x=(4, 5),
           sizes={"r": 3, "u:0": 5, "u:1": 6, "d:0": 6, "d:1": 2}, changes={"u:1": 1},
           coupled=("r", "u:0", "u:1", "d:0"))  # fmt: skip
def top_two_experts(p: Any, x: Any) -> Any:
    weights, chosen = lax.top_k(jax.nn.softmax(x @ p["r"]), 2)
    h = jnp.tanh(jnp.einsum("bd,bkdf->bkf", x, p["u"][chosen]))
    return jnp.einsum("bk,bkf,bkfo->bo", weights, h, p["d"][chosen])


@construct({"u": (6, 5), "dt": (5, 5), "bm": (5, 3), "cm": (5, 3), "a": (5, 3), "o": (5, 2)}, x=T,
           sizes={"u": 5, "dt": 5, "bm": 3, "cm": 3}, changes={"u": 1}, coupled=("bm", "cm"))  # fmt: skip
def selective_state_space(p: Any, x: Any) -> Any:
    u = x @ p["u"]
    step = jax.nn.softplus(u @ p["dt"])
    decay = jnp.exp(-step[..., None] * jnp.exp(p["a"]))
    drive = (step * u)[..., None] * (u @ p["bm"])[:, :, None]
    states = lax.associative_scan(lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1]), (decay, drive), axis=1)[1]
    return jnp.einsum("btds,bts->btd", states, u @ p["cm"]) @ p["o"]


@construct({"k": (6, 3), "v": (6, 5), "o": (5, 2)}, x=T, sizes={"k": 3, "v": 5}, changes={"k": 1, "v": 1},
           coupled=("k",))  # fmt: skip
def linear_attention(p: Any, x: Any) -> Any:
    k = jax.nn.relu(x @ p["k"])
    states = jnp.cumsum(k[..., None] * (x @ p["v"])[:, :, None], axis=1)
    return jnp.einsum("btk,btkv->btv", k, states) @ p["o"]


# Convolutions and shuffles.
I = (2, 4, 4, 3)  # noqa: E741


def _conv(x: Any, k: Any, padding: Any = "SAME", **how: Any) -> Any:
    return lax.conv_general_dilated(x, k, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **how)


GROUPS: Any = {
    "x": I,
    "sizes": {"a": 4, "a:0": 2, "a:1": 2, "g": 6, "g:0": 2, "g:1": 3},
    "changes": {"a:0": 1, "a:1": 1, "g:1": 1},
}


@construct({"a": (1, 1, 3, 4), "g": (3, 3, 2, 6), "o": (1, 1, 6, 2)}, **GROUPS)
def grouped_convolution(p: Any, x: Any) -> Any:
    h = _conv(x, p["a"])
    return _conv(jnp.cos(_conv(h, p["g"], feature_group_count=h.shape[-1] // p["g"].shape[2])), p["o"])


@construct({"a": (1, 1, 3, 4), "g": (3, 3, 2, 6), "o": (1, 1, 6, 2)}, **GROUPS)
def grouped_transposed_convolution(p: Any, x: Any) -> Any:
    h, pads = _conv(x, p["a"]), ((2, 1), (2, 1))
    groups = h.shape[-1] // p["g"].shape[2]
    return _conv(jnp.cos(_conv(h, p["g"], pads, lhs_dilation=(2, 2), feature_group_count=groups)), p["o"])


@construct({"a": (1, 1, 3, 8), "o": (1, 1, 2, 2)}, x=I, sizes={"a": 8, "a:2": 2}, changes={"a:2": 1},
           fixed={"a:0": "a convolution slides along it"})  # fmt: skip
def pixel_shuffle(p: Any, x: Any) -> Any:
    b, h, w, _ = x.shape
    y = jnp.cos(_conv(x, p["a"])).reshape(b, h, w, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
    return _conv(jnp.cos(y.reshape(b, h * 2, w * 2, -1)), p["o"])


@construct({"a": (1, 1, 3, 2), "o": (1, 1, 8, 2)}, x=I, sizes={"a": 2}, changes={"a": 1})
def patches_side_by_side(p: Any, x: Any) -> Any:
    h = jnp.cos(_conv(x, p["a"]))
    return _conv(jnp.concatenate([h[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1), p["o"])


# Numbers that were computed from sizes.
MEAN: Any = {"x": (4, 3), "sizes": {"a": 6}, "changes": {"a": 1}, "coupled": ("a",)}
NETWORK = {"a": (3, 6), "o": (6, 2)}


@construct(NETWORK, **MEAN)
def variance_by_hand(p: Any, x: Any) -> Any:
    h = x @ p["a"]
    centred = h - jnp.sum(h, -1, keepdims=True) / h.shape[-1]
    return (centred / jnp.sqrt(jnp.sum(centred**2, -1, keepdims=True) / h.shape[-1] + 1e-3)) @ p["o"]


@construct(NETWORK, **MEAN)
def mean_of_shares(p: Any, x: Any) -> Any:
    h = x @ p["a"]
    return jnp.cos(h - (h / h.shape[-1]).sum(-1, keepdims=True)) @ p["o"]


@construct(NETWORK, **MEAN)
def mean_square_by_einsum(p: Any, x: Any) -> Any:
    h = x @ p["a"]
    return (h * lax.rsqrt(jnp.einsum("bi,bi->b", h, h) * (1 / h.shape[-1]) + 1e-3)[:, None]) @ p["o"]


@construct(NETWORK, **MEAN)
def scaled_unit_length(p: Any, x: Any) -> Any:
    h = x @ p["a"]
    return (h / jnp.linalg.norm(h, axis=-1, keepdims=True) * np.sqrt(h.shape[-1])) @ p["o"]


# Weights that are computed from variables.
@construct({"a": (3, 6), "l": (6, 2), "r": (2, 5), "w": (6, 5), "o": (5, 2)}, x=(4, 3),
           sizes={"a": 6, "l": 2, "r": 5, "w": 5}, changes={"a": 1, "l": 1, "w": 1})  # fmt: skip
def low_rank_update(p: Any, x: Any) -> Any:
    return jnp.cos(jnp.cos(x @ p["a"]) @ (p["w"] + 0.5 * p["l"] @ p["r"])) @ p["o"]


@construct({"a": (6, 5), "l": (7, 6), "q": (6, 4), "k": (5, 4), "v": (5, 3), "o": (3, 2)}, x=T,
           sizes={"a": 5, "q": 6, "k": 4, "v": 3}, changes={"a": 1, "q": 1, "k": 1, "v": 1})  # fmt: skip
def learned_queries(p: Any, x: Any) -> Any:
    h = x @ p["a"]
    scores = jnp.einsum("qk,btk->bqt", p["l"] @ p["q"], h @ p["k"])
    return (jax.nn.softmax(scores) @ (h @ p["v"])) @ p["o"]


def _size(v: Any, *path: str, otherwise: int, dim: int = -1) -> int:
    if v is None:
        return otherwise
    node = v["params"]
    for key in path:
        node = node[key]
    return int(node.shape[dim])


class Recurrent(nn.Module):
    cell: str
    features: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="o")(nn.RNN(getattr(nn, self.cell)(self.features, name="cell"))(x))


GATES = {"LSTMCell": ("ii", "if", "ig", "io", "hi", "hf", "hg", "ho"), "GRUCell": ("ir", "iz", "in", "hr", "hz", "hn"),
         "SimpleCell": ("i", "h")}  # fmt: skip
GATES["OptimizedLSTMCell"] = GATES["LSTMCell"]
for _cell, _gates in GATES.items():
    module(
        _cell,
        lambda v, c=_cell: Recurrent(c, _size(v, "o", "kernel", otherwise=4, dim=0)),
        (2, 3, 6),
        sizes={f"cell/{gate}": 4 for gate in _gates},
        changes={f"cell/{_gates[0]}": 1},
    )


class BothWays(nn.Module):
    forward: int
    backward: int

    @nn.compact
    def __call__(self, x):
        there = nn.RNN(nn.SimpleCell(self.forward, name="there"))
        back = nn.RNN(nn.SimpleCell(self.backward, name="back"))
        return nn.Dense(2, name="o")(nn.Bidirectional(there, back)(x))


module("bidirectional", lambda v: BothWays(*(_size(v, k, "h", "kernel", otherwise=n) for k, n in
       (("there", 4), ("back", 3)))), (2, 3, 6), changes={"there/i": 1, "back/h": 1},
       sizes={"there/i": 4, "there/h": 4, "back/i": 3, "back/h": 3})  # fmt: skip


class Normalised(nn.Module):
    features: int
    norm: str
    options: Any = None

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(self.features, name="a")(x)
        return nn.Dense(2, name="o")(jnp.cos(getattr(nn, self.norm)(name="n", **(self.options or {}))(h)))


for _norm, _options, _sizes, _changes, _coupled in (
    ("LayerNorm", {}, {"a": 6}, {"a": 1}, ("a",)),
    ("RMSNorm", {}, {"a": 6}, {"a": 1}, ("a",)),
    ("InstanceNorm", {}, {"a": 6}, {"a": 1}, ()),
    ("BatchNorm", {"use_running_average": True}, {"a": 6}, {"a": 1}, ()),
    ("GroupNorm", {"num_groups": 3}, {"a": 6, "a:0": 3, "a:1": 2}, {"a:1": 1}, ("a", "a:1")),
):
    module(
        _norm,
        lambda v, n=_norm, o=_options: Normalised(_size(v, "o", "kernel", otherwise=6, dim=0), n, o),
        (2, 3, 6),
        sizes=_sizes,
        changes=_changes,
        coupled=_coupled,
    )


class Wrapped(nn.Module):
    hidden: int
    features: int
    wrapper: str

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(self.hidden, name="a")(x)
        layer = nn.Dense(self.features, name="d")
        h = nn.WeightNorm(layer)(h) if self.wrapper == "WeightNorm" else nn.SpectralNorm(layer)(h, update_stats=False)
        return nn.Dense(2, name="o")(jnp.cos(h))


for _wrapper, _coupled in (("WeightNorm", ("a",)), ("SpectralNorm", ("a", "d"))):
    module(
        _wrapper,
        lambda v, w=_wrapper: Wrapped(_size(v, "a", "kernel", otherwise=5), _size(v, "d", "kernel", otherwise=4), w),
        (3, 6),
        sizes={"a": 5, "d": 4},
        changes={"a": 1, "d": 1},
        coupled=_coupled,
    )
