"""Rows become sums, or of few rows a smaller problem; no row is evaluated that nobody reads."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas
from naivenas_jax.dataflow.contraction import Contraction
from naivenas_jax.dataflow.tape import record
from naivenas_jax.dataflow.walk import walk_tape
from naivenas_jax.fit.network import network
from naivenas_jax.fit.network.network import Network, Run
from naivenas_jax.fit.regression import fitting
from naivenas_jax.fit.regression.ridge import ridge_fit
from naivenas_jax.fit.regression.sums import row_sums
from naivenas_jax.fit.regression.sums.least_squares import Problem
from naivenas_jax.fit.regression.sums.row_sums import RowSums
from naivenas_jax.fit.regression.use_sums import Rows

IMAGES = np.asarray(jax.random.normal(jax.random.key(3), (64, 6, 6, 2)))


def summed(x, y, sizes):
    sums, start = RowSums(), 0
    for size in sizes:
        own = slice(start, start := start + size)
        sums.add(Rows(jnp.asarray(x[:, own], jnp.float32), jnp.asarray(y[:, own], jnp.float32)), "x")
    return sums


@pytest.mark.parametrize("halved", [4, 1000])
@pytest.mark.parametrize("sizes", [[200], [3, 40, 57, 100], [1] * 200])
def test_sums_are_those_of_all_rows_far_from_zero(monkeypatch, halved, sizes):
    monkeypatch.setattr(row_sums, "HALVED", halved)
    rows = np.random.default_rng(0).normal(size=(2, 200, 22)).astype(np.float32).astype(np.float64) + 64
    sums = summed(rows[..., :19], rows[..., 19:], sizes).equations().centred()
    away = rows - rows.mean(1, keepdims=True)
    wanted = np.einsum("gnk,gnl->gkl", away[..., :19], away)
    np.testing.assert_allclose(sums.system(0.0), wanted[..., :19], rtol=1e-4, atol=2e-3)
    np.testing.assert_allclose(sums.xy, wanted[..., 19:], rtol=1e-4, atol=2e-3)
    np.testing.assert_allclose(sums.squares, (away[..., 19:] ** 2).sum(1), rtol=1e-4)
    np.testing.assert_allclose(sums.y, rows[..., 19:].sum(1), rtol=1e-6)


@pytest.mark.parametrize("shifts", [True, False])
@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_a_fit_of_few_rows_is_that_of_all_columns(shifts, mean):
    rng = np.random.default_rng(1)
    x, y, present = rng.normal(size=(2, 24, 60)) + mean, rng.normal(size=(2, 24, 3)), rng.normal(size=(2, 60, 3))
    x, y = (part.astype(np.float32).astype(np.float64) for part in (x, y))
    problem = Problem.of(summed(x[:, :16], y[:, :16], [9, 7]), summed(x[:, 16:], y[:, 16:], [8]), present)
    assert problem.start.shape == (2, 24, 3)
    for of in (slice(16), slice(24)):
        sums = problem.fitted if of == slice(16) else problem.fitted.and_those(problem.held_out)
        fit = ridge_fit(sums, problem.start, 1e-2, shifts)
        own_x, own_y = (part[:, of] - (part[:, of].mean(1, keepdims=True) if shifts else 0) for part in (x, y))
        gram = own_x.transpose(0, 2, 1) @ own_x
        ridge = 1e-2 * np.trace(gram, axis1=1, axis2=2)[:, None, None] / 60 * np.eye(60)
        step = np.linalg.solve(gram + ridge, own_x.transpose(0, 2, 1) @ (own_y - own_x @ present))
        np.testing.assert_allclose(problem.weights(fit.b), present + step, rtol=1e-5, atol=1e-6)


def test_many_rows_stay_in_their_columns():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(1, 40, 60)), rng.normal(size=(1, 40, 2))
    problem = Problem.of(summed(x[:, :30], y[:, :30], [30]), summed(x[:, 30:], y[:, 30:], [10]), np.zeros((1, 60, 2)))
    assert problem.basis is None
    assert problem.fitted.inputs == 60


def three():
    """Three convolutions with activations behind them, the last on a window that is wider than what it reads."""
    x = nas.input_vertex("x", 2, shape=(6, 6, 2))
    first = nas.invariant_vertex("relu", nn.relu, nas.layer("first", nn.Conv(8, (3, 3)), x))
    second = nas.invariant_vertex("tanh", jnp.tanh, nas.layer("second", nn.Conv(6, (3, 3), strides=(3, 3)), first))
    third = nas.invariant_vertex("last", nn.relu, nas.layer("third", nn.Conv(4, (5, 5)), second))
    return nas.Graph(x, third)


@pytest.mark.parametrize("thinned", [False, True])
def test_no_step_of_the_original_is_evaluated_twice(monkeypatch, thinned):
    """Nor is either network begun more often than once for each batch, whatever the number of fits and steps."""
    graph = three()
    variables = graph.init(jax.random.key(0), IMAGES)
    cut = nas.resize(graph, variables, max_params=0.6)
    if thinned:
        monkeypatch.setattr(fitting, "thinning", lambda *_: 2)
    original, steps, begun = Network.tape(Network(cut.before, {}), variables, (IMAGES,)), [], []
    walk, start = network.walk_tape, Run.start.__func__

    def walked(tape, values, live, hook, first=0, stop=None):
        is_original = jax.tree.map(jnp.shape, values) == jax.tree.map(jnp.shape, variables)
        if is_original and not isinstance(jax.tree.leaves(live)[0], jax.ShapeDtypeStruct) and stop is not None:
            steps.extend(range(first, stop))
        return walk(tape, values, live, hook, first, stop)

    monkeypatch.setattr(network, "walk_tape", walked)
    monkeypatch.setattr(Run, "start", classmethod(lambda cls, *given: begun.append(1) or start(cls, *given)))
    fitted = nas.compensate(cut, [IMAGES[:32], IMAGES[32:]])
    assert len(begun) == 2 * 2
    assert steps
    assert sorted(steps) == sorted(set(steps))
    assert max(steps) < len(original.steps)
    wanted, before, after = (
        np.asarray(own.apply(values, IMAGES))
        for own, values in ((graph, variables), (cut.graph, cut.variables), (fitted.graph, fitted.variables))
    )
    assert ((after - wanted) ** 2).sum() < ((before - wanted) ** 2).sum()


def test_rows_that_nobody_reads_are_not_computed():
    """Of a convolution whose outcome is read at some rows, these are products of matrices."""
    layer = nn.Conv(5, (3, 3))
    variables = layer.init(jax.random.key(0), IMAGES)
    tape = record(lambda v, x: (nn.relu(layer.apply(v, x)).sum((1, 2)),), variables, (IMAGES,))

    def read(some):
        def outcome(variables, x):
            found = []

            def hook(use):
                if isinstance(use, Contraction) and some:
                    use = use.evaluated_at(use.picked(7), variables["params"]["kernel"])
                    return use.result
                if hasattr(use, "slope"):
                    found.append(use.contraction.columns(use.array)[:, use.contraction.picked(7)])
                return None

            walk_tape(tape, variables, tape.start((x,)), hook)
            return found[0]

        compiled = jax.jit(outcome).lower(variables, IMAGES).compile()
        return np.asarray(compiled(variables, IMAGES)), compiled.cost_analysis()["flops"]

    (every, much), (some, less) = read(some=False), read(some=True)
    np.testing.assert_allclose(some, every, rtol=1e-5, atol=1e-6)
    assert less < 0.5 * much
