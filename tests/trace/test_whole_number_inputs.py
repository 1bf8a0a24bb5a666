"""Inputs of whole numbers: values of neurons where they become floats at once (pictures), else words or positions."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import naivenas_jax as nas

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (2, 6, 6, 3)).astype(np.uint8)


class Pictures(nn.Module):
    """Pixels are scaled inside, by a function of its own."""

    @nn.compact
    def __call__(self, x):
        x = jax.jit(lambda pixels: pixels.astype(jnp.float32) / 255)(x[:, ::-1])
        return nn.Dense(2)(nn.relu(nn.Conv(4, (3, 3), name="conv")(x)).mean((1, 2)))


class Flat(nnx.Module):
    def __init__(self, rngs):
        self.first, self.last = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.first(x.astype(jnp.float32))))


def test_channels_of_pictures_come_and_go():
    model = Pictures()
    variables = jax.tree.map(np.asarray, model.init(jax.random.key(0), PICTURES))
    graph, variables = nas.from_linen(model, variables, PICTURES)
    before = model.apply(variables, PICTURES)
    mutation = nas.delta_nout(graph, variables, {"x": -2})
    (kept,) = mutation.indices("x")
    kernel = variables["params"]["conv"]["kernel"][:, :, kept : kept + 1]
    own = {"params": {**variables["params"], "conv": {**variables["params"]["conv"], "kernel": kernel}}}
    cut = PICTURES[..., kept : kept + 1]
    np.testing.assert_allclose(mutation.graph.apply(mutation.variables, cut), model.apply(own, cut), atol=1e-6)
    assert mutation.check(PICTURES)
    assert mutation.graph.inputs[0].op.dtype == "uint8"
    grown = nas.delta_nout(graph, variables, {"x": 1})
    more = np.concatenate([PICTURES, PICTURES[..., :1]], -1)
    np.testing.assert_allclose(grown.graph.apply(grown.variables, more), before, atol=1e-6)
    np.testing.assert_allclose(nas.rebuild(model, grown).apply(grown.variables, more), before, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint16])
def test_features_of_any_whole_numbers(dtype):
    x = RNG.integers(0, 100, (5, 3)).astype(dtype)
    mutation = nas.delta_nout(*nas.from_nnx(Flat(nnx.Rngs(0)), x), {"x": -1, "first": 1})
    assert mutation.check(x)
    assert mutation.variables["params"]["first"]["kernel"].shape == (2, 5)


#: Functions of parameters and whole numbers that are no values, or not only.
OTHERS = {
    "words": lambda p, x: p["w"][x].mean(1),
    "compared": lambda p, x: jax.nn.one_hot(x, 3).mean(1) @ p["w"],
    "in whole numbers first": lambda p, x: (x - 1).astype(jnp.float32) @ p["w"],
    "both": lambda p, x: x.astype(jnp.float32) @ p["w"] + p["w"][x].mean(1),
    "in a loop": lambda p, x: jax.lax.scan(lambda s, row: (s, row.astype(jnp.float32) @ p["w"]), 0.0, x)[1],
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_whole_numbers_keep_their_positions(name):
    x = RNG.integers(0, 3, (5, 3)).astype(np.int32)
    params = {"params": {"w": RNG.normal(size=(3, 4)).astype(np.float32), "v": np.ones((4, 2), np.float32)}}
    graph, _ = nas.from_function(lambda v, x: OTHERS[name](v["params"], x) @ v["params"]["v"], params, x)
    assert "read by position or index" in graph.fixed()["x"]
