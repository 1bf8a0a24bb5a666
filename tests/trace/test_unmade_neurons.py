"""Neurons that no variable makes by reading others have a handle with a readable name."""

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


def radial(p: Any, x: Any) -> Any:
    return jnp.exp(-((x[:, None] - p["c"]) ** 2).sum(-1)) @ p["b"]


def centres_last(p: Any, x: Any) -> Any:
    return jnp.exp(-((x[:, :, None] - p["c"].T) ** 2).sum(1)) @ p["b"]


def learned_query(p: Any, x: Any) -> Any:
    return jnp.tanh(p["c"].sum(1)[None] * x[:, :1]) @ p["b"]


def distances(p: Any, x: Any) -> Any:
    return jnp.sqrt(((x[:, None] - p["c"]) ** 2).sum(-1) + 1) @ p["b"]


@pytest.mark.parametrize("fn", [radial, centres_last, learned_query, distances])
def test_the_first_dimension_of_a_variable_that_reads_nothing_is_a_handle(fn: Any) -> None:
    x, p = rand(9, 4, 5), {"c": rand(0, 6, 5), "b": rand(1, 6, 3)}
    graph, v = nas.from_function(lambda v, x: fn(v["params"], x), {"params": p}, x)
    name = next(name for name, handle in graph.handles().items() if handle.size == 6)
    assert name.split(":")[0] == "c"
    cut = nas.delta_nout(graph, v, {name: -2})
    kept = cut.indices(name)
    by_hand = fn({"c": p["c"][kept], "b": p["b"][kept]}, x)
    np.testing.assert_allclose(cut.graph.apply(cut.variables, x), by_hand, rtol=1e-5, atol=1e-5)
    cut.check(x)
    grown = nas.delta_nout(graph, v, {name: 3})
    np.testing.assert_allclose(grown.graph.apply(grown.variables, x), fn(p, x), rtol=1e-5, atol=1e-5)


class Radial(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        centres = self.param("centres", nn.initializers.normal(), (7, x.shape[-1]))
        return jnp.exp(-((x[:, None] - centres) ** 2).sum(-1))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(2, name="head")(Radial(name="rbf")(nn.Dense(5, name="stem")(x)))


def test_they_are_named_by_the_path_of_the_variable() -> None:
    x = rand(0, 3, 4)
    graph, v = nas.from_linen(Net(), Net().init(jax.random.key(0), x), x)
    assert {name: handle.size for name, handle in graph.handles().items()} == {
        **{"x": 4, "stem": 5, "rbf/centres": 7, "head": 2, "output": 2}
    }
    assert nas.delta_nout(graph, v, {"rbf/centres": 2}).variables["params"]["rbf"]["centres"].shape == (9, 5)
