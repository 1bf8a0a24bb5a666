"""What a graph says of its edits is what the verbs do: every pair of vertices, every vertex, every edge."""

from __future__ import annotations

import random
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from hypothesis import given, settings, strategies as st
from strategies import random_graph, random_variables

import naivenas_jax as nas
from naivenas_jax.graph import graph as graph_module

KEY = jax.random.key(0)


def done(verb: Callable[[], nas.Mutation]) -> bool:
    try:
        verb()
    except nas.NaiveNASError:
        return False
    return True


def compare(graph: nas.Graph, variables, modules: tuple[str, ...] = ()) -> int:
    """Ask the graph, and try each verb on everything; the number of edits that succeed."""
    names = [*(v.name for v in graph.vertices), *modules]
    edges, gone, cut = set(graph.legal_edges()), set(graph.removable()), set(graph.removable_edges())
    for name in names:
        assert (name in gone) == done(lambda name=name: nas.remove_vertex(graph, variables, name)), name
    for source in names:
        for target in names:
            legal = done(lambda s=source, t=target: nas.create_edge(graph, variables, s, t))
            assert ((source, target) in edges) == legal == graph.can_read(source, target), (source, target)
    for target in (v.name for v in graph.vertices):
        for source in set(graph.inputs_of(target)):
            legal = done(lambda s=source, t=target: nas.remove_edge(graph, variables, s, t))
            assert ((source, target) in cut) == legal, (source, target)
    return len(edges) + len(gone) + len(cut)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6))
def test_random_graphs(seed: int):
    graph = random_graph(random.Random(seed), (2, 6))
    compare(graph, random_variables(graph))


def broadcast() -> nas.Graph:
    """A gate of one neuron, a sum that is an output, and a product that is read."""
    x = nas.input_vertex("x", 3, shape=(2, 3))
    a, gate = nas.layer("a", nn.Dense(4), x), nas.layer("gate", nn.Dense(1), x)
    gated = (a * gate).named("gated")
    return nas.Graph(x, [nas.layer("out", nn.Dense(2), gated), (gate + gate).named("total")])


def fixed() -> nas.Graph:
    """Sums whose widths are fixed, at four and at five, and one that may have any."""
    x = nas.input_vertex("x", 4, shape=(2, 4))
    a, b = nas.layer("a", nn.Dense(5), x), nas.layer("b", nn.Dense(6), x)
    frozen = nas.immutable_vertex("frozen", jnp.flip, (a + a).named("five"), nout=5)
    return nas.Graph(x, nas.layer("out", nn.Dense(2), nas.concat("cat", frozen, (x + x).named("four"), b, -b)))


def words() -> nas.Graph:
    """Numbers of words, their table as the output layer, and a dropout, which reads values."""
    words = nas.input_vertex("words", 7, shape=(3,))
    embedded = nas.layer("embed", nn.Embed(7, 4), words)
    hidden = nas.layer("drop", nn.Dropout(0.5), (embedded + nas.layer("hidden", nn.Dense(4), embedded)).named("sum"))
    return nas.Graph(words, nas.attend("logits", embedded, hidden))


def window(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (2, 2), strides=(2, 2))


def stacked() -> nas.Graph:
    """Without its pooling a flatten stacks four times as many positions, also before an output of that width."""
    x = nas.input_vertex("x", 3, shape=(4, 4, 3))
    conv = nas.layer("conv", nn.Conv(2, (3, 3)), x)
    pooled = nas.invariant_vertex("pool", window, (conv + conv).named("sum"))
    other = nas.invariant_vertex("pool2", window, conv)
    flat = nas.flatten("flat2", other)
    return nas.Graph(x, [nas.layer("out", nn.Dense(2), nas.flatten("flat", pooled)), flat])


def heads() -> nas.Graph:
    """Heads and features of an attention, a grouped convolution, and a sum that joins their widths."""
    x = nas.input_vertex("x", 4, shape=(3, 4))
    attention = nas.layer("attention", nn.MultiHeadDotProductAttention(2, qkv_features=6, out_features=4), x, x)
    grouped = nas.layer("grouped", nn.Conv(6, (2,), feature_group_count=2), (x + attention).named("sum"))
    return nas.Graph(x, nas.layer("out", nn.Dense(2), (grouped * grouped).named("square")))


@pytest.mark.parametrize("make", [broadcast, fixed, words, stacked, heads])
def test_graphs_written_by_hand(make: Callable[[], nas.Graph]):
    graph = make()
    assert compare(graph, random_variables(graph)) > 1


class Residual(nn.Module):
    """Two residual blocks, and a loop that cannot be read from outside."""

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(6, name="first")(x)
        h = h + nn.Dense(6, name="inner")(nn.relu(nn.LayerNorm(name="norm")(h)))
        step = nn.scan(Step, variable_broadcast="params", split_rngs={"params": False}, length=2)
        h, _ = step(name="loop")(h, None)
        return nn.Dense(3, name="out")(h)


class Step(nn.Module):
    @nn.compact
    def __call__(self, carry, _):
        return nn.Dense(6, name="dense")(carry), None


class Plain(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.a, self.b = nnx.Linear(4, 6, rngs=rngs), nnx.Linear(6, 5, rngs=rngs)
        self.c, self.out = nnx.Linear(5, 6, rngs=rngs), nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        h = self.a(x)
        return self.out(h + self.c(nnx.relu(self.b(h))))


def test_a_linen_model():
    model, x = Residual(), jnp.ones((2, 4))
    graph, variables = nas.from_linen(model, model.init(KEY, x), x)
    assert compare(graph, variables, ("first", "inner", "norm", "loop/dense", "out")) > 10


def test_an_nnx_model_and_what_was_made_of_it():
    graph, variables = nas.from_nnx(Plain(nnx.Rngs(0)), jnp.ones((2, 4)))
    graph, variables = nas.insert_vertex(graph, variables, "b", lambda v: nas.layer("new", nn.Dense(5), v))
    assert compare(graph, variables, ("a", "b", "c", "out")) > 8


def test_names_that_there_are_not():
    x = nas.input_vertex("x", 3, shape=(2, 3))
    graph = nas.Graph(x, x + x)
    for names in (("x", "y"), ("y", "x")):
        with pytest.raises(nas.UnknownNameError, match="no vertex or axis named 'y'"):
            graph.can_read(*names)


def test_conditions_on_sizes_are_rules_too():
    """The rules know the keywords that limit sizes; a random mutation asks them with its own."""
    from naivenas_jax.mutate.request.options import Options
    from naivenas_jax.mutate.rules.legal_edits import LegalEdits

    graph = fixed()
    assert LegalEdits(graph).not_removed("b") is None
    bound = [nas.size("-b") == 6]  # as wide as it is, and what it would read is an input of four
    assert not done(lambda: nas.remove_vertex(graph, random_variables(graph), "b", constraints=bound))
    problem = LegalEdits(graph, Options(constraints=bound)).not_removed("b")
    assert isinstance(problem, nas.InfeasibleError)


def test_a_question_and_the_verb_that_follows_find_the_ties_of_the_edited_graph_once(monkeypatch):
    """Equal graphs share their ties, and what was asked last is kept until the verb."""
    x = nas.input_vertex("x", 3)
    a, b = nas.layer("a", nn.Dense(4), x), nas.layer("b", nn.Dense(5), x)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.concat("cat", a, b)))
    variables = graph.init(jax.random.key(0), jnp.ones((1, 3)))
    again = nas.Graph(graph.inputs, graph.outputs)
    assert again is not graph
    assert again.ties is graph.ties

    found = []
    tie = graph_module.tie_vertices
    monkeypatch.setattr(graph_module, "tie_vertices", lambda *given: found.append(1) or tie(*given))
    assert graph.can_read("a", "cat")
    asked = len(found)
    nas.create_edge(graph, variables, "a", "cat")
    assert (asked, len(found) - asked) == (1, 1)  # that of the new graph alone
