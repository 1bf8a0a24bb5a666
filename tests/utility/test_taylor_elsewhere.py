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


#: Weights that read neurons on the first dimension, of parameters "w" and "v" (4, 3), "m" (3, 3) and "c" (2,).
MADE = {
    "softplus": lambda p: jax.nn.softplus(p["w"]),
    "sum of a stack": lambda p: jax.nn.softplus(jnp.stack([p["w"], p["v"]]).sum(0)),
    "constant first": lambda p: jax.nn.softplus(jnp.stack([jnp.full((4, 3), 0.2), p["w"]]).sum(0)),
    "mean of a stack, last": lambda p: jnp.exp(jnp.stack([p["w"], p["v"]], -1).mean(-1)),
    "largest of a stack": lambda p: jax.nn.softplus(jnp.stack([p["w"], p["v"]], 1).max(1)),
    "transposed": lambda p: jax.nn.softplus(jnp.stack([p["w"].T, p["v"].T]).sum(0).T),
    "mixture": lambda p: jax.nn.softplus(jnp.tensordot(jax.nn.softmax(p["c"]), jnp.stack([p["w"], p["v"]]), 1)),
    "mixture, last": lambda p: jax.nn.softplus(jnp.einsum("ijk,k->ij", jnp.stack([p["w"], p["v"]], -1), p["c"])),
    "made of a product": lambda p: jnp.tanh(p["w"] @ p["m"]),
    "scaled by a product": lambda p: p["w"] * jnp.exp(p["v"] @ p["m"]),
    "mean taken off": lambda p: jax.nn.softplus(p["w"]) - jax.nn.softplus(p["w"]).mean(0),
}
SHAPES = {"a": (3, 4), "w": (4, 3), "v": (4, 3), "m": (3, 3), "c": (2,), "b": (3,)}


@pytest.mark.parametrize("name", MADE)
def test_the_gate_lies_behind_all_that_makes_the_weight(name):
    """Taylor and Fisher scores, behind a tail of their own, against gradients written by hand."""
    params = {key: RNG.normal(size=shape).astype(np.float32) * 0.7 for key, shape in SHAPES.items()}

    def net(p, x, gates=1.0):
        return jnp.tanh(jax.nn.relu(x @ p["a"]) @ (MADE[name](p) * jnp.reshape(gates, (-1, 1))) + p["b"])

    graph, variables = nas.from_function(lambda v, x: net(v["params"], x), {"params": params}, X)
    by_hand = jax.grad(lambda gates: (net(params, X, gates) ** 2).mean())(jnp.ones(4))
    np.testing.assert_allclose(nas.taylor(graph, variables, loss, [X])["a"], np.abs(by_hand), rtol=1e-4)
    single = jax.vmap(jax.grad(lambda gates, x: (net(params, x[None], gates) ** 2).mean()), (None, 0))(jnp.ones(4), X)
    np.testing.assert_allclose(nas.fisher(graph, variables, loss, [X])["a"], (single**2).mean(0) / 2, rtol=1e-4)
