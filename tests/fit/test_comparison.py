"""What compress returns is chosen on examples that nothing was fitted to."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas
from naivenas_jax.fit import compression
from naivenas_jax.fit.comparison import Comparison
from naivenas_jax.fit.dropping.importance import neuron_costs
from naivenas_jax.fit.network.data import Data
from naivenas_jax.fit.network.network import Network
from naivenas_jax.fit.outputs import WantedOutputs, held_out, made_outputs

DATA = np.asarray(jax.random.normal(jax.random.key(0), (64, 5)))


@pytest.fixture(scope="module")
def network():
    x = nas.input_vertex("x", 5)
    hidden = nas.invariant_vertex("tanh", jnp.tanh, nas.layer("hidden", nn.Dense(12), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(3), hidden))
    return graph, graph.init(jax.random.key(1), DATA)


@pytest.mark.parametrize(
    ("elaborate", "simple", "worth_it"),
    [
        ([1.0, 2.0, 3.0, 2.0], [2.0, 3.0, 4.0, 3.1], True),
        ([1.0, 2.0, 3.0, 2.0], [1.0, 2.0, 3.0, 2.0], False),  # the same network
        ([0.0, 2.0, 3.0, 2.0], [2.0, 1.0, 3.0, 1.5], False),  # nearer on average, by chance
        ([np.nan, 2.0], [5.0, 5.0], False),
        ([1.0, 2.0], [np.inf, 2.0], True),
        ([1.0], [2.0], True),  # one batch: nothing is known of chance
    ],
)
def test_in_doubt_the_simple_way(elaborate, simple, worth_it):
    assert Comparison.of(np.array(elaborate), np.array(simple), held_back=True).worth_it is worth_it


@pytest.mark.parametrize(
    ("choices", "worth_it"),
    [
        (([0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]), True),
        (([1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]), False),  # another class more often
        (([1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]), True),  # of chance: one of four
        (([0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]), True),
    ],
)
def test_what_is_nearer_and_chooses_worse_is_not_better(choices, worth_it):
    squares = np.array([1.0, 2.0, 3.0, 2.0]), np.array([2.0, 3.0, 4.0, 3.1])
    found = Comparison.of(*squares, held_back=True, choices=tuple(map(np.array, choices)))
    assert found.worth_it is worth_it
    assert ("another one more often" in str(found)) is not worth_it


def test_choices_are_those_of_the_largest_output(network):
    mutation = nas.delta_nout(*network, {"hidden": -6})
    before, after = Network(mutation.before, {}), Network(mutation.graph, {})
    data = Data.of(mutation.before, [DATA[:40], DATA[40:]])
    wanted = WantedOutputs.of(mutation, data, made_outputs(before, mutation.variables_before, data))
    logits = [graph.apply(variables, DATA) for graph, variables in (network, mutation)]
    found = wanted.compared(after, mutation.variables).choices
    np.testing.assert_array_equal(found, logits[0].argmax(-1) != logits[1].argmax(-1))
    assert 0 < found.sum() < len(found)


@pytest.mark.parametrize("examples", [5, 64])
def test_nothing_is_fitted_to_what_is_held_back(network, monkeypatch, examples):
    """Other values there change what is measured, and no weight."""
    monkeypatch.setattr("naivenas_jax.fit.compression.NEGLIGIBLE", np.inf)  # no fit to everything in the end
    data, other = DATA[:examples], DATA[:examples].copy()
    other[3::4] *= 0.5
    first, second = (nas.compress(*network, [batch], max_params=0.5, steps=1, refine=0) for batch in (data, other))
    assert first.notes != second.notes
    assert f"on {examples // 4} examples that no fit had seen" in first.notes[-1]
    if first.graph == second.graph:
        jax.tree.map(np.testing.assert_array_equal, first.variables, second.variables)


def test_the_simple_way_is_what_it_is_without_compress(network, monkeypatch):
    """Fitted to all examples in the end."""
    monkeypatch.setattr(Comparison, "worth_it", False)
    monkeypatch.setattr("naivenas_jax.fit.compression.NEGLIGIBLE", 0.0)  # no number of rows is plenty
    found = nas.compress(*network, [DATA], max_params=0.5, steps=1, refine=0)
    simple = nas.compensate(nas.resize(*network, max_params=0.5), [DATA])
    assert found.graph == simple.graph
    assert "resize and compensate at once taken" in found.notes[-2] + found.notes[-1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), found.variables, simple.variables)


def test_where_nothing_can_be_held_back(network):
    found = nas.compress(*network, [DATA[:3]], max_params=0.5, steps=1, refine=0)
    assert "that both were fitted to, since none could be held back" in found.notes[-1]


def test_whole_batches_are_held_back_where_examples_are_few(network):
    chosen = held_out([[DATA[:3], DATA[:3, :2]]] * 5)
    assert [own.tolist() for own in chosen] == [[False], [False], [False], [True], [False]]
    data = Data.of(network[0], [DATA[:3] + i for i in range(5)])
    rest, back = data.only([~own for own in chosen]), data.only(chosen)
    assert (rest.number, back.number) == (4, 1)
    np.testing.assert_array_equal(next(iter(back))[0], DATA[:3] + 3)
    chosen = held_out([[DATA[:8], DATA[:8, :2]]])
    assert data.only(chosen * 5).number == 5
    assert held_out([[DATA[:3]]]) is None
    assert held_out([[DATA[:3]]] * 3, fewest=4) is None
    chosen = held_out([[DATA[:1]], [DATA[:40]]])  # not the only batch that is worth something
    assert [own.sum() for own in chosen] == [0, 10]
    assert [own.tolist() for own in held_out([[DATA[:4]], *[[DATA[:3]]] * 3])] == [[False]] * 3 + [[True]]


@pytest.mark.parametrize("nearer", ["measured", "estimated"])
def test_of_two_kinds_of_costs_those_that_come_nearer(network, monkeypatch, nearer):
    """They are computed once for both, and the other kind is made to drop neurons that are of use."""
    started = []

    def counted(own, *given, **more):
        started.append(own.graph)
        found = neuron_costs(own, *given, **more)
        other = {"measured": "estimated", "estimated": "measured"}[nearer]
        return found._replace(**{other: {name: cost.max() - cost for name, cost in found.estimated.items()}})

    monkeypatch.setattr(compression, "neuron_costs", counted)
    monkeypatch.setattr(Comparison, "worth_it", True)
    found = nas.compress(*network, [DATA], max_params=0.4, outcomes=False, refine=0)
    assert any(f"made in one step, with {nearer} costs" in note for note in found.notes)
    assert started == [network[0]]


def random_network(seed):
    """Two branches of random widths, activations and scales, joined or added up, and data that are correlated."""
    rng = np.random.default_rng(seed)
    x = nas.input_vertex("x", 6)
    functions = {"tanh": jnp.tanh, "relu": nn.relu, "gelu": nn.gelu}

    def branch(name, size):
        kind = rng.choice([*functions])
        return nas.invariant_vertex(f"{name}_{kind}", functions[kind], nas.layer(name, nn.Dense(size), x))

    added = bool(rng.integers(2))
    sizes = [int(size) for size in rng.integers(5, 16, 2)]
    left, right = branch("left", sizes[0]), branch("right", sizes[0] if added else sizes[1])
    both = (left + right).named("both") if added else nas.concat("both", left, right)
    more = nas.invariant_vertex("more_tanh", jnp.tanh, nas.layer("more", nn.Dense(int(rng.integers(5, 12))), both))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(3), more))
    data = (rng.normal(size=(72, 6)) @ rng.normal(size=(6, 6))).astype(np.float32)
    scales = iter(rng.exponential(size=99))
    return graph, jax.tree.map(lambda array: array * next(scales), graph.init(jax.random.key(seed), data)), data


@pytest.mark.parametrize("seed", range(3))
def test_never_worse_than_the_simple_way_on_what_is_held_back(monkeypatch, seed):
    monkeypatch.setattr(compression, "NEGLIGIBLE", np.inf)  # what was compared is returned
    *own, data = random_network(seed)
    found = nas.compress(*own, [data], max_params=0.5, outcomes=False, refine=0)
    simple = nas.compensate(nas.resize(*own, max_params=0.5), [np.delete(data, slice(3, None, 4), 0)], outcomes=False)
    wanted = own[0].apply(own[1], data[3::4])
    errors = [float(((one.graph.apply(one.variables, data[3::4]) - wanted) ** 2).mean()) for one in (found, simple)]
    assert errors[0] <= errors[1] * (1 + 1e-4)


class OneNumber(nn.Module):
    """One number for each example: an output without an axis of neurons."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(jnp.tanh(nn.Dense(8)(x)))[:, 0]


def distances(mutation, batches):
    """How far a mutation is from the network before it."""
    before, after = Network(mutation.before, {}), Network(mutation.graph, {})
    data = Data.of(mutation.before, batches)
    wanted = WantedOutputs.of(mutation, data, made_outputs(before, mutation.variables_before, data))
    return wanted, wanted.distances(after, mutation.variables)


def test_a_number_for_each_example_is_compared_with_as_many_as_batches_have():
    """As many as were held back, too; it is no axis of neurons, whatever was traced."""
    batches = [DATA[:12], DATA[12:19]]
    own = nas.from_linen(OneNumber(), OneNumber().init(jax.random.key(2), DATA[:24]), DATA[:24])
    found = nas.compress(*own, batches, max_params=0.6, steps=1, refine=0, outcomes=False)
    assert any("on 4 examples that no fit had seen" in note for note in found.notes)
    refined = nas.refine(found, batches, steps=1)
    wanted, made = (np.concatenate([graph.apply(values, b) for b in batches]) for graph, values in (own, refined))
    np.testing.assert_allclose(distances(refined, batches)[1], (wanted - made) ** 2 / wanted.var(), rtol=1e-3)


def test_where_examples_lie_nowhere_batches_are_counted(network):
    graph, variables = network
    mean = nas.invariant_vertex("mean", lambda x: x.mean(0), graph.outputs[0])
    mutation = nas.delta_nout(nas.Graph(graph.inputs, mean), variables, {"hidden": -3})
    wanted, found = distances(mutation, [DATA[:12], DATA[12:19]])
    assert (wanted.by_example, len(found)) == (False, 2)
    compared = Comparison.of(found, found + 1, held_back=False, by_example=wanted.by_example)
    assert "on 2 batches that both were fitted to" in str(compared)


def test_batches_of_nearly_one_size_keep_equally_many():
    sizes = (17, 16, 16, 9)
    chosen = held_out([[DATA[:n], DATA[:n, :2]] for n in sizes])
    assert [int((~own).sum()) for own in chosen] == [12, 12, 12, 7]
    assert [int(own.sum()) for own in chosen] == [5, 4, 4, 2]


@pytest.mark.parametrize(("sizes", "held"), [((12, 12), 6), ((40, 40), 10), ((40, 41, 39), 12), ((400, 4), 101)])
def test_no_more_are_held_out_than_are_enough_and_some_of_every_batch(sizes, held):
    data = np.tile(DATA, (10, 1))
    chosen = held_out([[data[:n], data[:n, :2]] for n in sizes], enough=10)
    assert sum(int(own.sum()) for own in chosen) == held
    assert all(own.any() for own in chosen)
