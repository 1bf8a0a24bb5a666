"""A Mutation where a Graph is meant, a Graph where a Mutation is, and others: refused by name, with what would work."""

from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import naivenas_jax as nas

X = jnp.ones((2, 3))


@cache
def network():
    """x -> a -> norm;  concat(norm, a) -> out."""
    x = nas.input_vertex("x", 3)
    a = nas.layer("a", nn.Dense(4), x)
    norm = nas.layer("norm", nn.BatchNorm(use_running_average=True), a)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.concat("both", norm, a)))
    return graph, graph.init(jax.random.key(0), X)


@cache
def mutation():
    return nas.delta_nout(*network(), {"a": -1})


def loss(apply, variables, batch):
    return jnp.mean(apply(variables, batch) ** 2)


#: Every public function of a graph and its variables.
OF_A_NETWORK = {
    "activity": lambda g, v: nas.activity(g, v, [X]),
    "batchnorm_scale": lambda g, v: nas.batchnorm_scale(g, v),
    "change_kernel": lambda g, v: nas.change_kernel(g, v, {"a": (3, 3)}),
    "compress": lambda g, v: nas.compress(g, v, [X], max_params=0.5),
    "costs": lambda g, v: nas.costs(g, v),
    "costs with inputs": lambda g, v: nas.costs(g, v, X),
    "create_edge": lambda g, v: nas.create_edge(g, v, "x", "both"),
    "delta_nin": lambda g, v: nas.delta_nin(g, v, {"out": -1}),
    "delta_nout": lambda g, v: nas.delta_nout(g, v, {"a": -1}),
    "fisher": lambda g, v: nas.fisher(g, v, loss, [X]),
    "gradual": lambda g, v: nas.gradual(g, v, max_params=0.5, end=10),
    "insert_vertex": lambda g, v: nas.insert_vertex(g, v, "a", lambda a: nas.layer("b", nn.Dense(4), a)),
    "magnitude": lambda g, v: nas.magnitude(g, v),
    "map_vertices": lambda g, v: nas.map_vertices(g, v, lambda vertex: None),
    "measure_latency": lambda g, v: nas.measure_latency(g, v, X, timer=lambda fn, arrays: 1.0),
    "recalibrate": lambda g, v: nas.recalibrate(g, v, [X]),
    "remove_edge": lambda g, v: nas.remove_edge(g, v, "a", "both"),
    "remove_vertex": lambda g, v: nas.remove_vertex(g, v, "norm"),
    "rename": lambda g, v: nas.rename(g, v, {"a": "b"}),
    "replace_layer": lambda g, v: nas.replace_layer(g, v, "a", nn.Dense(4)),
    "resize": lambda g, v: nas.resize(g, v, max_params=0.5),
    "taylor": lambda g, v: nas.taylor(g, v, loss, [X]),
}

#: Of a graph alone.
OF_A_GRAPH = {
    "TaylorAverage.init": lambda g, v: nas.TaylorAverage.init(g),
    "apply": lambda g, v: nas.apply(g, v, X),
    "contribution": lambda g, v: nas.contribution(g, v),
    "comparable": lambda g, v: nas.comparable(g, {"a": 1.0}),
    "freeze_mask": lambda g, v: nas.freeze_mask(g, v, "a"),
    "merge_neurons": lambda g, v: nas.merge_neurons(g, v, {"x": [0]}),
    "group_lasso": lambda g, v: nas.group_lasso(g, 0.1).init(v["params"]),
    "group_shrink": lambda g, v: nas.group_shrink(g, 0.1).init(v["params"]),
    "random_utility": lambda g, v: nas.random_utility(g, jax.random.key(0)),
    "summary": lambda g, v: nas.summary(g, v),
    "total_utility": lambda g, v: nas.total_utility(g, {"a": 1.0}),
}

OF_A_MUTATION = {
    "compensate": lambda m: nas.compensate(m, [X]),
    "report": lambda m: nas.report(m),
    "report with inputs": lambda m: nas.report(m, X),
    "soft_masks": lambda m: nas.soft_masks(m),
}


def of_each(functions):
    return pytest.mark.parametrize("function", [pytest.param(call, id=name) for name, call in functions.items()])


@of_each(OF_A_NETWORK | OF_A_GRAPH)
def test_what_is_no_graph(function):
    graph, variables = network()
    for given in (mutation(), (graph, variables)):
        message = rf"must be a nas\.Graph.*found {type(given).__name__}.*It unpacks to one: graph, variables = "
        with pytest.raises(nas.GraphError, match=message):
            function(given, variables)
    for given in (None, 3, "graph", variables, (), nn.Dense(3)):
        with pytest.raises(nas.GraphError, match=rf"must be a nas\.Graph.*found {type(given).__name__}: ") as caught:
            function(given, variables)
        assert "unpacks" not in str(caught.value)


@of_each(OF_A_MUTATION)
def test_what_is_no_mutation(function):
    graph, variables = network()
    for given in (graph, (graph, variables), None, 3, mutation().plan):
        message = rf"must be a nas\.Mutation, as every verb returns it.*found {type(given).__name__}: "
        with pytest.raises(nas.PlanError, match=message):
            function(given)


@of_each(OF_A_NETWORK)
def test_variables_that_are_not_those_of_the_graph(function):
    graph, variables = network()
    params = variables["params"]
    wrong = [None, 3, [variables], graph, mutation(), params, {"params": params}, {**variables, "cache": {"a": X}}]
    for given in (*wrong, mutation().variables):
        with pytest.raises(nas.VariablesError, match="variables"):
            function(graph, given)


@pytest.mark.parametrize("fractions", [0, (), (0,), (0.5, -1), ("a",), None, (float("nan"),)])
def test_fractions_of_sizes_that_are_none(fractions):
    graph, variables = network()
    with pytest.raises(nas.BudgetError, match="fractions= must be numbers above 0"):
        nas.measure_latency(graph, variables, X, fractions=fractions, timer=lambda fn, arrays: 1.0)


def test_masks_of_another_tree():
    _, variables = network()
    masks = nas.soft_masks(mutation())
    for given, own in ((variables, masks["params"]), (3, masks), (variables, None)):
        with pytest.raises(nas.VariablesError, match="masks= must be a tree like the variables"):
            nas.masked(given, own)


@pytest.mark.parametrize("limit", [0, -5, 0.0, float("nan"), "half", True])
def test_budgets_that_are_no_number(limit):
    graph, variables = network()
    with pytest.raises(nas.BudgetError, match="max_params must be a whole number, at least 1, or a float above 0"):
        nas.resize(graph, variables, max_params=limit)
