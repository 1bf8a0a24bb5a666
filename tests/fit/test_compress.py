"""Costs of dropping neurons, against re-fitting without them; budgets."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas
from naivenas_jax.fit.comparison import Comparison
from naivenas_jax.fit.compression import Compression
from naivenas_jax.fit.dropping.importance import neuron_costs
from naivenas_jax.fit.dropping.trial import AFFORDED, ENOUGH, FEWEST, affordable
from naivenas_jax.fit.network.data import Data
from naivenas_jax.fit.network.network import Network
from naivenas_jax.fit.regression.elimination import Block, Elimination, Reader, dropped


@pytest.fixture
def rng():
    """The same numbers for every test, whichever others run before it."""
    return np.random.default_rng(1)


def error_without(x, y, gone):
    """Half the squared error of the best re-fit without some columns."""
    left = np.delete(x, gone, 1)
    return 0.5 * ((y - left @ np.linalg.lstsq(left, y, rcond=None)[0]) ** 2).sum()


@pytest.mark.parametrize("outputs", [3, 20])
def test_costs_are_those_of_the_best_refit(rng, outputs):
    x = rng.normal(size=(60, 8)) @ rng.normal(size=(8, 8))
    b = rng.normal(size=(8, outputs))
    rows = {0: [0, 4], 1: [1, 5], 2: [2, 6], 3: [3, 7]}
    reader = Reader(np.linalg.inv(x.T @ x), b, (Block(np.arange(4), np.array(list(rows.values()))),))
    y = x @ b
    np.testing.assert_allclose(Elimination(reader).cost(np.arange(4)), [error_without(x, y, rows[c]) for c in range(4)])
    total, gone = 0.0, []
    for one, cost in dropped([reader])[:3]:
        gone += rows[one]
        total += cost
        np.testing.assert_allclose(total, error_without(x, y, gone), rtol=1e-6)
    np.testing.assert_array_equal(reader.weights, b)  # untouched


def test_fewer_examples_than_inputs(rng):
    """The ridge alone is what most of the inverse covariance consists of: all classes are dropped, one after the other,
    and after each the inverse of what is left is that of the system of what is left."""
    x = rng.normal(size=(12, 48)) * np.exp(rng.normal(size=48))
    system = x.T @ x + 1e-5 * np.trace(x.T @ x) * np.eye(48)
    rows = np.arange(48).reshape(4, 12)
    state = Elimination(Reader(np.linalg.inv(system), rng.normal(size=(48, 3)), (Block(np.arange(4), rows),)))
    for one in range(4):
        left = np.arange(12 * one, 48)
        wanted = np.linalg.inv(system[np.ix_(left, left)])
        done = state.factor[:, : state.width]
        found = (state.inverse - done @ done.T)[np.ix_(left, left)]
        np.testing.assert_allclose(found, wanted, atol=1e-9 * np.abs(wanted).max())
        state.drop(one)


def test_the_order_of_dropping_is_that_of_trying_all(rng):
    x = [rng.normal(size=(60, k)) @ rng.normal(size=(k, k)) for k in (9, 5)]
    b = [rng.normal(size=(k, m)) for k, m in ((9, 3), (5, 7))]
    rows = [{3: [0, 4], 5: [1, 5], 8: [2], 9: [3, 7]}, {5: [1], 8: [0, 2], 11: [4]}]  # of the second one stays unread
    readers = []
    for own, read, weights in zip(rows, x, b, strict=True):
        sizes = sorted({len(r) for r in own.values()})
        by_size = [{c: r for c, r in own.items() if len(r) == size} for size in sizes]
        blocks = tuple(Block(np.array(list(o)), np.array(list(o.values()))) for o in by_size)
        readers.append(Reader(np.linalg.inv(read.T @ read), weights, blocks))

    def error(classes):
        lost = [[r for c in classes for r in own.get(c, [])] for own in rows]
        return sum(error_without(read, read @ w, gone) for read, w, gone in zip(x, b, lost, strict=True))

    gone, highest = [], 0.0
    for one, cost in dropped(readers):
        trials = {c: error([*gone, c]) - error(gone) for c in (3, 5, 8, 9, 11) if c not in gone}
        best = min(trials, key=trials.get)
        highest = max(highest, trials[best])
        assert one == best
        np.testing.assert_allclose(cost, highest, rtol=1e-6)
        gone.append(one)
    assert len(gone) == 5


def net():
    x = nas.input_vertex("x", 5)
    hidden = nas.invariant_vertex("tanh", jnp.tanh, nas.layer("hidden", nn.Dense(12), x))
    more = nas.invariant_vertex("relu", nn.relu, nas.layer("more", nn.Dense(10), hidden))
    return nas.Graph(x, nas.layer("out", nn.Dense(3), more))


DATA = jax.random.normal(jax.random.key(0), (200, 5))


def test_what_the_rest_reconstructs_costs_nothing():
    graph = net()
    variables = graph.init(jax.random.key(1), DATA)
    kernel = np.array(variables["params"]["hidden"]["kernel"])
    kernel[:, 7] = kernel[:, 2]  # a twin, with large weights that read it
    variables["params"]["hidden"]["kernel"] = kernel
    costs = neuron_costs(Network(graph, {}), variables, Data.of(graph, [DATA]), ridge=1e-8, measured=False).estimated[
        "hidden"
    ]
    assert min(costs[2], costs[7]) < 1e-3 * np.median(costs) < np.median(costs) < max(costs[2], costs[7]) * 10


class Imported(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = jnp.tanh(nn.Dense(12, name="hidden")(x))
        return nn.Dense(3, name="out")(nn.relu(nn.Dense(10, name="more")(x)))


def test_within_budgets_and_nearer_than_weights_alone():
    graph, variables = nas.from_linen(Imported(), net().init(jax.random.key(1), DATA), DATA)
    limits = {"max_params": 0.4, "max_macs": 0.5, "inputs": (DATA[:1],)}
    found = nas.compress(graph, variables, [DATA[:100], DATA[100:]], steps=2, refine=0, **limits)
    now, then = nas.costs(*found, DATA[:1]), nas.costs(graph, variables, DATA[:1])
    assert now.params <= 0.4 * then.params
    assert now.macs <= 0.5 * then.macs
    simple = nas.resize(graph, variables, **limits)
    wanted = graph.apply(variables, DATA)
    errors = [float(((m.graph.apply(m.variables, DATA) - wanted) ** 2).mean()) for m in (found, simple)]
    assert errors[0] < 0.2 * errors[1]
    assert found.plan.axis("hidden").before == 12
    assert found.before == graph


class Groups(nn.Module):
    """A depthwise convolution, a grouped one, and a batch of weights."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(12, (1, 1), name="expand")(x))
        x = nn.relu(nn.Conv(12, (3, 3), feature_group_count=12, name="depthwise")(x))
        x = nn.relu(nn.Conv(16, (1, 1), feature_group_count=2, name="grouped")(x)).mean((1, 2))
        heads = nn.relu(nn.DenseGeneral((3, 8), name="split")(x))
        mixed = nn.relu(jnp.einsum("bhk,hkm->bhm", heads, self.param("mix", nn.initializers.normal(), (3, 8, 5))))
        return nn.DenseGeneral(3, axis=(-2, -1), name="head")(mixed)


def test_groups_are_compressed():
    images = jax.random.normal(jax.random.key(3), (120, 5, 5, 2))
    graph, variables = nas.from_linen(Groups(), Groups().init(jax.random.key(1), images), images)
    found = nas.compress(graph, variables, [images[:60], images[60:]], max_params=0.6, steps=1, refine=0)
    simple = nas.resize(graph, variables, max_params=0.6)
    assert nas.costs(*found).params <= 0.6 * nas.costs(graph, variables).params
    wanted = graph.apply(variables, images)
    errors = [float(((m.graph.apply(m.variables, images) - wanted) ** 2).mean()) for m in (found, simple)]
    assert errors[0] < 0.2 * errors[1]


def test_fractions_and_changes_are_of_the_network_given():
    """Not of each step's: a half would be a half of a half."""
    graph = net()
    variables = graph.init(jax.random.key(1), DATA)
    name = next(name for name in graph.handles() if graph.nout(name) > 8)
    size = graph.nout(name)
    found = nas.compress(
        graph, variables, [DATA], refine=0, max_params=0.95, steps=2, request={name: -2}, min_size={name: 0.5}
    )
    assert found.graph.nout(name) == size - 2
    found = nas.compress(
        graph, variables, [DATA], refine=0, max_params=0.4, steps=2, max_size=0.9, min_size={name: 0.8}
    )
    assert found.graph.nout(name) >= 0.8 * size


def test_a_report_of_several_steps():
    """Scores are those of the first step: of the network given."""
    graph = net()
    variables = graph.init(jax.random.key(1), DATA)
    found = nas.compress(graph, variables, [DATA], max_params=0.4, steps=2, refine=0)
    report = nas.report(found, DATA[:1]).to_dict()
    assert report["handles"]["hidden"]["before"] == 12
    assert 0 < report["handles"]["hidden"]["utility_kept"] <= 1


def test_values_are_needed():
    graph = net()
    shapes = jax.eval_shape(graph.init, jax.random.key(1), DATA)
    variables = graph.init(jax.random.key(1), DATA)
    for call in (lambda v, b: nas.compress(graph, v, b, max_params=0.5), lambda v, b: nas.recalibrate(graph, v, b)):
        with pytest.raises(nas.VariablesError, match="Nothing can be fitted to shapes"):
            call(shapes, [DATA])
        with pytest.raises(nas.VariablesError, match="Batch 0 holds the shape of an array; values are needed"):
            call(variables, [jax.ShapeDtypeStruct((2, 5), jnp.float32)])
        with pytest.raises(nas.VariablesError, match="Batch 0 must be an array of numbers; found one of <U1"):
            call(variables, [np.array(["a"])])


def test_budgets_that_are_none():
    graph = net()
    variables = graph.init(jax.random.key(1), DATA)
    with pytest.raises(nas.BudgetError, match="max_params is a mapping without parts"):
        nas.compress(graph, variables, [DATA], max_params={})
    with pytest.raises(nas.BudgetError, match="max_macs limits what there is nothing of"):
        nas.resize(graph, variables, max_macs=0.5, inputs=[DATA[:0]])
    with pytest.raises(nas.BudgetError, match="needs a budget"):
        nas.compress(graph, variables, [DATA])
    with pytest.raises(nas.BudgetError, match="steps must be a whole number"):
        nas.compress(graph, variables, [DATA], max_params=0.5, steps=0)
    with pytest.raises(nas.UtilityError, match="utility= is for resize"):
        nas.compress(graph, variables, [DATA], max_params=0.5, utility={})
    with pytest.raises(nas.InfeasibleError, match="max_params <= "):
        nas.compress(graph, variables, [DATA], max_params=1e-6, steps=1, refine=0)


def magnitudes(silent):
    """A network on the root of a sum of squares, whose gradient at 0 is not finite, and data with silent examples."""
    x = nas.input_vertex("x", 6)
    loud = nas.invariant_vertex("loud", lambda v: jnp.sqrt(v**2), nas.layer("a", nn.Dense(8, use_bias=False), x))
    graph = nas.Graph(x, nas.layer("c", nn.Dense(2), nas.layer("b", nn.Dense(8), loud)))
    data = jnp.asarray(np.random.default_rng(0).normal(size=(20, 6)), jnp.float32).at[:silent].set(0.0)
    return graph, graph.init(jax.random.key(0), data), data


def test_a_silent_example_is_left_out():
    graph, variables, data = magnitudes(silent=1)
    small = nas.compress(graph, variables, [data], max_params=0.6, steps=1, refine=0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(small.variables))
    with_it = neuron_costs(Network(graph, {}), variables, Data.of(graph, [data]), measured=False).estimated
    without = neuron_costs(Network(graph, {}), variables, Data.of(graph, [data[1:]]), measured=False).estimated
    order = [np.argsort(scores["a"]) for scores in (with_it, without)]
    assert np.mean(order[0] == order[1]) >= 0.5


def test_gradients_that_are_mostly_not_finite_are_named():
    graph, variables, data = magnitudes(silent=12)
    with pytest.raises(nas.VariablesError, match="what params/a/kernel makes is not finite for most examples"):
        nas.compress(graph, variables, [data], max_params=0.6, steps=1, refine=0)


def wide():
    x = nas.input_vertex("x", 4)
    hidden = nas.invariant_vertex("tanh", nn.tanh, nas.layer("hidden", nn.Dense(24), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), hidden))
    data = jax.random.normal(jax.random.key(1), (64, 4))
    return graph, graph.init(jax.random.key(0), data), data


@pytest.mark.parametrize(
    ("helped", "steps"), [([True], 1), ([False, False], 1), ([False, True, False], 2), ([False, True, True], 4)]
)
def test_more_steps_are_taken_where_one_is_of_no_use_and_as_long_as_they_help(monkeypatch, helped, steps):
    answers, asked = iter(helped), []
    monkeypatch.setattr(Compression, "helps", lambda self, *pair: asked.append(pair) or next(answers))
    monkeypatch.setattr(Comparison, "worth_it", True)  # what was made in steps is returned
    *own, data = wide()
    found = nas.compress(*own, [data], max_params=0.3, outcomes=False, refine=0)
    assert len(asked) == len(helped)
    assert any(note == f"made in {steps} steps, since fewer were further away" for note in found.notes) == (steps > 1)
    assert nas.costs(*found).params <= 0.3 * nas.costs(*own).params


def test_no_more_steps_than_one_are_taken_where_the_network_takes_long(monkeypatch):
    monkeypatch.setattr(Comparison, "worth_it", False)
    monkeypatch.setattr("naivenas_jax.fit.compression.QUICK", 1.0)
    steps = []
    spied = Compression.step
    monkeypatch.setattr(Compression, "step", lambda self, *given: steps.append(given) or spied(self, *given))
    *own, data = wide()
    nas.compress(*own, [data], max_params=0.3, outcomes=False)
    assert len(steps) == 2  # by measured costs, and by estimates


def test_trials_of_costly_networks_are_made_on_fewer_examples():
    assert affordable(40, 1e5) == ENOUGH
    assert affordable(200, 1e12) == FEWEST
    assert affordable(100, AFFORDED / 50 / 32) == 32
