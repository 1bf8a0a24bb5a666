"""Embeddings whose table is read twice."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import naivenas_jax as nas

TOKENS = jnp.asarray([[0, 3, 5, 1], [2, 2, 6, 4]])


def language_model(library: str, vocabulary: int = 7, width: int = 6) -> nas.Graph:
    linen = library == "linen"
    embed = nn.Embed(vocabulary, width) if linen else nnx.Embed(vocabulary, width, rngs=nnx.Rngs(0))
    dense = nn.Dense(width) if linen else nnx.Linear(width, width, rngs=nnx.Rngs(1))
    tokens = nas.input_vertex("tokens", vocabulary, dtype="int32")
    embedded = nas.layer("embed", embed, tokens)
    return nas.Graph(tokens, nas.attend("logits", embedded, nas.layer("hidden", dense, embedded)))


def by_hand(variables, tokens):
    table, hidden = variables["params"]["embed"]["embedding"], variables["params"]["hidden"]
    return (table[tokens] @ hidden["kernel"] + hidden["bias"]) @ table.T


@pytest.mark.parametrize("library", ["linen", "nnx"])
@pytest.mark.parametrize("change", [-2, 2])
def test_width_of_the_table_is_that_of_queries(library: str, change: int):
    graph = language_model(library)
    variables = graph.init(jax.random.key(0), TOKENS)
    assert jax.tree.map(jnp.shape, variables["params"]["embed"]) == {"embedding": (7, 6)}
    np.testing.assert_allclose(graph.apply(variables, TOKENS), by_hand(variables, TOKENS), rtol=1e-5, atol=1e-5)
    mutation = nas.delta_nout(graph, variables, {"hidden": change})
    assert mutation.graph.nout("embed") == mutation.graph.nout("hidden") == 6 + change
    fresh = jax.eval_shape(mutation.graph.init, jax.random.key(0), TOKENS)
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, mutation.variables)
    found = mutation.graph.apply(mutation.variables, TOKENS)
    np.testing.assert_allclose(found, by_hand(mutation.variables, TOKENS), rtol=1e-5, atol=1e-5)
    if change < 0:  # the original with the dropped features zero in table and query
        dropped = np.setdiff1d(np.arange(6), mutation.indices("hidden"))
        np.testing.assert_array_equal(mutation.indices("embed"), mutation.indices("hidden"))
        table = np.array(variables["params"]["embed"]["embedding"])
        table[:, dropped] = 0
        masked = {"params": {**variables["params"], "embed": {"embedding": table}}}
        np.testing.assert_allclose(found, by_hand(masked, TOKENS), rtol=1e-5, atol=1e-5)
        assert mutation.check(TOKENS).compared


@pytest.mark.parametrize("library", ["linen", "nnx"])
def test_vocabulary_is_that_of_the_logits(library: str):
    graph = language_model(library)
    variables = graph.init(jax.random.key(0), TOKENS)
    mutation = nas.delta_nout(graph, variables, {"tokens": 3, "logits": 3})
    assert mutation.graph.nout("logits") == 10
    found = mutation.graph.apply(mutation.variables, TOKENS)
    np.testing.assert_allclose(found[..., :7], graph.apply(variables, TOKENS), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found, by_hand(mutation.variables, TOKENS), rtol=1e-5, atol=1e-5)


def test_follows_the_name_of_the_table():
    graph = language_model("linen")
    variables = graph.init(jax.random.key(0), TOKENS)
    renamed, moved = nas.rename(graph, variables, {"embed": "table"})
    np.testing.assert_array_equal(renamed.apply(moved, TOKENS), graph.apply(variables, TOKENS))


def test_refusals():
    tokens = nas.input_vertex("tokens", 7, dtype="int32")
    embedded = nas.layer("embed", nn.Embed(7, 6), tokens)
    dense = nas.layer("dense", nn.Dense(5), embedded)
    with pytest.raises(nas.GraphError, match="'logits' reads the table of an embedding"):
        nas.attend("logits", dense, embedded)
    with pytest.raises(nas.SizeMismatchError, match="5 neurons with entries of 'embed' of 6"):
        nas.attend("logits", embedded, dense)
