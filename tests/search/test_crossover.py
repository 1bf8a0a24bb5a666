"""A child of two networks is legal, and made of entries of its parents."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import naivenas_jax as nas

KEY = jax.random.key(1)
KINDS = ("groups", "neurons")


def labelled(variables, start):
    """Variables none of whose entries occurs twice; positive, as variances have to be."""
    leaves, structure = jax.tree.flatten(variables)
    made = []
    for leaf in leaves:
        made.append((start + np.arange(leaf.size, dtype=np.float32)).reshape(leaf.shape) / 4096)
        start += leaf.size
    return jax.tree.unflatten(structure, made)


def dense(act=nn.relu):
    x = nas.input_vertex("x", 6)
    hidden = nas.invariant_vertex("a", act, nas.layer("h", nn.Dense(9), x))
    return nas.Graph(x, nas.layer("o", nn.Dense(3), nas.layer("b", nn.Dense(7), hidden)))


def residual():
    x = nas.input_vertex("x", 6)
    e = nas.layer("e", nn.Dense(8), x)
    a = nas.layer("att", nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8), e)
    return nas.Graph(x, nas.layer("o", nn.Dense(3), nas.layer("ln", nn.LayerNorm(), e + a)))


def convolutional():
    x = nas.input_vertex("x", 3, shape=(4, 4, 3))
    c = nas.layer("gn", nn.GroupNorm(num_groups=4), nas.layer("c", nn.Conv(8, (3, 3)), x))
    d = nas.layer("bn", nn.BatchNorm(), nas.layer("d", nn.Conv(8, (3, 3), feature_group_count=8), c))
    joined = nas.concat("k", c, d)
    return nas.Graph(x, nas.layer("o", nn.Dense(3), nas.flatten("f", joined)))


def recurrent():
    x = nas.input_vertex("x", 6)
    return nas.Graph(x, nas.layer("o", nn.Dense(3), nas.layer("l", nn.RNN(nn.LSTMCell(6)), x)))


def words():
    x = nas.input_vertex("x", 11, shape=(5,))
    e = nas.layer("e", nn.Embed(11, 6), x)
    return nas.Graph(x, nas.layer("o", nnx.Linear(8, 3, rngs=nnx.Rngs(0)), nas.layer("h", nn.Dense(8), e)))


CASES = {
    "dense": (dense, (2, 6), [{"h": -4, "b": 2}, {"h": 3, "b": -2}]),
    "attention": (residual, (2, 5, 6), [{"att:heads": 1, "e": -3}, {"att:qk": -1, "att:value": 2, "e": 1}]),
    "convolutions": (convolutional, (2, 4, 4, 3), [{"gn:groups": -1}, {"c": 4}]),
    "a loop": (recurrent, (2, 5, 6), [{"l": -2}, {"l": 2}]),
    "words": (words, None, [{"e": -2, "h": 1}, {"e": 3, "h": -3}]),
}


class Block(nnx.Module):
    def __init__(self, rngs):
        self.e, self.n = nnx.Linear(6, 12, rngs=rngs), nnx.LayerNorm(12, rngs=rngs)
        self.a = nnx.MultiHeadAttention(num_heads=3, in_features=12, decode=False, rngs=rngs)
        self.u, self.d = nnx.Linear(12, 10, rngs=rngs), nnx.Linear(10, 12, rngs=rngs)

    def __call__(self, x):
        x = self.e(x)
        x = x + self.a(self.n(x))
        return x + self.d(nnx.gelu(self.u(x)))


def siblings(case):
    """Two mutations of one network, each with variables of its own."""
    make, shape, requests = CASES[case]
    x = jnp.arange(10).reshape(2, 5) if shape is None else jax.random.normal(KEY, shape)
    graph = make()
    variables = graph.init(KEY, x)
    made = [nas.delta_nout(graph, variables, request) for request in requests]
    return [dataclasses.replace(m, variables=labelled(m.variables, 1 + i * 50_000)) for i, m in enumerate(made)], x


def leaves(variables):
    return {
        jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }


def assert_same(one, two):
    assert one.keys() == two.keys()
    for path in one:
        np.testing.assert_array_equal(one[path], two[path], strict=True)


@pytest.mark.parametrize("case", CASES)
def test_every_entry_is_one_of_a_parent(case):
    (first, second), x = siblings(case)
    parents, widths = [leaves(p.variables) for p in (first, second)], [p.graph.ties.sizes for p in (first, second)]
    seen = set()
    for number in range(6):
        child = nas.crossover(first, second, jax.random.key(number), kind=KINDS[number % 2])
        known = [set(own[path].ravel().tolist()) for path in parents[0] for own in parents]
        known = dict(
            zip(parents[0], [a | b | {0.0} for a, b in zip(known[::2], known[1::2], strict=True)], strict=True)
        )
        for path, array in leaves(child.variables).items():
            assert set(array.ravel().tolist()) <= known[path]
        for axis, size in child.graph.ties.sizes.items():
            if not any(run in child.graph.ties.products for run in child.graph.ties.axes[axis]) and axis not in "kf":
                assert size in [own[axis] for own in widths]
        outputs, grads = jax.eval_shape(
            jax.value_and_grad(lambda v, c=child: c.graph.apply(v, x).sum()), child.variables
        )
        assert outputs.shape == ()
        assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, child.variables)
        graph, variables = child.undo(child.variables)
        assert graph == first.graph
        assert_same(leaves(variables), leaves(first.variables))
        seen.add(tuple(child.graph.ties.sizes.values()))
    assert len(seen) > 1
    assert np.isfinite(child.graph.apply(child.variables, x)).all()


def test_a_neuron_has_all_the_weights_that_make_it_in_its_parent():
    (first, second), _ = siblings("dense")
    for number in range(6):
        child = nas.crossover(first, second, jax.random.key(number), kind=KINDS[number % 2])
        made = [np.vstack([p["params"]["h"]["kernel"], p["params"]["h"]["bias"]]).T for _, p in (first, second, child)]
        ours, theirs, own = ({tuple(row) for row in rows.tolist()} for rows in made)
        new = child.indices("h") == -1
        rows = [tuple(row) for row in made[2].tolist()]
        assert len(own) == len(rows)
        assert all(row in (theirs if is_new else ours) for row, is_new in zip(rows, new, strict=True))


def places(mutation, axis):
    """A name for each neuron: its position in the ancestor, or how manieth of the new ones it is."""
    new = iter(range(100, 200))
    return [int(i) if i >= 0 else next(new) for i in mutation.indices(axis)]


def test_weights_between_neurons_of_both_parents():
    (first, second), _ = siblings("dense")
    parents = [(p, {axis: places(p, axis) for axis in "hb"}) for p in (first, second)]
    counted = set()
    for number in range(8):
        child = nas.crossover(first, second, jax.random.key(number), kind=KINDS[number % 2])
        found = {}
        for axis in "hb":  # a bias says whose a neuron is, and which one
            biases = [p.variables["params"][axis]["bias"].tolist() for p, _ in parents]
            own = [float(b) for b in child.variables["params"][axis]["bias"]]
            found[axis] = [
                (int(b in biases[1]), parents[b in biases[1]][1][axis][biases[b in biases[1]].index(b)]) for b in own
            ]
        for i, (_, read) in enumerate(found["h"]):
            for o, (owner, made) in enumerate(found["b"]):
                expected = 0.0
                for p, named in (parents[1 - owner], parents[owner]):
                    if read in named["h"] and made in named["b"]:
                        at = named["h"].index(read), named["b"].index(made)
                        expected = p.variables["params"]["b"]["kernel"][at]
                assert child.variables["params"]["b"]["kernel"][i, o] == expected
                counted.add((expected == 0.0, owner))
    assert len(counted) > 2  # weights of either parent, and such that no parent has


def test_neurons_of_a_common_ancestor_are_the_same_ones():
    graph = dense()
    variables = labelled(graph.init(KEY, jnp.ones((1, 6))), 1)
    first = nas.delta_nout(graph, variables, {"h": -4}, utility={"h": 1 + np.arange(9.0)})
    second = nas.delta_nout(graph, variables, {"h": -3}, utility={"h": 9 - np.arange(9.0)})
    for number in range(8):
        child = nas.crossover(first, second, jax.random.key(number), kind="neurons")
        biases = np.asarray(child.variables["params"]["h"]["bias"]).tolist()
        assert len(set(biases)) == len(biases) in (5, 6)
        apart = nas.crossover(tuple(first), tuple(second), jax.random.key(number), kind="neurons")
        assert len(apart.variables["params"]["h"]["bias"]) == len(biases)
    # a parent with its own child: the one is the ancestor of the other
    trained = jax.tree.map(lambda a: a + 1, first.variables)
    child = nas.crossover((graph, variables), (first, trained), jax.random.key(0), kind="neurons")
    origins = np.asarray(variables["params"]["h"]["bias"])
    biases = [b - (b > 1) for b in np.asarray(child.variables["params"]["h"]["bias"])]
    assert sorted(biases) == sorted(set(biases))
    assert set(np.float32(biases)) <= set(origins)


@pytest.mark.parametrize("kind", KINDS)
def test_a_crossover_with_itself_gives_the_network_back(kind):
    (first, _), _ = siblings("attention")
    for second in (first, (first, jax.tree.map(jnp.array, first.variables)), tuple(first)):
        child = nas.crossover(first, second, KEY, kind=kind)
        assert child.graph == first.graph
        assert not child.plan.changed
        assert_same(leaves(child.variables), leaves(first.variables))
        assert child.check(jax.random.normal(KEY, (2, 5, 6))).compared


def test_the_same_key_gives_the_same_child():
    (first, second), _ = siblings("convolutions")
    children = [nas.crossover(first, second, jax.random.key(n), kind="neurons") for n in (3, 3, 4)]
    assert children[0].graph == children[1].graph
    assert children[0].plan == children[1].plan != children[2].plan
    assert_same(leaves(children[0].variables), leaves(children[1].variables))


def test_the_state_of_an_optimizer_goes_on_for_what_is_of_the_first():
    (first, second), x = siblings("dense")
    state = optax.adam(1e-3).init(first.variables["params"])
    state = (state[0]._replace(count=jnp.array(7), mu=first.variables["params"]), *state[1:])
    for number in range(4):
        child = nas.crossover(first, second, jax.random.key(number), kind="neurons")
        moved = child.carry(state)[0]
        kept = child.indices("h") >= 0
        bias = np.asarray(child.variables["params"]["h"]["bias"])
        np.testing.assert_array_equal(moved.mu["h"]["bias"], np.where(kept, bias, 0))
        assert moved.count == 7
        if child.plan.changed:
            assert not child.check(x).compared


@pytest.mark.parametrize("case", CASES)
def test_states_of_both_parents_go_where_the_weights_go(case):
    """Every entry of every variable is another number, and so are its moments: the child's say where each is from."""
    (first, second), _ = siblings(case)
    tx = optax.chain(optax.clip(1.0), optax.adam(1e-3))
    states = []
    for number, (_, variables) in enumerate((first, second)):
        state = tx.init(variables["params"])
        moments = {"mu": variables["params"], "nu": jax.tree.map(lambda a: a * 2, variables["params"])}
        adam = state[1][0]._replace(count=jnp.array(7 + number), **moments)
        states.append((state[0], (adam, *state[1][1:])))
    from_second = 0
    for number in range(4):
        child = nas.crossover(first, second, jax.random.key(number), kind=KINDS[number % 2])
        carried, report = child.carry(states[0], second=states[1], report=True)
        moved, params = carried[1][0], child.variables["params"]
        assert_same(leaves(moved.mu), leaves(params))
        assert_same(leaves(moved.nu), leaves(jax.tree.map(lambda a: a * 2, params)))
        assert (moved.count, report.restarted) == (7, ())
        theirs = {n for leaf in jax.tree.leaves(second.variables["params"]) for n in leaf.ravel().tolist()}
        from_second += sum(n in theirs for leaf in jax.tree.leaves(params) for n in np.ravel(leaf).tolist())
        both = child.carry(
            {"params": params_of(first), "ema": params_of(first)},
            second={"params": params_of(second), "ema": params_of(second)},
        )
        assert_same(leaves(both["ema"]), leaves(params))
    assert from_second


def params_of(mutation):
    return mutation.variables["params"]


class Two(nnx.Module):
    def __init__(self, rngs):
        self.a, self.b = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.b(nnx.relu(self.a(x)))


def test_optimizers_of_nnx_and_training_states_that_were_made_apart():
    x, model = jnp.ones((2, 4)), Two(nnx.Rngs(0))
    graph, variables = nas.from_nnx(model, x)
    parents = [nas.delta_nout(graph, variables, {"a": change}) for change in (-2, 3)]
    optimizers = []
    for number, parent in enumerate(parents):
        optimizer = nnx.Optimizer(nas.rebuild(model, parent), optax.adam(1e-3), wrt=nnx.Param)
        filled = jax.tree.map(lambda a, n=number: a if a.ndim == 0 else a * 0 + n + 1, nnx.state(optimizer))
        nnx.update(optimizer, filled)
        optimizers.append(optimizer)
    trained = [TrainState.create(apply_fn=None, params=p.variables["params"], tx=optax.adam(1e-3)) for p in parents]
    widths = set()
    for number in range(4):
        child = nas.crossover(*parents, jax.random.key(number))
        carried = child.carry(optimizers[0], second=optimizers[1])
        moments = carried.opt_state[0].mu["a"]["bias"][...]
        np.testing.assert_array_equal(moments, np.where(child.indices("a") < 0, 2, 1))
        state = child.carry(trained[0], second=trained[1])
        assert_same(leaves(state.params), leaves(child.variables["params"]))
        assert state.tx is trained[0].tx
        widths.add(len(moments))
    assert widths == {6, 11}


def test_statistics_of_adafactor_are_of_the_network_that_most_entries_are_from():
    (first, second), _ = siblings("dense")
    tx = optax.scale_by_factored_rms(min_dim_size_to_factor=2)
    states = [jax.tree.map(lambda a, n=n: a + 1.0 + n, tx.init(params_of(p))) for n, p in enumerate((first, second))]
    seen = set()
    for number in range(4):
        child = nas.crossover(first, second, jax.random.key(number))
        moved = child.carry(states[0], second=states[1])
        fresh = tx.init(child.variables["params"])
        assert jax.tree.map(jnp.shape, moved) == jax.tree.map(jnp.shape, fresh)
        new = child.indices("h") == -1
        bias = np.asarray(moved.v["h"]["bias"])
        np.testing.assert_array_equal(bias, np.where(new, 2, 1))
        seen.add(bool(new.any()))
    assert seen == {False, True}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_bits_and_mappings_are_kept(kind, dtype):
    graph = dense()
    variables = graph.init(KEY, jnp.ones((1, 6)))
    cast = jax.tree.map(lambda a: a.astype(dtype), variables)
    first, second = (
        nas.delta_nout(graph, cast, {"h": -2}),
        nas.delta_nout(graph, jax.tree.map(np.asarray, cast), {"b": 1}),
    )
    child = nas.crossover(first, second, KEY, kind=kind)
    assert {leaf.dtype for leaf in jax.tree.leaves(child.variables)} == {jnp.dtype(dtype)}
    shapes = jax.eval_shape(lambda: first.variables)
    abstract = nas.crossover((first, shapes), second, KEY, kind=kind)
    assert jax.tree.map(jnp.shape, abstract.variables) == jax.tree.map(jnp.shape, child.variables)


def test_imported_models():
    x = jax.random.normal(KEY, (2, 5, 6))
    model = Block(nnx.Rngs(0))
    graph, variables = nas.from_nnx(model, x)
    first = nas.delta_nout(graph, variables, {"u": -3})
    second = nas.delta_nout(graph, variables, {"u": 2, "a/query:features": -1})
    trained = jax.tree.map(lambda a: a + 1, second.variables)
    sizes = set()
    for number in range(4):
        child = nas.crossover(first, (second, trained), jax.random.key(number), kind=KINDS[number % 2])
        assert np.isfinite(child.graph.apply(child.variables, x)).all()
        sizes.add((child.graph.ties.size("u"), child.graph.ties.size("a/query:features")))
        assert_same(leaves(child.undo(child.variables)[1]), leaves(first.variables))
    assert sizes <= {(7, 4), (7, 3), (12, 4), (12, 3)}
    assert len(sizes) > 1


def test_networks_of_other_structures_have_no_crossover_of_neurons():
    one, two = dense(), residual()
    pairs = [(graph, graph.init(KEY, jnp.ones((1, 2, 6)))) for graph in (one, two)]
    with pytest.raises(nas.StructureError, match=r"These two networks have no crossover of groups: .* other axes"):
        nas.crossover(*pairs, KEY)
    with pytest.raises(nas.PlanError, match="first= takes a mutation, a pair"):
        nas.crossover(one, pairs[1], KEY)
    with pytest.raises(nas.VariablesError):
        nas.crossover(pairs[0], (one, pairs[1][1]), KEY)
    with pytest.raises(nas.RequestError, match="kind= must be one of 'groups', 'neurons', 'segments'; found 'all'"):
        nas.crossover(pairs[0], pairs[0], KEY, kind="all")
    with pytest.raises(nas.PlanError, match="key"):
        nas.crossover(pairs[0], pairs[0], 3)


def test_a_layer_that_says_a_size_is_like_one_that_leaves_it_out():
    x = nas.input_vertex("x", 6)
    attention = nas.layer("att", nn.MultiHeadDotProductAttention(num_heads=2), nas.layer("e", nn.Dense(8), x))
    graph = nas.Graph(x, nas.layer("o", nn.Dense(3), attention))
    variables = graph.init(KEY, jnp.ones((1, 4, 6)))
    there = nas.delta_nout(graph, variables, {"att:qk": 1})
    back = nas.delta_nout(*there, {"att:qk": -1})
    assert back.graph != graph  # it says how many features there are
    for pair in ([(graph, variables), tuple(back)], [tuple(back), (graph, variables)]):
        assert nas.crossover(*pair, KEY).graph.apply(variables, jnp.ones((1, 4, 6))).shape == (1, 4, 3)
