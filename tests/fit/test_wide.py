"""Wide weights: half of the products, fewer columns for each neuron."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas
from naivenas_jax.fit.dropping import importance as costs_of_neurons
from naivenas_jax.fit.network.data import Data
from naivenas_jax.fit.network.network import Network
from naivenas_jax.fit.regression import ridge
from naivenas_jax.fit.regression.reduced_columns import ReducedColumns
from naivenas_jax.fit.regression.ridge import Gram, added, gram
from naivenas_jax.fit.regression.sums import row_sums

IMAGES = np.asarray(jax.random.normal(jax.random.key(3), (96, 6, 6, 2)))


def net():
    """A convolution whose neurons the next one reads at 9 places, and a dense layer that reads neurons at 4."""
    x = nas.input_vertex("x", 2, shape=(6, 6, 2))
    wide = nas.invariant_vertex("relu", nn.relu, nas.layer("wide", nn.Conv(8, (3, 3)), x))
    more = nas.layer("more", nn.Conv(6, (3, 3), strides=(3, 3)), wide)
    flat = nas.flatten("flat", nas.invariant_vertex("tanh", jnp.tanh, more))
    return nas.Graph(x, nas.layer("out", nn.Dense(3), flat))


def test_half_of_the_products_is_enough(monkeypatch):
    rows = np.random.default_rng(0).normal(size=(3, 2, 50, 21)).astype(np.float32) + 30
    found = []
    for halved in (1000, 4):
        monkeypatch.setattr(ridge, "_HALVED", halved)
        total = Gram.nothing(2, 18, 3)
        for part in rows:
            total = gram(jnp.asarray(part[..., :18]), jnp.asarray(part[..., 18:]), total)
        found.append(added(None, total, "x"))
    u = np.concatenate([rows.astype(np.float64), np.ones((3, 2, 50, 1))], -1)
    wanted = np.einsum("bgnk,bgnl->gkl", u, u)
    for own in found:
        np.testing.assert_allclose(own.sums, wanted[:, [*range(18), -1]], rtol=2e-6)
        np.testing.assert_allclose(own.squares, np.diagonal(wanted, axis1=1, axis2=2)[:, 18:-1], rtol=2e-6)


@pytest.mark.parametrize("groups", [1, 2])
def test_columns_that_only_see_padding_are_left_out(monkeypatch, groups):
    """The fit is that of all columns, unless examples differ in shape; what never mattered stays as it was."""
    x = nas.input_vertex("x", 2)
    wide = nas.invariant_vertex("relu", nn.relu, nas.layer("wide", nn.Conv(8, (1,)), x))
    graph = nas.Graph(x, nas.layer("out", nn.Conv(4, (9,), feature_group_count=groups), wide))
    rows = IMAGES[:, 0, :3]
    variables = graph.init(jax.random.key(0), rows)
    cut = nas.delta_nout(graph, variables, {"wide": -2 * groups})
    spied, widths = row_sums.RowSums.add, []
    monkeypatch.setattr(
        row_sums.RowSums, "add", lambda self, rows, *of: widths.append(rows.x.shape[-1]) or spied(self, rows, *of)
    )
    found = [nas.compensate(cut, batches, ridge=1e-2) for batches in ([rows], [rows[:64], rows[64:, :2]])]
    kernels = [np.asarray(own.variables["params"]["out"]["kernel"]) for own in found]
    assert set(widths) == {5 * kernels[0].shape[1], 9 * kernels[0].shape[1]}  # of three positions five places are seen
    before = np.asarray(cut.variables["params"]["out"]["kernel"])
    np.testing.assert_array_equal(kernels[0][[0, 1, 7, 8]], before[[0, 1, 7, 8]])
    monkeypatch.setattr(Data, "alike", False)
    every = nas.compensate(cut, [rows], ridge=1e-2 * 9 / 5)  # relative to the mean square of all columns
    np.testing.assert_allclose(every.variables["params"]["out"]["kernel"], kernels[0], rtol=1e-3, atol=1e-4)
    assert np.abs(kernels[0] - before).max() > 0.01


def test_what_a_weight_reads_of_a_neuron():
    rng = np.random.default_rng(0)
    x, b = rng.normal(size=(1, 40, 14)), rng.normal(size=(14, 2))
    rows = {3: np.array([0, 4, 8, 12]), 5: np.array([1, 5, 9]), 7: np.array([2, 6, 10]), 8: np.array([3, 7, 11, 13])}
    reduced = ReducedColumns.of(b, rows, 8)
    assert reduced.number == 8
    z, matrix = np.asarray(reduced.columns(jnp.asarray(x)))[0], reduced.matrix(b)
    np.testing.assert_allclose(z @ matrix, x[0] @ b, rtol=1e-4, atol=1e-4)
    for one, own in reduced.rows(rows).items():
        np.testing.assert_allclose(z[:, own] @ matrix[own], x[0][:, rows[one]] @ b[rows[one]], rtol=1e-4, atol=1e-4)
    assert ReducedColumns.of(b, rows, 14) is None
    assert ReducedColumns.of(b, {**rows, 9: np.array([0])}, 8) is None  # a row of two neurons, as of a head and a size
    assert ReducedColumns.of(b, {n: np.array([n]) for n in range(14)}, 8) is None  # a row for each


@pytest.mark.parametrize("most", [50, 24])
def test_the_half_that_costs_least_is_the_same(monkeypatch, most):
    """The widest weight has 72 inputs, the last one 24."""
    graph = net()
    variables = graph.init(jax.random.key(2), IMAGES)
    data = Data.of(graph, [IMAGES])
    full = costs_of_neurons.neuron_costs(Network(graph, {}), variables, data, measured=False).estimated
    monkeypatch.setattr(costs_of_neurons, "WIDE", most)
    fewer = costs_of_neurons.neuron_costs(Network(graph, {}), variables, data, measured=False).estimated
    assert set(np.argsort(full["wide"])[:4]) == set(np.argsort(fewer["wide"])[:4])
    np.testing.assert_allclose(full["more"], fewer["more"], rtol=1e-3)


def test_columns_of_an_imported_convolution(monkeypatch):
    """The window of its kernel is an axis too, which may not change, and of which no costs are needed."""

    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(8, (3,), name="wide")(x))
            return nn.Dense(3, name="out")(nn.tanh(nn.Conv(2, (5,), name="more")(x)).mean(1))

    rows = IMAGES.reshape(96, 36, 2)
    graph, variables = nas.from_linen(Two(), Two().init(jax.random.key(0), rows[:1]), rows[:1])
    assert any("kernel" in axis for leaf in graph.ties.leaves.values() for axis in leaf.axes if axis)
    data, widths, found = Data.of(graph, [rows]), [], []
    spied = costs_of_neurons.curvatures

    def sums(*given):
        made = spied(*given)
        widths.append({path[1]: one.x.sums.shape[-1] - 1 for (path, _), one in made.items()})
        return made

    monkeypatch.setattr(costs_of_neurons, "curvatures", sums)
    for most in (100, 16):
        monkeypatch.setattr(costs_of_neurons, "WIDE", most)
        found.append(
            costs_of_neurons.neuron_costs(Network(graph, {}), variables, data, measured=False).estimated["wide"]
        )
    assert widths == [{"wide": 6, "more": 40, "out": 2}, {"wide": 6, "more": 16, "out": 2}]
    assert 0 < found[0].min() <= 1.001 * found[1].min() <= 2 * found[0].min()  # an upper bound, and not a loose one
