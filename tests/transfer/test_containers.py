"""Variables come back in the mappings that they came in, and as arrays of their own."""

from __future__ import annotations

from collections import OrderedDict, defaultdict

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import FrozenDict, freeze

import naivenas_jax as nas

X = jax.random.normal(jax.random.key(1), (6, 8, 8, 3))


@pytest.fixture(scope="module")
def network():
    image = nas.input_vertex("image", 3)
    conv = nas.layer("conv", nn.Conv(4, (3, 3)), image)
    norm = nas.layer("norm", nn.BatchNorm(use_running_average=True), nas.invariant_vertex("relu", nn.relu, conv))
    graph = nas.Graph(image, nas.layer("out", nn.Conv(2, (1, 1)), norm))
    return graph, graph.init(jax.random.key(0), X)


def ordered(tree):
    return OrderedDict((k, ordered(tree[k])) for k in reversed(tree)) if isinstance(tree, dict) else tree


def with_default(tree):
    return defaultdict(dict, tree)


KINDS = {
    "FrozenDict": freeze,
    "OrderedDict": ordered,
    "defaultdict": with_default,
    "FrozenDict inside": lambda v: {name: freeze(collection) for name, collection in v.items()},
    "nnx.State of arrays": lambda v: nnx.State(v),
    "nnx.State of nnx.Param": lambda v: {n: nnx.State(jax.tree.map(nnx.Param, c)) for n, c in v.items()},
}

FUNCTIONS = {
    "delta_nout": lambda g, v: nas.delta_nout(g, v, {"conv": 2}).variables,
    "change_kernel": lambda g, v: nas.change_kernel(g, v, {"conv": (5, 5)}).variables,
    "rename": lambda g, v: nas.rename(g, v, {"conv": "stem"}).variables,
    "replace_layer": lambda g, v: nas.replace_layer(g, v, "conv", nn.Conv(4, (1, 1))).variables,
    "insert_vertex": lambda g, v: (
        nas.insert_vertex(g, v, "conv", lambda u: nas.layer("new", nn.Conv(4, (1, 1)), u)).variables
    ),
    "remove_vertex": lambda g, v: nas.remove_vertex(g, v, "norm").variables,
    "undo": lambda g, v: nas.remove_vertex(g, v, "norm").undo(nas.remove_vertex(g, v, "norm").variables)[1],
    "compensate": lambda g, v: nas.compensate(nas.delta_nout(g, v, {"conv": -1}), [X]).variables,
    "recalibrate": lambda g, v: nas.recalibrate(g, v, [X]),
    "soft_masks": lambda g, v: nas.soft_masks(nas.delta_nout(g, v, {"conv": -1})),
    "masked": lambda g, v: nas.masked(v, nas.soft_masks(nas.delta_nout(g, v, {"conv": -1}))),
    "harden": lambda g, v: nas.Soft.whole(g, v).harden(v).variables,
    "carry": lambda g, v: nas.delta_nout(g, v, {"conv": 1}).carry(v),
}


def kinds(tree):
    """The type of every mapping, by path, and of every leaf that is a variable of nnx."""
    if not hasattr(tree, "items"):
        return type(tree) if isinstance(tree, nnx.Variable) else None
    return type(tree), {str(key): kinds(child) for key, child in tree.items()}


def assert_same_kinds(found, given):
    assert type(found) is type(given)
    if hasattr(given, "items"):
        for key in set(found) & set(given):
            assert_same_kinds(found[key], given[key])
        for key in set(found) - set(given):
            assert type(found[key]) is type(next(iter(given.values()), found[key]))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_variables_come_back_as_they_came(network, kind, function):
    graph, variables = network
    if function in ("compensate", "recalibrate") and kind.startswith("nnx.State of nnx"):
        pytest.skip("the network is evaluated, which takes arrays")
    given = KINDS[kind](variables)
    made = FUNCTIONS[function](graph, given)
    assert_same_kinds(made, given)
    plain = FUNCTIONS[function](graph, variables)
    assert jax.tree.all(jax.tree.map(np.array_equal, jax.tree.leaves(ordered_leaves(made)), jax.tree.leaves(plain)))


def ordered_leaves(tree):
    """As nested dicts with sorted keys."""
    if isinstance(tree, nnx.Variable):
        return tree.get_value()
    return {str(key): ordered_leaves(tree[key]) for key in tree} if hasattr(tree, "items") else tree


def test_the_order_of_keys_stays(network):
    graph, variables = network
    given = ordered(variables)
    assert list(nas.delta_nout(graph, given, {"conv": 1}).variables["params"]) == list(given["params"])


def test_a_mask_of_frozen_parameters_is_shaped_like_them(network):
    graph, variables = network
    mask = nas.freeze_mask(graph, freeze(variables), "conv")
    assert isinstance(mask, FrozenDict)
    optax.masked(optax.sgd(0.1), mask).init(freeze(variables)["params"])


def test_what_a_time_limit_leaves_comes_back_as_it_came():
    x = nas.input_vertex("x", 3)
    a, c = nas.layer("a", nn.Dense(8), x), nas.layer("c", nn.Dense(5), x)
    graph = nas.Graph(x, nas.layer("o", nn.Dense(2), nas.concat("cat", a, c, a)))
    variables = freeze(graph.init(jax.random.key(0), jnp.ones((1, 3))))
    utility = {"a": np.array([1.0, -1, 2, -2, 3, -3, 4, -4]), "c": np.array([1.0, -1, 2, -2, 3])}
    condition = nas.size("a") + nas.size("c") >= 8
    with pytest.raises(nas.TimeLimitError) as caught:
        nas.resize(graph, variables, utility=utility, constraints=condition, time_limit=1e-9)
    assert isinstance(caught.value.best().variables, FrozenDict)


# --- arrays of their own

HANDED_OUT = {name: FUNCTIONS[name] for name in FUNCTIONS if name not in ("soft_masks", "masked")}


@pytest.mark.parametrize("function", HANDED_OUT)
def test_writing_into_the_new_arrays_leaves_the_old_ones_alone(network, function):
    graph, variables = network
    old = jax.tree.map(np.array, variables)
    made = HANDED_OUT[function](graph, old)
    for leaf in jax.tree.leaves(made):
        if isinstance(leaf, np.ndarray) and leaf.flags.writeable:
            leaf[...] = 99
    assert jax.tree.all(jax.tree.map(np.array_equal, old, variables))


@pytest.mark.parametrize("view", [False, True])
def test_writing_into_the_old_arrays_leaves_the_new_ones_and_undo_alone(network, view):
    graph, variables = network
    old = jax.tree.map(np.array, variables)
    given = jax.tree.map(lambda leaf: leaf[...], old) if view else old
    mutation = nas.remove_vertex(graph, given, "norm")
    state = mutation.carry(given)
    new, kept = jax.tree.map(np.array, mutation.variables), jax.tree.map(np.array, state)
    for leaf in jax.tree.leaves(old):
        leaf[...] = 99
    assert jax.tree.all(jax.tree.map(np.array_equal, mutation.variables, new))
    assert jax.tree.all(jax.tree.map(np.array_equal, state, kept))
    assert jax.tree.all(jax.tree.map(np.array_equal, mutation.undo(mutation.variables)[1], variables))


def test_what_is_undone_is_not_what_was_given(network):
    graph, variables = network
    mutation = nas.delta_nout(graph, jax.tree.map(np.array, variables), {"conv": -1})
    trained = jax.tree.map(np.array, mutation.variables)
    undone, again = mutation.undo(trained)[1], mutation.undo(trained)[1]
    for leaf in jax.tree.leaves(undone):
        leaf[...] = 99
    assert jax.tree.all(jax.tree.map(np.array_equal, trained, mutation.variables))
    assert not any((np.asarray(leaf) == 99).any() for leaf in jax.tree.leaves(again))


def test_jax_arrays_that_do_not_change_are_shared(network):
    graph, variables = network
    made = nas.rename(graph, variables, {"conv": "stem"}).variables
    assert made["params"]["stem"]["kernel"] is variables["params"]["conv"]["kernel"]
