"""The schedule against its formula, and the driver against `resize` called by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import naivenas_jax as nas


@pytest.fixture(scope="module")
def network():
    x = nas.input_vertex("x", 4, shape=(4,))
    hidden = nas.layer("b", nn.Dense(20), nas.layer("a", nn.Dense(30), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), hidden))
    return graph, graph.init(jax.random.key(0), jnp.ones((1, 4)))


def params_of(variables):
    return sum(map(np.size, jax.tree.leaves(variables)))


def test_the_budget_is_the_cubic_of_zhu_and_gupta(network):
    graph, variables = network
    first = params_of(variables)
    schedule = nas.gradual(graph, variables, begin=10, end=70, every=20, max_params=0.25, max_macs=200)
    last = int(0.25 * first)
    for step in (0, 10, 30, 50, 70, 90):
        t = min(max((step - 10) / 60, 0), 1)
        assert schedule.bounds(step)["max_params"] == int(last + (first - last) * (1 - t) ** 3)
        assert schedule.bounds(step)["max_macs"] == int(200 + (120 + 600 + 40 - 200) * (1 - t) ** 3)
    assert [step for step in range(100) if schedule.due(step)] == [10, 30, 50, 70]
    odd = nas.gradual(graph, variables, end=25, every=10, max_params=0.5)
    assert [step for step in range(100) if odd.due(step)] == [0, 10, 20, 25]
    parts = nas.gradual(graph, variables, end=4, max_params={"a": 0.5, "b": 100})
    assert parts.bounds(0)["max_params"] == {"a": 150, "b": 620}
    assert parts.bounds(4)["max_params"] == {"a": 75, "b": 100}


def test_the_driver_is_resize_by_hand(network):
    graph, variables = network
    schedule = nas.gradual(graph, variables, end=4, every=2, max_params=0.3, utility=nas.magnitude, multiple_of=2)
    tx = optax.chain(optax.clip(1.0), optax.adamw(1e-3))
    state = tx.init(variables["params"])
    now, own, carried = graph, variables, state
    for step in range(6):
        before = now, own, carried
        now, own, carried = schedule.prune(step, now, own, carried, tx=tx)
        if not schedule.due(step) or step == 0:
            assert all(a is b for a, b in zip(before, (now, own, carried), strict=True))
            continue
        bound = schedule.bounds(step)["max_params"]
        by_hand = nas.resize(
            before[0], before[1], max_params=bound, multiple_of=2, utility=nas.magnitude(before[0], before[1])
        )
        assert now == by_hand.graph
        jax.tree.map(np.testing.assert_array_equal, carried, by_hand.carry(before[2]))
        assert params_of(own) <= bound
    assert params_of(own) <= 0.3 * params_of(variables)
    tx.update(own["params"], carried, own["params"])  # the state fits


def test_fractions_and_changes_are_of_the_first_network(network):
    graph, variables = network
    keywords = {"min_size": 0.5, "max_size": {"a": 0.9}, "request": {"b": -6}}
    schedule = nas.gradual(graph, variables, end=4, max_params=0.55, **keywords)
    assert schedule.keywords["min_size"] == {"a": 15, "b": 10}
    assert schedule.keywords["max_size"] == {"a": 27}
    now, own = graph, variables
    for step in range(5):
        now, own, _ = schedule.prune(step, now, own)
    assert params_of(own) <= 0.55 * params_of(variables)
    assert now.nout("a") >= 15
    assert now.nout("b") == 14


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"end": 3}, nas.BudgetError, "needs a budget to reach"),
        ({"end": 3, "begin": 3, "max_params": 0.5}, nas.RequestError, "0 <= begin < end"),
        ({"end": 3, "every": 0, "max_params": 0.5}, nas.RequestError, "every >= 1"),
        ({"end": 3.5, "max_params": 0.5}, nas.RequestError, "end must be a whole number"),
        ({"end": 3, "max_params": -1}, nas.BudgetError, "found -1"),
        ({"end": 3, "max_params": 0.5, "utility": {"a": 1.0}}, nas.RequestError, "function.*found dict"),
        ({"end": 3, "max_params": 0.5, "request": {"a": nas.relaxed(-3)}}, nas.RequestError, r"nas.to\(27"),
        ({"end": 3, "max_params": 0.5, "request": {"aa": 0}}, nas.UnknownNameError, "named 'aa'.*'a'"),
    ],
)
def test_bad_schedules(network, keywords, error, message):
    with pytest.raises(error, match=message):
        nas.gradual(*network, **keywords)
