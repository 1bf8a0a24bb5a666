"""Small networks that good calls are made with."""

from __future__ import annotations

import tempfile
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import core, nnx

import naivenas_jax as nas

X = jnp.ones((4, 3))
IMAGE = jnp.ones((1, 8, 8, 3))


@cache
def network() -> tuple[nas.Graph, dict[str, Any]]:
    x = nas.input_vertex("x", 3)
    a, b = nas.layer("a", nn.Dense(6), x), nas.layer("b", nn.Dense(6), x)
    act = nas.invariant_vertex("act", nn.relu, nas.layer("norm", nn.BatchNorm(), (a + b).named("sum")))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.concat("cat", act, nas.layer("c", nn.Dense(4), x))))
    return graph, graph.init(jax.random.key(0), X)


@cache
def images() -> tuple[nas.Graph, dict[str, Any]]:
    x = nas.input_vertex("x", 3, shape=(8, 8, 3))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.flatten("flat", nas.layer("conv", nn.Conv(4, (3, 3)), x))))
    return graph, graph.init(jax.random.key(0), IMAGE)


@cache
def narrower() -> nas.Mutation:
    return nas.delta_nout(*network(), {"c": -1})


@cache
def saved() -> str:
    path = tempfile.mkdtemp() + "/net"
    nas.save(path, narrower(), undo=True, state=optax.sgd(0.1).init({}))
    return path


class Two(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.first, self.last = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(nnx.relu(self.first(x)))


@cache
def model() -> Two:
    return Two(nnx.Rngs(0))


@cache
def rebuildable() -> nas.Mutation:
    return nas.delta_nout(*nas.from_nnx(model(), X), {"first": -1})


@cache
def timed() -> nas.LatencyTable:
    return nas.measure_latency(*network(), X, timer=seconds)


def seconds(function: Any, arrays: Any) -> float:
    """In place of a clock: the number of weights."""
    del function
    return float(arrays[1].size)


def run(*inputs: Any, intercept: Any = None) -> Any:
    """``graph.run`` in a scope of its own, of which there is one for each call."""
    graph, variables = network()
    return graph.run(core.Scope(variables, {}, mutable=False), *inputs, intercept=intercept)


def loss(apply: Any, variables: Any, batch: Any) -> jax.Array:
    return jnp.mean(apply(variables, batch) ** 2)


def times(params: Any, x: jax.Array) -> jax.Array:
    return x @ params["w"]
