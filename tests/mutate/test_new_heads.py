"""A new head in one step: which neurons stay is said by `nas.to(size, keep=...)`."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import naivenas_jax as nas

X = jax.random.normal(jax.random.key(0), (3, 4))


class Classifier(nn.Module):
    classes: int = 10

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.classes, name="head")(nn.relu(nn.Dense(6, name="h")(x)))


def linen():
    return nas.from_linen(Classifier(), Classifier().init(jax.random.key(0), X), X)


def from_nnx():
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(nnx.Linear(4, 6, rngs=rngs), nnx.relu, nnx.Linear(6, 10, rngs=rngs))
    return nas.from_nnx(model, X)


def hand_written():
    x = nas.input_vertex("x", 4)
    graph = nas.Graph(x, nas.layer("head", nn.Dense(10), nas.layer("h", nn.Dense(6), x)))
    return graph, graph.init(jax.random.key(0), X)


NETWORKS = {"linen": (linen, "head"), "nnx": (from_nnx, "layers/2"), "hand-written": (hand_written, "head")}


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        (nas.to(37, keep=()), []),
        (nas.to(3, keep=[]), []),
        (nas.to(1000, keep=()), []),
        (nas.to(keep=[0, 3, 7]), [0, 3, 7]),
        (nas.to(12, keep=np.array([2, 9])), [2, 9]),
        (nas.to(37), [*range(10)]),
    ],
    ids=str,
)
def test_a_head_of_any_width(kind, asked, kept):
    make, head = NETWORKS[kind]
    graph, variables = make()
    new = nas.delta_nout(graph, variables, {head: asked}, max_new=1000 if asked.keep is None else None)
    out = new.graph.apply(new.variables, X)
    assert out.shape == (3, asked.size)
    assert new.indices(head).tolist() == [*kept, *[-1] * (asked.size - len(kept))]
    np.testing.assert_allclose(out[:, : len(kept)], graph.apply(variables, X)[:, kept], atol=1e-6)
    assert new.check(X).compared


def test_the_rest_of_the_network_and_its_moments_stay():
    graph, variables = linen()
    state = jax.tree.map(lambda a: a + jnp.ones_like(a), optax.adam(1e-2).init(variables["params"]))
    new = nas.delta_nout(graph, variables, {"head": nas.to(4, keep=[1])})
    carried = new.carry(state)[0].mu
    assert (carried["h"]["kernel"] == 1).all()
    assert (carried["head"]["kernel"] == np.array([1, 0, 0, 0])).all()
    assert nas.rebuild(Classifier(), new) == Classifier(classes=4)
    back, old = new.undo(new.variables)
    np.testing.assert_array_equal(back.apply(old, X), graph.apply(variables, X))


def test_utility_has_no_say():
    graph, variables = linen()
    against = {"head": np.array([-9.0, *[1.0] * 9]), "h": -np.ones(6)}
    new = nas.delta_nout(graph, variables, {"head": nas.to(3, keep=[0]), "h": nas.to(keep=[1, 4])}, utility=against)
    assert new.indices("head").tolist() == [0, -1, -1]
    assert new.indices("h").tolist() == [1, 4]
    small = nas.resize(graph, variables, request={"head": nas.to(3, keep=[0, 9])}, max_params=0.6)
    assert small.indices("head").tolist() == [0, 9, -1]


def test_what_is_tied_stays_together():
    x = nas.input_vertex("x", 4)
    a, b = nas.layer("a", nn.Dense(4), x), nas.layer("b", nn.Dense(4), x)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), a + b))
    variables = graph.init(jax.random.key(0), X)
    assert nas.delta_nout(graph, variables, {"a": nas.to(keep=[1, 2])}).indices("b").tolist() == [1, 2]
    with pytest.raises(nas.RequestError, match=r"'a' and 'b' drop a neuron and keep one that is tied|'b' and 'a'"):
        nas.delta_nout(graph, variables, {"a": nas.to(keep=[1, 2]), "b": nas.to(keep=[0, 2])})
    kept = nas.immutable_vertex("fixed", nn.softmax, graph["a"])
    frozen = nas.Graph(x, nas.layer("out", nn.Dense(2), kept))
    variables = frozen.init(jax.random.key(0), X)
    with pytest.raises(nas.InfeasibleError, match="'a' cannot drop the neurons that keep= leaves out: 'fixed' is"):
        nas.delta_nout(frozen, variables, {"a": nas.to(4, keep=[0])})


def test_neurons_that_are_combinations_are_named_by_their_factors():
    x = nas.input_vertex("x", 4)
    grouped = nas.layer("conv", nn.Conv(6, (3,), feature_group_count=2), x)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), grouped))
    variables = graph.init(jax.random.key(0), jnp.ones((1, 5, 4)))
    with pytest.raises(nas.RequestError, match="keep= of 'conv': its neurons are combinations"):
        nas.delta_nout(graph, variables, {"conv": nas.to(keep=[0, 1, 2, 3])})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nas.to(1, keep=[1, 2]), "cannot keep 2 neurons"),
        (lambda: nas.to(keep=[2, 1]), "ascending order.*sorted"),
        (lambda: nas.to(keep=[1, 1]), "ascending order, each once"),
        (lambda: nas.to(keep="ab"), "positions of the neurons that stay"),
        (lambda: nas.to(keep=[-1]), "positions of the neurons that stay"),
        (lambda: nas.to(keep=3), "positions of the neurons that stay"),
        (lambda: nas.to(), "whole number"),
        (lambda: nas.relaxed(nas.to(keep=[1])), "says what exactly"),
        (lambda: nas.delta_nout(*hand_written(), {"head": nas.to(keep=[10])}), "neurons 0 to 9"),
    ],
)
def test_what_keep_does_not_take(make, message):
    with pytest.raises(nas.RequestError, match=message):
        make()
