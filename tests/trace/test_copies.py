"""Neurons that a broadcast makes, which no variable and no input has: nobody can ask for another number of them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas

X = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
COPIED = {
    "one neuron": lambda h: jnp.broadcast_to(h[:, :1], (4, 3)),
    "its sum": lambda h: jnp.broadcast_to(h.sum(-1, keepdims=True), (4, 3)),
    "a number": lambda h: jnp.full((4, 3), 2.0) + h.sum(-1, keepdims=True),
    "no input": lambda h: jnp.zeros((4, 3)),
}


class Model(nn.Module):
    behind: str

    @nn.compact
    def __call__(self, x):
        return COPIED[self.behind](nn.Dense(2, name="dense")(x))


def imported(module):
    return nas.from_linen(module, module.init(jax.random.key(0), X), X)


@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize("name", COPIED)
def test_copies_keep_their_number(name, change):
    graph, variables = imported(Model(name))
    with pytest.raises(nas.NaiveNASError):
        nas.delta_nout(graph, variables, {"output": change}, free_outputs=True)


class Repeated(nn.Module):
    """Copies on a dimension of their own, which is merged with that of neurons."""

    width: int

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(self.width, name="dense")(x)
        return nn.Dense(2, name="out")(jnp.broadcast_to(h[:, None], (4, 3, self.width)).reshape(4, -1))


@pytest.mark.parametrize("width", [2, 3])
def test_what_is_copied_changes_and_its_copies_follow(width):
    graph, variables = imported(Repeated(width))
    for change in (-1, 2):
        mutation = nas.delta_nout(graph, variables, {"dense": change})
        assert mutation.variables["params"]["out"]["kernel"].shape == (3 * (width + change), 2)
        assert mutation.check(X).compared
        for batch in (X, X[:4] + 1):
            assert mutation.graph.apply(mutation.variables, batch).shape == (4, 2)


def test_outputs_have_the_size_that_the_graph_says():
    module = nn.Sequential([nn.Dense(2), lambda h: jnp.broadcast_to(h[:, None], (len(h), 3, 2)).reshape(len(h), 6)])
    graph, variables = imported(module)
    mutation = nas.delta_nout(graph, variables, {"output": 3}, free_outputs=True)
    assert mutation.graph.apply(mutation.variables, X).shape == (4, mutation.graph.nout("output")) == (4, 9)
