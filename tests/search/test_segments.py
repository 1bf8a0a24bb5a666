"""A part of one network in the place of a part of another: always legal, and computing what it should."""

import dataclasses
import random

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings, strategies as st
from strategies import random_graph, random_inputs, random_variables

import naivenas_jax as nas
from naivenas_jax.mutate.request.options import Options
from naivenas_jax.search.segments.segment import segments
from naivenas_jax.search.segments.swap import Side, swap

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (3, 6))


def dense(name, width, *inputs):
    return nas.layer(name, nn.Dense(width), *inputs)


def residual(width=8, inner=8):
    x = nas.input_vertex("x", 6, shape=(6,))
    act = nas.invariant_vertex("act", nn.relu, dense("stem", width, x))
    total = (act + dense("branch", inner, act)).named("total")
    return nas.Graph(x, dense("out", 3, dense("neck", 7, total)))


def chain(width=8, last=8):
    x = nas.input_vertex("x", 6, shape=(6,))
    act = nas.invariant_vertex("act", jnp.tanh, dense("stem", width, x))
    return nas.Graph(x, dense("out", 3, dense("neck", last, dense("deep", 5, act))))


def side(graph, seed, first, last):
    """A network with random variables, and its segment from one vertex to another."""
    variables = random_variables(graph, seed)
    found = [each for each in segments(graph) if (each.vertices[0].name, each.last.name) == (first, last)]
    return Side(graph, variables, found[0])


def leaves(tree):
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def test_what_can_be_cut_out():
    found = {(each.entry.name, tuple(v.name for v in each.vertices)) for each in segments(residual())}
    assert found == {
        ("x", ("stem",)),
        ("stem", ("act",)),
        ("x", ("stem", "act")),
        ("act", ("branch",)),
        ("act", ("branch", "total")),
        ("stem", ("act", "branch", "total")),
        ("x", ("stem", "act", "branch", "total")),
        ("total", ("neck",)),
        ("act", ("branch", "total", "neck")),
        ("stem", ("act", "branch", "total", "neck")),
        ("x", ("stem", "act", "branch", "total", "neck")),
    }
    ends = {each.last.name: (each.start, each.end) for each in segments(residual())}
    assert ends["neck"] == (0.0, 5 / 6)


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False))
def test_segments_are_what_their_definition_says(rng):
    graph = random_graph(rng, images=False)
    found = {(each.entry.name, each.last.name): {v.name for v in each.vertices} for each in segments(graph)}
    outputs = {v.name for v in graph.outputs}
    for last in graph.vertices:
        for entry in graph.ancestors(last.name):
            inside = {*graph.descendants(entry)} & {*graph.ancestors(last.name), last.name}
            reads = {source for name in inside for source in graph.inputs_of(name)}
            readers = {reader for name in inside - {last.name} for reader in graph.outputs_of(name)}
            legal = reads <= inside | {entry} and readers <= inside and not inside & outputs
            assert ((entry, last.name) in found) == legal
            assert not legal or found[entry, last.name] == inside


def test_where_both_ends_are_as_wide_it_computes_one_after_the_other():
    ours, theirs = side(residual(), 0, "branch", "total"), side(chain(), 1, "deep", "neck")
    child = swap(ours, theirs, Options())
    p, q = ours.variables["params"], theirs.variables["params"]

    def layer(params, x):
        return x @ params["kernel"] + params["bias"]

    expected = nn.relu(layer(p["stem"], X))
    expected = layer(q["neck"], layer(q["deep"], expected))
    expected = layer(p["out"], layer(p["neck"], expected))
    np.testing.assert_allclose(child.graph.apply(child.variables, X), expected, rtol=1e-5, atol=1e-5)
    assert child.notes == (
        "crossover: 'deep' to 'neck' of the second network in the place of 'branch' to 'total'",
        "names that were taken: 'neck' is 'neck2'",
    )
    assert [v.name for v in child.graph.vertices] == ["x", "stem", "act", "deep", "neck2", "neck", "out"]
    assert child.kind == "crossover"


def test_networks_that_differ_in_the_segment_alone_give_the_second():
    second = chain(last=5)
    ours, theirs = side(chain(), 0, "deep", "neck"), side(second, 0, "deep", "neck")
    rest = {name: ours.variables["params"][name] for name in ("stem",)}
    theirs.variables["params"].update(rest)
    child = swap(ours, theirs, Options())
    assert [v.name for v in child.graph.vertices] == [v.name for v in second.vertices]
    for name in ("stem", "deep", "neck"):
        jax.tree.map(np.testing.assert_array_equal, child.variables["params"][name], theirs.variables["params"][name])
    # the output reads 5 neurons of 8: those that it had the largest weights for, in their order
    source = child.plan.axes[child.plan.leaves["params", "out", "kernel"][0]].source
    kernel = np.asarray(ours.variables["params"]["out"]["kernel"])
    np.testing.assert_array_equal(child.variables["params"]["out"]["kernel"], kernel[source])
    assert len(source) == 5
    assert sorted(source) == list(source)


def test_segments_keep_their_neurons_and_what_reads_them_follows():
    ours, theirs = side(chain(12, 9), 0, "deep", "neck"), side(chain(7, 11), 1, "deep", "neck")
    child = swap(ours, theirs, Options())
    sizes = child.graph.ties.sizes
    assert (sizes["act"], sizes["deep"], sizes["neck"], sizes["out"]) == (12, 5, 11, 3)
    q, now = theirs.variables["params"], child.variables["params"]
    np.testing.assert_array_equal(now["neck"]["kernel"], q["neck"]["kernel"])
    np.testing.assert_array_equal(now["deep"]["kernel"], np.vstack([q["deep"]["kernel"], np.zeros((5, 5))]))
    kernel = ours.variables["params"]["out"]["kernel"]
    np.testing.assert_array_equal(now["out"]["kernel"], np.vstack([kernel, np.zeros((2, 3))]))
    # a sum ties the segment to what it reads: it cannot keep its width
    child = swap(side(chain(12), 0, "deep", "neck"), side(residual(7, 7), 1, "branch", "total"), Options())
    assert {child.graph.ties.size(name) for name in ("stem", "act", "branch", "total")} == {12}


def test_states_of_both_go_where_the_weights_go():
    ours, theirs = side(chain(12, 9), 0, "deep", "neck"), side(chain(7, 11), 1, "deep", "neck")
    child = swap(ours, theirs, Options())
    states = []
    for number, each in enumerate((ours, theirs)):
        state = optax.adam(1e-3).init(each.variables["params"])
        moments = jax.tree.map(lambda a: a + 10, each.variables["params"])
        states.append((state[0]._replace(count=jnp.array(5 + number), mu=moments), *state[1:]))
    carried, report = child.carry(states[0], second=states[1], report=True)
    p, q = states[0][0].mu, states[1][0].mu
    expected = {
        "stem": p["stem"],
        "deep": {"kernel": np.vstack([q["deep"]["kernel"], np.zeros((5, 5))]), "bias": q["deep"]["bias"]},
        "neck": q["neck"],
        "out": {"kernel": np.vstack([p["out"]["kernel"], np.zeros((2, 3))]), "bias": p["out"]["bias"]},
    }
    jax.tree.map(np.testing.assert_array_equal, carried[0].mu, expected)
    assert carried[0].count == 5
    assert report.restarted == ()
    alone = child.carry(states[0])[0].mu
    np.testing.assert_array_equal(alone["neck"]["kernel"], 0)
    np.testing.assert_array_equal(alone["stem"]["kernel"], p["stem"]["kernel"])
    updates, _ = optax.adam(1e-3).update(child.variables["params"], carried, child.variables["params"])
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, child.variables["params"])
    with pytest.raises(nas.CarryError, match=r"second= must be a tree like the first one, .* besides"):
        child.carry(states[0], second=optax.sgd(0.1, momentum=0.9).init(theirs.variables["params"]))
    with pytest.raises(nas.CarryError, match=r"second= is for what nas\.crossover returned, .* by delta_nout"):
        nas.delta_nout(ours.graph, ours.variables, {"deep": -1}).carry(states[0], second=states[1])


@settings(max_examples=8, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 2**20))
def test_any_two_networks(rng, seed):
    one, two = (random_graph(rng, images=False, steps=(3, 8)) for _ in range(2))
    first, second = (one, random_variables(one, seed)), (two, random_variables(two, seed + 1))
    try:
        child = nas.crossover(first, second, jax.random.key(seed), kind="segments", deviation=1)
    except nas.NoMutationError as error:
        assert str(error).startswith("No segments can be exchanged")  # noqa: PT017
        return
    inputs = random_inputs(one)
    outputs = jax.eval_shape(one.apply, first[1], *inputs)
    made = jax.eval_shape(child.graph.apply, child.variables, *inputs)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, outputs)
    graph, variables = child.undo(child.variables)
    assert graph == one
    before, after = leaves(first[1]), leaves(variables)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[path], after[path]) for path in before)
    assert nas.Plan.from_json(child.plan.to_json()) == child.plan
    known = {0.0, *(float(n) for tree in (first[1], second[1]) for leaf in jax.tree.leaves(tree) for n in leaf.ravel())}
    kept = {0.0, *(float(n) for leaf in jax.tree.leaves(child.variables) for n in np.ravel(leaf))}
    assert kept <= known or child.aligned != "none"


def test_a_child_is_compiled_differentiated_and_trained():
    one, two = residual(), chain(10, 6)
    first, second = (one, one.init(KEY, X)), (two, two.init(jax.random.key(2), X))
    child = nas.crossover(first, second, jax.random.key(3), kind="segments")
    tx = optax.adam(1e-2)
    state = child.carry(tx.init(first[1]["params"]), second=tx.init(second[1]["params"]))

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(lambda p: (child.graph.apply({"params": p}, X) ** 2).mean())(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    params = child.variables["params"]
    losses = []
    for _ in range(20):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    grandchild = nas.crossover((child, {"params": params}), second, jax.random.key(4), kind="segments", deviation=1)
    assert np.isfinite(grandchild.graph.apply(grandchild.variables, X)).all()
    again = nas.crossover(first, second, jax.random.key(3), kind="segments")
    assert again.graph == child.graph
    assert again.plan == child.plan


def test_a_crossover_with_itself_changes_nothing_where_the_same_part_is_drawn():
    graph = residual()
    own = side(graph, 0, "branch", "total")
    same = {}
    for number in range(12):
        child = nas.crossover((graph, own.variables), (graph, own.variables), jax.random.key(number), kind="segments")
        same[child.notes[0]] = child
        if child.graph == graph:
            assert not child.plan.changed
            assert child.check(X).compared
    halves = [note.removeprefix("crossover: ").split(" of the second network in the place of ") for note in same]
    assert any(one == other for one, other in halves)
    for (one, other), child in zip(halves, same.values(), strict=True):
        if one == other:
            assert child.graph == graph
            jax.tree.map(np.testing.assert_array_equal, child.variables, own.variables)


def test_cuts_lie_at_about_the_same_depth():
    first, second = ((g, random_variables(g, 0)) for g in (residual(), chain()))
    at = [{str(each): (each.start, each.end) for each in segments(graph)} for graph, _ in (first, second)]
    for deviation in (0.1, 0.3):
        for number in range(5):
            child = nas.crossover(first, second, jax.random.key(number), kind="segments", deviation=deviation)
            theirs, ours = child.notes[0].removeprefix("crossover: ").split(" of the second network in the place of ")
            cuts = zip(at[0][ours], at[1][theirs], strict=True)
            assert max(abs(one - other) for one, other in cuts) <= deviation
    x = last = nas.input_vertex("x", 6, shape=(6,))
    for number in range(7):
        last = dense(f"d{number}", 6, last)
    deep = nas.Graph(x, last)
    first = (residual(), first[1])
    with pytest.raises(nas.NoMutationError, match=r"none of both networks lie within deviation=0 of .* deviate by 0\."):
        nas.crossover(first, (deep, random_variables(deep, 0)), KEY, kind="segments", deviation=0)


def test_what_cannot_be_is_refused():
    x = nas.input_vertex("x", 6, shape=(6,))
    single = nas.Graph(x, dense("out", 3, x))
    first, none = ((g, random_variables(g, 0)) for g in (chain(), single))
    with pytest.raises(
        nas.NoMutationError, match="the second network has no part with one vertex in and one vertex out"
    ):
        nas.crossover(first, none, KEY, kind="segments")
    graph, variables = nas.from_nnx(nnx.Linear(6, 3, rngs=nnx.Rngs(0)), X)
    with pytest.raises(nas.NoMutationError, match="the first network is an imported model, which is one vertex"):
        nas.crossover((graph, variables), first, KEY, kind="segments")
    for wrong in (-1, 2, "far", None):
        with pytest.raises(nas.RequestError, match="deviation must be a number from 0"):
            nas.crossover(first, first, KEY, kind="segments", deviation=wrong)


def halved(x):
    return nn.avg_pool(x, (2, 2), (2, 2))


def mean(x):
    return x.mean((1, 2))


def images(window, shape):
    x = nas.input_vertex("x", 3, shape=shape)
    norm = nas.layer("norm", nn.BatchNorm(), nas.layer("conv", nn.Conv(4, window), x))
    pool = nas.invariant_vertex("pool", halved, norm)
    flat = nas.flatten("flat", pool) if shape else nas.invariant_vertex("mean", mean, pool)
    return nas.Graph(x, dense("out", 3, dense("neck", 5, flat)))


@pytest.mark.parametrize(("ours", "theirs"), [((4, 4, 3), (6, 6, 3)), (None, (4, 4, 3))])
def test_convolutions_statistics_and_positions(ours, theirs):
    one, two = images((3, 3), ours), images((5, 5), theirs)
    arrays = jnp.ones((2, 4, 4, 3)), jnp.ones((2, *theirs))
    first, second = ((g, g.init(KEY, a)) for g, a in zip((one, two), arrays, strict=True))
    drawn = set()
    for seed in range(4):
        child = nas.crossover(first, second, jax.random.key(seed), kind="segments", deviation=1, inputs=arrays[0])
        # statistics are asked for by training
        outputs, changed = jax.eval_shape(
            lambda v, c=child: c.graph.apply(v, arrays[0], mutable=["batch_stats"], train=True), child.variables
        )
        assert outputs.shape == (2, 3)
        statistics = child.variables.get("batch_stats", {})
        assert jax.tree.map(jnp.shape, changed.get("batch_stats", {})) == jax.tree.map(jnp.shape, statistics)
        drawn.add(child.notes[0])
    assert len(drawn) > 1


def test_tables_that_are_read_elsewhere_stay():
    tokens = nas.input_vertex("tokens", 11, shape=(5,), dtype="int32")
    table = nas.layer("table", nn.Embed(11, 6), tokens)
    hidden = dense("second", 6, dense("first", 8, table))
    graph = nas.Graph(tokens, nas.attend("logits", table, hidden))
    found = {(each.entry.name, str(each)) for each in segments(graph)}
    assert found == {("table", "'first'"), ("first", "'second'"), ("table", "'first' to 'second'")}


def test_what_looks_up_words_reads_words():
    x, y = nas.input_vertex("x", 6), nas.input_vertex("y", 11)  # neither says a shape or a dtype
    one = nas.Graph(x, dense("out", 3, dense("hidden", 5, x)))
    two = nas.Graph(y, dense("out", 3, dense("hidden", 5, nas.layer("words", nn.Embed(11, 6), y))))
    tokens = jnp.arange(6).reshape(2, 3)
    first, second = (one, one.init(KEY, X)), (two, two.init(KEY, tokens))
    drawn = set()
    for seed in range(6):
        child = nas.crossover(first, second, jax.random.key(seed), kind="segments", deviation=1)
        assert child.graph.apply(child.variables, X).shape == (3, 3)
        back = nas.crossover(second, first, jax.random.key(seed), kind="segments", deviation=1)
        assert back.graph.apply(back.variables, tokens).shape == (2, 3, 3)
        drawn |= {child.notes[0], back.notes[0]}
    assert drawn == {"crossover: 'hidden' of the second network in the place of 'hidden'"}


def test_a_history_knows_both_parents():
    one, two = residual(), chain(10, 6)
    pairs = [(g, random_variables(g, 0)) for g in (one, two)]
    child = nas.crossover(*pairs, jax.random.key(3), kind="segments")
    history = nas.History().add("one", pairs[0]).add("two", pairs[1]).add("child", child, ("one", "two"))
    assert history["child"].change == child.notes[0]
    assert history.plan("one", "child") == child.plan
    with pytest.raises(nas.PlanError, match="the mutation does not start from 'two'"):
        history.add("wrong", child, ("two", "one"))
    with pytest.raises(nas.PlanError, match="the second network of the crossover is not 'one'"):
        history.add("wrong", child, ("one", "one"))


@pytest.mark.parametrize("seed", range(3))
def test_plans_through_a_crossover_carry_what_each_step_carries(seed):
    one, two = residual(), chain(10, 6)
    first, second = (one, random_variables(one, 0)), (two, random_variables(two, 1))
    narrow = nas.delta_nout(*first, {"stem": -2, "neck": 1})
    child = nas.crossover(narrow, second, jax.random.key(seed), kind="segments", deviation=1)
    last = nas.random_mutation(*child, jax.random.key(seed), ["width_up", "width_down"])
    history = nas.History().add("first", first).add("narrow", narrow, "first").add("second", second)
    history = history.add("child", child, ("narrow", "second")).add("last", last, "child")
    moments = {"ema": first[1]["params"]}
    stepwise = last.carry(child.carry(narrow.carry(moments)))
    plan = history.plan("first", "last")
    composed = dataclasses.replace(last, plan=plan, before=one, variables_before=first[1]).carry(moments)
    assert leaves(composed).keys() == leaves(stepwise).keys()
    for path, array in leaves(stepwise).items():
        np.testing.assert_array_equal(leaves(composed)[path], array)
    assert nas.History.from_json(history.to_json()) == history


def test_dry_runs_and_mappings():
    one, two = residual(), chain(10, 6)
    shapes = jax.eval_shape(one.init, KEY, X), jax.eval_shape(two.init, KEY, X)
    child = nas.crossover((one, shapes[0]), (two, shapes[1]), jax.random.key(3), kind="segments")
    real = nas.crossover(
        (one, random_variables(one, 0)), (two, random_variables(two, 0)), jax.random.key(3), kind="segments"
    )
    assert jax.tree.map(jnp.shape, child.variables) == jax.tree.map(jnp.shape, real.variables)
    assert not any(
        np.shares_memory(a, b)
        for a in jax.tree.leaves(real.variables)
        for b in jax.tree.leaves(random_variables(two, 0))
        if isinstance(a, np.ndarray)
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200))
def test_two_hundred_crossovers_are_evaluated_and_differentiated(seed):
    rng = random.Random(seed)
    one, two = (random_graph(rng, images=seed % 4 == 0) for _ in range(2))
    first, second = (one, random_variables(one, seed)), (two, random_variables(two, seed + 1))
    try:
        child = nas.crossover(first, second, jax.random.key(seed), kind="segments", deviation=1)
    except nas.NoMutationError:
        return
    inputs = random_inputs(one)

    def total(params):
        outputs = child.graph.apply({**child.variables, "params": params}, *inputs)
        return sum(jnp.sum(jnp.tanh(leaf)) for leaf in jax.tree.leaves(outputs)), outputs

    params = child.variables.get("params", {})
    (_, outputs), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    assert jax.tree.map(jnp.shape, outputs) == jax.tree.map(jnp.shape, one.apply(first[1], *inputs))
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, params)
