"""Functions of any number of arrays take further edges and lose them, as sums do."""

from __future__ import annotations

import functools
import operator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas

X = jax.random.normal(jax.random.key(1), (5, 3))


def product(*values):
    return functools.reduce(operator.mul, values)


def mean(first, *rest):
    return sum(rest, first) / (1 + len(rest))


def scaled_sum(*values, factor=2.0):
    return factor * sum(values)


def two_at_least(first, second, *rest):
    return first - second + sum(rest)


class Largest:
    def __call__(self, *values):
        return functools.reduce(jnp.maximum, values)


FUNCTIONS = {
    "sum": lambda *values: sum(values),
    "product": product,
    "mean": mean,
    "keyword": scaled_sum,
    "partial": functools.partial(scaled_sum, factor=3.0),
    "object": Largest(),
    "two at least": two_at_least,
}


def network(fn, size=6):
    x = nas.input_vertex("x", 3)
    a, b, c = (nas.layer(name, nn.Dense(n), x) for name, n in (("a", 4), ("b", 4), ("c", size)))
    total = nas.invariant_vertex("total", fn, a, b)
    graph = nas.Graph(x, (nas.layer("out", nn.Dense(2), total), c))
    return graph, graph.init(jax.random.key(0), X)


def by_hand(fn, variables, order):
    """The first output, written out."""
    made = {name: X @ leaf["kernel"] + leaf["bias"] for name, leaf in variables["params"].items() if name != "out"}
    last = variables["params"]["out"]
    return fn(*(made[name] for name in order)) @ last["kernel"] + last["bias"]


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("fn", FUNCTIONS.values(), ids=FUNCTIONS)
def test_an_edge_comes_and_goes(fn, position):
    graph, variables = network(fn)
    more = nas.create_edge(graph, variables, "c", "total", position=position, new="zeros")
    order = ["a", "b"]
    order.insert(position, "c")
    assert more.graph.inputs_of("total") == tuple(order)
    assert more.graph.nin("total") == (6, 6, 6)
    np.testing.assert_allclose(more.graph.apply(more.variables, X)[0], by_hand(fn, more.variables, order), atol=1e-5)
    less = nas.remove_edge(*more, "c", "total")
    np.testing.assert_allclose(less.graph.apply(less.variables, X)[0], by_hand(fn, less.variables, "ab"), atol=1e-5)
    back, old = more.undo(more.variables)
    np.testing.assert_array_equal(back.apply(old, X)[0], graph.apply(variables, X)[0])


def test_widths_of_all_inputs_follow():
    graph, variables = network(FUNCTIONS["sum"], size=4)
    more = nas.create_edge(graph, variables, "c", "total")
    narrow = nas.delta_nout(*more, {"a": -1}, free_outputs=True)
    assert narrow.graph.nin("total") == (3, 3, 3)
    assert narrow.check(X).compared


def test_a_removed_input_is_left_out():
    graph, variables = network(FUNCTIONS["sum"])
    less = nas.remove_vertex(graph, variables, "a", reconnect="none")
    assert less.graph.inputs_of("total") == ("b",)
    np.testing.assert_allclose(
        less.graph.apply(less.variables, X)[0], by_hand(FUNCTIONS["sum"], less.variables, "b"), atol=1e-5
    )


def test_what_the_signature_does_not_say_is_refused():
    graph, variables = network(lambda first, second: first + second)
    with pytest.raises(nas.StructureError, match=r"'total'.*takes exactly 2 inputs.*any number of arrays"):
        nas.create_edge(graph, variables, "c", "total")
    with pytest.raises(nas.StructureError, match=r"'total' would have 1 inputs, but .* takes 2"):
        nas.remove_edge(graph, variables, "a", "total")
    graph, variables = network(two_at_least)
    with pytest.raises(nas.StructureError, match=r"'total' would have 1 inputs, but two_at_least takes more"):
        nas.remove_edge(graph, variables, "a", "total")
    graph, variables = network(lambda *values: values[0] if len(values) == 2 else jnp.concatenate(values, -1))
    with pytest.raises(nas.NaiveNASError, match="declared invariant"):
        nas.create_edge(graph, variables, "c", "total", new="zeros")


def test_a_parameter_with_a_default_is_a_keyword_and_no_input():
    graph, variables = network(lambda first, second, slope=0.1: first + slope * second)
    with pytest.raises(nas.StructureError, match="takes exactly 2 inputs"):
        nas.create_edge(graph, variables, "c", "total")
