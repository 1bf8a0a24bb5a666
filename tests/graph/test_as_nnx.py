"""A graph and its variables as an nnx module: trained, split, merged and compiled as nnx models are."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import naivenas_jax as nas

KEY = jax.random.key(0)
ROWS = jax.random.normal(jax.random.key(1), (6, 3))


def drawn() -> tuple[nas.Graph, Any]:
    x = nas.input_vertex("x", 3)
    norm = nas.layer("norm", nn.BatchNorm(momentum=0.5), nas.layer("hidden", nn.Dense(8), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("drop", nn.Dropout(0.5), norm)))
    return graph, graph.init(KEY, ROWS)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.first, self.norm = nnx.Linear(3, 8, rngs=rngs), nnx.BatchNorm(8, momentum=0.5, rngs=rngs)
        self.drop, self.out = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(self.drop(self.norm(self.first(x))))


@pytest.fixture(params=["drawn", "imported", "edited"])
def changed(request) -> nas.Mutation:
    if request.param == "drawn":
        return nas.delta_nout(*drawn(), {"hidden": -2})
    graph, variables = nas.from_nnx(Net(nnx.Rngs(0)), ROWS)
    if request.param == "imported":
        return nas.delta_nout(graph, variables, {"first": -2})
    return nas.insert_vertex(graph, variables, "first", lambda v: nas.layer("extra", nn.Dense(8), v))


def test_it_computes_what_the_graph_does(changed):
    graph, variables = changed
    model = graph.as_nnx(variables)
    wanted = graph.apply(variables, ROWS)
    np.testing.assert_array_equal(model(ROWS), wanted)
    np.testing.assert_allclose(nnx.jit(lambda m, x: m(x))(model, ROWS), wanted, rtol=1e-6)
    again = nnx.merge(*nnx.split(model))
    np.testing.assert_array_equal(again(ROWS), wanted)
    assert {type(leaf) for _, leaf in nnx.to_flat_state(nnx.state(model))} == {nnx.Param, nnx.BatchStat}


def test_statistics_are_updated_in_training(changed):
    graph, variables = changed
    model = graph.as_nnx(variables, rngs=nnx.Rngs(dropout=3))
    model.train()
    key = nnx.Rngs(dropout=3).dropout()
    outputs, updates = graph.apply(variables, ROWS, train=True, mutable=["batch_stats"], rngs={"dropout": key})
    np.testing.assert_allclose(model(ROWS), outputs, rtol=1e-6)
    held = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))["variables"]["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, held, dict(updates["batch_stats"]))
    assert not np.array_equal(model(ROWS), outputs), "the next call draws anew"
    model.eval()
    np.testing.assert_array_equal(model(ROWS), model(ROWS))


def test_it_is_trained_as_by_hand():
    graph, variables = nas.delta_nout(*drawn(), {"hidden": 1})
    model, rule = graph.as_nnx(variables), optax.sgd(0.1, momentum=0.9)
    optimizer = nnx.Optimizer(model, rule, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        gradients = nnx.grad(lambda m: (m(ROWS) ** 2).mean())(model)
        optimizer.update(model, gradients)

    def loss(params):
        return (graph.apply({**variables, "params": params}, ROWS) ** 2).mean()

    params, state = variables["params"], rule.init(variables["params"])
    for _ in range(2):
        step(model, optimizer)
        updates, state = rule.update(jax.grad(loss)(params), state)
        params = optax.apply_updates(params, updates)
    held = nnx.to_pure_dict(nnx.state(model, nnx.Param))["variables"]["params"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), held, params)
    jax.tree.map(np.testing.assert_array_equal, nas.delta_nout(*drawn(), {"hidden": 1}).variables, variables)


def test_a_step_in_training_is_that_of_the_graph(changed):
    """Dropout, batch statistics, gradients and moments, of a model that was drawn, imported, or edited since."""
    graph, variables = changed
    model, rule = graph.as_nnx(variables, rngs=nnx.Rngs(dropout=3)), optax.adam(0.1)
    optimizer = nnx.Optimizer(model, rule, wrt=nnx.Param)
    model.train()

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, nnx.grad(lambda m: (m(ROWS) ** 2).mean())(model))

    @jax.jit
    def by_hand(variables, state, key):
        def loss(params):
            given = {**variables, "params": params}
            outputs, updates = graph.apply(given, ROWS, train=True, mutable=["batch_stats"], rngs={"dropout": key})
            return (outputs**2).mean(), updates

        gradients, updates = jax.grad(loss, has_aux=True)(variables["params"])
        changes, state = rule.update(gradients, state)
        return {"params": optax.apply_updates(variables["params"], changes), **updates}, state

    state, streams = rule.init(variables["params"]), nnx.Rngs(dropout=3)
    for _ in range(2):
        step(model, optimizer)
        variables, state = by_hand(variables, state, streams.dropout())
    for kind, name in ((nnx.Param, "params"), (nnx.BatchStat, "batch_stats")):
        held = nnx.to_pure_dict(nnx.state(model, kind))["variables"][name]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), held, dict(variables[name]))


def test_equal_graphs_are_compiled_once():
    graph, variables = drawn()
    count = 0

    @nnx.jit
    def run(model, x):
        nonlocal count
        count += 1
        return model(x)

    for scale in (1.0, 2.0):
        run(graph.as_nnx(jax.tree.map(lambda a, s=scale: s * a, variables)), ROWS)
    assert count == 1


def test_inside_another_module():
    class Outer(nnx.Module):
        def __init__(self, inner):
            self.inner = inner
            self.scale = nnx.Param(jnp.ones(2))

        def __call__(self, x):
            return self.inner(x) * self.scale

    graph, variables = drawn()
    outer = Outer(graph.as_nnx(variables))
    np.testing.assert_array_equal(outer(ROWS), graph.apply(variables, ROWS))
    again, copied = nas.from_nnx(outer, ROWS)  # and it is a model to import
    np.testing.assert_allclose(again.apply(copied, ROWS), outer(ROWS), rtol=1e-6)


def test_what_it_refuses():
    graph, variables = drawn()
    with pytest.raises(nas.VariablesError, match="dict of collections"):
        graph.as_nnx(jnp.ones(3))
    with pytest.raises(nas.GraphError, match=r"rngs must be nnx\.Rngs"):
        graph.as_nnx(variables, rngs=KEY)
    with pytest.raises(nas.VariablesError):
        graph.as_nnx(nas.delta_nout(graph, variables, {"hidden": -1}).variables)(ROWS)


@pytest.mark.parametrize("network", [drawn, lambda: nas.from_nnx(Net(nnx.Rngs(0)), ROWS)], ids=["linen", "nnx"])
def test_training_without_streams_says_how_to_have_them(network):
    graph, variables = network()
    model = graph.as_nnx(variables)
    model.train()
    with pytest.raises(nas.GraphError, match=r"random numbers.*as_nnx.*model\.eval\(\)"):
        model(ROWS)
    assert model(ROWS, rngs=nnx.Rngs(0)).shape == (6, 2)
    model.eval()
    assert model(ROWS).shape == (6, 2)
