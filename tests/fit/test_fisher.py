"""The diagonal Fisher information, against gates put in by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas

X, Y = jax.random.normal(jax.random.key(0), (7, 3)), jax.random.normal(jax.random.key(1), (7, 2))


def loss(apply, variables, batch):
    inputs, targets = batch
    return jnp.mean((apply(variables, inputs) - targets) ** 2)


def test_half_the_mean_square_of_gate_derivatives():
    x = nas.input_vertex("x", 3)
    graph = nas.Graph(
        x, nas.layer("out", nn.Dense(2), nas.invariant_vertex("t", jnp.tanh, nas.layer("hidden", nn.Dense(4), x)))
    )
    variables = graph.init(jax.random.key(2), X)
    own = variables["params"]

    def gated(gates, x, y):
        hidden = gates * jnp.tanh(x @ own["hidden"]["kernel"] + own["hidden"]["bias"])
        return jnp.mean((hidden @ own["out"]["kernel"] + own["out"]["bias"] - y) ** 2)

    halves = 0.5 * np.stack([jax.grad(gated)(jnp.ones(4), x, y) for x, y in zip(X, Y, strict=True)]) ** 2
    scores, errors = nas.fisher(graph, variables, loss, [(X[:4], Y[:4]), (X[4:], Y[4:])], errors=True)
    np.testing.assert_allclose(scores["hidden"], halves.mean(0), rtol=1e-4)
    np.testing.assert_allclose(errors["hidden"], halves.std(0, ddof=1) / np.sqrt(7), rtol=1e-3)
    np.testing.assert_allclose(nas.fisher(graph, variables, loss, [(X, Y)])["hidden"], scores["hidden"], rtol=1e-5)
    with pytest.raises(nas.UtilityError, match="two examples"):
        nas.fisher(graph, variables, loss, [(X[:1], Y[:1])], errors=True)
    with pytest.raises(nas.UtilityError, match="at least one example; found 0"):
        nas.fisher(graph, variables, loss, [])
