"""Graphs that differ in names, or in functions that are equal by value, share a compiled program."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import naivenas_jax as nas
from naivenas_jax.population import equal_functions
from naivenas_jax.population.equal_functions import representative, value_of

X = jax.random.normal(jax.random.key(1), (4, 6))
SCALE, LIST = 2.0, [1, 2]


def network(first="a", second="b", fn=lambda: lambda h: nn.relu(h) ** 2, seed=0):
    x = nas.input_vertex("x", 6)
    hidden = nas.invariant_vertex(f"{first}_act", fn(), nas.layer(first, nn.Dense(5), x))
    graph = nas.Graph(x, nas.layer(second, nn.Dense(3), hidden))
    return graph, graph.init(jax.random.key(seed), X)


def evaluated(networks, x=X):
    """How many programs evaluate some networks; each is compared with itself."""
    evaluate, count = jax.jit(nas.apply), 0
    for graph, variables in networks:
        shape = nas.canonical(graph)
        with nas.count_programs() as programs:
            found = evaluate(shape.graph, shape.rename(variables), x)
        count += programs.names.count("apply")
        np.testing.assert_allclose(found, graph.apply(variables, x), rtol=1e-5, atol=1e-6)
        chex.assert_trees_all_equal(dict(shape.restore(shape.rename(variables))), dict(variables))
    return count


def test_names_and_functions_that_are_made_anew():
    assert evaluated([network(), network("b", "a", seed=1), network("first", "z", seed=2)]) == 1
    assert len({nas.canonical(network(f"n{i}")[0]).graph for i in range(3)}) == 1
    assert network()[0] != network()[0]  # graphs compare functions by identity, as before


def test_random_insertions_with_makers_of_functions():
    graph, variables = network()

    def squashed(factor):
        def tanh(h):
            return jnp.tanh(h * factor)

        return tanh

    def maker(name, fn):
        return lambda vertex: nas.invariant_vertex(name, fn(), vertex)

    makers = maker("act", lambda: squashed(2)), maker("gate", lambda: lambda h: h * nn.sigmoid(h))
    found = []
    for seed in range(8):
        space, key = nas.SearchSpace(makers=makers), jax.random.key(seed)
        found.append(tuple(nas.random_mutation(graph, variables, key, kinds={"insertion": 1.0}, space=space)))
    chains = {tuple(vertex.op.describe() for vertex in graph) for graph, _ in found}
    assert len({graph for graph, _ in found}) == 8
    assert evaluated(found) == len(chains) < 8


def test_a_step_of_training_is_shared_and_its_state_gets_its_names_back():
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))

    @jax.jit
    def step(graph, params, state):
        gradients = jax.grad(lambda p: jnp.sum(graph.apply({"params": p}, X) ** 2))(params)
        updates, state = tx.update(gradients, state, params)
        return {"params": optax.apply_updates(params, updates), "state": state}

    for graph, variables in (network("a", "b"), network("b", "a"), network("long", "short", seed=3)):
        params, state = variables["params"], tx.init(variables["params"])
        shape = nas.canonical(graph)
        found = shape.restore(step(shape.graph, shape.rename(params), shape.rename(state)))
        gradients = jax.grad(lambda p, g=graph: jnp.sum(g.apply({"params": p}, X) ** 2))(params)
        updates, state = tx.update(gradients, state, params)
        wanted = {"params": optax.apply_updates(params, updates), "state": state}
        chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert step._cache_size() == 1


def test_members_of_a_population_may_have_been_named_and_made_apart():
    pairs = [nas.delta_nout(*network("a", seed=0), {"a": -1}), nas.delta_nout(*network("c", seed=1), {"c": 2})]
    with pytest.raises(nas.StructureError, match="another structure"):
        nas.Population.of(pairs)
    shapes = [nas.canonical(graph) for graph, _ in pairs]
    population = nas.Population.of([(s.graph, s.rename(v)) for s, (_, v) in zip(shapes, pairs, strict=True)])
    outputs = population.apply(population.variables, X)
    for number, (graph, variables) in enumerate(pairs):
        np.testing.assert_allclose(outputs[number], graph.apply(variables, X), rtol=1e-5, atol=1e-6)
        chex.assert_trees_all_equal(shapes[number].restore(population.member(number)[1]), dict(variables))


def test_layers_with_functions_of_their_own_nested_graphs_and_tied_weights():
    def made(name):
        x = nas.input_vertex("x", 6)
        inner = nas.Graph(x, nas.invariant_vertex("i", lambda h: h * 3, nas.layer("d", nn.Dense(6), x)))
        dense = nas.layer(f"{name}2", nn.Dense(6, kernel_init=lambda *a: nn.initializers.ones(*a)), x)
        block = nas.layer(name, inner, dense)
        graph = nas.Graph(x, nas.layer("norm", nn.LayerNorm(), block + dense))
        return graph, graph.init(jax.random.key(0), X)

    assert evaluated([made("p"), made("q")]) == 1


def test_an_embedding_that_is_read_twice_follows_its_name():
    def made(name):
        ids = nas.input_vertex("ids", 9)
        words = nas.layer(name, nn.Embed(9, 4), ids)
        graph = nas.Graph(ids, nas.attend("logits", words, words))
        return graph, graph.init(jax.random.key(0), jnp.arange(5)[None])

    assert evaluated([made("words"), made("tokens")], jnp.arange(5)[None]) == 1


def test_imported_models_keep_the_names_of_their_variables():
    model = nn.Sequential([nn.Dense(5), nn.relu, nn.Dense(3)])
    graph, variables = nas.from_linen(model, model.init(jax.random.key(0), X), X)
    added = nas.insert_vertex(graph, variables, "output", lambda v: nas.layer("layers_0x", nn.Dense(3), v))
    assert evaluated([(graph, variables), tuple(added)]) == 2
    of_nnx, own = nas.from_nnx(nnx.Sequential(nnx.Linear(6, 4, rngs=nnx.Rngs(0)), nnx.relu), X)
    assert evaluated([(of_nnx, own)]) == 1


def test_dicts_that_are_no_variables_stay():
    graph, variables = network("x1", "x2")
    shape = nas.canonical(graph)
    batch = {"x1": X, "x2": {"pixels": X}}
    assert shape.rename(batch).keys() == batch.keys()
    masked = optax.masked(optax.adam(0.1), {"x1": True, "x2": False}).init(variables["params"])
    there = shape.rename(masked)
    assert set(there.inner_state[0].mu) == {shape.names["x1"], shape.names["x2"]}
    assert jax.tree.structure(shape.restore(there)) == jax.tree.structure(masked)


def made_with(value):
    return lambda h: h * value


def with_default(value):
    return lambda h, factor=value: h * factor


def named_globals():
    return lambda h: h * SCALE + len(LIST)


def calls_itself():
    def fn(h, n=2):
        return h if n == 0 else fn(h + 1, n - 1)

    return fn


ARRAY = jnp.arange(3.0)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (made_with(2), made_with(2), True),
        (made_with(2), made_with(3), False),
        (made_with(2), made_with(2.0), False),
        (made_with(0.0), made_with(-0.0), False),
        (made_with(True), made_with(1), False),
        (made_with((1, "a", None)), made_with((1, "a", None)), True),
        (made_with(LIST), made_with(LIST), True),
        (made_with([1, 2]), made_with([1, 2]), False),
        (made_with(np.ones(2)), made_with(np.ones(2)), False),
        (made_with(jnp.ones(2)), made_with(jnp.ones(2)), True),
        (made_with(jnp.ones(2)), made_with(jnp.zeros(2)), False),
        (made_with(jnp.ones(2)), made_with(jnp.ones(2, int)), False),
        (made_with(made_with(2)), made_with(made_with(2)), True),
        (made_with(made_with(2)), made_with(made_with(1)), False),
        (made_with(nn.relu), made_with(nn.relu), True),
        (made_with(nn.relu), made_with(nn.gelu), False),
        (made_with(nn.Dense(3)), made_with(nn.Dense(3)), True),
        (made_with(nn.Dense(3)), made_with(nn.Dense(4)), False),
        (made_with(object()), made_with(object()), False),
        (with_default(2), with_default(2), True),
        (with_default(2), with_default(3), False),
        (lambda h: h * 2, lambda h: h * 2, True),
        (lambda h: h * 2, lambda h: h * 3, False),
        (lambda h: h + 1.0, lambda h: h + 1, False),
        (lambda h: jnp.sin(h), lambda h: jnp.cos(h), False),
        (named_globals(), named_globals(), True),
        (calls_itself(), calls_itself(), True),
        (functools.partial(made_with, 2), functools.partial(made_with, 2), True),
        (functools.partial(made_with, 2), functools.partial(made_with, value=2), False),
        (functools.partial(made_with(2)), functools.partial(made_with(2)), True),
        (ARRAY.reshape, ARRAY.reshape, True),
    ],
    ids=range(31),
)
def test_what_is_equal(one, other, equal):
    assert (value_of(one) == value_of(other)) == equal
    if not isinstance(one, functools.partial | type(made_with(1))):
        return
    assert (representative(one) is representative(other)) == equal


def test_the_same_code_in_other_modules_means_what_its_names_mean_there():
    made = []
    for scale in (2, 3, 2):
        names = {"scale": scale}
        exec("fn = lambda h: h * scale", names)
        made.append(names["fn"])
    assert value_of(made[0]) == value_of(made[2]) != value_of(made[1])


def test_functions_are_kept_no_longer_than_somebody_holds_them():
    kept = representative(made_with(1234))
    size = len(equal_functions._KNOWN)
    del kept
    assert len(equal_functions._KNOWN) == size - 1
