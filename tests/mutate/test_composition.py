"""A composed plan does what its steps do one after the other: states carried at once are those carried step by step."""

from __future__ import annotations

import random

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import naivenas_jax as nas


@pytest.fixture(scope="module")
def network():
    """An attention, whose queries follow the root of their size, and layers with names to change."""
    x = nas.input_vertex("x", 8, shape=(5, 8))
    attention = nas.layer("att", nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8), x)
    hidden = nas.layer("hidden", nn.Dense(6), attention)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(3), nas.layer("norm", nn.BatchNorm(), hidden)))
    return graph, graph.init(jax.random.key(0), jnp.ones((2, 5, 8)))


def after(mutation, verb, *args, **kwargs):
    return verb(mutation.graph, mutation.variables, *args, **kwargs)


def in_one(steps):
    plan = steps[0].plan
    for step in steps[1:]:
        plan = step.plan @ plan
    return nas.Plan.from_json(plan.to_json())


def carried(steps, tree, **how):
    """The tree carried step by step, and by the composed plan."""
    one = nas.Mutation(
        graph=steps[-1].graph,
        variables=steps[-1].variables,
        plan=in_one(steps),
        before=steps[0].before,
        variables_before=steps[0].variables_before,
    ).carry(tree, **how)
    for step in steps:
        tree = step.carry(tree, **how)
    return tree, one


def assert_alike(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7), tree, other)


LATER = {
    "rename": lambda m: after(m, nas.rename, {"att": "attention"}),
    "swap": lambda m: after(m, nas.rename, {"att": "hidden", "hidden": "att"}),
    "replace_layer": lambda m: after(m, nas.replace_layer, "out", nn.Dense(4), free_outputs=True),
    "map_vertices": lambda m: after(m, nas.map_vertices, lambda v: None),
    "insert_vertex": lambda m: after(m, nas.insert_vertex, "hidden", lambda v: nas.layer("more", nn.Dense(6), v)),
    "remove_vertex": lambda m: after(m, nas.remove_vertex, "norm"),
    "delta_nout": lambda m: after(m, nas.delta_nout, {"hidden": -2, "att:qk": -1}),
}


@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize("first", [2, -1])
def test_averages_of_rescaled_queries_are_rescaled_by_any_composition(network, first, later):
    one = nas.delta_nout(*network, {"att:qk": first})
    steps = [one, LATER[later](one)]
    assert (steps[1].plan @ steps[0].plan).rescaled
    stepwise, at_once = carried(steps, network[1]["params"], new="params")
    assert_alike(stepwise, at_once)
    queries = "attention" if later == "rename" else "hidden" if later == "swap" else "att"
    new = steps[1].variables["params"][queries]["query"]["kernel"]
    np.testing.assert_allclose(at_once[queries]["query"]["kernel"], new, rtol=1e-6)


def test_a_kernel_that_changes_between_two_changes_of_an_attention():
    x = nas.input_vertex("image", 4, shape=(5, 4))
    conv = nas.layer("conv", nn.Conv(8, (3,)), x)
    attention = nas.layer("att", nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8), conv)
    graph = nas.Graph(x, attention)
    variables = graph.init(jax.random.key(0), jnp.ones((2, 5, 4)))
    steps = [nas.delta_nout(graph, variables, {"att:qk": -1})]
    steps.append(nas.change_kernel(*steps[-1], {"conv": 5}))
    steps.append(nas.delta_nout(*steps[-1], {"att:qk": -1}))
    stepwise, at_once = carried(steps, variables["params"], new="params")
    assert_alike(stepwise, at_once)
    assert (
        np.abs(at_once["att"]["query"]["kernel"] - steps[-1].variables["params"]["att"]["query"]["kernel"]).max() < 1e-6
    )


def test_a_constraint_inside_one_verb_rescales(network):
    one = nas.replace_layer(*network, "out", nn.Dense(4), constraints=nas.size("att:qk") >= 6, free_outputs=True)
    average = one.carry(network[1]["params"], new="params")
    new = one.variables["params"]["att"]["query"]["kernel"]
    np.testing.assert_allclose(average["att"]["query"]["kernel"], new, rtol=1e-6)


def test_renamed_and_then_replaced_was_removed_under_its_first_name(network):
    steps = [nas.rename(*network, {"hidden": "body"})]
    steps.append(after(steps[0], nas.replace_layer, "body", nn.Dense(6), keep=False))
    plan = in_one(steps)
    assert plan.removed == {("params", "hidden", "bias"), ("params", "hidden", "kernel")}
    stepwise, at_once = carried(steps, optax.adam(0.1).init(network[1]["params"]))
    assert_alike(stepwise, at_once)


def test_the_name_of_a_removed_vertex_goes_to_another(network):
    steps = [nas.remove_vertex(*network, "norm")]
    steps.append(after(steps[0], nas.rename, {"hidden": "norm"}))
    state = optax.adam(0.1).init(network[1]["params"])
    state = jax.tree.map(lambda leaf: leaf + jnp.arange(leaf.size, dtype=leaf.dtype).reshape(leaf.shape), state)
    stepwise, at_once = carried(steps, state)
    assert_alike(stepwise, at_once)
    assert set(at_once[0].mu) == {"att", "norm", "out"}


def test_plans_of_which_one_rescales_and_the_other_does_not_are_refused(network):
    first = nas.delta_nout(*network, {"att:qk": -1})
    other = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=6, out_features=8, normalize_qk=True)
    swapped = after(first, nas.replace_layer, "att", other)
    both = swapped.plan @ first.plan  # the second changes no size, so that the first says all
    assert both.factor(("params", "att", "query", "kernel")) == first.plan.factor(("params", "att", "query", "kernel"))
    last = after(swapped, nas.delta_nout, {"att:qk": -1})
    with pytest.raises(nas.PlanError, match=r"multiplies params/att/query/.* apply them one after the other"):
        last.plan @ both


@pytest.mark.parametrize("seed", range(6))
def test_chains_in_any_order(network, seed):
    draw, steps = random.Random(seed), []
    graph, variables = network
    for number in range(6):
        names = [v.name for v in graph.vertices if v.name != "x" and v not in graph.outputs]
        attention = next((name for name in names if f"{name}:qk" in graph.handles()), None)
        name = draw.choice(names)
        kind = draw.choice(["width", "heads", "rename", "insert", "remove", "replace"])
        if kind == "heads" and attention:
            step = nas.delta_nout(graph, variables, {f"{attention}:qk": draw.choice([1, 2, -1])})
        elif kind == "rename":
            one, other = draw.sample(names, 2) if len(names) > 1 else (name, "new")
            step = nas.rename(graph, variables, {one: other, other: one} if other in graph else {one: f"r{number}"})
        elif kind == "insert":
            step = nas.insert_vertex(
                graph, variables, name, lambda v, n=number: nas.layer(f"i{n}", nn.Dense(v.nout), v)
            )
        elif kind == "remove" and name != attention:
            step = nas.remove_vertex(graph, variables, name)
        elif kind == "replace" and name != attention:
            step = nas.replace_layer(graph, variables, name, nn.Dense(graph.nout(name)))
        else:
            step = nas.delta_nout(graph, variables, {name: draw.choice([1, 2, -1])})
        steps.append(step)
        graph, variables = step
    for tree, how in ((network[1], {"new": "params"}), (optax.sgd(0.1, 0.9).init(network[1]["params"]), {})):
        tree = jax.tree.map(lambda leaf: leaf + 1, tree)
        stepwise, at_once = carried(steps, tree, **how)
        assert_alike(stepwise, at_once)
