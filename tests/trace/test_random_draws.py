"""Random numbers along an axis: coupled where they are drawn whatever happens, checked with even draws in training."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn, nnx

import naivenas_jax as nas

KEY = jax.random.key(7)


def rand(seed: int, *shape: int) -> Any:
    return jax.random.normal(jax.random.key(seed), shape)


def noise(h: Any, seed: Any) -> Any:
    return h + jax.random.normal(jax.random.key(seed), h.shape)


def dropped(h: Any, seed: Any) -> Any:
    return jnp.where(jax.random.bernoulli(jax.random.key(seed), 0.7, h.shape), h / 0.7, 0)


def of_the_neurons_only(h: Any, seed: Any) -> Any:
    return h * jax.random.uniform(jax.random.key(seed), h.shape[-1:])


def merged(h: Any, seed: Any) -> Any:
    return h + jax.random.normal(jax.random.key(seed), (h.size,)).reshape(h.shape)


def by_rbg(h: Any, seed: Any) -> Any:
    return h + jax.random.normal(jax.random.key(seed, impl="unsafe_rbg"), h.shape)


@pytest.mark.parametrize("draw", [noise, dropped, of_the_neurons_only, merged, by_rbg])
def test_numbers_drawn_with_a_constant_key_are_kept(draw: Any) -> None:
    x, p = rand(0, 4, 5), {"a": rand(1, 5, 12), "b": rand(2, 12, 3)}

    def f(v: Any, x: Any) -> Any:
        return draw(x @ v["params"]["a"], 7) @ v["params"]["b"]

    graph, v = nas.from_function(f, {"params": p}, x)
    assert graph.handles()["a"].coupled is None
    smaller = nas.delta_nout(graph, v, {"a": -2})
    dead = np.setdiff1d(np.arange(12), smaller.indices("a"))
    masked = f({"params": {**p, "b": p["b"].at[dead].set(0)}}, x)
    np.testing.assert_allclose(smaller.graph.apply(smaller.variables, x), masked, rtol=1e-5, atol=1e-5)
    assert smaller.check(x).compared


@pytest.mark.parametrize("draw", [noise, dropped, of_the_neurons_only, merged, by_rbg])
def test_neurons_that_random_numbers_are_drawn_for_are_coupled(draw: Any) -> None:
    x, p = rand(0, 4, 5), {"a": rand(1, 5, 12), "b": rand(2, 12, 3)}

    def f(v: Any, x: Any) -> Any:
        return draw(x @ v["params"]["a"], x[0, 0].astype(int)) @ v["params"]["b"]

    graph, v = nas.from_function(f, {"params": p}, x)
    assert "random numbers are drawn along it" in (graph.handles()["a"].coupled or "")
    smaller = nas.delta_nout(graph, v, {"a": -2})
    assert not smaller.check(x).compared


def test_one_draw_for_all_neurons_couples_nothing() -> None:
    x, p = rand(0, 4, 5), {"a": rand(1, 5, 12), "b": rand(2, 12, 3)}

    def f(v: Any, x: Any) -> Any:
        return (x @ v["params"]["a"] * jax.random.normal(KEY, (x.shape[0], 1))) @ v["params"]["b"]

    graph, v = nas.from_function(f, {"params": p}, x)
    assert graph.handles()["a"].coupled is None
    cut = nas.delta_nout(graph, v, {"a": -2})
    kept = cut.indices("a")
    by_hand = f({"params": {"a": p["a"][:, kept], "b": p["b"][kept]}}, x)
    np.testing.assert_allclose(cut.graph.apply(cut.variables, x), by_hand, rtol=1e-5, atol=1e-5)


class Dropped(nn.Module):
    """Dropout, of one mask for each example and of one for all, and noise."""

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        x = nn.Dropout(0.4, deterministic=not train)(nn.relu(nn.Dense(12, name="a")(x)))
        x = nn.Dropout(0.4, broadcast_dims=(0,), deterministic=not train)(nn.relu(nn.Dense(9, name="b")(x)))
        if train:
            x = x + jax.random.exponential(self.make_rng("noise"), x.shape)
        return nn.Dense(3, name="c")(x)


def test_training_with_dropout_is_checked() -> None:
    x, rngs = rand(0, 4, 5), {"dropout": jax.random.key(1), "noise": jax.random.PRNGKey(2)}
    graph, v = nas.from_linen(Dropped(), Dropped().init(jax.random.key(0), x), x)
    assert graph.handles()["a"].coupled is None
    for request in ({"a": -2}, {"b": -3, "a": -1}, {"a": 2, "b": -1}):
        mutation = nas.delta_nout(graph, v, request)
        assert mutation.check(x).compared
        assert mutation.check(x, train=True, rngs=rngs).compared
        mutation.graph.apply(mutation.variables, x, train=True, rngs=rngs)


def test_training_of_a_wrong_result_is_not_passed() -> None:
    x, rngs = rand(0, 4, 5), {"dropout": jax.random.key(1), "noise": jax.random.key(2)}
    graph, v = nas.from_linen(Dropped(), Dropped().init(jax.random.key(0), x), x)
    mutation = nas.delta_nout(graph, v, {"a": -2})
    mutation.variables["params"]["c"]["bias"] += 1
    with pytest.raises(nas.OracleError, match="differs by"):
        mutation.check(x, train=True, rngs=rngs)


@pytest.mark.parametrize("dropout", [nn.Dropout(0.5, deterministic=False), nnx.Dropout(0.5, rngs=nnx.Rngs(0))])
def test_hand_written_dropout_is_checked(dropout: Any) -> None:
    x = nas.input_vertex("x", 5)
    hidden = nas.layer("drop", dropout, nas.layer("a", nn.Dense(12), x))
    graph = nas.Graph(x, nas.layer("b", nn.Dense(3), hidden))
    v = graph.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, jnp.ones((1, 5)))
    mutation = nas.delta_nout(graph, v, {"a": -4})
    assert mutation.check(rand(0, 4, 5), rngs={"dropout": jax.random.key(3)}).compared


@pytest.mark.parametrize("draw", [lambda k, s: jax.random.gamma(k, 2.0, s), lambda k, s: jax.random.poisson(k, 3.0, s)])
def test_draws_that_cannot_be_made_even_are_not_compared(draw: Any) -> None:
    class Noisy(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            return x * self.param("scale", nn.initializers.ones, x.shape[-1:]) + draw(self.make_rng("noise"), x.shape)

    nas.register_layer(Noisy, leaves={"params/scale": "in"})
    x = nas.input_vertex("x", 5)
    hidden = nas.invariant_vertex("relu", nn.relu, nas.layer("a", nn.Dense(12), x))
    noisy = nas.layer("noise", Noisy(), hidden)
    graph = nas.Graph(x, nas.layer("b", nn.Dense(3), noisy))
    v = graph.init({"params": jax.random.key(0), "noise": jax.random.key(1)}, jnp.ones((1, 5)))
    mutation = nas.delta_nout(graph, v, {"a": -4})
    found = mutation.check(rand(0, 4, 5), rngs={"noise": jax.random.key(3)})
    assert not found.compared
    assert "it draws" in (found.reason or "")


def test_keys_of_one_draw_are_keys_as_others() -> None:
    from naivenas_jax.mutate.result.even_draws import even_keys

    key = even_keys(jax.random.key(0))
    draws = [float(jax.random.uniform(k)) for k in jax.random.split(key, 50)]
    assert len(set(draws)) == 50
    assert max(draws) < 0.5
    assert np.std(draws) > 0.1
    array = jax.random.normal(jax.random.fold_in(key, 3), (4, 5))
    assert (array == array[0, 0]).all()
