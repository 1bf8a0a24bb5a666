"""Inputs and outputs of imported models change when a request says so, by the rule of hand-written graphs."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import naivenas_jax as nas

X = jax.random.normal(jax.random.key(1), (2, 5, 3))


class Net(nn.Module):
    """Classes, and the features that they are made of; the features are a residual sum."""

    classes: int = 4

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        h = nn.Conv(6, (3,), name="stem")(x)
        h = nn.BatchNorm(use_running_average=not train, name="norm")(h)
        h = h + nn.Dense(6, name="block")(nn.relu(h))
        return nn.Dense(self.classes, name="head")(h.mean(1)), h


@pytest.fixture(name="imported")
def _imported() -> tuple[Any, Any]:
    return nas.from_linen(Net(), Net().init(jax.random.key(0), X), X)


@pytest.mark.parametrize("name", ["output0", "head"])
def test_an_output_changes_when_a_request_names_it_or_the_layer_that_makes_it(imported: Any, name: str) -> None:
    graph, variables = imported
    mutation = nas.delta_nout(graph, variables, {name: -2}, utility={"output0": [4.0, 1.0, 3.0, 2.0]})
    smaller, its = mutation
    assert mutation.indices("output0").tolist() == mutation.indices("head").tolist() == [0, 2]
    assert mutation.check(X).compared
    own, features = Net(classes=2).apply(its, X)
    np.testing.assert_allclose(smaller.apply(its, X)[0], own, rtol=1e-5)
    head = variables["params"]["head"]
    jax.tree.map(lambda mine, was: np.testing.assert_array_equal(mine, was[..., [0, 2]]), its["params"]["head"], head)
    # A product of other shape may add up in another order: how, is up to the CPU.
    np.testing.assert_allclose(own, Net().apply(variables, X)[0][:, [0, 2]], rtol=1e-6)
    np.testing.assert_array_equal(features, Net().apply(variables, X)[1])
    assert (smaller.nout("output0"), smaller.nout("output1")) == (2, 6)
    assert smaller.apply(its, jnp.ones((7, 4, 3)))[0].shape == (7, 2)
    training = {"train": True, "mutable": ["batch_stats"]}
    assert smaller.apply(its, X, **training)[0][0].shape == (2, 2)
    before, restored = mutation.undo(its)
    assert before == graph
    jax.tree.map(np.testing.assert_array_equal, restored, variables)


def test_outputs_keep_every_neuron_unless_a_request_names_them(imported: Any) -> None:
    graph, variables = imported
    with pytest.raises(nas.InfeasibleError, match="'output1' is an output of the graph and keeps every neuron"):
        nas.delta_nout(graph, variables, {"stem": -1})
    for request, how in (({"stem": -1}, {"free_outputs": True}), ({"output1": -1}, {}), ({"output1": 3}, {})):
        mutation = nas.delta_nout(graph, variables, request, **how)
        assert mutation.check(X).compared
        assert mutation.graph.apply(mutation.variables, X)[1].shape[-1] == mutation.graph.nout("output1") != 6


def test_resize_keeps_inputs_and_outputs(imported: Any) -> None:
    graph, variables = imported
    sizes = [nas.resize(graph, variables, utility=lambda axis: -1.0, free_outputs=free) for free in (False, True)]
    ends = [[m.graph.nout(name) for name in ("x", "output0", "output1")] for m in sizes]
    assert ends == [[3, 4, 6], [3, 1, 1]]


@pytest.mark.parametrize("change", [-1, 2])
def test_an_input_changes_when_a_request_names_it(imported: Any, change: int) -> None:
    graph, variables = imported
    mutation = nas.delta_nout(graph, variables, {"x": change}, utility={"x": [3.0, 1.0, 2.0]})
    smaller, its = mutation
    assert its["params"]["stem"]["kernel"].shape == (3, 3 + change, 6)
    assert mutation.check(X).compared
    source = mutation.indices("x")
    x = jnp.where(source < 0, 7.0, X[..., np.maximum(source, 0)])
    wanted = Net().apply(variables, X.at[:, :, [1]].set(0) if change < 0 else X)[0]
    np.testing.assert_allclose(smaller.apply(its, x)[0], wanted, rtol=1e-4, atol=1e-5)
    assert jax.jit(smaller.apply)(its, jnp.ones((7, 9, 3 + change)))[0].shape == (7, 4)
    state = mutation.carry(optax.adam(1e-3).init(variables["params"]))
    assert state[0].mu["stem"]["kernel"].shape == its["params"]["stem"]["kernel"].shape
    jax.tree.map(np.testing.assert_array_equal, mutation.undo(its)[1], variables)
    with pytest.raises(nas.NaiveNASError, match=f"'x' has {3 + change} neurons"):
        smaller.apply(its, X)


def test_inputs_of_indices_and_single_numbers_are_fixed() -> None:
    def fn(v: Any, tokens: Any, scale: Any) -> Any:
        return v["params"]["table"][tokens] * scale[:, None, None]

    variables = {"params": {"table": jnp.ones((5, 4))}}
    graph, variables = nas.from_function(fn, variables, jnp.ones((2, 3), int), jnp.ones(2))
    assert graph.fixed()["tokens"] == graph.fixed()["scale"] == "it is an input of the model, read by position or index"
    assert nas.delta_nout(graph, variables, {"output": -1}).variables["params"]["table"].shape == (5, 3)


def test_an_input_that_is_summed_up_along_its_neurons_is_fixed() -> None:
    graph, variables = nas.from_function(
        lambda v, x: jnp.cumsum(x, -1) @ v["params"]["w"], {"params": {"w": jnp.ones((3, 4))}}, X
    )
    assert "cumsum runs along it" in graph.fixed()["x"]
    with pytest.raises(nas.InfeasibleError, match="cumsum runs along it"):
        nas.delta_nout(graph, variables, {"x": -1})
