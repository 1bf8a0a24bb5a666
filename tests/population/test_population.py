"""A population computes what each of its members computes by itself."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import naivenas_jax as nas

KEY = jax.random.key(1)


def varied(variables):
    """Variables none of which is 0 or 1, with positive variances."""
    moved = jax.tree.map(lambda a: a + 0.3 * jax.random.normal(jax.random.key(3), a.shape), variables)
    return {name: jax.tree.map(jnp.abs, tree) if name == "batch_stats" else tree for name, tree in moved.items()}


def built(graph, *inputs):
    return graph, varied(graph.init(jax.random.key(0), *inputs))


def dense():
    x = nas.input_vertex("x", 6)
    hidden = nas.layer("h", nn.Dense(9), x)
    act = nas.invariant_vertex("a", nn.relu, nas.layer("n", nn.LayerNorm(), hidden))
    joined = nas.concat("k", act, nas.layer("c", nn.Dense(5), act))
    return nas.Graph(x, nas.layer("o", nn.Dense(3), nas.layer("b", nn.BatchNorm(), joined)))


def attention():
    x = nas.input_vertex("x", 6)
    e = nas.layer("e", nn.Dense(8), x)
    a = nas.layer("att", nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8), e)
    return nas.Graph(x, nas.layer("o", nn.Dense(3), nas.layer("ln", nn.RMSNorm(), e + a)))


def convolutional():
    x = nas.input_vertex("x", 3, shape=(8, 8, 3))
    c = nas.layer("gn", nn.GroupNorm(num_groups=4), nas.layer("c", nn.Conv(8, (3, 3)), x))
    d = nas.layer("d", nn.Conv(8, (3, 3), feature_group_count=8), nas.invariant_vertex("r", nn.gelu, c))
    pooled = nas.invariant_vertex("p", lambda t: nn.max_pool(t, (4, 4), (4, 4)), d)
    return nas.Graph(x, nas.layer("o", nn.Dense(3), nas.flatten("f", pooled)))


def recurrent():
    x = nas.input_vertex("x", 6)
    return nas.Graph(x, nas.layer("o", nn.Dense(3), nas.layer("l", nn.RNN(nn.LSTMCell(6)), x)))


def mixing():
    x = nas.input_vertex("x", 6)
    soft = nas.invariant_vertex("s", nn.softmax, nas.layer("l", nn.Dense(6), x))
    unit = nas.invariant_vertex("u", lambda t: t / jnp.linalg.norm(t, axis=-1, keepdims=True), soft)
    return nas.Graph(x, nas.layer("o", nn.Dense(3), unit))


class Block(nnx.Module):
    def __init__(self, rngs):
        self.e = nnx.Linear(6, 12, rngs=rngs)
        self.n = nnx.LayerNorm(12, rngs=rngs)
        self.a = nnx.MultiHeadAttention(num_heads=3, in_features=12, decode=False, rngs=rngs)
        self.u, self.d = nnx.Linear(12, 10, rngs=rngs), nnx.Linear(10, 12, rngs=rngs)
        self.o = nnx.Linear(12, 3, rngs=rngs)

    def __call__(self, x):
        x = self.e(x)
        x = x + self.a(self.n(x))
        return self.o((x + self.d(nnx.gelu(self.u(x)))).mean(1))


class Imported(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.silu(nn.GroupNorm(num_groups=3)(nn.Conv(6, (3, 3))(x)))
        x = jnp.concatenate([x, nn.Conv(6, (3, 3), feature_group_count=2)(x)], -1)
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(3)(nn.softplus(nn.WeightNorm(nn.Dense(8))(x.mean((1, 2)))))


def from_nnx():
    x = jax.random.normal(KEY, (2, 5, 6))
    graph, variables = nas.from_nnx(Block(nnx.Rngs(0)), x)
    return graph, varied(variables), x


def from_linen():
    x = jax.random.normal(KEY, (2, 6, 6, 3))
    graph, variables = nas.from_linen(Imported(), Imported().init(jax.random.key(0), x), x)
    return graph, jax.tree.map(jnp.abs, varied(variables)), x


CASES = {
    "normalised and concatenated": (dense, (7, 6), [{"h": -4}, {"h": 3, "c": -2}, {"c": 4}]),
    "heads and widths of attention": (attention, (2, 5, 6), [{"e": -3}, {"att:heads": 1}, {"att:qk": -1, "e": 1}]),
    "groups, depthwise, flattened": (convolutional, (2, 8, 8, 3), [{"gn:groups": -1}, {"c": 4}]),
    "a loop": (recurrent, (2, 5, 6), [{"l": -2}, {"l": 2}]),
    "softmax and norm over neurons": (mixing, (4, 6), [{"l": -2}, {"l": 2}]),
}


def network(case):
    make, shape, requests = CASES[case]
    x = jax.random.normal(KEY, shape)
    return *built(make(), x), x, requests


def matches(population, members, x):
    """Outputs and gradients of each member, against those of the hard network; and that the members come back."""

    def loss(network, variables):
        return lambda params: jnp.sum(jnp.square(network.apply({**variables, "params": params}, x)))

    with jax.default_matmul_precision("highest"):
        outputs = jax.jit(lambda p, v: p.apply(v, x))(population, population.variables)
        soft = jax.jit(jax.grad(loss(population, population.variables)))(population.variables["params"])
        for number, (graph, variables) in enumerate(members):
            np.testing.assert_allclose(outputs[number], graph.apply(variables, x), rtol=2e-5, atol=2e-5)
            own_graph, own = population.member(number)
            assert own_graph == graph
            chex.assert_trees_all_equal(dict(own), dict(variables))
            hard = jax.jit(jax.grad(loss(graph, variables)))(variables["params"])
            of_member = population.member(number, {**population.variables, "params": soft})[1]["params"]
            chex.assert_trees_all_close(dict(of_member), dict(hard), rtol=1e-4, atol=1e-4)
            total = sum(float(jnp.abs(each[number]).sum()) for each in jax.tree.leaves(soft))
            assert total == pytest.approx(sum(float(jnp.abs(each).sum()) for each in jax.tree.leaves(of_member)), 1e-5)


@pytest.mark.parametrize("case", CASES)
def test_masked_is_hard(case):
    graph, variables, x, requests = network(case)
    members = [nas.delta_nout(graph, variables, request) for request in requests]
    matches(nas.Population.of(members), members, x)


@pytest.mark.parametrize("imported", [from_nnx, from_linen])
def test_masked_is_hard_in_imported_models_on_every_axis(imported):
    graph, variables, x = imported()
    ends = {name for name, row in graph.ties.axes.items() if row in (graph.ties.axes["x"], graph.ties.axes["output"])}
    inside = [name for name in graph.handles() if name not in ends]
    members = [
        nas.delta_nout(graph, variables, {name: nas.relaxed(-2 if i % 2 else 2)}) for i, name in enumerate(inside)
    ]
    matches(nas.Population.of(members), members, x)


def test_outputs_and_inputs_in_which_members_differ_lie_in_the_common_shape():
    graph, variables, x, _ = network("softmax and norm over neurons")
    members = [
        nas.delta_nout(graph, variables, {"o": -1, "l": 1}, utility={"o": [1.0, 0.0, 2.0]}),
        nas.delta_nout(graph, variables, {"x": -2, "o": 1}, utility={"x": np.arange(6.0)}),
    ]
    population = nas.Population.of(members)
    outputs = population.apply(population.variables, x)
    np.testing.assert_allclose(outputs[0][:, [0, 2]], members[0].graph.apply(members[0].variables, x), rtol=1e-5)
    np.testing.assert_allclose(outputs[1], members[1].graph.apply(members[1].variables, x[:, 2:]), rtol=1e-5)
    assert not outputs[0][:, [1, 3]].any()


def test_batch_statistics_and_dropout_in_training():
    x = nas.input_vertex("x", 6)
    hidden = nas.layer("b", nn.BatchNorm(), nas.layer("h", nn.Dense(9), x))
    graph = nas.Graph(x, nas.layer("o", nn.Dense(3), nas.layer("d", nn.Dropout(0.5), hidden)))
    data = jax.random.normal(KEY, (400, 6))
    variables = varied(graph.init(jax.random.key(0), data))
    members = [nas.delta_nout(graph, variables, {"h": change}) for change in (-4, 0 - 1, 3)]
    population = nas.Population.of(members)
    rngs = {"dropout": jax.random.key(2)}
    outputs, updates = population.apply(population.variables, data, train=True, mutable=["batch_stats"], rngs=rngs)
    for number, (own, own_variables) in enumerate(members):
        _, wanted = own.apply(own_variables, data, train=True, mutable=["batch_stats"], rngs=rngs)
        _, found = population.member(number, {**population.variables, **updates})
        chex.assert_trees_all_close(found["batch_stats"], wanted["batch_stats"], rtol=1e-5, atol=1e-5)
        drawn = [own.apply(own_variables, data, train=True, mutable=["batch_stats"],
                           rngs={"dropout": jax.random.key(i)})[0] for i in range(20)]  # fmt: skip
        np.testing.assert_allclose(
            outputs[number].mean(), np.mean(drawn), atol=4 * np.std([d.mean() for d in drawn]) + 0.05
        )
        dead = ~np.asarray(population.masks["h"][number])
        assert (
            updates["batch_stats"]["b"]["var"][number][dead]
            == population.variables["batch_stats"]["b"]["var"][number][dead]
        ).all()


def test_one_program_whoever_the_members_are():
    graph, variables, x, requests = network("normalised and concatenated")
    population = nas.Population.of([nas.delta_nout(graph, variables, request) for request in requests])
    evaluate = jax.jit(lambda p, v, x: p.apply(v, x))
    evaluate(population, population.variables, x)
    population.replace(0, nas.delta_nout(graph, variables, {"h": -1}))  # what puts members in is compiled once
    of_ancestor = nas.delta_nout(graph, variables, {"h": -7, "c": 1})
    of_member = nas.delta_nout(of_ancestor.graph, of_ancestor.variables, {"h": 5})
    with nas.count_programs() as programs:
        changed = population.replace(1, of_ancestor).replace(2, of_member)
        outputs = evaluate(changed, changed.variables, x)
    assert programs.names == ()
    for number in range(3):
        own, own_variables = changed.member(number)
        np.testing.assert_allclose(outputs[number], own.apply(own_variables, x), rtol=1e-5, atol=1e-5)
    assert [changed.member(i)[0].nout("h") for i in range(3)] == [5, 2, 7]


def test_a_replacement_of_a_member_keeps_its_places():
    graph, variables, _, _ = network("normalised and concatenated")
    first = nas.delta_nout(graph, variables, {"h": -4}, utility={"h": np.arange(9.0)})
    population = nas.Population.of([first, nas.delta_nout(graph, variables, {"h": 2})])
    assert np.flatnonzero(population.masks["h"][0]).tolist() == [4, 5, 6, 7, 8]
    second = nas.delta_nout(*population.member(0), {"h": -2}, utility={"h": [5.0, 0, 4, 0, 3]})
    shrunk = population.replace(0, second)
    assert np.flatnonzero(shrunk.masks["h"][0]).tolist() == [4, 6, 8]
    grown = shrunk.replace(0, nas.delta_nout(*shrunk.member(0), {"h": 3}))
    assert set(np.flatnonzero(grown.masks["h"][0])) > {4, 6, 8}
    chex.assert_trees_all_equal(dict(grown.member(0)[1]), dict(nas.delta_nout(*shrunk.member(0), {"h": 3}).variables))


def test_networks_without_an_ancestor_are_aligned_by_position():
    shared = dense()
    sizes = [nas.delta_nout(*built(shared, jnp.ones((1, 6))), {"h": nas.to(n)}) for n in (4, 9, 6)]
    pairs = [(m.graph, varied(m.graph.init(jax.random.key(i), jnp.ones((1, 6))))) for i, m in enumerate(sizes)]
    population = nas.Population.of(pairs)
    assert population.masks["h"].sum(1).tolist() == [4, 9, 6]
    assert np.flatnonzero(population.masks["h"][0]).tolist() == [0, 1, 2, 3]
    matches(population, pairs, jax.random.normal(KEY, (7, 6)))


def test_it_is_a_frozen_chex_dataclass_whose_length_is_its_members():
    graph, variables, _, requests = network("softmax and norm over neurons")
    population = nas.Population.of([nas.delta_nout(graph, variables, request) for request in requests])
    assert len(population) == 2
    assert dataclasses.is_dataclass(population)
    with pytest.raises(dataclasses.FrozenInstanceError):
        population.graph = graph
    leaves, structure = jax.tree.flatten(population)
    assert all(leaf.shape[0] == 2 for leaf in leaves)
    assert jax.tree.unflatten(structure, leaves).graph == population.graph


def test_each_member_is_trained_as_it_would_be_alone():
    graph, variables, x, requests = network("normalised and concatenated")
    members = [nas.delta_nout(graph, variables, request) for request in requests]
    population, tx = nas.Population.of(members), optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1, 0.9))

    def loss(network, variables):
        return lambda params: jnp.sum(jnp.square(network.apply({**variables, "params": params}, x)))

    params, state = population.variables["params"], population.init(tx)
    for _ in range(3):
        gradients = jax.grad(loss(population, population.variables))(params)
        updates, state = jax.vmap(tx.update)(gradients, state, params)
        params = optax.apply_updates(params, updates)
    for number, (own, own_variables) in enumerate(members):
        own_params = own_variables["params"]
        own_state = tx.init(own_params)
        for _ in range(3):
            updates, own_state = tx.update(jax.grad(loss(own, own_variables))(own_params), own_state, own_params)
            own_params = optax.apply_updates(own_params, updates)
        trained = population.member(number, {**population.variables, "params": params})[1]["params"]
        chex.assert_trees_all_close(trained, own_params, rtol=1e-4, atol=1e-5)
        chex.assert_trees_all_close(population.carry(state, number), own_state, rtol=1e-4, atol=1e-5)


def test_states_go_out_of_a_population_and_back():
    graph, variables, _, requests = network("heads and widths of attention")
    population = nas.Population.of([nas.delta_nout(graph, variables, request) for request in requests])
    tx = optax.adamw(0.1)
    _, state = jax.vmap(tx.update)(population.variables["params"], population.init(tx), population.variables["params"])
    own = population.carry(state, 1)
    fresh = tx.init(population.member(1)[1]["params"])
    chex.assert_trees_all_equal_shapes_and_dtypes(own, fresh)
    doubled = jax.tree.map(lambda a: a * 2, own)
    back = population.put(state, 1, doubled)
    chex.assert_trees_all_equal(population.carry(back, 1), doubled)
    for other in (0, 2):
        chex.assert_trees_all_equal(population.carry(back, other), population.carry(state, other))


@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_chunks_give_the_same(chunk):
    graph, variables, x, requests = network("groups, depthwise, flattened")
    members = [nas.delta_nout(graph, variables, request) for request in (*requests, {"c": -4})]
    population = nas.Population.of(members)
    outputs = population.apply(population.variables, x, chunk=chunk)
    for number, (own, own_variables) in enumerate(members):
        np.testing.assert_allclose(outputs[number], own.apply(own_variables, x), rtol=1e-4, atol=1e-5)


TWO_DEVICES = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}


def test_members_lie_on_several_devices_as_the_page_says():
    page = (Path(__file__).parents[2] / "docs/population.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    checks = """
assert jax.device_count() == 2
assert not outputs.sharding.is_fully_replicated and not on_each_device(population).sharding.is_fully_replicated
assert "all-gather" not in on_each_device.lower(population).compile().as_text()
for number in range(4):
    own_graph, own_variables = population.member(number)
    np.testing.assert_allclose(outputs[number], own_graph.apply(own_variables, data), rtol=1e-5, atol=1e-5)

import optax
spread = jax.tree.leaves(population.variables)[0].sharding
assert all(leaf.sharding == spread for leaf in jax.tree.leaves(population.init(optax.adam(1e-2))))

x = nas.input_vertex("x", 2, shape=(4, 4, 2))
graph = nas.Graph(x, nas.layer("out", nn.Conv(2, (3, 3)), nas.layer("hidden", nn.Conv(4, (3, 3)), x)))
images = jax.random.normal(jax.random.key(1), (3, 4, 4, 2))
variables = graph.init(jax.random.key(0), images)
population = nas.Population.of([nas.delta_nout(graph, variables, {"hidden": nas.to(n)}) for n in (2, 5, 3, 4)])
spread = jax.device_put(population, NamedSharding(mesh, own))
apply = lambda population, variables: population.apply(variables, images)
looped = jax.shard_map(apply, mesh=mesh, in_specs=(own, own), out_specs=own, check_vma=False)
gradients = [jax.jit(jax.grad(lambda v, p, f=f: (f(p, v) ** 2).sum()))(p.variables, p)
             for f, p in ((looped, spread), (apply, population))]
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), *gradients)
"""
    subprocess.run([sys.executable, "-c", "\n".join([*blocks, checks])], env=TWO_DEVICES, check=True)


def test_convolutions_of_a_gradient_have_the_layout_that_is_fast_in_loops():
    graph, variables, x, requests = network("groups, depthwise, flattened")
    population = nas.Population.of([nas.delta_nout(graph, variables, request) for request in requests])
    gradient = jax.jit(jax.grad(lambda v: jnp.sum(jnp.square(population.apply(v, x)))))
    text = gradient.lower(population.variables).as_text()
    layouts = re.findall(r"stablehlo.convolution.*dim_numbers = (.*), window", text)
    assert layouts == ["[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"] * 5


class TestRefusals:
    def test_members_of_other_structure(self):
        graph, variables, _, _ = network("normalised and concatenated")
        other = nas.insert_vertex(graph, variables, "a", lambda v: nas.layer("new", nn.Dense(9), v))
        with pytest.raises(nas.StructureError, match=r"Member 1 has another structure.*nas\.populations"):
            nas.Population.of([nas.delta_nout(graph, variables, {"h": -1}), other])

    def test_nothing_and_no_members(self):
        with pytest.raises(nas.PlanError, match="takes a list of mutations"):
            nas.Population.of([])
        with pytest.raises(nas.PlanError, match="Member 0 is 3"):
            nas.Population.of([3])

    def test_what_does_not_fit_in(self):
        graph, variables, _, requests = network("softmax and norm over neurons")
        population = nas.Population.of([nas.delta_nout(graph, variables, request) for request in requests])
        with pytest.raises(nas.StructureError, match=r"does not fit in: it needs 9 places for neurons of 's'|of 'l'"):
            population.replace(0, nas.delta_nout(graph, variables, {"l": 3}))

    def test_an_axis_in_which_members_did_not_differ(self):
        graph, variables, _, _ = network("normalised and concatenated")
        population = nas.Population.of([nas.delta_nout(graph, variables, {"h": change}) for change in (-1, -2)])
        with pytest.raises(nas.StructureError, match="'c' has 5 neurons in all members"):
            population.replace(0, nas.delta_nout(graph, variables, {"c": -1}))

    @pytest.mark.parametrize("number", [2, -1, True, "0", 1.5])
    def test_a_member_that_there_is_not(self, number):
        graph, variables, _, requests = network("softmax and norm over neurons")
        population = nas.Population.of([nas.delta_nout(graph, variables, request) for request in requests])
        with pytest.raises(nas.RequestError, match="one of the 2 members"):
            population.member(number)


def test_a_list_is_sorted_by_structure_and_size():
    graph, variables, _, _ = network("normalised and concatenated")
    other = nas.insert_vertex(graph, variables, "a", lambda v: nas.layer("new", nn.Dense(9), v))
    members = [
        nas.delta_nout(graph, variables, {"h": -1}),
        other,
        nas.delta_nout(graph, variables, {"h": nas.to(1), "c": nas.to(1)}),
        tuple(nas.delta_nout(*other, {"h": -2})),
        nas.delta_nout(graph, variables, {"h": 1}),
    ]
    found = nas.populations(members, ratio=3)
    assert [numbers for _, numbers in found] == [(0, 4), (1, 3), (2,)]
    for population, numbers in found:
        for place, number in enumerate(numbers):
            own, own_variables = members[number]
            assert population.member(place)[0] == own
            chex.assert_trees_all_equal(dict(population.member(place)[1]), dict(own_variables))
    with pytest.raises(nas.RequestError, match="ratio= must be a number of at least 1"):
        nas.populations(members, ratio=0.5)


def test_constants_with_an_entry_per_neuron_follow_their_neurons():
    table = jnp.linspace(-1.0, 1.0, 7)

    class Scaled(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(jnp.tanh(nn.Dense(7)(x) * table))

    x = jax.random.normal(KEY, (4, 3))
    graph, variables = nas.from_linen(Scaled(), Scaled().init(jax.random.key(0), x), x)
    members = [nas.delta_nout(graph, varied(variables), {"Dense_1": change}) for change in (-3, 2, -1)]
    matches(nas.Population.of(members), members, x)


def one_of_experts(x, p):
    values, chosen = jax.lax.top_k(x @ p["router"], 2)
    hidden = jax.nn.relu(jnp.einsum("nd,nkdh->nkh", x, p["up"][chosen]))
    return jnp.einsum("nk,nkh,nkhd->nd", jax.nn.softmax(values), hidden, p["down"][chosen])


def hard_choice(x, p):
    chosen = jax.nn.one_hot(jnp.argmax(x @ p["router"], -1), p["router"].shape[1])
    return jnp.einsum("nd,ne,edh->nh", x, chosen, p["up"]) @ p["down"][0]


def masked_softmax(x, p):
    scores = x @ p["router"]
    least = jax.lax.top_k(scores, 2)[0][..., -1:]
    gates = jax.nn.softmax(jnp.where(scores >= least, scores, -jnp.inf))
    return jnp.einsum("nd,ne,edh->nh", x, gates, p["up"]) @ p["down"][0]


@pytest.mark.parametrize("mixture", [one_of_experts, hard_choice, masked_softmax])
def test_experts_are_chosen_among_those_that_a_member_has(mixture):
    shapes = {"router": (4, 5), "up": (5, 4, 6), "down": (5, 6, 4)}
    params = {name: jax.random.normal(jax.random.key(i), shape) for i, (name, shape) in enumerate(shapes.items())}
    x = jax.random.normal(KEY, (9, 4))
    graph, variables = nas.from_function(lambda v, x: mixture(x, v["params"]), {"params": params}, x)
    handle = next(name for name, each in graph.handles().items() if each.size == 5)
    members = [nas.delta_nout(graph, variables, {handle: change}) for change in (-2, 1, -1)]
    matches(nas.Population.of(members), members, x)


def test_a_member_that_says_a_size_and_one_that_leaves_it_out():
    x = nas.input_vertex("x", 6)
    hidden = nas.layer("a", nn.Dense(8), x)
    graph = nas.Graph(x, nas.layer("o", nn.Dense(3), nas.layer("att", nn.MultiHeadDotProductAttention(2), hidden)))
    data = jax.random.normal(KEY, (2, 5, 6))
    variables = varied(graph.init(jax.random.key(0), data))
    members = [nas.delta_nout(graph, variables, {"a": change}) for change in (2, 0)]
    population = nas.Population.of(members)
    outputs = population.apply(population.variables, data)
    for number, (own, own_variables) in enumerate(members):
        np.testing.assert_allclose(outputs[number], own.apply(own_variables, data), rtol=1e-4, atol=1e-5)


def test_variables_that_are_lists():
    params = [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(4, 6), (6, 2)])]
    x = jax.random.normal(KEY, (9, 4))
    graph, variables = nas.from_function(lambda w, x: jax.nn.relu(x @ w[0]) @ w[1], params, x)
    members = [nas.delta_nout(graph, variables, {"0": change}) for change in (-2, 1)]
    population = nas.Population.of(members)
    tx = optax.adam(1e-2)
    state = population.init(tx)
    gradients = jax.grad(lambda v: jnp.sum(population.apply(v, x) ** 2))(population.variables)
    updates, state = jax.vmap(tx.update)(gradients, state, population.variables)
    trained = optax.apply_updates(population.variables, updates)
    for number, (own, own_variables) in enumerate(members):
        hard = jax.grad(lambda v, g=own: jnp.sum(g.apply(v, x) ** 2))(own_variables)
        moved, _ = tx.update(hard, tx.init(own_variables), own_variables)
        wanted = optax.apply_updates(own_variables, moved)
        chex.assert_trees_all_close(population.member(number, trained)[1], wanted, rtol=1e-4, atol=1e-5)


def test_the_structures_of_a_model_stay():
    class Pair(nn.Module):
        @nn.compact
        def __call__(self, batch):
            hidden = nn.relu(nn.Dense(6)(batch["image"]))
            return {"logits": nn.Dense(2)(hidden), "mean": hidden.mean(-1, keepdims=True)}

    batch = {"image": jax.random.normal(KEY, (4, 3))}
    graph, variables = nas.from_linen(Pair(), Pair().init(jax.random.key(0), batch), batch)
    members = [nas.delta_nout(graph, variables, {"Dense_0": change}) for change in (-3, 2)]
    population = nas.Population.of(members)
    outputs = population.apply(population.variables, batch)
    for number, (own, own_variables) in enumerate(members):
        wanted = own.apply(own_variables, batch)
        chex.assert_trees_all_close(jax.tree.map(lambda a, n=number: a[n], outputs), wanted, rtol=1e-5, atol=1e-6)


def test_a_state_is_where_the_parameters_are_so_that_a_step_is_compiled_once():
    x = nas.input_vertex("x", 3)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(8), x)))
    data, tx = jnp.ones((4, 3)), optax.adam(1e-2)
    variables = jax.device_put(graph.init(jax.random.key(0), data), jax.devices()[0])
    population = nas.Population.of([nas.delta_nout(graph, variables, {"hidden": n}) for n in (-3, -1)])

    @jax.jit
    def placed_step(population, params, state):
        gradients = jax.grad(lambda params: population.apply({"params": params}, data).sum())(params)
        updates, state = jax.vmap(tx.update)(gradients, state, params)
        return optax.apply_updates(params, updates), state

    params, state = population.variables["params"], population.init(tx)
    with nas.count_programs() as programs:
        for _ in range(2):
            params, state = placed_step(population, params, state)
    assert programs.names.count("placed_step") == 1
