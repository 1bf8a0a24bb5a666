"""Batches as data loaders give them: read several times, and always the same."""

import re

import flax.linen as nn
import jax
import numpy as np
import pytest

import naivenas_jax as nas

X = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)


class Loader:
    """A data set in batches of 16; every pass is one of ``orders``, the last of which goes on."""

    def __init__(self, *orders):
        self.orders, self.passes = orders, 0

    def __iter__(self):
        order = self.orders[min(self.passes, len(self.orders) - 1)]
        self.passes += 1
        return (X[order[start : start + 16]] for start in range(0, len(order), 16))


SAME = np.arange(64)
RESHUFFLED = {
    "rows": np.random.default_rng(1).permutation(64),
    "batches": np.roll(SAME, 16),
    "the last two rows": np.array([*range(62), 63, 62]),
    "fewer batches": SAME[:48],
    "more batches": np.arange(80) % 64,
}


@pytest.fixture(scope="module")
def network():
    x = nas.input_vertex("x", 5)
    hidden = nas.invariant_vertex("tanh", jax.numpy.tanh, nas.layer("hidden", nn.Dense(12), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(3), nas.layer("norm", nn.BatchNorm(), hidden)))
    return graph, graph.init(jax.random.key(0), X)


CALLS = {
    "compensate": lambda network, batches: nas.compensate(nas.delta_nout(*network, {"hidden": -4}), batches),
    "refine": lambda network, batches: nas.refine(nas.delta_nout(*network, {"hidden": -4}), batches, steps=4),
    "compress": lambda network, batches: nas.compress(*network, batches, max_params=0.6, steps=1, refine=4),
    "frontier": lambda network, batches: nas.frontier(*network, batches, lambda *_: 1.0, fractions=(0.6,)),
    "recalibrate": lambda network, batches: nas.recalibrate(*network, batches),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_loader_that_shuffles_is_refused(network, call):
    """What the original made of one batch would be compared with what the smaller network makes of another."""
    generator = np.random.default_rng(1)
    shuffled = Loader(*(generator.permutation(64) for _ in range(100)))
    with pytest.raises(nas.VariablesError, match=r"another one from batch 0 on.*list\(batches\)"):
        CALLS[call](network, shuffled)


@pytest.mark.parametrize("change", RESHUFFLED)
@pytest.mark.parametrize("after", [2, 3])  # the first pass reads one batch, to see that there is one
def test_whatever_changes_is_noticed_whenever_it_does(network, change, after):
    with pytest.raises(nas.VariablesError, match="must be the same every time"):
        CALLS["refine"](network, Loader(*[SAME] * after, RESHUFFLED[change]))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("batches", [X, jax.numpy.asarray(X), X[0, 0]], ids=["numpy", "jax", "a number"])
def test_one_array_is_no_list_of_batches(network, call, batches):
    """It would be read row by row: every example a batch of its own, without a dimension of examples."""
    with pytest.raises(
        nas.VariablesError, match=rf"batches= .*one array, of shape {re.escape(str(batches.shape))}.*\[a"
    ):
        CALLS[call](network, batches)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ((X, np.zeros(64, int)), r"Batch 1 has arrays of \[1\] dimensions, batch 0 of \[2\].*without labels"),
        ([(X, np.zeros(64, int))], r"Batch 0 holds 2 arrays, where the graph has 1 .*without labels.*\[batch\]"),
    ],
)
def test_labels_are_no_batch_and_no_input(network, batches, message):
    with pytest.raises(nas.VariablesError, match=message):
        CALLS["compensate"](network, batches)


def test_a_loader_is_as_good_as_a_list(network):
    ours, lists = (CALLS["compensate"](network, batches) for batches in (Loader(SAME), [*Loader(SAME)]))
    jax.tree.map(np.testing.assert_array_equal, ours.variables, lists.variables)


@pytest.mark.parametrize("call", CALLS)
def test_batches_that_are_traced_are_refused(network, call):
    with pytest.raises(nas.VariablesError, match=r"is traced. (Batches|Mutations) .* outside jax.jit"):
        jax.jit(lambda x: CALLS[call](network, [x]))(X)
