"""Queries rescaled on request: a class that divides by the root of its query size then computes what the graph does."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import FrozenDict, freeze

import naivenas_jax as nas

KEY = jax.random.key(0)
WORDS = jax.random.normal(jax.random.key(3), (2, 4, 12))


def mutated(model: nn.Module, request: dict[str, Any]) -> nas.Mutation:
    generator = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, KEY, WORDS)
    variables = jax.tree.map(lambda s: jnp.asarray(0.5 * generator.normal(size=s.shape), s.dtype), shapes)
    return nas.delta_nout(*nas.from_linen(model, variables, WORDS), request)


def changed(before: Any, after: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By path, before and after, what is not the same."""
    pairs = zip(jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (np.asarray(old), np.asarray(new))
        for (path, old), new in pairs
        if not np.array_equal(old, new)
    }


class Attention(nn.Module):
    """Queries, keys and values of one kernel."""

    heads: int = 2
    size: int = 6

    @nn.compact
    def __call__(self, x):
        y = nn.Dense(3 * self.heads * self.size, name="qkv")(x)
        q, k, v = jnp.moveaxis(y.reshape(*x.shape[:2], 3, self.heads, self.size), 2, 0)
        y = nn.softmax(q.swapaxes(1, 2) @ k.transpose(0, 2, 3, 1) / jnp.sqrt(self.size)) @ v.swapaxes(1, 2)
        return nn.Dense(x.shape[-1], name="out")(y.swapaxes(1, 2).reshape(*x.shape[:2], -1))


def by_hand(mutation: nas.Mutation, sizes: int) -> jax.Array:
    """The original attention with the dropped positions of heads at zero: they add nothing to any product."""
    params = jax.tree.map(np.array, mutation.variables_before["params"])
    kept = np.zeros(params["qkv"]["bias"].shape, bool)
    kept[mutation.indices("qkv")] = True
    params["qkv"]["kernel"][:, ~kept], params["qkv"]["bias"][~kept] = 0, 0
    return Attention(size=sizes).apply({"params": params}, WORDS)


@pytest.mark.parametrize("change", [-2, 3])
def test_queries_of_a_joint_kernel(change):
    mutation = mutated(Attention(), {"qkv:2": change})
    before = jax.tree.map(np.array, mutation.variables)
    model, variables = nas.rebuild(Attention(), mutation, rescale_queries=True)
    assert model == Attention(size=6 + change)
    np.testing.assert_allclose(
        model.apply(variables, WORDS), mutation.graph.apply(mutation.variables, WORDS), rtol=1e-5, atol=1e-5
    )
    if change < 0:
        np.testing.assert_allclose(model.apply(variables, WORDS), by_hand(mutation, 6), rtol=1e-5, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, before, mutation.variables)
    others = changed(mutation.variables, variables)
    assert list(others) == ["params/qkv/bias", "params/qkv/kernel"]
    old, new = (array.reshape(12, 3, -1) for array in others["params/qkv/kernel"])
    np.testing.assert_allclose(new[:, 0], old[:, 0] * np.sqrt((6 + change) / 6), rtol=1e-6)
    np.testing.assert_array_equal(new[:, 1:], old[:, 1:])


@pytest.mark.parametrize("normalised", [False, True])
def test_attention_of_flax(normalised):
    model = nn.MultiHeadDotProductAttention(2, deterministic=True, normalize_qk=normalised)
    mutation = mutated(model, {"query:features": -2, "value:features": -2})
    with pytest.raises(nas.RebuildError, match="rescale_queries=True"):
        nas.rebuild(model, mutation)
    small, variables = nas.rebuild(model, mutation, rescale_queries=True)
    assert (type(small), small.qkv_features) == (type(model), 8)
    np.testing.assert_allclose(
        small.apply(variables, WORDS), mutation.graph.apply(mutation.variables, WORDS), rtol=1e-5, atol=1e-5
    )
    made = ["params/query_ln/scale"] if normalised else ["params/query/bias", "params/query/kernel"]
    assert list(changed(mutation.variables, variables)) == made


def test_nothing_is_rescaled_without_need():
    """Fewer heads, and a width that is normalised over: the variables are those of the mutation."""

    class Normalised(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.RMSNorm()(nn.LayerNorm()(nn.Dense(8, name="embed")(x)))
            return nn.MultiHeadDotProductAttention(4, qkv_features=8, deterministic=True, name="attention")(x)

    mutation = mutated(Normalised(), {"embed": -2, "attention/query:heads": -1})
    model, variables = nas.rebuild(Normalised(), mutation, rescale_queries=True)
    assert variables is mutation.variables
    np.testing.assert_array_equal(model.apply(variables, WORDS), mutation.graph.apply(variables, WORDS))


def test_mappings_stay_what_they_are():
    model = Attention()
    variables = freeze(jax.tree.map(lambda s: np.ones(s.shape, s.dtype), jax.eval_shape(model.init, KEY, WORDS)))
    mutation = nas.delta_nout(*nas.from_linen(model, variables, WORDS), {"qkv:2": -1})
    assert isinstance(nas.rebuild(model, mutation, rescale_queries=True)[1], FrozenDict)


def test_nnx():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.attention = nnx.MultiHeadAttention(2, 12, rngs=rngs, decode=False)

        def __call__(self, x):
            return x + self.attention(x)

    model = Net(nnx.Rngs(0))
    mutation = nas.delta_nout(
        *nas.from_nnx(model, WORDS), {"attention/query:features": -2, "attention/value:features": -2}
    )
    small, variables = nas.rebuild(model, mutation, rescale_queries=True)
    np.testing.assert_allclose(small(WORDS), mutation.graph.apply(mutation.variables, WORDS), rtol=1e-5, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, nas.from_nnx(small, WORDS)[1], variables)
    assert {path.split("/")[2] for path in changed(mutation.variables, variables)} == {"query"}
