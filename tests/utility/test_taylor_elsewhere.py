"""Weights that are no function of a variable's entries one by one, in their places: stacked, sliced, normalised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 3)).astype(np.float32)
PARAMS = {"w": RNG.normal(size=(3, 4)).astype(np.float32), "u": RNG.normal(size=(4, 2)).astype(np.float32)}
READERS = {
    "stacked": lambda u: jnp.stack([u - 0.3, 2 * u]),
    "in two places": lambda u: jnp.concatenate([u, u - 0.3], 1)[None],
    "a softmax": lambda u: jax.nn.softmax(u, 1)[None],
    "a slice of a shift": lambda u: (u - 0.3)[None, :, :1],
    "a shift of a slice": lambda u: (u[:, :1] - 0.3)[None],
}


def computed(reader, params, x, gates=1.0):
    """Two layers, with gates between them."""
    return jnp.einsum("nk,gkm->gnm", jnp.tanh(x @ params["w"]) * gates, reader(params["u"])).sum((0, 2))


def imported(reader):
    return nas.from_function(lambda v, x: computed(reader, v["params"], x)[:, None], {"params": PARAMS}, X)


def loss(apply, variables, batch):
    return (apply(variables, batch) ** 2).mean()


@pytest.mark.parametrize("name", READERS)
def test_gates_lie_on_the_weight_whatever_it_is_made_of(name):
    reader = READERS[name]
    graph, variables = imported(reader)
    wanted = np.abs(jax.grad(lambda gates: (computed(reader, PARAMS, X, gates) ** 2).mean())(jnp.ones(4)))
    np.testing.assert_allclose(nas.taylor(graph, variables, loss, [X])["w"], wanted, rtol=1e-4)


@pytest.mark.parametrize("name", READERS)
def test_averages_of_gradients_are_refused_where_they_do_not_tell(name):
    graph, variables = imported(READERS[name])
    grads = jax.grad(lambda v: loss(graph.apply, v, X))(variables)
    with pytest.raises(nas.UtilityError, match=r"params/u is a part of a weight that is no .* Use nas\.taylor"):
        nas.TaylorAverage.init(graph).update(variables, grads)
