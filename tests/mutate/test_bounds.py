"""`resize` with smallest and largest sizes, against every combination of sizes; heads and groups under a budget."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def network():
    x = nas.input_vertex("x", 3)
    a = nas.layer("a", nn.Dense(6), x)
    b = nas.layer("b", nn.Dense(7), a)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("c", nn.Dense(5), nas.concat("both", a, b))))
    return graph, graph.init(jax.random.key(0), jnp.ones((1, 3)))


def params_of(a, b, c):
    return 3 * a + a + a * b + b + (a + b) * c + c + c * 2 + 2


SCORES = {"a": np.arange(6) + 1.0, "b": 1.3 * np.arange(7) + 0.5, "c": 2.0 * np.arange(5) + 0.3}


def kept(sizes):
    return sum(np.sort(SCORES[name])[::-1][:n].sum() for name, n in zip(NAMES, sizes, strict=True))


@pytest.mark.parametrize(
    ("least", "most", "allowed"),
    [
        (3, None, lambda a, b, c: min(a, b, c) >= 3),
        (0.5, 0.9, lambda a, b, c: 3 <= a <= 5 and 4 <= b <= 6 and 3 <= c <= 4),
        ({"a": 5}, {"b": 2}, lambda a, b, c: a >= 5 and b <= 2),
        ({"both": 9}, None, lambda a, b, c: a + b >= 9),
        (2, {"c": 0.4}, lambda a, b, c: min(a, b, c) >= 2 and c <= 2),
    ],
)
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_the_best_sizes_between_bounds(network, least, most, allowed, share):
    graph, variables = network
    budget = int(share * params_of(6, 7, 5))
    every = itertools.product(range(1, 7), range(1, 8), range(1, 6))
    feasible = [sizes for sizes in every if allowed(*sizes) and params_of(*sizes) <= budget]
    limits = {"min_size": least, "max_size": most, "max_params": budget, "utility": SCORES}
    if not feasible:
        with pytest.raises(nas.InfeasibleError):
            nas.resize(graph, variables, **limits)
        return
    mutation = nas.resize(graph, variables, **limits)
    found = tuple(mutation.graph.nout(name) for name in NAMES)
    best = max(map(kept, feasible))
    assert found in feasible
    assert kept(found) <= best + 1e-9
    assert kept(found) * (1 + mutation.gap) >= best - 1e-9


def test_without_budget_and_growth_by_name(network):
    graph, variables = network
    assert nas.resize(graph, variables, max_size=4).graph.nout("b") == 4
    assert nas.resize(graph, variables, min_size=50).graph == graph  # for all: nothing is asked to grow
    grown = nas.resize(graph, variables, min_size={"b": 9})
    assert [grown.graph.nout(name) for name in NAMES] == [6, 9, 5]
    bound = nas.report(nas.resize(graph, variables, max_size={"b": 4})).to_dict()["handles"]["b"]["bound_by"]
    assert any("max_size=" in why for why in bound)


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"min_size": 0}, nas.RequestError, r"min_size= of 'a' must be a whole number.*found 0"),
        ({"max_size": True}, nas.RequestError, "found True"),
        ({"max_size": {"q": 3}}, nas.UnknownNameError, "max_size: .*'q'"),
        ({"min_size": {"a": 5}, "max_size": {"a": 4}}, nas.RequestError, "min_size=5 of 'a' is above max_size=4"),
    ],
)
def test_bad_bounds(network, keywords, error, message):
    with pytest.raises(error, match=message):
        nas.resize(*network, **keywords)


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(16, name="embed")(x)
        x = x + nn.MultiHeadDotProductAttention(4, name="attn")(x)
        return nn.Dense(3, name="head")(x + nn.Dense(16, name="down")(nn.relu(nn.Dense(32, name="up")(x))))


@pytest.mark.parametrize("share", [0.7, 0.4, 0.15])
def test_heads_are_whole_under_a_budget(share):
    x = jax.random.normal(jax.random.key(0), (2, 5, 8))
    graph, variables = nas.from_linen(Attention(), Attention().init(jax.random.key(1), x), x)
    mutation = nas.resize(graph, variables, max_params=share, min_size={"up": 4})
    attention = mutation.variables["params"]["attn"]
    shapes = {name: attention[name]["kernel"].shape for name in ("query", "key", "value")}
    heads = {shape[1] for shape in shapes.values()}
    assert heads == {attention["out"]["kernel"].shape[0]}  # the same number of whole heads everywhere
    assert shapes["query"] == shapes["key"]
    assert mutation.plan.axis("up").after >= 4
    assert nas.costs(*mutation).params <= share * nas.costs(graph, variables).params
    assert jnp.isfinite(mutation.graph.apply(mutation.variables, x)).all()


@pytest.mark.parametrize("share", [0.7, 0.4])
def test_groups_stay_divisible_under_a_budget(share):
    x = nas.input_vertex("x", 3, shape=(6, 6, 3))
    wide = nas.layer("wide", nn.Conv(12, (1, 1)), x)
    grouped = nas.layer("grouped", nn.Conv(8, (3, 3), feature_group_count=4), wide)
    depthwise = nas.layer("depthwise", nn.Conv(8, (3, 3), feature_group_count=8), grouped)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.flatten("flat", depthwise)))
    image = jax.random.normal(jax.random.key(2), (2, 6, 6, 3))
    variables = graph.init(jax.random.key(0), image)
    mutation = nas.resize(graph, variables, max_params=share, min_size=2)
    assert mutation.graph.nout("grouped") == mutation.graph.nout("depthwise") >= 2
    assert mutation.graph.nout("wide") < 12 or mutation.graph.nout("grouped") < 8
    groups = mutation.graph["grouped"].op.module.feature_group_count
    assert mutation.graph.nout("wide") % groups == 0 == mutation.graph.nout("grouped") % groups
    assert nas.costs(*mutation).params <= share * nas.costs(graph, variables).params
    mutation.check(image)
