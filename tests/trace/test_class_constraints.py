"""Sizes asked so that the user's own class can say them: what comes back is of the class itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import naivenas_jax as nas

KEY = jax.random.key(0)
ROWS = jax.random.normal(jax.random.key(2), (3, 6))
WORDS = jax.random.normal(jax.random.key(3), (2, 4, 12))


def imported(model: nn.Module, x: Any) -> tuple[nas.Graph, Any]:
    generator = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, KEY, x)
    drawn = jax.tree.map(lambda s: jnp.asarray(0.3 * generator.normal(size=s.shape), s.dtype), shapes)
    return nas.from_linen(model, drawn, x)


def own_class(model: nn.Module, x: Any, request: dict[str, Any] | None, **budget: Any) -> Any:
    """The model of its own class that a request or a budget leads to."""
    graph, variables = imported(model, x)
    own = nas.class_constraints(model, graph)
    if request is None:
        mutation = nas.resize(graph, variables, constraints=own, **budget)
    else:
        mutation = nas.delta_nout(graph, variables, request, constraints=own)
    assert mutation.plan.changed
    new, given = nas.rebuild(model, mutation, rescale_queries=True)
    assert type(new) is type(model)
    np.testing.assert_allclose(new.apply(given, x), mutation.graph.apply(mutation.variables, x), rtol=1e-5, atol=1e-5)
    return new


class Blocks(nn.Module):
    """One width for all blocks, an expansion, and the keywords of a layer."""

    width: int = 8
    expand: int = 4
    last: Mapping[str, int] = nn.FrozenDict({"features": 10})

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width, name="stem")(x)
        for i in range(2):
            y = nn.relu(nn.Dense(self.expand * self.width, name=f"up{i}")(x))
            x = x + nn.Dense(self.width, name=f"down{i}")(y)
        return nn.Dense(2)(nn.relu(nn.Dense(**self.last, name="last")(x)))


def test_one_width_for_all_blocks():
    assert own_class(Blocks(), ROWS, {"up1": -8, "last": -3}) == Blocks(width=6, last=nn.FrozenDict({"features": 7}))
    model, budget = Blocks(), {"max_params": 0.5}
    assert own_class(model, ROWS, None, **budget).width < 8


def test_what_no_field_says_stays():
    graph, variables = imported(Blocks(), ROWS)
    own = nas.class_constraints(Blocks(), graph)
    with pytest.raises(nas.InfeasibleError, match="the class says them by width"):
        nas.delta_nout(graph, variables, {"up1": -3}, constraints=own)
    assert any("size('up1') + -4 * size('down0') == 0" in str(condition) for condition in own)


class Halves(nn.Module):
    widths: Sequence[int] = (8, 5)

    @nn.compact
    def __call__(self, x):
        a, b = jnp.split(nn.Dense(2 * self.widths[0], name="up")(x), 2, -1)
        return nn.Dense(2)(jnp.concatenate([jnp.tanh(a), nn.Dense(self.widths[1], name="inner")(b)], -1))


def test_equal_halves():
    assert own_class(Halves(), ROWS, {"up": nas.relaxed(-3)}) == Halves((6, 5))
    assert own_class(Halves(), ROWS, {"up": 4, "inner": -1}) == Halves((10, 4))


def test_equal_halves_that_no_field_says():
    class Fixed(nn.Module):
        @nn.compact
        def __call__(self, x):
            a, b = jnp.split(nn.Dense(12, name="up")(x), 2, -1)
            return nn.Dense(2)(jnp.concatenate([jnp.tanh(a), nn.relu(b)], -1))

    graph, variables = imported(Fixed(), ROWS)
    own = nas.class_constraints(Fixed(), graph, fields=False)
    mutation = nas.delta_nout(graph, variables, {"up": -4}, constraints=own)
    new = nas.rebuild(Fixed(), mutation)
    np.testing.assert_allclose(new.apply(mutation.variables, ROWS), mutation.graph.apply(mutation.variables, ROWS))


class Attention(nn.Module):
    """The head size is the width by the heads; queries, keys and values of a head lie side by side."""

    width: int = 12
    heads: int = 2

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width, name="embed")(x)
        y = nn.Dense(3 * self.width, name="qkv")(nn.LayerNorm()(x))
        q, k, v = jnp.split(y.reshape(*x.shape[:2], self.heads, -1), 3, -1)
        y = nn.dot_product_attention(q, k, v).reshape(*x.shape[:2], -1)
        return nn.Dense(2)(x + nn.Dense(self.width, name="out")(y))


def test_a_narrower_attention():
    """The width is a multiple of the heads; the query is rescaled, since its size changed."""
    assert own_class(Attention(), WORDS, {"embed": -4}) == Attention(width=8)
    graph, variables = imported(Attention(), WORDS)
    with pytest.raises(nas.InfeasibleError):
        nas.delta_nout(graph, variables, {"embed": -3}, constraints=nas.class_constraints(Attention(), graph))


class NnxBlocks(nnx.Module):
    def __init__(self, width: int, expand: int = 2, *, rngs: nnx.Rngs):
        self.width, self.expand = width, expand
        self.stem, self.head = nnx.Linear(6, width, rngs=rngs), nnx.Linear(width, 2, rngs=rngs)
        self.ups = nnx.List([nnx.Linear(width, expand * width, rngs=rngs) for _ in range(2)])
        self.downs = nnx.List([nnx.Linear(expand * width, width, rngs=rngs) for _ in range(2)])

    def __call__(self, x):
        x = self.stem(x)
        for up, down in zip(self.ups, self.downs, strict=True):
            x = x + down(nnx.relu(up(x)))
        return self.head(x)


def test_nnx():
    model = NnxBlocks(8, rngs=nnx.Rngs(0))
    graph, variables = nas.from_nnx(model, ROWS)
    mutation = nas.delta_nout(graph, variables, {"ups/1": -4}, constraints=nas.class_constraints(model, graph))
    new = nas.rebuild(model, mutation)
    assert (new.width, [up.out_features for up in new.ups]) == (6, [12, 12])
    fresh = NnxBlocks(6, rngs=nnx.Rngs(0))
    assert jax.tree.map(jnp.shape, nas.from_nnx(fresh, ROWS)[1]) == jax.tree.map(jnp.shape, mutation.variables)


def test_another_model_is_refused():
    graph, _ = imported(Blocks(), ROWS)
    with pytest.raises(nas.RebuildError, match="not the model that the graph was imported from"):
        nas.class_constraints(Blocks(width=9), graph)
