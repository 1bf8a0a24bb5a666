"""Chains of random mutations, and crossovers: each legal, computed under jit, and differentiated."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import naivenas_jax as nas

KEY = jax.random.key(0)
WIDTHS = ("width_up", "width_down")
#: So that chains neither grow without end nor take long to compile.
SPACE = nas.SearchSpace(max_vertices=14)

Network = tuple[nas.Graph, dict, jax.Array]


def mean_pool(x: jax.Array) -> jax.Array:
    return nn.avg_pool(x, (2, 2), strides=(2, 2))


def mean(x: jax.Array) -> jax.Array:
    return x.mean(axis=1)


def started(graph: nas.Graph, x: jax.Array) -> Network:
    return graph, graph.init(KEY, x), x


def dense() -> Network:
    x = nas.input_vertex("x", 4, shape=(2, 4))
    a = nas.invariant_vertex("act", nn.relu, nas.layer("a", nn.Dense(6), x))
    b = nas.layer("b", nn.Dense(6), a)
    joined = nas.concat("cat", (a + b).named("sum"), nas.layer("norm", nn.LayerNorm(), b))
    return started(nas.Graph(x, nas.layer("out", nn.Dense(3), joined)), jax.random.normal(KEY, (3, 2, 4)))


def convolutions() -> Network:
    x = nas.input_vertex("x", 2, shape=(4, 4, 2))
    a = nas.layer("norm", nn.BatchNorm(), nas.layer("conv", nn.Conv(4, (3, 3)), x))
    b = nas.invariant_vertex("act", nn.gelu, nas.layer("grouped", nn.Conv(4, (3, 3), feature_group_count=2), a))
    pooled = nas.invariant_vertex("pool", mean_pool, (a + b).named("sum"))
    head = nas.layer("out", nn.Dense(3), nas.flatten("flat", nas.concat("cat", pooled, pooled)))
    return started(nas.Graph(x, head), jax.random.normal(KEY, (2, 4, 4, 2)))


def words() -> Network:
    tokens = nas.input_vertex("tokens", 7, shape=(3,))
    stream = nas.layer("embed", nn.Embed(7, 4), tokens)
    attended = nas.layer("attention", nn.MultiHeadDotProductAttention(2), stream, stream)
    stream = (stream + attended).named("residual")
    inner = nas.invariant_vertex(
        "gelu", nn.gelu, nas.layer("up", nn.Dense(6), nas.layer("norm", nn.LayerNorm(), stream))
    )
    stream = (stream + nas.layer("down", nn.Dense(4), inner)).named("stream")
    head = nas.layer("out", nn.Dense(3), nas.invariant_vertex("mean", mean, stream))
    return started(nas.Graph(tokens, head), jnp.array([[1, 2, 3], [0, 6, 1]]))


class Blocks(nn.Module):
    """A residual network in linen."""

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(6, name="first")(x)
        h = h + nn.Dense(6, name="inner")(nn.relu(nn.LayerNorm(name="norm")(h)))
        return nn.Dense(3, name="out")(h)


class Layers(nnx.Module):
    """The same in nnx, with a convolution."""

    def __init__(self, rngs: nnx.Rngs):
        self.a, self.b = nnx.Conv(2, 4, (3,), rngs=rngs), nnx.Conv(4, 4, (3,), rngs=rngs)
        self.out = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        h = self.a(x)
        return self.out((h + self.b(nnx.relu(h))).mean(axis=1))


def linen() -> Network:
    x = jax.random.normal(KEY, (3, 4))
    return *nas.from_linen(Blocks(), Blocks().init(KEY, x), x), x


def with_nnx() -> Network:
    x = jax.random.normal(KEY, (3, 5, 2))
    return *nas.from_nnx(Layers(nnx.Rngs(0)), x), x


STARTS = (dense, convolutions, words, linen, with_nnx)


def keys(name: str) -> Iterator[jax.Array]:
    key = jax.random.key(sum(map(ord, name)))
    while True:
        key, found = jax.random.split(key)
        yield found


def checked(mutation: nas.Mutation, x: jax.Array, outputs: tuple[int, ...]) -> None:
    """Compute it under jit with the derivatives by all parameters: finite, and of the shapes that they had."""
    graph, variables = mutation

    @jax.jit
    def run(params, rest):
        def loss(params):
            y = graph.apply({**rest, "params": params}, x)
            return jnp.square(y).mean(), y

        return jax.grad(loss, has_aux=True)(params)

    given = as_dicts(variables)
    rest = {name: value for name, value in given.items() if name != "params"}
    gradients, y = run(given["params"], rest)
    assert y.shape == outputs
    assert jax.tree.map(jnp.shape, gradients) == jax.tree.map(jnp.shape, given["params"])
    for value in (y, *jax.tree.leaves(gradients)):
        assert bool(jnp.isfinite(value).all())


def as_dicts(variables) -> dict:
    """Variables as nested dicts of arrays, whatever a model holds them in."""
    return jax.tree.map(jnp.asarray, nnx.to_pure_dict(variables) if isinstance(variables, nnx.State) else variables)


def chained(start: Callable[[], Network], chains: int, steps: int) -> collections.Counter:
    """Chains of random mutations of all kinds, from the network that was started with."""
    rng, kinds = keys(start.__name__), collections.Counter()
    begin, variables, x = start()
    outputs = jax.eval_shape(begin.apply, variables, x).shape
    for _ in range(chains):
        graph, now = begin, variables
        for _ in range(steps):
            mutation = nas.random_mutation(graph, now, next(rng), space=SPACE, inputs=(x,))
            checked(mutation, x, outputs)
            kinds[mutation.kind] += 1
            graph, now = mutation
    return kinds


def crossed(start: Callable[[], Network], count: int) -> int:
    """Crossovers of two mutations of the network: of widths group by group and neuron by neuron."""
    rng = keys(f"{start.__name__} crossed")
    graph, variables, x = start()
    outputs = jax.eval_shape(graph.apply, variables, x).shape
    for number in range(count):
        pair = []
        for _ in range(2):
            first = nas.random_mutation(graph, variables, next(rng), WIDTHS)
            pair.append(nas.random_mutation(*first, next(rng), WIDTHS))
        kind = ("groups", "neurons")[number % 2]
        checked(nas.crossover(pair[0], pair[1], next(rng), kind=kind), x, outputs)
    return count


@pytest.mark.parametrize("start", STARTS)
def test_some(start: Callable[[], Network]):
    chained(start, 1, 3)
    crossed(start, 1)


@pytest.mark.slow  # 1,000 mutations and 200 crossovers
@pytest.mark.parametrize("start", STARTS)
def test_many(start: Callable[[], Network]):
    kinds = chained(start, 20, 10)
    print(f"{start.__name__}: {dict(kinds)}, {crossed(start, 40)} crossovers")
    assert sum(kinds.values()) == 200
