"""Costs that add up to what was measured, against least squares, zeros put in by hand, and scipy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import isotonic_regression

import naivenas_jax as nas
from naivenas_jax.fit.dropping.importance import neuron_costs
from naivenas_jax.fit.dropping.measured_costs import marks, rescaled
from naivenas_jax.fit.dropping.trial import Trial, change_without
from naivenas_jax.fit.network.data import Data
from naivenas_jax.fit.network.network import Network
from naivenas_jax.utility.tied import class_numbers

ROWS = np.asarray(jax.random.normal(jax.random.key(0), (96, 5)))


def test_what_is_measured_is_what_costs_add_up_to():
    costs = np.array([1.0, 2.0, 3.0, 3.0, 5.0, 8.0])
    found = rescaled(costs, [2, 4, 6], [0.3, 1.2, 4.4])
    np.testing.assert_allclose(np.cumsum(found)[[1, 3, 5]], [0.3, 1.2, 4.4], rtol=1e-6)
    np.testing.assert_allclose(found, [0.1, 0.2, 0.45, 0.45, 3.2 * 5 / 13, 3.2 * 8 / 13], rtol=1e-6)


def test_a_curve_that_flattens_becomes_its_largest_convex_bound():
    rng = np.random.default_rng(0)
    for _ in range(20):
        costs = np.sort(rng.exponential(size=20))
        changes = np.cumsum(rng.exponential(size=5) + 0.1)
        counts = marks(20)
        slopes = np.concatenate(
            [
                costs[start:stop] / costs[start:stop].sum() * change
                for start, stop, change in zip([0, *counts], counts, np.diff([0, *changes]), strict=False)
            ]
        )
        np.testing.assert_allclose(rescaled(costs, counts, changes.tolist()), isotonic_regression(slopes).x, rtol=1e-5)


def test_changes_that_are_not_finite_are_left_out():
    costs = np.array([1.0, 1.0, 2.0, 2.0])
    np.testing.assert_allclose(rescaled(costs, [1, 2, 4], [0.5, np.nan, np.inf]), 0.5 * costs, rtol=1e-6)
    np.testing.assert_array_equal(rescaled(costs, [4], [np.nan]), costs)


def test_marks():
    assert [marks(n) for n in (0, 1, 2, 10)] == [[], [1], [1, 2], [1, 2, 5, 8, 10]]


def test_rows_are_dropped_as_by_least_squares():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 8)) @ rng.normal(size=(8, 8))
    b = rng.normal(size=(8, 3))
    gone = np.array([1, 4, 6])
    left = np.setdiff1d(np.arange(8), gone)
    found = b + change_without(np.linalg.inv(x.T @ x), b, gone)
    np.testing.assert_allclose(found[gone], 0, atol=1e-8)
    np.testing.assert_allclose(found[left], np.linalg.lstsq(x[:, left], x @ b, rcond=None)[0], atol=1e-6)


def two_layers():
    x = nas.input_vertex("x", 5)
    hidden = nas.invariant_vertex("tanh", jnp.tanh, nas.layer("hidden", nn.Dense(12), x))
    return nas.Graph(x, nas.layer("out", nn.Dense(3), hidden))


def left_over(x, y):
    """The squared error of the best fit of y by x and a constant, relative to the variance of y."""
    x = np.concatenate([x, np.ones((len(x), 1))], 1)
    return ((y - x @ np.linalg.lstsq(x, y, rcond=None)[0]) ** 2).sum() / ((y - y.mean(0)) ** 2).sum()


def test_costs_of_a_layer_that_is_read_once_are_those_of_its_best_refits():
    """Without any of its neurons there is the mean alone, which is off by the variance."""
    graph = two_layers()
    variables = graph.init(jax.random.key(1), ROWS)
    costs = neuron_costs(Network(graph, {}), variables, Data.of(graph, [ROWS]), ridge=1e-9)
    own = variables["params"]["hidden"]
    activations = np.tanh(ROWS @ np.asarray(own["kernel"]) + np.asarray(own["bias"]))
    wanted = np.asarray(graph.apply(variables, ROWS))
    order = np.argsort(costs.estimated["hidden"], kind="stable")
    errors = [left_over(activations[:, order[count:]], wanted) for count in marks(12)]
    expected = rescaled(np.sort(costs.estimated["hidden"]), marks(12), errors)
    np.testing.assert_allclose(np.sort(costs.measured["hidden"]), expected, rtol=0.02, atol=1e-4)
    np.testing.assert_allclose(costs.measured["hidden"].sum(), 1.0, rtol=1e-3)


class Recurrent(nn.Module):
    """A dense layer that is read inside a loop only."""

    @nn.compact
    def __call__(self, x):
        states = nn.RNN(nn.GRUCell(5, name="cell"))(nn.tanh(nn.Dense(6, name="hidden")(x)))
        return nn.Dense(2, name="out")(states[:, -1])


class Positive(nn.Module):
    """Weights that are a function of what is stored, which is not 0 at 0."""

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(6, name="hidden")(x))
        return (x @ jax.nn.softplus(self.param("positive", nn.initializers.normal(), (6, 4))))[:, 0]


@pytest.mark.parametrize("module", [Recurrent(), Positive()])
def test_what_is_not_refitted_reads_zeros(module):
    x = ROWS.reshape(24, 4, 5)
    graph, variables = nas.from_linen(module, module.init(jax.random.key(2), x), x)
    gone = [1, 4]
    own = jax.tree.map(np.array, dict(variables))
    hidden = own["params"]["hidden"] if "hidden" in own["params"] else next(iter(own["params"].values()))["hidden"]
    hidden["kernel"][:, gone], hidden["bias"][gone] = 0, 0
    before, after = (np.asarray(graph.apply(each, x)) for each in (variables, own))
    handle = next(name for name in graph.handles() if name.endswith("hidden"))
    classes = class_numbers(graph.ties, handle)[gone]
    found = Trial.of(Network(graph, {}), variables, Data.of(graph, [x])).change(classes, ())
    np.testing.assert_allclose(found, ((after - before) ** 2).sum() / ((before - before.mean(0)) ** 2).sum(), rtol=1e-4)
    assert found > 1e-3
