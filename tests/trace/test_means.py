"""Sums of sums: a number that counts the neurons follows them, whatever else was summed before or after.

Each case is a function of arrays of any width, so that the function itself says what it computes with fewer neurons.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas

#: From (examples, positions, neurons) to (examples, neurons).
POOLS = {
    "mean": lambda h: h.mean(1),
    "sum": lambda h: jax.nn.relu(h).sum(1),
    "of squares": lambda h: jnp.sqrt((h**2).sum(1) + 0.1),
    "norm": lambda h: jnp.linalg.norm(h, axis=1),
    "weighted": lambda h: (jax.nn.softmax(h.max(2), 1)[..., None] * h).sum(1),
    "of two": lambda h: h.reshape(2, 2, -1, h.shape[-1]).mean(1).sum(1),
    "for each example": lambda h: jax.vmap(lambda each: each.sum(0))(h),
    "deviation": lambda h: h.std(1),
}

#: From (examples, neurons), or with positions between.
STATISTICS = {
    "centred": lambda h: h - h.mean(-1, keepdims=True),
    "shares": lambda h: h - (h / h.shape[-1]).sum(-1, keepdims=True),
    "factor": lambda h: h * (1 / h.shape[-1]) * h.sum(-1, keepdims=True),
    "normalised": lambda h: (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 0.1),
    "fast": lambda h: h / jnp.sqrt((h**2).mean(-1, keepdims=True) - h.mean(-1, keepdims=True) ** 2 + 0.1),
    "unbiased": lambda h: h / (jnp.std(h, -1, keepdims=True, ddof=1) + 0.1),
    "length": lambda h: h / jnp.linalg.norm(h, axis=-1, keepdims=True) * np.sqrt(h.shape[-1]),
    "difference": lambda h: h * (((h + 1) ** 2).sum(-1, keepdims=True) - (h**2).sum(-1, keepdims=True)) / h.shape[-1],
    "response": lambda h: h / (h.mean(-1, keepdims=True) + 1e-3),
}


def agrees(fn: Callable[[jax.Array], jax.Array], positions: int, width: int) -> None:
    """A network of this width computes, cut and grown, what the function does with other arrays."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, positions, 3)), jnp.float32)
    kernel = {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in (("a", (3, width)), ("b", (width, 2)))}

    def network(variables, x):
        params = variables["params"]
        return fn(x @ params["a"]) @ params["b"]

    graph, variables = nas.from_function(network, {"params": kernel}, x)
    assert graph.handles()["a"].coupled
    for delta in (-2, 1):
        changed, own = nas.delta_nout(graph, variables, {"a": delta})
        assert own["params"]["a"].shape == (3, width + delta)
        np.testing.assert_allclose(changed.apply(own, x), network(own, x), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(("pool", "statistic"), list(itertools.product(POOLS, STATISTICS)))
def test_positions_first(pool: str, statistic: str):
    agrees(lambda h: STATISTICS[statistic](POOLS[pool](h)), 4, 6)


@pytest.mark.parametrize("statistic", ["centred", "normalised", "shares"])
def test_as_many_positions_as_neurons(statistic: str):
    agrees(lambda h: STATISTICS[statistic](h.mean(1)), 6, 6)


@pytest.mark.parametrize(
    "mean",
    [
        lambda h: h.mean((1, 2)),
        lambda h: h.mean(1).mean(1),
        lambda h: h.mean(2).mean(1),
        lambda h: h.sum(2).mean(1) / h.shape[-1],
        lambda h: h.sum(2).sum(1) / h.shape[-1],
        lambda h: h.sum((1, 2)) / h.shape[-1],
        lambda h: (h / h.shape[-1]).mean(1).sum(1),
        lambda h: (h.sum(1) / h.shape[-1]).sum(-1),
        lambda h: (h / (h.shape[1] * h.shape[2])).sum(2).sum(1),
        lambda h: (h.mean(2) ** 2).mean(1),
        lambda h: jnp.sqrt((h**2).mean((1, 2))) * 3,
    ],
)
def test_both(mean):
    """Positions and neurons at once, or in any order."""
    agrees(lambda h: h[:, 0] * mean(h)[:, None], 5, 6)


def test_global_response():
    """As in ConvNeXt V2: the norms over all positions, divided by their mean over the channels."""

    def response(h: jax.Array) -> jax.Array:
        norms = jnp.sqrt((h**2).sum(1, keepdims=True))
        return (h * norms / (norms.mean(-1, keepdims=True) + 1e-6) + h).sum(1)

    agrees(response, 5, 6)


def test_a_number_that_counts_positions_stays():
    """Two means over six positions of six neurons: neither number is the number of neurons."""

    def fn(h: jax.Array) -> jax.Array:
        return h.sum(1) / 6 + jnp.tanh(h).sum(1) / 6

    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 6, 3), (3, 6)))
    variables = {"params": {"a": kernel, "b": jnp.ones((6, 2))}}
    graph, own = nas.from_function(lambda v, x: fn(x @ v["params"]["a"]) @ v["params"]["b"], variables, x)
    changed, own = nas.delta_nout(graph, own, {"a": -2})
    expected = fn(x @ own["params"]["a"]) @ own["params"]["b"]
    np.testing.assert_allclose(changed.apply(own, x), expected, rtol=1e-5)


def test_in_a_population():
    """Masked members count their own neurons, behind a pooling over positions as well."""

    def network(variables, x):
        pooled = (x @ variables["params"]["a"]).mean(1)
        return STATISTICS["normalised"](pooled) @ variables["params"]["b"]

    x = jax.random.normal(jax.random.key(0), (2, 4, 3))
    arrays = {"a": jax.random.normal(jax.random.key(1), (3, 6)), "b": jnp.ones((6, 2)).at[0].set(2.0)}
    graph, variables = nas.from_function(network, {"params": arrays}, x)
    members = [nas.delta_nout(graph, variables, {"a": delta}) for delta in (-3, -1)]
    found = nas.Population.of(members).apply(nas.Population.of(members).variables, x)
    for own, member in zip(found, members, strict=True):
        np.testing.assert_allclose(own, network(member.variables, x), rtol=1e-4, atol=1e-5)
