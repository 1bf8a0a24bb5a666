"""Arrays that make neurons in one place and read the same neurons in another: growth keeps the function."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import naivenas_jax as nas

TOKENS = jnp.asarray([[0, 3, 5, 1], [2, 2, 6, 4]])
X = np.asarray(jax.random.normal(jax.random.key(0), (3, 5)))


def hand_written(embed):
    tokens = nas.input_vertex("tokens", 7, dtype="int32")
    embedded = nas.layer("embed", embed, tokens)
    graph = nas.Graph(tokens, nas.attend("logits", embedded, nas.layer("hidden", nn.Dense(4), embedded)))
    return graph, graph.init(jax.random.key(0), TOKENS), TOKENS, "embed"


class Words(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(7, 4, name="embed")
        return embed.attend(nn.tanh(nn.Dense(4, name="h")(embed(tokens))))


def imported():
    graph, variables = nas.from_linen(Words(), Words().init(jax.random.key(0), TOKENS), TOKENS)
    return graph, variables, TOKENS, "h"


def there_and_back():
    def f(v, x):
        return jnp.tanh(x @ v["params"]["w"]) @ v["params"]["w"].T

    graph, variables = nas.from_function(f, {"params": {"w": jax.random.normal(jax.random.key(1), (5, 6))}}, X)
    return graph, variables, X, next(name for name, handle in graph.handles().items() if handle.size == 6)


def convolved_there_and_back():
    def conv(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))

    def f(v, x):
        kernel = v["params"]["w"]
        return conv(jnp.tanh(conv(x, kernel)), kernel.swapaxes(1, 2))

    x = np.asarray(jax.random.normal(jax.random.key(0), (2, 4, 3)))
    graph, variables = nas.from_function(f, {"params": {"w": jax.random.normal(jax.random.key(1), (3, 3, 6))}}, x)
    return graph, variables, x, next(name for name, handle in graph.handles().items() if handle.size == 6)


NETWORKS = {
    "a linen embedding": lambda: hand_written(nn.Embed(7, 4)),
    "an nnx embedding": lambda: hand_written(nnx.Embed(7, 4, rngs=nnx.Rngs(0))),
    "an imported embedding": imported,
    "a weight and its transpose": there_and_back,
    "a kernel and its transpose": convolved_there_and_back,
}


@pytest.mark.parametrize("new", [None, "zeros", "split"])
@pytest.mark.parametrize("network", NETWORKS)
def test_growth_keeps_the_function(network, new):
    graph, variables, x, handle = NETWORKS[network]()
    assert graph.handles()[handle].coupled is None
    grown = nas.delta_nout(graph, variables, {handle: 3}, new=new)
    assert grown.graph.handles()[handle].size == graph.handles()[handle].size + 3
    np.testing.assert_allclose(grown.graph.apply(grown.variables, x), graph.apply(variables, x), rtol=1e-5, atol=1e-5)
    assert grown.check(x).compared
    before, restored = grown.undo(grown.variables)
    assert before == graph
    jax.tree.map(np.testing.assert_array_equal, restored, dict(variables))


def test_other_neurons_are_split_as_before():
    graph, variables, *_ = imported()
    words = nas.delta_nout(graph, variables, {"embed:vocabulary": 2}, new="split")
    table = np.asarray(words.variables["params"]["embed"]["embedding"])
    assert all((row == table[:7]).all(1).any() for row in table[7:])  # copies of old words


def test_a_whole_model_is_read_by_no_layer():
    graph, variables, *_ = imported()
    with pytest.raises(nas.StructureError, match=r"'model' is an imported model as a whole.*Name one of its outputs"):
        nas.insert_vertex(graph, variables, "model", lambda v: nas.layer("more", nn.Dense(7), v))
    beside = nas.insert_vertex(graph, variables, "output", lambda v: v + nas.layer("more", nn.Dense(7), v))
    with pytest.raises(nas.StructureError, match="'model' is an imported model as a whole"):
        nas.create_edge(*beside, "model", beside.graph.outputs[0].name)


@pytest.mark.parametrize(
    "module", [nn.Dense(3), nn.LayerNorm(), nnx.Linear(10, 3, rngs=nnx.Rngs(0))], ids=["Dense", "LayerNorm", "Linear"]
)
def test_numbers_of_words_are_no_values(module):
    tokens = nas.input_vertex("tokens", 10, shape=(4,), dtype="int32")
    with pytest.raises(
        nas.SizeMismatchError, match=r"holds numbers of words below 10, of shape \(4,\). Embed them first"
    ):
        nas.layer("dense", module, tokens)
    graph = nas.Graph(tokens, nas.layer("out", nn.Dense(2), nas.layer("embed", nn.Embed(10, 3), tokens)))
    variables = graph.init(jax.random.key(0), TOKENS)
    with pytest.raises(nas.SizeMismatchError, match="Embed them first"):
        nas.replace_layer(graph, variables, "embed", module)
