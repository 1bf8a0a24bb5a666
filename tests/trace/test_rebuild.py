"""The user's own model back: of its own class, with the new sizes, and equal to the graph."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import naivenas_jax as nas

KEY = jax.random.key(0)
IMAGES = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
ROWS = jax.random.normal(jax.random.key(2), (3, 6))
WORDS = jax.random.normal(jax.random.key(3), (2, 5, 32))


def numbers(shape_like: Any, seed: int = 5) -> Any:
    return jax.random.normal(jax.random.key(seed), shape_like.shape)


def imported(model: nn.Module, x: Any) -> tuple[nas.Graph, Any]:
    """Variables are drawn here, since compiling an initialiser takes longer than all the rest."""
    generator = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, KEY, x)
    drawn = jax.tree.map(lambda struct: 0.3 * generator.normal(size=struct.shape).astype(struct.dtype), shapes)
    statistics = jax.tree.map(lambda array: abs(array) + 0.5, drawn.pop("batch_stats", {}))
    return nas.from_linen(model, {**drawn, **({"batch_stats": statistics} if statistics else {})}, x)


def same_outputs(call: Any, other: Any, *args: Any) -> None:
    np.testing.assert_allclose(jax.jit(call)(*args), jax.jit(other)(*args), rtol=1e-5, atol=1e-5)


def back(model: nn.Module, x: Any, request: dict[str, Any], **options: Any) -> tuple[nn.Module, nas.Mutation]:
    """A linen model imported, changed and rebuilt; its output compared here, on other numbers than rebuild did."""
    graph, variables = imported(model, x)
    mutation = nas.delta_nout(graph, variables, request, **options)
    assert mutation.plan.changed
    before = repr(model)
    new = nas.rebuild(model, mutation)
    assert repr(model) == before
    y = numbers(x)
    same_outputs(new.apply, mutation.graph.apply, mutation.variables, y)
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(new.init, KEY, y))
    assert shapes == jax.tree.map(jnp.shape, mutation.variables)
    return new, mutation


class Net(nn.Module):
    """A compact network with batch normalisation, whose fields say every size."""

    features: tuple[int, ...] = (8, 16)
    hidden: int = 12
    classes: int = 4

    @nn.compact
    def __call__(self, x, train=False):
        for n in self.features:
            x = nn.Conv(n, (3, 3))(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = x.reshape(x.shape[0], -1)
        return nn.Dense(self.classes)(nn.tanh(nn.Dense(self.hidden, name="hidden")(x)))


def test_compact_fields():
    new, mutation = back(Net(), IMAGES, {"Conv_0": -3, "Conv_1": -5, "hidden": -4})
    assert new == Net(features=(5, 11), hidden=8)
    calls = (jax.jit(partial(m.apply, train=True, mutable=["batch_stats"])) for m in (new, mutation.graph))
    got, wanted = (call(mutation.variables, IMAGES) for call in calls)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, wanted)


def test_growth():
    new, _ = back(Net(), IMAGES, {"Conv_0": 3, "hidden": 7})
    assert new == Net(features=(11, 16), hidden=19)


def test_chain_of_mutations():
    model = Net()
    graph, variables = imported(model, IMAGES)
    first = nas.delta_nout(graph, variables, {"Conv_0": -3})
    second = nas.delta_nout(*first, {"hidden": 5})
    third = nas.delta_nout(*second, {"Conv_0": 1, "Conv_1": -2})
    assert nas.rebuild(model, first) == Net(features=(5, 16))
    assert nas.rebuild(model, second) == Net(features=(5, 16), hidden=17)
    assert nas.rebuild(model, third) == Net(features=(6, 14), hidden=17)


def test_nothing_changed():
    model = Net()
    graph, variables = imported(model, IMAGES)
    assert nas.rebuild(model, nas.delta_nout(graph, variables, {})) == model


class Setup(nn.Module):
    width: int = 16
    ratio: float = 2.0

    def setup(self):
        self.first = nn.Dense(self.width)
        self.up = nn.Dense(int(self.width * self.ratio))
        self.down = nn.Dense(self.width)
        self.scale = self.param("scale", nn.initializers.ones, (self.width,))
        self.head = nn.Dense(2)

    def __call__(self, x):
        x = self.first(x) * self.scale
        return self.head(x + self.down(nn.relu(self.up(x))))


def test_setup_and_ratio():
    new, _ = back(Setup(), ROWS, {"up": -8})
    assert new == Setup(ratio=1.5)
    new, _ = back(Setup(), ROWS, {"first": -4, "up": -8})
    assert new == Setup(width=12)


@dataclasses.dataclass(frozen=True)
class Sizes:
    width: int = 32
    heads: int = 4
    mlp: int = 48


class Holder:
    """A configuration that is no dataclass."""

    def __init__(self, width: int):
        self.inner = {"width": width}


@dataclasses.dataclass(frozen=True)
class Nested:
    sizes: Sizes = dataclasses.field(default_factory=Sizes)
    depth: int = 2


class Configured(nn.Module):
    config: Nested = dataclasses.field(default_factory=Nested)

    @nn.compact
    def __call__(self, x):
        for _ in range(self.config.depth):
            y = nn.MultiHeadDotProductAttention(self.config.sizes.heads, deterministic=True)(nn.LayerNorm()(x))
            x = x + y
            y = nn.Dense(self.config.sizes.mlp)(nn.LayerNorm()(x))
            x = x + nn.Dense(self.config.sizes.width)(nn.gelu(y))
        return x


def test_nested_configuration():
    new, _ = back(Configured(), WORDS, {"Dense_0": -16, "Dense_2": -16})
    assert new == Configured(Nested(Sizes(mlp=32)))


def test_one_block_only_needs_a_derived_class():
    """The field speaks of both blocks, so it cannot say that one of them is smaller."""
    new, mutation = back(Configured(), WORDS, {"Dense_0": -16})
    assert isinstance(new, Configured)
    assert type(new) is not Configured
    assert new.config == Nested()
    assert "{'Dense_0': {'features': 32}}" in repr(new)
    outer = nn.Sequential([new])  # inside another module as well
    inside = {"params": {"layers_0": mutation.variables["params"]}}
    np.testing.assert_allclose(
        jax.jit(outer.apply)(inside, WORDS), jax.jit(new.apply)(mutation.variables, WORDS), rtol=1e-5, atol=1e-5
    )
    graph, variables = nas.from_linen(new, mutation.variables, WORDS)  # and it can be imported again
    again = nas.delta_nout(graph, variables, {"Dense_2": -8})
    newer = nas.rebuild(new, again)
    same_outputs(newer.apply, again.graph.apply, again.variables, WORDS)


def test_configuration_that_is_an_object():
    class Model(nn.Module):
        config: Any

        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(nn.relu(nn.Dense(self.config.inner["width"], name="hidden")(x)))

    holder = Holder(20)
    model = Model(holder)
    graph, variables = imported(model, ROWS)
    new = nas.rebuild(model, nas.delta_nout(graph, variables, {"hidden": -6}))
    assert (type(new), new.config.inner, holder.inner) == (Model, {"width": 14}, {"width": 20})


def test_modules_in_fields():
    layers = [nn.Dense(16), nn.relu, nn.Dense(16), nn.LayerNorm(), nn.Dense(3)]
    new, _ = back(nn.Sequential(layers), ROWS, {"layers_0": -5, "layers_2": 4})
    assert (type(new), new.layers[0].features, new.layers[2].features) == (nn.Sequential, 11, 20)


class HardCoded(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.relu(nn.Dense(24, name="hidden")(x)))


def test_hard_coded_layers_are_given_sizes():
    new, _ = back(HardCoded(), ROWS, {"hidden": -6})
    assert isinstance(new, HardCoded)
    assert "18" in repr(new)


class Embedded(nn.Module):
    @nn.compact
    def __call__(self, x):
        table = nn.Embed(11, 16)
        y = nn.OptimizedLSTMCell(12, name="cell")
        y = nn.RNN(y)(table(x))
        return nn.Dense(16)(y) @ table.embedding.T


def test_embedding_and_recurrent_cell():
    model, x = Embedded(), jnp.arange(10).reshape(2, 5)
    graph, variables = imported(model, x)
    mutation = nas.delta_nout(graph, variables, {"Embed_0": -4, "cell/hi": -3})
    new = nas.rebuild(model, mutation)
    same_outputs(new.apply, mutation.graph.apply, mutation.variables, x)


class Attention(nn.Module):
    heads: int = 4
    size: int = 8

    @nn.compact
    def __call__(self, x):
        b, t, width = x.shape
        qkv = nn.Dense(3 * self.heads * self.size, name="qkv")(x).reshape(b, t, 3, self.heads, self.size)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        return nn.Dense(width, name="out")(nn.dot_product_attention(q, k, v).reshape(b, t, -1))


@pytest.mark.parametrize("size", [8, 4])
def test_fused_heads(size):
    new, _ = back(Attention(size=size), WORDS, {"qkv:1": -1})
    assert new == Attention(heads=3, size=size)


def test_heads_of_attention():
    new, _ = back(nn.MultiHeadDotProductAttention(4, deterministic=True), WORDS, {"query:heads": -1})
    assert (type(new), new.num_heads, new.qkv_features) == (nn.MultiHeadDotProductAttention, 3, 24)


class Reshaped(nn.Module):
    @nn.compact
    def __call__(self, x):
        b, t, width = x.shape
        q, k, v = jnp.split(nn.Dense(96, name="qkv")(x).reshape(b, t, 3, 4, 8), 3, axis=2)  # heads
        y = nn.dot_product_attention(q[:, :, 0], k[:, :, 0], v[:, :, 0])
        return nn.Dense(width, name="out")(y.reshape(b, t, -1))


class Mixed(nn.Module):
    """One size is a field, the other is not."""

    hidden: int = 12

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(self.hidden, name="hidden")(x))
        return nn.Dense(2)(nn.relu(nn.Dense(20, name="fixed")(x)))


def test_what_a_field_says_is_said_by_the_field():
    new, _ = back(Mixed(), ROWS, {"hidden": -3, "fixed": -5})
    assert new.hidden == 9
    assert str(new.resized) == "{'fixed': {'features': 15}}"


def test_the_line_that_fixes_a_size_is_named():
    model = Reshaped()
    graph, variables = imported(model, WORDS)
    mutation = nas.delta_nout(graph, variables, {"qkv:1": -1})
    with pytest.raises(nas.RebuildError, match=r"4 is written there, and would have to be 3 \(qkv:1\)") as error:
        nas.rebuild(model, mutation)
    message = str(error.value)
    assert "3, 4, 8), 3, axis=2)  # heads" in message
    assert __file__ in message
    assert "keep using mutation.graph" in message
    assert ("qkv:1", 4, 3) in error.value.sizes
    ((file, number),) = error.value.lines
    assert file == __file__
    assert "# heads" in Path(file).read_text().splitlines()[number - 1]


def test_query_and_key_dimensions_change_the_scale():
    model = nn.MultiHeadDotProductAttention(4, deterministic=True)
    graph, variables = imported(model, WORDS)
    mutation = nas.delta_nout(graph, variables, {"query:features": -2})
    with pytest.raises(nas.RebuildError, match="coupled") as error:
        nas.rebuild(model, mutation)
    assert "differs" in str(error.value)
    assert "sqrt(new / old)" in str(error.value)


class OwnWeights(nn.Module):
    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.lecun_normal(), (6, 20))
        return nn.Dense(2)(nn.relu(x @ w))


def test_own_parameters_of_fixed_size():
    model = OwnWeights()
    graph, variables = imported(model, ROWS)
    handle = next(handle.name for handle in graph.handles().values() if handle.size == 20)
    with pytest.raises(nas.RebuildError, match="20 is written there, and would have to be 15") as error:
        nas.rebuild(model, nas.delta_nout(graph, variables, {handle: -5}))
    assert 'self.param("w"' in str(error.value)


class Scaled(nn.Module):
    """Computes with its size, in a way that no shape shows; the head starts at zero, which would hide it."""

    width: int = 16
    by_field: bool = True

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width, name="first")(x)
        x = x / (self.width if self.by_field else x.shape[-1])
        return nn.Dense(2, kernel_init=nn.initializers.zeros)(x)


def test_equal_shapes_are_not_enough():
    model = Scaled(by_field=False)
    graph, variables = nas.from_linen(model, model.init(KEY, ROWS), ROWS)
    with pytest.raises(nas.RebuildError, match="disturbed") as error:
        nas.rebuild(model, nas.delta_nout(graph, variables, {"first": -4}))
    assert "x = x / (self.width" in str(error.value)


def test_a_field_that_must_stay_stays():
    """Width 12 has the right shapes, and divides by the wrong number."""
    new, _ = back(Scaled(), ROWS, {"first": -4})
    assert (isinstance(new, Scaled), new.width) == (True, 16)


class Residual(nn.Module):
    width: int = 16
    stages: tuple[int, ...] = (1, 1)

    @nn.compact
    def __call__(self, x):
        for i, count in enumerate(self.stages):
            for j in range(count):
                x = ResBlock(self.width * 2**i, 2 if i and not j else 1)(x)
        return nn.Dense(3)(x.mean((1, 2)))


class ResBlock(nn.Module):
    filters: int
    strides: int

    @nn.compact
    def __call__(self, x):
        y = nn.relu(nn.GroupNorm(num_groups=None, group_size=1)(nn.Conv(self.filters, (3, 3), strides=self.strides)(x)))
        y = nn.Conv(self.filters, (3, 3))(y)
        if y.shape != x.shape:
            x = nn.Conv(self.filters, (1, 1), strides=self.strides)(x)
        return nn.relu(x + y)


def test_residual_network():
    """Inside two of the blocks; then on the residual connection of all stages, which one field says."""
    new, _ = back(Residual(), IMAGES, {"ResBlock_0/Conv_0": -4, "ResBlock_1/Conv_0": 2})
    assert isinstance(new, Residual)
    request = {"ResBlock_0/Conv_0": -4, "ResBlock_0/Conv_1": -4, "ResBlock_1/Conv_0": -8, "ResBlock_1/Conv_1": -8}
    new, _ = back(Residual(), IMAGES, request)
    assert new == Residual(width=12)


def test_what_cannot_be_rebuilt_is_said():
    model = Net()
    graph, variables = imported(model, IMAGES)
    mutation = nas.delta_nout(graph, variables, {"hidden": -1})
    with pytest.raises(nas.RebuildError, match="not the model that the graph was imported from"):
        nas.rebuild(Net(classes=5), mutation)
    with pytest.raises(nas.RebuildError, match="found function"):
        nas.rebuild(lambda x: x, mutation)
    edited = nas.insert_vertex(graph, variables, "hidden", lambda v: nas.layer("adapter", nn.Dense(12), v))
    with pytest.raises(nas.RebuildError, match="structure of the model has been changed"):
        nas.rebuild(model, edited)
    v = nas.layer("dense", nn.Dense(4), nas.input_vertex("in", 3))
    drawn = nas.Graph([v.inputs[0]], [v])
    with pytest.raises(nas.RebuildError, match="not that of one imported model"):
        nas.rebuild(model, nas.delta_nout(drawn, drawn.init(KEY, jnp.ones((1, 3))), {"dense": -1}, free_outputs=True))


# nnx


def nnx_back(model: nnx.Module, x: Any, request: dict[str, Any]) -> tuple[Any, nas.Mutation]:
    graph, variables = nas.from_nnx(model, x)
    mutation = nas.delta_nout(graph, variables, request)
    assert mutation.plan.changed
    new = nas.rebuild(model, mutation)
    assert type(new) is type(model)
    same = jax.tree.map(np.array_equal, nas.from_nnx(model, x)[1], variables)
    assert all(jax.tree.leaves(same)), "the original is untouched"
    jax.tree.map(np.testing.assert_array_equal, nas.from_nnx(new, x)[1], mutation.variables)
    y = numbers(x)
    new.eval()
    np.testing.assert_allclose(
        nnx.jit(new)(y), jax.jit(mutation.graph.apply)(mutation.variables, y), rtol=1e-5, atol=1e-5
    )
    return new, mutation


class NnxMLP(nnx.Module):
    def __init__(self, rngs, hidden=12):
        self.hidden = hidden
        self.first, self.norm = nnx.Linear(6, hidden, rngs=rngs), nnx.BatchNorm(hidden, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.second = nnx.Linear(hidden, 2, rngs=rngs)

    def __call__(self, x):
        return self.second(self.dropout(nnx.relu(self.norm(self.first(x)))))


@pytest.mark.parametrize("change", [-5, 5])
def test_nnx_mlp(change):
    new, _ = nnx_back(NnxMLP(nnx.Rngs(0)), ROWS, {"first": change})
    size = 12 + change
    assert (new.hidden, new.first.out_features, new.norm.num_features, new.second.in_features) == (size,) * 4


def test_nnx_model_is_alive():
    """It trains, with its statistics and its random numbers; splitting and merging give it back."""
    model = NnxMLP(nnx.Rngs(0))
    model(ROWS)  # advances the stream and the statistics
    new, mutation = nnx_back(model, ROWS, {"first": -5})
    assert new.dropout.rngs.count[...] == model.dropout.rngs.count[...]
    np.testing.assert_array_equal(new.norm.mean[...], mutation.variables["batch_stats"]["norm"]["mean"])
    again = nnx.merge(*nnx.split(new))
    np.testing.assert_array_equal(again(ROWS), new(ROWS))
    new.train()
    optimizer = nnx.Optimizer(new, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, gradient = nnx.value_and_grad(lambda m: (m(ROWS) ** 2).mean())(model)
        optimizer.update(model, gradient)
        return loss

    before = np.asarray(new.first.kernel[...])
    assert np.isfinite(step(new, optimizer))
    assert not np.array_equal(before, new.first.kernel[...])


class NnxCNN(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.depthwise = nnx.Conv(8, 8, (3, 3), feature_group_count=8, rngs=rngs)
        self.norm = nnx.GroupNorm(8, num_groups=8, rngs=rngs)
        self.head = nnx.Linear(8 * 64, 3, rngs=rngs)

    def __call__(self, x):
        x = self.norm(self.depthwise(nnx.relu(self.conv(x))))
        return self.head(x.reshape(x.shape[0], -1))


class NnxAttention(nnx.Module):
    def __init__(self, width, heads, rngs):
        self.num_heads, self.head_dim = heads, width // heads
        self.qkv, self.out = nnx.Linear(width, 3 * width, rngs=rngs), nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        b, t, _ = x.shape
        qkv = self.qkv(x).reshape(b, t, 3, self.num_heads, self.head_dim)
        y = nnx.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        return self.out(y.reshape(b, t, self.num_heads * self.head_dim))


class NnxBlock(nnx.Module):
    def __init__(self, width, heads, rngs):
        self.norm1, self.norm2 = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.attention = NnxAttention(width, heads, rngs)
        self.mlp_dim = 2 * width
        self.up, self.down = nnx.Linear(width, 2 * width, rngs=rngs), nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class NnxTransformer(nnx.Module):
    def __init__(self, rngs, heads=4):
        self.blocks = nnx.List([NnxBlock(32, heads, rngs) for _ in range(3)])
        self.head = nnx.Linear(32, 2, rngs=rngs)

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def test_nnx_cnn():
    new, _ = nnx_back(NnxCNN(nnx.Rngs(0)), IMAGES, {"conv": -3})
    assert (new.depthwise.feature_group_count, new.norm.num_groups, new.head.in_features) == (5, 5, 320)


@pytest.mark.parametrize("heads", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_nnx_transformer(heads):
    request = {"blocks/0/attention/qkv:1": -1, "blocks/2/attention/qkv:1": -2, "blocks/1/up": -20}
    new, _ = nnx_back(NnxTransformer(nnx.Rngs(0), heads), WORDS, request)
    size = 32 // heads
    found = [(b.attention.num_heads, b.attention.head_dim, b.mlp_dim) for b in new.blocks]
    assert found == [(heads - 1, size, 64), (heads, size, 44), (heads - 2, size, 64)]


def test_nnx_heads_of_attention():
    model = nnx.MultiHeadAttention(4, 32, rngs=nnx.Rngs(0), decode=False)
    new, _ = nnx_back(model, WORDS, {"query:heads": -1})
    assert (new.num_heads, new.num_kv_heads, new.qkv_features, new.head_dim, new.in_features) == (3, 3, 24, 8, 32)


class NnxFixed(nnx.Module):
    def __init__(self, rngs):
        self.qkv, self.out = nnx.Linear(32, 96, rngs=rngs), nnx.Linear(32, 32, rngs=rngs)

    def __call__(self, x):
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, 4, 8)  # fixed
        return self.out(nnx.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]).reshape(*x.shape[:2], -1))


def test_nnx_line_that_fixes_a_size():
    model = NnxFixed(nnx.Rngs(0))
    graph, variables = nas.from_nnx(model, WORDS)
    with pytest.raises(nas.RebuildError, match=r"4 is written there, and would have to be 3") as error:
        nas.rebuild(model, nas.delta_nout(graph, variables, {"qkv:1": -1}))
    assert "3, 4, 8)  # fixed" in str(error.value)


def test_nnx_other_model():
    graph, variables = nas.from_nnx(NnxMLP(nnx.Rngs(0)), ROWS)
    mutation = nas.delta_nout(graph, variables, {"first": -1})
    with pytest.raises(nas.RebuildError, match="not the model that the graph was imported from"):
        nas.rebuild(NnxMLP(nnx.Rngs(0), hidden=9), mutation)


def test_nnx_chain_of_mutations():
    model = NnxMLP(nnx.Rngs(0))
    first = nas.delta_nout(*nas.from_nnx(model, ROWS), {"first": -5})
    second = nas.delta_nout(*first, {"first": 2})
    assert nas.rebuild(model, second).first.out_features == 9


class Stem(nn.Module):
    hidden: int = 8

    @nn.compact
    def __call__(self, x):
        kind = nn.Conv(self.hidden, (3, 3), name="stem") if x.ndim == 4 else nn.Dense(self.hidden, name="stem")
        h = nn.relu(nn.BatchNorm(use_running_average=True, name="norm")(kind(x)))
        return nn.Dense(2, name="head")(h)


@pytest.mark.parametrize("x", [ROWS, IMAGES], ids=["rows", "images"])
@pytest.mark.parametrize("size", [2, 9])
@pytest.mark.parametrize("hidden", [8, 5])
def test_linen_model_whose_inputs_changed(x, size, hidden):
    graph, variables = imported(Stem(), x)
    mutation = nas.delta_nout(graph, variables, {"x": nas.to(size), "stem": nas.to(hidden)})
    model = nas.rebuild(Stem(), mutation)
    assert model == Stem(hidden)
    given = jax.random.normal(KEY, (*x.shape[:-1], size))
    same_outputs(model.apply, mutation.graph.apply, mutation.variables, given)


@pytest.mark.parametrize("size", [3, 9])
def test_nnx_model_whose_inputs_changed(size):
    model = NnxMLP(nnx.Rngs(0))
    mutation = nas.delta_nout(*nas.from_nnx(model, ROWS), {"x": nas.to(size)})
    small = nas.rebuild(model, mutation)
    assert small.first.in_features == size
    small.eval()
    given = jax.random.normal(KEY, (4, size))
    np.testing.assert_allclose(small(given), mutation.graph.apply(mutation.variables, given), atol=1e-5)
