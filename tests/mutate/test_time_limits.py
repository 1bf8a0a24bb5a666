"""A limit of time ends a call wherever it strikes: what is computed after it is counted."""

from __future__ import annotations

from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import naivenas_jax as nas
from naivenas_jax.align.problem import deadline
from naivenas_jax.align.program import milp
from naivenas_jax.mutate.request.budget_request import Limits

X = jnp.ones((1, 5))


def network():
    """A chain with a sum and a concatenation in it."""
    x = nas.input_vertex("x", 5, shape=(5,))
    a, b, c = (nas.layer(name, nn.Dense(size), x) for name, size in (("a", 9), ("b", 9), ("c", 7)))
    vertex = nas.concat("cat", (a + b).named("sum"), c)
    for number in range(5):
        vertex = nas.layer(f"d{number}", nn.Dense(8 + number), vertex)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(3), vertex))
    return graph, graph.init(jax.random.key(0), X)


def seconds(graph):
    return 1e-6 * sum(graph.nout(vertex.name) for vertex in graph.vertices)


CALLS = {
    "parameters": lambda *net, **limit: nas.resize(*net, max_params=0.5, **limit),
    "operations and parameters": lambda *net, **limit: nas.resize(*net, max_macs=0.4, max_params=0.6, **limit),
    "multiples": lambda *net, **limit: nas.resize(*net, max_params=0.5, multiple_of=3, **limit),
    "relaxed": lambda *net, **limit: nas.resize(*net, request={"cat": nas.relaxed(-5)}, max_params=0.4, **limit),
    "growth": lambda *net, **limit: nas.resize(*net, max_params=1.7, grow=True, **limit),
    "latency": lambda *net, **limit: nas.resize(*net, max_latency=0.5, latency=seconds, **limit),
    "impossible": lambda *net, **limit: nas.resize(
        *net, request={"a": nas.to(1), "d1": nas.to(9)}, max_params=0.1, **limit
    ),
    "objective": lambda *net, **limit: nas.resize(*net, request={"cat": -3}, minimise=nas.size("a"), **limit),
    "width": lambda *net, **limit: nas.delta_nout(*net, {"cat": nas.relaxed(-9)}, **limit),
    "edit": lambda *net, **limit: nas.remove_edge(*net, "c", "cat", **limit),
}


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by a second whenever it is looked at."""
    made = SimpleNamespace(now=0.0, late=0, solved=0, until=float("inf"))

    def monotonic():
        made.now += 1.0
        made.late += made.now > made.until
        return made.now

    asked = milp.asked

    def counted(*args):
        made.solved += made.now > made.until
        return asked(*args)

    made.monotonic = monotonic
    monkeypatch.setattr(deadline, "time", made)
    monkeypatch.setattr(milp, "asked", counted)
    return made


@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_solved_after_the_limit(clock, name):
    net = network()
    for limit in (1, 4, 9, 20, 45):
        clock.now, clock.late, clock.solved = 0.0, 0, 0
        clock.until = 1 + limit  # the clock is looked at once to begin with
        try:
            CALLS[name](*net, time_limit=float(limit))
        except nas.TimeLimitError as error:
            assert clock.now >= clock.until
            found = None if error.best is None else error.best()
            assert found is None or any("not proven" in note for note in found.notes)
            assert found is None or found.gap >= 0
        except nas.InfeasibleError:
            assert name == "impossible"
        assert clock.solved <= 1  # one may have been asked for the moment before
        assert clock.late <= 12


def test_time_is_kept_for_what_comes_after(clock, monkeypatch):
    """The operations of the result are counted, too, which takes as long as before."""
    counts, budgets = [], Limits.budgets

    def slow(self, *args):
        counts.append(clock.now)
        clock.now += 40.0
        return budgets(self, *args)

    monkeypatch.setattr(Limits, "budgets", slow)
    found = nas.resize(*network(), max_macs=0.5, time_limit=1e6)
    assert len(counts) == 2
    assert found.gap < 1e-3
    clock.now, clock.until = 0.0, 101.0
    with pytest.raises(nas.TimeLimitError):
        nas.resize(*network(), max_macs=0.5, multiple_of=2, time_limit=81.0)
    assert clock.now <= 100.0


def test_operations_are_counted_once_for_all_attempts(monkeypatch):
    calls, budgets = [], Limits.budgets
    monkeypatch.setattr(Limits, "budgets", lambda self, *args: calls.append(args[0]) or budgets(self, *args))
    graph, variables = network()
    nas.resize(graph, variables, max_latency=0.5, latency=seconds, max_macs=0.9)
    assert sum(each == graph for each in calls) == 1


def test_compression_names_the_limit_as_one_of_each_choice(monkeypatch):
    graph, variables = network()
    with pytest.raises(
        nas.TimeLimitError, match=r"for each choice of widths .* fallback=nas.fallback.accept"
    ) as caught:
        nas.compress(graph, variables, [X], max_params=0.5, time_limit=0.0, outcomes=False)
    assert caught.value.best is None
    found = nas.compress(
        graph,
        variables,
        [X],
        max_params=0.5,
        time_limit=0.0,
        fallback=nas.fallback.accept,
        steps=1,
        refine=0,
        outcomes=False,
    )
    assert nas.costs(*found).params <= nas.costs(graph, variables).params / 2
    assert found.gap > 0
