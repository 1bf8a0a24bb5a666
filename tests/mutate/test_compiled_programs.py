"""Verbs compile nothing: functions and layers are read from their jaxprs. Counted with ``nas.count_programs``.

The answers that jaxprs give are compared with what running the functions on numbers gives.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import naivenas_jax as nas
from naivenas_jax.graph.vertices import independence_check as checking

SIZE = 11


def network() -> nas.Graph:
    x = nas.input_vertex("x", 3)
    v = nas.invariant_vertex("act", nn.relu, nas.layer("c1", nn.Conv(SIZE, (3, 3)), x))
    v = nas.layer("c2", nn.Conv(SIZE, (3, 3)), nas.layer("norm", nn.BatchNorm(), v))
    v = nas.invariant_vertex("pool", lambda x: nn.max_pool(x, (2, 2), strides=(2, 2)), v)
    v = nas.invariant_vertex("mean", lambda x: x.mean((1, 2)), v)
    return nas.Graph(x, nas.layer("out", nn.Dense(2), v))


@pytest.fixture(scope="module")
def built() -> tuple[nas.Graph, dict]:
    graph = network()
    shapes = jax.eval_shape(graph.init, jax.random.key(0), jnp.ones((1, 8, 8, 3)))
    draws = np.random.default_rng(0)
    return graph, jax.tree.map(lambda a: jnp.asarray(draws.uniform(0.1, 1, a.shape), a.dtype), shapes)


VERBS = {
    "fewer": lambda g, v: nas.delta_nout(g, v, {"c1": -2}),
    "more": lambda g, v: nas.delta_nout(g, v, {"c1": 3}),
    "split": lambda g, v: nas.delta_nout(g, v, {"c1": 3}, new="split"),
    "budget": lambda g, v: nas.resize(g, v, max_params=0.6),
    "another activation": lambda g, v: nas.replace_layer(g, v, "act", lambda x: nas.invariant_vertex("a", nn.gelu, x)),
    "a lambda": lambda g, v: nas.replace_layer(g, v, "act", lambda x: nas.invariant_vertex("a", lambda x: x**2, x)),
    "an inserted convolution": lambda g, v: nas.insert_vertex(
        g, v, "c1", lambda x: nas.layer("n", nn.Conv(SIZE, (3, 3)), x)
    ),
    "an inserted norm": lambda g, v: nas.insert_vertex(g, v, "c1", lambda x: nas.layer("n", nn.BatchNorm(), x)),
    "an inserted layer of zeros": lambda g, v: nas.insert_vertex(
        g, v, "mean", lambda x: nas.layer("n", nn.Dense(5), x), new="zeros"
    ),
    "removed": lambda g, v: nas.remove_vertex(g, v, "norm"),
    "undone": lambda g, v: nas.delta_nout(g, v, {"c1": -2}).undo(nas.delta_nout(g, v, {"c1": -2}).variables),
}


@pytest.mark.parametrize("change", VERBS.values(), ids=VERBS)
def test_no_verb_compiles_a_program(built, change):
    jax.random.fold_in(jax.random.key(0), 1)  # keys, once in a process
    with nas.count_programs() as programs:
        change(*built)
    assert programs.names == ()


INSERTED = {
    "linen": (lambda: nn.Conv(SIZE, (5, 5)), 1),
    "nnx": (lambda: nnx.Conv(SIZE, SIZE, (5, 5), rngs=nnx.Rngs(0)), 1),
    "without variables": (lambda: nn.Dropout(0.5, deterministic=True), 0),
}


@pytest.mark.parametrize(("make", "most"), INSERTED.values(), ids=INSERTED)
def test_only_the_initialiser_of_what_is_inserted_is_a_program(built, make, most):
    layer = make()
    with nas.count_programs() as programs:
        first = nas.insert_vertex(*built, "c1", lambda x: nas.layer("n", layer, x), new="init")
    assert programs.count <= most
    with nas.count_programs() as programs:
        again = nas.insert_vertex(*built, "c1", lambda x: nas.layer("n", layer, x), new="init")
    assert programs.count == 0
    for a, b in zip(jax.tree.leaves(first.variables), jax.tree.leaves(again.variables), strict=True):
        np.testing.assert_array_equal(a, b)


def test_initial_variables_are_those_of_the_layer(built):
    layer, key = nn.Conv(SIZE, (5, 5)), jax.random.key(3)
    made = nas.insert_vertex(*built, "c1", lambda x: nas.layer("n", layer, x), new="init", rng=key).variables["params"]
    drawn = np.asarray(made["n"]["kernel"])
    assert made["n"]["kernel"].shape == (5, 5, SIZE, SIZE)
    assert drawn.std() == pytest.approx((25 * SIZE) ** -0.5, rel=0.1)
    assert not np.asarray(made["n"]["bias"]).any()


ACTIVATIONS = {
    name: getattr(nn, name)
    for name in (
        *("celu", "elu", "gelu", "glu", "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu", "log_sigmoid"),
        *("log_softmax", "relu", "relu6", "selu", "sigmoid", "silu", "soft_sign", "softmax", "softplus", "standardize"),
        *("swish", "tanh"),
    )
}
FUNCTIONS = {
    **ACTIVATIONS,
    "max pool": lambda x: nn.max_pool(x, (2, 2), strides=(2, 2)),
    "mean pool": lambda x: nn.avg_pool(x, (2, 2), strides=(1, 1), padding="SAME"),
    "pool of neurons": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 1, 2), (1, 1, 1, 1), "SAME"),
    "mean of positions": lambda x: x.mean((1, 2)),
    "mean of all": lambda x: jnp.broadcast_to(x.mean(), x.shape),
    "centred": lambda x: x - x.mean(-1, keepdims=True),
    "of unit length": lambda x: x / (1 + jnp.linalg.norm(x, axis=-1, keepdims=True)),
    "over their number": lambda x: x / x.shape[-1],
    "by position": lambda x: x * jnp.arange(x.shape[-1]),
    "by place in a picture": lambda x: x * jnp.arange(x.shape[1])[:, None, None] if x.ndim == 4 else x,
    "reversed": lambda x: x[..., ::-1],
    "mirrored picture": lambda x: x[:, ::-1],
    "rolled": lambda x: jnp.roll(x, 1, -1),
    "sorted": lambda x: jnp.sort(x, -1),
    "sorted along the batch": lambda x: jnp.sort(x, 0),
    "running sum": lambda x: jnp.cumsum(x, -1),
    "running sum of positions": lambda x: jnp.cumsum(x, 1),
    "shuffled": lambda x: jnp.moveaxis(x.reshape(*x.shape[:-1], 2, -1), -1, -2).reshape(x.shape),
    "outer": lambda x: (x[..., None] * x[..., None, :]).sum(-1),
    "enlarged": lambda x: jax.image.resize(x, (x.shape[0], 16, 16, x.shape[-1]), "bilinear"),
    "first": lambda x: x + x[..., :1],
    "constant": lambda x: jnp.ones_like(x),
    "a number of all": lambda x: x + 0 * x.shape[-1],
    "largest": lambda x: x * (x >= x.max(-1, keepdims=True)),
    "which is largest": lambda x: x + jnp.argmax(x, -1, keepdims=True),
    "some at a size": lambda x: x * (1.0 if x.shape[-1] < 9 else jnp.arange(x.shape[-1]) + 1.0),
    "looks at numbers": lambda x: x if float(x.sum()) > 0 else 2 * x,
    "loops": lambda x: lax.fori_loop(0, 3, lambda i, v: v * 0.5, x),
    "checkpointed": jax.checkpoint(lambda x: jnp.tanh(x) * 2),
    "vmapped": jax.vmap(lambda row: jnp.tanh(row)),
    "flattened and back": lambda x: x.reshape(-1, x.shape[-1]).reshape(x.shape) * 2,
    "transposed and back": lambda x: jnp.swapaxes(jnp.exp(jnp.swapaxes(x, 1, -1)), 1, -1),
    "padded": lambda x: jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))),
    "two beside one another": lambda x: jnp.concatenate([x, 2 * x], 1),
    "whole numbers": lambda x: jnp.round(x).astype(jnp.int32),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_what_a_jaxpr_says_is_what_numbers_say(function, monkeypatch):
    read = checking.probe.__wrapped__(function, 1, SIZE)
    monkeypatch.setattr(checking, "_read", lambda *_: None)
    checking._keeping.cache_clear()
    assert read == checking.probe.__wrapped__(function, 1, SIZE)
    checking._keeping.cache_clear()


READ = {
    (4,): ["gelu", "silu", "softmax", "log_softmax", "centred", "of unit length", "checkpointed"],
    (4, 8, 8): ["max pool", "mean pool", "mean of positions", "enlarged", "padded", "by place in a picture"],
}


@pytest.mark.parametrize(("leading", "name"), [(leading, name) for leading, names in READ.items() for name in names])
def test_usual_functions_are_not_run(leading, name):
    assert checking._read(FUNCTIONS[name], 1, leading, (6, SIZE)) is not None


def test_several_arrays_and_keywords():
    both = checking._read(lambda a, b: jnp.maximum(a, b) + jax.nn.softmax(a * b), 2, (4,), (6, SIZE))
    assert both is not None
    assert both.coupled

    def in_training(x, *, train=False):
        return jax.nn.softmax(x) if train else x

    assert checking.probe(in_training, 1, SIZE).coupled


def test_a_check_is_one_program_for_each_graph(built):
    picture = jnp.ones((2, 8, 8, 3))
    first, second = (nas.delta_nout(*built, {"c1": -2}, utility={"c1": scores}) for scores in (range(SIZE), SIZE * [1]))
    assert first.plan != second.plan
    with nas.count_programs() as programs:
        first.check(picture)
    assert programs.count == 2
    with nas.count_programs() as programs:
        first.check(picture)
        second.check(picture)  # the same graphs, and other neurons
    assert programs.count == 0


def test_networks_that_look_at_numbers_are_checked_without_a_program():
    x = nas.input_vertex("x", 3)
    looks = nas.invariant_vertex("looks", lambda x: x if float(jnp.sum(x * 0)) == 0 else -x, x)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(4), looks)))
    variables = graph.init(jax.random.key(0), jnp.ones((1, 3)))
    assert nas.delta_nout(graph, variables, {"hidden": -1}).check(jnp.ones((5, 3))).compared
