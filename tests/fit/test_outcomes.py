"""What becomes of what a weight makes, and weights that are aimed at it: against differences and scipy's optimum."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import naivenas_jax as nas
from naivenas_jax.dataflow.tape import record
from naivenas_jax.dataflow.variable_uses import Outcome
from naivenas_jax.dataflow.walk import walk_tape
from naivenas_jax.fit.dropping.importance import neuron_costs
from naivenas_jax.fit.network.data import Data
from naivenas_jax.fit.network.network import Network
from naivenas_jax.fit.regression.generalised_linear_fit import Missed, aimed
from naivenas_jax.fit.regression.ridge import Fit, NormalEquations, added, gram

X = jax.random.normal(jax.random.key(0), (40, 5))
OWN = {name: jax.random.normal(jax.random.key(i), shape) for i, (name, shape) in enumerate(
    {"w": (5, 7), "v": (5, 7), "b": (7,), "s": (7,), "out": (7, 2)}.items())}  # fmt: skip


def outcomes(fn):
    """The events, and the values that `fn` says they should have."""
    found, said = [], {}
    variables = {"params": OWN}
    tape = record(lambda v, x: fn(v["params"], x, {}), variables, [X])
    walk_tape(tape, variables, tape.start([X]), found.append)
    fn(OWN, X, said)
    return {e.path[-1]: e for e in found if isinstance(e, Outcome)}, said


def named(said, **values):
    said.update(values)
    return next(iter(values.values()))


def normalised(p, x, said):
    return named(said, w=nn.relu((x @ p["w"] - p["b"]) * p["s"] + p["b"])) @ p["out"]


def gelu(p, x, said):
    return named(said, w=nn.gelu(x @ p["w"] + p["b"])) @ p["out"]


def exact_gelu(p, x, said):
    return named(said, w=nn.gelu(x @ p["w"], approximate=False)) @ p["out"]


def silu(p, x, said):  # used twice, and joined again
    y = x @ p["w"]
    return named(said, w=y * nn.sigmoid(y)) @ p["out"]


def leaky(p, x, said):
    return named(said, w=nn.leaky_relu(x @ p["w"], 0.1)) @ p["out"]


def at_the_end(p, x, said):
    return named(said, w=jnp.tanh(x @ p["w"]))


def skip(p, x, said):  # of a sum of two the second is aimed, and the first at its own
    first = x @ p["v"]
    return named(said, w=nn.relu(x @ p["w"] + first)) @ p["out"]


def gated(p, x, said):
    gate = named(said, v=nn.sigmoid(x @ p["v"]))
    return named(said, w=nn.relu(x @ p["w"]) * gate) @ p["out"]


def seen_elsewhere(p, x, said):
    y = x @ p["w"]
    return nn.relu(y) @ p["out"], y


def averaged(p, x, said):
    y = x @ p["w"]
    return nn.relu(y - y.mean(-1, keepdims=True)) @ p["out"]


@jax.custom_vjp
def straight_through(y):
    return jnp.where(y > 0, y, 0.0)


straight_through.defvjp(lambda y: (straight_through(y), None), lambda _, g: (g,))


def without_a_forward_derivative(p, x, said):
    return named(said, w=jax.jit(straight_through)(x @ p["w"])) @ p["out"]


def linear(p, x, said):
    return (-(x @ p["w"] - p["b"]) * p["s"] / 2 + p["b"]) @ p["out"]


AIMED = [normalised, gelu, exact_gelu, silu, leaky, at_the_end, skip, without_a_forward_derivative]
CASES = [*AIMED, seen_elsewhere, averaged, linear]


@pytest.mark.parametrize("fn", CASES, ids=lambda fn: fn.__name__)
def test_outcomes_are_what_they_are_said_to_be(fn):
    found, said = outcomes(fn)
    assert set(found) == set(said)
    for name, event in found.items():
        np.testing.assert_allclose(event.array, said[name], atol=1e-6)


def test_a_gate_that_is_made_before_takes_part():
    found, said = outcomes(gated)
    np.testing.assert_allclose(found["w"].array, said["w"], atol=1e-6)


@pytest.mark.parametrize("fn", [normalised, gelu, silu, leaky, AIMED[-1]], ids=lambda fn: fn.__name__)
def test_slopes_are_derivatives(fn):
    """Of a bias that is moved a little either way, in float64 differences."""
    with jax.enable_x64(True):
        own = {name: np.asarray(array, np.float64) for name, array in OWN.items()}

        def outcome(shift):
            said = {}
            fn({**own, "w": own["w"]}, Moved(np.asarray(X, np.float64), own["w"], shift), said)
            return np.asarray(said["w"])

        between = (outcome(1e-6) - outcome(-1e-6)) / 2e-6
    np.testing.assert_allclose(outcomes(fn)[0]["w"].slope(), between, atol=1e-4)


class Moved:
    """Inputs whose product with a matrix is shifted."""

    def __init__(self, x, w, shift):
        self.x, self.w, self.shift = x, w, shift

    def __matmul__(self, other):
        return jnp.asarray(self.x @ other + self.shift)


def pruned_layer(activation, scale):
    """A weight that reads a pruned one, with a normalisation and an activation behind it."""
    x = nas.input_vertex("x", 6)
    hidden = nas.invariant_vertex("tanh", jnp.tanh, nas.layer("hidden", nn.Dense(14), x))
    norm = nas.layer("norm", nn.BatchNorm(), nas.layer("middle", nn.Dense(4, use_bias=False), hidden))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.invariant_vertex("activation", activation, norm)))
    data = jax.random.normal(jax.random.key(1), (300, 6))
    variables = graph.init(jax.random.key(2), data)
    variables["params"]["norm"]["scale"] = scale * jnp.array([1.0, 2.0, 0.5, -1.5])
    variables["params"]["norm"]["bias"] = jnp.array([0.0, -0.3, 0.2, 0.4])
    return nas.delta_nout(graph, variables, {"hidden": -9}), data


@pytest.mark.parametrize(
    ("activation", "scale"), [(nn.relu, 1.0), (nn.relu, -2.0), (nn.gelu, -2.0), (jnp.tanh, 1.0), (nn.leaky_relu, -2.0)]
)
def test_outcomes_gain_more_than_half_of_what_can_be_gained(activation, scale):
    """Against the smallest squares that a quasi-Newton method finds from where the steps end."""
    pruned, data = pruned_layer(activation, scale)
    before = pruned.before
    variables = pruned.variables_before
    wanted = activation_of(before, variables, data)
    found = {}
    for outcomes in (False, True):
        fitted = nas.compensate(pruned, [data[:150], data[150:]], ridge=1e-9, statistics=False, outcomes=outcomes)
        found[outcomes] = float(((activation_of(fitted.graph, fitted.variables, data) - wanted) ** 2).sum())
    hidden = fitted.variables["params"]["hidden"]
    read = jnp.tanh(data @ hidden["kernel"] + hidden["bias"])
    own = fitted.variables["params"]["norm"], fitted.variables["batch_stats"]["norm"]

    def squares(flat):
        kernel, mean = flat[:-4].reshape(-1, 4), flat[-4:]
        normed = (read @ kernel - mean) / jnp.sqrt(own[1]["var"] + 1e-5) * own[0]["scale"] + own[0]["bias"]
        return ((activation(normed) - wanted) ** 2).sum()

    start = jnp.concatenate([fitted.variables["params"]["middle"]["kernel"].ravel(), own[1]["mean"]])
    assert float(squares(start)) == pytest.approx(found[True], rel=1e-3)
    value = jax.jit(jax.value_and_grad(squares))
    best = minimize(lambda z: [np.asarray(a, np.float64) for a in value(jnp.asarray(z, jnp.float32))], start, jac=True)
    assert best.fun <= found[True] * 1.001
    assert found[True] < found[False]
    gained, possible = found[False] - found[True], found[False] - best.fun
    assert gained > 0.5 * possible, (found, best.fun)


def activation_of(graph, variables, data):
    own = {kind: {name: a for name, a in arrays.items() if name != "out"} for kind, arrays in variables.items()}
    return nas.Graph(graph.inputs, graph.vertex("activation")).apply(own, data)


def test_sums_about_the_mean_do_not_cancel():
    """Against numpy in float64, where values are thousands of times their spread."""
    z = np.random.default_rng(0).normal(size=(1, 500, 6)) + 3000
    z = z.astype(np.float32)
    total = None
    for part in np.split(z, 5, axis=1):
        total = added(total, gram(jnp.asarray(part)), "x")
    sums = NormalEquations.of(total).centred()
    wanted = np.cov(z[0].astype(np.float64).T, bias=True) * 500
    np.testing.assert_allclose(sums.times(np.eye(len(wanted))[None])[0], wanted, atol=1e-2)


def test_costs_of_neurons_from_fewer_rows_than_inputs_far_from_zero():
    x = nas.input_vertex("x", 4)
    hidden = nas.layer("hidden", nn.Dense(96, bias_init=nn.initializers.constant(300.0)), x)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(7), nas.invariant_vertex("relu", nn.relu, hidden)))
    data = jax.random.normal(jax.random.key(1), (20, 4))
    variables = graph.init(jax.random.key(2), data)
    costs = neuron_costs(Network(graph, {}), variables, Data.of(graph, [data]), measured=False).estimated["hidden"]
    assert np.isfinite(costs).all()
    assert (costs >= 0).all()


@pytest.mark.parametrize("sizes", [(1,), (3,), (1,) * 9, (40, 2), (1, 40)])
def test_batches_of_few_examples(sizes):
    """No example of theirs is held out, so that nothing chooses among ridges, or little does."""
    pruned, data = pruned_layer(nn.relu, 1.0)
    batches = np.split(np.asarray(data[: sum(sizes)]), np.cumsum(sizes)[:-1])
    fitted = nas.compensate(pruned, batches, statistics=sum(sizes) > 1)
    wanted = pruned.before.apply(pruned.variables_before, data[: sum(sizes)])
    errors = [float(((m.graph.apply(m.variables, data[: sum(sizes)]) - wanted) ** 2).mean()) for m in (pruned, fitted)]
    assert errors[1] < errors[0]
    assert all(np.isfinite(array).all() for array in jax.tree.leaves(fitted.variables))
    if sum(sizes) > 1:
        small = nas.compress(pruned.before, pruned.variables_before, batches, max_params=0.5, steps=1, refine=0)
        assert all(np.isfinite(array).all() for array in jax.tree.leaves(small.variables))


@pytest.mark.parametrize("field", ["read", "total", "squares"])
@pytest.mark.parametrize("turn", [0, 1])
def test_what_overflows_leaves_the_fit_as_it_was(field, turn):
    rows = np.random.default_rng(0).normal(size=(1, 50, 5))
    sums = NormalEquations.of(added(None, gram(*jnp.split(jnp.asarray(rows, jnp.float32), [3], axis=2)), "x"))
    start, turns = Fit(np.zeros((1, 3, 2)), np.zeros((1, 2)), 1e-3), iter(range(9))
    good = Missed(np.ones((1, 3, 2)), np.ones((1, 2)), np.array(1.0), np.zeros((1, 2)), np.ones((1, 2)))
    bad = good._replace(**{field: np.full_like(getattr(good, field), np.nan)})
    assert aimed(sums, start, start.b, True, lambda fit: bad if next(turns) == turn else good) is start


@pytest.mark.parametrize(("mean", "spread"), [(1000.0, 0.0), (-3.0, 0.0), (1000.0, 1e-3), (1.0, 1e-3)])
def test_inputs_that_hardly_vary(mean, spread):
    """All that is dropped is a shift; rounding is no reason to move weights. Fresh inputs lie a little apart."""
    pruned, data = pruned_layer(nn.relu, 1.0)
    before, variables = pruned.before, pruned.variables_before
    few, fresh = mean + spread * data[:50], mean + 0.01 * data[50:100]
    fitted = nas.compensate(pruned, [few[:25], few[25:]], statistics=False)
    wanted = before.apply(variables, fresh)
    errors = [float(((m.graph.apply(m.variables, fresh) - wanted) ** 2).mean()) for m in (pruned, fitted)]
    assert errors[1] <= max(0.2 * errors[0], 1e-6), errors
    small = nas.compress(before, variables, [few], max_params=0.6, refine=0)
    assert all(np.isfinite(array).all() for array in jax.tree.leaves(small.variables))


def test_after_an_activation_is_removed():
    """Against least squares: what reads it reads something else, though of the same neurons."""
    x = nas.input_vertex("x", 5)
    hidden = nas.invariant_vertex("silu", nn.silu, nas.layer("hidden", nn.Dense(4), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(3), hidden))
    variables = graph.init(jax.random.key(1), X)
    mutation = nas.remove_vertex(graph, variables, "silu")
    found = nas.compensate(mutation, [X[:20], X[20:]], ridge=1e-9).variables["params"]["out"]
    own = variables["params"]["hidden"]
    read = np.hstack([np.asarray(X @ own["kernel"] + own["bias"], np.float64), np.ones((40, 1))])
    best = read @ np.linalg.lstsq(read, np.asarray(graph.apply(variables, X), np.float64), rcond=None)[0]
    np.testing.assert_allclose(read @ np.vstack([found["kernel"], found["bias"]]), best, atol=1e-3)
