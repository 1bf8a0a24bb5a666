"""Graphs of linen and nnx layers run as any Flax module does: training, random numbers, jit, grad, vmap."""

from __future__ import annotations

from typing import Any

import chex
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import naivenas_jax as nas

LAYERS: dict[str, Any] = {
    "linen": {
        "conv": lambda i, o: nn.Conv(o, (3,)),
        "norm": lambda i, o: nn.BatchNorm(momentum=0.9),
        "drop": lambda i, o: nn.Dropout(0.5),
        "dense": lambda i, o: nn.Dense(o),
    },
    "nnx": {
        "conv": lambda i, o: nnx.Conv(i, o, (3,), rngs=nnx.Rngs(0)),
        "norm": lambda i, o: nnx.BatchNorm(i, momentum=0.9, rngs=nnx.Rngs(0)),
        "drop": lambda i, o: nnx.Dropout(0.5),
        "dense": lambda i, o: nnx.Linear(i, o, rngs=nnx.Rngs(0)),
    },
}
both = pytest.mark.parametrize("library", ["linen", "nnx"])


def chain(library: str, *kinds: str) -> nas.Graph:
    x = vertex = nas.input_vertex("x", 4)
    for kind in kinds:
        vertex = nas.layer(kind, LAYERS[library][kind](vertex.nout, 4), vertex)
    return nas.Graph(x, vertex)


def data(*leading: int) -> jax.Array:
    return jax.random.normal(jax.random.key(1), (*leading, 4)) * 2 + 1


@both
def test_batch_norm_trains_when_told(library: str):
    graph, x = chain(library, "norm"), data(32)
    variables = graph.init(jax.random.key(0), x)
    np.testing.assert_allclose(graph.apply(variables, x), x, rtol=1e-4)  # mean 0, variance 1 until trained
    output, updates = graph.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(output.mean(0), np.zeros(4), atol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["norm"]["mean"], 0.1 * x.mean(0), rtol=1e-4)
    np.testing.assert_allclose(updates["batch_stats"]["norm"]["var"], 0.9 + 0.1 * x.var(0), rtol=1e-4)


@both
def test_initialising_in_training_leaves_statistics(library: str):
    graph, x = chain(library, "norm", "drop"), data(8)
    variables = graph.init(jax.random.key(0), x, train=True)
    np.testing.assert_array_equal(variables["batch_stats"]["norm"]["mean"], np.zeros(4))
    assert set(variables) == {"params", "batch_stats"}


@both
def test_statistics_that_cannot_be_kept_are_refused(library: str):
    graph, x = chain(library, "norm"), data(8)
    variables = graph.init(jax.random.key(0), x)
    with pytest.raises(flax.errors.ModifyScopeVariableError, match="batch_stats"):
        graph.apply(variables, x, train=True)


@both
def test_dropout_takes_keys_from_rngs(library: str):
    graph, x = chain(library, "drop"), jnp.ones((400, 4))
    variables = graph.init(jax.random.key(0), x)
    assert jax.tree.leaves(variables) == []
    np.testing.assert_array_equal(graph.apply(variables, x), x)
    first, again, other = (
        graph.apply(variables, x, train=True, rngs={"dropout": jax.random.key(seed)}) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert set(np.unique(first)) == {0.0, 2.0}
    assert abs(float(first.mean()) - 1) < 0.1
    with pytest.raises((flax.errors.InvalidRngError, nas.GraphError), match="dropout"):
        graph.apply(variables, x, train=True)


@both
def test_dropouts_of_two_vertices_differ(library: str):
    x = nas.input_vertex("x", 4)
    graph = nas.Graph(x, [nas.layer(name, LAYERS[library]["drop"](4, 4), x) for name in ("a", "b")])
    a, b = graph.apply({}, jnp.ones((50, 4)), train=True, rngs={"dropout": jax.random.key(0)})
    assert (a != b).any()


@both
def test_equal_graphs_compile_once(library: str):
    one, two = (chain(library, "conv", "norm", "drop", "dense") for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    chex.clear_trace_counter()
    apply = jax.jit(chex.assert_max_traces(nas.apply, n=1), static_argnames=("train",))
    x = data(2, 5)
    variables = one.init(jax.random.key(0), x)
    np.testing.assert_allclose(apply(one, variables, x), one.apply(variables, x), rtol=1e-4, atol=1e-5)
    apply(two, two.init(jax.random.key(1), x), x)


@both
def test_a_mutated_graph_equals_one_made_at_that_size(library: str):
    graph, x = chain(library, "conv", "norm", "dense"), data(2, 5)
    mutation = nas.delta_nout(graph, graph.init(jax.random.key(0), x), {"conv": 2})
    made = LAYERS[library]
    source = nas.input_vertex("x", 4)
    conv = nas.layer("conv", made["conv"](4, 6), source)
    dense = nas.layer("dense", made["dense"](6, 4), nas.layer("norm", made["norm"](6, 6), conv))
    assert mutation.graph == nas.Graph(source, dense)


@both
def test_gradients_in_training(library: str):
    graph, x = chain(library, "conv", "norm", "drop", "dense"), data(3, 5)
    variables = graph.init(jax.random.key(0), x)

    def loss(params: Any) -> Any:
        output, updates = graph.apply(
            {**variables, "params": params}, x, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)}
        )
        return (output**2).mean(), updates

    (value, updates), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    assert np.isfinite(value)
    assert jax.tree.map(jnp.shape, gradients) == jax.tree.map(jnp.shape, variables["params"])
    assert all(np.abs(gradients[name]["kernel"]).max() > 0 for name in ("conv", "dense"))
    assert (updates["batch_stats"]["norm"]["mean"] != 0).all()


@both
def test_vmap_over_members_and_examples(library: str):
    graph, x = chain(library, "conv", "norm", "dense"), data(3, 5)
    variables = graph.init(jax.random.key(0), x)
    members = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), variables)
    outputs = jax.vmap(graph.apply, (0, None))(members, x)
    np.testing.assert_allclose(outputs[0], graph.apply(variables, x), rtol=1e-4, atol=1e-5)
    one_by_one = jax.vmap(lambda example: graph.apply(variables, example[None])[0])(x)
    np.testing.assert_allclose(one_by_one, outputs[0], rtol=1e-4, atol=1e-5)


@both
def test_inside_a_linen_module(library: str):
    graph, x = chain(library, "conv", "norm", "drop", "dense"), data(2, 5)
    module = graph.as_module()
    variables = module.init(jax.random.key(0), x)
    np.testing.assert_allclose(module.apply(variables, x), graph.apply(variables, x), rtol=1e-6)
    _, updates = module.apply(variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)})
    assert updates["batch_stats"]["norm"]["mean"].shape == (4,)


@both
def test_groups_of_a_convolution_stay_equally_large(library: str):
    """Four inputs and six outputs in two groups: either side changes by whole groups, or in every group alike."""
    x = nas.input_vertex("x", 3)
    below = nas.layer("below", LAYERS[library]["dense"](3, 4), x)
    layer = (
        nn.Conv(6, (1,), feature_group_count=2)
        if library == "linen"
        else nnx.Conv(4, 6, (1,), feature_group_count=2, rngs=nnx.Rngs(0))
    )
    graph = nas.Graph(x, nas.layer("post", LAYERS[library]["dense"](6, 2), nas.layer("grouped", layer, below)))
    variables = graph.init(jax.random.key(0), jnp.ones((2, 5, 3)))
    sizes = {name: handle.size for name, handle in graph.handles().items() if name.startswith("grouped")}
    assert sizes == {"grouped": 6, "grouped:groups": 2, "grouped:in_per_group": 2, "grouped:out_per_group": 3}
    for request, groups, shape in [
        ({"grouped:groups": -1}, 1, (1, 2, 3)),
        ({"grouped:groups": 1}, 3, (1, 2, 9)),
        ({"below": -2, "grouped:groups": 0}, 2, (1, 1, 6)),
        ({"grouped": 2, "below": 0}, 2, (1, 2, 8)),
    ]:
        mutation = nas.delta_nout(graph, variables, request)
        assert mutation.graph["grouped"].op.module.feature_group_count == groups
        assert mutation.variables["params"]["grouped"]["kernel"].shape == shape
        assert mutation.check(data(2, 5)[..., :3]).compared
    with pytest.raises(nas.InfeasibleError, match="Nearest sizes"):
        nas.delta_nout(graph, variables, {"grouped": -1})


@pytest.mark.parametrize(("window", "dilation", "keeps"), [(2, 1, True), (2, 2, False), (4, 2, False), (3, 2, True)])
def test_identity_of_dilated_windows(window: int, dilation: int, keeps: bool):
    """Between the taps of a dilated window of even size lies its centre."""
    graph, x = chain("linen", "dense"), data(2, 9)
    variables = graph.init(jax.random.key(0), x)
    mutation = nas.insert_vertex(
        graph, variables, "dense", lambda v: nas.layer("conv", nn.Conv(4, (window,), kernel_dilation=dilation), v)
    )
    assert mutation.check(x).compared is keeps
