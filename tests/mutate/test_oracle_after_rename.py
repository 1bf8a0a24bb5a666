"""`check` of changes that rename vertices, and of edits that leave numbers of words to be read."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import naivenas_jax as nas
from naivenas_jax.mutate.result import oracle
from naivenas_jax.mutate.result.mutation import then


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.SimpleCell])
def test_a_recurrent_layer_that_was_renamed_is_compared(cell):
    x = nas.input_vertex("x", 3)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("loop", nn.RNN(cell(4)), x)))
    data = jax.random.normal(jax.random.key(1), (2, 5, 3))
    mutation = nas.rename(graph, graph.init(jax.random.key(0), data), {"loop": "rnn"})
    assert mutation.check(data).max_difference == 0


def test_nothing_is_left_to_read_numbers_of_words():
    tokens = nas.input_vertex("tokens", 6, shape=(5,))
    embedded = nas.layer("embed", nn.Embed(6, 4), tokens)
    graph = nas.Graph(tokens, nas.layer("out", nn.Dense(2), nas.layer("slope", nn.PReLU(), embedded)))
    variables = graph.init(jax.random.key(0), jnp.zeros((2, 5), int))
    with pytest.raises(nas.NaiveNASError, match=r"'slope'.*numbers of words"):
        nas.remove_vertex(graph, variables, "embed")


def shrunk_and_renamed(layer, request, names):
    """One mutation that drops neurons and renames vertices, and data."""
    x = nas.input_vertex("x", 3)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("after", nn.Dense(5), layer(x))))
    data = jax.random.normal(jax.random.key(1), (2, 5, 3))
    shrunk = nas.delta_nout(graph, graph.init(jax.random.key(0), data), request)
    both = then(shrunk, nas.rename(*shrunk, names), "both")
    return replace(both, incomparable=None), data


@pytest.mark.parametrize(
    ("layer", "request_", "names"),
    [
        (lambda x: nas.layer("loop", nn.RNN(nn.GRUCell(4)), x), {"loop": -2}, {"loop": "rnn", "after": "loop"}),
        (
            lambda x: nas.layer("att", nn.MultiHeadDotProductAttention(2, qkv_features=8), x),
            {"att:value": -2},
            {"att": "mix", "after": "att"},
        ),
        (lambda x: nas.layer("wide", nn.Dense(6), x), {"wide": -2}, {"wide": "after", "after": "wide"}),
    ],
)
def test_neurons_that_were_dropped_before_a_rename_are_masked_under_their_first_names(layer, request_, names):
    mutation, data = shrunk_and_renamed(layer, request_, names)
    assert mutation.plan.changed
    checked = mutation.check(data)
    assert checked.compared
    assert checked.max_difference <= 1e-5


def test_coupled_axes_are_told_of_under_their_first_names():
    mutation, data = shrunk_and_renamed(
        lambda x: nas.layer("norm", nn.LayerNorm(), nas.layer("wide", nn.Dense(6), x)),
        {"wide": -2},
        {"wide": "norm", "norm": "wide"},
    )
    checked = mutation.check(data)
    assert not checked.compared
    assert "changed and is coupled" in checked.reason


def test_what_no_parameter_reads_is_told_of_after_a_rename(monkeypatch):
    """Readers that are not known stand for neurons that no parameter reads."""
    layer = lambda x: nas.layer("att", nn.MultiHeadDotProductAttention(2, qkv_features=8), x)  # noqa: E731
    mutation, data = shrunk_and_renamed(layer, {"att:value": -2}, {"att": "mix", "after": "att"})
    monkeypatch.setattr(oracle, "_inner_readers", lambda graph, plan: {})
    assert "'att:value' lost neurons that no parameter reads" in mutation.check(data).reason
