"""A carried nnx model can be called, or the error has the lines with which to go on."""

from __future__ import annotations

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import naivenas_jax as nas

X = jax.random.normal(jax.random.key(1), (2, 5, 4))
TX = optax.adam(1e-2)


class Reader(nnx.Module):
    """Its layers ask for their input by number, and an attention for its heads."""

    def __init__(self, rngs):
        self.up = nnx.Linear(4, 8, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.att = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.down = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.down(self.att(self.drop(nnx.relu(self.up(x)))))


class Halves(nnx.Module):
    """Splits at a number of its own, which no layer tells."""

    def __init__(self, rngs, width=8):
        self.width = width
        self.up, self.down = nnx.Linear(4, 2 * width, rngs=rngs), nnx.Linear(width, 3, rngs=rngs)

    def __call__(self, x):
        h = self.up(x)
        return self.down(h[..., : self.width] * nnx.sigmoid(h[..., self.width :]))


class Fixed(nnx.Module):
    def __init__(self, rngs):
        self.up, self.down = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.down(self.up(x)[..., :8].reshape(*x.shape[:-1], 8))


class Shares(nnx.Module):
    """A layer under two attributes, one that comes first within another module, and a parameter of two layers."""

    def __init__(self, rngs):
        self.inner = nnx.Linear(8, 8, rngs=rngs)
        self.again, self.blocks = nnx.List([self.inner] * 11), nnx.Dict(mid=self.inner)
        self.up, self.down, self.read = (nnx.Linear(4, 8, rngs=rngs) for _ in range(3))
        self.down.kernel = self.up.kernel
        self.out, self.table = nnx.Linear(8, 3, rngs=rngs), self.read.kernel

    def __call__(self, x):
        h = nnx.relu(self.up(x) + self.down(x) @ self.table[...].T @ self.table[...])
        for block in (self.inner, *self.again[:2], self.blocks["mid"]):
            h = nnx.relu(block(h))
        return self.out(h)


class Trainer(nnx.Module):
    def __init__(self, model, optimizer):
        self.model, self.average, self.optimizer = model, nnx.clone(model), optimizer


def trained(kind, **kwargs):
    model = kind(nnx.Rngs(0), **kwargs)
    optimizer = nnx.Optimizer(model, TX, wrt=nnx.Param)
    step(model, optimizer)
    return model, optimizer


def step(model, optimizer):
    optimizer.update(model, nnx.grad(lambda m: (m(X) ** 2).mean())(model))


def computes(model, mutation):
    model = nnx.clone(model)
    model.eval()
    return np.allclose(model(X), mutation.graph.apply(mutation.variables, X), atol=1e-6)


def test_models_follow_one_mutation_after_another():
    model, optimizer = trained(Reader)
    model.train()
    network = nas.from_nnx(model, X)
    for request in ({"up": -2}, {"att/query:heads": -1}, {"up": 3}):
        mutation = nas.delta_nout(*network, request)
        held = mutation.carry({"model": model, "average": nnx.clone(model), "opt": optimizer})
        assert computes(held["model"], mutation)
        assert computes(held["average"], mutation)
        assert not held["model"].drop.deterministic, "it stays in training"
        model, optimizer, network = held["model"], held["opt"], tuple(mutation)
        step(model, optimizer)
        network = mutation.graph, {"params": nnx.to_pure_dict(nnx.state(model, nnx.Param))}
    assert (model.att.num_heads, model.up.out_features, model.att.in_features) == (1, 9, 9)


def test_the_numbers_of_a_class_follow():
    model, optimizer = trained(Halves)
    mutation = nas.delta_nout(*nas.from_nnx(model, X), {"up": -4})
    carried, _ = mutation.carry((model, optimizer))
    assert carried.width == 6
    assert computes(carried, mutation)
    assert model.width == 8, "the old one is untouched"


def test_shared_parts_of_a_model_are_carried_once_and_stay_shared():
    """A layer that a model holds twice was an error: its second place is the path of no variable."""
    model, optimizer = trained(Shares)
    for change in (-2, 3):
        mutation = nas.delta_nout(*nas.from_nnx(model, X), {"down": change})
        held = mutation.carry({"trainer": Trainer(model, optimizer), "model": model})
        (carried, its_optimizer), report = mutation.carry((model, optimizer), report=True)
        assert not report.restarted
        for each in (carried, held["model"], held["trainer"].model, held["trainer"].average):
            assert computes(each, mutation)
            assert all(block is each.inner for block in (*each.again, each.blocks["mid"]))
            assert each.down.kernel is each.up.kernel
            assert each.table is each.read.kernel
        assert held["model"] is not held["trainer"].model
        assert carried.inner.in_features == model.inner.in_features + change
        assert model.again[0] is model.inner, "the old one is untouched"
        step(carried, its_optimizer)
        assert carried.table is carried.read.kernel
        model, optimizer = carried, its_optimizer


def test_a_fresh_start_says_what_is_shared():
    model, optimizer = trained(Shares)
    mutation = nas.delta_nout(*nas.from_nnx(model, X), {"down": -2})
    start = mutation.carry(model)
    carried = mutation.carry(
        {"model": model, "opt": optimizer}, fresh={"model": start, "opt": nnx.Optimizer(start, TX, wrt=nnx.Param)}
    )
    assert carried["model"].again[3] is carried["model"].inner
    assert computes(carried["model"], mutation)


def test_models_inside_a_module():
    trainer = Trainer(*trained(Reader))
    mutation = nas.delta_nout(*nas.from_nnx(trainer.model, X), {"up": -2})
    carried = mutation.carry(trainer)
    assert computes(carried.model, mutation)
    assert computes(carried.average, mutation)
    step(carried.model, carried.optimizer)


def test_parts_of_a_model_and_layers_of_a_drawn_graph():
    model, _ = trained(Reader)
    mutation = nas.delta_nout(*nas.from_nnx(model, X), {"up": -2})
    part = mutation.carry({"att": model.att})["att"]
    wanted, _ = mutation.carry((model, TX.init({"a": jnp.ones(())})))
    np.testing.assert_array_equal(part(jnp.ones((1, 2, 6))), wanted.att(jnp.ones((1, 2, 6))))
    rngs = nnx.Rngs(0)
    x = nas.input_vertex("x", 4)
    graph = nas.Graph(
        x, nas.layer("down", nnx.Linear(8, 3, rngs=rngs), nas.layer("up", nnx.Linear(4, 8, rngs=rngs), x))
    )
    drawn = nas.delta_nout(graph, graph.init(jax.random.key(0), X), {"up": -2})
    carried = drawn.carry(Fixed(nnx.Rngs(0)))
    assert (carried.up.out_features, carried.down.in_features) == (6, 6)


@pytest.mark.parametrize("edit", ["fixed", "inserted", "removed"])
def test_the_lines_of_the_refusal_work(edit):
    model, optimizer = trained(Fixed if edit == "fixed" else Reader)
    if edit == "removed":
        network = nas.from_nnx(model, X)
        mutation = nas.remove_vertex(*network, "drop")
    else:
        network = nas.from_nnx(model, X)
        mutation = (
            nas.delta_nout(*network, {"up": -2})
            if edit == "fixed"
            else nas.insert_vertex(*network, "up", lambda v: nas.layer("mid", nn.Dense(8), v))
        )
    with pytest.raises(nas.CarryError, match="Go on with") as error:
        mutation.carry(model)
    lines = "\n".join(re.findall(r"^  (\w+ = .*)$", str(error.value), re.M))
    assert lines.count("\n") == 1
    names = {"mutation": mutation, "nnx": nnx, "tx": TX, "optimizer": optimizer}
    exec(lines, names)
    moments = nnx.to_pure_dict(nnx.state(names["optimizer"]))["opt_state"][0]["mu"]["variables"]["params"]
    wanted = nnx.to_pure_dict(nnx.state(optimizer))["opt_state"][0]["mu"]["down"]["bias"]
    np.testing.assert_array_equal(moments["down"]["bias"], wanted)
    assert computes(names["model"], mutation)
    step(names["model"], names["optimizer"])


def test_a_graph_as_a_model_is_carried_on():
    model, optimizer = trained(Reader)
    network = nas.from_nnx(model, X)
    mutation = nas.insert_vertex(*network, "up", lambda v: nas.layer("mid", nn.Dense(8), v))
    going = mutation.graph.as_nnx(mutation.variables, rngs=nnx.Rngs(0))
    optimizer = mutation.carry(optimizer, fresh=nnx.Optimizer(going, TX, wrt=nnx.Param))
    for edit in (
        lambda *network: nas.delta_nout(*network, {"mid": -3}),
        lambda *network: nas.insert_vertex(*network, "mid", lambda v: nas.layer("more", nn.Dense(5), v)),
        lambda *network: nas.remove_vertex(*network, "drop"),
    ):
        variables = {"params": nnx.to_pure_dict(nnx.state(going, nnx.Param))["variables"]["params"]}
        mutation = edit(going.graph, variables)
        if mutation.plan.created:
            with pytest.raises(nas.CarryError, match="Go on with"):
                mutation.carry(going)
            going = mutation.graph.as_nnx(mutation.variables)
            optimizer = mutation.carry(optimizer, fresh=nnx.Optimizer(going, TX, wrt=nnx.Param))
        else:
            going, optimizer = mutation.carry((going, optimizer))
        assert going.graph == mutation.graph
        assert computes(going, mutation)
        step(going, optimizer)
