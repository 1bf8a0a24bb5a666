"""Weights inside loops are re-fitted: against least squares by numpy, on states that a loop in Python collects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import naivenas_jax as nas
from naivenas_jax.dataflow.loops.entry_origins import Entries
from naivenas_jax.dataflow.loops.joint_sums import Round
from naivenas_jax.dataflow.loops.loop_body import loop_body
from naivenas_jax.dataflow.tape import record
from naivenas_jax.fit import compensate
from naivenas_jax.fit.regression.loops import loop_fitting, loop_stages

INPUTS = np.asarray(jax.random.normal(jax.random.key(0), (240, 6, 5)))
LINEN = {
    "gru": lambda n: nn.RNN(nn.GRUCell(n)),
    "lstm": lambda n: nn.RNN(nn.LSTMCell(n)),
    "joined lstm": lambda n: nn.RNN(nn.OptimizedLSTMCell(n)),
    "simple": lambda n: nn.RNN(nn.SimpleCell(n)),
    "mgu": lambda n: nn.RNN(nn.MGUCell(n)),
    "reversed": lambda n: nn.RNN(nn.GRUCell(n), reverse=True, keep_order=True),
}


class Reads(nn.Module):
    """A recurrent layer, and a dense one on its states."""

    layer: str
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(3)(LINEN[self.layer](self.width)(x))


def of_linen(module: nn.Module, seed: int = 1) -> tuple[nas.Graph, Any]:
    return nas.from_linen(module, module.init(jax.random.key(seed), INPUTS[:2]), INPUTS[:2])


def distance(mutation: nas.Mutation, inputs: np.ndarray = INPUTS) -> float:
    """The squared error of the outputs, relative to their variance."""
    wanted = np.asarray(mutation.before.apply(mutation.variables_before, inputs))
    made = np.asarray(mutation.graph.apply(mutation.variables, inputs))
    return float(((made - wanted) ** 2).mean() / wanted.var())


def halved(graph: nas.Graph, variables: Any, share: float = 0.5) -> nas.Mutation:
    return nas.resize(graph, variables, max_params=int(share * nas.costs(graph, variables).params))


def doubled(variables: Any, width: int) -> Any:
    """Each neuron of the loop once more behind all others; what reads the second ones counts less."""

    def one(path: tuple[Any, ...], array: jax.Array) -> np.ndarray:
        made = np.array(array)
        if made.shape[-1] == 2 * width:
            made[..., width:] = made[..., :width]
        if made.ndim == 2 and made.shape[0] == 2 * width:
            made[width:] *= 0.1
        return made

    return jax.tree_util.tree_map_with_path(one, variables)


@pytest.mark.parametrize("layer", LINEN)
def test_neurons_that_others_repeat_are_made_up_for(layer: str) -> None:
    width = 7
    graph, variables = of_linen(Reads(layer, 2 * width))
    most = nas.costs(*of_linen(Reads(layer, width))).params
    cut = nas.resize(graph, doubled(variables, width), max_params=most)
    fitted = nas.compensate(cut, [INPUTS])
    assert nas.costs(fitted.graph, fitted.variables).params == most
    assert distance(cut) > 1e-3
    np.testing.assert_allclose(
        fitted.graph.apply(fitted.variables, INPUTS), graph.apply(cut.variables_before, INPUTS), atol=1e-4
    )


def weights_of(variables: Any, *names: str) -> list[np.ndarray]:
    """Variables of a graph by the ends of their paths."""
    flat = {"/".join(str(key.key) for key in path): np.asarray(array, np.float64)
            for path, array in jax.tree_util.tree_leaves_with_path(variables)}  # fmt: skip
    return [next(array for path, array in flat.items() if path.endswith(name)) for name in names]


def ridge_by_numpy(x: np.ndarray, y: np.ndarray, present: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """B and c that minimise |y - x B - c|^2 + ridge s |B - present|^2, from rows below those of the data."""
    centred, wanted = x - x.mean(0), y - y.mean(0)
    root = np.sqrt(ridge * (centred**2).sum() / x.shape[1])
    rows = np.concatenate([centred, root * np.eye(x.shape[1])])
    b = np.linalg.lstsq(rows, np.concatenate([wanted, root * present]), rcond=None)[0]
    return b, y.mean(0) - x.mean(0) @ b


def test_the_first_pass_is_least_squares_on_states_of_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_fitting, "PASSES", 1)
    graph, variables = of_linen(Reads("simple", 16))
    cut = halved(graph, variables)
    fitted = nas.compensate(cut, [INPUTS[:120], INPUTS[120:]], ridge=1e-3)
    w, b, u = weights_of(variables, "i/kernel", "i/bias", "h/kernel")
    w_cut, u_cut = weights_of(cut.variables, "i/kernel", "h/kernel")
    kept = [int(np.flatnonzero((w == column[:, None]).all(0))[0]) for column in w_cut.T]
    state, read, made = np.zeros((len(INPUTS), 16)), [], []
    for step in range(INPUTS.shape[1]):
        inputs = INPUTS[:, step].astype(np.float64)
        before = inputs @ w + state @ u + b
        read.append(np.concatenate([inputs, state[:, kept]], 1))
        made.append(before[:, kept])
        state = np.tanh(before)
    weights, shift = ridge_by_numpy(np.concatenate(read), np.concatenate(made), np.concatenate([w_cut, u_cut]), 1e-3)
    found = weights_of(fitted.variables, "i/kernel", "i/bias", "h/kernel")
    assert np.abs(found[0] - w_cut).max() > 1e-2
    for own, wanted in zip(found, (weights[:5], shift, weights[5:]), strict=True):
        np.testing.assert_allclose(own, wanted, atol=2e-4)


class Layers(nn.Module):
    """Layers of one width, scanned."""

    width: int
    reverse: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        class Layer(nn.Module):
            width: int

            @nn.compact
            def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
                return jnp.tanh(nn.Dense(self.width, name="own")(x)), None

        layers = nn.scan(
            Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3, reverse=self.reverse
        )
        read = jnp.tanh(nn.Dense(self.width, use_bias=False, name="into")(x))
        return nn.Dense(3)(layers(self.width)(read, None)[0])


@pytest.mark.parametrize("reverse", [False, True])
def test_scanned_layers_are_fitted_one_after_the_other(reverse: bool) -> None:
    graph, variables = of_linen(Layers(16, reverse))
    cut = halved(graph, variables)
    fitted = nas.compensate(cut, [INPUTS], ridge=1e-3)
    (first, w, b), (own, w_cut) = (
        weights_of(variables, "into/kernel", "own/kernel", "own/bias"),
        weights_of(cut.variables, "into/kernel", "own/kernel"),
    )
    kept = [int(np.flatnonzero((first == column[:, None]).all(0))[0]) for column in own.T]
    before = np.tanh(INPUTS.reshape(-1, 5).astype(np.float64) @ first)
    now = before[:, kept]
    for row in (2, 1, 0) if reverse else (0, 1, 2):
        made = before @ w[row] + b[row]
        weights, shift = ridge_by_numpy(now, made[:, kept], w_cut[row], 1e-3)
        before, now = np.tanh(made), np.tanh(now @ weights + shift)
        for name, wanted in (("own/kernel", weights), ("own/bias", shift)):
            (found,) = weights_of(fitted.variables, name)
            np.testing.assert_allclose(found[row], wanted, atol=5e-4)


class Bidirectional(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(3)(nn.Bidirectional(nn.RNN(nn.GRUCell(12)), nn.RNN(nn.LSTMCell(10)))(x))


class Masked(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        lengths = jnp.arange(x.shape[0]) % 5 + 1
        return nn.Dense(3)(nn.RNN(nn.GRUCell(14), reverse=True, keep_order=True)(x, seq_lengths=lengths))


class Images(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(3)(nn.RNN(nn.ConvLSTMCell(8, (3,)))(x[..., None]).mean(-2))


class OfNnx(nnx.Module):
    def __init__(self, cell: Callable[..., nnx.Module], rngs: nnx.Rngs):
        self.rnn, self.out = nnx.RNN(cell(5, 14, rngs=rngs)), nnx.Linear(14, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(self.rnn(x))


def by_hand(variables: Any, x: jax.Array) -> jax.Array:
    """A cell by hand: W on the left, a mask, and two states."""
    own = variables["params"]

    def body(state: tuple[jax.Array, jax.Array], given: tuple[jax.Array, jax.Array]) -> Any:
        fast, slow = state
        row, mask = given
        made = jnp.tanh((own["w"] @ row.T).T + own["b"] + fast @ own["u"])
        fast = jnp.where(mask[:, None], made, fast)
        slow = 0.5 * slow + jnp.tanh(fast @ own["v"])
        return (fast, slow), slow

    start = jnp.zeros((len(x), 14)), jnp.zeros((len(x), 9))
    mask = jnp.arange(6)[:, None] < jnp.arange(len(x)) % 6 + 1
    _, states = jax.lax.scan(body, start, (x.swapaxes(0, 1), mask))
    return states[-1] @ own["o"]


def _by_hand() -> tuple[nas.Graph, Any]:
    shapes = {"w": (14, 5), "u": (14, 14), "b": (14,), "v": (14, 9), "o": (9, 3)}
    keys = jax.random.split(jax.random.key(2), len(shapes))
    arrays = {
        name: 0.4 * jax.random.normal(key, shape) for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    return nas.from_function(by_hand, {"params": arrays}, INPUTS[:12])


NETWORKS: dict[str, Callable[[], tuple[nas.Graph, Any]]] = {
    "linen gru": lambda: of_linen(Reads("gru", 14)),
    "linen lstm": lambda: of_linen(Reads("lstm", 14)),
    "bidirectional": lambda: of_linen(Bidirectional()),
    "lengths": lambda: of_linen(Masked()),
    "convolutions": lambda: of_linen(Images()),
    "layers": lambda: of_linen(Layers(16)),
    "nnx gru": lambda: nas.from_nnx(OfNnx(nnx.GRUCell, nnx.Rngs(0)), INPUTS[:2]),
    "nnx lstm": lambda: nas.from_nnx(OfNnx(nnx.OptimizedLSTMCell, nnx.Rngs(0)), INPUTS[:2]),
    "by hand": _by_hand,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_nearer_than_with_loops_as_they_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, variables = NETWORKS[name]()
    cut, both, nearest = halved(graph, variables), list[Any](), compensate._nearest

    def noted(found: Any, *given: Any) -> Any:
        both.extend(found.values())
        return nearest(found, *given)

    monkeypatch.setattr(compensate, "_nearest", noted)
    fitted = nas.compensate(cut, [INPUTS])
    assert not any(note.startswith("not re-fitted") for note in fitted.notes)
    without = replace(cut, variables=both[1])
    assert all(np.isfinite(array).all() for array in jax.tree.leaves(fitted.variables))
    assert distance(fitted) < distance(without)


def test_a_loop_that_comes_no_nearer_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, variables = of_linen(Reads("gru", 14))
    cut = halved(graph, variables)

    def zeros(_: object, variables: Any) -> Any:
        return jax.tree.map(np.zeros_like, dict(variables))

    monkeypatch.setattr(loop_fitting.LoopFitting, "refitted", zeros)
    fitted = nas.compensate(cut, [INPUTS])
    assert any("outputs would come no nearer" in note for note in fitted.notes)
    monkeypatch.setattr(loop_stages.Loops, "of", lambda *_: [])
    jax.tree.map(np.testing.assert_array_equal, fitted.variables, nas.compensate(cut, [INPUTS]).variables)


def test_without_weights_only_shifts_change() -> None:
    graph, variables = of_linen(Reads("simple", 14))
    cut = halved(graph, variables)
    fitted = nas.compensate(cut, [INPUTS], weights=False)
    names = "i/kernel", "h/kernel", "Dense_0/kernel"
    for own, was in zip(weights_of(fitted.variables, *names), weights_of(cut.variables, *names), strict=True):
        np.testing.assert_array_equal(own, was)
    assert np.abs(weights_of(fitted.variables, "i/bias")[0] - weights_of(cut.variables, "i/bias")[0]).max() > 1e-4


def test_weights_in_other_loops_stay_and_are_named() -> None:
    def until(variables: Any, x: jax.Array) -> jax.Array:
        own = variables["params"]
        state = jax.lax.while_loop(
            lambda pair: pair[0] < 3,
            lambda pair: (pair[0] + 1, jnp.tanh(pair[1] @ own["u"])),
            (0, jnp.tanh(x[:, 0] @ own["w"])),
        )[1]
        return state @ own["o"]

    shapes = {"w": (5, 14), "u": (14, 14), "o": (14, 3)}
    arrays = {name: 0.4 * jax.random.normal(jax.random.key(len(name)), shape) for name, shape in shapes.items()}
    graph, variables = nas.from_function(until, {"params": arrays}, INPUTS[:2])
    cut = halved(graph, variables)
    fitted = nas.compensate(cut, [INPUTS])
    assert any(note.startswith("not re-fitted (inside a loop") and note.endswith("u") for note in fitted.notes)
    np.testing.assert_array_equal(weights_of(fitted.variables, "u")[0], weights_of(cut.variables, "u")[0])


def test_columns_of_joined_weights_meet_those_of_their_gate() -> None:
    module = nn.RNN(nn.OptimizedLSTMCell(4))
    variables = module.init(jax.random.key(0), INPUTS[:2])
    tape, entries = record(module.apply, variables, [INPUTS[:2]]), Entries.of(variables)
    (body,) = (own for i in range(len(tape.steps)) if (own := loop_body(tape, i, entries)) is not None)
    sums, numbers = Round(body).sums, body.numbers(0)
    assert len(sums) == 4
    for own in sums:
        (of_state, of_input), shift = Round(body).weights(own), own.shift
        assert shift is not None
        gates = set()
        for kind, ids in (("h", of_state), ("i", of_input), ("h", shift)):
            paths = [path for path in entries.first if len(entries.part_of(path, numbers[ids.ravel()]))]
            assert len(paths) == 1
            assert paths[0][-2][0] == kind
            gates.add(paths[0][-2][1])
        assert len(gates) == 1
