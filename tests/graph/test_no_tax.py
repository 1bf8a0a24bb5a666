"""A mutated graph compiles to the operations of the same network written by hand."""

import re
from collections import Counter

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas

IMAGES = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))


class Handwritten(nn.Module):
    """The network of `graph`, as somebody would write it in Flax, for any widths."""

    stem: int
    left: int
    right: int

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(self.stem, (3, 3), name="stem")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        x = nn.Conv(self.stem, (3, 3), name="conv")(x) + x
        branches = nn.Conv(self.left, (1, 1), name="left")(x), nn.Conv(self.right, (3, 3), name="right")(x)
        x = nn.max_pool(jnp.concatenate(branches, -1), (2, 2), (2, 2))
        return nn.Dense(10, name="out")(x.reshape(x.shape[0], -1))


def pool(x):
    return nn.max_pool(x, (2, 2), (2, 2))


@pytest.fixture(scope="module")
def network():
    x = nas.input_vertex("x", 3, shape=(8, 8, 3))
    relu = nas.invariant_vertex(
        "relu", nn.relu, nas.layer("norm", nn.BatchNorm(), nas.layer("stem", nn.Conv(8, (3, 3)), x))
    )
    block = nas.layer("conv", nn.Conv(8, (3, 3)), relu) + relu
    branches = nas.layer("left", nn.Conv(4, (1, 1)), block), nas.layer("right", nn.Conv(5, (3, 3)), block)
    pooled = nas.invariant_vertex("pool", pool, nas.concat("cat", *branches))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(10), nas.flatten("flat", pooled)))
    return graph, graph.init(jax.random.key(0), IMAGES)


def compiled_operations(fn, *arguments):
    compiled = jax.jit(fn).lower(*arguments).compile()
    return Counter(re.findall(r"= \S+ ([a-z\-]+)\(", compiled.as_text())), compiled.cost_analysis()["flops"]


def scalar(apply):
    return lambda variables, x: apply(variables, x).sum()


@pytest.mark.parametrize("request_", [{"conv": -3}, {"left": 2, "right": -2}, {"conv": 4, "cat": -1}])
def test_same_operations_and_outputs_as_by_hand(network, request_):
    graph, variables = nas.delta_nout(*network, request_)
    by_hand = Handwritten(graph.nout("stem"), graph.nout("left"), graph.nout("right"))
    np.testing.assert_array_equal(graph.apply(variables, IMAGES), by_hand.apply(variables, IMAGES))
    for wrap in (lambda f: f, lambda f: jax.grad(scalar(f))):
        ours = compiled_operations(wrap(graph.apply), variables, IMAGES)
        theirs = compiled_operations(wrap(by_hand.apply), variables, IMAGES)
        assert ours == theirs


def test_same_statistics_in_training(network):
    graph, variables = nas.delta_nout(*network, {"conv": -3})
    by_hand = Handwritten(graph.nout("stem"), graph.nout("left"), graph.nout("right"))
    ours = graph.apply(variables, IMAGES, train=True, mutable=["batch_stats"])
    theirs = by_hand.apply(variables, IMAGES, train=True, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
