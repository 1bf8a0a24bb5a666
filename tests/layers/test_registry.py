"""Layers that the library does not know: refused with directions, and welcome once somebody said what they tie."""

from __future__ import annotations

import textwrap
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import naivenas_jax as nas
from naivenas_jax.layers import registry

X = jax.random.normal(jax.random.key(0), (5, 3))


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))


class Plain(nn.Module):
    """A dense layer of one's own."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.normal(), (x.shape[-1], self.features))
        return x @ kernel + self.param("bias", nn.initializers.normal(), (self.features,))


class PlainNnx(nnx.Module):
    def __init__(self, features: int, size: int = 6):
        self.features = features
        self.kernel = nnx.Param(jax.random.normal(jax.random.key(1), (size, features)))
        self.bias = nnx.Param(jax.random.normal(jax.random.key(2), (features,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.kernel[...] + self.bias[...]


class Scale(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.param("scale", nn.initializers.normal(), (x.shape[-1],))


class Bottleneck(nn.Module):
    """``in -> rank -> out``, twice over where ``twice`` says so."""

    rank: int
    features: int
    twice: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        down, up = nn.Dense(self.rank, name="down"), nn.Dense(self.features, name="up", use_bias=False)
        return up(jnp.tanh(nn.Dense(self.rank, name="again")(down(x)) if self.twice else down(x)))


class Softplus(nn.Module):
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.softplus(x)


def between(layer: Any, below: int = 6) -> tuple[nas.Graph, Any]:
    x = nas.input_vertex("x", 3)
    middle = nas.layer("own", layer, nas.layer("pre", nn.Dense(below), x))
    graph = nas.Graph(x, nas.layer("post", nn.Dense(2), middle))
    shapes = jax.eval_shape(graph.init, jax.random.key(0), X)
    rng = np.random.default_rng(0)
    return graph, jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)


def snippets(message: str) -> list[str]:
    """The indented code in a message."""
    parts = [part for part in message.split("\n\n") if part.startswith("    ")]
    return [textwrap.dedent(part) for part in parts]


@pytest.mark.parametrize("layer", [Plain(4), PlainNnx(4)], ids=["linen", "nnx"])
def test_the_message_shows_a_registration_that_works(layer: Any):
    with pytest.raises(nas.UnregisteredLayerError, match=f"'own'.*{type(layer).__name__}") as caught:
        between(layer)
    exec(snippets(str(caught.value))[0], {"nas": nas, type(layer).__name__: type(layer)})
    graph, variables = between(layer)
    mutation = nas.delta_nout(graph, variables, {"own": -1, "pre": -2})
    assert mutation.check(X).compared
    assert mutation.variables["params"]["own"]["kernel"].shape == (4, 3)


def test_the_message_shows_one_for_layers_that_keep_their_neurons():
    with pytest.raises(nas.UnregisteredLayerError) as caught:
        between(Scale())
    exec(snippets(str(caught.value))[1], {"nas": nas, "Scale": Scale})
    graph, variables = between(Scale())
    mutation = nas.delta_nout(graph, variables, {"pre": -2})
    assert mutation.graph.nout("own") == 4
    assert mutation.check(X).compared


def test_per_neuron_variables_start_where_the_rule_says():
    nas.register_layer(Scale, leaves={"params/scale": "in"}, new={"params/scale": 1.0})
    graph, variables = between(Scale())
    mutation = nas.delta_nout(graph, variables, {"pre": 2})
    np.testing.assert_array_equal(mutation.variables["params"]["own"]["scale"][6:], [1.0, 1.0])
    assert mutation.check(X).compared


def test_inner_axes_through_sizes():
    @nas.register_layer(Bottleneck)
    def rule(layer: Bottleneck, nin: tuple[int, ...]) -> nas.LayerRule:
        assert nin == (6,)
        again = {"params/again/kernel": "mid rank", "params/again/bias": "rank"} if layer.twice else {}
        first = "mid" if layer.twice else "rank"
        return nas.LayerRule(
            leaves={f"params/down/{k}": v for k, v in {"kernel": f"in {first}", "bias": first}.items()}
            | again
            | {"params/up/kernel": "rank out"},
            sizes={"rank": "rank", "features": "out"},
        )

    graph, variables = between(Bottleneck(4, 5))
    mutation = nas.delta_nout(graph, variables, {"own:rank": -2, "own": 1})
    assert mutation.graph["own"].op.module == Bottleneck(2, 6)
    assert mutation.check(X).compared
    kept = mutation.indices("own:rank")
    down = variables["params"]["own"]["down"]["kernel"]
    np.testing.assert_array_equal(mutation.variables["params"]["own"]["down"]["kernel"], down[:, kept])
    with pytest.raises(
        nas.GraphError, match=r"names axis 'mid', which the layer does not have. It has: in0, out, rank"
    ):
        between(Bottleneck(4, 5, twice=True))


def test_subclasses_are_others():
    class Twice(nn.Dense):
        def __call__(self, x: jax.Array) -> jax.Array:
            return jnp.concatenate([super().__call__(x)] * 2, -1)

    class TwiceNnx(nnx.Linear):
        pass

    for layer in (Twice(4), TwiceNnx(6, 4, rngs=nnx.Rngs(0))):
        with pytest.raises(nas.UnregisteredLayerError, match="Twice"):
            between(layer)


def test_a_layer_without_variables_is_not_taken_for_the_identity():
    nas.register_layer(Softplus, leaves={})
    graph, variables = between(nn.Dense(4))
    insert = nas.insert_vertex(graph, variables, "own", lambda v: nas.layer("act", Softplus(), v))
    assert not insert.check(X).compared


def test_several_inputs():
    class Bilinear(nn.Module):
        features: int

        @nn.compact
        def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
            weight = self.param("weight", nn.initializers.normal(), (a.shape[-1], b.shape[-1], self.features))
            return jnp.einsum("...i,...j,ijk->...k", a, b, weight)

    nas.register_layer(Bilinear, leaves={"params/weight": "in0 in1 out"}, sizes={"features": "out"})
    x = nas.input_vertex("x", 3)
    a, b = nas.layer("a", nn.Dense(4), x), nas.layer("b", nn.Dense(5), x)
    graph = nas.Graph(x, nas.layer("post", nn.Dense(2), nas.layer("own", Bilinear(3), a, b)))
    variables = graph.init(jax.random.key(0), X)
    mutation = nas.delta_nin(graph, variables, {"own": (-2, 1)})
    assert mutation.graph.nin("own") == (2, 6)
    assert mutation.check(X).compared


def test_a_variable_left_out_of_the_rule_is_refused():
    nas.register_layer(Plain, leaves={"params/kernel": "in out"}, sizes={"features": "out"})
    graph, variables = between(Plain(4))
    with pytest.raises(nas.VariablesError, match=r"no variable .*'bias'.*leaves="):
        nas.delta_nout(graph, variables, {"own": -1})


@pytest.mark.parametrize("layer", [Plain(4), PlainNnx(4)], ids=["linen", "nnx"])
def test_a_size_attribute_that_does_not_exist_is_named(layer: Any):
    leaves = {"params/kernel": "in out", "params/bias": "out"}
    nas.register_layer(type(layer), leaves=leaves, sizes={"out_features": "out"})
    with pytest.raises(nas.GraphError, match=r"'out_features', which the layer does not have.*: features"):
        between(layer)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nas.register_layer(Plain(3), leaves={}), "takes a layer class"),
        (lambda: nas.register_layer(Plain, nas.LayerRule(leaves={}), leaves={}), "not both"),
        (lambda: between(nn.relu), "plain function use nas.invariant_vertex"),
        (lambda: between(nn.Conv(4, [3], padding=[jnp.ones(3)])), "must be hashable"),
    ],
)
def test_bad_arguments(call: Any, message: str):
    with pytest.raises(nas.NaiveNASError, match=message):
        call()


def test_what_layers_tie_is_kept_for_each_rule():
    """Layers that are equal may have been given other rules in between, and then tie other neurons."""
    x = nas.input_vertex("x", 3)

    def changed() -> str | None:
        graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("plain", Plain(4), x)))
        variables = graph.init(jax.random.key(0), jnp.ones((1, 3)))
        return nas.delta_nout(graph, variables, {"plain": -1}).graph.handles()["plain"].coupled

    leaves = {"params/kernel": "in out", "params/bias": "out"}
    nas.register_layer(Plain, leaves=leaves, sizes={"features": "out"})
    assert changed() is None
    nas.register_layer(Plain, leaves=leaves, sizes={"features": "out"}, coupled={"out": "the rule says so"})
    assert changed() == "'plain': the rule says so"


def test_numbers_that_are_equal_are_not_taken_for_one_another():
    """What was found out about a layer of 4 neurons is not said of one of 4.0, which compares equal."""
    x = nas.input_vertex("x", 3)
    nas.layer("dense", nn.Dense(4), x)
    with pytest.raises(
        nas.GraphError, match=r"Dense was made with features=4\.0; a size is a whole number, at least 1"
    ):
        nas.layer("dense", nn.Dense(4.0), x)  # type: ignore[arg-type]  # that is the mistake
