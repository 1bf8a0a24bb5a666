"""Utilities of networks with complex weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas

X = jax.random.normal(jax.random.key(3), (5, 3))


def _two(variables, x):
    return (jnp.sin(x @ variables["params"]["a"]) @ variables["params"]["b"]).real


@pytest.fixture(scope="module")
def network():
    def draw(key, shape):
        return jax.random.normal(jax.random.key(key), shape, jnp.complex64)

    return nas.from_function(_two, {"params": {"a": draw(0, (3, 4)), "b": draw(1, (4, 2))}}, X)


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_magnitudes_are_those_of_the_rotated_weights(network, norm, group):
    graph, variables = network
    sizes = jax.tree.map(lambda w: jnp.abs(w).astype(w.dtype), variables)
    scores = nas.magnitude(graph, variables, norm=norm, group=group)
    expected = nas.magnitude(graph, sizes, norm=norm, group=group)
    for axis, wanted in expected.items():
        np.testing.assert_allclose(scores[axis], wanted, rtol=1e-5)


def test_the_magnitude_of_an_imaginary_neuron_is_no_zero():
    a = jnp.array([[10j, 0.01, 0.01]] * 3)
    graph, variables = nas.from_function(
        lambda v, x: jnp.abs(x @ v["params"]["a"]) @ v["params"]["b"], {"params": {"a": a, "b": jnp.ones((3, 2))}}, X
    )
    np.testing.assert_allclose(nas.magnitude(graph, variables)["a"], [10, 0.01, 0.01], rtol=1e-5)
    assert 0 not in nas.delta_nout(graph, variables, {"a": -1}).plan.axis("a").dropped


def test_the_smallest_integer_has_a_magnitude():
    def quantised(variables, x):
        return x @ (variables["params"]["q"].astype(jnp.float32) * variables["params"]["s"])

    q = jnp.array([[-128, 1]] * 3, jnp.int8)
    graph, variables = nas.from_function(quantised, {"params": {"q": q, "s": jnp.ones(2)}}, X)
    (scores,) = nas.magnitude(graph, variables).values()
    assert scores.tolist() == [128.0, 1.0]


def test_taylor_agrees_with_differences(network):
    graph, variables = network

    def loss(apply, values, batch):
        return (apply(values, batch) ** 2).mean()

    def gated(neuron, gate):
        params = variables["params"]
        return loss(graph.apply, {"params": {**params, "b": params["b"].at[neuron].multiply(gate)}}, X)

    slopes = [abs(float(gated(i, 1.01) - gated(i, 0.99))) / 0.02 for i in range(4)]
    np.testing.assert_allclose(nas.taylor(graph, variables, loss, [X])["a"], slopes, rtol=1e-2)


def test_activity_of_complex_values(network):
    graph, variables = network
    values = np.asarray(jnp.sin(X @ variables["params"]["a"]))
    found = {s: nas.activity(graph, variables, [X], statistic=s)["a"] for s in ("mean", "variance")}
    np.testing.assert_allclose(found["mean"], np.abs(values).mean(0), rtol=1e-5)
    np.testing.assert_allclose(found["variance"], values.var(0), rtol=1e-4)
