"""Parameters are in the collection "params", or, where a function has no collections, everything is a parameter."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import naivenas_jax as nas

X = jax.random.normal(jax.random.key(0), (5, 3))


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Linear:
    bias: Any
    weight: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Net:
    l1: Linear
    l2: Linear


def arrays(seed: int) -> tuple[jax.Array, ...]:
    """Bias and weight of two layers, in the order in which each kind of tree has them."""
    draw = np.random.default_rng(seed).normal
    return tuple(jnp.asarray(draw(size=shape), jnp.float32) for shape in ((6,), (3, 6), (2,), (6, 2)))


def computed(x: Any, b1: Any, w1: Any, b2: Any, w2: Any) -> Any:
    return jnp.tanh(x @ w1 + b1) @ w2 + b2


def named(b1: Any, w1: Any, b2: Any, w2: Any) -> dict[str, Any]:
    return {"l1": {"bias": b1, "weight": w1}, "l2": {"bias": b2, "weight": w2}}


KINDS: dict[str, Callable[..., Any]] = {
    "no collection": named,
    "a collection": lambda *given: {"params": named(*given)},
    "a list": lambda *given: [{"bias": given[0], "weight": given[1]}, {"bias": given[2], "weight": given[3]}],
    "a class": lambda *given: Net(Linear(*given[:2]), Linear(*given[2:])),
}


def imported(kind: str) -> nas.Graph:
    def call(variables: Any, x: Any) -> Any:
        return computed(x, *jax.tree.leaves(variables))

    return nas.from_function(call, KINDS[kind](*arrays(1)), X)


def trained(kind: str, variables: Any) -> Any:
    """What a user optimises."""
    return variables["params"] if kind == "a collection" else variables


def handle(graph: nas.Graph) -> str:
    return next(name for name, each in graph.handles().items() if each.size == 6)


@pytest.fixture(params=KINDS)
def network(request: pytest.FixtureRequest) -> tuple[str, nas.Graph, Any]:
    return (request.param, *imported(request.param))


def test_regularisers_and_scores(network):
    kind, graph, variables = network
    params = trained(kind, variables)
    nothing = jax.tree.map(jnp.zeros_like, params)
    b1, w1, b2, w2 = arrays(1)
    groups = jnp.sqrt((w1**2).sum(0) + (w2**2).sum(1))
    wanted = [0 * b1, 0.1 * jnp.sqrt(5.0) * w1 / groups, 0 * b2, 0.1 * jnp.sqrt(5.0) * w2 / groups[:, None]]
    tx = nas.group_lasso(graph, 0.1)
    updates, _ = tx.update(nothing, tx.init(params), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), jax.tree.leaves(updates), wanted)
    tx = nas.group_shrink(graph, 0.1)
    updates, _ = tx.update(nothing, tx.init(params), params)
    shrunk = [0 * b1, -0.1 * jnp.sqrt(3.0) * w1 / jnp.sqrt((w1**2).sum(0)), 0 * b2, 0 * w2]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), jax.tree.leaves(updates), shrunk)

    gradients = jax.tree.map(lambda a: a + 1, params)
    scores = nas.TaylorAverage.init(graph).update(params, gradients).scores()
    np.testing.assert_allclose(scores[handle(graph)], jnp.abs((w2 * (w2 + 1)).sum(1)), rtol=1e-5)


def test_budgets_count_them(network):
    kind, graph, variables = network
    assert graph.summary(variables).parameters == 38
    assert nas.costs(graph, variables).params == 38
    half = nas.resize(graph, variables, max_params=0.5)
    assert half.graph.summary(half.variables).parameters == 14
    name = "0*" if kind == "a list" else "l1*"
    assert jax.tree.leaves(nas.freeze_mask(graph, variables, name)) == [True, True, False, False]


def test_optimizers_start_with_them(network):
    kind, graph, variables = network
    tx = optax.adam(1e-3)
    state = tx.init(trained(kind, variables))
    steps = nas.gradual(graph, variables, end=1, max_params=0.5)
    smaller, values, carried = steps.prune(1, graph, variables, state, tx=tx)
    fresh = tx.init(trained(kind, values))
    assert jax.tree.structure(carried) == jax.tree.structure(fresh)
    assert [a.shape for a in jax.tree.leaves(carried)] == [a.shape for a in jax.tree.leaves(fresh)]
    population = nas.Population.of([(graph, variables), (graph, variables)])
    several = population.init(tx)
    assert [a.shape[1:] for a in jax.tree.leaves(several)] == [a.shape for a in jax.tree.leaves(state)]
    assert smaller.summary(values).parameters == 14


def test_a_new_layer_beside_parameters_without_collection():
    """Its variables are in the collection "params", as those of every layer, and the rest stay parameters."""
    mutation = nas.insert_vertex(
        *imported("no collection"), "x", lambda v: nas.layer("new", nn.Sequential([nn.Dense(3), nn.BatchNorm(True)]), v)
    )
    params = {key: value for key, value in mutation.variables.items() if key != "batch_stats"}
    assert set(params) == {"l1", "l2", "params"}
    assert mutation.graph.summary(mutation.variables).parameters == 38 + 3 * 4 + 2 * 3
    tx = nas.group_lasso(mutation.graph, 0.1)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    assert all(jnp.any(updates[key]["weight"] != 0) for key in ("l1", "l2"))
    assert jnp.any(updates["params"]["new"]["layers_0"]["kernel"] != 0)
    frozen = nas.freeze_mask(mutation.graph, mutation.variables, ["l1", "params/new/layers_0"])
    assert sum(jax.tree.leaves(frozen)) == 4
    assert len(jax.tree.leaves(frozen)) == 8
    smaller = nas.delta_nout(*mutation, {"l1": -1})
    carried = smaller.carry(optax.adam(1e-3).init(params))
    kept = {key: value for key, value in smaller.variables.items() if key != "batch_stats"}
    assert jax.tree.map(jnp.shape, carried) == jax.tree.map(jnp.shape, optax.adam(1e-3).init(kept))
    again = pickle.loads(pickle.dumps(mutation.graph))
    assert again == mutation.graph
    assert again.ties.parameters == mutation.graph.ties.parameters


def test_statistics_beside_parameters_are_none():
    def call(variables: Any, x: Any) -> Any:
        return computed(x, *jax.tree.leaves(variables["params"])) * variables["statistics"]["scale"]

    variables = {"params": named(*arrays(1)), "statistics": {"scale": jnp.ones(2)}}
    graph, variables = nas.from_function(call, variables, X)
    assert graph.summary(variables).parameters == 38


@pytest.mark.parametrize("wrapped", [False, True])
def test_statistics_of_layers_are_no_parameters(wrapped: bool):
    x = nas.input_vertex("x", 3)
    normalised = nas.layer("norm", nn.BatchNorm(), nas.layer("dense", nn.Dense(4), x))
    graph = nas.Graph(x, normalised)
    graph = nas.Graph(x, nas.layer("whole", graph, x)) if wrapped else graph
    variables = graph.init(jax.random.key(0), X)
    assert graph.summary(variables).parameters == 3 * 4 + 4 + 2 * 4
    tx = optax.sgd(0.1, 0.9)
    population = nas.Population.of([(graph, variables), (graph, variables)])
    assert jax.tree.structure(population.init(tx)) == jax.tree.structure(tx.init(variables["params"]))
