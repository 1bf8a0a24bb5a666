"""Costs of neurons that weights in loops read, or make, against Jacobians of every example."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas
from naivenas_jax.fit.dropping import unseen_readers
from naivenas_jax.fit.dropping.importance import neuron_costs
from naivenas_jax.fit.network.data import Data
from naivenas_jax.fit.network.network import Network
from naivenas_jax.fit.regression.elimination import dropped

ROWS = np.asarray(jax.random.normal(jax.random.key(0), (5, 4, 3)))


class Recurrent(nn.Module):
    """A dense layer, read inside a loop only, whose states are read by another one."""

    @nn.compact
    def __call__(self, x):
        hidden = nn.tanh(nn.Dense(6, name="hidden")(x))
        states = nn.RNN(nn.GRUCell(5, name="cell"))(hidden)
        return nn.Dense(2, name="out")(states[:, -1])


@pytest.fixture(scope="module")
def network():
    """The graph and its variables."""
    return nas.from_linen(Recurrent(), Recurrent().init(jax.random.key(1), ROWS), ROWS)


def test_costs_are_the_squares_of_jacobians(network, monkeypatch):
    graph, variables = network
    monkeypatch.setattr(unseen_readers, "DRAWS", 20_000)
    found = unseen_readers.unseen_costs(Network(graph, {}), variables, Data.of(graph, [ROWS[:2], ROWS[2:]]), {})

    def outputs(gates, states):
        """The network by hand, with gates on what the cell reads and on what it reads of its own states."""
        params = variables["params"]
        hidden = nn.tanh(ROWS @ params["hidden"]["kernel"] + params["hidden"]["bias"]) * gates
        cell, state = params["cell"], jnp.zeros((5, 5))

        def dense(name, x):
            return x @ cell[name]["kernel"] + cell[name].get("bias", 0.0)

        for t in range(4):
            read = state * states
            r = nn.sigmoid(dense("ir", hidden[:, t]) + dense("hr", read))
            z = nn.sigmoid(dense("iz", hidden[:, t]) + dense("hz", read))
            n = nn.tanh(dense("in", hidden[:, t]) + r * dense("hn", read))
            state = (1 - z) * n + z * state
        return (state * states) @ params["out"]["kernel"] + params["out"]["bias"]

    np.testing.assert_allclose(outputs(jnp.ones(6), jnp.ones(5)), graph.apply(variables, ROWS), atol=1e-5)
    by_hidden, by_states = jax.jacobian(outputs, (0, 1))(jnp.ones(6), jnp.ones(5))
    costs = nas.utility.tied.by_handle(graph, np.nan_to_num(found.read))
    np.testing.assert_allclose(costs["hidden"], 0.5 * (by_hidden**2).sum((0, 1)), rtol=0.1)
    np.testing.assert_allclose(costs[next(h for h in costs if "cell" in h)], 0.5 * (by_states**2).sum((0, 1)), rtol=0.1)


def test_neurons_of_loops_cost_something_of_their_own(network):
    graph, variables = network
    variables = jax.tree.map(np.array, variables)
    for gate in ("ir", "iz", "in"):
        variables["params"]["cell"][gate]["kernel"][2] = 0.0  # nothing reads the third neuron
    costs = neuron_costs(Network(graph, {}), variables, Data.of(graph, [ROWS]), measured=False).estimated
    assert costs["hidden"][2] == 0
    assert len(np.unique(costs["hidden"])) == 6


def test_costs_beside_those_of_matrices():
    assert dropped([], {4: 2.0, 1: 3.0, 7: 1.0}) == [(7, 1.0), (4, 2.0), (1, 3.0)]


def test_words_that_are_looked_up_stay():
    """A word that is on no batch may be on others."""

    class Words(nn.Module):
        @nn.compact
        def __call__(self, words):
            return nn.Dense(2, name="out")(nn.Embed(7, 4, name="words")(words).mean(1))

    words = np.array([[0, 1, 2], [2, 3, 3]])
    graph, variables = nas.from_linen(Words(), Words().init(jax.random.key(0), words), words)
    costs = neuron_costs(Network(graph, {}), variables, Data.of(graph, [words]), measured=False).estimated
    highest = max(cost.max() for cost in costs.values())
    np.testing.assert_array_equal(costs["words:vocabulary"], np.full(7, highest))
