"""Changes of width where ties are entangled: forks that meet again, stacks of stacks, zig-zags, far-off consequences.

The structures are those that NaiveNASlib tests itself with, with numbers of our own. Every step of every case is
compared with the formulation that has one variable per neuron, run through the oracle and undone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
from reference.network import Network, disagreements
from reference.per_neuron import Wish, optimum, worth_of
from strategies import placeholder_variables, random_inputs

import naivenas_jax as nas
from naivenas_jax.sizes.condition import Condition

x = nas.input_vertex("x", 3, shape=(3,))


def dense(name: str, size: int, *inputs: nas.Vertex) -> nas.Vertex:
    return nas.layer(name, nn.Dense(size), *(inputs or (x,)))


def same(name: str, *inputs: nas.Vertex) -> nas.Vertex:
    """One activation, or a sum."""
    if len(inputs) == 1:
        return nas.invariant_vertex(name, nn.tanh, *inputs)
    first, *rest = inputs
    for vertex in rest[:-1]:
        first = first + vertex
    return (first + rest[-1]).named(name)


def chain(name: str, vertex: nas.Vertex, *sizes: int) -> nas.Vertex:
    for i, size in enumerate(sizes):
        vertex = dense(f"{name}{i}", size, vertex)
    return vertex


def end(*vertices: nas.Vertex) -> nas.Graph:
    """Each read by a layer of its own, so that none of them is an output."""
    return nas.Graph(x, [dense(f"out{i}", 2, vertex) for i, vertex in enumerate(vertices)])


def multiply(weights: Mapping[str, Any], inputs: Any) -> Any:
    return inputs @ weights["w"]


def step(name: str, size: int, by: int, vertex: nas.Vertex = x) -> nas.Vertex:
    """A layer whose sizes, in and out, change by multiples of a number only."""

    def conditions(sizes: Mapping[str, Any]) -> list[Condition]:
        return [nas.multiple_of(sizes["out"] - size, by), nas.multiple_of(sizes["in"] - vertex.nout, by)]

    return nas.absorb_vertex(name, multiply, vertex, nout=size, params={"w": "in out"}, constraints=conditions)


@dataclass(frozen=True)
class Case:
    """A network and requests, one after the other.

    Attributes:
      graph: makes the network.
      steps: a request each, and sizes that must follow from it whatever the utility.
      by: the layers whose sizes change by multiples only.
    """

    graph: Callable[[], nas.Graph]
    steps: list[tuple[dict[str, Any], dict[str, int]]]
    by: dict[str, int] = field(default_factory=dict)


def residual_fork() -> nas.Graph:
    start = dense("start", 9)
    return end(same("add", start, nas.concat("join", chain("p", start, 3, 4), chain("q", start, 4, 5))))


def half_transparent_fork() -> nas.Graph:
    start = dense("start", 9)
    split = dense("split", 4, start)
    return end(same("add", start, nas.concat("join", same("p", split), chain("q", split, 3, 2, 5))))


def transparent_fork() -> nas.Graph:
    start = dense("start", 5)
    return end(nas.concat("join", same("p", start), same("q", start)))


def transparent_residual_fork(*more: int) -> nas.Graph:
    start = dense("start", 10 + sum(more))
    split = dense("split", 5, start)
    paths = [same("p", split), same("q", split), *(dense(f"r{i}", size, split) for i, size in enumerate(more))]
    return end(same("add", start, nas.concat("join", *paths)))


def stack_of_duplicates() -> nas.Graph:
    a, b = dense("a", 6), dense("b", 4)
    return end(nas.concat("outer", nas.concat("inner", b, a), b))


def sum_of_stacks_of_duplicates() -> nas.Graph:
    a, b, c = dense("a", 9), dense("b", 4), dense("c", 5)
    return end(same("sum", nas.concat("left", a, b), nas.concat("right", b, c, b)))


def three_times() -> nas.Graph:
    a = dense("a", 5)
    return end(nas.concat("join", *(same(name, a) for name in "pqr")))


def stack_with_input() -> nas.Graph:
    return end(nas.concat("join", x, dense("a", 6)))


def sum_of_stacks(a: int, b: int, c: int, d: int) -> nas.Graph:
    va, vb, vc, vd = (dense(name, size) for name, size in zip("abcd", (a, b, c, d), strict=True))
    return end(same("sum", nas.concat("left", va, vb, vc), nas.concat("right", vb, va, vb, vd)))


def sum_of_shifted_stacks() -> nas.Graph:
    a, b, c, d = dense("a", 3), dense("b", 4), dense("c", 4), dense("d", 5)
    return end(same("sum", nas.concat("left", a, b, d), nas.concat("right", c, d, a)))


def crossed_stacks(a: int, b: int) -> nas.Graph:
    va, vb = dense("a", a), dense("b", b)
    return end(same("sum", nas.concat("left", va, vb), nas.concat("right", vb, va)))


def two_stacks() -> nas.Graph:
    a, b = dense("a", 4), dense("b", 9)
    return end(nas.concat("join", a, b))


def remote_subtree() -> nas.Graph:
    near = dense("near", 8)
    hop = same("hop", dense("asked", 8), near)
    second = nas.concat("second", dense("before", 3), hop, dense("behind", 4))
    far = nas.concat("far", dense("far_a", 5), dense("far_b", 10))
    return end(nas.concat("twice", near, near), same("meet", far, second))


def all_over_each_other() -> nas.Graph:
    a, b = dense("a", 7), dense("b", 8)
    one, two = (same(name, nas.concat(f"{name}_stack", a, b), nas.concat(f"{name}_again", a, b)) for name in "pq")
    return end(same("sum", one, two))


def invariant_twice() -> nas.Graph:
    a = dense("a", 9)
    return end(same("sum", same("p", a), a))


def duplicates_through_invariants() -> nas.Graph:
    a = step("a", 4, 2)
    p, q = same("p", a), same("q", a)
    return end(nas.concat("outer", same("passed", nas.concat("inner", p, q)), p))


def zig_zag() -> nas.Graph:
    stack = nas.concat("stack", step("a", 2, 2), step("b", 30, 3))
    made, ends, below = [], [], stack
    for i, by in enumerate((5, 7)):
        made.append(step(f"new{i}", 32, by))
        passed = same(f"passed{i}", made[-1])
        ends.append(same(f"sum{i}", passed, below))
        below = passed
    return end(step("last", 9, 3, below), *ends)


def mini_zig_zag() -> nas.Graph:
    a, b = step("a", 30, 2), step("b", 30, 3)
    passed = same("passed", a)
    both = same("both", passed, b)
    twice = nas.concat("twice", both, both)
    return end(step("side", 3, 5, passed), step("last", 4, 7, same("sum", twice, twice)))


def deep_stack() -> nas.Graph:
    stack = nas.concat("stack", dense("a", 8), dense("b", 4))
    left, middle, right = (same(name, stack) for name in ("left", "middle", "right"))
    twice = nas.concat("twice", same("left1", left), same("left2", left))
    return end(nas.concat("all", twice, middle, right, dense("narrow", 5, stack)))


def stacks_of_stacks() -> nas.Graph:
    v1, v2, v3, v4 = (step(f"v{i}", 40, by) for i, by in enumerate((1, 2, 3, 5), 1))
    inner = nas.concat("inner", v2, v3)
    return end(nas.concat("outer", nas.concat("middle", inner, v1), v4, v2))


def two_stacks_in_steps() -> nas.Graph:
    v1, v2, v3 = step("v1", 7, 3), step("v2", 7, 2), step("v3", 8, 2)
    return end(nas.concat("small", v1, v2), nas.concat("large", v3, v2, v1, v2))


def sums_of_sums() -> nas.Graph:
    v1, v2, v3, v4 = (step(f"v{i}", 40, by) for i, by in enumerate((1, 2, 3, 5), 1))
    inner = same("inner", v2, v3)
    return end(step("last", 10, 3, same("outer", same("middle", inner, v1), v4, v2)))


def stack_into_sum() -> nas.Graph:
    v1, v2, v4 = step("v1", 20, 2), step("v2", 30, 3), step("v4", 70, 5)
    return end(step("last", 10, 7, same("sum", v4, nas.concat("stack", v1, v2, v1))))


STEPS = {"a": 2, "b": 3}
FOUR = {"v1": 1, "v2": 2, "v3": 3, "v4": 5}

CASES = {
    "residual fork": Case(
        residual_fork,
        [
            ({"q1": -2}, {"q1": 3}),
            ({"add": +2}, {}),
            ({"start": -3, "p1": 0}, {}),
            ({"join": nas.relaxed(nas.to(1))}, {"add": 2}),  # each of two ways keeps a neuron
        ],
    ),
    "half transparent residual fork": Case(
        half_transparent_fork,
        [({"split": -1}, {"p": 3}), ({"add": +1}, {}), ({"split": +3, "q2": -2}, {})],
    ),
    "transparent fork": Case(
        transparent_fork,
        [({"start": -1}, {"join": 8}), ({"join": +4}, {"start": 6}), ({"join": nas.relaxed(-3)}, {})],
    ),
    "transparent residual fork": Case(
        transparent_residual_fork,
        [({"split": -1}, {"start": 8}), ({"add": +4}, {"split": 6}), ({"start": -2}, {"p": 5, "q": 5})],
    ),
    "transparent residual fork, one way absorbs": Case(
        lambda: transparent_residual_fork(3),
        [({"split": -2}, {"p": 3}), ({"add": +3}, {}), ({"start": -2, "split": 0}, {})],
    ),
    "stack of duplicates": Case(
        stack_of_duplicates,
        [
            ({"outer": -4}, {}),
            ({"outer": +6}, {}),
            ({"inner": nas.relaxed(-2), "b": +3}, {}),
            ({"inner": -2}, {}),
        ],
    ),
    "sum of stacks of duplicates": Case(
        sum_of_stacks_of_duplicates,
        [({"sum": -4}, {}), ({"sum": +6}, {}), ({"left": -2, "right": nas.relaxed(-3)}, {"sum": 13})],
    ),
    "three times the same": Case(three_times, [({"join": nas.relaxed(2)}, {"a": 6}), ({"join": -6}, {"a": 4})]),
    "stack with an input": Case(stack_with_input, [({"a": -4}, {"join": 5}), ({"join": +2}, {"a": 4})]),
    "smaller sum of stacks": Case(lambda: sum_of_stacks(9, 5, 9, 4), [({"sum": -7}, {}), ({"a": +2, "b": -1}, {})]),
    "larger sum of stacks": Case(lambda: sum_of_stacks(3, 4, 6, 2), [({"sum": +6}, {}), ({"d": -1}, {})]),
    "sum of shifted stacks": Case(sum_of_shifted_stacks, [({"sum": +4}, {}), ({"sum": -3}, {}), ({"c": +2}, {})]),
    "crossed stacks of equal sizes": Case(
        lambda: crossed_stacks(5, 5), [({"a": -2}, {"b": 3}), ({"left": +4}, {"a": 5}), ({"b": nas.relaxed(-7)}, {})]
    ),
    "crossed stacks of unequal sizes": Case(
        lambda: crossed_stacks(4, 6), [({"left": nas.relaxed(-3)}, {}), ({"left": nas.relaxed(+5)}, {})]
    ),
    "one grows and its neighbour shrinks": Case(
        two_stacks, [({"join": nas.relaxed(-4), "a": +2, "b": nas.relaxed(0)}, {"a": 6, "join": 9})]
    ),
    "remote subtree": Case(
        remote_subtree,
        [
            ({"asked": -1}, {"near": 7, "twice": 14, "second": 14, "before": 3, "behind": 4}),
            ({"asked": +5}, {"near": 12, "twice": 24, "second": 19, "before": 3, "behind": 4}),
            ({"far_a": -2, "behind": 0}, {}),
        ],
    ),
    "all over each other": Case(all_over_each_other, [({"sum": -4}, {}), ({"a": +3, "b": -2}, {"sum": 12})]),
    "invariant of an invariant": Case(invariant_twice, [({"sum": -3}, {"a": 6, "p": 6}), ({"p": +2}, {"a": 8})]),
    "deep stack": Case(
        deep_stack, [({"all": +8, "narrow": 0}, {"stack": 14}), ({"all": -7}, {}), ({"twice": 4, "all": 0}, {})]
    ),
    "duplicates through invariants": Case(
        duplicates_through_invariants,
        [({"outer": +12}, {"a": 8, "inner": 16}), ({"outer": nas.relaxed(-4)}, {"a": 6})],
        {"a": 2},
    ),
    "zig-zag": Case(
        zig_zag,
        [({"b": +210}, {"stack": 242, "new0": 242, "new1": 242}), ({"stack": nas.relaxed(-40)}, {"stack": 137})],
        {**STEPS, "new0": 5, "new1": 7, "last": 3},
    ),
    "mini zig-zag of duplicates": Case(
        mini_zig_zag,
        [({"twice": +420}, {"a": 240, "passed": 240}), ({"twice": nas.relaxed(-100)}, {"a": 30})],
        {**STEPS, "side": 5, "last": 7},
    ),
    "stacks of stacks": Case(
        stacks_of_stacks,
        [({"outer": -24}, {}), ({"v1": +3}, {}), ({"v2": -12}, {})],
        FOUR,
    ),
    "two stacks in steps": Case(
        two_stacks_in_steps,
        [({"small": -3}, {"v1": 4, "v2": 7}), ({"large": -6}, {}), ({"large": +9}, {})],
        {"v1": 3, "v2": 2, "v3": 2},
    ),
    "sums of sums": Case(
        sums_of_sums,
        [({"outer": -30}, dict.fromkeys(FOUR, 10)), ({"v1": +60}, dict.fromkeys(FOUR, 70)), ({"v2": -30}, {"v1": 40})],
        {**FOUR, "last": 3},
    ),
    "stack into a sum": Case(
        stack_into_sum, [({"sum": +420}, {"v4": 490, "stack": 490}), ({"sum": nas.relaxed(-200)}, {})],
        {"v1": 2, "v2": 3, "v4": 5, "last": 7},
    ),
}  # fmt: skip

UTILITIES = {
    "equal": lambda draw, size: np.ones(size),
    "random": lambda draw, size: draw.uniform(0.1, 1.0, size),
    "tempting": lambda draw, size: np.where(np.arange(size) % 3 == 0, 100.0, 0.01),
}


def scores(graph: nas.Graph, variables: Mapping[str, Any], kind: str) -> dict[str, np.ndarray]:
    """For all vertices that make neurons of their own."""
    draw = np.random.default_rng(0)
    return {name: UTILITIES[kind](draw, graph.nout(name)) for name in sorted(variables["params"])}


def rows_of(graph: nas.Graph, by: Mapping[str, int]) -> list[Condition]:
    """The conditions of the layers of `step`, by the names of vertices."""
    rows = []
    for name, number in by.items():
        (source,) = graph.inputs_of(name)
        rows += [nas.multiple_of(nas.size(axis) - graph.nout(axis), number) for axis in (name, source)]
    return rows


def agrees(mutation: nas.Mutation, request: Mapping[str, Any], utility: Any, rows: list[Condition]) -> None:
    """The answer is as good as that of the formulation with one variable per neuron, in every step of the order."""
    graph, plan = mutation.before, mutation.plan
    wanted = optimum(graph, request, utility, least_change=True, conditions=rows)
    assert wanted.feasible
    sizes = {axis: change.after for axis, change in plan.axes.items()}
    wishes = [Wish.of(axis, graph.nout(axis), asked) for axis, asked in request.items()]
    assert all(sizes[wish.axis] == wish.size for wish in wishes if wish.exact)
    assert sum(abs(sizes[wish.axis] - wish.size) for wish in wishes if not wish.exact) == wanted.distance
    assert all(row.holds(sizes) for row in rows)
    kept = {axis: change.kept for axis, change in plan.axes.items()}
    assert worth_of(kept, utility) == pytest.approx(wanted.utility, rel=1e-6)
    if not Network.of(graph).repeats():  # the reference counts a neuron once for each place on an axis
        assert sum(len(axis.dropped) + len(axis.new) for axis in plan.axes.values()) == wanted.changes
    assert disagreements(graph, plan) == []


@pytest.mark.parametrize("kind", UTILITIES)
@pytest.mark.parametrize("name", CASES)
def test_widths(name: str, kind: str):
    case = CASES[name]
    graph = case.graph()
    variables, inputs = placeholder_variables(graph), random_inputs(graph)
    rows = rows_of(graph, case.by)
    for request, sizes in case.steps:
        utility = scores(graph, variables, kind)
        try:
            mutation = nas.delta_nout(graph, variables, request, utility=utility)
        except nas.InfeasibleError:
            assert not sizes
            assert not optimum(graph, request, utility, conditions=rows).feasible
            continue
        agrees(mutation, request, utility, rows)
        assert {axis: mutation.graph.nout(axis) for axis in sizes} == sizes
        if kind == "random":  # what a number of neurons computes does not depend on why they were chosen
            assert mutation.check(*inputs).compared
            before, restored = mutation.undo(mutation.variables)
            assert before == graph
            assert jax.tree.all(jax.tree.map(np.array_equal, restored, variables))
        graph, variables = mutation


#: What cannot be had exactly: the network, the request, and the sizes of which one is the nearest.
IMPOSSIBLE = {
    "three times the same": (three_times, {"join": 2}, {"join": {18}}),
    "both sides of a sum": (transparent_residual_fork, {"start": -1}, {"start": {8, 10}}),
    "two ways to say the same": (invariant_twice, {"a": -1, "p": -2}, {"a": {7, 8}, "p": {7, 8}}),
    "a fork that needs even sizes": (transparent_fork, {"join": 3}, {"join": {12, 14}}),
    "layers in steps": (stack_into_sum, {"v1": 1}, {"v1": {20, 22}}),
    "both of crossed stacks": (lambda: crossed_stacks(5, 5), {"a": -1, "b": 1}, {"a": {4, 5, 6}, "b": {4, 5, 6}}),
    "a stack beyond the one that feeds it": (stack_with_input, {"join": -3, "a": 0}, {"join": {6, 7, 8, 9}}),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_cannot_be_had_is_refused_with_the_nearest_sizes(name: str):
    make, request, nearest = IMPOSSIBLE[name]
    graph = make()
    variables = placeholder_variables(graph)
    with pytest.raises(nas.InfeasibleError) as caught:
        nas.delta_nout(graph, variables, request)
    found = caught.value.nearest
    assert all(found[axis] in sizes for axis, sizes in nearest.items())
    mutation = nas.delta_nout(graph, variables, {axis: nas.to(size) for axis, size in found.items()})
    assert {axis: mutation.graph.nout(axis) for axis in found} == found
    relaxed = {axis: nas.relaxed(change) for axis, change in request.items()}
    rows = rows_of(graph, CASES["stack into a sum"].by) if make is stack_into_sum else []
    agrees(nas.delta_nout(graph, variables, relaxed, utility={}), relaxed, {}, rows)


def test_by_the_inputs_of_a_sum_and_of_a_stack():
    graph = sum_of_stacks_of_duplicates()
    net = graph, placeholder_variables(graph)
    with pytest.raises(nas.InfeasibleError):
        nas.delta_nin(*net, {"sum": (-1, 0)})
    smaller = nas.delta_nin(*net, {"sum": (-2, nas.relaxed(-2))})
    assert smaller.graph.nin("sum") == (11, 11)
    one = nas.delta_nin(*net, {"right": (-1, None, -1)})  # the same vertex twice
    assert one.graph.nin("right")[0] == one.graph.nin("right")[2] == 3
    with pytest.raises(nas.RequestError):
        nas.delta_nin(*net, {"right": (-1, None, -2)})


def test_growth_keeps_the_function_through_every_fork():
    """Whatever is made of the new neurons: what reads them starts at zero."""
    for name in ("transparent residual fork", "larger sum of stacks"):
        graph = CASES[name].graph()
        variables, inputs = placeholder_variables(graph), random_inputs(graph)
        asked = graph.inputs_of("out0")[0]
        mutation = nas.delta_nout(graph, variables, {asked: nas.relaxed(+4)})
        assert mutation.graph.nout(asked) > graph.nout(asked)
        assert not any(axis.dropped.size for axis in mutation.plan.axes.values())
        old, new = graph.apply(variables, *inputs), mutation.graph.apply(mutation.variables, *inputs)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), old, new)


def test_small_utility_out_of_reach_does_not_tempt():
    """Neurons of negative utility, which nothing that is asked for reaches, stay."""
    a = dense("a", 4)
    b = dense("b", 6, a)
    graph = end(dense("c", 3, b), dense("d", 5, b))
    mutation = nas.delta_nout(graph, placeholder_variables(graph), {"a": 2}, utility={"b": np.arange(-3.0, 3.0)})
    assert set(mutation.plan.changed) == {"a"}


def test_an_input_does_not_change_however_little_it_is_worth():
    graph = stack_with_input()
    utility = {"join": np.r_[-3.0, -3.0, -3.0, np.arange(6.0)], "a": np.arange(6.0)}
    mutation = nas.delta_nout(graph, placeholder_variables(graph), {"a": -3}, utility=utility)
    assert mutation.graph.nin("join") == (3, 3)
    assert mutation.indices("join").tolist() == [0, 1, 2, 6, 7, 8]
