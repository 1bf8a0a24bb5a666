"""Queries and keys that lose features, against the best product of so few features that numpy finds."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import naivenas_jax as nas
from naivenas_jax.dataflow.products.products import products_of
from naivenas_jax.fit.network.data import Data
from naivenas_jax.fit.network.network import Network
from naivenas_jax.fit.products.turned import in_principal_axes, turned

WORDS = jax.random.normal(jax.random.key(0), (30, 5, 12)) @ jax.random.normal(jax.random.key(1), (12, 12))
BATCHES = [WORDS[:15], WORDS[15:]]  # of one shape, which is compiled once
HEADS, SIZE = 3, 6


class Written(nn.Module):
    """Attention of one fused kernel, by einsum."""

    bias: bool = True

    @nn.compact
    def __call__(self, x):
        fused = nn.Dense(3 * HEADS * SIZE, use_bias=self.bias, name="qkv")(x)
        q, k, v = (one.reshape(*x.shape[:2], HEADS, -1) for one in jnp.split(fused, 3, -1))
        weights = nn.softmax(jnp.einsum("bnhr,bmhr->bhnm", q * SIZE**-0.5, k))
        return nn.Dense(4, name="out")(jnp.einsum("bhnm,bmhr->bnhr", weights, v).reshape(*x.shape[:2], -1))


class Grouped(nn.Module):
    """Four heads of queries for every head of keys and values."""

    repeated: bool

    @nn.compact
    def __call__(self, x):
        q = nn.DenseGeneral((2 * 4, SIZE), name="query")(x)
        k, v = (nn.DenseGeneral((2, SIZE), name=name)(x) for name in ("key", "value"))
        if self.repeated:
            logits = jnp.einsum("bnhr,bmhr->bhnm", q, jnp.repeat(k, 4, 2))
        else:
            logits = jnp.einsum("bngar,bmgr->bganm", q.reshape(*x.shape[:2], 2, 4, -1), k).reshape(len(x), 8, 5, 5)
        y = jnp.einsum("bhnm,bmhr->bnhr", nn.softmax(logits / 2), jnp.repeat(v, 4, 2))
        return nn.DenseGeneral(4, (-2, -1), name="out")(y)


def of_linen(module):
    variables = module.init(jax.random.key(2), WORDS)
    shaken = jax.tree.map(lambda a: a + 0.3 * jax.random.normal(jax.random.key(a.size), a.shape), variables)
    return nas.from_linen(module, shaken, WORDS)


def of_nnx():
    class Model(nnx.Module):
        def __init__(self):
            self.attention = nnx.MultiHeadAttention(HEADS, 12, HEADS * SIZE, decode=False, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.attention(x)

    return nas.from_nnx(Model(), WORDS)


def of_layers():
    x = nas.input_vertex("x", 12, shape=(5, 12))
    attention = nn.MultiHeadDotProductAttention(HEADS, qkv_features=HEADS * SIZE, out_features=4)
    graph = nas.Graph(x, nas.layer("attention", attention, x))
    return graph, graph.init(jax.random.key(3), WORDS)


def factors(params, names):
    """Queries and keys of all words, head by head: shape (heads, words, features)."""
    found = []
    for name in names:
        kernel, words = np.asarray(params[name]["kernel"], np.float64), np.asarray(WORDS, np.float64).reshape(-1, 12)
        made = np.einsum("nc,chr->hnr", words, kernel)
        if "bias" in params[name]:
            made += np.asarray(params[name]["bias"], np.float64)[:, None]
        found.append(made)
    return found


def best_of_rank(logits, rank):
    """The squared error of the nearest matrix of this rank."""
    return float((np.linalg.svd(logits, compute_uv=False)[rank:] ** 2).sum())


def errors(mutation, parent, per_key=1, by_root=False):
    """For each head the squared error of all words' logits by all words', and that of the best product of its rank."""
    (q, k), (q2, k2) = (
        factors(own["params"][parent] if parent else own["params"], ("query", "key"))
        for own in (mutation.variables_before, mutation.variables)
    )
    found, best = [], []
    for head in range(len(k)):
        own = slice(head * per_key, (head + 1) * per_key)
        before, after = (
            np.concatenate([*a[own]]) @ b[head].T / (b.shape[-1] ** 0.5 if by_root else 1.0)
            for a, b in ((q, k), (q2, k2))
        )
        found.append(((before - after) ** 2).sum())
        best.append(best_of_rank(before, k2.shape[-1]))
    return np.array(found), np.array(best)


CASES = {
    "linen": (lambda: of_linen(nn.MultiHeadDotProductAttention(HEADS, qkv_features=18)), "key:features", None, 1, -2),
    "no bias": (
        lambda: of_linen(nn.MultiHeadDotProductAttention(HEADS, qkv_features=18, use_bias=False)),
        "key:features",
        None,
        1,
        -5,
    ),
    "nnx": (of_nnx, "attention/key:features", "attention", 1, -3),
    "grouped": (lambda: of_linen(Grouped(repeated=False)), "key:features", None, 4, -3),
    "repeated": (lambda: of_linen(Grouped(repeated=True)), "key:features", None, 4, -4),
    "layer": (of_layers, "attention:qk", "attention", 1, -2),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_the_best_of_so_few_features(case):
    network, axis, parent, per_key, drop = CASES[case]
    graph, variables = network()
    pruned = nas.delta_nout(graph, variables, {axis: drop})
    found = nas.compensate(pruned, BATCHES)
    given = parent, per_key, case == "layer"  # whose logits are divided by the root of the size that it has
    (now, best), (before, _) = errors(found, *given), errors(pruned, *given)
    np.testing.assert_allclose(now, best, rtol=1e-3)
    assert (now < 0.7 * before).all()
    assert found.variables_before is pruned.variables_before


def distances(*mutations):
    """How far the outputs of each are from those of the original, squared."""
    original = mutations[0]
    wanted = original.before.apply(original.variables_before, WORDS)
    return [float(((m.graph.apply(m.variables, WORDS) - wanted) ** 2).mean()) for m in mutations]


def test_features_of_one_fused_kernel():
    graph, variables = of_linen(Written())
    own = np.asarray(variables["params"]["qkv"]["kernel"])
    assert own.shape == (12, 54)
    utility = {"qkv": np.tile(np.where(np.arange(6) < 2, 0.1, 1.0), 9)}
    pruned = nas.resize(graph, variables, max_params=0.8, utility=utility)
    (before, now) = distances(pruned, nas.compensate(pruned, BATCHES))
    assert now < 0.5 * before
    assert pruned.indices("qkv").size < 54


def test_heads_that_go_leave_the_others_their_features():
    graph, variables = of_linen(nn.MultiHeadDotProductAttention(HEADS, qkv_features=18))
    pruned = nas.delta_nout(graph, variables, {"key:heads": -1})
    found = nas.compensate(pruned, BATCHES)
    for name in ("query", "key", "value"):
        np.testing.assert_array_equal(
            found.variables["params"][name]["kernel"], pruned.variables["params"][name]["kernel"]
        )
    both = nas.delta_nout(graph, variables, {"key:heads": -1, "key:features": -3})
    before, now = distances(both, nas.compensate(both, BATCHES))
    assert now < before
    kept = both.indices("key:heads")
    (q, k), (q2, k2) = (
        factors(own["params"], ("query", "key")) for own in (variables, nas.compensate(both, BATCHES).variables)
    )
    for head, old in enumerate(kept):
        wanted = q[old] @ k[old].T
        error = ((wanted - q2[head] @ k2[head].T) ** 2).sum()
        np.testing.assert_allclose(error, best_of_rank(wanted, 3), rtol=1e-3)


class Bilinear(nn.Module):
    """A product of what two layers make of two words, through something or nothing."""

    left: object
    returned: bool = False

    @nn.compact
    def __call__(self, x):
        a = self.left(nn.Dense(8, name="a")(x[:, 0]))
        score = jnp.einsum("nr,mr->nm", a, nn.Dense(8, name="b")(x[:, 1]))
        return (score, a) if self.returned else score


def rotated(a):
    """Rotary embedding, of one angle for each pair of features."""
    pairs = a.reshape(*a.shape[:-1], -1, 2)
    angle = jnp.arange(a.shape[0])[:, None] * jnp.arange(1, pairs.shape[-2] + 1)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack(
        [cos * pairs[..., 0] - sin * pairs[..., 1], sin * pairs[..., 0] + cos * pairs[..., 1]], -1
    ).reshape(a.shape)


def found_products(module):
    graph, variables = of_linen(module)
    network = Network(graph, {})
    tape, uses = network.tape(variables, (WORDS,)), network.uses(variables, (WORDS,))
    return products_of(tape, variables, uses)


@pytest.mark.parametrize("left", [lambda a: a, lambda a: -a / 3, lambda a: a.reshape(30, 2, 4).reshape(30, 8)])
def test_what_is_linear_between_a_weight_and_a_product_is_looked_through(left):
    assert [one.paths for one in found_products(Bilinear(left))] == [
        (("params", "a", "kernel"), ("params", "b", "kernel"))
    ]


def normalised(a):
    return a / jnp.linalg.norm(a, axis=-1, keepdims=True)


@pytest.mark.parametrize(
    "left", [jnp.tanh, rotated, normalised, lambda a: a + jnp.arange(8.0), lambda a: a * jnp.arange(8.0)]
)
def test_what_is_not_is_left_alone(left):
    assert not found_products(Bilinear(left))


def test_columns_that_are_used_for_something_else_are_left_alone():
    assert found_products(Bilinear(lambda a: a))
    assert not found_products(Bilinear(lambda a: a, returned=True))


def test_the_turned_original_computes_the_same():
    graph, variables = of_linen(nn.MultiHeadDotProductAttention(HEADS, qkv_features=18))
    pruned = nas.delta_nout(graph, variables, {"key:features": -3})
    networks = Network(pruned.before, {}), Network(pruned.graph, {})
    own = turned(pruned, networks, Data.of(graph, BATCHES)).variables_before
    assert np.abs(own["params"]["key"]["kernel"] - variables["params"]["key"]["kernel"]).max() > 0.1
    np.testing.assert_allclose(graph.apply(own, WORDS), graph.apply(variables, WORDS), atol=1e-4)
    whole = in_principal_axes(networks[0], pruned.variables_before, Data.of(graph, BATCHES))
    np.testing.assert_allclose(graph.apply(whole, WORDS), graph.apply(variables, WORDS), atol=1e-4)
    for made in factors(whole["params"], ("query", "key")):
        sums = np.einsum("hnr,hns->hrs", made, made)
        lengths = np.sqrt(np.einsum("hrr->hr", sums))
        np.testing.assert_allclose(
            sums / lengths[:, :, None] / lengths[:, None], np.eye(6)[None].repeat(3, 0), atol=1e-3
        )
        assert (np.diff(lengths) < 0).all()


class Linear(nn.Module):
    """Two layers with nothing in between."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(12, name="out")(nn.Dense(18, name="value")(x))


@pytest.mark.parametrize(
    ("module", "axis"),
    [(nn.MultiHeadDotProductAttention(1, qkv_features=9), "value:features"), (Linear(), "value")],
    ids=["values of a head", "two layers"],
)
def test_what_one_weight_reads_of_another_is_the_best_of_so_few_neurons(module, axis):
    graph, variables = of_linen(module)
    pruned = nas.delta_nout(graph, variables, {axis: -6 if axis == "value:features" else -15})
    found = nas.compensate(pruned, BATCHES, ridge=1e-9)
    wanted = np.asarray(graph.apply(variables, WORDS), np.float64).reshape(-1, 12)
    best = best_of_rank(wanted - wanted.mean(0), 3)
    before, now = (error * wanted.size for error in distances(pruned, found))
    np.testing.assert_allclose(now, best, rtol=1e-2)
    assert now < 0.7 * before


def test_values_of_several_heads_are_not_mixed():
    graph, variables = of_linen(nn.MultiHeadDotProductAttention(HEADS, qkv_features=18))
    network = Network(graph, {})
    tape = network.tape(variables, (WORDS,))
    found = products_of(tape, variables, network.uses(variables, (WORDS,)))
    assert [tuple(path[1] for path in one.paths) for one in found] == [("query", "key"), ("value", "out")]
    assert [one.factors[0].entries[one.paths[0]].shape for one in found] == [(HEADS, 12, 6)] * 2
    pruned = nas.delta_nout(graph, variables, {"value:features": -3})
    own = turned(pruned, (network, Network(pruned.graph, {})), Data.of(graph, BATCHES)).variables_before
    assert np.abs(own["params"]["value"]["kernel"] - variables["params"]["value"]["kernel"]).max() > 0.1
    np.testing.assert_allclose(graph.apply(own, WORDS), graph.apply(variables, WORDS), atol=1e-4)


def test_compress_sees_features_that_others_make_up_for():
    """Queries and keys have six features in a head, of which any four are combinations of the other two."""
    graph, variables = of_linen(nn.MultiHeadDotProductAttention(HEADS, qkv_features=18))
    params = variables["params"]
    for name in ("query", "key"):
        mixing = jax.random.normal(jax.random.key(len(name)), (2, 6))
        for entries in params[name]:
            params[name][entries] = params[name][entries][..., :2] @ mixing
    found = nas.compress(graph, variables, BATCHES, max_params=0.7, steps=1, refine=0)
    assert found.graph.nout("key:features") <= 3
    (now,) = distances(found)
    assert now < 1e-3 * float((graph.apply(variables, WORDS) ** 2).mean())
