"""All weights at once towards the outputs of the original, and what comes of many budgets."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import naivenas_jax as nas
from naivenas_jax.fit import compression, descent, refine
from naivenas_jax.fit.network.data import Data
from naivenas_jax.fit.network.network import Network
from naivenas_jax.fit.outputs import WantedOutputs, made_outputs

DATA = jax.random.normal(jax.random.key(0), (240, 5))
BATCHES = [DATA[:120], DATA[120:]]
OTHERS = jax.random.normal(jax.random.key(7), (500, 5))


def net():
    x = nas.input_vertex("x", 5)
    hidden = nas.layer("norm", nn.BatchNorm(), nas.layer("hidden", nn.Dense(24), x))
    more = nas.layer("more", nn.Dense(16), nas.invariant_vertex("tanh", jnp.tanh, hidden))
    return nas.Graph(x, nas.layer("out", nn.Dense(3), nas.invariant_vertex("relu", nn.relu, more)))


class Model(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.out = nnx.Linear(5, 24, rngs=rngs), nnx.Linear(24, 3, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs, deterministic=True)

    def __call__(self, x):
        logits = self.out(self.drop(nnx.relu(self.hidden(x))))
        return {"logits": logits, "best": logits.argmax(-1)}


def error(mutation, x=OTHERS):
    wanted = mutation.before.apply(mutation.variables_before, x)
    made = mutation.graph.apply(mutation.variables, x)
    pairs = zip(jax.tree.leaves(wanted), jax.tree.leaves(made), strict=True)
    return sum(float(((a - b) ** 2).mean()) for a, b in pairs if jnp.issubdtype(a.dtype, jnp.floating))


@pytest.fixture(scope="module")
def network():
    graph = net()
    return graph, graph.init(jax.random.key(1), DATA)


def test_nearer_to_the_original_on_inputs_that_nobody_saw(network):
    cut = nas.compensate(nas.delta_nout(*network, {"hidden": -12, "more": -8}), BATCHES)
    refined = nas.refine(cut, BATCHES, steps=300)
    assert error(refined) < 0.8 * error(cut)
    assert refined.graph == cut.graph
    jax.tree.map(np.testing.assert_array_equal, refined.variables["batch_stats"], cut.variables["batch_stats"])
    assert "held out went from" in refined.notes[-1]
    assert not refined.check(DATA).compared
    graph, variables = refined.undo(refined.variables)
    assert graph == network[0]
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, network[1])


def test_a_worse_network_is_never_returned(network):
    """An optimizer that walks away, and one whose steps are no numbers."""
    cut = nas.compensate(nas.delta_nout(*network, {"hidden": -4}), BATCHES)
    for rate in (1e3, jnp.nan):
        refined = nas.refine(cut, BATCHES, steps=10, tx=optax.sgd(rate))
        jax.tree.map(np.testing.assert_array_equal, refined.variables, cut.variables)


def test_a_network_that_is_near_comes_nearer(network):
    """Steps that are large beside what it is off by lead away from it, to where those that follow do not come back."""
    noise = np.random.default_rng(0)
    moved = jax.tree.map(
        lambda a: a * (1 + 0.003 * noise.normal(size=a.shape)).astype(np.float32), network[1]["params"]
    )
    near = replace(nas.delta_nout(*network, {"hidden": 0}), variables={**network[1], "params": moved})
    assert error(nas.refine(near, BATCHES, steps=40)) < 0.1 * error(near)


@pytest.mark.parametrize(("off", "size"), [(4.0, 0.02), (1e-4, 0.001), (0.0, 0.0), (np.nan, 0.02), (np.inf, 0.02)])
def test_first_step_is_at_most_a_tenth_of_the_error(off, size):
    parameters = {("kernel",): jnp.asarray([3.0, -4.0, 5.0])}
    tx = refine._default(10, off)
    updates, _ = tx.update({("kernel",): jnp.asarray([1.0, -2.0, 0.5])}, tx.init(parameters), parameters)
    largest = size * np.sqrt(np.mean([9.0, 16.0, 25.0]))
    np.testing.assert_allclose(updates["kernel",], -largest * np.array([1.0, -1.0, 1.0]), rtol=1e-4)


def test_pieces_of_batches_come_further_than_whole_ones(network):
    """For the same number of examples seen."""
    cut = nas.compensate(nas.delta_nout(*network, {"hidden": -4, "more": -4}), BATCHES)
    tx = optax.chain(
        optax.scale_by_adam(),
        optax.scale_by_param_block_rms(),
        optax.scale_by_learning_rate(optax.cosine_decay_schedule(2e-2, 30)),
    )
    assert error(nas.refine(cut, BATCHES, steps=30)) < error(nas.refine(cut, BATCHES, steps=30, tx=tx))


@pytest.mark.parametrize("sees_others", [False, True])
def test_examples_that_see_one_another_stay_together(sees_others, monkeypatch):
    """A sum along the first dimension makes an example depend on the others of its batch."""
    x = nas.input_vertex("x", 5)
    hidden = nas.invariant_vertex(
        "mixed", lambda v: jnp.tanh(v - v.mean(0) if sees_others else v), nas.layer("hidden", nn.Dense(8), x)
    )
    graph = nas.Graph(x, nas.layer("out", nn.Dense(3), hidden))
    cut = nas.delta_nout(graph, graph.init(jax.random.key(0), DATA), {"hidden": -3})
    seen = []

    def noted(self, rows, size, mixed):
        seen.append((size, mixed))
        original(self, rows, size, mixed)

    original = descent._Pieces.__init__
    monkeypatch.setattr(descent._Pieces, "__init__", noted)
    refined = nas.refine(cut, BATCHES, steps=20)
    assert seen == [(None, False) if sees_others else (32, True)]
    assert error(refined, BATCHES[0]) < error(cut, BATCHES[0])


def test_pieces_are_all_examples_once_and_of_one_size():
    """What is left over is in other pieces the next time; items that are not larger than a piece stay whole."""
    numbers = np.arange(23)
    rows = [descent.Examples((numbers[:20],), (), np.ones(20)), descent.Examples((numbers[20:],), (), np.ones(3))]
    pieces = descent._Pieces(rows, 6)
    assert pieces.number == 4
    order = pieces.in_random_order()
    rounds = [[next(order).inputs[0].tolist() for _ in range(4)] for _ in range(2)]
    for found in rounds:
        assert sorted(map(len, found)) == [3, 6, 6, 6]
        every = [number for own in found for number in own]
        assert len(set(every)) == len(every) == 21
    assert rounds[0] != rounds[1]


def test_mixed_examples_are_aimed_at_what_the_original_makes_of_them(network):
    """Also where fewer neurons are compared than there are, and words are not mixed."""
    graph, variables = network
    cut = nas.delta_nout(graph, variables, {"hidden": -3})
    data = Data.of(graph, BATCHES)
    original = descent.Original(Network(graph, {}), variables)
    wanted = WantedOutputs.of(cut, data, made_outputs(original.network, variables, data))
    way = descent.Descent(Network(cut.graph, {}), original, wanted, cut.variables, lambda *_: optax.sgd(0.1), 8)
    rows = way._joined([np.ones(120, bool)] * 2)
    piece = next(descent._Pieces(rows, 8, mixed=True).in_random_order())
    (x,), shares = piece.inputs, piece.shares[:, None]
    assert 0 < np.sum(piece.shares == 1) < 8
    mixed = way._mixed(piece, variables)
    np.testing.assert_allclose(mixed.inputs[0], shares * x + (1 - shares) * x[::-1], rtol=1e-6)
    np.testing.assert_allclose(mixed.wanted[0], graph.apply(variables, mixed.inputs[0]), rtol=1e-5)
    assert way._can_be_mixed(rows)
    assert not way._can_be_mixed([rows[0]._replace(inputs=(np.arange(3),))])


def test_nothing_is_better_than_the_original(network):
    same = nas.delta_nout(*network, {"hidden": 0})
    refined = nas.refine(same, BATCHES, steps=20)
    jax.tree.map(np.testing.assert_array_equal, refined.variables, same.variables)
    assert refined.notes[-1].startswith("not refined: no step made the error on examples that were held out smaller")
    assert refined.check(DATA).compared


def test_imported_models_of_several_outputs(network):
    graph, variables = nas.from_nnx(Model(nnx.Rngs(0)), DATA)
    cut = nas.resize(graph, variables, max_params=0.6)
    refined = nas.refine(cut, BATCHES, steps=100)
    assert error(refined) < 0.5 * error(cut)
    assert type(refined.variables) is type(variables)


def test_the_step_is_compiled_once(network):
    cut = nas.delta_nout(*network, {"hidden": -4})
    counts = []
    for steps in (5, 40):
        with nas.count_programs() as programs:
            nas.refine(cut, BATCHES, steps=steps)
        counts.append(programs.count)
    assert counts[1] <= counts[0]


def test_one_batch_without_examples_is_refused(network):
    cut = nas.delta_nout(*network, {"hidden": -4})
    with pytest.raises(nas.VariablesError, match=r"batches of at least 4 examples .* first dimensions \[\(3,\)\]"):
        nas.refine(cut, [DATA[:3]])
    assert nas.refine(cut, [DATA[:3], DATA[3:6]], steps=2).graph == cut.graph  # whole batches are held out


@pytest.mark.parametrize(
    ("keywords", "found"),
    [
        ({"steps": 0}, "steps= is a number of training steps, 1 to"),
        ({"tx": "adam"}, "tx= takes an optax optimizer"),
        ({"progress": 1}, "progress"),
    ],
)
def test_what_refine_takes(network, keywords, found):
    with pytest.raises(nas.PlanError, match=found):
        nas.refine(nas.delta_nout(*network, {"hidden": -4}), BATCHES, **keywords)


def test_compress_is_not_worse_than_the_simple_way(network):
    """On inputs that nobody saw; with training at the end it is better still."""
    simple = nas.compensate(nas.resize(*network, max_params=0.3), BATCHES)
    found = nas.compress(*network, BATCHES, max_params=0.3, steps=1, refine=0)
    assert error(found) <= error(simple)
    assert error(nas.refine(found, BATCHES, steps=200)) < error(found)
    with pytest.raises(nas.BudgetError, match="refine= is a number of training steps, 0 to"):
        nas.compress(*network, BATCHES, max_params=0.3, refine=-1)


def test_loops_are_not_worse_than_the_simple_way():
    """Least squares do not reach into loops; training in the end does, also after a number of steps that is given."""
    data, others = jax.random.normal(jax.random.key(0), (2, 128, 4, 3))
    x = nas.input_vertex("x", 3)
    last = nas.invariant_vertex("last", lambda v: v[:, -1], nas.layer("states", nn.RNN(nn.SimpleCell(10)), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(3), last))
    variables = graph.init(jax.random.key(1), data)
    simple = nas.compensate(nas.resize(graph, variables, max_params=0.4), [data])
    found = nas.compress(graph, variables, [data], max_params=0.4, steps=1)
    assert nas.costs(*found).params <= 0.4 * nas.costs(graph, variables).params
    assert error(found, others) < 0.9 * error(simple, others)


def test_a_frontier(network):
    """Every network is within its budget, and the smallest one within the loss is."""

    def measure(graph, variables):
        wanted = network[0].apply(network[1], OTHERS)
        return -float(((graph.apply(variables, OTHERS) - wanted) ** 2).mean())

    def width(graph):
        return float(graph.nout("hidden"))  # any number will do as seconds

    found = nas.frontier(*network, BATCHES, measure, fractions=(0.3, 0.8), loss=0.01, bisections=2, latency=width)
    full = nas.costs(*network).params
    shares = [point.costs.params / full for point in found.points]
    assert shares == sorted(shares, reverse=True)
    assert found.original.measure == 0
    within = [point for point in found.points if point.measure >= -0.01]
    assert found.smallest(0.01) == min([found.original, *within], key=lambda point: point.costs.params)
    for point in found.points:
        assert point.measure == measure(*point.mutation)
        assert point.costs == nas.costs(*point.mutation, BATCHES[0][:1])
        assert point.latency == width(point.mutation.graph)
        assert point.mutation.before == network[0]
    last = found.points[-1]
    assert last.costs.params <= 0.3 * full
    assert found.smallest(100.0) is last
    assert found.smallest(0.0) is found.original
    assert len(str(found).splitlines()) == 2 + len(found.points)
    assert found.svg().count("<circle") == 1 + len(found.points)
    assert "MACs" in str(found)


@pytest.mark.parametrize(
    ("inputs", "counted"), [(None, [(1, 7, 5), (1, 5)]), (((9, 4, 5), (9, 5)), [(9, 4, 5), (9, 5)])]
)
def test_operations_of_a_frontier_are_those_of_an_example_or_of_the_inputs_of_the_budget(inputs, counted):
    """Where the table is read beside `nas.report` and `max_macs=`, which count for the inputs that they are given."""
    x, y = nas.input_vertex("x", 5), nas.input_vertex("y", 5)
    several = nas.layer("hidden", nn.Dense(8), x)
    mean = nas.invariant_vertex("mean", lambda v: v.mean(1), several)
    graph = nas.Graph([x, y], nas.layer("out", nn.Dense(3), nas.concat("both", mean, nas.layer("b", nn.Dense(4), y))))
    batch = jnp.ones((6, 7, 5)), jax.random.normal(jax.random.key(0), (6, 5))
    variables = graph.init(jax.random.key(0), *batch)
    given = None if inputs is None else tuple(jax.ShapeDtypeStruct(shape, "float32") for shape in inputs)
    found = nas.frontier(graph, variables, [batch], lambda *_: 0.0, fractions=(0.7,), inputs=given, outcomes=False)
    shapes = [jax.ShapeDtypeStruct(shape, "float32") for shape in counted]
    assert found.points[0].costs == nas.costs(*found.points[0].mutation, *shapes)
    assert found.original.costs == nas.costs(graph, variables, *shapes)


def test_a_frontier_ends_where_sizes_can_satisfy_no_smaller_budget(network):
    """What was made before is not lost."""

    def frontier(*fractions):
        return nas.frontier(*network, BATCHES, lambda graph, variables: 0.0, fractions=fractions, multiple_of=8)

    found = frontier(0.6, 0.01, 0.02)
    assert len(found.points) == 1
    assert found.ended.startswith("No network has 0.02 of params.\nBudget: max_params <= 12; now it is")
    assert str(found).endswith(found.ended)
    assert frontier(0.6).ended is None
    with pytest.raises(nas.InfeasibleError, match="max_params <= 12"):
        frontier(0.02, 0.01)


def test_a_frontier_makes_no_network_twice(network, monkeypatch):
    """Widths are multiples of eight, so that there are few networks, and only two between all and the smallest."""
    fitted, counted = [], []
    fit, count = compression.compensated, compression.neuron_costs

    def noted_fit(mutation, *given, **more):
        fitted.append(mutation)
        return fit(mutation, *given, **more)

    def noted_costs(network, variables, *given, **more):
        counted.append(variables)  # kept, so that no other ones are where these were
        return count(network, variables, *given, **more)

    monkeypatch.setattr(compression, "compensated", noted_fit)
    monkeypatch.setattr(compression, "neuron_costs", noted_costs)
    full = nas.costs(*network).params

    def measure(graph, variables):
        return float(nas.costs(graph, variables).params > 0.99 * full)  # nothing smaller is good enough

    keywords = {"fractions": (0.6,), "loss": 0.0, "multiple_of": 8, "outcomes": False, "ridge": 1e-3}
    found = nas.frontier(*network, BATCHES, measure, bisections=5, **keywords)
    sizes = [point.costs.params for point in found.points]
    assert len(set(sizes)) == len(sizes) < 6
    assert len({id(variables) for variables in counted}) == len(counted) == 1  # all are made from the original
    assert (
        len(fitted) < 2 * 6
    )  # of steps, of the simple way, and of what is taken to all examples: 18 if none is reused


@pytest.mark.parametrize(
    ("keywords", "found"),
    [
        ({"fractions": (0.5, 2)}, "fractions= are numbers between 0 and 1"),
        ({"fractions": ()}, "fractions= are numbers"),
        ({"budget": "params"}, "budget= is one of 'max_params'"),
        ({"loss": -1}, "loss= is how much"),
        ({"bisections": 0.5}, "bisections= is a whole number"),
        ({"measure": lambda graph, variables: None}, "gives a number, more is better; found None"),
        ({"measure": lambda graph, variables: "good"}, "found 'good'"),
        ({"measure": lambda graph, variables: np.zeros(2)}, r"found array\(\[0., 0.\]\)"),
    ],
)
def test_what_a_frontier_takes(network, keywords, found):
    with pytest.raises(nas.BudgetError, match=found):
        nas.frontier(*network, BATCHES, **{"measure": lambda graph, variables: 0.0, **keywords})
