"""nnx layers bring their variables, and nothing else of them is remembered."""

from __future__ import annotations

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import naivenas_jax as nas


class Block(nnx.Module):
    """Dense, batch normalisation, dropout, dense, and a counter: what a layer of one's own may consist of."""

    def __init__(self, size: int, hidden: int, *, rngs: nnx.Rngs):
        self.size, self.hidden, self.shapes = size, hidden, [1, {"a": 2}]
        self.layers = nnx.List([nnx.Linear(size, hidden, rngs=rngs), nnx.Linear(hidden, size, rngs=rngs)])
        self.norm = nnx.BatchNorm(hidden, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.calls = nnx.BatchStat(jnp.zeros((), jnp.int32))
        self.rngs = rngs

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        if train:
            self.calls[...] = self.calls[...] + 1
        return self.layers[1](self.dropout(nnx.relu(self.norm(self.layers[0](x)))))


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    nas.register_layer(
        Block,
        leaves={
            "params/layers/0/kernel": "in h",
            "params/layers/0/bias": "h",
            "params/layers/1/kernel": "h out",
            "params/layers/1/bias": "out",
            "params/norm/scale": "h",
            "params/norm/bias": "h",
            "batch_stats/norm/mean": "h",
            "batch_stats/norm/var": "h",
            "batch_stats/calls": "",
        },
        sizes={"hidden": "h", "size": "out", "norm.num_features": "h", "layers.0.in_features": "in"},
        new={"params/norm/scale": 1.0, "batch_stats/norm/var": 1.0},
    )


def block(seed: int = 0) -> Block:
    return Block(3, 5, rngs=nnx.Rngs(seed))


def single(layer: nnx.Module, size: int = 3) -> nas.Graph:
    x = nas.input_vertex("x", size)
    return nas.Graph(x, nas.layer("layer", layer, x))


X = jax.random.normal(jax.random.key(0), (4, 3))


def test_init_returns_the_arrays_of_the_layer():
    layer = block()
    layer.norm.mean[...] = jnp.arange(5.0)
    variables = single(layer).init(jax.random.key(99), X)
    own = variables["params"]["layer"]
    np.testing.assert_array_equal(own["layers"]["0"]["kernel"], layer.layers[0].kernel[...])
    np.testing.assert_array_equal(variables["batch_stats"]["layer"]["norm"]["mean"], jnp.arange(5.0))
    assert set(variables) == {"params", "batch_stats"}  # keys and counts of random numbers are no variables


def test_donated_variables_leave_the_layer_alone():
    layer = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    graph = single(layer)
    jax.tree.map(lambda leaf: leaf.delete(), graph.init(jax.random.key(0), X))
    assert graph.init(jax.random.key(0), X)["params"]["layer"]["kernel"].shape == layer.kernel[...].shape == (3, 4)


def test_later_changes_of_the_layer_do_not_reach_the_graph():
    layer = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    graph = single(layer)
    layer.kernel[...] = jnp.zeros((3, 4))
    layer.out_features = 7
    assert (graph.init(jax.random.key(0), X)["params"]["layer"]["kernel"] != 0).all()
    assert graph.nout("layer") == 4


def test_arrays_are_no_part_of_a_graph():
    assert single(block(0)) == single(block(1))
    assert hash(single(block(0))) == hash(single(block(1)))
    assert single(block()) != single(Block(3, 6, rngs=nnx.Rngs(0)))
    assert copy.deepcopy(single(block())) == single(block())
    assert jax.tree.leaves(single(block())) == []


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_mode_of_the_layer_makes_no_difference(mode: str):
    layer = block()
    getattr(layer, mode)()
    assert single(layer) == single(block())


def test_after_a_change_arrays_of_another_shape_are_initialised():
    graph = single(nnx.Linear(3, 4, rngs=nnx.Rngs(0)))
    variables = graph.init(jax.random.key(0), X)
    graph2, _ = nas.delta_nout(graph, variables, {"x": 2})
    fresh = graph2.init(jax.random.key(1), jnp.ones((1, 5)))["params"]["layer"]
    assert fresh["kernel"].shape == (5, 4)
    assert np.unique(fresh["kernel"]).size == 20
    np.testing.assert_array_equal(fresh["bias"], variables["params"]["layer"]["bias"])


def test_layer_of_layers_is_resized_and_trained():
    x = nas.input_vertex("x", 3)
    graph = nas.Graph(x, nas.layer("post", nnx.Linear(3, 2, rngs=nnx.Rngs(1)), nas.layer("layer", block(), x)))
    variables = graph.init(jax.random.key(0), X)
    mutation = nas.delta_nout(graph, variables, {"layer:h": -2, "layer": 2})
    assert mutation.check(X).compared
    graph2, variables2 = mutation
    module = graph2["layer"].op.module
    assert (module.hidden, module.size, module.norm.num_features) == (3, 5, 3)
    output, updates = graph2.apply(
        variables2, X, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)}
    )
    assert output.shape == (4, 2)
    assert updates["batch_stats"]["layer"]["norm"]["mean"].shape == (3,)
    assert updates["batch_stats"]["layer"]["calls"] == 1
    assert (output != graph2.apply(variables2, X)).any()


def test_made_without_arrays_it_is_initialised():
    layer = nnx.eval_shape(lambda: nnx.Linear(3, 4, rngs=nnx.Rngs(0)))
    kernel = single(layer).init(jax.random.key(0), X)["params"]["layer"]["kernel"]
    assert np.unique(kernel).size == 12


def test_wrong_input_size_is_named():
    with pytest.raises(nas.SizeMismatchError, match=r"'layer'.*in_features=4.*3 neurons.*in_features=3"):
        single(nnx.Linear(4, 4, rngs=nnx.Rngs(0)))


class Scale(nnx.Module):
    def __init__(self, size: int):
        self.scale = nnx.Param(jnp.ones(size))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.scale[...]


@pytest.mark.parametrize(
    ("leaves", "error", "message"),
    [
        ({}, nas.GraphError, "'params/scale' is not among leaves= of its rule"),
        ({"params/scale": "in", "params/bias": "in"}, nas.GraphError, "'params/bias' of its rule does not exist"),
        ({"params/scale": "_ in"}, nas.GraphError, r"shape \(4,\).*2 tokens"),
        ({"params/scale": "in"}, nas.SizeMismatchError, r"shape \(4,\).*must be \(3,\)"),
    ],
)
def test_rule_that_does_not_fit_the_layer(leaves: dict, error: type, message: str):
    nas.register_layer(Scale, nas.LayerRule(leaves=leaves))
    with pytest.raises(error, match=message):
        single(Scale(4))


def test_arrays_outside_of_variables_are_refused():
    with pytest.raises(nas.GraphError, match=r"'mask'.*nnx\.Variable"):
        single(nnx.Conv(3, 4, (1,), mask=jnp.ones((1, 3, 4)), rngs=nnx.Rngs(0)))


def test_layers_made_while_tracing_are_refused():
    with pytest.raises(nas.GraphError, match="while tracing"):
        jax.jit(lambda: single(nnx.Linear(3, 4, rngs=nnx.Rngs(0))).nout("layer"))()
