"""`resize` within budgets: counted again by hand on the network that comes out."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas

IMAGE = jnp.ones((2, 8, 8, 3))


@pytest.fixture(scope="module")
def network():
    x = nas.input_vertex("x", 3, shape=(8, 8, 3))
    stem = nas.layer("stem", nn.Conv(12, (3, 3)), x)
    block = nas.layer("outer", nn.Conv(12, (3, 3)), nas.layer("inner", nn.Conv(16, (3, 3)), stem))
    both = nas.concat("both", stem + block, nas.layer("side", nn.Conv(8, (1, 1), strides=1), x))
    mean = nas.invariant_vertex("mean", lambda x: x.mean((1, 2)), both)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(5), nas.layer("hidden", nn.Dense(20), mean)))
    return graph, graph.init(jax.random.key(0), IMAGE)


def params(variables):
    return sum(np.size(a) for a in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2, 0.05])
def test_parameters_are_within_and_no_layer_could_keep_one_more(network, share):
    graph, variables = network
    mutation = nas.resize(graph, variables, max_params=share)
    assert params(mutation.variables) <= share * params(variables)
    assert mutation.gap < 0.01
    assert mutation.check(IMAGE).compared
    for name in ("stem", "inner", "side", "hidden"):
        now = mutation.graph.nout(name)
        if now < graph.nout(name):
            sizes = {n: nas.to(mutation.graph.nout(n)) for n in ("stem", "inner", "side", "hidden")}
            one_more = nas.delta_nout(graph, variables, {**sizes, name: nas.to(now + 1)})
            assert params(one_more.variables) > share * params(variables)


def test_operations_bytes_and_activations(network):
    graph, variables = network
    before = nas.costs(graph, variables, IMAGE)
    limits = {"max_macs": 0.5, "max_bytes": 0.7, "max_activation_bytes": 0.6}
    mutation = nas.resize(graph, variables, **limits, inputs=IMAGE)
    after = nas.costs(*mutation, IMAGE)
    assert after.macs <= 0.5 * before.macs
    assert after.bytes <= 0.7 * before.bytes
    assert after.activation_bytes <= 0.6 * before.activation_bytes
    assert nas.costs(*nas.resize(graph, variables, max_macs=100_000)).params > 0  # the graph knows its input shapes
    assert nas.costs(*nas.resize(graph, variables, max_macs=100_000), IMAGE[:1]).macs <= 100_000


def test_multiples_requests_and_parts(network):
    graph, variables = network
    mutation = nas.resize(graph, variables, max_params=0.6, multiple_of=4, request={"inner": nas.to(8)})
    sizes = {name: mutation.graph.nout(name) for name in ("stem", "inner", "side", "hidden")}
    assert sizes["inner"] == 8
    assert all(size % 4 == 0 for size in sizes.values())
    part = nas.resize(graph, variables, max_params={"inner": 0.5, "hidden": 100})
    assert params({"params": part.variables["params"]["inner"]}) <= 0.5 * (9 * 12 * 16 + 16)
    assert params({"params": part.variables["params"]["hidden"]}) <= 100
    assert nas.resize(graph, variables, multiple_of={"hidden": 6}).graph.nout("hidden") == 18


def test_a_budget_that_holds_changes_nothing(network):
    graph, variables = network
    mutation = nas.resize(graph, variables, max_params=1.0)
    assert mutation.graph == graph
    assert mutation.gap == 0


def test_imported_models_too():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(16, name="embed")(x)
            x = x + nn.MultiHeadDotProductAttention(4, name="attn")(nn.LayerNorm()(x))
            return nn.Dense(3, name="head")(x + nn.Dense(16, name="down")(nn.relu(nn.Dense(32, name="up")(x))))

    x = jax.random.normal(jax.random.key(0), (2, 5, 8))
    model = Model()
    graph, variables = nas.from_linen(model, model.init(jax.random.key(1), x), x)
    mutation = nas.resize(graph, variables, max_params=0.5, max_macs=0.6, inputs=x)
    before, after = nas.costs(graph, variables, x), nas.costs(*mutation, x)
    assert after.params <= 0.5 * before.params
    assert after.macs <= 0.6 * before.macs
    assert jnp.isfinite(mutation.graph.apply(mutation.variables, x)).all()


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"max_params": 10}, nas.InfeasibleError, r"max_params <= 10; now it is \d+, .* smallest"),
        ({"max_params": True}, nas.BudgetError, "max_params must be a whole number.*found True"),
        ({"max_params": -0.5}, nas.BudgetError, "found -0.5"),
        ({"max_params": float("nan")}, nas.BudgetError, "found nan"),
        ({"max_params": "half"}, nas.BudgetError, "found 'half'"),
        ({"max_params": float("inf")}, nas.BudgetError, "found inf"),
        ({"max_params": {1: 0.5}}, nas.BudgetError, "found 1 in place of a name"),
        ({"max_macs": 0.5, "inputs": ((1, 8, 8, 3),)}, nas.GraphError, r"'x' must be an array; found tuple.*Struct"),
        ({"max_macs": 0.5, "inputs": ({"x": 1},)}, nas.GraphError, "found dict"),
        ({"max_params": {"steam": 0.5}}, nas.UnknownNameError, "'steam'.*'stem'"),
        ({"multiple_of": {"steam": 8}}, nas.UnknownNameError, "'steam'.*'stem'"),
        ({"multiple_of": 0}, nas.RequestError, "must be a whole number, at least 1"),
        ({"multiple_of": "8"}, nas.RequestError, "must be a whole number, at least 1 .*found '8'"),
    ],
)
def test_bad_budgets(network, keywords, error, message):
    with pytest.raises(error, match=message):
        nas.resize(*network, **keywords)


def test_variables_of_another_network_are_refused_before_they_are_counted(network):
    graph, variables = network
    other = {"params": {"other": variables["params"]["stem"]}}
    with pytest.raises(nas.VariablesError, match="Are they those of another graph"):
        nas.resize(graph, other, max_params=0.5)


def test_operations_need_shapes():
    x = nas.input_vertex("x", 3)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(5), nas.layer("hidden", nn.Dense(8), x)))
    variables = graph.init(jax.random.key(0), jnp.ones((1, 3)))
    with pytest.raises(nas.BudgetError, match=r"shape of input 'x' must be known: pass inputs="):
        nas.resize(graph, variables, max_macs=0.5)


def test_the_smallest_count_that_is_named_can_be_had_and_what_is_fixed_is_said():
    x = nas.input_vertex("x", 10)
    y = nas.layer("y", nn.Dense(10), nas.layer("hidden", nn.Dense(20), x))
    graph = nas.Graph(x, (y + x).named("sum"))
    variables = graph.init(jax.random.key(0), jnp.ones((1, 10)))
    smallest = 10 + 1 + 10 + 10  # one hidden neuron
    with pytest.raises(nas.InfeasibleError, match=rf"smallest that was found is {smallest}\.\nFixed: 'x' is an input"):
        nas.resize(graph, variables, max_params=smallest - 1)
    assert nas.costs(*nas.resize(graph, variables, max_params=smallest)).params == smallest


@pytest.mark.parametrize(
    "budget", [{"max_params": 0.6}, {"max_latency": 0.8, "latency": len}], ids=["count", "latency"]
)
def test_objectives_are_refused_within_budgets_and_not_ignored(network, budget):
    graph, variables = network
    with pytest.raises(
        nas.BudgetError, match="minimise= orders sizes before utility, and within budgets utility alone"
    ):
        nas.resize(graph, variables, minimise=nas.size("inner"), **budget)
