"""GradMax: the function is kept, and no other new neurons of the same length have a larger gradient."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference.trained import case_of, loss

import naivenas_jax as nas

X, Y = jax.random.normal(jax.random.key(1), (16, 5)), jax.random.normal(jax.random.key(2), (16, 3))


def linear(apply, variables, batch):
    return jnp.mean((apply(variables, batch[0]) - batch[1]) ** 2)


def network(kind, activation):
    """5 -> 4 -> 3."""
    model = nn.Sequential([nn.Dense(4), activation, nn.Dense(3)])
    variables = model.init(jax.random.key(0), X)
    if kind == "imported":
        return nas.from_linen(model, variables, X)
    x, rngs = nas.input_vertex("x", 5), nnx.Rngs(0)
    first = nn.Dense(4) if kind == "linen" else nnx.Linear(5, 4, rngs=rngs)
    last = nn.Dense(3) if kind == "linen" else nnx.Linear(4, 3, rngs=rngs)
    hidden = nas.invariant_vertex("act", activation, nas.layer("layers_0", first, x))
    return nas.Graph(x, nas.layer("layers_2", last, hidden)), variables


def slopes(mutation):
    """Of the loss by the weights that make and that read the two new neurons."""
    grads = jax.grad(lambda v: linear(mutation.graph.apply, v, (X, Y)))(mutation.variables)["params"]
    return np.asarray(grads["layers_0"]["kernel"])[:, 4:], np.asarray(grads["layers_2"]["kernel"])[4:]


def widened(graph, variables, **options):
    return nas.delta_nout(graph, variables, {"layers_0": 2}, new=nas.gradmax(linear, (X, Y), **options))


def moments(graph, variables):
    """Inputs, and the gradient by the outputs."""
    outputs = graph.apply(variables, X)
    return np.asarray(X), np.asarray(jax.grad(lambda out: jnp.mean((out - Y) ** 2))(outputs))


@pytest.mark.parametrize("kind", ["linen", "nnx", "imported"])
def test_of_a_linear_network_it_is_the_singular_vectors(kind):
    graph, variables = network(kind, lambda x: x)
    mutation = widened(graph, variables)
    assert mutation.check(X).max_difference < 1e-5
    inputs, by_output = moments(graph, variables)
    lengths = np.linalg.norm(np.asarray(mutation.variables["params"]["layers_0"]["kernel"])[:, 4:], axis=0)
    values = np.linalg.svd(inputs.T @ by_output, compute_uv=False)[:2]
    best = np.sum((np.sort(lengths)[::-1] * values) ** 2)
    assert np.sum(slopes(mutation)[1] ** 2) == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("kind", ["linen", "nnx", "imported"])
def test_incoming_zero_it_is_the_singular_vectors_for_any_slope_at_zero(kind):
    graph, variables = network(kind, lambda x: jnp.sin(2 * x))
    mutation = widened(graph, variables, zero="incoming")
    assert mutation.check(X).max_difference < 1e-5
    params = mutation.variables["params"]
    assert not np.asarray(params["layers_0"]["kernel"])[:, 4:].any()
    inputs, by_output = moments(graph, variables)
    lengths = np.linalg.norm(np.asarray(params["layers_2"]["kernel"])[4:], axis=1)
    values = np.linalg.svd(2 * inputs.T @ by_output, compute_uv=False)[:2]
    assert np.sum(slopes(mutation)[0] ** 2) == pytest.approx(np.sum((lengths * values) ** 2), rel=1e-3)


@pytest.mark.parametrize("activation", [jnp.tanh, nn.relu, nn.sigmoid], ids=["tanh", "relu", "sigmoid"])
def test_no_random_weights_of_the_same_length_are_better(activation):
    graph, variables = network("linen", activation)
    mutation = widened(graph, variables)
    assert mutation.check(X).compared
    made = np.asarray(mutation.variables["params"]["layers_0"]["kernel"])[:, 4:]
    lengths = np.linalg.norm(made, axis=0)
    np.testing.assert_allclose(made.T @ made, np.diag(lengths**2), atol=1e-5)
    inputs, by_output = moments(graph, variables)
    rng = np.random.default_rng(5)
    random = np.stack([np.linalg.qr(rng.normal(size=(5, 2)))[0] * lengths for _ in range(1000)])
    norms = np.linalg.norm(np.swapaxes(activation(inputs @ random), 1, 2) @ by_output, axis=(1, 2))
    assert np.linalg.norm(slopes(mutation)[1]) >= norms.max()
    default = nas.delta_nout(graph, variables, {"layers_0": 2})
    assert np.linalg.norm(slopes(mutation)[1]) >= np.linalg.norm(slopes(default)[1])


@pytest.mark.parametrize("kind", ["linen", pytest.param("imported", marks=pytest.mark.slow)])
def test_through_everything_that_is_tied(kind):
    case = case_of(kind)
    batch = (case.inputs, case.targets)
    new = nas.gradmax(loss, batch, starts=2, steps=3)
    wide = {"a": 2, "c": 2}
    mutation = nas.delta_nout(case.graph, case.variables, wide, new=new)
    found = mutation.check(case.inputs)
    assert found.compared
    assert found.max_difference < 1e-3

    def slope(mutation):
        grads = jax.jit(jax.grad(lambda v: loss(mutation.graph.apply, v, batch)))(mutation.variables)["params"]
        return sum(float(jnp.sum(grads[name]["kernel"] ** 2)) for name in ("b", "c", "out"))

    assert slope(mutation) > slope(nas.delta_nout(case.graph, case.variables, wide))


class TestRefusals:
    def test_no_slope_at_zero(self):
        with pytest.raises(nas.PlanError, match="use zero='outgoing'"):
            widened(*network("linen", nn.relu), zero="incoming", starts=2, steps=1)

    def test_not_zero_at_zero(self):
        with pytest.raises(nas.PlanError, match="would not keep the function"):
            widened(*network("linen", nn.sigmoid), zero="incoming", starts=2, steps=1)

    def test_loss_of_several_numbers(self):
        graph, variables = network("linen", jnp.tanh)
        with pytest.raises(nas.PlanError, match="one real number"):
            nas.delta_nout(graph, variables, {"layers_0": 1}, new=nas.gradmax(lambda apply, v, b: apply(v, b), X))

    @pytest.mark.parametrize("options", [{"zero": "both"}, {"steps": -1}, {"starts": 0}])
    def test_options(self, options):
        with pytest.raises(nas.PlanError, match=next(iter(options))):
            nas.gradmax(linear, (X, Y), **options)


def test_more_new_neurons_than_inputs():
    graph, variables = network("linen", jnp.tanh)
    new = nas.gradmax(linear, (X, Y), starts=2, steps=1)
    mutation = nas.delta_nout(graph, variables, {"layers_0": 7}, new=new)
    assert mutation.check(X).compared


def test_without_growth_it_does_nothing():
    graph, variables = network("linen", jnp.tanh)
    mutation = nas.delta_nout(graph, variables, {"layers_0": -1}, new=nas.gradmax(linear, (X, Y)))
    assert mutation.check(X).compared
