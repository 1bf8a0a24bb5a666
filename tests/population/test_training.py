"""Networks are trained population by population as each is by itself, and nothing compiles again for the next ones."""

from concurrent.futures import ThreadPoolExecutor

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import naivenas_jax as nas

DATA = jax.random.normal(jax.random.key(1), (16, 5))
TX = optax.adam(0.05, eps=1e-3)


def seed():
    x = nas.input_vertex("x", 5)
    hidden = nas.layer(
        "norm", nn.BatchNorm(use_running_average=False), nas.layer("hidden", nn.Dense(6, use_bias=False), x)
    )
    deep = nas.invariant_vertex("act", nn.tanh, nas.layer("deep", nn.Dense(4), hidden))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), deep))
    return graph, graph.init(jax.random.key(0), DATA)


def candidates():
    """Two structures, several widths, in no order."""
    graph, variables = seed()
    other = nas.insert_vertex(graph, variables, "act", lambda v: nas.layer("new", nn.Dense(v.nout), v))
    return [
        nas.delta_nout(graph, variables, {"hidden": -2}),
        other,
        nas.delta_nout(graph, variables, {"deep": +3}),
        nas.delta_nout(*other, {"hidden": +2, "new": -1}),
    ]


def loss_of(apply, params, stats):
    outputs, updates = apply({"params": params, "batch_stats": stats}, DATA, mutable=["batch_stats"])
    return ((outputs - DATA[:, :2]) ** 2).mean((-1, -2)), updates["batch_stats"]


@jax.jit
def step(population, params, stats, state):
    def loss(params):
        losses, updated = loss_of(population.apply, params, stats)
        return losses.sum(), (losses, updated)

    gradients, (losses, stats) = jax.grad(loss, has_aux=True)(params)
    updates, state = jax.vmap(TX.update)(gradients, state, params)
    return optax.apply_updates(params, updates), stats, state, losses


def train(population, state):
    params, stats = population.variables["params"], population.variables["batch_stats"]
    state = population.init(TX) if state is None else state
    for _ in range(3):
        params, stats, state, losses = step(population, params, stats, state)
    return {"params": params, "batch_stats": stats}, state, {"loss": losses}


def alone(graph, variables, state=None):
    params, stats = variables["params"], variables["batch_stats"]
    state = TX.init(params) if state is None else state
    for _ in range(3):
        params, stats, state, loss = step_alone(graph, params, stats, state)
    return {"params": params, "batch_stats": stats}, state, loss


@jax.jit
def step_alone(graph, params, stats, state):
    (loss, stats), gradients = jax.value_and_grad(lambda p: loss_of(graph.apply, p, stats), has_aux=True)(params)
    updates, state = TX.update(gradients, state, params)
    return optax.apply_updates(params, updates), stats, state, loss


def close(tree, other):
    chex.assert_trees_all_close(jax.tree.map(np.asarray, tree), jax.tree.map(np.asarray, other), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", [{}, {"ladder": nas.ladder(8, 16), "count": 3}])
def test_each_is_trained_as_by_itself_and_comes_back_in_order(how):
    members = candidates()
    trained = nas.train_members(train, members, **how)
    for member, each in zip(members, trained, strict=True):
        graph, variables = member
        assert each.graph == graph
        expected, state, loss = alone(graph, variables)
        close(each.variables, expected)
        close(each.state, state)
        close(each.result, {"loss": loss})
        chex.assert_trees_all_equal_dtypes(each.variables, expected)


def test_states_go_along():
    members = candidates()
    trained = nas.train_members(train, members)
    changed = [nas.delta_nout(each.graph, each.variables, {"deep": +1}) for each in trained]
    states = [mutation.carry(each.state) for mutation, each in zip(changed, trained, strict=True)]
    again = nas.train_members(train, changed, states)
    for mutation, state, each in zip(changed, states, again, strict=True):
        close(each.state, alone(*mutation, state)[1])
        assert each.state[0].count == 6


def test_with_a_ladder_and_a_count_the_next_generations_compile_nothing():
    def every(members):
        losses = nas.evaluate_members(evaluate, members, ratio=100, ladder=nas.ladder(8, 16), count=4)
        for (graph, variables), loss in zip(members, losses, strict=True):
            np.testing.assert_allclose(
                loss, loss_of(graph.apply, variables["params"], variables["batch_stats"])[0], rtol=1e-4
            )

    @jax.jit
    def evaluate(population):
        variables = population.variables
        return loss_of(population.apply, variables["params"], variables["batch_stats"])[0]

    graph, variables = seed()
    for request in ({"hidden": -2}, {"deep": +2}, {"hidden": nas.to(1), "deep": nas.to(8)}, {"hidden": +2}):
        first = nas.delta_nout(graph, variables, request)
        every([first, nas.delta_nout(*first, {"deep": -1})][: 1 + len(request)])
    assert evaluate._cache_size() == 1
    every([nas.delta_nout(graph, variables, {"hidden": nas.to(9)})])
    assert evaluate._cache_size() == 2


def test_populations_can_be_trained_side_by_side():
    members = candidates()
    with ThreadPoolExecutor(2) as workers:
        found = nas.train_members(train, members, map=workers.map)
    for each, other in zip(found, nas.train_members(train, members), strict=True):
        close(each.variables, other.variables)


def test_sizes_that_a_layer_forbids_are_not_on_the_ladder():
    x = nas.input_vertex("x", 5)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("n", nn.GroupNorm(3), nas.layer("a", nn.Dense(9), x))))
    variables = graph.init(jax.random.key(0), DATA)
    members = [nas.delta_nout(graph, variables, {"a": change}) for change in (-3, 0)]
    population = nas.Population.of(members, ladder=(4, 8, 16))
    outputs = population.apply(population.variables, DATA)
    for (own, its_variables), output in zip(members, outputs, strict=True):
        np.testing.assert_allclose(output, own.apply(its_variables, DATA), rtol=1e-4, atol=1e-5)


class TestWhatIsRefused:
    def test_results_without_members(self):
        with pytest.raises(
            nas.VariablesError, match=r"leading dimension of the 1 members; found shape \(\) at its root"
        ):
            nas.evaluate_members(lambda population: jnp.ones(()), [seed()])

    def test_anything_but_three_trees(self):
        with pytest.raises(nas.RequestError, match="train returns three trees"):
            nas.train_members(lambda population, state: population.variables, [seed()])

    def test_a_state_too_few(self):
        with pytest.raises(nas.VariablesError, match="one tree for each of the 2 members"):
            nas.train_members(train, [seed(), seed()], [TX.init(seed()[1]["params"])])

    def test_states_of_other_networks(self):
        population = nas.Population.of([seed(), seed()])
        own = population.carry(population.init(TX), 0)
        with pytest.raises(nas.VariablesError, match="all alike; that of member 1"):
            population.stack([own, own[0]])

    @pytest.mark.parametrize("wrong", [{"ladder": [8, 4]}, {"ladder": 8}, {"count": 0}, {"count": 2.5}])
    def test_sizes_and_counts(self, wrong):
        with pytest.raises(nas.RequestError, match=f"{next(iter(wrong))}="):
            nas.populations([seed()], **wrong)
