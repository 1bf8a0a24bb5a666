"""Edits leave nobody to read values where there are none: numbers of words, tables, models as a whole."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas

TOKENS = jnp.asarray([[0, 3, 2], [1, 2, 0]])


def words(shape: tuple[int, ...] | None = (3,)) -> tuple[nas.Graph, dict]:
    """As many words as positions, so that shapes alone do not tell the two apart; or no shape at all."""
    tokens = nas.input_vertex("tokens", 4, shape=shape, dtype="int32")
    embedded = nas.layer("embed", nn.Embed(4, 5), tokens)
    graph = nas.Graph(tokens, nas.layer("out", nn.Dense(2), embedded))
    return graph, graph.init(jax.random.key(0), TOKENS)


def block() -> nas.Graph:
    inside = nas.input_vertex("in", 4)
    return nas.Graph(inside, nas.layer("dense", nn.Dense(4), inside))


@pytest.mark.parametrize("shape", [(3,), (4,), None], ids=["other shape", "as many positions", "no shape"])
@pytest.mark.parametrize(
    "make",
    [
        lambda v: nas.invariant_vertex("new", nn.relu, v),
        lambda v: nas.concat("new", v, v),
        lambda v: nas.layer("new", block(), v),
        lambda v: (v + v).named("new"),
    ],
    ids=["function", "concatenation", "graph", "sum"],
)
def test_words_are_not_values(make, shape):
    graph, variables = words(shape)
    with pytest.raises(nas.SizeMismatchError, match=r"'tokens' holds numbers of words below 4. Only embeddings"):
        nas.insert_vertex(graph, variables, "tokens", make)


def test_an_embedding_is_not_replaced_by_what_reads_values():
    graph, variables = words((4,))
    with pytest.raises(nas.SizeMismatchError, match=r"'embed' \(Dense\(4 -> 5\)\) would read the values of 4 neurons"):
        nas.replace_layer(graph, variables, "embed", nn.Dense(5))
    again = nas.replace_layer(graph, variables, "embed", nn.Embed(4, 5))
    np.testing.assert_array_equal(again.graph.apply(again.variables, TOKENS), graph.apply(variables, TOKENS))


def test_pixels_in_whole_numbers_are_values():
    x = nas.input_vertex("image", 3, shape=(4, 4, 3), dtype="uint8")
    graph = nas.Graph(x, nas.layer("conv", nn.Conv(2, (3, 3)), x))
    image = jnp.ones((1, 4, 4, 3), "uint8")
    variables = graph.init(jax.random.key(0), image)
    mutation = nas.insert_vertex(graph, variables, "image", lambda v: nas.layer("new", nn.Dense(3), v))
    assert mutation.graph.apply(mutation.variables, image).shape == (1, 4, 4, 2)
    with pytest.raises(nas.StructureError, match=r"'drop' \(Dropout\(3 -> 3\)\).*same dtypes"):  # fails in training
        nas.insert_vertex(graph, variables, "image", lambda v: nas.layer("drop", nn.Dropout(0.5), v))


def tied() -> tuple[nas.Graph, dict]:
    tokens = nas.input_vertex("tokens", 4, shape=(3,), dtype="int32")
    embedded = nas.layer("embed", nn.Embed(4, 5), tokens)
    hidden = nas.layer("hidden", nn.Dense(5), embedded)
    graph = nas.Graph(tokens, nas.attend("logits", embedded, hidden))
    return graph, graph.init(jax.random.key(0), TOKENS)


@pytest.mark.parametrize("width", [5, 6])
def test_a_table_is_read_past_what_is_inserted(width: int):
    graph, variables = tied()
    mutation = nas.insert_vertex(graph, variables, "embed", lambda v: nas.layer("new", nn.Dense(width), v))
    assert mutation.graph.inputs_of("logits") == ("hidden", "embed", "tokens")
    params = mutation.variables["params"]
    x = params["embed"]["embedding"][TOKENS]
    for name in ("new", "hidden"):
        x = x @ params[name]["kernel"] + params[name]["bias"]
    found = mutation.graph.apply(mutation.variables, TOKENS)
    np.testing.assert_allclose(found, x @ params["embed"]["embedding"].T, rtol=1e-5, atol=1e-5)
    with pytest.raises(nas.StructureError, match="'logits' does not read 'embed'"):
        nas.insert_vertex(graph, variables, "embed", lambda v: nas.layer("new", nn.Dense(5), v), outputs=["logits"])


@pytest.mark.parametrize(
    "edit",
    [
        lambda *net: nas.remove_vertex(*net, "embed"),
        lambda *net: nas.replace_layer(*net, "embed", lambda v: nas.immutable_vertex("embed", hot, v, nout=5)),
    ],
    ids=["removed", "replaced"],
)
def test_a_table_that_is_read_stays(edit):
    with pytest.raises(nas.NaiveNASError, match="'logits' reads the table of the embedding 'embed'"):
        edit(*tied())


def hot(tokens: jax.Array) -> jax.Array:
    return jax.nn.one_hot(tokens, 5)


class Pair(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.Dense(3, name="body")(x)
        return y, nn.Dense(3, name="head")(y)


def head_of_a_pair() -> tuple[nas.Graph, dict, str]:
    x = jnp.ones((2, 3))
    graph, variables = nas.from_linen(Pair(), Pair().init(jax.random.key(0), x), x)
    return graph, variables, graph.outputs[0].name


def test_a_model_is_not_read_as_a_whole_after_a_removal():
    graph, variables, name = head_of_a_pair()
    graph, variables = nas.insert_vertex(graph, variables, name, lambda v: nas.layer("new", nn.Dense(3), v))
    with pytest.raises(nas.StructureError, match=r"'new'.*an imported model as a whole"):
        nas.remove_vertex(graph, variables, name)


def test_no_layer_takes_the_place_of_an_output():
    graph, variables, name = head_of_a_pair()
    whole = lambda v: nas.immutable_vertex(name, first, v, nout=3)  # noqa: E731
    with pytest.raises(nas.StructureError, match="an imported model as a whole"):
        nas.replace_layer(graph, variables, name, whole)


def first(arrays: tuple[jax.Array, ...]) -> jax.Array:
    return arrays[0]


def test_what_cannot_be_computed_is_refused_before_anything_is_made():
    """After the cut there are two words and three positions: weights that pass two neurons on would have three rows."""
    tokens = nas.input_vertex("tokens", 3, shape=(3,), dtype="int32")
    embedded = nas.layer("embed", nn.Embed(3, 4), tokens)
    graph = nas.Graph(tokens, nas.attend("logits", embedded, nas.layer("hidden", nn.Dense(4), embedded)))
    variables = graph.init(jax.random.key(0), jnp.zeros((1, 3), "int32"))
    graph, variables = nas.delta_nout(graph, variables, {"tokens": -1}, free_outputs=True)

    def beside(vertex: nas.Vertex) -> nas.Vertex:
        return nas.concat("both", vertex, nas.layer("beside", nn.Dense(2), vertex))

    with pytest.raises(nas.StructureError, match="'logits' reads the table of the embedding 'embed', which the edit"):
        nas.insert_vertex(graph, variables, "tokens", beside, outputs=["logits"], free_outputs=True)
    with pytest.raises(nas.SizeMismatchError, match="'tokens' holds numbers of words below 2"):
        nas.insert_vertex(graph, variables, "tokens", beside, free_outputs=True)
