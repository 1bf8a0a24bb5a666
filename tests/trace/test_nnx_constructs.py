"""Recurrence, attention and batch statistics of nnx: a shrunk graph against the same model made at the new sizes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import naivenas_jax as nas

X = jax.random.normal(jax.random.key(0), (2, 3, 5))


class Recurrent(nnx.Module):
    def __init__(self, hidden: int = 4):
        rngs = nnx.Rngs(0)
        self.rnn, self.out = nnx.RNN(nnx.GRUCell(5, hidden, rngs=rngs)), nnx.Linear(hidden, 2, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.out(self.rnn(x))


class Attention(nnx.Module):
    def __init__(self, heads: int = 3):
        self.attn = nnx.MultiHeadAttention(heads, 5, 2 * heads, decode=False, rngs=nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:
        return x + self.attn(x)


class Normalised(nnx.Module):
    def __init__(self, hidden: int = 4):
        rngs = nnx.Rngs(0)
        self.up, self.norm = nnx.Linear(5, hidden, rngs=rngs), nnx.BatchNorm(hidden, momentum=0.5, rngs=rngs)
        self.down = nnx.Linear(hidden, 2, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.down(nnx.relu(self.norm(self.up(x))))


def _filled(model: nnx.Module, variables: Any) -> nnx.Module:
    """A model with the variables of a graph, each put where nnx has one of this path."""
    for path, variable in nnx.iter_graph(model):
        if isinstance(variable, nnx.Param | nnx.BatchStat) and variable[...] is not None:
            node = variables["params" if isinstance(variable, nnx.Param) else "batch_stats"]
            for key in path:
                node = node[str(key)]
            assert node.shape == variable.shape
            variable.set_value(node)
    return model


CASES = {  # how many neurons go, where; of a gated cell one for each gate
    "gru": (Recurrent, 3, {"rnn/cell/dense_i": -3}),
    "attention": (Attention, 2, {"attn/key:heads": -1}),
    "batch_norm": (Normalised, 3, {"up": -1}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_shrunk_graph_computes_what_a_smaller_model_does(name: str) -> None:
    make, size, request = CASES[name]
    mutation = nas.delta_nout(*nas.from_nnx(make(), X), request)
    assert mutation.check(X).compared
    smaller = _filled(make(size), mutation.variables)
    smaller.eval()
    np.testing.assert_allclose(mutation.graph.apply(mutation.variables, X), smaller(X), rtol=1e-5, atol=1e-6)


def test_training_mode_of_a_shrunk_graph_updates_the_statistics_that_are_left() -> None:
    graph, variables = nas.from_nnx(Normalised(), X)
    mutation = nas.delta_nout(graph, variables, {"up": -1})
    outputs, updates = mutation.graph.apply(mutation.variables, X, train=True, mutable=["batch_stats"])
    smaller = _filled(Normalised(3), mutation.variables)
    smaller.train()
    np.testing.assert_allclose(outputs, smaller(X), rtol=1e-5, atol=1e-6)
    for kind in ("mean", "var"):
        found = updates["batch_stats"]["norm"][kind]
        np.testing.assert_allclose(found, getattr(smaller.norm, kind)[...], rtol=1e-5, atol=1e-6)
        assert not jnp.allclose(found, mutation.variables["batch_stats"]["norm"][kind])
