"""Tables of latency against a clock that counts, and limits on latency against every combination of sizes."""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas

IMAGE = jnp.ones((2, 6, 6, 4))


def work(fn, arrays):
    """A clock that shows the multiply-accumulates of a dense product or convolution, from its result."""
    out = jax.eval_shape(fn, *arrays)
    left, right = arrays
    per_entry = left.shape[-1] if right.ndim == 2 else math.prod(right.shape[:-1])
    return float(math.prod(out.shape) * per_entry)


def network():
    x = nas.input_vertex("x", 4, shape=(6, 6, 4))
    wide = nas.layer("wide", nn.Conv(12, (3, 3)), x)
    depthwise = nas.layer("depthwise", nn.Conv(12, (3, 3), feature_group_count=12), wide)
    both = nas.concat("both", depthwise, nas.layer("side", nn.Conv(8, (1, 1)), x))
    mean = nas.invariant_vertex("mean", global_mean, both)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(3), nas.layer("hidden", nn.Dense(16), mean)))
    return graph, graph.init(jax.random.key(0), IMAGE)


def global_mean(x):
    return x.mean((1, 2))


def test_work_is_multilinear_so_that_the_table_is_exact():
    graph, variables = network()
    table = nas.measure_latency(graph, variables, IMAGE, timer=work)
    assert len(table.layers) == 5
    assert table(graph) == nas.costs(graph, variables, IMAGE).macs
    for request in ({"wide": -5}, {"side": -3, "hidden": -7}, {"wide": -10}, {"wide": -11}, {"hidden": 4}):
        graph2, variables2 = nas.delta_nout(graph, variables, request)
        assert table(graph2) == pytest.approx(nas.costs(graph2, variables2, IMAGE).macs, rel=1e-6)


def test_what_is_equal_is_timed_once_and_loops_count():
    calls = []

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            for i in range(3):
                x = nn.tanh(nn.Dense(8, name=f"d{i}")(x))
            return nn.Dense(2, name="head")(nn.RNN(nn.SimpleCell(6), name="rnn")(x))

    x = jnp.ones((2, 5, 8))
    graph, variables = nas.from_linen(Model(), Model().init(jax.random.key(0), x), x)

    def clock(fn, arrays):
        calls.append(tuple(a.shape for a in arrays))
        return 1.0

    table = nas.measure_latency(graph, variables, x, timer=clock, fractions=(0.5, 1.0))
    assert len(calls) == len(set(calls))
    assert sum(layer.times == 5 for layer in table.layers) >= 1
    assert table(graph) == sum(layer.times for layer in table.layers)


def test_a_real_clock():
    graph, variables = network()
    table = nas.measure_latency(graph, variables, IMAGE, fractions=(1.0,))
    assert table(graph) > 0
    smaller = nas.resize(graph, variables, max_latency=0.9, latency=table, inputs=IMAGE)
    assert table(smaller.graph) <= 0.9 * table(graph)


def steps(graph):
    """A function of one's own: sizes cost in steps of four, as on hardware; not smooth, and no sum of products."""
    return sum(math.ceil(graph.nout(name) / 4) * weight for name, weight in (("a", 3.0), ("b", 2.0))) * 1e-6


def dense():
    x = nas.input_vertex("x", 3)
    b = nas.layer("b", nn.Dense(10), nas.layer("a", nn.Dense(12), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), b))
    return graph, graph.init(jax.random.key(0), jnp.ones((1, 3)))


@pytest.mark.parametrize(
    "bound",
    [
        pytest.param(5, marks=pytest.mark.slow),
        7,
        pytest.param(9, marks=pytest.mark.slow),
        12,
        0.5,
        pytest.param(0.8, marks=pytest.mark.slow),
    ],
)
def test_a_function_of_ones_own_is_never_exceeded_and_nothing_more_fits(bound):
    graph, variables = dense()
    scores = {"a": np.linspace(1, 2, 12), "b": np.linspace(1, 2, 10)}
    seconds = bound * 1e-6 if isinstance(bound, int) else bound * steps(graph)
    mutation = nas.resize(graph, variables, max_latency=bound, latency=steps, utility=scores)
    found = {name: mutation.graph.nout(name) for name in scores}
    assert steps(mutation.graph) <= seconds
    assert mutation.gap == math.inf
    assert "nothing is proven" in mutation.notes[-1]
    for name in scores:
        if found[name] < graph.nout(name):
            more = nas.delta_nout(graph, variables, {n: nas.to(s + (n == name)) for n, s in found.items()})
            assert steps(more.graph) > seconds
    best = max(
        sum(np.sort(scores[n])[::-1][:k].sum() for n, k in (("a", a), ("b", b)))
        for a, b in itertools.product(range(1, 13), range(1, 11))
        if (math.ceil(a / 4) * 3 + math.ceil(b / 4) * 2) * 1e-6 <= seconds
    )
    kept = sum(np.sort(scores[n])[::-1][: found[n]].sum() for n in scores)
    assert kept >= 0.7 * best  # no certificate, but no nonsense either


def overhead(fn, arrays):
    """A clock with an overhead, and a root: neither a sum of products nor convex."""
    return 3.0 + work(fn, arrays) ** 0.7


def steps_of_four(fn, arrays):
    left, right = arrays
    return float(math.prod(math.ceil(n / 4) for n in (*left.shape, right.shape[-1])))


CLOCKS = {"work": work, "overhead": overhead, "steps": steps_of_four}


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_of_a_table_the_gap_is_certified(clock, share):
    graph, variables = dense()
    table = nas.measure_latency(graph, variables, jnp.ones((1, 3)), timer=lambda f, a: 1e-6 * CLOCKS[clock](f, a))
    rng = np.random.default_rng(0)
    scores = {"a": rng.uniform(0.2, 1, 12), "b": rng.uniform(0.2, 1, 10)}
    below, best = table.below(), 0.0
    for a, b in itertools.product(range(1, 13), range(1, 11)):
        sizes = {**graph.ties.sizes, "a": a, "b": b}
        seconds, product = table.at(sizes), sum(c * math.prod(sizes[x] for x in f) for f, c in below.terms.items())
        assert product <= seconds * 1e12 * (1 + 1e-9)
        assert product == pytest.approx(seconds * 1e12) or clock != "work"
        if seconds <= share * table(graph):
            best = max(best, sum(np.sort(scores[n])[::-1][:k].sum() for n, k in (("a", a), ("b", b))))
    mutation = nas.resize(graph, variables, max_latency=share, latency=table, utility=scores)
    assert table(mutation.graph) <= share * table(graph)
    kept = sum(np.sort(scores[n])[::-1][: mutation.graph.nout(n)].sum() for n in scores)
    assert kept <= best + 1e-9
    assert kept * (1 + mutation.gap) >= best - 1e-9
    assert mutation.gap < {"work": 1e-6, "overhead": 0.25, "steps": 0.5}[clock]
    assert "nothing is proven" not in mutation.notes[-1]


def test_a_limit_that_does_not_bind_changes_nothing():
    graph, variables = dense()
    mutation = nas.resize(graph, variables, max_latency=1.0, latency=steps)
    assert (mutation.graph, mutation.gap) == (graph, 0.0)


def test_with_other_budgets_and_multiples():
    graph, variables = network()
    table = nas.measure_latency(graph, variables, IMAGE, timer=work)
    before = nas.costs(graph, variables, IMAGE)
    mutation = nas.resize(graph, variables, max_latency=0.5, latency=table, max_params=0.6, multiple_of=4, inputs=IMAGE)
    after = nas.costs(*mutation, IMAGE)
    assert after.macs <= 0.5 * before.macs
    assert after.params <= 0.6 * before.params
    assert all(mutation.graph.nout(name) % 4 == 0 for name in ("wide", "side", "hidden"))
    assert nas.resize(graph, variables, max_latency=1.0, latency=table).graph == graph


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"max_latency": 0.5}, r"max_latency needs latency=: a table, nas.measure_latency"),
        ({"max_latency": -1, "latency": steps}, "whole number of microseconds; found -1"),
        ({"max_latency": 1, "latency": steps}, "No sizes were found with a latency of at most 1e-06 s"),
        ({"max_latency": 2.0, "latency": steps, "grow": True}, "max_latency is for shrinking"),
        ({"max_latency": 0.5, "latency": lambda graph: float("nan")}, "must return seconds.*found nan"),
        ({"max_latency": 0.5, "latency": lambda graph: "soon"}, "must return seconds.*found 'soon'"),
    ],
)
def test_bad_limits(keywords, message):
    with pytest.raises(nas.BudgetError, match=message):
        nas.resize(*dense(), **keywords)
