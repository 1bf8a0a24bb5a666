"""Shares by hand, and that budgets no longer empty one layer for another."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import naivenas_jax as nas


def test_shares_are_those_of_the_formula_summed_over_what_is_tied():
    x = nas.input_vertex("x", 3)
    a, b = nas.layer("a", nn.Dense(3), x), nas.layer("b", nn.Dense(3), x)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), (a + b).named("sum")))
    found = nas.comparable(graph, {"a": [1.0, 2.0, 0.0], "b": [2.0, 0.0, -1.0]})
    np.testing.assert_allclose(found["a"], [1.0, 4 / 13, -1 / 14])  # totals 3, 2, -1
    assert not np.any(found.get("b", 0))


def test_a_layer_of_small_weights_is_not_emptied():
    x = nas.input_vertex("x", 10)
    small = nas.layer("small", nn.Dense(40), x)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(5), nas.layer("large", nn.Dense(40), small)))
    variables = graph.init(jax.random.key(0), jnp.ones((1, 10)))
    variables["params"]["small"]["kernel"] *= 1e-3
    raw = nas.resize(graph, variables, max_params=0.1, utility=nas.magnitude(graph, variables))
    fair = nas.resize(graph, variables, max_params=0.1)
    assert raw.graph.nout("small") == 1
    assert fair.graph.nout("small") > 3


def test_the_scale_of_scores_does_not_matter():
    x = nas.input_vertex("x", 3)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("a", nn.Dense(3), x)))
    scores = np.array([3.0, -1.0, 2.0])
    wanted = nas.comparable(graph, {"a": scores})["a"]
    for scale in (1e-200, 1e-30, 1e30, 1e200):
        np.testing.assert_allclose(nas.comparable(graph, {"a": scale * scores})["a"], wanted, rtol=1e-12)
