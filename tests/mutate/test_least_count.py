"""The count that the error of an impossible budget names, against every combination of sizes; and it can be had."""

import itertools
import random
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from strategies import placeholder_variables, random_graph, random_request

import naivenas_jax as nas

X = jnp.ones((2, 3))


def initialised(graph):
    return graph, graph.init(jax.random.key(0), X)


def stacked():
    """a -> b;  concat(a, b) -> c -> out."""
    x = nas.input_vertex("x", 3)
    a = nas.layer("a", nn.Dense(6), x)
    b = nas.layer("b", nn.Dense(7), a)
    c = nas.layer("c", nn.Dense(5), nas.concat("both", a, b))
    return initialised(nas.Graph(x, nas.layer("out", nn.Dense(2), c)))


def crossed():
    """concat(a, b) + c -> out: c is as wide as a and b together."""
    x = nas.input_vertex("x", 3)
    both = nas.concat("both", nas.layer("a", nn.Dense(4), x), nas.layer("b", nn.Dense(3), x))
    total = (both + nas.layer("c", nn.Dense(7), x)).named("sum")
    return initialised(nas.Graph(x, nas.layer("out", nn.Dense(2), total)))


def named(network, limit, **keywords):
    """The smallest count that the error names; None if it is not about the budget."""
    with pytest.raises(nas.InfeasibleError) as caught:
        nas.resize(*network, **{limit: 1}, **keywords)
    found = re.search(r"smallest that was found is (\d+)", str(caught.value))
    return None if found is None else int(found.group(1))


CASES = {
    "free": ({}, lambda n: True),
    "min_size": ({"min_size": 2}, lambda n: min(n) >= 2),
    "multiples": ({"multiple_of": 2}, lambda n: not any(size % 2 for size in n)),
    "a sum at least": ({"constraints": nas.size("a") + nas.size("b") >= 7}, lambda n: n[0] + n[1] >= 7),
    "a sum": ({"constraints": nas.size("a") + nas.size("b") == 6}, lambda n: n[0] + n[1] == 6),
    "a difference": ({"constraints": nas.size("a") - 2 * nas.size("c") >= 0}, lambda n: n[0] >= 2 * n[2]),
    "a request": ({"request": {"b": nas.to(2)}}, lambda n: n[1] == 2),
    "a request for more": ({"request": {"a": 2}}, lambda n: n[0] == 8),
    "a relaxed request": ({"request": {"a": nas.relaxed(-1)}}, lambda n: n[0] != 6),
}


def stacked_params(a, b, c):
    return 3 * a + a + a * b + b + (a + b) * c + c + c * 2 + 2


@pytest.mark.parametrize(("keywords", "allowed"), CASES.values(), ids=CASES)
def test_the_named_count_is_the_smallest_and_can_be_had(keywords, allowed):
    network = stacked()
    every = itertools.product(range(1, 9), range(1, 8), range(1, 6))
    wanted = min(stacked_params(*sizes) for sizes in every if allowed(sizes))
    assert named(network, "max_params", **keywords) == wanted
    mutation = nas.resize(*network, max_params=wanted, **keywords)
    assert nas.costs(*mutation).params == wanted


@pytest.mark.parametrize(
    ("request_", "width"),
    [({}, 2), ({"sum": nas.to(5)}, 5), ({"c": -3}, 4), ({"both": nas.relaxed(-6)}, 2), ({"a": 1}, 6)],
)
def test_of_what_is_tied(request_, width):
    network = crossed()
    assert named(network, "max_params", request=request_) == 10 * width + 2
    mutation = nas.resize(*network, max_params=10 * width + 2, request=request_)
    assert mutation.graph.nout("sum") == width


def test_of_heads():
    """No smaller than any of their factors can make it."""
    x = nas.input_vertex("x", 3)
    attended = nas.layer("mha", nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=6, out_features=3), x)
    network = initialised(nas.Graph(x, attended))
    factors = [name for name in network[0].handles() if name.startswith("mha:")]
    counts = []
    for name in factors:
        fewest = nas.delta_nout(*network, {name: nas.to(1)})
        counts.append(nas.costs(*fewest).params)
    count = named(network, "max_params")
    assert count <= min(counts)
    assert nas.costs(*nas.resize(*network, max_params=count)).params == count


def test_each_budget_is_named_without_the_others():
    network = stacked()
    with pytest.raises(nas.InfeasibleError) as caught:
        nas.resize(*network, max_params=1, max_macs=2, inputs=X)
    text = str(caught.value)
    found = dict(re.findall(r"(max_\w+) <= \d; now it is \d+, .* and no other budget, .* found is (\d+)", text))
    for name, count in found.items():
        costs = nas.costs(*nas.resize(*network, inputs=X, **{name: int(count)}), X)
        assert getattr(costs, name.removeprefix("max_")) == int(count)
    assert found == {"max_params": str(stacked_params(1, 1, 1)), "max_macs": str(2 * (3 + 1 + 2 + 2))}


def test_what_contradicts_itself_without_a_budget_is_not_the_budgets_fault():
    rows = [nas.size("a") >= 5, nas.size("a") + nas.size("b") <= 4]
    with pytest.raises(nas.InfeasibleError) as caught:
        nas.resize(*stacked(), max_params=20, constraints=rows)
    text = str(caught.value)
    assert "size('a') >= 5" in text
    assert "size('a') + size('b') <= 4" in text
    assert "max_params" not in text
    assert caught.value.nearest == {}
    with pytest.raises(nas.InfeasibleError, match=r"'a' = 4.*size\('a'\) >= 5") as caught:
        nas.resize(*stacked(), max_params=20, constraints=rows[0], request={"a": nas.to(4)})
    assert "max_params" not in str(caught.value)


@pytest.mark.parametrize("seed", range(12))
def test_of_random_graphs(seed):
    """The named count can be had, and the search finds nothing below it; or it is not the budget that is in the way."""
    rng = random.Random(seed)
    graph = random_graph(rng)
    variables = placeholder_variables(graph, seed)
    keywords = [{}, {"request": random_request(rng, graph)}, {"multiple_of": 2}][seed % 3]
    count = named((graph, variables), "max_params", **keywords)
    if count is None:
        with pytest.raises(nas.InfeasibleError):
            nas.resize(graph, variables, **keywords)
        return
    assert nas.costs(*nas.resize(graph, variables, max_params=count, **keywords)).params == count
    with pytest.raises(nas.InfeasibleError):
        nas.resize(graph, variables, max_params=count - 1, **keywords)
