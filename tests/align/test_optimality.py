"""The reduced problem against the formulation with one variable per neuron, on random networks."""

from __future__ import annotations

import random

import flax.linen as nn
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from reference.network import Network, disagreements
from reference.per_neuron import Wish, optimum, worth_of
from strategies import placeholder_variables, random_graph, random_request, random_utility

import naivenas_jax as nas


def change(graph, request, utility, *, everything, free_outputs):
    variables = placeholder_variables(graph)
    keywords = {"utility": utility, "new": "zeros", "free_outputs": free_outputs}
    if everything:  # the reference may insert, which resize by itself does only when asked
        return nas.resize(graph, variables, request=request, max_new=lambda axis: None, **keywords)
    return nas.delta_nout(graph, variables, request, **keywords)


def compare(graph, request, utility, *, everything=False, free_outputs=False):
    """Ours and the reference must agree; returns the plan, or None where there is no solution."""
    how = {"everything": everything, "free_outputs": free_outputs}
    wanted = optimum(graph, request, utility, **how)
    if not wanted.feasible:
        with pytest.raises(nas.InfeasibleError) as caught:
            change(graph, request, utility, **how)
        assert set(caught.value.conflicts) <= set(request)
        if caught.value.nearest:
            nearest = {axis: nas.to(size) for axis, size in caught.value.nearest.items()}
            assert set(nearest) == set(request)
            change(graph, nearest, utility, **how)
        else:
            elastic = {axis: nas.relaxed(nas.to(graph.ties.size(axis))) for axis in request}
            assert not optimum(graph, elastic, utility, **how).feasible
        return None
    plan = change(graph, request, utility, **how).plan
    sizes = {axis: change.after for axis, change in plan.axes.items()}
    wishes = [Wish.of(axis, graph.ties.size(axis), asked) for axis, asked in request.items()]
    assert all(sizes[wish.axis] == wish.size for wish in wishes if wish.exact)
    assert sum(abs(sizes[wish.axis] - wish.size) for wish in wishes if not wish.exact) == wanted.distance
    kept = {axis: change.kept for axis, change in plan.axes.items()}
    assert worth_of(kept, utility) == pytest.approx(wanted.utility, rel=1e-6, abs=1e-6)
    assert disagreements(graph, plan) == []
    untouched = set(plan.axes) if everything else Network.of(graph).reach(request)
    assert set(plan.changed) <= untouched
    return plan


seeds = st.randoms(use_true_random=False)


@given(seeds)
@settings(max_examples=250)
def test_requests(rng):
    graph = random_graph(rng)
    compare(graph, random_request(rng, graph), random_utility(rng, graph), free_outputs=rng.random() < 0.5)


@given(seeds)
@settings(max_examples=100)
def test_utility_decides(rng):
    graph = random_graph(rng)
    request = random_request(rng, graph, most=2) if rng.random() < 0.5 else {}
    utility = random_utility(rng, graph)
    compare(graph, request, utility, everything=True, free_outputs=rng.random() < 0.5)


@pytest.mark.parametrize("seed", range(60))
def test_larger_groups(seed):
    """More neurons in a group than segments of its worth, so that segments are refined."""
    rng = random.Random(seed)
    graph = random_graph(rng, steps=(4, 10), images=False, sizes=(25, 60))
    request = random_request(rng, graph, kinds="er")
    scaled = {axis: 20 * asked if isinstance(asked, int) and asked > 0 else asked for axis, asked in request.items()}
    compare(graph, scaled, random_utility(rng, graph), everything=seed % 2 == 0)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_scale_of_utility(seed, scale):
    rng = random.Random(seed)
    graph = random_graph(rng, images=False)
    utility = {axis: scale * scores for axis, scores in random_utility(rng, graph).items()}
    compare(graph, random_request(rng, graph), utility, everything=seed % 2 == 0)


@pytest.mark.parametrize("seed", range(40))
def test_utilities_of_many_magnitudes(seed):
    rng = random.Random(1000 + seed)
    graph = random_graph(rng, images=False)
    spread = np.random.default_rng(seed)
    utility = {
        axis: scores * 10.0 ** spread.uniform(-4, 4, len(scores)) for axis, scores in random_utility(rng, graph).items()
    }
    compare(graph, random_request(rng, graph), utility, everything=seed % 2 == 0)


@pytest.mark.parametrize("seed", range(60))
def test_same_question_same_answer(seed):
    """Zero and equal utilities leave much open; the answer is the same all the same."""
    rng = random.Random(seed)
    graph = random_graph(rng, images=False)
    request = random_request(rng, graph)
    utility = {axis: np.full(graph.ties.size(axis), rng.choice([0.0, 1.0])) for axis in graph.ties.axes}
    answers = [answer(graph, request, scores) for scores in (utility, dict(reversed(utility.items())))]
    assert answers[0] == answers[1]


def answer(graph, request, utility):
    try:
        return change(graph, request, utility, everything=False, free_outputs=True).plan
    except nas.InfeasibleError as error:
        return str(error)


@pytest.mark.parametrize("seed", range(150))
def test_nothing_changes_without_need(seed):
    """As few neurons are dropped and inserted as the utility allows; none is dropped to make room for a new one."""
    rng = random.Random(seed)
    graph = random_graph(rng, images=False)
    request, utility = random_request(rng, graph), random_utility(rng, graph)
    how = {"everything": seed % 2 == 0, "free_outputs": True}
    wanted = optimum(graph, request, utility, least_change=True, **how)
    if Network.of(graph).repeats() or not wanted.feasible:
        return  # a neuron that an axis holds twice counts once there, which the reference does not know
    plan = change(graph, request, utility, **how).plan
    assert sum(len(axis.dropped) + len(axis.new) for axis in plan.axes.values()) == wanted.changes


def test_what_is_dropped_is_not_replaced():
    x = nas.input_vertex("x", 3)
    a = nas.layer("a", nn.Dense(8), x)
    b = nas.layer("b", nn.Dense(6), x)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.concat("cat", a, b)))
    utility = {"a": np.array([1, 1, 1, -1, -1, -1, 1, 1])}
    plan = nas.resize(graph, placeholder_variables(graph), utility=utility, request={"cat": nas.relaxed(-2)}).plan
    assert plan.axes["cat"].after == 12
    assert len(plan.axes["a"].dropped) == 3
    assert sum(len(plan.axes[name].new) for name in "ab") == 1


def test_what_cannot_change_does_not_drown_the_rest():
    x = nas.input_vertex("x", 3)
    pair = [nas.layer(name, nn.Dense(4), x) for name in "ab"]
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.concat("cat", *pair)))
    utility = {"out": np.full(2, 1e12), "a": np.array([4.0, 1, 3, 2]), "b": np.array([2.5, 5, 6, 7])}
    plan = nas.delta_nout(graph, placeholder_variables(graph), {"cat": -3}, utility=utility).plan
    assert plan.axes["a"].kept.tolist() == [0, 2]
    assert plan.axes["b"].kept.tolist() == [1, 2, 3]


@pytest.mark.parametrize("seed", range(20))
def test_tied_axes_pulled_both_ways(seed):
    """Smaller and larger are equally near, so what is kept decides."""
    x = nas.input_vertex("x", 3)
    a, b = (nas.layer(name, nn.Dense(2), x) for name in "ab")
    first = nas.invariant_vertex("first", nn.relu, a + b)
    second = nas.invariant_vertex("second", nn.relu, first + a)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.invariant_vertex("third", nn.relu, second + b)))
    spread = np.random.default_rng(seed)
    utility = {axis: spread.uniform(-0.2, 1, graph.nout(axis)) for axis in ("a", "b")}
    compare(graph, {"second": nas.relaxed(1), "first": nas.relaxed(-1)}, utility)
