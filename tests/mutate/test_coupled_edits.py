"""An edit of the structure that changes the width of something coupled says so, and `check` compares nothing."""

import flax.linen as nn
import jax
import pytest

import naivenas_jax as nas

X = jax.random.normal(jax.random.key(1), (5, 3))

MIXERS = {
    "softmax": lambda x: nas.invariant_vertex("mixed", jax.nn.softmax, x),
    "layer norm": lambda x: nas.layer("mixed", nn.LayerNorm(), x),
    "group norm": lambda x: nas.layer("mixed", nn.GroupNorm(num_groups=2), x),
}


def network(mix, between=None):
    x = nas.input_vertex("x", 3)
    made = nas.layer("made", nn.Dense(4), x)
    if between is not None:
        made = nas.layer("between", nn.Dense(between), made)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), MIXERS[mix](made)))
    return graph, graph.init(jax.random.key(0), X)


def notes_of(mutation):
    return [note for note in mutation.notes if note.startswith("coupled, ")]


@pytest.mark.parametrize("mix", MIXERS)
@pytest.mark.parametrize(("width", "align"), [(6, "grow"), (2, "shrink")])
def test_another_width_inserted_before_what_is_coupled(mix, width, align):
    graph, variables = network(mix)
    mutation = nas.insert_vertex(graph, variables, "made", lambda v: nas.layer("wide", nn.Dense(width), v), align=align)
    assert mutation.graph.nout("mixed") == width
    (note,) = notes_of(mutation)
    assert "'mixed'" in note
    check = mutation.check(X)
    assert not check.compared
    assert ("'mixed' changed and is coupled" if align == "grow" else "dropped neurons") in check.reason


@pytest.mark.parametrize("mix", MIXERS)
def test_the_same_width_inserted_keeps_the_function(mix):
    graph, variables = network(mix)
    mutation = nas.insert_vertex(graph, variables, "made", lambda v: nas.layer("same", nn.Dense(4), v))
    assert mutation.check(X).compared
    assert not mutation.notes


@pytest.mark.parametrize("mix", MIXERS)
def test_what_made_the_coupled_neurons_is_removed(mix):
    graph, variables = network(mix, between=6)
    mutation = nas.remove_vertex(graph, variables, "between", align="shrink")
    assert mutation.graph.nout("mixed") == 4
    assert any("'mixed'" in note for note in notes_of(mutation))
