"""Sizes without limit, and plans that contradict themselves, are refused at the door, by a name."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas
from naivenas_jax.align.axis_plan import AxisPlan


def network(hidden="h"):
    x = nas.input_vertex("x", 3)
    graph = nas.Graph(x, nas.layer("o", nn.Dense(2), nas.layer(hidden, nn.Dense(4), x)))
    return graph, graph.init(jax.random.key(0), jnp.ones((1, 3)))


def convolution(rank=2):
    conv = nas.layer("conv", nn.Conv(4, (3,) * rank), nas.input_vertex("image", 3))
    graph = nas.Graph(conv.inputs[0], conv)
    return graph, graph.init(jax.random.key(0), jnp.ones((1, *(8,) * rank, 3)))


@pytest.mark.parametrize(
    ("rank", "size"), [(1, 10**12), (1, (10**9,)), (2, (10**6, 10**6)), (2, (3, 10**30)), (3, (1000, 1000, 1000))]
)
def test_kernels(rank, size):
    with pytest.raises(nas.RequestError, match=r"'conv' would have .* taps"):
        nas.change_kernel(*convolution(rank), {"conv": size})


@pytest.mark.parametrize(
    ("argument", "value"),
    [("starts", each) for each in (0, 10**9, 1.5, "3", None, np.ones(3), True)]
    + [("steps", each) for each in (-1, 10**12, 1.5, "3", None, np.ones(3))]
    + [("zero", each) for each in (None, "both", np.ones(3))],
)
def test_gradmax(argument, value):
    with pytest.raises(nas.PlanError, match=f"gradmax: {argument} must be"):
        nas.gradmax(lambda apply, variables, batch: 0.0, jnp.ones((2, 3)), **{argument: value})


@pytest.mark.parametrize("value", [1e9, np.inf, np.nan, 0, -1, True, "1"])
def test_fractions(value):
    with pytest.raises(nas.BudgetError, match="fractions= must be numbers above 0 and at most"):
        nas.measure_latency(*network(), jnp.ones((2, 3)), fractions=(value,))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, None, "1", [1.0]])
def test_what_a_timer_returns(value):
    with pytest.raises(nas.BudgetError, match="timer= must return seconds"):
        nas.measure_latency(*network(), jnp.ones((2, 3)), timer=lambda function, arrays: value)


def test_latency_of_another_network():
    table = nas.measure_latency(*network("y"), jnp.ones((2, 3)), timer=lambda function, arrays: 1.0)
    graph, variables = network()
    for use in (
        lambda: table(graph),
        lambda: table.at({}),
        lambda: nas.resize(graph, variables, max_latency=0.5, latency=table),
    ):
        with pytest.raises(nas.BudgetError, match=r"table of latency is of another network: .*'[oy]'"):
            use()


@pytest.mark.parametrize("size", [-1, 2.0, "3", None, True, 10**12, 10**30, np.ones(2), [3]])
def test_sizes_of_axes(size):
    with pytest.raises(nas.PlanError, match="size must be a whole number of neurons"):
        AxisPlan.identity(size)
    with pytest.raises(nas.PlanError, match="before must be a whole number of neurons"):
        AxisPlan.of(size, [0])


@pytest.mark.parametrize("given", [[0.5], [[0, 1]], "012", 3, None, [np.nan], [2**70], [True], [None], [0, [1]]])
def test_positions(given):
    with pytest.raises(nas.PlanError, match="source must be whole numbers in a row"):
        AxisPlan.of(3, given)
    if given is not None:
        with pytest.raises(nas.PlanError, match="twin must be whole numbers in a row"):
            AxisPlan.of(3, [0], given)


@pytest.mark.parametrize("twin", [[], [0, 1], [3], [-2]])
def test_twins(twin):
    with pytest.raises(nas.PlanError, match="The twins of an axis of 3 neurons must be one for each of its 1 sources"):
        AxisPlan.of(3, [-1], twin)


WHOLE = {
    "axes": {"a": 3, "b": {"before": 4, "source": [0, 1, -1], "twin": [-1, -1, 0]}},
    "leaves": [[["params", "h", "bias"], ["a"]], [["params", "o", "kernel"], ["b", None]]],
    "created": [["params", "h", "bias"]],
    "removed": [["params", "q", "bias"]],
    "rescaled": [[["params", "o", "kernel"], 0]],
    "moved": [[["params", "o", "kernel"], ["params", "p", "kernel"]]],
    "renamed": {"b": "c"},
}
LEAF = ["params", "h", "bias"]
CORRUPTED = {
    "axis too large": {"axes": {"a": 10**12, "b": 3}},
    "axis negative": {"axes": {"a": -3, "b": 3}},
    "axis of half a neuron": {"axes": {"a": 2.5, "b": 3}},
    "axis true": {"axes": {"a": True, "b": 3}},
    "axis before too large": {"axes": {"a": 3, "b": {"before": 10**12, "source": [0], "twin": [-1]}}},
    "source beyond": {"axes": {"a": 3, "b": {"before": 2, "source": [5], "twin": [-1]}}},
    "source twice": {"axes": {"a": 3, "b": {"before": 2, "source": [1, 1], "twin": [-1, -1]}}},
    "source of text": {"axes": {"a": 3, "b": {"before": 2, "source": "01", "twin": [-1, -1]}}},
    "source of fractions": {"axes": {"a": 3, "b": {"before": 2, "source": [0.5], "twin": [-1]}}},
    "too few twins": {"axes": {"a": 3, "b": {"before": 2, "source": [0, -1], "twin": [-1]}}},
    "twin beyond": {"axes": {"a": 3, "b": {"before": 2, "source": [0, -1], "twin": [-1, 7]}}},
    "no twins": {"axes": {"a": 3, "b": {"before": 2, "source": [0]}}},
    "axis missing": {"axes": {"a": 3}},
    "path a number": {"leaves": [[3, ["a"]]]},
    "path empty": {"leaves": [[[], ["a"]]]},
    "dims of numbers": {"leaves": [[LEAF, [3]]]},
    "dims of lists": {"leaves": [[LEAF, [["a"]]]]},
    "created nothing": {"created": [["params", "z"]]},
    "rescaled nothing": {"rescaled": [[["params", "z"], 0]]},
    "rescaled along nothing": {"rescaled": [[["params", "o", "kernel"], 7]]},
    "rescaled where fixed": {"rescaled": [[["params", "o", "kernel"], 1]]},
    "moved nothing": {"moved": [[["params", "z"], ["params", "y"]]]},
    "moved and created": {"moved": [[LEAF, ["params", "y"]]]},
    "renamed nothing": {"renamed": {"z": "y"}},
    "renamed to a number": {"renamed": {"a": 3}},
    "renamed a list": {"renamed": [1]},
    "no axes": {"axes": None},
}


def test_a_whole_plan_is_read():
    plan = nas.Plan.from_json(json.dumps(WHOLE))
    assert json.loads(plan.to_json()) == WHOLE


@pytest.mark.parametrize("changed", CORRUPTED.values(), ids=CORRUPTED)
def test_corrupted_plans(changed):
    with pytest.raises(nas.PlanError, match=r"not a plan written by Plan\.to_json: "):
        nas.Plan.from_json(json.dumps({**WHOLE, **changed}))


@pytest.mark.parametrize("text", ["[]", "3", "null", "[" * 100_000, '{"axes": ' + "9" * 5000 + "}", "", None, 3, b"{}"])
def test_what_is_no_plan(text):
    with pytest.raises(nas.PlanError, match=r"not a plan written by Plan\.to_json"):
        nas.Plan.from_json(text)


@pytest.mark.parametrize("flag", [np.ones(3), "no", 3, None, [True]])
def test_flags(flag):
    graph, variables = network()
    with pytest.raises(nas.NaiveNASError, match="free_outputs"):
        nas.delta_nout(graph, variables, {"h": -1}, free_outputs=flag)
    with pytest.raises(nas.BudgetError, match="grow must be True or False"):
        nas.resize(graph, variables, max_params=2.0, grow=flag)


@pytest.mark.parametrize("given", ["x", None, object()])
def test_inputs_without_a_shape(given):
    with pytest.raises(nas.GraphError, match="inputs= needs one array or shape per input"):
        nas.delta_nout(*network(), {"h": -1}, inputs=[given])


@pytest.mark.parametrize(
    "use",
    [
        lambda g, v: nas.delta_nout(g, v, {"h": -1}),
        nas.magnitude,
        lambda g, v: nas.rename(g, v, {"h": "k"}),
    ],
)
def test_deleted_arrays(use):
    graph, variables = network()
    variables["params"]["h"]["kernel"].delete()
    with pytest.raises(nas.VariablesError, match=r"\['params'\]\['h'\]\['kernel'\] .*deleted"):
        use(graph, variables)


def test_no_vertex_is_called_params():
    """Flax would not evaluate it."""
    graph, variables = network()
    for make in (
        lambda: network("params"),
        lambda: graph["h"].named("params"),
        lambda: nas.rename(graph, variables, {"h": "params"}),
        lambda: nas.input_vertex("params", 3),
    ):
        with pytest.raises(nas.GraphError, match="cannot be called 'params'"):
            make()


@pytest.mark.parametrize("name", ["batch_stats", "kernel", "bias"])
def test_a_vertex_may_be_called_like_something_else(name):
    graph, variables = network(name)
    x = jnp.ones((2, 3))
    cut = nas.delta_nout(graph, variables, {name: -1})
    cut.check(x)
    grown = nas.delta_nout(graph, variables, {name: 2})
    assert np.allclose(grown.graph.apply(grown.variables, x), graph.apply(variables, x), atol=1e-6)
    carried = cut.carry(variables["params"])
    assert jax.tree.all(jax.tree.map(np.array_equal, carried, cut.variables["params"]))
