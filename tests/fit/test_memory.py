"""What does not fit into memory is fitted otherwise, and it is said; so is what is not fitted at all."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas
from naivenas_jax.fit.comparison import Comparison
from naivenas_jax.fit.dropping.importance import neuron_costs
from naivenas_jax.fit.network.data import Data
from naivenas_jax.fit.network.memory import BYTES, most_columns, require_memory
from naivenas_jax.fit.network.network import Network

IMAGES = np.asarray(jax.random.normal(jax.random.key(3), (96, 6, 6, 2)))


@pytest.fixture(scope="module")
def network():
    """The dense layer reads 12 neurons at 36 places."""
    x = nas.input_vertex("x", 2, shape=(6, 6, 2))
    wide = nas.invariant_vertex("relu", nn.relu, nas.layer("wide", nn.Conv(12, (3, 3)), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(3), nas.flatten("flat", wide)))
    return graph, graph.init(jax.random.key(1), IMAGES)


def error(mutation):
    pairs = (mutation.before, mutation.variables_before), (mutation.graph, mutation.variables)
    wanted, made = (graph.apply(variables, IMAGES) for graph, variables in pairs)
    return float(((made - wanted) ** 2).mean())


def test_a_fit_in_combinations_is_that_of_least_squares_on_them(network, monkeypatch):
    """Of what each neuron contributes: three columns for each, against numpy on the activations themselves."""
    graph, variables = network
    cut = nas.delta_nout(graph, variables, {"wide": -6})
    monkeypatch.setattr("naivenas_jax.fit.regression.fitting.most_columns", lambda *_: 20)
    fitted = nas.compensate(cut, [IMAGES], ridge=1e-7, outcomes=False)
    assert "params/out/kernel reads 216 entries" in " ".join(fitted.notes)
    assert "fitted in 18 combinations" in " ".join(fitted.notes)
    activations = {"params": {"wide": cut.variables["params"]["wide"]}}
    x = np.asarray(nas.Graph(cut.graph.inputs, cut.graph.vertex("relu")).apply(activations, IMAGES)).reshape(96, 36, 6)
    kernel = np.asarray(cut.variables["params"]["out"]["kernel"]).reshape(36, 6, 3)
    columns = [x[:, :, i] @ np.linalg.svd(kernel[:, i], full_matrices=False)[0] for i in range(6)]
    z = np.concatenate([*columns, np.ones((96, 1))], 1)
    rest = np.asarray(graph.apply(variables, IMAGES) - cut.graph.apply(cut.variables, IMAGES))
    best = float(((rest - z @ np.linalg.lstsq(z, rest, rcond=None)[0]) ** 2).mean())
    assert error(fitted) == pytest.approx(best, rel=0.02)


def test_what_does_not_fit_at_all_stays_but_for_its_shift(network):
    cut = nas.delta_nout(*network, {"wide": -6})
    fitted = nas.compensate(cut, [IMAGES], memory=2_000)
    notes = " ".join(fitted.notes)
    assert "it stays, and only what is added to what it makes is fitted" in notes
    assert "is fitted on one in" in notes
    np.testing.assert_array_equal(*(m.variables["params"]["out"]["kernel"] for m in (fitted, cut)))
    assert error(fitted) < error(cut)


def test_costs_and_compression_within_little_memory(network, monkeypatch):
    graph, variables = network
    data, notes = Data.of(graph, [IMAGES]), []
    costs = neuron_costs(Network(graph, {}), variables, data, memory=300_000, notes=notes, measured=False).estimated[
        "wide"
    ]
    assert costs.shape == (12,)
    assert "costs of neurons from" in notes[0]
    assert "were too wide even so" not in notes[0]
    neuron_costs(Network(graph, {}), variables, data, memory=1_000, notes=notes, measured=False)
    assert "2 weights were too wide even so" in notes[1]
    monkeypatch.setattr(Comparison, "worth_it", True)
    small = nas.compress(graph, variables, [IMAGES], max_params=0.5, steps=1, refine=0, memory=300_000)
    assert any("costs of neurons from" in note for note in small.notes)
    assert nas.costs(*small).params <= 0.5 * nas.costs(graph, variables).params


def test_estimates():
    for memory, groups, outputs in ((10**6, 1, 3), (10**7, 4, 100), (10**4, 1, 1000)):
        most = most_columns(memory, groups, outputs)
        assert most == 0 or BYTES * groups * (most + 1) * (most + outputs + 1) <= memory // 2
        assert BYTES * groups * (most + 2) * (most + outputs + 2) > memory // 2
    assert require_memory(None) > 2**26
    for wrong in (0, -1, 1.5, "much", True):
        with pytest.raises(nas.RequestError, match="memory= is a number of bytes"):
            require_memory(wrong)


def test_gradients_of_many_outputs_are_taken_as_uncorrelated(monkeypatch):
    """As they are here, since each output has a sign of its own."""
    data = jax.random.normal(jax.random.key(0), (400, 5))
    x = nas.input_vertex("x", 5)
    hidden = nas.invariant_vertex("tanh", jnp.tanh, nas.layer("hidden", nn.Dense(12), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(3), hidden))
    variables = graph.init(jax.random.key(1), data)
    found = []
    for most in (2048, 2):
        monkeypatch.setattr("naivenas_jax.fit.dropping.curvature.MOST_OUTPUTS", most)
        found.append(
            neuron_costs(Network(graph, {}), variables, Data.of(graph, [data]), measured=False).estimated["hidden"]
        )
    np.testing.assert_allclose(*found, rtol=0.3)
