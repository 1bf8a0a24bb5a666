"""What `gap` says after a time limit is true: compared with the optimum that the same search finds in the end."""

import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas


def network():
    x = nas.input_vertex("x", 3)
    a, c = nas.layer("a", nn.Dense(8), x), nas.layer("c", nn.Dense(5), x)
    graph = nas.Graph(x, nas.layer("o", nn.Dense(2), nas.concat("cat", a, c, a)))
    return graph, graph.init(jax.random.key(0), jnp.ones((1, 3)))


UTILITY = {"a": np.array([1.0, -1, 2, -2, 3, -3, 4, -4]), "c": np.array([1.0, -1, 2, -2, 3])}
POSITIVE = {name: np.abs(value) for name, value in UTILITY.items()}


def kept(mutation, utility):
    return sum(float(utility[name][mutation.plan.axis(name).kept].sum()) for name in utility)


CASES = {
    "a condition": (UTILITY, {"constraints": nas.size("a") + nas.size("c") >= 8}),
    "a budget": (POSITIVE, {"max_params": 0.5}),
    "two budgets": (POSITIVE, {"max_params": 0.6, "max_bytes": 0.5}),
    "a budget and a wish": (POSITIVE, {"max_params": 0.7, "request": {"c": nas.relaxed(-2)}}),
    "a budget and multiples": (POSITIVE, {"max_params": 0.7, "multiple_of": 2}),
}


@pytest.mark.parametrize(("utility", "asked"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 9, 30])
def test_no_more_could_be_kept_than_the_gap_says(strike, utility, asked, n):
    graph, variables = network()
    best = nas.resize(graph, variables, utility=utility, **asked)
    assert best.gap == 0
    strike(n)
    try:
        found = nas.resize(graph, variables, utility=utility, **asked, fallback=nas.fallback.accept)
    except nas.TimeLimitError as error:
        assert error.best is None  # noqa: PT017  nothing had been found
        return
    most, own = kept(best, utility), kept(found, utility)
    if "request" not in asked or found.graph.nout("c") == best.graph.nout("c"):
        assert most <= own + found.gap * max(abs(own), 1e-12) * (1 + 1e-6) + 1e-6
    else:
        assert np.isinf(found.gap)
    assert (found.gap > 0) == any("not proven" in note for note in found.notes) or found.gap == 0
    if own < most - 1e-6:
        assert found.gap > 0


def test_a_limit_within_budgets_is_reported(strike):
    graph, variables = network()
    strike(6)
    with pytest.raises(nas.TimeLimitError, match="more utility could be kept") as caught:
        nas.resize(graph, variables, utility=POSITIVE, max_params=0.5)
    found = caught.value.best()
    assert found.gap == caught.value.share > 0
    assert nas.costs(*found).params <= nas.costs(graph, variables).params / 2


def test_growth_to_a_budget_is_cut_short(strike):
    graph, variables = network()
    strike(6)
    found = nas.resize(graph, variables, utility=POSITIVE, max_params=1.5, grow=True, fallback=nas.fallback.accept)
    assert found.gap > 0
    assert not found.plan.axis("a").dropped.size
    assert nas.costs(*found).params <= 1.5 * nas.costs(graph, variables).params


def test_a_limit_is_for_all_choices_together():
    """Each choice of factors that may change is a problem of its own."""
    x = nas.input_vertex("x", 8, shape=(5, 8))
    attention = nas.layer("att", nn.MultiHeadDotProductAttention(num_heads=4, qkv_features=32), x)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(3), attention))
    variables = graph.init(jax.random.key(0), jnp.ones((1, 5, 8)))
    start = time.monotonic()
    try:
        nas.resize(graph, variables, max_params=0.37, time_limit=0.5)
    except nas.TimeLimitError as error:
        assert error.best is None or error.best().gap > 0  # noqa: PT017  it need not strike
    assert time.monotonic() - start < 20


def test_an_edit_that_was_cut_short_has_a_gap(strike):
    x = nas.input_vertex("x", 3)
    a, b, c = (nas.layer(name, nn.Dense(width), x) for name, width in (("a", 4), ("b", 4), ("c", 8)))
    total = (nas.concat("cat", a, b) + c).named("sum")
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), total))
    variables = graph.init(jax.random.key(0), jnp.ones((1, 3)))
    strike(1)
    found = nas.insert_vertex(
        graph, variables, "cat", lambda v: nas.layer("new", nn.Dense(11), v), align="both", fallback=nas.fallback.accept
    )
    assert any("not proven" in note for note in found.notes)
    assert found.gap > 0 or "could be" in found.notes[0]


def test_growth_without_measure_is_refused():
    with pytest.raises(nas.BudgetError, match="max_new="):
        nas.resize(*network(), max_params=10**12, max_new=10**9, grow=True)


def test_a_large_growth_search_ends():
    x = nas.input_vertex("x", 3)
    hidden = nas.layer("b", nn.Dense(8), nas.layer("a", nn.Dense(8), x))
    graph = nas.Graph(x, nas.layer("o", nn.Dense(2), hidden))
    variables = graph.init(jax.random.key(0), jnp.ones((1, 3)))
    found = nas.resize(graph, variables, max_params=10**6, max_new=10**5, grow=True)
    assert 0.9e6 < nas.costs(*found).params <= 10**6
    assert found.gap < 0.05
