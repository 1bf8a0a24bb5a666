"""One tiny network for each rule of the table of primitives.

Each is a function of ``(p, x)``; ``p["a"]["kernel"]`` makes the neurons that the rule is about, and most end in a
weight that reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


@dataclass(frozen=True)
class Case:
    """A network and what is to be found out about it.

    Attributes:
      fn: the network.
      shapes: of its variables, by layer; each is a kernel.
      x: the shape of its input, or the input.
      sizes: the handles that there must be, with their sizes; handles of the reading layers are left out.
      tied: pairs of handles that are tied.
      fixed: axes that are fixed, wholly or in part, with a piece of the reason.
      coupled: handles that are coupled.
      step: how many neurons go at once.
    """

    fn: Callable[[Any, Any], Any]
    shapes: Mapping[str, tuple[int, ...]]
    x: Any = (4, 3)
    sizes: Mapping[str, int] = field(default_factory=dict)
    tied: tuple[tuple[str, str], ...] = ()
    fixed: Mapping[str, str] = field(default_factory=dict)
    coupled: tuple[str, ...] = ()
    step: int = 1


CASES: dict[str, Case] = {}


def case(shapes: Mapping[str, tuple[int, ...]], **expected: Any) -> Callable[[Any], Any]:
    def register(fn: Any) -> Any:
        CASES[fn.__name__] = Case(
            lambda v, x: fn({k: p["kernel"] for k, p in v["params"].items()}, x), shapes, **expected
        )
        return fn

    return register


def through(name: str, rule: Callable[[Any], Any], width: int = 6, **expected: Any) -> None:
    """A layer of six neurons, the rule, and a layer that reads ``width`` neurons."""
    shapes = {"a": (3, 6), "b": (width, 2)}
    CASES[name] = Case(
        lambda v, x: rule(x @ v["params"]["a"]["kernel"]) @ v["params"]["b"]["kernel"],
        shapes,
        **{"x": (4, 3)} | expected,
    )


FREE: Any = {"sizes": {"a": 6}}

# Elementwise. Each f(0) != 0 or has a derivative rule of its own somewhere.
for _name in ("tanh", "exp", "cos", "sin", "erf", "logistic", "expm1", "abs", "sign", "floor", "square"):
    through(f"elementwise_{_name}", getattr(lax, _name), **FREE)
for _name in ("log", "rsqrt", "sqrt", "cbrt", "lgamma", "digamma", "log1p"):
    through(f"elementwise_{_name}", lambda h, f=_name: getattr(lax, f)(h * h + 1.0), **FREE)
through("erf_inv", lambda h: lax.erf_inv(jnp.tanh(h) * 0.9), **FREE)
through("integer_pow", lambda h: h**3, **FREE)
through("pow", lambda h: (h * h + 1.0) ** 0.3, **FREE)
through("clamp", lambda h: lax.clamp(-0.5, h, 0.5), **FREE)
through("maximum", lambda h: jnp.maximum(h, 0.1), **FREE)
through("where", lambda h: jnp.where(h > 0.2, h, 0.1 * h), **FREE)
through("select_scalar", lambda h: lax.select_n(jnp.array(True), h, jnp.cos(h)), **FREE)
through("reduce_precision", lambda h: lax.reduce_precision(h, 8, 20), **FREE)
through("convert", lambda h: h.astype(jnp.bfloat16).astype(jnp.float32), **FREE)
through("stop_gradient", lambda h: h + lax.stop_gradient(jnp.cos(h)), **FREE)
through("barrier", lambda h: lax.optimization_barrier(jnp.cos(h)), **FREE)
through("copy", lambda h: jnp.copy(h), **FREE)
through("bits", lambda h: h + lax.stop_gradient(lax.bitcast_convert_type(h, jnp.int32) & 1).astype(jnp.float32), **FREE)
through("debug", lambda h: (jax.debug.callback(lambda _: None, h), h)[1], **FREE)
through("next_after", lambda h: lax.nextafter(lax.stop_gradient(h), 0.0 * lax.stop_gradient(h)) + h, **FREE)
through("complex", lambda h: jnp.abs(lax.complex(h, h + 1.0)), **FREE)
through("relu", jax.nn.relu, **FREE)
through("relu_at_zero", lambda h: jax.nn.relu(h * 0), **FREE)
through("gelu", jax.nn.gelu, **FREE)
through("silu", jax.nn.silu, **FREE)
through("softplus", jax.nn.softplus, **FREE)
through("constant_scale", lambda h: h * jnp.arange(6.0), **FREE)
through("constant_choice", lambda h: jnp.where(lax.iota(jnp.int32, 6) < 3, h, 0), **FREE)

# Moving neurons.
through("strided_slice", lambda h: h[:, ::2], 3, sizes={"a": 6})
through("strided_pair", lambda h: h[:, ::2] * h[:, 1::2], 3, sizes={"a": 6}, step=2)
through("interleave", lambda h: jnp.stack([h[:, 1::2], -h[:, ::2]], -1).reshape(4, 6) + h, sizes={}, step=2)
through("reverse", lambda h: h[:, ::-1], **FREE)
through("reverse_tied", lambda h: h + h[:, ::-1], sizes={"a": 6}, step=2)
through("roll", lambda h: jnp.roll(h, 2, axis=1), **FREE)
through("roll_tied", lambda h: h * jnp.roll(h, 3, axis=1), sizes={"a": 6}, step=2)
through("permutation", lambda h: h[:, np.array([3, 1, 5, 0, 2, 4])], **FREE)
through("selection", lambda h: jnp.take(h, jnp.array([4, 1, 2]), axis=1), 3, **FREE)
through("repeated_selection", lambda h: h[:, np.array([0, 0, 1, 2, 3, 4, 5, 5])], 8, **FREE)
through("computed_indices", lambda h: h[:, (jnp.arange(6) + 2) % 6], **FREE)
through("one_neuron", lambda h: h * h[:, 2:3], sizes={"a": 6}, fixed={"a": "single neuron"})
through("range", lambda h: h[:, 1:5], 4, **FREE)
through("halves", lambda h: jnp.multiply(*jnp.split(h, 2, axis=1)), 3, sizes={"a": 6}, step=2)
through("tile", lambda h: jnp.tile(h, (1, 2)), 12, **FREE)
through("stack", lambda h: jnp.stack([h, jnp.cos(h)], axis=0).sum(0), **FREE)
through("unstack", lambda h: jnp.stack(lax.unstack(h, axis=1), 1) if hasattr(lax, "unstack") else jnp.stack(
    jnp.unstack(h, axis=1), 1), fixed={"a": "used by itself"})  # fmt: skip
through("pad", lambda h: jnp.pad(jnp.cos(h), ((0, 0), (1, 2))), 9, **FREE)
through("dilate", lambda h: lax.pad(h, 0.0, ((0, 0, 0), (0, 0, 1))), 11, fixed={"a": "dilated"})
through("concatenate", lambda h: jnp.concatenate([jnp.ones((4, 2)), h, jnp.cos(h)], 1), 14, **FREE)
through("transpose", lambda h: jnp.cos(h).T.T, **FREE)
through("squeeze", lambda h: jnp.squeeze(h[:, None], 1)[None][0], **FREE)
through("dynamic_known", lambda h: lax.dynamic_slice(h, (0, 1), (4, 4)), 4, **FREE)
through("dynamic_rows", lambda h: lax.dynamic_slice_in_dim(h, jnp.argmax(h[:, 0] * 0), 4, axis=0), sizes={"a": 6})
through("updated_rows", lambda h: lax.dynamic_update_slice(h, jnp.cos(h[:2]), (1, 0)), **FREE)
through("update_neurons", lambda h: h.at[:, :3].set(1.0), **FREE)
through("update_one_neuron", lambda h: h.at[:, 2].mul(3.0), sizes={"a": 6}, fixed={"a": "of fixed size into it"})
through("update_strided", lambda h: h.at[:, ::2].multiply(3.0), **FREE)
through("update_list", lambda h: h.at[:, np.array([4, 1])].add(jnp.cos(h[:, 3:5])), sizes={"a": 6}, step=2)
through("update_block", lambda h: h.at[1:3, 2:5].set(jnp.cos(h[:2, :3])), sizes={"a": 6}, step=2)
through("update_repeated", lambda h: h.at[:, np.array([1, 1, 4])].add(2.0), **FREE)
through("update_window", lambda h: lax.dynamic_update_slice(h, jnp.cos(h[:, :2]), (0, 3)), **FREE)
through("update_nothing", lambda h: jnp.zeros((4, 9)).at[:, 2:8].set(h), 9, **FREE)
through("roll_one", lambda h: jnp.roll(h, 1, axis=1), **FREE)
through("wrap", lambda h: jnp.pad(h, ((0, 0), (2, 2)), mode="wrap"), 10, **FREE)
through("scatter_rows", lambda h: jnp.zeros((5, 6)).at[np.array([0, 2, 2, 1])].add(jnp.cos(h)), **FREE)
through("scatter_max", lambda h: jnp.zeros((5, 6)).at[np.array([0, 2, 2, 1])].max(h), **FREE)
through("gather_rows", lambda h: jnp.cos(h)[np.array([2, 1, 0])], **FREE)
through("along_axis", lambda h: jnp.take_along_axis(h, jnp.zeros((4, 2), int), axis=1), 2, fixed={"a": "index"})

# Reductions.
through("softmax", lambda h: jax.nn.softmax(h), sizes={"a": 6}, coupled=("a",))
through("normalise", lambda h: (h - h.mean(-1, keepdims=True)) / jnp.std(h, -1, keepdims=True), sizes={"a": 6},
        coupled=("a",))  # fmt: skip
through("unbiased", lambda h: h / jnp.sqrt(jnp.var(h, -1, ddof=1, keepdims=True)), sizes={"a": 6}, coupled=("a",))
through("masked_mean", lambda h: h - jnp.mean(h, -1, where=h > -9, keepdims=True), sizes={"a": 6}, coupled=("a",))
through("mean_by_factor", lambda h: h - h.sum(-1, keepdims=True) * (1 / 6), sizes={"a": 6}, coupled=("a",))
through("batch_mean", lambda h: h - h.mean(0), **FREE)
through("maximum_over", lambda h: h - h.max(-1, keepdims=True), sizes={"a": 6}, coupled=("a",))
through("argmax", lambda h: h * jnp.argmax(h, -1, keepdims=True), fixed={"a": "argmax"})
through("cumsum", lambda h: jnp.cumsum(h, axis=1), fixed={"a": "cumsum"})
through("cumsum_rows", lambda h: jnp.cumsum(h, axis=0), **FREE)
through("sort", lambda h: jnp.sort(h, axis=1), fixed={"a": "sort"})
through("sort_rows", lambda h: jnp.sort(h, axis=0), **FREE)
through("top_k", lambda h: lax.top_k(h, 6)[0], fixed={"a": "top_k"})
through("fft_rows", lambda h: jnp.abs(jnp.fft.fft(h, axis=0)) + 1, **FREE)
through("fft", lambda h: jnp.abs(jnp.fft.fft(h)), fixed={"a": "fft"})
through("pool_rows", lambda h: lax.reduce_window(h, -jnp.inf, lax.max, (2, 1), (2, 1), "VALID"), **FREE)
through("sum_rows", lambda h: lax.reduce_window(h, 0.0, lax.add, (2, 1), (1, 1), "SAME"), **FREE)
through("pool_neurons", lambda h: lax.reduce_window(h, 0.0, lax.add, (1, 2), (1, 2), "VALID"), 3, fixed={"a": "slides"})
through("cholesky", lambda h: h @ jnp.linalg.cholesky(h.T @ h + 6 * jnp.eye(6)), fixed={"a": "cholesky"})


# Calls, loops, branches.
@jax.custom_vjp
def _own_rule(h: Any, s: Any) -> Any:
    return jnp.sin(h) * s


_own_rule.defvjp(lambda h, s: (jnp.sin(h) * s, (h, s)), lambda r, g: (3 * g * r[1], jnp.sum(g * r[0])))


@jax.custom_vjp
def _rematerialised(h: Any) -> Any:
    return jnp.sin(h)


_rematerialised.defvjp(lambda h: (jnp.sin(h), h), lambda h, g: (3 * g * jnp.cos(h),), optimize_remat=True)


@jax.custom_batching.custom_vmap
def _own_batches(h: Any) -> Any:
    return jnp.cos(h)


_own_batches.def_vmap(lambda size, batched, h: (jnp.cos(h), True))


@jax.custom_jvp
def _own_tangent(h: Any) -> Any:
    return jax.nn.relu(jnp.sin(h))


_own_tangent.defjvp(lambda p, t: (_own_tangent(*p), 5 * t[0] * jnp.ones_like(p[0])))

through("custom_vjp", lambda h: _own_rule(h, 2.0), **FREE)
through("custom_jvp", _own_tangent, **FREE)
through("remat_of_custom_vjp", lambda h: _rematerialised(h), **FREE)
through("composite", lambda h: h + lax.composite(lambda h: jnp.cos(h), "tests.cos")(lax.stop_gradient(h)), **FREE)
through("custom_vmap", lambda h: h + _own_batches(lax.stop_gradient(h)), **FREE)
through("jit", jax.jit(lambda h: jnp.cos(h)), **FREE)
through("jit_inline", jax.jit(lambda h: jnp.cos(h), inline=True, donate_argnums=0), **FREE)
through("remat", jax.checkpoint(lambda h: jax.nn.relu(jnp.sin(h))), **FREE)
through("scan", lambda h: lax.scan(lambda c, r: (jnp.tanh(c + r), c), jnp.zeros(6), h, reverse=True)[1], **FREE)
through("scan_rolled", lambda h: lax.scan(lambda c, r: (c[::-1] + r, c), jnp.zeros(6), h)[0][None], sizes={}, step=2)
through("fori", lambda h: lax.fori_loop(0, 3, lambda i, c: jnp.cos(c) + i, h), **FREE)
through("while_", lambda h: lax.stop_gradient(lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.cos(c[1])),
        (0, h))[1]) + h, **FREE)  # fmt: skip
through("cond", lambda h: lax.cond(h.shape[0] == jnp.argmax(h[:, 0] * 0), jnp.sin, jnp.cos, h), sizes={"a": 6})
through("switch", lambda h: lax.switch(jnp.int32(1), [jnp.sin, jnp.cos, lambda h: h + 1], h), **FREE)


def _key_of(h: Any) -> Any:
    """A key that is no constant."""
    return jax.random.key((h * 0).sum().astype(int))


through("dropout", lambda h: jnp.where(jax.random.bernoulli(_key_of(h), 1.0, h.shape), h, 0), coupled=("a",), **FREE)
through("noise_of_keys", lambda h: h + 0 * jax.vmap(lambda k: jax.random.normal(k, (6,)))(
    jax.random.split(_key_of(h), 4)), coupled=("a",), **FREE)  # fmt: skip
through("constant_noise", lambda h: h + jax.random.normal(jax.random.key(0), h.shape), **FREE)


# Several layers.
@case({"a": (3, 6), "b": (3, 6), "c": (6, 2)}, sizes={"a": 6, "b": 6}, tied=(("a", "b"),))
def residual(p: Any, x: Any) -> Any:
    return (jnp.cos(x @ p["a"]) + x @ p["b"]) @ p["c"]


@case({"a": (3, 6), "b": (6, 5), "c": (5, 2)}, sizes={"a": 6, "b": 5})
def scan_layers(p: Any, x: Any) -> Any:
    def step(h: Any, row: Any) -> Any:
        return jnp.tanh(row @ p["a"] + h), row @ p["a"]

    h, rows = lax.scan(step, jnp.zeros(6), x)
    return jnp.tanh((rows + h) @ p["b"]) @ p["c"]


@case({"i": (3, 6), "h": (6, 6), "o": (6, 2)}, sizes={"i": 6, "h": 6}, tied=(("i", "h"),))
def recurrent(p: Any, x: Any) -> Any:
    return lax.scan(lambda h, row: (jnp.tanh(row @ p["i"] + h @ p["h"]), h), jnp.zeros(6), x)[1] @ p["o"]


@case({"a": (3, 6), "s": (3, 6, 6), "c": (6, 2)}, sizes={"a": 6})
def stacked_layers(p: Any, x: Any) -> Any:
    return lax.scan(lambda h, w: (h + jnp.tanh(h @ w), None), x @ p["a"], p["s"])[0] @ p["c"]


@case({"e": (7, 6), "b": (6, 5), "c": (5, 6)}, x=jnp.array([[1, 2], [3, 0]]), sizes={"e": 6, "b": 5})
def tied_embedding(p: Any, x: Any) -> Any:
    h = jnp.take(p["e"], x, axis=0)
    return (h + jnp.tanh(h @ p["b"]) @ p["c"]) @ p["e"].T


@case({"q": (3, 6), "k": (3, 6), "v": (3, 5), "o": (5, 2)}, x=(2, 4, 3), sizes={"q": 6, "v": 5}, coupled=("q",))
def masked_attention(p: Any, x: Any) -> Any:
    scores = jnp.einsum("btd,bsd->bts", x @ p["q"], x @ p["k"])
    mask = lax.broadcasted_iota(jnp.int32, (4, 4), 0) >= lax.broadcasted_iota(jnp.int32, (4, 4), 1)
    return jax.nn.softmax(jnp.where(mask, scores, -1e9)) @ (x @ p["v"]) @ p["o"]


@case({"q": (3, 6), "o": (6, 2)}, x=(2, 4, 3), sizes={"q": 6}, step=2)
def rotary(p: Any, x: Any) -> Any:
    h = x @ p["q"]
    angle = jnp.arange(4.0)[:, None] / 10 ** jnp.arange(3.0)
    a, b = jnp.split(h, 2, axis=-1)
    turned = jnp.concatenate([a * jnp.cos(angle) - b * jnp.sin(angle), a * jnp.sin(angle) + b * jnp.cos(angle)], -1)
    return turned @ p["o"]


IMAGE = ("NHWC", "HWIO", "NHWC")


def _conv(x: Any, k: Any, **how: Any) -> Any:
    return lax.conv_general_dilated(x, k, how.pop("strides", (1, 1)), "SAME", dimension_numbers=IMAGE, **how)


@case({"a": (2, 2, 3, 6), "b": (3, 3, 6, 2)}, x=(2, 4, 4, 3), sizes={"a": 6})
def convolution(p: Any, x: Any) -> Any:
    return _conv(jnp.cos(_conv(x, p["a"], strides=(2, 2))), p["b"], rhs_dilation=(2, 1))


@case({"a": (2, 2, 3, 6), "b": (3, 3, 6, 2)}, x=(2, 4, 4, 3), sizes={"a": 6})
def transposed_convolution(p: Any, x: Any) -> Any:
    h = lax.conv_transpose(x, p["a"], (2, 2), "SAME", dimension_numbers=IMAGE)
    return _conv(jnp.cos(h), p["b"])


@case({"a": (2, 2, 6, 3), "b": (3, 3, 6, 2)}, x=(2, 4, 4, 3), sizes={"a": 6})
def transposed_kernel(p: Any, x: Any) -> Any:
    h = lax.conv_transpose(x, p["a"], (2, 2), "SAME", dimension_numbers=IMAGE, transpose_kernel=True)
    return _conv(jnp.cos(h), p["b"])


@case({"a": (1, 1, 3, 6), "d": (3, 3, 1, 6), "b": (1, 1, 6, 2)}, x=(2, 4, 4, 3), sizes={"a": 6, "d": 6},
      tied=(("a", "d"),))  # fmt: skip
def depthwise(p: Any, x: Any) -> Any:
    return _conv(jnp.cos(_conv(_conv(x, p["a"]), p["d"], feature_group_count=6)), p["b"])


@case({"a": (1, 1, 3, 4), "d": (3, 3, 1, 8), "b": (1, 1, 8, 2)}, x=(2, 4, 4, 3), sizes={"a": 4}, tied=(("a", "d"),))
def depthwise_multiplied(p: Any, x: Any) -> Any:
    return _conv(jnp.cos(_conv(_conv(x, p["a"]), p["d"], feature_group_count=4)), p["b"])


@case({"a": (1, 1, 3, 4), "g": (3, 3, 2, 6), "b": (1, 1, 6, 2)}, x=(2, 4, 4, 3),
      sizes={"a": 4, "a:0": 2, "a:1": 2, "g": 6, "g:0": 2, "g:1": 3}, tied=(("a", "g"), ("a:0", "g:0")))  # fmt: skip
def grouped(p: Any, x: Any) -> Any:
    return _conv(jnp.cos(_conv(_conv(x, p["a"]), p["g"], feature_group_count=2)), p["b"])


@case({"a": (3, 6), "t": (9, 6), "c": (6, 2)}, sizes={"a": 6})
def position_table(p: Any, x: Any) -> Any:
    return jnp.tanh(x @ p["a"] + p["t"][np.array([0, 4, 8, 4])]) @ p["c"]


@case({"a": (3, 6), "b": (3, 4), "c": (10, 2)}, sizes={"a": 6, "b": 4})
def written_side_by_side(p: Any, x: Any) -> Any:
    return jnp.concatenate([jnp.cos(x @ p["a"]), (x @ p["b"])[:, ::-1]], 1) @ p["c"]


through("transposing_reshape", lambda h: lax.reshape(h.reshape(4, 2, 3), (4, 6), dimensions=(0, 2, 1)),
        sizes={"a": 6, "a:0": 2, "a:1": 3}, step=2)  # fmt: skip


@case({"a": (3, 4), "w": (3, 3, 3, 4, 5), "b": (5, 2)}, x=(3, 3), sizes={"w:0": 4, "w:1": 5}, coupled=("w:0",))
def kernel_for_each_example(p: Any, x: Any) -> Any:
    """As many examples as taps, so that dimensions can be mistaken for one another."""
    images = jnp.broadcast_to((x @ p["a"])[:, None, None, None], (3, 1, 3, 3, 4))
    kernels = jnp.einsum("bi,iklcd->bklcd", x, p["w"])
    return jnp.tanh(jax.vmap(_conv)(images, kernels)).mean((1, 2, 3)) @ p["b"]


# Weights that are picked, replaced or summed up before they are used are weights, and their widths have handles.
@case({"a": (3, 6), "u": (3, 6, 5), "d": (3, 5, 6), "b": (6, 2)}, sizes={"a": 6, "u": 5, "d": 6})
def weights_of_each_round(p: Any, x: Any) -> Any:
    up, down = jnp.asarray(p["u"]), jnp.asarray(p["d"])
    return lax.fori_loop(0, 3, lambda i, h: h + jnp.tanh(h @ up[i]) @ down[i], x @ p["a"]) @ p["b"]


@case({"a": (3, 6), "e": (4, 6, 6), "b": (6, 2)}, sizes={"a": 6}, coupled=("a",))
def weights_of_the_example(p: Any, x: Any) -> Any:
    """Not a counter: where the loop goes next, the example says."""
    experts = jnp.asarray(p["e"])
    step = lambda _, s: (jnp.int32(jnp.abs(s[1].sum())) % 4, jnp.tanh(s[1] @ experts[s[0]]))  # noqa: E731
    return lax.fori_loop(0, 2, step, (0, x @ p["a"]))[1] @ p["b"]


@case({"a": (3, 6), "u": (6, 5), "w": (6, 5), "b": (5, 2)}, sizes={"a": 6, "u": 5, "w": 5}, tied=(("u", "w"),))
def weights_by_condition(p: Any, x: Any) -> Any:
    return jnp.tanh(x @ p["a"] @ lax.cond(x.sum() > 0, lambda u, w: u, lambda u, w: w, p["u"], p["w"])) @ p["b"]


@case({"a": (3, 6), "u": (6, 5), "w": (6, 2), "b": (5, 2)}, sizes={"a": 6, "u": 5, "w": 2}, tied=(("u", "w"),))
def weights_with_a_part_replaced(p: Any, x: Any) -> Any:
    return jnp.tanh(x @ p["a"] @ lax.dynamic_update_slice(p["u"], p["w"], (0, 1))) @ p["b"]


@case({"a": (3, 6), "u": (6, 5), "w": (6, 2), "b": (5, 2)}, sizes={"a": 6, "u": 5, "w": 2}, tied=(("u", "w"),))
def weights_with_something_added(p: Any, x: Any) -> Any:
    return jnp.tanh(x @ p["a"] @ jnp.asarray(p["u"]).at[:, 1:3].add(p["w"])) @ p["b"]


@case({"a": (3, 6), "u": (3, 6, 5), "b": (5, 2)}, sizes={"a": 6, "u": 5})
def weights_summed_up(p: Any, x: Any) -> Any:
    return jnp.tanh(x @ p["a"] @ jnp.cumsum(p["u"], 0)[-1]) @ p["b"]


def _normed(h: Any, groups: int) -> Any:
    parts = h.reshape(*h.shape[:-1], groups, -1)
    parts = parts - parts.mean((-1,), keepdims=True)
    return (parts * lax.rsqrt((parts**2).mean(-1, keepdims=True) + 0.1)).reshape(h.shape)


@case({"a": (3, 8), "b": (8, 6), "c": (14, 2)}, sizes={"a": 8, "a:0": 4, "a:1": 2, "b": 6}, coupled=("a", "a:0", "a:1"))
def groups_within_groups(p: Any, x: Any) -> Any:
    """Normalised in four groups of two, and beside other neurons in groups twice as large."""
    h = x @ p["a"]
    y = jnp.sin(_normed(h, 4)) @ p["b"]
    return _normed(h, 2) @ p["c"][:8] + y @ p["c"][8:]
