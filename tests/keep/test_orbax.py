"""What is trained after a change goes through orbax and back, and the next step is the one that would have come."""

from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
import pytest
from flax import core, nnx

import naivenas_jax as nas

X = jax.random.normal(jax.random.key(1), (6, 3))
TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.linear_schedule(0.1, 0.0, 10)))


def through_orbax(path, tree):
    """The tree as a process restores it that knows its shapes, of which `nas.load` tells."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path, jax.tree.map(jnp.zeros_like, tree))


@pytest.fixture(scope="module")
def narrow():
    x = nas.input_vertex("x", 3)
    norm = nas.layer("norm", nn.BatchNorm(), nas.layer("hidden", nn.Dense(8, param_dtype=jnp.bfloat16), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), norm))
    return nas.delta_nout(graph, graph.init(jax.random.key(0), X), {"hidden": -3})


@partial(jax.jit, static_argnums=0)
def step(graph, variables, state):
    def loss(params):
        given = {"params": params, "batch_stats": variables["batch_stats"]}
        outputs, updates = graph.apply(given, X, train=True, mutable=["batch_stats"])
        return (outputs**2).mean(), updates

    gradients, updates = jax.grad(loss, has_aux=True)(variables["params"])
    changes, state = TX.update(gradients, state, variables["params"])
    return {"params": optax.apply_updates(variables["params"], changes), **updates}, state


@pytest.mark.parametrize("kind", [dict, core.freeze, nnx.State], ids=["dict", "FrozenDict", "nnx.State"])
def test_variables_and_optimizer_states(kind, narrow, tmp_path):
    variables, state = step(narrow.graph, narrow.variables, narrow.carry(TX.init(narrow.variables_before["params"])))
    nas.save(tmp_path / "net", narrow)
    graph, its_variables = nas.load(tmp_path / "net")
    kept = {"variables": kind(variables), "state": state, "key": jax.random.key_data(jax.random.key(3))}
    again = through_orbax(tmp_path / "state", kept)
    chex.assert_trees_all_equal(again, kept)
    loaded = jax.tree.unflatten(jax.tree.structure(its_variables), jax.tree.leaves(again["variables"]))
    chex.assert_trees_all_equal_shapes_and_dtypes(loaded, its_variables)
    wanted = step(narrow.graph, variables, state)
    chex.assert_trees_all_equal(step(graph, loaded, again["state"]), wanted)


@nnx.jit
def update(model, optimizer):
    model.train()
    optimizer.update(model, nnx.grad(lambda m: (m(X) ** 2).mean())(model))


def test_models_and_optimizers_of_nnx(narrow, tmp_path):
    model = narrow.graph.as_nnx(narrow.variables)
    optimizer = nnx.Optimizer(model, TX, wrt=nnx.Param)
    update(model, optimizer)
    kept = {"model": nnx.to_pure_dict(nnx.state(model)), "optimizer": nnx.to_pure_dict(nnx.state(optimizer))}
    again = through_orbax(tmp_path / "state", kept)
    nas.save(tmp_path / "net", narrow)
    graph, variables = nas.load(tmp_path / "net")
    other = graph.as_nnx(variables)
    its_optimizer = nnx.Optimizer(other, TX, wrt=nnx.Param)
    for name, part in (("model", other), ("optimizer", its_optimizer)):
        state = nnx.state(part)
        nnx.replace_by_pure_dict(state, again[name])
        nnx.update(part, state)
    for each, own in ((model, optimizer), (other, its_optimizer)):
        update(each, own)
    chex.assert_trees_all_equal(nnx.to_pure_dict(nnx.state(other)), nnx.to_pure_dict(nnx.state(model)))
    chex.assert_trees_all_equal(nnx.to_pure_dict(nnx.state(its_optimizer)), nnx.to_pure_dict(nnx.state(optimizer)))
