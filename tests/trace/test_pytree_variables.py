"""Variables that are no nested dicts: Equinox modules, lists of weights, dataclasses of the user."""

import dataclasses
import re
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import naivenas_jax as nas

X = jax.random.normal(jax.random.key(0), (5, 4))


class Net(eqx.Module):
    stem: eqx.nn.Linear
    blocks: list
    head: eqx.nn.Linear
    activation: Any
    scale: float
    name: str = eqx.field(static=True, default="net")

    def __init__(self):
        keys = jax.random.split(jax.random.key(1), 4)
        self.stem = eqx.nn.Linear(4, 8, key=keys[0])
        self.blocks = [eqx.nn.Linear(8, 6, key=keys[1]), eqx.nn.Linear(6, 8, use_bias=False, key=keys[2])]
        self.head = eqx.nn.Linear(8, 3, key=keys[3])
        self.activation, self.scale = jax.nn.relu, 0.5

    def __call__(self, x):
        h = self.activation(self.stem(x))
        h = h + self.scale * self.blocks[1](self.activation(self.blocks[0](h)))
        return {"logits": self.head(h)}


class Layer(NamedTuple):
    w: Any
    b: Any


@flax.struct.dataclass
class Params:
    hidden: Layer
    out: Any
    gain: float = 2.0


def batched(model, x):
    return jax.vmap(model)(x)


def of_list(layers, x):
    for w, b in layers[:-1]:
        x = jnp.tanh(x @ w + b)
    return {"logits": x @ layers[-1][0] + layers[-1][1]}


def of_dataclass(params, x):
    return {"logits": jnp.tanh(x @ params.hidden.w + params.hidden.b) * params.gain @ params.out["w"]}


def of_dict(layers, x):
    return {"logits": jnp.tanh(x @ layers["net"][0]["w"]) @ layers["net"][1]["w"]}


def weights(*shape):
    return jax.random.normal(jax.random.key(sum(shape)), shape)


#: By name: the function, the variables, a handle, and how the weights that read its neurons are cut by hand.
MODELS = {
    "equinox": (
        batched,
        Net(),
        "blocks/0",
        lambda v, keep: eqx.tree_at(lambda m: m.blocks[1].weight, v, v.blocks[1].weight * keep),
    ),
    "a list": (
        of_list,
        [(weights(4, 6), weights(6)), (weights(6, 3), weights(3))],
        "0",
        lambda v, keep: [v[0], (v[1][0] * keep[:, None], v[1][1])],
    ),
    "a dataclass": (
        of_dataclass,
        Params(Layer(weights(4, 6), weights(6)), {"w": weights(6, 3)}),
        "hidden",
        lambda v, keep: v.replace(out={"w": v.out["w"] * keep[:, None]}),
    ),
    "lists in a dict": (
        of_dict,
        {"net": [{"w": weights(4, 6)}, {"w": weights(6, 3)}]},
        "0",
        lambda v, keep: {"net": [v["net"][0], {"w": v["net"][1]["w"] * keep[:, None]}]},
    ),
}


@pytest.fixture(scope="module", params=MODELS)
def net(request):
    function, variables, handle, cut = MODELS[request.param]
    graph, own = nas.from_function(function, variables, X)
    name = next(n for n, h in graph.handles().items() if h.size == 6 and n.endswith(handle))
    return function, graph, own, name, cut


def test_variables_come_back_as_they_were(net):
    function, graph, variables, handle, cut = net
    np.testing.assert_allclose(graph.apply(variables, X)["logits"], function(variables, X)["logits"], atol=1e-6)
    mutation = nas.delta_nout(graph, variables, {handle: -2})
    small, its = mutation
    assert jax.tree.structure(its) == jax.tree.structure(variables)
    keep = jnp.zeros(6).at[mutation.indices(handle)].set(1)
    found = small.apply(its, X)["logits"]
    np.testing.assert_allclose(found, function(cut(variables, keep), X)["logits"], atol=1e-5)
    np.testing.assert_allclose(found, function(its, X)["logits"], atol=1e-5)  # no size is written in these models
    assert mutation.check(X).compared
    back, old = mutation.undo(its)
    assert jax.tree.structure(old) == jax.tree.structure(variables)
    np.testing.assert_allclose(back.apply(old, X)["logits"], graph.apply(variables, X)["logits"], atol=1e-6)
    again = nas.delta_nout(small, its, {handle: 1})
    assert jax.tree.structure(again.variables) == jax.tree.structure(variables)
    assert again.check(X).compared


def test_states_of_optimizers_and_gradients(net):
    function, graph, variables, handle, _ = net
    mutation = nas.delta_nout(graph, variables, {handle: -2})
    state = optax.adam(1e-2).init(eqx.filter(variables, eqx.is_array))
    carried = mutation.carry(state)
    fresh = optax.adam(1e-2).init(eqx.filter(mutation.variables, eqx.is_array))
    assert jax.tree.structure(carried) == jax.tree.structure(fresh)
    assert jax.tree.map(jnp.shape, carried) == jax.tree.map(jnp.shape, fresh)

    @eqx.filter_jit
    @eqx.filter_grad
    def slope(v, apply):
        return (apply(v, X)["logits"] ** 2).sum()

    found = slope(mutation.variables, mutation.graph.apply), slope(mutation.variables, function)
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_scores_fits_and_masks():
    function, variables, handle, _ = MODELS["equinox"]
    graph, variables = nas.from_function(function, variables, X)
    mutation = nas.delta_nout(graph, variables, {handle: -2})
    fitted = nas.compensate(mutation, [X])
    assert isinstance(fitted.variables, Net)
    assert isinstance(nas.recalibrate(graph, variables, [X]), Net)
    assert isinstance(nas.compress(graph, variables, [X], max_params=0.8, steps=1, refine=0).variables, Net)

    def loss(apply, v, batch):
        return (apply(v, batch)["logits"] ** 2).mean() + 0 * v.stem.weight.sum()

    for score in (nas.taylor(graph, variables, loss, [X]), nas.fisher(graph, variables, loss, [X])):
        assert score[handle].shape == (6,)
    assert nas.activity(graph, variables, [X])[handle].shape == (6,)
    assert nas.magnitude(graph, variables)[handle].shape == (6,)
    masks = nas.soft_masks(mutation)
    np.testing.assert_allclose(
        graph.apply(nas.masked(variables, masks), X)["logits"],
        mutation.graph.apply(mutation.variables, X)["logits"],
        atol=1e-5,
    )
    assert "blocks/0" in str(graph.summary(variables))
    assert nas.costs(graph, variables, X).params == sum(
        x.size for x in jax.tree.leaves(eqx.filter(variables, eqx.is_array))
    )


def test_after_an_edit_the_variables_are_dicts():
    """A class has no field for the variables of a new layer."""
    function, variables, _, _ = MODELS["equinox"]
    graph, variables = nas.from_function(function, variables, X)
    edited = nas.insert_vertex(graph, variables, "output/logits", lambda v: nas.layer("more", nn.Dense(3), v))
    assert set(edited.variables["params"]) == {"stem", "blocks", "head", "more"}
    before, after = graph.apply(variables, X), edited.graph.apply(edited.variables, X)
    np.testing.assert_allclose(after["logits"], before["logits"], atol=1e-6)
    assert isinstance(edited.undo(edited.variables)[1], Net)


def test_other_constants_are_refused():
    function, variables, _, _ = MODELS["equinox"]
    graph, variables = nas.from_function(function, variables, X)
    for other in (
        eqx.tree_at(lambda m: m.activation, variables, jax.nn.gelu),
        jax.tree.map(lambda leaf: 0.25 if isinstance(leaf, float) else leaf, variables),
        [variables],
    ):
        with pytest.raises(nas.VariablesError, match="of another structure, or with other constants"):
            graph.apply(other, X)
    as_dicts = {"params": {"stem": {"weight": variables.stem.weight}}}
    with pytest.raises(nas.VariablesError):
        graph.apply(as_dicts, X)


@pytest.mark.parametrize("given", [None, 3, "no", X, [], (), [1.0], {}, lambda: 0])
def test_what_holds_no_arrays_is_refused(given):
    with pytest.raises(nas.GraphError):
        nas.from_function(lambda v, x: x, given, X)
    graph, _ = nas.from_function(*MODELS["a list"][:2], X)
    with pytest.raises(nas.VariablesError):
        nas.delta_nout(graph, given, {"0": -1})
    with pytest.raises(nas.VariablesError):
        graph.apply(given, X)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Heads:
    """A module with static fields: one is a size that its method reads, one is not."""

    query: Any
    out: Any
    num_heads: int = dataclasses.field(metadata={"static": True})
    depth: int = dataclasses.field(default=1, metadata={"static": True})

    def __call__(self, x):
        heads = (x @ self.query).reshape(len(x), self.num_heads, -1)
        return jax.nn.softmax(heads, 1).reshape(len(x), -1) @ self.out


@pytest.mark.parametrize(
    ("request_", "note"),
    [
        (
            {"query:heads": 1},
            r"computes something else, or in another way, .* the new Heads: .* \(num_heads=2, depth=1\)",
        ),
        ({"query:features": -1}, None),
        ({"out": -1}, None),
    ],
)
def test_a_class_that_does_not_follow_its_arrays_is_noted(request_, note):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
    model = Heads(weights(3, 8), weights(8, 2), 2)
    graph, variables = nas.from_function(lambda v, x: v(x), model, x)
    mutation = nas.delta_nout(graph, variables, request_)
    same = np.allclose(mutation.variables(x), mutation.graph.apply(mutation.variables, x), atol=1e-5)
    of_class = [each for each in mutation.notes if "imported function" in each]
    assert same == (not of_class)
    assert bool(of_class) == (note is not None)
    assert note is None or re.search(note, of_class[0])
    assert (mutation.variables.num_heads, mutation.variables.depth) == (2, 1)


def test_a_class_that_cannot_be_called_is_noted():
    class Checked(eqx.Module):
        weight: jax.Array
        size: int = eqx.field(static=True)

        def __call__(self, x):
            return (x @ self.weight).reshape(-1, self.size)

    graph, variables = nas.from_function(lambda v, x: v(x), Checked(weights(3, 8), 8), jnp.ones((5, 3)))
    mutation = nas.delta_nout(graph, variables, {"output": -1})
    assert any("fails (TypeError) when it is called itself" in note and "(size=8)" in note for note in mutation.notes)
    assert nas.delta_nout(graph, variables, {"x": -1}).notes == ()
