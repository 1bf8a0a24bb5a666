"""The reduced problem as text, and the utility of a group; no solver is involved."""

from __future__ import annotations

from dataclasses import replace

import flax.linen as nn
import numpy as np
import pytest
from hypothesis import given, strategies as st
from strategies import global_mean, low_rank, max_pool

import naivenas_jax as nas
from naivenas_jax.align.problem.problem import Group, Problem
from naivenas_jax.align.problem.reduction import Reduction
from naivenas_jax.align.problem.request import Target
from naivenas_jax.align.problem.restrictions import Restrictions
from naivenas_jax.align.program.concave_utility import segments


def dense(name, size, vertex):
    return nas.layer(name, nn.Dense(size), vertex)


def chain():
    x = nas.input_vertex("x", 3)
    return nas.Graph(x, dense("out", 2, nas.invariant_vertex("act", nn.relu, dense("hidden", 8, x))))


def residual():
    x = nas.input_vertex("x", 4)
    first = dense("first", 4, x)
    return nas.Graph(x, dense("out", 2, (first + dense("second", 4, first)).named("sum")))


def stacked():
    x = nas.input_vertex("x", 3)
    a, b = dense("a", 4, x), dense("b", 2, x)
    return nas.Graph(x, dense("out", 2, nas.concat("cat", a, b, a)))


def crossed():
    """A concatenation added to a single layer: that layer is cut in two."""
    x = nas.input_vertex("x", 3)
    cat = nas.concat("cat", dense("a", 4, x), dense("b", 2, x))
    return nas.Graph(x, dense("out", 2, (cat + dense("c", 6, x)).named("sum")))


def image():
    x = nas.input_vertex("x", 1, shape=(4, 4, 1))
    conv = nas.invariant_vertex("pool", max_pool, nas.layer("conv", nn.Conv(5, (3, 3)), x))
    norm = nas.layer("norm", nn.BatchNorm(), conv)
    flat = nas.flatten("flat", nas.layer("depthwise", nn.Conv(5, (3, 3), feature_group_count=5), norm))
    both = nas.concat("both", flat, nas.invariant_vertex("mean", global_mean, conv))
    return nas.Graph(x, dense("out", 2, both))


def nested():
    inside = nas.input_vertex("in", 4)
    block = nas.Graph(inside, (dense("second", 4, dense("first", 6, inside)) + inside).named("residual"))
    x = nas.input_vertex("x", 3)
    return nas.Graph(x, dense("out", 2, nas.layer("block", block, dense("stem", 4, x))))


def factored():
    x = nas.input_vertex("x", 3)
    params = {"down": "in r", "up": "r out"}
    return nas.Graph(x, nas.absorb_vertex("y", low_rank, x, nout=5, params=params, inner={"r": 2}))


def frozen():
    x = nas.input_vertex("x", 3)
    still = nas.immutable_vertex("still", lambda x: x[..., ::2], dense("before", 4, x))
    return nas.Graph(x, dense("out", 2, dense("after", 3, still)))


ROWS = {
    chain: """
        x: g0 = 3
        hidden: g1 = 8
        out: g2 = 2
        g0 of 3
        g1 of 8
        g2 of 2""",
    residual: """
        x: g0 = 4
        first: g1 = 4
        out: g2 = 2
        g0 of 4
        g1 of 4
        g2 of 2""",
    stacked: """
        x: g0 = 3
        a: g1 = 4
        b: g2 = 2
        cat: 2 g1 + g2 = 10
        out: g3 = 2
        g0 of 3
        g1 of 4
        g2 of 2
        g3 of 2""",
    crossed: """
        x: g0 = 3
        a: g1 = 4
        b: g2 = 2
        cat: g1 + g2 = 6
        out: g3 = 2
        g0 of 3
        g1 of 4
        g2 of 2
        g3 of 2""",
    image: """
        x: g0 = 1
        conv: g1 = 5
        flat: 16 g1 = 80
        both: 17 g1 = 85
        out: g2 = 2
        g0 of 1
        g1 of 5
        g2 of 2""",
    nested: """
        x: g0 = 3
        stem: g1 = 4
        block/first: g2 = 6
        out: g3 = 2
        g0 of 3
        g1 of 4
        g2 of 6
        g3 of 2""",
    factored: """
        x: g0 = 3
        y:r: g1 = 2
        y: g2 = 5
        g0 of 3
        g1 of 2
        g2 of 5""",
    frozen: """
        x: g0 = 3
        before: g1 = 4
        still: g2 = 2
        after: g3 = 3
        out: g4 = 2
        g0 of 3
        g1 of 4, fixed: 'still' is immutable
        g2 of 2, fixed: 'still' is immutable
        g3 of 3
        g4 of 2""",
}


def lines(text):
    return [line.strip() for line in text.strip().splitlines()]


def reduced(ties, targets=(), utility=None, **restrictions) -> Problem:
    return Reduction(ties, targets, utility or {}, Restrictions(**restrictions)).problems()[0]


@pytest.mark.parametrize("make", ROWS, ids=lambda make: make.__name__)
def test_rows(make):
    assert lines(str(reduced(make().ties))) == lines(ROWS[make])


def test_requests_bounds_and_reasons_are_shown():
    problem = reduced(
        stacked().ties,
        [Target("cat", 10, 7), Target("b", 2, 5, exact=False)],
        {},
        frozen={"x": "it is an input"},
        reached=["a", "b", "cat"],
        equal=[("a", "b"), ("cat", "cat")],
    )
    assert lines(str(problem)) == lines(
        """
        a: g1 = 4
        b: g2 = 2
        cat: 2 g1 + g2 = 10
        g0 of 5, fixed: no request reaches it
        g1 of 4
        g2 of 2
        ask 'cat' = 7 (now 10)
        ask 'b' about 5 (now 2)
        a = b"""
    )


def test_axes_that_hold_the_same_share_a_row_and_its_bounds():
    problem = reduced(chain().ties, (), {}, least={"act": 3}, insertable={"hidden": 7, "act": 9})
    assert problem.names == (("x",), ("hidden", "act"), ("out",))
    assert problem.least.tolist() == [1, 3, 1]
    assert problem.insertable[1] == 7


def test_utility_of_tied_neurons_adds_up():
    problem = reduced(residual().ties, (), {"first": np.array([4.0, 0, 1, 2]), "second": np.array([0.0, 3, 0, 0])})
    group = problem.groups[1]
    assert group.utility.tolist() == [4, 3, 2, 1]
    assert group.classes[group.best].tolist() == [4, 5, 7, 6]
    assert group.utility_kept.tolist() == [0, 4, 7, 9, 10]


def test_equal_utilities_prefer_the_earlier():
    problem = reduced(chain().ties, (), {"hidden": np.array([1.0, 2, 1, 2, 1, 1, 1, 1])})
    assert problem.groups[1].best.tolist() == [1, 3, 0, 2, 4, 5, 6, 7]


def test_utility_in_a_stack_counts_every_place():
    problem = reduced(stacked().ties, (), {"cat": np.array([1.0, 1, 1, 1, 0, 0, 10, 20, 30, 40])})
    assert problem.groups[1].utility.tolist() == [41, 31, 21, 11]


def group_of(scores):
    ordered = np.sort(np.asarray(scores, float))[::-1]
    return Group(classes=np.arange(len(ordered)), scores=ordered, fixed=None)


def filled(lengths, slopes, k):
    """The value of k units poured into the segments, best first."""
    value, left = 0.0, float(k)
    for length, slope in zip(lengths, slopes, strict=True):
        used = min(length, left)
        value, left = value + used * slope, left - used
    assert left < 1e-9
    return value


scores = st.lists(
    st.one_of(st.integers(-3, 3).map(float), st.floats(-2, 2).map(lambda x: round(x, 3))), min_size=1, max_size=40
)


@given(scores, st.integers(3, 20), st.lists(st.integers(0, 40), max_size=3))
def test_segments_lie_on_or_above_the_utility(values, count, focus):
    group = group_of(values)
    focus = tuple(min(point, group.size) for point in focus)
    lengths, slopes = segments(group, focus, count)
    assert lengths.shape == slopes.shape == (count,)
    assert (lengths >= 0).all()
    assert lengths.sum() == pytest.approx(group.size)
    assert (np.diff(slopes) <= 0).all()
    heights = np.array([filled(lengths, slopes, k) for k in range(group.size + 1)])
    assert (heights >= group.utility_kept - 1e-9).all()
    exact = {0, group.size} if group.size > count else set(range(group.size + 1))
    if count >= 5:
        exact |= set(focus[-1:])  # the latest of the points in focus is always drawn
    for point in exact:
        assert heights[point] == pytest.approx(group.utility_kept[point], abs=1e-9)


@given(scores)
def test_own_best_is_the_most_with_the_largest_utility(values):
    group = group_of(values)
    best = group.own_best
    assert group.utility_kept[best] == pytest.approx(group.utility_kept.max(), abs=1e-9)
    # zeros are kept: of equally good choices the one that changes least
    assert best == sum(value >= 0 for value in values)


def test_fixed_groups_are_kept_whatever_their_utility():
    group = group_of([-1.0, -2.0])
    assert replace(group, fixed="reason").own_best == 2
