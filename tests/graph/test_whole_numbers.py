"""Inputs of whole numbers: values of neurons, as of pixels, or numbers of words."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas

PICTURES = np.random.default_rng(0).integers(0, 255, (2, 4, 4, 3)).astype(np.uint8)


def network(**given: Any) -> nas.Mutation:
    """A network of pictures from which the first channel is taken."""
    x = nas.input_vertex("x", 3, **given)
    scaled = nas.invariant_vertex("scaled", lambda a: a.astype(jnp.float32) / 255, x)
    conv = nas.layer("conv", nn.Conv(4, (3, 3)), scaled)
    graph = (
        nas.Graph(x, nas.layer("head", nn.Dense(2), nas.flatten("flat", conv)))
        if given.get("shape")
        else nas.Graph(x, conv)
    )
    variables = graph.init(jax.random.key(0), PICTURES)
    return nas.delta_nout(graph, variables, {"x": -1}, utility={"x": [0.1, 3.0, 2.0]})


KINDS = [{"shape": (4, 4, 3), "dtype": "uint8"}, {"shape": (4, 4, 3), "dtype": "int32"}, {"shape": (4, 4, 3)}, {}]


@pytest.mark.parametrize("given", KINDS, ids=str)
def test_channels_of_pictures_are_neurons(given):
    mutation = network(**given)
    graph, variables = mutation
    assert mutation.indices("x").tolist() == [1, 2]  # the most useful, and not the first
    assert mutation.notes == ()
    assert mutation.check(PICTURES).compared
    before = mutation.before.apply(mutation.variables_before, np.where([False, True, True], PICTURES, np.uint8(0)))
    np.testing.assert_allclose(graph.apply(variables, PICTURES[..., 1:]), before, rtol=1e-5, atol=1e-6)
    assert graph["x"].op.shape == ((4, 4, 2) if "shape" in given else None)
    assert mutation.undo(variables)[0] == mutation.before


def test_pictures_are_edited_further():
    graph, variables = network(**KINDS[0])
    with_layer, more = nas.insert_vertex(
        graph, variables, "scaled", lambda v: nas.layer("mixed", nn.Conv(2, (1, 1)), v)
    )
    assert with_layer.apply(more, PICTURES[..., 1:]).shape == (2, 2)
    smaller = nas.resize(graph, variables, max_macs=0.6)  # operations are counted on the shape of the input
    assert smaller.graph.nout("conv") == 2
    grey = nas.delta_nout(graph, variables, {"x": nas.to(1)})
    assert grey.graph["x"].op.shape == (4, 4, 1)
    coloured = nas.delta_nout(*grey, {"x": nas.to(4)})
    assert coloured.check(PICTURES[..., 1:2]).compared


@pytest.mark.parametrize("words", [7, 5], ids=["more words than positions", "as many"])
def test_words_are_told_by_who_reads_them(words):
    tokens = nas.input_vertex("tokens", words, shape=(5,), dtype="int32")
    embedded = nas.layer("embedded", nn.Embed(words, 4), tokens)
    graph = nas.Graph(tokens, nas.layer("head", nn.Dense(2), embedded))
    given = jnp.asarray([[0, 1, 2, 2, 1]])
    variables = graph.init(jax.random.key(0), given)
    mutation = nas.delta_nout(graph, variables, {"tokens": -1})
    assert mutation.indices("tokens").tolist() == list(range(words - 1))  # the first words
    assert mutation.graph["tokens"].op.shape == (5,)
    assert mutation.check(given).compared
    again = nas.delta_nout(*mutation, {"tokens": nas.to(5)})  # now there are as many words as positions
    assert nas.delta_nout(*again, {"tokens": 2}).check(given).compared
