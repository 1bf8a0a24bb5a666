"""Neurons that are selected by what they are: experts under ``top_k``, codes of a codebook, the largest of some."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas

EXPERTS, K = 5, 2


def rand(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


P = {"router": rand(0, 4, EXPERTS), "up": rand(1, EXPERTS, 4, 6), "down": rand(2, EXPERTS, 6, 4)}
X = rand(3, 7, 4)


def all_experts(p, x):
    h = jax.nn.relu(jnp.einsum("nd,edh->neh", x, p["up"]))
    return jnp.einsum("neh,ehd->ned", h, p["down"])


def masked(p, x):
    logits = x @ p["router"]
    least = jax.lax.top_k(logits, K)[0][:, -1:]
    gates = jax.nn.softmax(jnp.where(logits >= least, logits, -jnp.inf))
    return jnp.einsum("ne,ned->nd", gates, all_experts(p, x))


def one_hot(p, x):
    values, chosen = jax.lax.top_k(x @ p["router"], K)
    hot = jax.nn.one_hot(chosen, p["router"].shape[1])
    return jnp.einsum("nk,nke,ned->nd", jax.nn.softmax(values), hot, all_experts(p, x))


def scattered(p, x):
    logits = x @ p["router"]
    values, chosen = jax.lax.top_k(logits, K)
    gates = jnp.zeros_like(logits).at[jnp.arange(len(x))[:, None], chosen].set(jax.nn.softmax(values))
    return jnp.einsum("ne,ned->nd", gates, all_experts(p, x))


def gathered(p, x):
    values, chosen = jax.lax.top_k(x @ p["router"], K)
    h = jax.nn.relu(jnp.einsum("nd,nkdh->nkh", x, p["up"][chosen]))
    return jnp.einsum("nk,nkh,nkhd->nd", jax.nn.softmax(values), h, p["down"][chosen])


def largest(p, x):
    logits = x @ p["router"]
    one = jnp.argmax(logits, -1)
    gate = jnp.take_along_axis(jax.nn.softmax(logits), one[:, None], -1)
    return gate * jnp.einsum("nd,ndh,nhe->ne", x, p["up"][one], p["down"][one])


def imported(function):
    return nas.from_function(lambda v, x: function(v["params"], x), {"params": P}, X)


@pytest.mark.parametrize("change", [-2, 2])
@pytest.mark.parametrize("function", [masked, one_hot, scattered, gathered, largest])
def test_experts_come_and_go(function, change):
    """The result is the same function of the weights of the experts that there are now."""
    graph, variables = imported(function)
    assert "selects among its neurons" in graph.handles()["router"].coupled
    mutation = nas.delta_nout(graph, variables, {"router": change})
    assert mutation.variables["params"]["up"].shape[0] == EXPERTS + change
    now = jax.jit(nas.apply)(*mutation, X)
    np.testing.assert_allclose(now, function(mutation.variables["params"], X), atol=1e-5)
    kept = mutation.indices("router")
    np.testing.assert_array_equal(mutation.variables["params"]["down"][kept >= 0], P["down"][kept[kept >= 0]])
    assert any("selects among its neurons" in note for note in mutation.notes)
    assert "coupled" in mutation.check(X).reason


def test_there_are_at_least_as_many_experts_as_are_selected():
    graph, variables = imported(gathered)
    with pytest.raises(nas.InfeasibleError, match=r"size\('router'\) >= 2 \(top_k selects as many\)"):
        nas.delta_nout(graph, variables, {"router": nas.to(1)})
    assert nas.delta_nout(graph, variables, {"router": nas.to(2)}).graph.handles()["router"].size == 2


def test_new_experts_can_learn():
    """Of two weights in a row not both are zero."""
    graph, variables = imported(gathered)
    grown = nas.delta_nout(graph, variables, {"router": 1})
    assert np.std(grown.variables["params"]["up"][-1]) > 0.1
    assert np.std(grown.variables["params"]["down"][-1]) > 0.1


def test_a_codebook():
    def codes(p, x):
        distance = ((x[:, None] - p["codes"]) ** 2).sum(-1)
        return p["codes"][jnp.argmin(distance, -1)] @ p["out"]

    p = {"codes": rand(0, 6, 4), "out": rand(1, 4, 2)}
    graph, variables = nas.from_function(lambda v, x: codes(v["params"], x), {"params": p}, X)
    handle = next(name for name, one in graph.handles().items() if one.size == 6)
    for change in (-2, 3):
        mutation = nas.delta_nout(graph, variables, {handle: change})
        np.testing.assert_allclose(
            mutation.graph.apply(mutation.variables, X), codes(mutation.variables["params"], X), atol=1e-5
        )


@pytest.mark.parametrize(
    ("use", "reason"),
    [
        (lambda i, p: i, "a result of the model"),
        (lambda i, p: jnp.sin(i * 2.0), "computes with it"),
        (lambda i, p: p["table"][i + 1], "add computes with it|what is looked up by it is of fixed size"),
        (lambda i, p: jnp.cumsum(jnp.sort(i)), "sort computes with it"),
        (lambda i, p: jax.lax.fori_loop(0, 2, lambda _, c: c + i.sum(), 0), "reduce_sum computes with it"),
        (lambda i, p: jax.lax.scan(lambda c, j: (c + j, c), 0, i[:, 0])[1], "computes with it"),
        (lambda i, p: p["table"][i], "what is looked up by it is of fixed size"),
    ],
)
def test_positions_that_mean_more_than_a_place_fix_the_axis(use, reason):
    """A table beside is not one of the experts."""
    p = {**P, "table": rand(5, 9)}

    def function(v, x):
        values, chosen = jax.lax.top_k(x @ v["params"]["router"], K)
        return values.sum(), use(chosen, v["params"])

    graph, _ = nas.from_function(function, {"params": p}, X)
    assert "router" not in graph.handles()
    found = graph.ties.fixed[graph.ties.axes[graph.ties.leaves["params", "router"].axes[1]][0]]
    assert any(part in found for part in reason.split("|")), found


def test_one_hot_words_are_a_vocabulary():
    p = {"embed": rand(0, 11, 6), "out": rand(1, 6, 3)}
    tokens = jnp.array([[0, 3, 10]])

    def words(v, tokens):
        return jax.nn.one_hot(tokens, 11) @ v["params"]["embed"] @ v["params"]["out"]

    def bag(v, tokens):
        counts = jnp.zeros(11).at[tokens[0]].add(1.0)
        return counts @ v["params"]["embed"] @ v["params"]["out"]

    for function in (words, bag):
        graph, variables = nas.from_function(function, {"params": p}, tokens)
        more = nas.delta_nout(graph, variables, {"embed:vocabulary": 2})
        np.testing.assert_allclose(more.graph.apply(more.variables, tokens), function(variables, tokens), atol=1e-6)
        assert more.graph.apply(more.variables, jnp.array([[12, 0, 1]])).shape == function(variables, tokens).shape
