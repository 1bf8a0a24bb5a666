"""Growth to a budget, against every combination of larger sizes."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas

IMAGE = jnp.ones((2, 6, 6, 3))
SCORES = {"a": np.array([1.0, 2.0, 3.0]), "b": np.array([4.0, 5.0]), "c": np.array([0.5, 0.1, 0.9, 0.5])}
NAMES = tuple(SCORES)


@pytest.fixture(scope="module")
def network():
    x = nas.input_vertex("x", 3)
    b = nas.layer("b", nn.Dense(2), nas.layer("a", nn.Dense(3), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("c", nn.Dense(4), b)))
    return graph, graph.init(jax.random.key(0), jnp.ones((1, 3)))


def params_of(a, b, c):
    return 3 * a + a + a * b + b + b * c + c + c * 2 + 2


def gained(sizes):
    """The j-th new neuron is worth the mean of its group, divided by 1 + j."""
    return sum(
        np.mean(SCORES[name]) * sum(1 / (1 + j) for j in range(1, size - len(SCORES[name]) + 1))
        for name, size in zip(NAMES, sizes, strict=True)
    )


def sizes_of(graph):
    return tuple(graph.nout(name) for name in NAMES)


@pytest.mark.parametrize("factor", [1.2, 2.0, 3.5])
@pytest.mark.parametrize("multiple", [None, 2])
def test_the_best_growth(network, factor, multiple):
    graph, variables = network
    budget = int(factor * params_of(3, 2, 4))
    mutation = nas.resize(
        graph, variables, max_params=budget, grow=True, utility=SCORES, multiple_of=multiple, min_size={"a": 4}
    )
    found = sizes_of(mutation.graph)
    every = itertools.product(range(4, 40), range(2, 40), range(4, 40))
    feasible = [s for s in every if params_of(*s) <= budget and all(n % (multiple or 1) == 0 for n in s)]
    best = max(map(gained, feasible))
    assert params_of(*found) <= budget
    assert gained(found) <= best + 1e-9
    assert gained(found) * (1 + mutation.gap) >= best - 1e-9
    assert mutation.gap < 0.05
    assert all(not axis.dropped.size for axis in mutation.plan.axes.values())
    assert mutation.check(jnp.ones((2, 3))).compared  # the function is kept


def test_nothing_more_fits_and_caps_hold(network):
    graph, variables = network
    mutation = nas.resize(graph, variables, max_params=2.0, max_bytes=3.0, grow=True)
    sizes, budget = sizes_of(mutation.graph), 2 * params_of(3, 2, 4)
    assert all(params_of(*(n + (i == j) for j, n in enumerate(sizes))) > budget for i in range(3))
    capped = nas.resize(graph, variables, max_params=20.0, grow=True, max_new=2)
    assert sizes_of(capped.graph) == (5, 4, 6)
    same = nas.resize(graph, variables, max_params=1.0, grow=True)
    assert same.graph == graph


def test_convolutions_sums_and_concatenations_within_operations():
    x = nas.input_vertex("x", 3, shape=(6, 6, 3))
    stem = nas.layer("stem", nn.Conv(8, (3, 3)), x)
    block = stem + nas.layer("block", nn.Conv(8, (3, 3)), stem)
    both = nas.concat("both", block, nas.layer("c", nn.Conv(4, (1, 1)), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(5), nas.flatten("flat", both)))
    variables = graph.init(jax.random.key(0), IMAGE)
    mutation = nas.resize(graph, variables, max_params=2.0, max_macs=1.7, grow=True)
    before, after = nas.costs(graph, variables, IMAGE), nas.costs(*mutation, IMAGE)
    assert after.params <= 2 * before.params
    assert after.macs <= 1.7 * before.macs
    assert after.params > 1.5 * before.params or after.macs > 1.5 * before.macs
    assert mutation.graph.nout("stem") > 8
    assert mutation.check(IMAGE).compared


def test_bad_growth(network):
    with pytest.raises(nas.BudgetError, match=r"grow=True spends what is left of a budget"):
        nas.resize(*network, grow=True)
    with pytest.raises(nas.BudgetError, match=r"max_params <= 21 is exceeded now: \d+\. Leave grow out"):
        nas.resize(*network, max_params=0.5, grow=True)


def test_what_no_budget_counts_does_not_grow(network):
    """Nothing would tell it when to stop."""
    graph, variables = network
    mutation = nas.resize(graph, variables, max_params={"a": 3.0}, grow=True)
    assert sizes_of(mutation.graph) == (9, 2, 4)  # a alone, to 3 * 9 + 9
    mutation = nas.resize(graph, variables, max_params={"a": 3.0}, grow=True, request={"c": 2})
    assert sizes_of(mutation.graph) == (9, 2, 6)
    with pytest.raises(nas.InfeasibleError, match=r"size\('b'\) is a multiple of 3"):
        nas.resize(graph, variables, max_params={"a": 3.0}, grow=True, multiple_of={"b": 3})
