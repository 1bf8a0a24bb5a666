"""The number of layers of a stack that a loop runs along: a handle like any other."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import naivenas_jax as nas

KEY = jax.random.key
X = jax.random.normal(KEY(0), (3, 4))
DEPTH = "layers:depth"


class Layer(nn.Module):
    """A residual layer with statistics, dropout and a rate of its own."""

    @nn.compact
    def __call__(self, x, rate, train):
        y = nn.Dense(5, name="up")(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        y = nn.Dropout(0.5, deterministic=not train)(nn.relu(y))
        return x + rate * nn.Dense(4, name="down")(y), None


class Net(nn.Module):
    num_layers: int
    rated: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        rates = jnp.linspace(0.5, 1.0, self.num_layers) if self.rated else jnp.ones(self.num_layers)
        layers = nn.scan(
            nn.remat(Layer, static_argnums=(3,)),
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast),
            length=self.num_layers,
        )
        return nn.Dense(2, name="out")(layers(name="layers")(x, rates, train)[0])


class Inner(nnx.Module):
    def __init__(self, rngs):
        self.up, self.down = nnx.Linear(4, 5, rngs=rngs), nnx.Linear(5, 4, rngs=rngs)

    def __call__(self, x):
        return x + self.down(nnx.gelu(self.up(x)))


class Stack(nnx.Module):
    def __init__(self, num_layers, rngs):
        self.num_layers = num_layers
        self.layers = nnx.split_rngs(splits=num_layers)(nnx.vmap(Inner))(rngs)
        self.out = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        run = nnx.scan(lambda layer, x: layer(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        return self.out(run(self.layers, x))


def own_function(variables, x, residual=True):
    params = variables["params"]

    def layer(h, weights):
        y = jnp.tanh(h @ weights["kernel"] + weights["bias"])
        return (h + y if residual else y), None

    return jax.lax.scan(layer, x, params["layers"])[0] @ params["out"]


def noisy(tree):
    return jax.tree.map(lambda a: a + 0.2 * jax.random.uniform(KEY(a.size), a.shape), tree)


def linen(rated=False):
    variables = noisy(Net(4).init(KEY(1), X))
    graph, variables = nas.from_linen(Net(4, rated), variables, X)

    def by_hand(kept):
        h, rates = X, jnp.linspace(0.5, 1.0, 4) if rated else jnp.ones(4)
        for layer in kept:
            own = {name: jax.tree.map(lambda a: a[layer], each["layers"]) for name, each in variables.items()}  # noqa: B023
            h = Layer().apply(own, h, rates[layer], False)[0]
        return nn.Dense(2).apply({"params": variables["params"]["out"]}, h)

    return graph, variables, by_hand


def of_nnx():
    model = Stack(4, nnx.Rngs(0))
    definition, state = nnx.split(model.layers)

    def by_hand(kept):
        h = X
        for layer in kept:
            h = nnx.merge(definition, jax.tree.map(lambda a: a[layer], state))(h)  # noqa: B023
        return model.out(h)

    return *nas.from_nnx(model, X), by_hand


def of_function(residual=True):
    keys = jax.random.split(KEY(2), 3)
    layers = {"kernel": jax.random.normal(keys[0], (4, 4, 4)), "bias": jax.random.normal(keys[1], (4, 4))}
    variables = {"params": {"layers": layers, "out": jax.random.normal(keys[2], (4, 2))}}

    def by_hand(kept):
        h = X
        for layer in kept:
            y = jnp.tanh(h @ layers["kernel"][layer] + layers["bias"][layer])
            h = h + y if residual else y
        return h @ variables["params"]["out"]

    return *nas.from_function(lambda v, x: own_function(v, x, residual), variables, X), by_hand


MODELS = {"linen": linen, "nnx": of_nnx, "a function": of_function}


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_layers_of_low_utility_go_and_new_ones_change_nothing(kind):
    graph, variables, by_hand = MODELS[kind]()
    assert graph.handles()[DEPTH].size == 4
    assert graph.handles()[DEPTH].coupled is None
    smaller = nas.delta_nout(graph, variables, {DEPTH: -2}, utility={DEPTH: [3.0, 1.0, 2.0, 1.5]})
    assert smaller.indices(DEPTH).tolist() == [0, 2]
    close(smaller.graph.apply(smaller.variables, X), by_hand([0, 2]))
    smaller.check(X)
    close(graph.apply(nas.masked(variables, nas.soft_masks(smaller)), X), by_hand([0, 2]))
    before, old = smaller.undo(smaller.variables)
    assert before == graph
    jax.tree.map(np.testing.assert_array_equal, old, variables)
    assert nas.Plan.from_json(smaller.plan.to_json()) == smaller.plan

    larger = nas.delta_nout(graph, variables, {DEPTH: 2})
    close(larger.graph.apply(larger.variables, X), by_hand(range(4)))
    larger.check(X)
    members = [smaller, larger]
    population = nas.Population.of(members)
    every = population.apply(population.variables, X)
    for member, found in zip(members, every, strict=True):
        close(found, member.graph.apply(member.variables, X))
    assert population.member(0)[0] == smaller.graph


def test_the_layer_of_largest_weights_stays():
    graph, variables, _ = of_function()
    scaled = jax.tree.map(lambda a: a, variables)
    scaled["params"]["layers"]["kernel"] = variables["params"]["layers"]["kernel"].at[2].multiply(9.0)
    assert nas.delta_nout(graph, scaled, {DEPTH: nas.to(1)}).indices(DEPTH).tolist() == [2]


def test_states_statistics_and_dropout_follow():
    graph, variables, by_hand = linen(rated=True)
    smaller = nas.delta_nout(graph, variables, {DEPTH: -1}, utility={DEPTH: [1.0, 0.5, 2.0, 3.0]})
    kept = smaller.indices(DEPTH)
    close(smaller.graph.apply(smaller.variables, X), by_hand(kept))  # each layer with its own rate
    state = smaller.carry(optax.adam(1e-3).init(variables["params"]))
    assert jax.tree.map(jnp.shape, state[0].mu) == jax.tree.map(jnp.shape, smaller.variables["params"])
    _, updated = smaller.graph.apply(
        smaller.variables, X, train=True, mutable=["batch_stats"], rngs={"dropout": KEY(3)}
    )
    assert updated["batch_stats"]["layers"]["norm"]["mean"].shape == (3, 4)
    with pytest.raises(nas.RebuildError):  # the rates of a model of three layers are others
        nas.rebuild(Net(4, True), smaller)


def test_the_users_model_comes_back_with_fewer_layers():
    graph, variables, _ = linen()
    mutation = nas.delta_nout(graph, variables, {DEPTH: -1})
    assert nas.rebuild(Net(4), mutation) == Net(3)
    model = Stack(4, nnx.Rngs(0))
    mutation = nas.delta_nout(*nas.from_nnx(model, X), {DEPTH: 2})
    rebuilt = nas.rebuild(model, mutation)
    assert rebuilt.num_layers == 6
    close(rebuilt(X), model(X))


def test_layers_that_are_never_the_identity_only_go():
    graph, variables, by_hand = of_function(residual=False)
    assert "none is the identity" in graph.handles()[DEPTH].coupled
    smaller = nas.delta_nout(graph, variables, {DEPTH: -2})
    close(smaller.graph.apply(smaller.variables, X), by_hand(smaller.indices(DEPTH)))
    for network in (graph, variables), smaller:
        with pytest.raises(nas.StructureError, match=r"'layers:depth' cannot get more layers: layers are computed"):
            nas.delta_nout(*network, {DEPTH: 1})
    population = nas.Population.of([smaller, nas.delta_nout(graph, variables, {DEPTH: -1})])
    close(population.apply(population.variables, X)[0], smaller.graph.apply(smaller.variables, X))


def test_budgets_leave_depth_alone_unless_it_is_named():
    graph, variables, _ = linen()
    by_width = nas.resize(graph, variables, max_params=0.7)
    assert by_width.graph.handles()[DEPTH].size == 4
    both = nas.resize(graph, variables, max_params=0.5, request={DEPTH: -1})
    assert both.graph.handles()[DEPTH].size == 3
    counted = [nas.costs(*network, X).macs for network in ((graph, variables), tuple(both))]
    per_layer = 3 * 4 * 5 * 2  # rows of X, and two products of 4 and 5 neurons
    assert counted[0] == 4 * per_layer + 3 * 4 * 2
    inner = both.graph.handles()["layers/up"].size
    assert counted[1] == 3 * 3 * 4 * inner * 2 + 3 * 4 * 2


def test_positions_beside_weights_are_fixed():
    def read(variables, x):
        def step(h, row):
            token, kernel = row
            return h + token @ kernel, None

        return jax.lax.scan(step, jnp.zeros((3, 2)), (x, variables["params"]["kernel"]))[0]

    variables = {"params": {"kernel": jnp.ones((5, 4, 2))}}
    graph, _ = nas.from_function(read, variables, jnp.ones((5, 3, 4)))
    assert not [name for name in graph.handles() if name.endswith(":depth")]
