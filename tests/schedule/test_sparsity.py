"""Group lasso against the formula written out entry by entry, and against finite differences; the proximal step too."""

import random

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from strategies import random_graph, random_variables

import naivenas_jax as nas
from naivenas_jax.transfer.variables import flat
from naivenas_jax.utility.tied import class_numbers


def network():
    x = nas.input_vertex("x", 3)
    a, b = nas.layer("a", nn.Dense(4), x), nas.layer("b", nn.Dense(4), x)
    norm = nas.layer("norm", nn.BatchNorm(use_running_average=True), (a + b).named("sum"))
    both = nas.concat("both", norm, nas.layer("c", nn.Dense(2), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), both))
    rng = np.random.default_rng(0)
    variables = graph.init(jax.random.key(0), jnp.ones((1, 3)))
    return graph, jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), jnp.float32), variables["params"])


def penalty_by_hand(params):
    """Of the network above: neuron i of a and b with row i of the output; neuron i of c with row 4 + i."""
    groups = [
        [params["a"]["kernel"][:, i], params["b"]["kernel"][:, i], params["out"]["kernel"][i]] for i in range(4)
    ] + [[params["c"]["kernel"][:, i], params["out"]["kernel"][4 + i]] for i in range(2)]
    flats = [jnp.concatenate([jnp.ravel(part) for part in group]) for group in groups]
    return sum(jnp.sqrt(len(g)) * jnp.linalg.norm(g) for g in flats)


def gradient_of(tx, params):
    return tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)[0]


def test_the_gradient_is_that_of_the_penalty_written_by_hand():
    graph, params = network()
    wanted = jax.grad(lambda p: 0.3 * penalty_by_hand(p))(params)
    found = jax.jit(lambda p: gradient_of(nas.group_lasso(graph, 0.3), p))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, wanted)


def penalty_by_brute_force(graph, params):
    """Entry by entry in Python, on any network: each weight entry once in each class that it belongs to."""
    ties = graph.ties
    ends = {v.name for v in (*graph.inputs, *graph.outputs)}
    start = np.concatenate([[0], np.cumsum(ties.run_sizes)])
    still = {run for name in ends for run in ties.plain(ties.axes[name])} | set(ties.fixed)
    dead = {
        c
        for run in range(len(ties.run_sizes))
        if ties.plain((run,)) <= still
        for c in range(start[run], start[run + 1])
    }
    squares, sizes = {}, {}
    for path, array in flat(params).items():
        leaf = ties.leaves[("params", *path)]
        if leaf.new is not None:
            continue
        for index in np.ndindex(array.shape):
            own = {int(class_numbers(ties, a)[index[d]]) for d, a in enumerate(leaf.axes) if a is not None} - dead
            for c in own:
                squares[c] = squares.get(c, 0.0) + float(array[index]) ** 2
                sizes[c] = sizes.get(c, 0) + 1
    return sum(np.sqrt(sizes[c] * squares[c]) for c in squares)


@pytest.mark.parametrize("seed", range(6))
def test_finite_differences_of_the_brute_force_penalty(seed):
    rng = random.Random(seed)
    graph = random_graph(rng, steps=(3, 6), images=False)
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), random_variables(graph, seed).get("params", {}))
    if not params:
        return
    found = gradient_of(nas.group_lasso(graph, 0.7), jax.tree.map(jnp.asarray, params))
    paths, generator = list(flat(params)), np.random.default_rng(seed)
    for _ in range(8):
        path = paths[generator.integers(len(paths))]
        array = flat(params)[path]
        index = tuple(generator.integers(n) for n in array.shape)
        kept, step = array[index], 1e-4
        array[index] = kept + step
        up = penalty_by_brute_force(graph, params)
        array[index] = kept - step
        down = penalty_by_brute_force(graph, params)
        array[index] = kept
        assert 0.7 * (up - down) / (2 * step) == pytest.approx(float(flat(found)[path][index]), abs=1e-3)


def test_zero_groups_have_no_gradient_and_others_are_untouched():
    graph, params = network()
    params["a"]["kernel"] = params["a"]["kernel"].at[:, 1].set(0.0)
    params["b"]["kernel"] = params["b"]["kernel"].at[:, 1].set(0.0)
    params["out"]["kernel"] = params["out"]["kernel"].at[1].set(0.0)
    found = gradient_of(nas.group_lasso(graph, 1.0), params)
    assert not np.any(found["a"]["kernel"][:, 1])
    assert not np.any(found["a"]["bias"])
    assert not np.any(found["norm"]["scale"])
    assert np.isfinite(found["out"]["kernel"]).all()


def test_the_proximal_step_is_the_minimiser():
    """No small step away from it lowers the objective, whose groups are written out by hand."""
    graph, params = network()
    amount, rng = 0.9, np.random.default_rng(1)
    updates = jax.tree.map(lambda a: jnp.asarray(0.1 * rng.normal(size=a.shape), jnp.float32), params)
    tx = nas.group_shrink(graph, amount)
    stepped = optax.apply_updates(params, updates)
    shrunk = optax.apply_updates(params, tx.update(updates, tx.init(params), params)[0])

    def objective(p):
        near = sum(jnp.sum((a - b) ** 2) / 2 for a, b in zip(jax.tree.leaves(p), jax.tree.leaves(stepped), strict=True))
        groups = [jnp.concatenate([p["a"]["kernel"][:, i], p["b"]["kernel"][:, i]]) for i in range(4)]
        groups += [p["c"]["kernel"][:, i] for i in range(2)]
        return near + amount * sum(jnp.sqrt(len(g)) * jnp.linalg.norm(g) for g in groups)

    best, zero = float(objective(shrunk)), 0
    for _ in range(300):
        other = jax.tree.map(lambda a: a + 0.02 * rng.normal(size=a.shape), shrunk)
        assert objective(other) >= best - 1e-5
    for i in range(4):
        zero += not np.any(shrunk["a"]["kernel"][:, i]) and not np.any(shrunk["b"]["kernel"][:, i])
    assert zero + sum(not np.any(shrunk["c"]["kernel"][:, i]) for i in range(2)) > 0
    np.testing.assert_allclose(shrunk["out"]["kernel"], stepped["out"]["kernel"], atol=1e-6)


def test_it_empties_neurons_that_are_not_needed():
    """Trained with it, a network that is far too wide keeps few neurons; the empty ones are dropped for free."""
    x = nas.input_vertex("x", 3)
    hidden = nas.invariant_vertex("act", jnp.tanh, nas.layer("hidden", nn.Dense(24, use_bias=False), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(1), hidden))
    data = jax.random.normal(jax.random.key(0), (64, 3))
    variables = graph.init(jax.random.key(1), data)
    tx = optax.chain(optax.sgd(0.1), nas.group_shrink(graph, 0.002))

    @jax.jit
    def step(params, state):
        gradient = jax.grad(lambda p: jnp.mean((graph.apply({"params": p}, data)[:, 0] - data[:, 0]) ** 2))(params)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    params, state = variables["params"], tx.init(variables["params"])
    for _ in range(400):
        params, state = step(params, state)
    empty = ~np.any(np.asarray(params["hidden"]["kernel"]), axis=0)
    assert 3 < empty.sum() < 24
    mutation = nas.resize(graph, {"params": params}, utility={"hidden": np.where(empty, -1.0, 1.0)})
    assert mutation.graph.nout("hidden") == 24 - empty.sum()
    wanted = graph.apply({"params": params}, data)
    np.testing.assert_allclose(mutation.graph.apply(mutation.variables, data), wanted, atol=1e-5)


class Heads(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.MultiHeadDotProductAttention(2, qkv_features=6, name="attention")(x))


class Grouped(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (1,), name="first", use_bias=False)(x)
        x = nn.Conv(4, (3,), feature_group_count=2, name="grouped", use_bias=False)(x)
        return nn.Dense(2, name="last", use_bias=False)(x)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.Dense(3, name="down")(nn.Dense(5, name="up")(x)), None


class Repeated(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(3, name="first")(x)
        blocks = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        return nn.Dense(2, name="last")(blocks(name="blocks")(x, None)[0])


def imported(model, x=None):
    x = jnp.ones((1, 3, 4)) if x is None else x
    return nas.from_linen(model, model.init(jax.random.key(0), x), x)


def groups_that_go(graph, params, factors):
    """For each neuron of some factors the positions of all weights that are gone when it is."""
    flats, tree = jax.tree.flatten(params)
    starts = np.cumsum([0, *map(np.size, flats)])
    places = tree.unflatten([s + np.arange(a.size).reshape(a.shape) for s, a in zip(starts[:-1], flats, strict=True)])
    for factor in factors:
        size = graph.handles()[factor].size
        for i in range(size):
            scores = {factor: np.where(np.arange(size) == i, 0.0, 1.0)}
            small = nas.delta_nout(graph, {"params": places}, {factor: -1}, utility=scores)
            left = np.concatenate([np.ravel(a) for a in jax.tree.leaves(small.variables)])
            yield np.setdiff1d(np.arange(starts[-1]), left)


def test_groups_of_a_product_are_those_that_go_together():
    """Channels of a grouped convolution go by whole groups, or from each of its groups."""
    graph, variables = imported(Grouped())
    params = variables["params"]
    factors = [name for name in graph.handles() if ":" in name]
    assert {"first:0", "first:1", "grouped:1"} <= set(factors)
    groups = [list(group) for group in {tuple(each) for each in groups_that_go(graph, params, factors)} if group]

    def penalty(params):
        entries = jnp.concatenate([jnp.ravel(a) for a in jax.tree.leaves(params)])
        return sum(np.sqrt(len(group)) * jnp.linalg.norm(entries[np.array(group)]) for group in groups)

    wanted, found = jax.grad(penalty)(params), gradient_of(nas.group_lasso(graph, 1.0), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, wanted)
    with pytest.raises(nas.RequestError, match="first/kernel makes neurons of 'first:0' and 'first:1' at once"):
        nas.group_shrink(graph, 0.1)


def test_stacked_layers_have_a_proximal_step():
    """The axis of repetitions lies on every weight of a loop, but cannot change."""
    graph, variables = imported(Repeated())
    params = variables["params"]
    updates = nas.group_shrink(graph, 0.05).update(jax.tree.map(jnp.zeros_like, params), optax.EmptyState(), params)[0]
    kernel = params["blocks"]["up"]["kernel"]  # shape (2, 3, 5)
    norms = jnp.linalg.norm(kernel, axis=(0, 1))
    wanted = kernel * jnp.maximum(0.0, 1 - 0.05 * jnp.sqrt(6.0) / norms)
    np.testing.assert_allclose(kernel + updates["blocks"]["up"]["kernel"], wanted, atol=1e-6)


def test_complex_weights_count_their_moduli():
    graph, real = network()
    params = jax.tree.map(lambda a: a * (1 + 2j), real)
    wanted = jax.grad(lambda p: 0.3 * penalty_by_hand(jax.tree.map(jnp.abs, p)))(params)
    found = gradient_of(nas.group_lasso(graph, 0.3), params)
    for name in ("a", "b", "c", "out"):
        np.testing.assert_allclose(found[name]["kernel"], wanted[name]["kernel"], atol=1e-5)


def test_the_strength_follows_a_schedule():
    graph, params = network()
    tx = optax.inject_hyperparams(lambda strength: nas.group_lasso(graph, strength))(lambda step: 0.1 * (step + 1))
    state, zero = tx.init(params), jax.tree.map(jnp.zeros_like, params)
    step = jax.jit(lambda state: tx.update(zero, state, params))
    for strength in (0.1, 0.2, 0.3):
        found, state = step(state)
        wanted = gradient_of(nas.group_lasso(graph, strength), params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, wanted)


def test_bad_arguments():
    graph, params = network()
    with pytest.raises(nas.RequestError, match=r"strength must be a number of at least 0, found -1"):
        nas.group_lasso(graph, -1)
    tx = nas.group_lasso(graph, 1.0)
    with pytest.raises(nas.RequestError, match="group_lasso needs the parameters"):
        tx.update(params, tx.init(params))
    with pytest.raises(nas.VariablesError, match="The parameters have no"):
        tx.update(params, tx.init(params), {"a": params["a"]})
    with pytest.raises(nas.RequestError, match=r"makes neurons of 'attention.*:heads' and .* at once"):
        nas.group_shrink(imported(Heads())[0], 0.1)
    with pytest.raises(nas.RequestError, match="found inf"):
        nas.group_lasso(graph, float("inf"))
    masked = optax.masked(nas.group_lasso(graph, 1.0), {**jax.tree.map(lambda a: True, params), "a": False})
    with pytest.raises(nas.VariablesError, match=r"Of optax.masked and multi_transform put it outside"):
        masked.update(params, masked.init(params), params)
    small = nas.delta_nout(graph, graph.init(jax.random.key(0), jnp.ones((1, 3))), {"c": -1}).variables["params"]
    for stale in (nas.group_lasso(graph, 1.0), nas.group_shrink(graph, 1.0)):
        with pytest.raises(nas.VariablesError, match="After a mutation make the transformation anew"):
            stale.update(small, stale.init(small), small)
