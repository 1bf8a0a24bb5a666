"""Weights that are no function of a variable's entries one by one, in their places: stacked, sliced, normalised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas
from naivenas_jax.dataflow.gate_labels import Labels
from naivenas_jax.dataflow.gated import with_gates

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 3)).astype(np.float32)
PARAMS = {"w": RNG.normal(size=(3, 4)).astype(np.float32), "u": RNG.normal(size=(4, 2)).astype(np.float32)}
READERS = {
    "stacked": lambda u: jnp.stack([u - 0.3, 2 * u]),
    "in two places": lambda u: jnp.concatenate([u, u - 0.3], 1)[None],
    "a softmax": lambda u: jax.nn.softmax(u, 1)[None],
    "a slice of a shift": lambda u: (u - 0.3)[None, :, :1],
    "a shift of a slice": lambda u: (u[:, :1] - 0.3)[None],
}


def computed(reader, params, x, gates=1.0):
    """Two layers, with gates between them."""
    return jnp.einsum("nk,gkm->gnm", jnp.tanh(x @ params["w"]) * gates, reader(params["u"])).sum((0, 2))


def imported(reader):
    return nas.from_function(lambda v, x: computed(reader, v["params"], x)[:, None], {"params": PARAMS}, X)


def loss(apply, variables, batch):
    return (apply(variables, batch) ** 2).mean()


@pytest.mark.parametrize("name", READERS)
def test_gates_lie_on_the_weight_whatever_it_is_made_of(name):
    reader = READERS[name]
    graph, variables = imported(reader)
    wanted = np.abs(jax.grad(lambda gates: (computed(reader, PARAMS, X, gates) ** 2).mean())(jnp.ones(4)))
    np.testing.assert_allclose(nas.taylor(graph, variables, loss, [X])["w"], wanted, rtol=1e-4)


@pytest.mark.parametrize("name", READERS)
def test_averages_of_gradients_are_refused_where_they_do_not_tell(name):
    graph, variables = imported(READERS[name])
    grads = jax.grad(lambda v: loss(graph.apply, v, X))(variables)
    with pytest.raises(nas.UtilityError, match=r"params/u is a part of a weight that is no .* Use nas\.taylor"):
        nas.TaylorAverage.init(graph).update(variables, grads)


#: Weights that read neurons on the first dimension, of parameters of the shapes below.
MADE = {
    "softplus": lambda p: jax.nn.softplus(p["w"]),
    "sum of a stack": lambda p: jax.nn.softplus(jnp.stack([p["w"], p["v"]]).sum(0)),
    "constant first": lambda p: jax.nn.softplus(jnp.stack([jnp.full((4, 3), 0.2), p["w"]]).sum(0)),
    "mean of a stack, last": lambda p: jnp.exp(jnp.stack([p["w"], p["v"]], -1).mean(-1)),
    "largest of a stack": lambda p: jax.nn.softplus(jnp.stack([p["w"], p["v"]], 1).max(1)),
    "transposed": lambda p: jax.nn.softplus(jnp.stack([p["w"].T, p["v"].T]).sum(0).T),
    "mixture": lambda p: jax.nn.softplus(jnp.tensordot(jax.nn.softmax(p["c"]), jnp.stack([p["w"], p["v"]]), 1)),
    "mixture, last": lambda p: jax.nn.softplus(jnp.einsum("ijk,k->ij", jnp.stack([p["w"], p["v"]], -1), p["c"])),
    "made of a product": lambda p: jnp.tanh(p["w"] @ p["m"]),
    "scaled by a product": lambda p: p["w"] * jnp.exp(p["v"] @ p["m"]),
    "mean taken off": lambda p: jax.nn.softplus(p["w"]) - jax.nn.softplus(p["w"]).mean(0),
    "low rank": lambda p: jnp.tanh(p["w"] + p["q"][:, :1] @ p["z"][:1]),
    "sliced factors": lambda p: jnp.tanh(p["w"][:, :2] @ p["m"][:2]),
    "sliced factor of a transpose": lambda p: jnp.tanh(p["t"][:2].T @ p["m"][:2]),
    "every other column": lambda p: jnp.tanh(p["r"][:, ::2] @ p["m"]),
    "split": lambda p: jnp.tanh(jnp.split(p["r"], 2, 1)[1] @ p["m"]),
    "dynamic slice": lambda p: jnp.tanh(jax.lax.dynamic_slice(p["w"], (0, 1), (4, 2)) @ p["z"]),
    "gathered": lambda p: jnp.tanh(p["w"][:, np.array([0, 2])] @ p["m"][np.array([0, 2])]),
    "taken": lambda p: jnp.tanh(jnp.take(p["w"], np.array([2, 1, 0]), axis=1) @ p["m"]),
    "padded": lambda p: jnp.tanh(jnp.pad(p["q"], ((0, 0), (0, 1))) @ p["m"]),
    "written into": lambda p: jnp.tanh(jnp.zeros((4, 3)).at[:, 1:].set(p["q"]) @ p["m"]),
    "rolled": lambda p: jnp.tanh(jnp.roll(p["w"], 1, 1) @ p["m"]),
    "turned round": lambda p: jnp.tanh(p["w"][::-1, ::-1][::-1] @ p["m"]),
    "repeated": lambda p: jnp.tanh(jnp.tile(p["q"][:, :1], (1, 3)) @ p["m"]),
    "side by side": lambda p: jnp.tanh(jnp.concatenate([p["w"][:, :1], p["v"][:, 1:]], 1) @ p["m"]),
    "products side by side": lambda p: jnp.concatenate([jnp.tanh(p["q"] @ p["z"][:, :1]), p["v"] @ p["m"][:, 1:]], 1),
    "parts in three dimensions": lambda p: jnp.tanh(jnp.einsum("nij,jk->nik", p["r"].reshape(4, 2, 3), p["m"]).sum(1)),
    "product entry by entry": lambda p: jnp.tanh((p["w"][:, :, None] * p["m"][None]).sum(1)),
    "product of products": lambda p: jnp.tanh(jnp.tanh(p["w"][:, :2] @ p["m"][:2]) @ p["n"]),
    "outer product": lambda p: jax.nn.softplus(jnp.outer(p["u"], p["b"])),
    "outer product, einsum": lambda p: jnp.tanh(jnp.einsum("i,j->ij", p["u"], p["b"])),
    "row by row": lambda p: jax.vmap(lambda row: jnp.tanh(row[:2] @ p["m"][:2]))(p["w"]),
    "a branch": lambda p: jax.lax.cond(p["c"][0] > 0, lambda w: jnp.exp(w), lambda w: w - 0.2, p["w"]),
    "largest singular value": lambda p: p["w"] / (p["c"] @ p["q"].T @ p["w"] @ p["b"]),
    "a step of power iteration": lambda p: p["w"] / jnp.sqrt(((p["w"].T @ (p["w"] @ p["b"])) ** 2).sum()),
    "norm": lambda p: p["w"] / jnp.linalg.norm(p["w"]),
    "standardised": lambda p: (p["w"] - p["w"].mean(0)) / jnp.sqrt(p["w"].var(0) + 1e-5),
    "norms of columns": lambda p: p["w"] / jnp.linalg.norm(p["w"], axis=0) * p["b"],
    "multiplied by itself": lambda p: jnp.tanh(p["w"] @ p["w"].T @ p["v"]),
    "rounded": lambda p: p["w"] + jax.lax.stop_gradient(jnp.round(p["w"] * 4) / 4 - p["w"]),
    "range of all": lambda p: jnp.round(p["w"] / jnp.abs(p["w"]).max() * 7) / 7 * jnp.abs(p["w"]).max(),
    "sorted columns": lambda p: jnp.tanh(jnp.sort(p["w"], 1) @ p["m"]),
    "sums of columns": lambda p: jnp.tanh(jnp.cumsum(p["w"], 1) @ p["m"]),
    "complex": lambda p: jnp.real(jax.lax.complex(p["w"], p["v"]) @ jax.lax.complex(p["m"], p["n"])),
    "size of complex": lambda p: jnp.abs(jax.lax.complex(p["w"], p["v"])),
}
#: "a" makes the neurons; of the others those are parameters of a network that it asks for.
SHAPES = {"a": (3, 4), "w": (4, 3), "v": (4, 3), "t": (3, 4), "r": (4, 6), "q": (4, 2), "m": (3, 3), "n": (3, 3)}
SHAPES |= {"z": (2, 3), "u": (4,), "c": (2,), "b": (3,)}


class Asked(dict):
    """A dict that knows which of its values were asked for."""

    def __getitem__(self, key):
        self.asked = {*getattr(self, "asked", ()), key}
        return super().__getitem__(key)


def drawn(made):
    every = Asked({key: RNG.normal(size=shape).astype(np.float32) * 0.7 for key, shape in SHAPES.items()})
    made(every)
    return {key: every[key] for key in sorted({*every.asked, "a"})}


def side_by_side(names):
    """A network of a part for each weight: (parameters, the network as a function of gates)."""
    params = {name.replace(",", ""): drawn(MADE[name]) for name in names}
    made = {name.replace(",", ""): MADE[name] for name in names}

    def net(p, x, gates=None):
        return sum(
            jnp.tanh(jnp.tanh(x @ own["a"] + 0.3) @ (made[name](own) * (1 if gates is None else gates[name][:, None])))
            for name, own in p.items()
        )

    return params, net


def test_the_gate_lies_behind_all_that_makes_the_weight():
    """Against gradients written by hand."""
    params, net = side_by_side(MADE)
    graph, variables = nas.from_function(lambda v, x: net(v["params"], x), {"params": params}, X)
    scores, ones = nas.taylor(graph, variables, loss, [X]), dict.fromkeys(params, jnp.ones(4))
    by_hand = jax.jit(jax.grad(lambda gates: (net(params, X, gates) ** 2).mean()))(ones)
    for name in params:
        np.testing.assert_allclose(scores[f"{name}/a"], np.abs(by_hand[name]), 2e-4, 1e-6, err_msg=name)


def test_gates_of_each_example_lie_there_too():
    params, net = side_by_side(["sliced factors", "largest singular value", "mixture"])
    graph, variables = nas.from_function(lambda v, x: net(v["params"], x), {"params": params}, X)
    slopes = jax.grad(lambda gates, x: (net(params, x, gates) ** 2).mean())
    single = jax.jit(jax.vmap(slopes, (None, 0)))(dict.fromkeys(params, jnp.ones(4)), X[:, None])
    scores = nas.fisher(graph, variables, loss, [X])
    for name in params:
        np.testing.assert_allclose(scores[f"{name}/a"], (single[name] ** 2).mean(0) / 2, 2e-4, 1e-7, err_msg=name)


def test_gates_follow_what_a_loop_carries():
    """Weights that are made round by round, of rows and of what was carried, also where neurons change places."""
    path, w, m = ("w",), RNG.normal(size=(4, 3)), RNG.normal(size=(3, 4, 3))
    x, gates = RNG.normal(size=(5, 4)), np.array([0.5, 2.0, 1.0, 0.0])
    labels = {path: [Labels(np.arange(4), (0,), frozenset([0]), frozenset([path]))]}

    def scanned(w):
        return jax.lax.scan(lambda c, row: (jnp.roll(jnp.tanh(c * row), 1, 0), jnp.exp(c)), w, m)

    def counted(w):
        return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.roll(jnp.exp(c[1]), 1, 0)), (0, w))[1]

    once, thrice = np.roll(gates, 1), np.roll(gates, 3)
    for made, factor in (
        (lambda w: scanned(w)[0], thrice),
        (lambda w: scanned(w)[1][1], once),
        (counted, thrice),
        (
            lambda w: jax.lax.cond(w.sum() > 0, jnp.exp, lambda w: jnp.roll(w, 1, 0) - 1, w),
            gates if w.sum() > 0 else once,
        ),
    ):
        got = with_gates(lambda own, x, made=made: x @ made(own[path]), {path: w}, labels, gates, [x])
        np.testing.assert_allclose(got, x @ (made(w) * factor[:, None]), rtol=2e-5)


def test_what_a_weight_makes_by_entries_that_read_elsewhere_has_no_part_in_the_score():
    """A tied embedding: of its gradient, one part is of the neurons that it makes."""
    params = {"w": RNG.normal(size=(3, 4)).astype(np.float32), "b": RNG.normal(size=4).astype(np.float32)}

    def net(p, x, gates=1.0):
        return jnp.tanh(x @ p["w"] + p["b"]) * gates @ p["w"].T

    graph, variables = nas.from_function(lambda v, x: net(v["params"], x), {"params": params}, X)
    wanted = np.abs(jax.grad(lambda gates: (net(params, X, gates) ** 2).mean())(jnp.ones(4)))
    np.testing.assert_allclose(nas.taylor(graph, variables, loss, [X])["w:1"], wanted, rtol=1e-4)
    grads = jax.grad(lambda v: loss(graph.apply, v, X))(variables)
    with pytest.raises(nas.UtilityError, match=r"params/w makes neurons by the entries that read them elsewhere"):
        nas.TaylorAverage.init(graph).update(variables, grads)


def test_words_are_looked_up_in_what_reads_features_elsewhere():
    """Features that are made by a lookup, normalised, read by a layer, and read by the same table in the end."""
    words, keys = jnp.array([[1, 2, 3], [4, 5, 6]]), jax.random.split(jax.random.key(0), 2)
    params = {"e": jax.random.normal(keys[0], (7, 6)), "w": jax.random.normal(keys[1], (6, 6))}

    def net(p, t, made=1.0, last=1.0):
        e = p["e"][t]
        return jnp.tanh((e - e.mean(-1, keepdims=True)) * made @ p["w"]) * last @ p["e"].T

    graph, variables = nas.from_function(lambda v, t: net(v["params"], t), {"params": params}, words)
    slopes = jax.grad(lambda made, last: (net(params, words, made, last) ** 2).mean(), (0, 1))(jnp.ones(6), jnp.ones(6))
    found = [own for own in nas.taylor(graph, variables, loss, [words]).values() if len(own) == 6]
    np.testing.assert_allclose(found, [np.abs(sum(slopes))], rtol=2e-4)
