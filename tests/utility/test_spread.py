"""Standard errors of measured scores, against plain numpy, resampled examples and a network of one neuron."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas
from naivenas_jax.utility.spread import Spread


@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_mean_and_error_of_portions_are_those_of_all_rows(offset):
    rng = np.random.default_rng(0)
    portions = [rng.normal(offset, 1.0, (rows, 3)) for rows in (1, 7, 0, 2, 30)]
    spread = Spread.none(3)
    for rows in portions:
        spread = spread.with_rows(rows)
    every = np.concatenate(portions)
    assert spread.number == 40
    np.testing.assert_allclose(spread.mean, every.mean(0), rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(spread.error, every.std(0, ddof=1) / np.sqrt(40), rtol=1e-6)


def single(first, second):
    """``second * first * x``, of which the gate of the hidden neuron has that very derivative."""
    x = nas.input_vertex("x", 1)
    hidden = nas.layer("hidden", nn.Dense(1, use_bias=False), x)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(1, use_bias=False), hidden))
    weights = {"hidden": {"kernel": jnp.full((1, 1), first)}, "out": {"kernel": jnp.full((1, 1), second)}}
    return graph, {"params": weights}


def mean_output(apply, variables, batch):
    return jnp.mean(apply(variables, batch))


def test_taylor_of_one_neuron():
    graph, variables = single(3.0, -0.5)
    values = np.random.default_rng(1).normal(0.2, 1.0, 12).astype(np.float32)
    batches = [values[:5, None], values[5:, None]]
    scores, errors = nas.taylor(graph, variables, mean_output, batches, each="example", errors=True)
    each = 1.5 * np.abs(values)
    assert scores["hidden"][0] == pytest.approx(each.mean(), rel=1e-6)  # over examples, though batches differ in size
    assert errors["hidden"][0] == pytest.approx(each.std(ddof=1) / np.sqrt(12), rel=1e-5)
    scores, errors = nas.taylor(graph, variables, mean_output, batches, errors=True)
    means = 1.5 * np.abs([values[:5].mean(), values[5:].mean()])
    assert scores["hidden"][0] == pytest.approx(means.mean(), rel=1e-5)
    assert errors["hidden"][0] == pytest.approx(abs(means[0] - means[1]) / 2, rel=1e-4)


def test_errors_are_what_resampling_the_examples_gives():
    x = nas.input_vertex("x", 3)
    hidden = nas.invariant_vertex("tanh", jnp.tanh, nas.layer("hidden", nn.Dense(5), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), hidden))
    inputs, targets = jax.random.normal(jax.random.key(1), (60, 3)), jax.random.normal(jax.random.key(2), (60, 2))
    variables = graph.init(jax.random.key(0), inputs)
    own = variables["params"]

    def gated(gates, x, y):
        made = gates * jnp.tanh(x @ own["hidden"]["kernel"] + own["hidden"]["bias"])
        return jnp.mean((made @ own["out"]["kernel"] + own["out"]["bias"] - y) ** 2)

    def loss(apply, variables, batch):
        return jnp.mean((apply(variables, batch[0]) - batch[1]) ** 2)

    slopes = np.asarray(jax.vmap(jax.grad(gated), (None, 0, 0))(jnp.ones(5), inputs, targets))
    picks = np.random.default_rng(0).integers(0, 60, (4000, 60))
    for measure, rows in ((partial(nas.taylor, each="example"), np.abs(slopes)), (nas.fisher, slopes**2 / 2)):
        scores, errors = measure(graph, variables, loss, [(inputs, targets)], errors=True)
        np.testing.assert_allclose(scores["hidden"], rows.mean(0), rtol=1e-4)
        np.testing.assert_allclose(errors["hidden"], rows[picks].mean(1).std(0), rtol=0.05)


def test_one_batch_tells_no_error():
    graph, variables = single(1.0, 1.0)
    with pytest.raises(nas.UtilityError, match="taylor needs at least two batches to tell a standard error; found 1"):
        nas.taylor(graph, variables, mean_output, [jnp.ones((4, 1))], errors=True)
    with pytest.raises(nas.UtilityError, match="two examples to tell a standard error; found 1"):
        nas.taylor(graph, variables, mean_output, [jnp.ones((1, 1))], each="example", errors=True)


@pytest.mark.parametrize(
    ("batches", "found"),
    [
        (3, "int"),
        (None, "NoneType"),
        ({"inputs": jnp.ones((4, 1))}, "dict"),
        ("batches", "str"),
        (jnp.ones((4, 1)), r"one array, of shape \(4, 1\)"),
    ],
)
def test_what_is_no_iterable_of_batches_is_refused(batches, found):
    graph, variables = single(1.0, 1.0)
    message = f"must be an iterable of batches.*found {found}"
    with pytest.raises(nas.UtilityError, match=message):
        nas.taylor(graph, variables, mean_output, batches)
    with pytest.raises(nas.UtilityError, match=message):
        nas.fisher(graph, variables, mean_output, batches)
    with pytest.raises(nas.UtilityError, match=message):
        nas.activity(graph, variables, batches)


def test_inputs_that_are_no_arrays_are_refused_by_number():
    graph, variables = single(1.0, 1.0)
    with pytest.raises(nas.UtilityError, match="Batch 1 must be an array; found list"):
        nas.activity(graph, variables, [jnp.ones((4, 1)), [jnp.ones((4, 1))]])
    with pytest.raises(nas.UtilityError, match="Batch 0, input 1, must be an array; found str"):
        nas.activity(graph, variables, [(jnp.ones((4, 1)), "label")])


@pytest.mark.parametrize("each", ["batch", "example"])
def test_batches_without_examples_are_refused_by_number(each):
    graph, variables = single(1.0, 1.0)
    batches = [jnp.ones((4, 1)), jnp.ones((0, 1))]
    with pytest.raises(nas.UtilityError, match=r"Batch 1 has an array without entries, of shape \(0, 1\)"):
        nas.taylor(graph, variables, mean_output, batches, each=each)
    with pytest.raises(nas.UtilityError, match="Batch 1 has"):
        nas.fisher(graph, variables, mean_output, batches)
    with pytest.raises(nas.UtilityError, match="Batch 1 has"):
        nas.activity(graph, variables, batches)
