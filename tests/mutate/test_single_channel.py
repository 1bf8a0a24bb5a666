"""Layers with a single neuron in and out, whose weights have no dimension above 1."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas

IMAGES = jax.random.normal(jax.random.key(1), (2, 4, 4, 1))


@pytest.mark.parametrize(
    ("module", "x", "macs"),  # of one example
    [
        (nn.Sequential([nn.Dense(1), nn.Dense(1)]), jax.random.normal(jax.random.key(2), (4, 3)), 3 + 1),
        (nn.Sequential([nn.Conv(1, (1, 1)), nn.Conv(1, (1, 1))]), IMAGES, 16 * 2),
        (nn.Sequential([nn.Conv(1, (3, 3)), nn.Conv(1, (3, 3))]), IMAGES, 16 * 9 * 2),
    ],
    ids=["dense", "1x1", "3x3"],
)
def test_imported_layers_of_one_neuron(module, x, macs):
    graph, variables = nas.from_linen(module, module.init(jax.random.key(0), x), x)
    np.testing.assert_allclose(graph.apply(variables, x), module.apply(variables, x), rtol=1e-5, atol=1e-6)
    assert nas.costs(graph, variables, x[:1]).macs == macs


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_successive_layers_shrink_to_one_neuron_within_a_budget(kind):
    def made(size):
        return nn.Dense(size) if kind == "dense" else nn.Conv(size, (1, 1))

    inputs = jnp.ones((1, 1)) if kind == "dense" else IMAGES[:1]
    x = nas.input_vertex("x", 1, shape=inputs.shape[1:])
    graph = nas.Graph(x, nas.layer("out", made(1), nas.layer("b", made(2), nas.layer("a", made(2), x))))
    variables = graph.init(jax.random.key(0), inputs)
    places = 1 if kind == "dense" else 16
    mutation = nas.resize(graph, variables, max_macs=3 * places)
    assert [mutation.graph.nout(name) for name in "ab"] == [1, 1]
    assert nas.costs(*mutation, inputs).macs == 3 * places
    assert mutation.check(inputs).compared
