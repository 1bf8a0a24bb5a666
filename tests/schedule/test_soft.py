"""Soft mode against hard mode: the same outputs and training, on random, hand-written and imported networks."""

import random

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from strategies import random_graph, random_inputs, random_utility, random_variables

import naivenas_jax as nas


def tuple_of(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


def agree(mutation, variables, inputs):
    """The whole network with masks computes what the small one does."""
    masks = nas.soft_masks(mutation)
    wanted = tuple_of(mutation.graph.apply(mutation.variables, *inputs))
    found = tuple_of(mutation.before.apply(nas.masked(variables, masks), *inputs))
    for vertex, soft, hard in zip(mutation.before.outputs, found, wanted, strict=True):
        scale = max(1.0, float(np.abs(hard).max(initial=0.0)))
        kept = np.asarray(soft)[..., mutation.indices(vertex.name)]
        np.testing.assert_allclose(kept / scale, np.asarray(hard) / scale, atol=2e-3)


@pytest.mark.parametrize("block", range(2))
def test_random_networks(block):
    compared = changed = refused = 0
    for seed in range(3000 + 12 * block, 3012 + 12 * block):
        rng = random.Random(seed)
        graph = random_graph(rng, steps=(3, 9))
        variables, inputs = random_variables(graph, seed), random_inputs(graph, seed)
        mutation = nas.resize(graph, variables, utility=random_utility(rng, graph), free_outputs=rng.random() < 0.3)
        if any(axis in graph.ties.coupled for axis in mutation.plan.changed) and not mutation.check(*inputs).compared:
            with pytest.raises(nas.StructureError, match="coupled"):
                nas.soft_masks(mutation)
            refused += 1
            continue
        agree(mutation, variables, inputs)
        compared += 1
        changed += bool(mutation.plan.changed)
    assert changed > refused
    assert compared + refused == 12


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(8, (3, 3), name="stem")(x)))
        x = x + nn.Conv(8, (3, 3), name="back")(nn.relu(nn.Conv(12, (3, 3), name="inner")(x)))
        depthwise = nn.Conv(8, (3, 3), feature_group_count=8, name="depthwise")(x)
        x = jnp.concatenate([x, depthwise], -1).mean((1, 2))
        return nn.Dense(3, name="head")(nn.gelu(nn.Dense(10, name="hidden")(x)))


def imported():
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 3))
    model = Residual()
    return (*nas.from_linen(model, model.init(jax.random.key(1), x), x), x)


@pytest.mark.parametrize("share", [0.7, 0.3])
def test_an_imported_network(share):
    graph, variables, x = imported()
    agree(nas.resize(graph, variables, max_params=share), variables, [x])


def test_shapes_of_masks_do_not_depend_on_what_is_dropped():
    graph, variables = dense_network()
    x, traces = jnp.ones((2, 4)), []

    @jax.jit
    def forward(variables, masks, x):
        traces.append(None)
        return nas.apply(graph, nas.masked(variables, masks), x)

    for share in (0.9, 0.5, 0.2):
        forward(variables, nas.soft_masks(nas.resize(graph, variables, max_params=share)), x)
    forward(variables, nas.Soft.whole(graph, variables).masks, x)
    assert len(traces) == 1


def dense_network(width=24):
    x = nas.input_vertex("x", 4)
    a = nas.invariant_vertex("act", jnp.tanh, nas.layer("a", nn.Dense(width), x))
    b = nas.layer("b", nn.Dense(width), a)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), (a + b).named("sum")))
    return graph, graph.init(jax.random.key(0), jnp.ones((1, 4)))


def test_what_is_re_fitted_cannot_be_masked():
    graph, variables = dense_network()
    data = jax.random.normal(jax.random.key(1), (8, 4))
    fitted = nas.compensate(nas.resize(graph, variables, max_params=0.5), [data])
    for use in (nas.soft_masks, lambda mutation: nas.Soft.whole(graph, variables).after(mutation, variables)):
        with pytest.raises(nas.StructureError, match="those after are others: re-fitted on data"):
            use(fitted)


def test_wrong_arguments():
    graph, variables = dense_network()
    with pytest.raises(nas.VariablesError, match="have no variables"):
        nas.Soft.whole(graph, {"params": {}})
    with pytest.raises(nas.PlanError, match=r"must be a nas.Mutation.*found Graph"):
        nas.soft_masks(graph)
    soft = nas.Soft.whole(graph, variables)
    with pytest.raises(nas.PlanError, match="of another network than these masks"):
        soft.after(nas.resize(*dense_network(20), max_params=0.5), variables)
    soft = soft.after(nas.resize(graph, variables, max_params=0.5), variables)
    with pytest.raises(nas.PlanError):
        soft.after(nas.resize(graph, variables, max_params=0.3), variables)


class Encoder(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8, name="first")(x)
        x = x + nn.MultiHeadDotProductAttention(2, name="attention")(nn.LayerNorm(name="norm")(x))
        return nn.Dense(2, name="last")(x)


def test_everything_coupled_is_named_at_once():
    x, model = jax.random.normal(jax.random.key(0), (2, 3, 4)), Encoder()
    graph, variables = nas.from_linen(model, model.init(jax.random.key(1), x), x)
    with pytest.raises(nas.StructureError, match="coupled") as caught:
        nas.soft_masks(nas.delta_nout(graph, variables, {"first": -2, "attention/key:features": -1}))
    request = eval(str(caught.value).split("request=")[1].rstrip("."))  # what the message says works
    assert len(request) == 2  # the residual width, and the query-key features
    agree(nas.resize(graph, variables, max_params=0.8, request=request), variables, [x])


def test_soft_training_is_hard_training():
    """The same schedule, soft and hard: at every step the same loss, at the end the same small network."""
    graph, variables = dense_network()
    schedule = nas.gradual(graph, variables, begin=2, end=12, every=4, max_params=0.3)
    data = jax.random.normal(jax.random.key(3), (13, 16, 4))
    tx, compiled = optax.adam(0.01), {"hard": [], "soft": []}

    def loss(variables, graph, x):
        return jnp.mean((nas.apply(graph, variables, x) - jnp.sin(x[:, :2])) ** 2)

    @jax.jit
    def hard_step(graph, variables, state, x):
        compiled["hard"].append(None)
        value, gradient = jax.value_and_grad(loss)(variables, graph, x)
        updates, state = tx.update(gradient["params"], state, variables["params"])
        return {"params": optax.apply_updates(variables["params"], updates)}, state, value

    @jax.jit
    def soft_step(variables, masks, state, x):
        compiled["soft"].append(None)
        value, gradient = jax.value_and_grad(lambda v: loss(nas.masked(v, masks), graph, x))(variables)
        updates, state = tx.update(gradient["params"], state, variables["params"])
        return {"params": optax.apply_updates(variables["params"], updates)}, state, value

    small, own, own_state = graph, variables, tx.init(variables["params"])
    soft, whole, state = nas.Soft.whole(graph, variables), variables, tx.init(variables["params"])
    shapes = set()
    for step, x in enumerate(data):
        small, own, own_state = schedule.prune(step, small, own, own_state)
        soft = schedule.soft(step, soft, whole)
        shapes.add(small.nout("a"))
        own, own_state, hard_loss = hard_step(small, own, own_state, x)
        whole, state, soft_loss = soft_step(whole, soft.masks, state, x)
        assert float(hard_loss) == pytest.approx(float(soft_loss), rel=1e-4)
    hardened = soft.harden(whole)
    assert hardened.graph == small
    assert len(shapes) > 2
    assert len(compiled["hard"]) == len(shapes)
    assert len(compiled["soft"]) == 1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), hardened.variables, own)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), hardened.carry(state), own_state)


def normalised():
    x = nas.input_vertex("x", 4)
    norm = nas.layer("norm", nn.LayerNorm(), nas.layer("a", nn.Dense(8), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), norm))
    return graph, graph.init(jax.random.key(0), jnp.ones((1, 4)))


@pytest.mark.parametrize(
    ("mutate", "message"),
    [
        (lambda: nas.delta_nout(*normalised(), {"a": -2}), "loses neurons and is coupled: "),
        (lambda: nas.delta_nout(*dense_network(), {"a": 2}), "has new neurons"),
        (lambda: nas.delta_nout(*dense_network(), {"x": -1}), "keep the inputs of the graph, but 'x' shrinks"),
        (lambda: nas.remove_vertex(*dense_network(), "b"), "the structure changed"),
    ],
)
def test_what_cannot_be_soft(mutate, message):
    mutation = mutate()
    with pytest.raises(nas.StructureError, match=message):
        nas.soft_masks(mutation)
