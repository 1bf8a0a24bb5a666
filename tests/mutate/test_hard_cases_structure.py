"""Changes of structure where sizes are hard to bring in line: layers in steps, inputs, sums, scores that go along."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
from strategies import placeholder_variables, random_inputs

import naivenas_jax as nas
from naivenas_jax.sizes.condition import Condition

x = nas.input_vertex("x", 3, shape=(3,))


def dense(name: str, size: int, vertex: nas.Vertex = x) -> nas.Vertex:
    return nas.layer(name, nn.Dense(size), vertex)


def multiply(weights: Mapping[str, Any], inputs: Any) -> Any:
    return inputs @ weights["w"]


def step(name: str, size: int, by: int, vertex: nas.Vertex = x) -> nas.Vertex:
    """A layer whose sizes, in and out, change by multiples of a number only."""

    def conditions(sizes: Mapping[str, Any]) -> list[Condition]:
        return [nas.multiple_of(sizes["out"] - size, by), nas.multiple_of(sizes["in"] - vertex.nout, by)]

    return nas.absorb_vertex(name, multiply, vertex, nout=size, params={"w": "in out"}, constraints=conditions)


def end(*vertices: nas.Vertex) -> nas.Graph:
    return nas.Graph(x, [dense(f"out{i}", 2, vertex) for i, vertex in enumerate(vertices)])


def total(a: nas.Vertex, b: nas.Vertex) -> nas.Vertex:
    return (a + b).named("join")


@dataclass(frozen=True)
class Case:
    """An edit, the steps of the layers, and the sizes that there must be."""

    graph: Callable[[], nas.Graph]
    edit: Callable[..., nas.Mutation]
    sizes: dict[str, int]


def join(source: str, **keywords: Any) -> Callable[..., nas.Mutation]:
    return lambda *net: nas.create_edge(*net, source, "join", **keywords)


def cut(source: str, **keywords: Any) -> Callable[..., nas.Mutation]:
    return lambda *net: nas.remove_edge(*net, source, "join", **keywords)


def remove(name: str, **keywords: Any) -> Callable[..., nas.Mutation]:
    return lambda *net: nas.remove_vertex(*net, name, **keywords)


def stack_read_in_steps() -> nas.Graph:
    stack = nas.concat("join", step("a", 8, 2))
    return end(step("five", 5, 5, stack), step("seven", 7, 7, stack), step("b", 6, 3))


def stack_of_one() -> nas.Graph:
    return end(step("five", 5, 5, nas.concat("join", step("a", 8, 2))))


def sum_read_in_steps() -> nas.Graph:
    return end(step("five", 5, 5, total(step("a", 8, 2), dense("c", 8))), step("b", 6, 3))


def sum_that_may_be_an_input() -> nas.Graph:
    return end(step("six", 5, 6, total(step("a", 9, 3), dense("c", 9))))


def stack_to_be_cut() -> nas.Graph:
    b = step("b", 6, 3)
    return end(step("three", 5, 3, nas.concat("join", step("a", 8, 5), b)), step("seven", 7, 7, b))


def stack_with_input_to_be_cut() -> nas.Graph:
    return end(step("two", 5, 2, nas.concat("join", x, step("a", 8, 2))))


def between_steps() -> nas.Graph:
    return end(step("c", 4, 3, dense("b", 5, step("a", 10, 2))))


def transparent_between_steps() -> nas.Graph:
    return end(step("c", 4, 3, nas.concat("b", step("a", 10, 2))))


EDITS = {
    "to a stack, every size in steps": Case(stack_read_in_steps, join("b"), {"join": 78, "b": 6}),  # 8 + 2 * 35
    "to a stack, every size in steps, both": Case(stack_read_in_steps, join("b", align="both"), {"join": 43}),
    "an input to a stack in steps": Case(stack_of_one, join("x"), {"join": 13, "a": 10, "x": 3}),
    "to a sum, every size in steps": Case(sum_read_in_steps, join("b"), {"join": 18, "a": 18, "b": 18, "c": 18}),
    "an input to a sum in steps": Case(sum_that_may_be_an_input, join("x"), {"join": 3, "a": 3, "c": 3, "x": 3}),
    "from a stack in steps": Case(stack_to_be_cut, cut("b"), {"join": 8, "a": 8, "b": 6}),
    "from a stack, an input is left": Case(stack_with_input_to_be_cut, cut("a"), {"join": 3}),
    "a layer between two in steps": Case(between_steps, remove("b"), {"a": 14}),  # 10 + 2 * 2, 5 + 3 * 3
    "a stack of one between two in steps": Case(transparent_between_steps, remove("b"), {"a": 10}),
}


@pytest.mark.parametrize("name", EDITS)
def test_edits_between_layers_in_steps(name: str):
    case = EDITS[name]
    graph = case.graph()
    variables, inputs = placeholder_variables(graph), random_inputs(graph)
    mutation = case.edit(graph, variables)
    assert {axis: mutation.graph.nout(axis) for axis in case.sizes} == case.sizes
    for vertex in mutation.graph:
        assert vertex.nin == tuple(source.nout for source in vertex.inputs)
    mutation.check(*inputs)
    before, restored = mutation.undo(mutation.variables)
    assert before == graph
    assert jax.tree.all(jax.tree.map(np.array_equal, restored, variables))


def sum_of_odd_steps() -> nas.Graph:
    return end(total(step("a", 8, 3), dense("c", 8)))


def stack_of_even_steps() -> nas.Graph:
    return end(step("two", 4, 2, nas.concat("join", step("a", 8, 2), dense("b", 11))))


def frozen_stack() -> nas.Graph:
    return end(nas.immutable_vertex("frozen", nn.softmax, nas.concat("join", dense("a", 8))), dense("b", 5))


def frozen_pair() -> nas.Graph:
    return end(nas.immutable_vertex("frozen", nn.softmax, nas.concat("join", dense("a", 8), dense("b", 5))))


def frozen_sum() -> nas.Graph:
    return end(nas.immutable_vertex("frozen", nn.softmax, total(dense("a", 8), dense("c", 8))))


def loop() -> nas.Graph:
    """half (3) and rest (2) make up what is added to what both are made of (5)."""
    top = dense("top", 5)
    passed = nas.invariant_vertex("passed", nn.tanh, top)
    parts = nas.concat("parts", dense("half", 3, passed), dense("rest", 2, passed))
    return end((parts + top).named("join"))


def stack_beside_itself() -> nas.Graph:
    b = dense("b", 4)
    return end(nas.concat("join", dense("a", 4)) + b)


def doubled_on_both_sides() -> nas.Graph:
    """What is added at the end of one stack has to be in the middle of both, and so twice at its own end."""
    a, b = dense("a", 5), dense("b", 5)
    return end(nas.concat("join", a, a) + nas.concat("other", b, b))


IMPOSSIBLE = {
    "an input to a sum whose steps miss it": (sum_of_odd_steps, join("x")),
    "from a stack, what is left has the wrong parity": (stack_of_even_steps, cut("b")),
    "to a stack that a fixed vertex reads": (frozen_stack, join("b")),
    "from a stack that a fixed vertex reads": (frozen_pair, cut("b")),
    "an input to a sum that a fixed vertex reads": (frozen_sum, join("x")),
    "to a sum that holds all of it and more": (loop, join("half")),
    "a layer whose input would be part of itself": (loop, remove("half")),
    "a layer between two in steps, growing only": (between_steps, remove("b", align="grow")),
    "a layer between two in steps, shrinking only": (between_steps, remove("b", align="shrink")),
    "to a stack of twice the same, beside another": (doubled_on_both_sides, join("x")),
    "to a stack that is added to the same": (stack_beside_itself, join("b")),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_edits_are_refused_and_leave_everything(name: str):
    make, edit = IMPOSSIBLE[name]
    graph = make()
    variables = placeholder_variables(graph)
    copies = jax.tree.map(np.array, variables)
    with pytest.raises(nas.InfeasibleError):
        edit(graph, variables)
    assert jax.tree.all(jax.tree.map(np.array_equal, variables, copies))


def test_an_impossible_edit_can_be_logged_and_left_out(caplog: pytest.LogCaptureFixture):
    graph = sum_of_odd_steps()
    variables = placeholder_variables(graph)
    with caplog.at_level(logging.WARNING, "naivenas_jax"):
        mutation = nas.create_edge(graph, variables, "x", "join", fallback=[nas.fallback.warn, nas.fallback.keep])
    assert mutation.graph == graph
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_linear_network_is_taken_apart():
    """Each layer that goes makes its neighbours as wide as each other; the input never changes."""
    graph = end(dense("d", 6, dense("c", 4, dense("b", 7, dense("a", 5)))))
    net = graph, placeholder_variables(graph)
    inputs = random_inputs(graph)
    for name, before in (("c", "b"), ("b", "a"), ("a", "x"), ("d", "x")):
        mutation = nas.remove_vertex(*net, name)
        reader = mutation.graph.outputs_of(before)[0]
        assert mutation.graph.nin(reader) == (mutation.graph.nout(before),)
        assert mutation.graph.nout("x") == 3
        mutation.check(*inputs)
        net = tuple(mutation)
    assert [vertex.name for vertex in net[0]] == ["x", "out0"]


def test_a_fork_grows_and_goes_again():
    """Inserted between, joined, cut and removed: undo goes back through all of it."""
    graph = end(total(dense("a", 4), dense("b", 4)), dense("c", 3))
    variables, inputs = placeholder_variables(graph), random_inputs(graph)
    edits: list[Callable[..., nas.Mutation]] = [
        lambda *net: nas.insert_vertex(*net, "a", lambda v: nas.concat("fork", v, dense("new", 2, v))),
        lambda *net: nas.create_edge(*net, "c", "fork"),
        lambda *net: nas.delta_nout(*net, {"join": nas.relaxed(+3)}),
        lambda *net: nas.remove_edge(*net, "a", "fork"),
        lambda *net: nas.remove_vertex(*net, "new"),
        lambda *net: nas.remove_vertex(*net, "fork"),
    ]
    net, done = (graph, variables), []
    for edit in edits:
        done.append(edit(*net))
        done[-1].check(*inputs)
        net = tuple(done[-1])
    assert all(vertex.nin == tuple(source.nout for source in vertex.inputs) for vertex in net[0])
    back = net[1]
    for mutation in reversed(done):
        before, back = mutation.undo(back)
    assert before == graph
    assert jax.tree.all(jax.tree.map(np.array_equal, back, variables))


def maze() -> nas.Graph:
    """A stack that reads another one three times over, directly and through two more."""
    first = nas.concat("join", dense("a", 4))
    return end(nas.concat("all", first, nas.concat("p", first), nas.concat("q", first)), dense("b", 3))


def test_averages_of_scores_go_along_with_edges():
    graph = maze()
    variables = placeholder_variables(graph)

    def updated(variables: Any, average: nas.TaylorAverage) -> nas.TaylorAverage:
        grads = jax.tree.map(np.ones_like, variables["params"])
        return average.update(variables["params"], grads)

    average = updated(variables, nas.TaylorAverage.init(graph))
    kept = average.scores()["a"]
    joined = nas.create_edge(graph, variables, "b", "join")
    average = joined.carry(average)
    found = nas.total_utility(joined.graph, average.scores())
    assert {name: scores.shape for name, scores in found.items() if name in ("join", "p", "q", "all")} == {
        "join": (7,), "p": (7,), "q": (7,), "all": (21,)
    }  # fmt: skip
    np.testing.assert_allclose(average.scores()["a"], kept, rtol=1e-6)
    average = updated(joined.variables, average)
    parted = nas.remove_edge(*joined, "a", "join")
    average = parted.carry(average)
    assert nas.total_utility(parted.graph, average.scores())["all"].shape == (9,)
    with pytest.raises(nas.StructureError):  # what cannot be done leaves the scores alone
        nas.remove_edge(*parted, "b", "join")
    assert updated(parted.variables, average).scores()["b"].shape == (3,)
