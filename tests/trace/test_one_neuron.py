"""Dimensions of size one: neurons that grow, unless they are broadcast or squeezed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import naivenas_jax as nas


def rand(seed: int, *shape: int) -> Any:
    return jax.random.normal(jax.random.key(seed), shape)


class Grey(nn.Module):
    """A convolutional network for grey images, with layers of one channel and a flatten."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.relu(nn.Conv(4, (3, 3), name="stem")(x))
        x = nn.Conv(1, (1, 1), name="narrow")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, name="norm")(x))
        return nn.Dense(1, name="head")(x.reshape(x.shape[0], -1))


class Loop(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(1, name="head")(nn.RNN(nn.GRUCell(1, name="cell"))(x)[:, -1])


class Mixed(nn.Module):
    """A residual of one neuron that is normalised, and a concatenation with it."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = nn.Dense(1, name="y")(x)
        y = y + nn.Dense(1, name="z")(jnp.tanh(y))
        return nn.Dense(2, name="head")(jnp.concatenate([nn.relu(y), nn.Dense(3, name="w")(x)], -1))


@pytest.mark.parametrize(
    ("model", "shape", "request_"),
    [
        (Grey(), (3, 6, 6, 1), {"x": 2}),
        (Grey(), (3, 6, 6, 1), {"narrow": 2}),
        (Grey(), (1, 6, 6, 1), {"narrow": 1, "x": 1}),
        (Grey(), (3, 6, 6, 1), {"head": 2}),
        (Loop(), (3, 5, 1), {"x": 1}),
        (Loop(), (3, 5, 1), {"cell/hr": 2}),
        (Mixed(), (3, 4), {"y": 2}),
    ],
)
def test_one_neuron_becomes_several(model: Any, shape: tuple[int, ...], request_: Any) -> None:
    x = rand(0, *shape)
    graph, v = nas.from_linen(model, model.init(jax.random.key(1), x), x)
    names = graph.handles()
    request = {next(n for n in names if n == name or n.startswith(name[:5])): by for name, by in request_.items()}
    grown = nas.delta_nout(graph, v, request)
    wide = jnp.concatenate([x, jnp.ones((*shape[:-1], request["x"]))], -1) if "x" in request else x
    got, wanted = grown.graph.apply(grown.variables, wide), graph.apply(v, x)
    np.testing.assert_allclose(got[..., : wanted.shape[-1]], wanted, rtol=1e-5, atol=1e-5)
    for name, by in request.items():
        assert grown.graph.handles()[name].size == 1 + by
    back = nas.delta_nout(*grown, {name: nas.to(1) for name in request})
    assert jax.tree.map(jnp.shape, back.variables) == jax.tree.map(jnp.shape, v)


class Squeezed(nn.Module):
    kind: str

    @nn.compact
    def __call__(self, x: Any) -> Any:
        h = nn.Dense(1, name="one")(x)
        if self.kind == "squeeze":
            return h.squeeze(-1)
        if self.kind == "index":
            return h[..., 0]
        if self.kind == "reshape":
            return h.reshape(-1)
        return nn.Dense(2, name="head")(h * x)  # a gate for all neurons


@pytest.mark.parametrize("kind", ["squeeze", "index", "reshape", "broadcast"])
def test_one_neuron_that_is_squeezed_or_broadcast_is_fixed(kind: str) -> None:
    x, model = rand(0, 3, 4), Squeezed(kind)
    graph, _v = nas.from_linen(model, model.init(jax.random.key(1), x), x)
    assert "one" not in graph.handles()
    assert "a single neuron" in graph.fixed()["one"] or "position" in graph.fixed()["one"]


def test_dimensions_that_are_broadcast_are_no_neurons() -> None:
    """Tables for all examples, numbers for all neurons, a dimension put in to embed numbers one by one."""
    p = {"table": rand(1, 1, 5, 6), "scale": rand(2, 1), "each": rand(3, 1, 6), "b": rand(4, 6, 3), "a": rand(6, 4, 6)}

    def f(v: Any, x: Any) -> Any:
        q = v["params"]
        h = (x @ q["a"]) * q["scale"] + x.sum(-1)[..., None] @ q["each"] + q["table"]
        return jnp.tanh(h) @ q["b"]

    for batch in (1, 3):
        x = rand(0, batch, 5, 4)
        graph, _v = nas.from_function(f, {"params": p}, x)
        sizes = {name: handle.size for name, handle in graph.handles().items()}
        assert 6 in sizes.values()
        assert 1 not in sizes.values()


class Chain(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(3, name="b")(nn.relu(nn.Dense(5, name="a")(x)))


class Image(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(5, (3, 3), name="a")(x)))
        return nn.Dense(3, name="b")(x.reshape(x.shape[0], -1))


class Attending(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        h = nn.Dense(4, name="a")(x)
        h = h + nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=4, out_features=4, name="attn")(h)
        return nn.Dense(3, name="b")(h)


@pytest.mark.parametrize(
    ("model", "shape", "handle"),
    [
        (Chain(), (2, 4), "a"),
        (Image(), (2, 6, 6, 2), "a"),
        (Attending(), (2, 5, 4), "a"),
        (Attending(), (2, 5, 4), "attn/value:heads"),
        (Attending(), (2, 5, 4), "attn/value:features"),
    ],
)
def test_an_axis_of_one_neuron_is_a_handle_after_an_edit(model: Any, shape: tuple[int, ...], handle: str) -> None:
    x = rand(0, *shape)
    graph, v = nas.from_linen(model, model.init(jax.random.key(1), x), x)
    graph, v = nas.delta_nout(graph, v, {handle: nas.to(1)})
    edited = nas.insert_vertex(graph, v, "b", lambda q: nas.layer("more", nn.Dense(q.nout), q))
    assert edited.graph.handles()[handle].size == 1
    grown = nas.delta_nout(*edited, {handle: 1})
    assert grown.graph.handles()[handle].size == 2
    np.testing.assert_allclose(
        grown.graph.apply(grown.variables, x), edited.graph.apply(edited.variables, x), rtol=1e-5, atol=1e-5
    )
