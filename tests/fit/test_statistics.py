"""Batch statistics, against means and variances taken by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import naivenas_jax as nas
from naivenas_jax.transfer.variables import flat


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Conv(4, (3, 3), name="conv")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="first")(x))
        x = nn.Dense(5, name="dense")(x.mean((1, 2)))
        return nn.BatchNorm(use_running_average=not train, name="second")(x)


X = jax.random.normal(jax.random.key(0), (23, 6, 6, 2)) + 1.0
BATCHES = [X[:10], X[10:12], X[12:]]


def by_hand(params, scale=1.0):
    """The statistics of both normalisations, over all data at once."""
    made = nn.Conv(4, (3, 3)).apply({"params": params["conv"]}, X)
    first = np.asarray(made, np.float64).reshape(-1, 4)
    normed = (made - first.mean(0)) / np.sqrt(first.var(0) + 1e-5) * params["first"]["scale"] + params["first"]["bias"]
    second = np.asarray(nn.relu(normed).mean((1, 2)) @ params["dense"]["kernel"] + params["dense"]["bias"])
    return {"first": first, "second": second}


@pytest.mark.parametrize("imported", [False, True])
def test_pooled_over_batches_of_any_size(imported):
    net = Net()
    variables = net.init(jax.random.key(1), X)
    if imported:
        graph, variables = nas.from_linen(net, variables, X)
    else:
        x = nas.input_vertex("x", 2)
        first = nas.layer("first", nn.BatchNorm(), nas.layer("conv", nn.Conv(4, (3, 3)), x))
        mean = nas.invariant_vertex("mean", lambda v: nn.relu(v).mean((1, 2)), first)
        graph = nas.Graph(x, nas.layer("second", nn.BatchNorm(), nas.layer("dense", nn.Dense(5), mean)))
    found = nas.recalibrate(graph, variables, iter(BATCHES))
    for name, values in by_hand(variables["params"]).items():
        np.testing.assert_allclose(found["batch_stats"][name]["mean"], values.mean(0), atol=1e-4)
        np.testing.assert_allclose(found["batch_stats"][name]["var"], values.var(0), rtol=1e-3)
    jax.tree.map(np.testing.assert_array_equal, found["params"], variables["params"])


def test_nnx_by_hand():
    x = nas.input_vertex("x", 2)
    norm = nas.layer("norm", nnx.BatchNorm(2, rngs=nnx.Rngs(0)), x)
    graph = nas.Graph(x, norm)
    variables = graph.init(jax.random.key(0), X)
    new = flat(nas.recalibrate(graph, variables, BATCHES))
    found = {path[-1]: array for path, array in new.items() if path[0] == "batch_stats"}
    np.testing.assert_allclose(found["mean"], X.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(found["var"], X.var((0, 1, 2)), rtol=1e-4)


def test_nothing_to_estimate():
    x = nas.input_vertex("x", 2)
    graph = nas.Graph(x, nas.layer("dense", nn.Dense(2), x))
    variables = graph.init(jax.random.key(0), jnp.ones((1, 2)))
    assert nas.recalibrate(graph, variables, [jnp.ones((1, 2))]) == variables


def test_no_batches_and_statistics_out_of_sight_are_refused():
    x = nas.input_vertex("x", 2)
    graph = nas.Graph(x, nas.layer("norm", nn.BatchNorm(), x))
    variables = graph.init(jax.random.key(0), X)
    with pytest.raises(nas.VariablesError, match="batches= was empty"):
        nas.recalibrate(graph, variables, [])
    graph, variables = nas.from_linen(Net(), Net().init(jax.random.key(1), X), X)
    with pytest.raises(nas.VariablesError, match=r"batch_stats/first/mean.*statistics of the batch"):
        nas.recalibrate(graph, variables, BATCHES, train=True, mutable=["batch_stats"])


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (3, "must be an iterable of batches.*found int"),
        ({"x": X}, "must be an iterable of batches.*found dict"),
        ([X, {"x": X}], "Batch 1 must be an array.*found dict"),
        ([[X]], "Batch 0 must be an array.*found list"),
        ([X, X[:0]], "Batch 1 has an array without entries"),
        ([X.at[1, 0].set(jnp.nan)], r"Batch 0 is not finite: nan at \(1, 0"),
        ([X * jnp.inf], r"Batch 0 is not finite"),
        ([X[:1, :1, :1]], "cannot be told from a single value of each neuron"),
    ],
)
def test_batches_that_would_spoil_every_statistic(batches, message):
    x = nas.input_vertex("x", X.shape[-1])
    graph = nas.Graph(x, nas.layer("norm", nn.BatchNorm(), x))
    variables = graph.init(jax.random.key(0), X)
    with pytest.raises(nas.VariablesError, match=message):
        nas.recalibrate(graph, variables, batches)


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_variables_that_would_spoil_a_statistic(value):
    x = nas.input_vertex("x", X.shape[-1])
    graph = nas.Graph(x, nas.layer("norm", nn.BatchNorm(), nas.layer("a", nn.Dense(4), x)))
    variables = graph.init(jax.random.key(0), X)
    variables["params"]["a"]["bias"] = variables["params"]["a"]["bias"].at[1].set(value)
    with pytest.raises(nas.VariablesError, match=r"norm/mean would not be finite.*variables are not finite"):
        nas.recalibrate(graph, variables, [X], train=False)
