"""Gradients around a last sigmoid or softmax: those of a cross-entropy that is written by hand."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import naivenas_jax as nas
from naivenas_jax.fit.last_step import last_steps, outputs_around
from naivenas_jax.fit.network.network import Network

DATA = jax.random.normal(jax.random.key(0), (48, 4, 5))


def built(*lasts, width=3):
    """A layer, and behind it one output for each function."""
    x = nas.input_vertex("x", 5)
    dense = nas.layer("dense", nn.Dense(width), x)
    graph = nas.Graph(x, [nas.immutable_vertex(f"last{i}", last, dense) for i, last in enumerate(lasts)])
    variables = graph.init(jax.random.key(1), DATA)
    return Network(graph, {}), jax.tree.map(lambda a: 3 * a, variables)


def unit(z):
    return z / jnp.linalg.norm(z, axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("last", "found"),
    [
        (jax.nn.sigmoid, True),
        (jax.nn.softmax, True),
        (jnp.tanh, True),
        (jax.nn.relu, True),
        (jax.nn.softplus, True),
        (lambda z: 1 / (1 + jnp.exp(-z)), True),
        (lambda z: jnp.exp(z) / jnp.exp(z).sum(-1, keepdims=True), True),
        (lambda z: jax.nn.softmax(z / 3), True),
        (lambda z: 4 - 3 * jax.nn.sigmoid(z), True),
        (lambda z: jax.nn.softmax(z)[..., 1:], True),
        (lambda z: z, False),
        (lambda z: 3 - 2 * z, False),
        (lambda z: -jnp.exp(z) - z.sum(), False),
        (jax.nn.gelu, False),
        (jnp.sin, False),
        (jax.nn.log_softmax, False),
        (unit, False),
        (lambda z: z.max(-1, keepdims=True), False),
        (lambda z: z.argmax(-1, keepdims=True), False),
        (jnp.round, False),
    ],
)
def test_which_last_steps_there_are(last, found):
    network, variables = built(last)
    steps = last_steps(network, variables, (DATA,))
    assert [step.output for step in steps] == ([0] if found else [])
    np.testing.assert_allclose(
        outputs_around(network, steps, variables, (DATA,))[0], network.outputs(variables, DATA)[0], rtol=1e-5, atol=1e-6
    )


def test_what_reads_a_variable_is_no_last_step():
    x = nas.input_vertex("x", 5)
    graph = nas.Graph(x, nas.layer("dense", nn.Dense(3), nas.invariant_vertex("sigmoid", nn.sigmoid, x)))
    assert last_steps(Network(graph, {}), graph.init(jax.random.key(1), DATA), (DATA,)) == ()


class OneNumber(nn.Module):
    @nn.compact
    def __call__(self, x):
        return {"share": nn.sigmoid(nn.Dense(1)(x).mean()), "kinds": nn.softmax(nn.Dense(3)(x)), "z": nn.Dense(2)(x)}


def test_outputs_of_imported_models():
    """In the order of the graph's outputs; also of a single number."""
    variables = OneNumber().init(jax.random.key(0), DATA)
    graph, variables = nas.from_linen(OneNumber(), variables, DATA)
    steps = last_steps(Network(graph, {}), variables, (DATA,))
    shapes = [array.shape for array in Network(graph, {}).outputs(variables, DATA)]
    assert [shapes[step.output] for step in steps] == [shape for shape in shapes if shape != (48, 4, 2)]


def binary(z, y):
    return (jnp.logaddexp(0, z) - y * z).sum()


def categories(z, y):
    return (jax.nn.logsumexp(z, -1) - (y * z).sum(-1)).sum()


@pytest.mark.parametrize(("last", "loss"), [(jax.nn.sigmoid, binary), (jax.nn.softmax, categories)])
def test_gradients_are_those_of_the_cross_entropy(last, loss):
    """Of half the square of the output's error; one output has no last step, and keeps its own gradient."""
    network, variables = built(last, jnp.sin)
    wanted = last(jax.random.normal(jax.random.key(3), (*DATA.shape[:-1], 3)))
    steps = last_steps(network, variables, (DATA,))

    def around(own):
        first, second = outputs_around(network, steps, own, (DATA,))
        return ((first - wanted) ** 2).sum() / 2 + (second**2).sum()

    def by_hand(own):
        z = DATA @ own["params"]["dense"]["kernel"] + own["params"]["dense"]["bias"]
        return loss(z, wanted) + (jnp.sin(z) ** 2).sum()

    gradients, expected = jax.grad(around)(variables), jax.grad(by_hand)(variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), gradients, expected)


def test_one_step_of_logistic_regression():
    """What is returned is what gradient descent on the cross-entropy comes to in numpy."""
    x = nas.input_vertex("x", 5)
    graph = nas.Graph(x, nas.invariant_vertex("sigmoid", nn.sigmoid, nas.layer("dense", nn.Dense(1), x)))
    data = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    variables = graph.init(jax.random.key(1), data)
    wrong = jax.tree.map(lambda a: -0.5 * a, variables)
    mutation = replace(nas.delta_nout(graph, variables, {"dense": 0}), variables=wrong)
    found = nas.refine(mutation, [data], steps=1, tx=optax.sgd(0.05)).variables["params"]["dense"]

    def made(own):
        kernel, bias = (np.asarray(own["params"]["dense"][name], np.float64) for name in ("kernel", "bias"))
        return 1 / (1 + np.exp(-(data @ kernel + bias)))

    trained = np.arange(40) % 4 != 3
    wanted = made(variables)
    error = 2 * (made(wrong) - wanted)[trained] / wanted.var() / trained.sum()
    kernel = np.asarray(wrong["params"]["dense"]["kernel"]) - 0.05 * data[trained].T @ error
    np.testing.assert_allclose(found["kernel"], kernel, rtol=1e-4)
    np.testing.assert_allclose(found["bias"], wrong["params"]["dense"]["bias"] - 0.05 * error.sum(0), rtol=1e-4)


def test_outputs_that_are_sure_of_the_wrong_thing_turn():
    """In float32 a sigmoid has no derivative at 20: squared errors could not move it, and it would be returned."""
    x = nas.input_vertex("x", 5)
    graph = nas.Graph(x, nas.invariant_vertex("sigmoid", nn.sigmoid, nas.layer("dense", nn.Dense(1), x)))
    data = jax.random.normal(jax.random.key(2), (64, 5))
    variables = graph.init(jax.random.key(1), data)
    sure = jax.tree.map(lambda a: a, variables)
    sure["params"]["dense"]["bias"] = jnp.full(1, 20.0)
    mutation = replace(nas.delta_nout(graph, variables, {"dense": 0}), variables=sure)
    refined = nas.refine(mutation, [data], steps=300)
    wanted, first, last = (graph.apply(own, data) for own in (variables, sure, refined.variables))
    assert jnp.square(last - wanted).mean() < 0.5 * jnp.square(first - wanted).mean()


@pytest.mark.parametrize("last", [jax.nn.softmax, lambda z: z])
def test_what_is_read_twice_may_be_an_output_before_the_other_one(last):
    """An output is followed from what both have in common, past the layer that makes the other one."""

    class Both(nn.Module):
        @nn.compact
        def __call__(self, x):
            hidden = nn.relu(nn.Dense(8, name="hidden")(x))
            return last(nn.Dense(3, name="head")(hidden)), {"mean": hidden.mean(-1), "more": nn.tanh(hidden)}

    graph, variables = nas.from_linen(Both(), Both().init(jax.random.key(1), DATA), DATA)
    pruned = nas.delta_nout(graph, variables, {"hidden": -2}, free_outputs=True)
    found = nas.refine(pruned, [DATA], steps=20)
    kept = pruned.indices("hidden")

    def error(own):
        made, wanted = pruned.graph.apply(own, DATA), graph.apply(variables, DATA)
        wanted = wanted[0], {"mean": wanted[1]["mean"], "more": wanted[1]["more"][..., kept]}
        pairs = zip(jax.tree.leaves(made), jax.tree.leaves(wanted), strict=True)
        return sum(float(((a - b) ** 2).mean() / jnp.var(b)) for a, b in pairs)

    assert error(found.variables) < error(pruned.variables)
