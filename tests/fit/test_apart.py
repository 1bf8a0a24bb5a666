"""Examples of a batch that see one another are held back together, by whole batches."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas
from naivenas_jax.fit.network.data import Data


class OfNodes(nn.Module):
    """The first dimension is one of nodes, and each reads its neighbours."""

    @nn.compact
    def __call__(self, x: Any, edges: Any) -> Any:
        x = nn.relu(edges @ nn.Dense(12)(x))
        return nn.Dense(3)(edges @ x)


class OfItems(nn.Module):
    """The first dimension is one of a set, whose mean is taken off."""

    @nn.compact
    def __call__(self, x: Any, edges: Any) -> Any:
        x = nn.relu(nn.Dense(12)(x))
        return nn.Dense(3)(x - x.mean(0))


class OfEight(nn.Module):
    """Takes batches of eight only."""

    @nn.compact
    def __call__(self, x: Any, edges: Any) -> Any:
        return nn.Dense(3)(nn.relu(nn.Dense(12)(x)).reshape(8, 12))


class OfExamples(nn.Module):
    @nn.compact
    def __call__(self, x: Any, edges: Any) -> Any:
        return nn.Dense(3)(nn.relu(nn.Dense(12)(x)))


def _batch(number: int) -> tuple[jax.Array, jax.Array]:
    first, second = jax.random.split(jax.random.key(number))
    edges = jax.random.bernoulli(second, 0.4, (8, 8)).astype(jnp.float32) / 3
    return jax.random.normal(first, (8, 5)), edges


@pytest.mark.parametrize(
    ("model", "number", "held_back"),
    [
        (OfNodes(), 8, "on 2 batches that no fit had seen"),
        (OfItems(), 8, "on 2 batches that no fit had seen"),
        (OfEight(), 8, "on 2 batches that no fit had seen"),
        (OfExamples(), 8, "on 16 examples that no fit had seen"),
        (OfNodes(), 1, "that both were fitted to, since none could be held back"),
    ],
)
def test_what_is_held_back_is_evaluated_as_it_is_given(model: nn.Module, number: int, held_back: str) -> None:
    batches = [_batch(n) for n in range(number)]
    graph, variables = nas.from_linen(model, model.init(jax.random.key(0), *batches[0]), *batches[0])
    found = nas.compress(graph, variables, batches, max_params=0.6, refine=0)
    assert sum(np.size(leaf) for leaf in jax.tree.leaves(found.variables)) <= 0.6 * (5 * 12 + 12 + 12 * 3 + 3)
    assert np.isfinite(found.graph.apply(found.variables, *batches[0])).all()
    assert held_back in " ".join(found.notes)


def test_a_few_examples_are_taken_from_all_over_sorted_batches() -> None:
    graph = _line()
    batches = [np.arange(20.0 * n, 20.0 * n + 20).reshape(20, 1) for n in range(10)]
    every = Data.of(graph, batches)
    whole = [np.ravel(inputs[0]) for inputs in every.spread(45, whole=True)]
    assert [own[0] for own in whole] == [0, 80, 180]
    assert all(len(own) == 20 for own in whole)
    chosen = every.only([np.arange(20) % 4 != 3 for _ in batches])
    some = [np.ravel(inputs[0]) for inputs in chosen.spread(20)]
    assert [len(own) for own in some] == [5] * 4
    assert all(own[0] % 20 == 0 and own[-1] % 20 == 18 for own in some)
    assert not any(number % 4 == 3 for own in some for number in own)
    assert sum(len(np.ravel(inputs[0])) for inputs in chosen.spread(10**6)) == 4 * 15
    assert sum(len(np.ravel(inputs[0])) for inputs in every.spread(10**6)) == 200


def _line() -> nas.Graph:
    x = nas.input_vertex("x", 1)
    return nas.Graph(x, nas.layer("out", nn.Dense(1), x))
