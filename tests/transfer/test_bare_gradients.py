"""Gradients by themselves after a layer was inserted: what is new starts at ``new=``, where its place is known."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import naivenas_jax as nas

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 3)).astype(np.float32)
PARAMS = {
    "w": {"kernel": RNG.normal(size=(3, 4)).astype(np.float32)},
    "u": {"kernel": RNG.normal(size=(4, 2)).astype(np.float32)},
}


def net(params, x):
    return checkpoint_name(jnp.tanh(x @ params["w"]["kernel"]), "middle") @ params["u"]["kernel"]


def inserted(function, variables):
    """A layer inside the function, and gradients by the variables before."""
    graph, variables = nas.from_function(function, variables, X)
    grads = jax.grad(lambda given: (graph.apply(given, X) ** 2).mean())(variables)
    return nas.insert_vertex(graph, variables, "middle", lambda x: nas.layer("new", nn.Dense(4), x)), grads


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_beside_parameters():
    """Of the whole tree, and of the parameters alone."""
    mutation, grads = inserted(lambda variables, x: net(variables["params"], x), {"params": PARAMS})
    carried = mutation.carry(grads)
    assert jax.tree.structure(carried) == jax.tree.structure(dict(mutation.variables))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(carried["params"]["new"]))
    same({name: carried["params"][name] for name in PARAMS}, grads["params"])
    same(mutation.carry(grads["params"]), carried["params"])
    averages = mutation.carry(grads, new="params")
    same(averages["params"]["new"], mutation.variables["params"]["new"])


def test_beside_variables_without_a_collection_of_parameters():
    """The new layer has its variables in a collection of its own, and a fresh tree says where that lies."""
    mutation, grads = inserted(net, PARAMS)
    with pytest.raises(nas.CarryError, match=r"params/new/bias is the first of its collection.*fresh="):
        mutation.carry(grads)
    carried = mutation.carry(grads, fresh=jax.tree.map(np.zeros_like, mutation.variables))
    assert jax.tree.structure(carried) == jax.tree.structure(dict(mutation.variables))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(carried["params"]))
    same({name: carried[name] for name in PARAMS}, grads)
