"""New neurons that one array makes and reads: all of their weights are zero, and they can learn even so."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import naivenas_jax as nas

X = jax.random.normal(jax.random.key(1), (16, 4))


def autoencoder(activation, biases):
    def compute(variables, x):
        p = variables["params"]
        return activation(x @ p["w"] + p.get("b", 0.0)) @ p["w"].T

    weights = {"w": jax.random.normal(jax.random.key(0), (4, 6)), **({"b": jnp.full(6, 0.1)} if biases else {})}
    return nas.from_function(compute, {"params": weights}, X)


def deep(variables, x):
    """Two tied weights, the outer of which alone makes what the inner one reads."""
    p = variables["params"]
    h = nn.gelu(x @ p["w"])
    return nn.gelu(nn.silu(h @ p["inner"]) @ p["inner"].T) @ p["w"].T


def slopes(graph, variables):
    return jax.grad(lambda v: ((graph.apply(v, X) - X) ** 2).mean())(variables)["params"]


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("activation", [jnp.tanh, nn.relu])
def test_new_neurons_of_a_tied_autoencoder_learn(activation, biases):
    """They had weights of zero behind an activation that is zero at zero: no gradient was ever other than zero."""
    graph, variables = autoencoder(activation, biases)
    wider, grown = nas.delta_nout(graph, variables, {"w:1": 2})
    np.testing.assert_allclose(wider.apply(grown, X), graph.apply(variables, X), atol=1e-6)
    assert (np.abs(slopes(wider, grown)["w"][:, 6:]).max(0) > 0).all()
    tx = optax.adam(1e-2)
    state = tx.init(grown)
    for _ in range(40):
        gradients = jax.grad(lambda v: ((wider.apply(v, X) - X) ** 2).mean())(grown)
        updates, state = tx.update(gradients, state)
        grown = optax.apply_updates(grown, updates)
    assert (np.abs(grown["params"]["w"][:, 6:]).max(0) > 1e-4).all(), "from a millionth of the usual size"


def test_where_zero_weights_learn_they_stay_zero():
    """A sigmoid is no zero at zero, so that the weight learns by what it reads."""
    graph, variables = autoencoder(nn.sigmoid, biases=True)
    wider, grown = nas.delta_nout(graph, variables, {"w:1": 2})
    assert not grown["params"]["w"][:, 6:].any()
    assert (np.abs(slopes(wider, grown)["w"][:, 6:]).max(0) > 0).all()


def test_zeros_are_zeros_where_they_are_asked_for():
    graph, variables = autoencoder(jnp.tanh, biases=True)
    assert not nas.delta_nout(graph, variables, {"w:1": 2}, new="zeros").variables["params"]["w"][:, 6:].any()


def test_weights_that_tied_weights_lie_between():
    weights = {
        "w": jax.random.normal(jax.random.key(0), (4, 6)),
        "inner": jax.random.normal(jax.random.key(2), (6, 5)),
    }
    graph, variables = nas.from_function(deep, {"params": weights}, X)
    mutation = nas.delta_nout(graph, variables, {"w:1": 2, "inner:1": 1})
    np.testing.assert_allclose(
        mutation.graph.apply(mutation.variables, X), graph.apply(variables, X), atol=2e-5, rtol=1e-5
    )
    found = slopes(*mutation)
    assert (np.abs(found["w"][:, 6:]).max(0) > 0).all()
    assert (np.abs(found["inner"][:, 5:]).max(0) > 0).all()


def test_an_embedding_that_reads_itself():
    tokens = nas.input_vertex("tokens", 7, dtype="int32")
    embed = nas.layer("embed", nn.Embed(7, 4), tokens)
    graph = nas.Graph(tokens, nas.attend("logits", embed, nas.invariant_vertex("act", jnp.tanh, embed)))
    ids = jnp.arange(7)[None]
    variables = graph.init(jax.random.key(0), ids)
    wider, grown = nas.delta_nout(graph, variables, {"embed": 2})
    np.testing.assert_allclose(wider.apply(grown, ids), graph.apply(variables, ids), atol=1e-6)
    found = jax.grad(lambda v: (wider.apply(v, ids)[..., 0] ** 2).mean())(grown)["params"]["embed"]["embedding"]
    assert (np.abs(found[:, 4:]).max(0) > 0).all()
