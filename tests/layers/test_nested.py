"""Layers that hold other layers: what they tie is what those inside tie, and what cannot be known is refused."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import naivenas_jax as nas
from naivenas_jax.layers import registry

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 6)), jnp.float32)


def graph_of(layer: Any) -> nas.Graph:
    x = nas.input_vertex("x", 6)
    return nas.Graph(x, nas.layer("post", nn.Dense(2), nas.layer("layer", layer, x)))


def changed(layer: Any, request: dict[str, Any]) -> nas.Mutation:
    graph = graph_of(layer)
    return nas.delta_nout(graph, graph.init(jax.random.key(0), X), request)


def rngs() -> nnx.Rngs:
    return nnx.Rngs(0)


@pytest.mark.parametrize(
    ("layer", "sizes"),
    [
        (nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(4)]), {"layers_0": 8}),
        (nn.Sequential([nn.LayerNorm(), nn.Dense(8), nn.Dense(4), nn.PReLU()]), {"layers_1": 8}),
        (
            nn.Sequential([nn.Dense(6), nn.Conv(6, (1,), feature_group_count=2), nn.Dense(4)]),
            {"layers_0": 6, "layers_1": 6}
            | {"layers_1_groups": 2, "layers_1_in_per_group": 3, "layers_1_out_per_group": 3},
        ),
        (
            nn.Sequential([nn.Sequential([nn.Dense(3), nn.Dense(5)]), nn.Dense(4)]),
            {"layers_0_layers_0": 3, "layers_0": 5},
        ),
        (nn.WeightNorm(nn.Sequential([nn.Dense(8), nn.Dense(4)])), {"layers_0": 8}),
        (nnx.LoRALinear(6, 4, lora_rank=2, rngs=rngs()), {"rank": 2}),
    ],
)
def test_what_lies_inside_has_handles(layer: Any, sizes: dict[str, int]):
    handles = graph_of(layer).handles()
    found = {name.partition(":")[2]: handle.size for name, handle in handles.items() if name.startswith("layer:")}
    assert found == sizes
    for name in sizes:
        mutation = changed(layer, {f"layer:{name}": nas.relaxed(-1)})
        assert len(mutation.indices(f"layer:{name}")) < sizes[name]
        mutation.check(X)


def test_statistics_of_spectral_normalisation_are_updated_in_training_only():
    graph = graph_of(nn.SpectralNorm(nn.Dense(4)))
    variables = graph.init(jax.random.key(0), X)
    _, updates = graph.apply(variables, X, train=True, mutable=["batch_stats"])
    name = "layer_instance/kernel/u"
    before, after = (tree["batch_stats"]["layer"][name] for tree in (variables, updates))
    assert not np.allclose(before, after)
    _, updates = graph.apply(variables, X, mutable=["batch_stats"])
    np.testing.assert_array_equal(updates["batch_stats"]["layer"][name], before)


def test_functions_of_a_sequential_are_tried():
    graph = graph_of(nn.Sequential([nn.Dense(8), nn.softmax, nn.Dense(4)]))
    assert "mixes the neurons" in graph.handles()["layer:layers_0"].coupled
    fixed = graph_of(nn.Sequential([nn.Dense(8), lambda x: x + jnp.arange(8.0), nn.Dense(4)])).fixed()
    assert "8 neurons only" in fixed["layer:layers_0"]


class Averaging(nn.Module):
    """Two matrices, divided by the root of the width between them, as scores of an attention are."""

    hidden: int
    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        first = self.param("first", nn.initializers.normal(), (x.shape[-1], self.hidden))
        second = self.param("second", nn.initializers.normal(), (self.hidden, self.features))
        return x @ first @ second / self.hidden**0.5


@pytest.mark.parametrize(
    ("wrap", "handle", "leaf"),
    [
        (lambda layer: nn.Sequential([layer]), "layer:layers_0_hidden", "layers_0/second"),
        (
            lambda layer: nn.Sequential([nn.Dense(5), nn.Sequential([layer])]),
            "layer:layers_1_layers_0_hidden",
            "layers_1/layers_0/second",
        ),
    ],
    ids=["inside", "inside a part"],
)
def test_variables_that_follow_the_root_of_a_size_follow_it_inside_another_layer(
    monkeypatch: pytest.MonkeyPatch, wrap: Any, handle: str, leaf: str
):
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))
    nas.register_layer(
        Averaging,
        leaves={"params/first": "in hidden", "params/second": "hidden out"},
        sizes={"hidden": "hidden", "features": "out"},
        rescaled={"params/second": "hidden"},
    )
    mutation = changed(wrap(Averaging(8, 4)), {handle: -6})
    assert set(mutation.plan.rescaled) == {("params", "layer", *leaf.split("/"))}
    assert mutation.check(X).compared


DENSE = nn.Dense(6)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Sequential([DENSE, nn.relu, DENSE]), "'layer'.*holds one layer twice"),
        (nn.Sequential([]), "'layer'.*without layers"),
        (nn.Sequential([nn.Dense(4), lambda x: x[..., :2]]), "'layer'.*Function 1.*makes 2 neurons of 4"),
        (nn.Sequential([nn.Conv(6, (1,), feature_group_count=2), nn.GroupNorm(3)]), "'layer'.*'out' in their own ways"),
        (nn.Sequential([nn.MultiHeadDotProductAttention(2)]), "'layer'.*resize rule"),
        (nn.Einsum((5, 6), "bta,ta->bat"), "'layer'.*of positions of its input"),
        (nn.Einsum((6, 3)), "'layer'.*needs its equation"),
        (nn.Einsum((6, 3), "ab...,bc->ac..."), "'layer'.*last axis of input and output"),
        (nnx.WeightNorm(nnx.Linear(6, 4, rngs=rngs()), rngs=rngs()), "outside|neither"),
    ],
)
def test_refusals(layer: Any, message: str):
    with pytest.raises(nas.GraphError, match=message):
        graph_of(layer)


@pytest.mark.parametrize(
    ("layer", "vertex", "message"),
    [
        (nn.LayerNorm(reduction_axes=(1, 2)), "x", "other axes than the last"),
        (nn.BatchNorm(axis=1), "x", "another axis than the last"),
        (nn.InstanceNorm(feature_axes=(-2, -1)), "x", "other axes than the last"),
        (nn.DenseGeneral(4, axis=-2), "x", "become positions"),
    ],
)
def test_layers_whose_sizes_stay(layer: Any, vertex: str, message: str):
    assert message in graph_of(layer).fixed()[vertex]


def of_words(layer: Any, **given: Any) -> tuple[nas.Graph, Any]:
    tokens = nas.input_vertex("tokens", 11, **given)
    graph = nas.Graph(tokens, nas.layer("post", nn.Dense(2), nas.layer("layer", layer, tokens)))
    return graph, graph.init(jax.random.key(0), TOKENS)


TOKENS = jnp.asarray([[0, 3, 2, 2, 1]])
EMBEDDINGS = {
    "alone": nn.Embed(11, 4),
    "with a function": nn.Sequential([nn.Embed(11, 4), jnp.tanh]),
    "with a layer": nn.Sequential([nn.Embed(11, 4), nn.Dense(6), nn.relu]),
    "deeper": nn.Sequential([nn.Sequential([nn.Embed(11, 4)]), nn.Dense(6)]),
    "nnx": nnx.Sequential(nnx.Embed(11, 4, rngs=rngs()), nnx.Linear(4, 6, rngs=rngs())),
    "normalised": nn.WeightNorm(nn.Embed(11, 4), variable_filter={"embedding"}, feature_axes=None),
}


@pytest.mark.parametrize("given", [{"shape": (5,)}, {"dtype": "int32"}, {}], ids=str)
@pytest.mark.parametrize("kind", EMBEDDINGS)
def test_what_begins_with_an_embedding_reads_words(kind: str, given: dict[str, Any]):
    graph, variables = of_words(EMBEDDINGS[kind], **given)
    fewer = nas.delta_nout(graph, variables, {"tokens": -4, "layer": -1})
    assert fewer.indices("tokens").tolist() == list(range(7))  # words keep their numbers
    more = nas.delta_nout(*fewer, {"tokens": 2})
    assert more.indices("tokens").tolist() == [*range(7), -1, -1]
    assert fewer.graph.apply(fewer.variables, TOKENS).shape == (1, 5, 2)
    if kind != "normalised":  # there the length of a weight depends on all words
        assert fewer.check(TOKENS).compared
        assert more.check(TOKENS).compared
        np.testing.assert_array_equal(
            more.graph.apply(more.variables, TOKENS), fewer.graph.apply(fewer.variables, TOKENS)
        )


def test_words_are_read_before_anything_else():
    with pytest.raises(nas.GraphError, match=r"'layer': Part 2 of a Sequential \(Embed\) looks up words by their num"):
        of_words(nn.Sequential([nn.Embed(11, 4), nn.Dense(7), nn.Embed(7, 3)]), shape=(5,))
    graph, variables = of_words(nn.Sequential([lambda t: (t + 1) % 11, nn.Embed(11, 4)]), shape=(5,))
    with pytest.raises(nas.InfeasibleError, match="'layer': parts before layers_1 compute numbers of words"):
        nas.delta_nout(graph, variables, {"tokens": 1})
    with pytest.raises(nas.SizeMismatchError, match="Embed them first"):
        of_words(nn.Sequential([nn.Dense(4), nn.relu]), shape=(5,))
