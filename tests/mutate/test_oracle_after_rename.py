"""`check` of changes that rename vertices, and of edits that leave numbers of words to be read."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import naivenas_jax as nas


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
