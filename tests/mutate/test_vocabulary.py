"""Vocabularies: words that are looked up by number keep their numbers, and new ones come last."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import naivenas_jax as nas

TOKENS = jnp.array([[0, 1, 2, 10]])
EVERY = jnp.arange(13)[None]


class Words(nn.Module):
    words: int = 11
    tied: bool = True

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(self.words, 6, name="embed")
        h = nn.tanh(nn.Dense(6, name="h")(embed(tokens)))
        return embed.attend(h) if self.tied else nn.Dense(self.words, name="head")(h)


class NnxWords(nnx.Module):
    def __init__(self, words, rngs):
        self.embed, self.h = nnx.Embed(words, 6, rngs=rngs), nnx.Linear(6, 6, rngs=rngs)

    def __call__(self, tokens):
        return self.embed.attend(jnp.tanh(self.h(self.embed(tokens))))


def looked_up(take):
    def words(v, tokens):
        p = v["params"]
        return jnp.tanh(take(p["table"], tokens) @ p["h"]) @ p["table"].T

    return words


def hand_written(tied=True):
    tokens = nas.input_vertex("tokens", 11, dtype="int32")
    embedded = nas.layer("embed", nn.Embed(11, 6), tokens)
    hidden = nas.invariant_vertex("tanh", nn.tanh, nas.layer("h", nn.Dense(6), embedded))
    head = nas.attend("logits", embedded, hidden) if tied else nas.layer("logits", nn.Dense(11), hidden)
    graph = nas.Graph(tokens, head)
    return graph, graph.init(jax.random.key(0), TOKENS)


def linen(tied=True):
    model = Words(tied=tied)
    return nas.from_linen(model, model.init(jax.random.key(0), TOKENS), TOKENS)


def function(take):
    v = {"params": {"table": jax.random.normal(jax.random.key(0), (11, 6)), "h": jnp.eye(6)}}
    return nas.from_function(looked_up(take), v, TOKENS)


TIED = {
    "linen": (linen, "embed:vocabulary"),
    "nnx": (lambda: nas.from_nnx(NnxWords(11, nnx.Rngs(0)), TOKENS), "embed:vocabulary"),
    "take": (lambda: function(lambda w, t: jnp.take(w, t, axis=0)), "table:vocabulary"),
    "subscript": (lambda: function(lambda w, t: w[t]), "table:vocabulary"),
    "one by one": (lambda: function(lambda w, t: jax.lax.map(lambda one: w[one], t[0])[None]), "table:vocabulary"),
    "in a loop": (lambda: function(lambda w, t: jax.lax.map(lambda one: w[one], t)), "table:vocabulary"),
    "under vmap": (lambda: function(lambda w, t: jax.vmap(jax.vmap(lambda one: w[one]))(t)), "table:vocabulary"),
    "hand-written": (hand_written, "tokens"),
}


@pytest.mark.parametrize("new", [None, "split"])
@pytest.mark.parametrize("kind", TIED)
def test_words_are_added_at_the_end(kind, new):
    make, handle = TIED[kind]
    graph, variables = make()
    more = nas.delta_nout(graph, variables, {handle: 2}, new=new)
    old, now = graph.apply(variables, TOKENS), more.graph.apply(more.variables, TOKENS)
    np.testing.assert_allclose(now[..., :11], old, atol=1e-6)
    assert more.indices(handle).tolist() == [*range(11), -1, -1]
    assert more.check(TOKENS).compared
    if new is None:  # rows of zeros: so are the logits of new words, whatever is read
        assert not now[..., 11:].any()
    every = more.graph.apply(more.variables, EVERY)
    assert every.shape == (1, 13, 13)
    assert jnp.isfinite(every).all()


@pytest.mark.parametrize("kind", TIED)
def test_of_fewer_words_the_first_stay(kind):
    make, handle = TIED[kind]
    graph, variables = make()
    fewer = nas.delta_nout(graph, variables, {handle: nas.to(4)})
    assert fewer.indices(handle).tolist() == [0, 1, 2, 3]
    old = graph.apply(variables, TOKENS[:, :3])
    np.testing.assert_allclose(fewer.graph.apply(fewer.variables, TOKENS[:, :3]), old[..., :4], atol=1e-6)
    assert fewer.check(TOKENS[:, :3]).compared
    assert "outside of 0 to 3" in fewer.check(TOKENS).reason


def test_the_network_is_the_module_with_more_words():
    """Also for numbers that count from the end."""
    graph, variables = linen()
    more = nas.delta_nout(graph, variables, {"embed:vocabulary": 2}, new={"embedding": lambda e: e.old.mean(0)})
    tokens = jnp.array([[0, -1, -13, 12, 11]])
    np.testing.assert_allclose(
        more.graph.apply(more.variables, tokens), Words(words=13).apply(more.variables, tokens), atol=1e-6
    )
    again = nas.rebuild(Words(), more)
    assert again == Words(words=13)


@pytest.mark.parametrize("make", [linen, hand_written])
def test_without_a_tie_input_and_output_are_asked_for_one_by_one(make):
    graph, variables = make(tied=False)
    words, head = ("embed:vocabulary", "head") if make is linen else ("tokens", "logits")
    more = nas.delta_nout(graph, variables, {words: 2, head: 2})
    now = more.graph.apply(more.variables, TOKENS)
    np.testing.assert_allclose(now[..., :11], graph.apply(variables, TOKENS), atol=1e-6)
    assert now.shape[-1] == 13
    alone = nas.delta_nout(graph, variables, {words: 2})
    np.testing.assert_allclose(alone.graph.apply(alone.variables, TOKENS), graph.apply(variables, TOKENS), atol=1e-6)


@pytest.mark.parametrize("make", [linen, hand_written])
def test_words_stay_unless_they_are_named(make):
    graph, variables = make()
    small = nas.resize(graph, variables, max_params=0.6, free_outputs=True)
    assert small.graph.apply(small.variables, TOKENS).shape[-1] == 11
    scores = {"embed:vocabulary" if make is linen else "tokens": np.arange(11.0) - 2}
    kept = nas.resize(graph, variables, utility=scores)
    assert kept.graph.apply(kept.variables, TOKENS).shape[-1] == 11


def test_scores_of_words_decide_and_the_result_says_so():
    graph, variables = linen()
    frequent = nas.delta_nout(
        graph, variables, {"embed:vocabulary": nas.to(3)}, utility={"embed:vocabulary": np.arange(11)}
    )
    assert frequent.indices("embed:vocabulary").tolist() == [8, 9, 10]
    assert any("renumbered" in note for note in frequent.notes)
    assert "renumbered" in frequent.check(TOKENS).reason
    old = graph.apply(variables, jnp.array([[9, 10]]))
    now = frequent.graph.apply(frequent.variables, jnp.array([[1, 2]]))
    np.testing.assert_allclose(now, old[..., 8:], atol=1e-6)


def test_a_table_before_another_one_stays():
    """Words that were added in a table of their own: only that can grow."""
    p = {"old": jax.random.normal(jax.random.key(0), (5, 3)), "more": jax.random.normal(jax.random.key(1), (2, 3))}
    tokens = jnp.array([[0, 4, 5, 6]])

    def both(v, tokens):
        return jnp.concatenate([v["params"]["old"], v["params"]["more"]])[tokens]

    graph, variables = nas.from_function(both, {"params": p}, tokens)
    assert "old:vocabulary" not in graph.handles()
    wider = nas.delta_nout(graph, variables, {"more:vocabulary": 2})
    np.testing.assert_array_equal(wider.graph.apply(wider.variables, tokens), both(variables, tokens))
    assert wider.graph.apply(wider.variables, jnp.array([[8]])).shape == (1, 1, 3)


@pytest.mark.parametrize("computed", [lambda t: t % 11, lambda t: jnp.clip(t, 0, 10), lambda t: t * 2, lambda t: t + 3])
def test_words_with_computed_numbers_stay(computed):
    """What the number of a word is computed from does not change with the vocabulary."""
    graph, _ = function(lambda w, t: w[computed(t)])
    assert not any(handle.size == 11 for handle in graph.handles().values())
    assert "it is read by index" in graph.fixed()["output"]


def test_moments_and_plans_follow():
    graph, variables = linen()
    more = nas.delta_nout(graph, variables, {"embed:vocabulary": 2})
    tx = optax.adam(1e-2)
    state = jax.tree.map(lambda a: a + jnp.ones_like(a), tx.init(variables["params"]))
    moment = more.carry(state)[0].mu["embed"]["embedding"]
    assert (moment[:11] == 1).all()
    assert not moment[11:].any()
    twice = nas.delta_nout(*more, {"embed:vocabulary": 1})
    plan = nas.Plan.from_json((twice.plan @ more.plan).to_json())
    assert plan.axes["embed:vocabulary"].source.tolist() == [*range(11), -1, -1, -1]
    graph0, variables0 = twice.undo(twice.variables)
    np.testing.assert_array_equal(graph0.apply(variables0, TOKENS), more.graph.apply(more.variables, TOKENS))


def test_a_word_that_replaces_another_is_another_word():
    """The number of a word that went means a new one, so that sentences with it cannot be compared."""
    words = nas.input_vertex("words", 4, dtype="int32")
    graph = nas.Graph(words, nas.layer("out", nn.Dense(2), nas.layer("embed", nn.Embed(4, 3), words)))
    sentence = jnp.array([[0, 1, 2, 3]])
    variables = graph.init(jax.random.key(0), sentence)
    replaced = nas.delta_nout(graph, variables, {"words": -1}, utility={"words": [2.0, 1.0, -1.0, -1.0]})
    assert replaced.indices("words").tolist() == [0, 1, -1]
    assert "renumbered" in replaced.check(sentence[:, :3]).reason


@pytest.mark.parametrize(
    "moved",
    [
        lambda tokens: jnp.tile(tokens, (1, 2)),
        lambda tokens: jnp.stack([tokens, tokens]).reshape(1, -1),
        lambda tokens: jnp.split(tokens, [1], axis=1)[1],
        lambda tokens: jax.lax.optimization_barrier((tokens, tokens + 1))[0],
    ],
    ids=["repeated", "stacked", "parted", "kept from being fused"],
)
def test_words_are_words_wherever_they_lie(moved):
    def model(variables, tokens):
        p = variables["params"]
        return jnp.tanh(p["table"][moved(tokens)]).mean(1) @ p["out"]

    table, out = (jax.random.normal(jax.random.key(seed), shape) for seed, shape in enumerate([(11, 4), (4, 3)]))
    graph, variables = nas.from_function(model, {"params": {"table": table, "out": out}}, TOKENS)
    wide = nas.delta_nout(graph, variables, {"table:vocabulary": 2})
    np.testing.assert_allclose(wide.graph.apply(wide.variables, TOKENS), graph.apply(variables, TOKENS), rtol=1e-5)
    small = nas.delta_nout(graph, variables, {"table:vocabulary": -4})
    assert small.check(TOKENS % 7).compared
    np.testing.assert_array_equal(small.variables["params"]["table"], table[:7])
