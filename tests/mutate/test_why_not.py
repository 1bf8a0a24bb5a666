"""What the error of an impossible request says of ties, and that what it offers is a change."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from strategies import placeholder_variables

import naivenas_jax as nas


def branches(*names, width=4):
    """The layers of these names beside one another, concatenated; a name that occurs twice is one layer."""
    x = nas.input_vertex("x", 3)
    made = {name: nas.layer(name, nn.Dense(width), x) for name in dict.fromkeys(names)}
    joined = nas.concat("cat", *(made[name] for name in names))
    return nas.Graph(x, nas.layer("out", nn.Dense(2), joined))


def frozen():
    """A layer that an immutable vertex reads, beside one that is free."""
    x = nas.input_vertex("x", 3)
    held = nas.immutable_vertex("held", jnp.tanh, nas.layer("a", nn.Dense(4), x))
    return nas.Graph(x, nas.layer("out", nn.Dense(2), nas.concat("cat", held, nas.layer("b", nn.Dense(4), x))))


def added():
    """cat(a, b) + wide: the two halves are tied to those of a wide layer."""
    x = nas.input_vertex("x", 3)
    both = nas.concat("cat", nas.layer("a", nn.Dense(4), x), nas.layer("b", nn.Dense(4), x))
    total = (both + nas.layer("wide", nn.Dense(8), x)).named("sum")
    return nas.Graph(x, nas.layer("out", nn.Dense(2), total))


def refused(graph, request, **keywords):
    """The error of a request; what it offers can be had."""
    variables = placeholder_variables(graph)
    with pytest.raises(nas.InfeasibleError) as caught:
        nas.delta_nout(graph, variables, request, **keywords)
    found = {name: nas.to(size) for name, size in caught.value.nearest.items()}
    assert found.keys() == request.keys()
    nas.delta_nout(graph, variables, found, **keywords)
    return caught.value


TIED = {
    "equal halves": (lambda: branches("a", "a"), {"cat": -1}, {"cat": 6}, "'cat' .*changes by a multiple of 2"),
    "equal thirds": (lambda: branches("a", "a", "a"), {"cat": -1}, {"cat": 9}, "'cat' .*changes by a multiple of 3"),
    "pairs": (lambda: branches("a", "b", "a", "b"), {"cat": 1}, {"cat": 18}, "'cat' .*changes by a multiple of 2"),
    "halves and the layer": (lambda: branches("a", "a"), {"a": 1, "cat": 4}, {"a": 6, "cat": 12}, r"always 2 \* size"),
    "one of two in a sum": (added, {"sum": -1, "a": -1, "b": -1}, None, r"size\('sum'\) is always size\('a'\) \+ size"),
    "twice the same": (added, {"sum": -1, "wide": -2}, None, r"size\('sum'\) is always size\('wide'\)"),
    "fewer than layers": (lambda: branches("a", "b"), {"cat": nas.to(1)}, {"cat": 2}, "holds 'a', 'b', each of which"),
    "part larger": (
        lambda: branches("a", "b"),
        {"cat": nas.to(4), "a": nas.to(5)},
        None,
        "all neurons of 'a', and oth",
    ),
    "half is held": (frozen, {"cat": nas.to(3)}, {"cat": 5}, "'held' is immutable"),
    "one is held": (frozen, {"a": -1, "b": -2}, {"a": 4, "b": 2}, "'held' is immutable"),
}


@pytest.mark.parametrize("name", TIED)
def test_the_reason_is_named_and_a_change_is_offered(name):
    make, request, nearest, reason = TIED[name]
    graph = make()
    error = refused(graph, request)
    assert nearest is None or error.nearest == nearest
    assert any(size != graph.nout(axis) for axis, size in error.nearest.items())
    with pytest.raises(nas.InfeasibleError, match=f"(Tied|Fixed): .*{reason}"):
        raise error
    assert "Nearest sizes that can" in str(error)


def test_where_nothing_else_can_be_had_no_change_is_offered():
    error = refused(frozen(), {"a": -1})
    assert "No other sizes can be had than those that there are: {'a': nas.to(4)}." in str(error)
    assert "Nearest" not in str(error)


def test_halves_that_must_be_multiples():
    error = refused(branches("a", "a"), {"cat": -3}, constraints=nas.multiple_of("cat", 4))
    assert error.nearest == {"cat": 4}


class Grouped(nn.Module):
    """Attention with four heads of queries for two of keys and values."""

    @nn.compact
    def __call__(self, x):
        def heads(name, count):
            return nn.Dense(8 * count, name=name)(x).reshape(*x.shape[:2], count, 8)

        q, k, v = heads("q", 4), *(jnp.repeat(heads(name, 2), 2, axis=2) for name in "kv")
        weights = nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k), -1)
        return nn.Dense(6, name="o")(jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(*x.shape[:2], -1))


def test_grouped_queries_say_in_which_steps_they_change():
    model, x = Grouped(), jnp.ones((1, 3, 6))
    graph, _ = nas.from_linen(model, jax.eval_shape(model.init, jax.random.key(0), x), x)
    for name, heads, features in (("q", 16, 4), ("k", 8, 2)):
        error = refused(graph, {name: -1})
        assert error.reasons == (
            f"the size of {name!r} is a product, and changes with '{name}:heads' by a multiple of {heads}, or with "
            f"'{name}:features' by a multiple of {features}; several change at once only if the size of each is "
            "requested exactly",
        )
        assert error.nearest == {name: graph.ties.size(name) - features}
