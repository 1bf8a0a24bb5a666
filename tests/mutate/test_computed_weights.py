"""Weights that are functions of variables, against the model itself with neurons masked by hand.

Masks, scores and the oracle are of the weight that meets an activation; growth and soft masks put the stored array to
where the weight is 0.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import naivenas_jax as nas


def rand(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def loss(apply, variables, x):
    return (apply(variables, x) ** 2).mean()


X = rand(1, 16, 4)


def straight_through(w):
    return w + jax.lax.stop_gradient(jnp.round(w / 0.1) * 0.1 - w)


#: The weight, and parameters besides "w" of shape (6, 3).
WEIGHTS = {
    "softplus": (lambda p: nn.softplus(p["w"]), {}),
    "shifted": (lambda p: p["w"] - 0.3, {}),
    "zero point": (lambda p: (p["w"] - p["z"]) * p["s"], {"z": rand(9, 3), "s": rand(8, 3)}),
    "gated": (lambda p: jax.nn.sigmoid(p["w"]) * p["z"], {"z": rand(9, 6, 3)}),
    "product": (lambda p: p["w"] * p["z"], {"z": rand(9, 6, 3)}),
    "square": (lambda p: p["w"] ** 2, {}),
    "rectified": (lambda p: jax.nn.relu(p["w"]), {}),
    "quantised": (lambda p: straight_through(p["w"]), {}),
    "rows of norm one": (
        lambda p: p["g"][:, None] * p["w"] / jnp.linalg.norm(p["w"], axis=1, keepdims=True),
        {"g": rand(9, 6)},
    ),
    "low rank in an exponent": (lambda p: p["w"] * jnp.exp(p["u"] @ p["v"]), {"u": rand(9, 6, 2), "v": rand(7, 2, 3)}),
    "stacked": (lambda p: jnp.stack([p["w"] - 0.3, 2 * p["w"] - 0.6])[1], {}),
    "side by side, and parted": (lambda p: jnp.split(jnp.tile(p["w"], (2, 1, 1)), 2)[1][0], {}),
    "kept from being fused": (lambda p: jax.lax.optimization_barrier((p["s"], p["w"] - 0.3))[1], {"s": rand(8, 3)}),
    "named": (lambda p: checkpoint_name(nn.softplus(p["w"]), "weight"), {}),
    "never zero": (lambda p: nn.softplus(p["w"]) + 0.1, {}),
    "standardised": (lambda p: (p["w"] - p["w"].mean(0)) / p["w"].std(0), {}),
}
COUPLED = ("never zero", "standardised")
#: Entries lie elsewhere than the variable's, so that gradients by the variable alone do not tell of the weight.
ELSEWHERE = ("stacked",)


def _at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def compared(graph, variables, x, handle, by_hand, path=None):
    """A shrink, soft masks, growth and scores of one handle; ``by_hand(variables, x, gates)`` is the model itself.

    Where ``path`` is given, new neurons that it makes have a gradient there at once.
    """
    size = graph.handles()[handle].size
    cut = nas.delta_nout(graph, variables, {handle: -2})
    alive = jnp.zeros(size).at[cut.indices(handle)].set(1)
    wanted = by_hand(variables, x, alive)
    coupled = graph.handles()[handle].coupled
    assert cut.check(x).compared == (coupled is None)
    if coupled is None:
        np.testing.assert_allclose(cut.graph.apply(cut.variables, x), wanted, atol=1e-4)
        soft = nas.masked(variables, nas.soft_masks(cut))
        np.testing.assert_allclose(graph.apply(soft, x), wanted, atol=1e-4)
        for new in ("default", "split"):
            grown = nas.delta_nout(graph, variables, {handle: 3}, new=new)
            np.testing.assert_allclose(grown.graph.apply(grown.variables, x), graph.apply(variables, x), atol=1e-4)
            if new == "default" and path is not None:  # new neurons learn
                slopes = jax.grad(lambda v: loss(grown.graph.apply, v, x))(grown.variables)  # noqa: B023
                made = _at(slopes, path)[..., size:]
                assert float(jnp.abs(made).reshape(-1, 3).max(0).min()) > 1e-3
            undone = grown.undo(grown.variables)[1]
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), undone, variables)
    gate = jax.grad(lambda gates: (by_hand(variables, x, gates) ** 2).mean())(jnp.ones(size))
    np.testing.assert_allclose(nas.taylor(graph, variables, loss, [x])[handle], np.abs(gate), rtol=1e-3, atol=1e-6)
    return gate


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_function_of_parameters(name):
    weight, others = WEIGHTS[name]

    def model(variables, x, gates=1.0):
        p = variables["params"]
        return (jnp.tanh(x @ p["a"]) * gates) @ weight(p)

    graph, variables = nas.from_function(model, {"params": {"a": rand(2, 4, 6), "w": rand(3, 6, 3), **others}}, X)
    assert (graph.handles()["a"].coupled is not None) == (name in COUPLED)
    flat_at_zero = name in ("softplus", "square", "named")
    gate = compared(graph, variables, X, "a", model, ("params", "a") if flat_at_zero else None)
    if name in ("softplus", "shifted", "gated"):
        scored = nas.magnitude(graph, variables)["w"]
        np.testing.assert_allclose(scored, np.abs(weight(variables["params"])).mean(0), rtol=1e-5)
    if name not in (*COUPLED, *ELSEWHERE):
        grads = jax.grad(lambda v: loss(graph.apply, v, X))(variables)
        average = nas.TaylorAverage.init(graph).update(variables, grads)
        np.testing.assert_allclose(average.scores()["a"], np.abs(gate), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_a_learned_query_is_repeated_for_each_example(shift):
    """As in attention that pools: what it is contracted with is a variable too, and a bias is added."""

    def model(variables, x, gates=1.0):
        p = variables["params"]
        query = (jnp.tile(p["probe"] - shift, (x.shape[0], 1, 1)) * gates) @ p["q"] + p["b"]
        return jax.nn.softmax(query @ jnp.swapaxes(x @ p["k"], -1, -2)) @ (x @ p["v"])

    params = {"probe": rand(2, 1, 1, 6), "q": rand(3, 6, 4), "b": rand(4, 4), "k": rand(5, 5, 4), "v": rand(6, 5, 3)}
    x = rand(7, 3, 8, 5)
    graph, variables = nas.from_function(model, {"params": params}, x)
    assert nas.delta_nout(graph, variables, {"q": -2}).check(x).compared
    if shift:
        compared(graph, variables, x, "q", model)


class Layers(nn.Module):
    """A registered layer with an axis of its own, which is read by positive weights."""

    features: int
    hidden: int

    @nn.compact
    def __call__(self, x):
        a = self.param("a", nn.initializers.normal(1.0), (x.shape[-1], self.hidden))
        b = self.param("b", nn.initializers.normal(1.0), (self.hidden, self.features))
        return jnp.tanh(x @ a) @ nn.softplus(b)


nas.register_layer(Layers, leaves={"params/a": "in h", "params/b": "h out"}, sizes={"features": "out", "hidden": "h"})


def test_a_registered_layer():
    x = nas.input_vertex("x", 4)
    graph = nas.Graph(x, nas.layer("layers", Layers(3, 6), x))

    def by_hand(variables, x, gates):
        p = variables["params"]["layers"]
        return (jnp.tanh(x @ p["a"]) * gates) @ nn.softplus(p["b"])

    compared(graph, graph.init(jax.random.key(0), X), X, "layers:h", by_hand)


@pytest.mark.parametrize("kind", ["absorb_vertex", "dot_general"])
def test_a_vertex_written_by_hand(kind):
    def contract(a, b, *args, **keywords):
        return jax.lax.dot_general(a, b - 0.3, *args, **keywords)

    x = nas.input_vertex("x", 4)
    hidden = nas.invariant_vertex("tanh", jnp.tanh, nas.layer("hidden", nn.Dense(6), x))
    if kind == "dot_general":
        out = nas.layer("out", nn.Dense(3, use_bias=False, dot_general=contract), hidden)
    else:
        out = nas.absorb_vertex(
            "out", lambda p, h: h @ (p["kernel"] - 0.3), hidden, nout=3, params={"kernel": "in out"}
        )
    graph = nas.Graph(x, out)

    def by_hand(variables, x, gates):
        p = variables["params"]
        h = jnp.tanh(x @ p["hidden"]["kernel"] + p["hidden"]["bias"])
        return (h * gates) @ (p["out"]["kernel"] - 0.3)

    compared(graph, graph.init(jax.random.key(0), X), X, "hidden", by_hand)


def test_in_a_loop_over_layers():
    def model(variables, x, gates=1.0):
        p = variables["params"]

        def layer(x, w):
            return x + (jnp.tanh(x @ w["a"]) * gates) @ (w["b"] - p["z"]), None

        return jax.lax.scan(layer, x, {"a": p["a"], "b": p["b"]})[0]

    variables = {"params": {"a": rand(1, 3, 4, 6), "b": rand(2, 3, 6, 4), "z": rand(3)}}
    compared(*nas.from_function(model, variables, X), X, "a", model)


def test_kernels_of_a_convolution():
    def conv(x, w):
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def model(variables, x, gates=1.0):
        p = variables["params"]
        return conv(jnp.tanh(conv(x, p["a"])) * gates, p["w"] ** 2)

    variables = {"params": {"a": rand(1, 3, 3, 3, 6), "w": rand(2, 3, 3, 6, 2)}}
    x = rand(0, 2, 5, 5, 3)
    compared(*nas.from_function(model, variables, x), x, "a", model)


@pytest.mark.parametrize(
    "read",
    [
        lambda p, h: h @ jnp.concatenate([jnp.exp(p["w"]), p["z"]], 1),  # parts side by side
        lambda p, h: h @ nn.softplus(jnp.concatenate([p["w"], p["z"]], 1)),  # off together
        lambda p, h: h @ p["w"] + h @ p["w"] ** 2,  # as it is, and by a function
    ],
)
def test_weights_of_several_parts(read):
    def model(variables, x, gates=1.0):
        return read(variables["params"], jnp.tanh(x @ variables["params"]["a"]) * gates)

    variables = {"params": {"a": rand(2, 4, 6), "w": rand(3, 6, 3), "z": rand(5, 6, 2)}}
    compared(*nas.from_function(model, variables, X), X, "a", model)


def test_quantised_weights_with_a_zero_point():
    """Whole numbers are masked, scored and grown too."""

    def model(variables, x, gates=1.0):
        p = variables["params"]
        return (jnp.tanh(x @ p["a"]) * gates) @ ((p["q"].astype(jnp.float32) - 3) * 0.05)

    variables = {"params": {"a": rand(2, 4, 6), "q": jnp.round(20 * rand(3, 6, 3)).astype(jnp.int8)}}
    compared(*nas.from_function(model, variables, X), X, "a", model)


def test_soft_masks_follow_what_is_trained():
    """Where a weight is 0 depends on a parameter: masks put entries where that is now."""

    def model(variables, x, gates=1.0):
        p = variables["params"]
        return (jnp.tanh(x @ p["a"]) * gates) @ (p["w"] - p["z"])

    variables = {"params": {"a": rand(2, 4, 6), "w": rand(3, 6, 3), "z": rand(5)}}
    graph, variables = nas.from_function(model, variables, X)
    cut = nas.delta_nout(graph, variables, {"a": -2})
    trained = jax.tree.map(lambda leaf: 1.5 * leaf + 0.1, variables)
    masks = nas.soft_masks(cut)
    found = jax.jit(lambda v, m: graph.apply(nas.masked(v, m), X))(trained, masks)
    alive = jnp.zeros(6).at[cut.indices("a")].set(1)
    np.testing.assert_allclose(found, model(trained, X, alive), atol=1e-4)
    hard = nas.Soft.whole(graph, variables).after(cut, variables).harden(trained)
    np.testing.assert_allclose(hard.graph.apply(hard.variables, X), found, atol=1e-4)


def test_neurons_that_are_not_zero_where_they_read_zero():
    """Of a sigmoid: new neurons are read by weights too small to count, which have a derivative."""

    def model(variables, x):
        return jax.nn.sigmoid(x @ variables["params"]["a"]) @ variables["params"]["w"] ** 2

    variables = {"params": {"a": rand(2, 4, 6), "w": rand(3, 6, 3)}}
    graph, variables = nas.from_function(model, variables, X)
    grown = nas.delta_nout(graph, variables, {"a": 3})
    np.testing.assert_allclose(grown.graph.apply(grown.variables, X), model(variables, X), atol=1e-4)
    slopes = jax.grad(lambda v: loss(grown.graph.apply, v, X))(grown.variables)["params"]["w"][6:]
    assert float(jnp.abs(slopes).min()) > 1e-5
    assert set(nas.activity(graph, variables, [X])) >= {"a"}  # activations that such weights read are in sight


def test_weights_that_are_their_variables_stay_so():
    """Casts, scales, masks and low-rank updates are no functions that anybody has to know of."""
    p = {"w": rand(3, 6, 3), "u": rand(9, 6, 2), "v": rand(7, 2, 3), "s": rand(8, 3)}
    for weight in (
        lambda p: p["w"].astype(jnp.bfloat16).astype(jnp.float32),
        lambda p: 2 * p["w"] * p["s"],
        lambda p: p["w"] * np.tril(np.ones((6, 3))),
        lambda p: p["w"] + p["u"] @ p["v"],
        lambda p: jnp.concatenate([p["w"], 0 * p["w"]], 1),
    ):
        graph, _ = nas.from_function(
            lambda v, x, weight=weight: x @ v["params"]["a"] @ weight(v["params"]),
            {"params": {"a": rand(2, 4, 6), **p}},
            X,
        )
        assert all(leaf.weight is None for leaf in graph.ties.leaves.values())
        assert not graph.ties.coupled


def test_all_neurons_of_an_axis_are_new():
    """Utility may want none of the old ones: no weight is left for the new ones to be like."""

    def f(v, x):
        return jnp.tanh(x @ v["params"]["a"]) @ jax.nn.softplus(v["params"]["b"])

    x = np.asarray(jax.random.normal(jax.random.key(0), (4, 3)))
    keys = jax.random.split(jax.random.key(1))
    v = {"params": {"a": jax.random.normal(keys[0], (3, 4)), "b": jax.random.normal(keys[1], (4, 2))}}
    graph, v = nas.from_function(f, v, x)
    grown = nas.delta_nout(graph, v, {"a": 2}, utility={"a": -np.ones(4)})
    assert (grown.indices("a") == -1).all()
    assert grown.check(x).compared


def test_a_kronecker_product_is_switched_off_factor_by_factor():
    params = {"k": rand(1, 3, 3), "b": rand(2, 2, 1), "a": rand(0, 4, 6)}

    def model(variables, x, gates=1.0):
        p = variables["params"]
        return (jnp.tanh(x @ p["a"]) * gates) @ jnp.kron(p["k"], p["b"])

    graph, variables = nas.from_function(model, {"params": params}, X)
    for handle in ("a:0", "a:1"):
        grown = nas.delta_nout(graph, variables, {handle: 1})
        np.testing.assert_allclose(grown.graph.apply(grown.variables, X), model(variables, X), atol=1e-5)
        cut = nas.delta_nout(graph, variables, {handle: -1})
        wanted = model(variables, X, jnp.zeros(6).at[cut.indices("a")].set(1))
        np.testing.assert_allclose(cut.graph.apply(cut.variables, X), wanted, atol=1e-5)
        np.testing.assert_allclose(graph.apply(nas.masked(variables, nas.soft_masks(cut)), X), wanted, atol=1e-5)
        assert cut.check(X).compared


def test_a_kronecker_product_that_is_added_to_a_weight():
    params = {"w": rand(4, 6, 3), "k": rand(1, 3, 3), "b": rand(2, 2, 1), "a": rand(0, 4, 6)}

    def model(variables, x, gates=1.0):
        p = variables["params"]
        return (jnp.tanh(x @ p["a"]) * gates) @ (p["w"] + jnp.kron(p["k"], p["b"]))

    graph, variables = nas.from_function(model, {"params": params}, X)
    for handle in ("a:0", "a:1"):
        cut = nas.delta_nout(graph, variables, {handle: -1})
        wanted = model(variables, X, jnp.zeros(6).at[cut.indices("a")].set(1))
        np.testing.assert_allclose(cut.graph.apply(cut.variables, X), wanted, atol=1e-5)
        grown = nas.delta_nout(graph, variables, {handle: 1})
        assert graph.handles()[handle].coupled
        np.testing.assert_allclose(grown.graph.apply(grown.variables, X), model(variables, X), atol=1e-5)


def test_a_factor_that_is_never_zero_couples_its_neurons_alone():
    params = {"k": rand(1, 3, 3), "b": rand(2, 2, 1), "a": rand(0, 4, 6)}

    def model(variables, x):
        p = variables["params"]
        return jnp.tanh(x @ p["a"]) @ jnp.kron(jax.nn.sigmoid(p["k"]) + 1, p["b"])

    graph, _ = nas.from_function(model, {"params": params}, X)
    coupled = {name: handle.coupled is not None for name, handle in graph.handles().items()}
    assert coupled["a:0"]
    assert not coupled["a:1"]


@pytest.mark.parametrize("weight", [lambda w: w @ (w.T @ w), lambda w: 1.5 * w - 0.5 * (w @ w.T) @ w])
def test_a_weight_that_is_summed_over_the_neurons_it_reads_is_coupled(weight):
    params = {"w": rand(1, 6, 3), "a": rand(0, 4, 6)}
    graph, variables = nas.from_function(
        lambda v, x: jnp.tanh(x @ v["params"]["a"]) @ weight(v["params"]["w"]), {"params": params}, X
    )
    assert "summed over" in graph.handles()["a"].coupled
    assert not nas.delta_nout(graph, variables, {"a": -2}).check(X).compared


class Between(nn.Module):
    """A computed weight between two layers, so that both of its dimensions can grow at once."""

    weight: str = "square"

    @nn.compact
    def __call__(self, x):
        make, more = WEIGHTS[self.weight]
        hidden = jnp.tanh(nn.Dense(6, name="hidden")(x))
        own = {name: self.param(name, lambda _, a=array: a) for name, array in {"w": rand(5, 6, 3), **more}.items()}
        return nn.Dense(2, name="head")(jnp.tanh(hidden @ make(own)))


@pytest.mark.parametrize("new", ["default", "split", "zeros"])
@pytest.mark.parametrize("weight", [name for name in WEIGHTS if name not in (*COUPLED, "rows of norm one")])
def test_both_sides_of_a_computed_weight_grow(weight, new):
    """What reads a new neuron counts for nothing for the copies of its readers, too."""
    graph, variables = nas.from_linen(Between(weight), Between(weight).init(jax.random.key(0), X), X)
    made = next(name for name, handle in graph.handles().items() if handle.size == 3)
    mutation = nas.delta_nout(graph, variables, {"hidden": 3, made: 2}, new=new)
    wanted = graph.apply(variables, X)
    np.testing.assert_allclose(mutation.graph.apply(mutation.variables, X), wanted, atol=3e-4)


def test_copies_read_neurons_that_replace_others_as_what_they_copy():
    """All of a layer is replaced, and the layer that reads it grows by copies."""
    x = nas.input_vertex("x", 4)
    first = nas.invariant_vertex("tanh", jnp.tanh, nas.layer("first", nn.Dense(2), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("second", nn.Dense(3), first)))
    variables = graph.init(jax.random.key(0), X)
    least = {"first": np.full(2, -1.0), "second": np.ones(3)}
    mutation = nas.delta_nout(graph, variables, {"second": 2, "first": 1}, utility=least, new="split")
    masked = jax.tree.map(jnp.copy, variables)
    masked["params"]["second"]["kernel"] = (
        variables["params"]["second"]["kernel"].at[mutation.plan.axis("first").dropped].set(0)
    )
    made = mutation.graph.apply(mutation.variables, X)
    np.testing.assert_allclose(made, graph.apply(masked, X), atol=1e-5)


def test_growth_keeps_products_of_a_weight_with_itself():
    """A new row of zeros has a derivative beside the others: started anywhere else it would count by much."""

    def compute(variables, x):
        params = variables["params"]
        return jnp.tanh(x @ params["a"]) @ jnp.kron(params["b"][:3, :3], params["b"]) @ params["o"]

    shapes = {"a": (4, 12), "b": (4, 4), "o": (12, 2)}
    params = {name: jax.random.normal(jax.random.key(i), shape) for i, (name, shape) in enumerate(shapes.items())}
    x = jax.random.normal(jax.random.key(9), (3, 4))
    graph, variables = nas.from_function(compute, {"params": params}, x)
    grown, own = nas.delta_nout(graph, variables, {"a": 3})
    assert own["params"]["b"].shape[0] == 5
    np.testing.assert_allclose(grown.apply(own, x), compute(variables, x), atol=2e-5)
