"""Import: the graph computes what the model does, bit by bit, in every mode."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import freeze

import naivenas_jax as nas

X = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
KEY = jax.random.key(7)


def same(a: Any, b: Any) -> None:
    """Equal structure, shapes, dtypes and bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        np.testing.assert_array_equal(np.asarray(x, np.float64), np.asarray(y, np.float64))


class Linen(nn.Module):
    dtype: Any = None

    @nn.compact
    def __call__(self, x, train=False, scale=None):
        x = nn.Conv(8, (3, 3), dtype=self.dtype)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.5)(x))
        x = nn.Dropout(0.5, deterministic=not train)(x.mean((1, 2)))
        self.sow("intermediates", "pooled", x)
        x = nn.Dropout(0.5, deterministic=not train)(nn.Dense(16, dtype=self.dtype)(x))
        return {"logits": nn.Dense(3)(x) * (1.0 if scale is None else scale), "features": x}

    def encode(self, x):
        return self(x)["features"]


class Block(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(8, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return x + self.dropout(nnx.relu(self.norm(self.linear(x))))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.blocks = nnx.List([Block(rngs), Block(rngs)])
        self.heads = nnx.Dict(a=nnx.Linear(8, 3, rngs=rngs), b=nnx.Linear(8, 2, rngs=rngs))
        self.again = self.blocks[0].linear  # shared: one module in two places
        self.table = jnp.linspace(0.5, 1.5, 8)  # an array that is no variable
        self.options = {"unhashable": [1, 2]}

    def __call__(self, x, *, head="a"):
        x = self.conv(x).mean((1, 2)) * self.table
        for block in self.blocks:
            x = block(x)
        return self.heads[head](self.again(x))


@pytest.fixture(name="linen", params=[None, jnp.bfloat16], ids=["float32", "mixed"])
def _linen(request):
    model = Linen(dtype=request.param)
    variables = model.init(jax.random.key(0), X)
    return model, variables, *nas.from_linen(model, variables, X)


@pytest.fixture(name="nnx_model")
def _nnx():
    model = Nnx(nnx.Rngs(0))
    return model, *nas.from_nnx(model, X)


# -- linen -------------------------------------------------------------------------------------------------------------


def test_a_linen_graph_is_equal_bit_by_bit_in_evaluation(linen):
    model, variables, graph, own = linen
    same(own, {name: variables[name] for name in own})
    expected = model.apply(variables, X)
    same(graph.apply(own, X), expected)
    same(graph.apply(own, X, scale=2.0), model.apply(variables, X, scale=2.0))
    same(graph.apply(own, X, scale=X[0, 0, 0]), model.apply(variables, X, scale=X[0, 0, 0]))


def test_a_linen_graph_is_equal_bit_by_bit_in_training(linen):
    model, variables, graph, own = linen
    how = {"train": True, "mutable": ["batch_stats"], "rngs": {"dropout": KEY}}
    expected, updates = model.apply(variables, X, **how)
    outputs, own_updates = graph.apply(own, X, **how)
    same(outputs, expected)
    same(own_updates, dict(updates))


def test_gradients_are_those_of_the_model(linen):
    model, variables, graph, own = linen
    rest = {"batch_stats": own["batch_stats"]}

    def loss(apply, params):
        found, _ = apply({"params": params, **rest}, X, train=True, mutable=["batch_stats"], rngs=rngs)
        return (found["logits"].astype(jnp.float32) ** 2).sum() + found["features"].astype(jnp.float32).sum()

    rngs = {"dropout": KEY}
    gradient = jax.grad(lambda p: loss(graph.apply, p))(own["params"])
    same(gradient, jax.grad(lambda p: loss(model.apply, p))(variables["params"]))


def test_what_a_model_sows_comes_with_mutable(linen):
    model, variables, graph, own = linen
    expected, sown = model.apply(variables, X, mutable=["intermediates"])
    outputs, own_sown = graph.apply(own, X, mutable=["intermediates"])
    same(outputs, expected)
    same(own_sown, dict(sown))
    same(graph.apply(own, X, mutable="batch_stats")[1], {"batch_stats": dict(variables)["batch_stats"]})


def test_another_batch_size_than_the_one_traced(linen):
    model, variables, graph, own = linen
    more = jnp.concatenate([X, X + 1, X])
    same(graph.apply(own, more), model.apply(variables, more))


def test_frozen_dicts_methods_flags_by_position_and_shapes():
    model = Linen()
    variables = model.init(jax.random.key(0), X)
    graph, own = nas.from_linen(model, freeze(variables), jax.ShapeDtypeStruct(X.shape, X.dtype), False)
    assert jax.tree.structure(own) == jax.tree.structure(freeze(variables))
    same(graph.apply(own, X), model.apply(variables, X))
    how = {"rngs": {"dropout": KEY}, "mutable": ["batch_stats"]}
    expected, _ = model.apply(variables, X, True, **how)
    same(graph.apply(own, X, train=True, **how)[0], expected)
    encoder, own = nas.from_linen(model, variables, X, method="encode")
    same(encoder.apply(own, X), model.apply(variables, X, method="encode"))


def test_inputs_are_trees_of_arrays_integers_included():
    class Pair(nn.Module):
        @nn.compact
        def __call__(self, tokens, extra):
            x = nn.Embed(11, 8)(tokens).mean(1) + nn.Dense(8)(extra["a"]) + extra["time"][:, None]
            return nn.Dense(2)(x), nn.Dense(1)(x)

    inputs = jnp.ones((3, 5), jnp.int32), {"a": jnp.ones((3, 4)), "time": jnp.arange(3.0)}
    model = Pair()
    variables = model.init(jax.random.key(0), *inputs)
    graph, own = nas.from_linen(model, variables, *inputs)
    assert [vertex.name for vertex in graph.inputs] == ["tokens", "extra/a", "extra/time"]
    leaves = jax.tree.leaves(inputs)
    same(graph.apply(own, *inputs), model.apply(variables, *inputs))
    same(graph.apply(own, *leaves), model.apply(variables, *inputs))
    smaller = nas.delta_nout(graph, own, {"Embed_0": -3})
    assert smaller.check(*leaves).max_difference < 1e-6
    assert smaller.graph.apply(smaller.variables, *[leaf[:2] for leaf in leaves])[1].shape == (2, 1)


# -- nnx ---------------------------------------------------------------------------------------------------------------


def test_variables_of_nnx_are_grouped_by_collection(nnx_model):
    _, _, own = nnx_model
    assert set(own) == {"params", "batch_stats"}
    assert set(own["params"]["blocks"]["0"]) == {"norm"}  # its linear layer is shared, and stored where nnx finds it
    assert own["params"]["again"]["kernel"].shape == own["params"]["blocks"]["1"]["linear"]["kernel"].shape == (8, 8)


def test_an_nnx_graph_is_equal_bit_by_bit_in_evaluation(nnx_model):
    model, graph, own = nnx_model
    model.eval()
    same(graph.apply(own, X), model(X))
    same(graph.apply(own, X, head="b"), model(X, head="b"))
    more = jnp.concatenate([X, X])
    same(graph.apply(own, more), model(more))


def test_an_nnx_graph_is_equal_bit_by_bit_in_training(nnx_model):
    model, graph, own = nnx_model
    outputs, updates = graph.apply(own, X, train=True, mutable=["batch_stats"], rngs={"dropout": KEY})
    streams = [node for _, node in nnx.iter_graph(model) if isinstance(node, nnx.RngStream)]
    source = nnx.Rngs(dropout=KEY)
    for stream in streams:  # each stream of dropout is seeded as nnx.reseed does it
        stream.key.set_value(source.dropout())
        stream.count.set_value(jnp.zeros((), jnp.uint32))
    model.train()
    same(outputs, model(X))
    same(updates["batch_stats"]["blocks"]["1"]["norm"]["mean"], model.blocks[1].norm.mean[...])


def test_reseeding_gives_the_same_dropout():
    model = Nnx(nnx.Rngs(0, dropout=1))
    graph, own = nas.from_nnx(model, X)
    nnx.reseed(model, dropout=KEY)
    model.train()
    how = {"train": True, "mutable": ["batch_stats"]}
    same(graph.apply(own, X, rngs={"dropout": KEY}, **how)[0], model(X))
    other = graph.apply(own, X, rngs={"dropout": jax.random.key(8)}, **how)[0]
    assert not np.allclose(other, graph.apply(own, X, rngs={"dropout": KEY}, **how)[0])


def test_nnx_without_what_training_needs_is_refused(nnx_model):
    _, graph, own = nnx_model
    with pytest.raises(nas.GraphError, match=r"rngs=\{'dropout': key\}"):
        graph.apply(own, X, train=True, mutable=["batch_stats"])
    with pytest.raises(nas.GraphError, match=r"mutable=\['batch_stats'\]"):
        graph.apply(own, X, train=True, rngs={"dropout": KEY})


def test_an_own_train_argument_is_passed_on():
    class Own(nnx.Module):
        def __init__(self, rngs):
            self.linear, self.dropout = nnx.Linear(3, 4, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x, train: bool, rngs=None):
            return self.dropout(self.linear(x), deterministic=not train, rngs=rngs) + (1 if train else 0)

    model = Own(nnx.Rngs(0))
    x = jnp.ones((2, 3))
    graph, own = nas.from_nnx(model, x, train=False)
    same(graph.apply(own, x), model(x, False))
    expected = model(x, True, rngs=nnx.Rngs(dropout=KEY))
    same(graph.apply(own, x, train=True, rngs={"dropout": KEY}), expected)


def test_shared_nnx_modules_are_resized_together():
    class Shared(nnx.Module):
        def __init__(self, rngs):
            self.first, self.last = nnx.Linear(3, 6, rngs=rngs), nnx.Linear(6, 2, rngs=rngs)
            self.loop = nnx.Linear(6, 6, rngs=rngs)
            self.loops = nnx.List([self.loop, self.loop])

        def __call__(self, x):
            x = self.first(x)
            for loop in self.loops:
                x = jnp.tanh(loop(x))
            return self.last(x)

    model, x = Shared(nnx.Rngs(0)), jnp.ones((2, 3))
    graph, own = nas.from_nnx(model, x)
    same(graph.apply(own, x), model(x))
    mutation = nas.delta_nout(graph, own, {"first": -2})
    assert mutation.variables["params"]["loop"]["kernel"].shape == (4, 4)
    assert mutation.check(x).compared


# -- functions ---------------------------------------------------------------------------------------------------------


def test_functions_of_plain_dicts():
    def fn(variables, x, *, power=1):
        return (x @ variables["first"]["w"] @ variables["deep"]["er"]["v"]) ** power

    variables = {"first": {"w": jnp.ones((3, 5))}, "deep": {"er": {"v": jnp.ones((5, 2))}}}
    graph, own = nas.from_function(fn, variables, jnp.ones((1, 3)))
    assert graph.apply(own, jnp.ones((1, 3)), power=2).tolist() == [[225.0, 225.0]]
    mutation = nas.delta_nout(graph, own, {"first": -1})
    assert mutation.graph.apply(mutation.variables, jnp.ones((1, 3))).tolist() == [[12.0, 12.0]]


# -- graphs as values --------------------------------------------------------------------------------------------------


def test_one_compilation_for_equal_sizes_whatever_was_kept():
    model = Linen()
    variables = model.init(jax.random.key(0), X)
    graph, own = nas.from_linen(model, variables, X)
    again, _ = nas.from_linen(Linen(), variables, X)
    assert graph == again
    utility = np.arange(8.0)
    mutations = [
        nas.delta_nout(graph, own, {"Conv_0": -3}, utility={"Conv_0": utility}),
        nas.delta_nout(again, own, {"Conv_0": -3}, utility={"Conv_0": utility[::-1].copy()}),
    ]
    assert mutations[0].indices("Conv_0").tolist() != mutations[1].indices("Conv_0").tolist()
    traced = []

    def apply(graph, variables, x):
        traced.append(graph)
        return nas.apply(graph, variables, x)

    compiled = jax.jit(apply)
    for smaller, its_variables in mutations:
        compiled(smaller, its_variables, X)
    assert len(traced) == 1


def test_handles_have_the_names_of_modules():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(8, name="in")(x)
            x = x + nn.MultiHeadDotProductAttention(2, name="attn")(x, x)
            x = x @ self.param("w1", nn.initializers.ones, (8, 6)) @ self.param("w2", nn.initializers.ones, (6, 5))
            return nn.Dense(2)(x)

    model, x = Net(), jnp.ones((1, 3, 4))
    graph, _ = nas.from_linen(model, model.init(jax.random.key(0), x), x)
    handles = graph.handles()
    assert set(handles) >= {"in", "attn/query:heads", "attn/query:features", "attn/value:features", "w1", "w2"}
    assert "in" in handles["attn/out"].tied_to
    assert "attn/key:features" in handles["attn/query:features"].tied_to
    assert handles["output"].tied_to == ("Dense_0",)
    assert "model" not in handles


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g, v: g.init(KEY, X), "initialise the model itself, and import it with them"),
        (lambda g, v: g.apply(v, X, wrong=1), "takes no argument 'wrong'; its arguments are scale, train, x"),
        (lambda g, v: g.apply({"params": v["params"]}, X), r"variables\['batch_stats'\]"),
        (lambda g, v: nas.from_linen(Linen(), v), "Give example inputs"),
        (lambda g, v: nas.from_linen(Linen(), [v], X), "as module.init makes them; found list"),
        (
            lambda g, v: nas.from_function(lambda v, x: x, {"a": {"w": [1.0]}}, X),
            r"\['0'\] is float, and must be an array",
        ),
        (lambda g, v: nas.from_function(lambda v, x: x, {"w": X}, X), "must be in a collection"),
        (lambda g, v: nas.from_function(lambda v, x: None, {"a": {"w": X}}, X), "returns no arrays"),
    ],
)
def test_messages(call, message):
    variables = Linen().init(jax.random.key(0), X)
    graph, own = nas.from_linen(Linen(), variables, X)
    with pytest.raises(nas.NaiveNASError, match=message):
        call(graph, own)


def test_a_call_as_at_the_import_is_not_traced_again():
    """Neither before a change nor after it. A call of another kind is, once."""
    traces = []

    class Counted(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            traces.append(train)
            return nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(nn.Dense(4)(x)))

    x = jnp.ones((2, 3))
    model = Counted()
    graph, variables = nas.from_linen(model, model.init(KEY, x), x)
    mutation = nas.delta_nout(graph, variables, {"Dense_0": -1})
    traces.clear()
    made = graph.apply(variables, x), jax.jit(graph.apply)(variables, x), mutation.graph.apply(mutation.variables, x)
    assert traces == []
    same(made[0], model.apply(variables, x))
    same(made[1], jax.jit(model.apply)(variables, x))
    traces.clear()
    for _ in range(2):
        graph.apply(variables, x, train=True, rngs={"dropout": KEY})
    assert set(traces) == {True}
    assert len(traces) == 2  # with names and without
    graph.apply(variables, jnp.ones((5, 3)))
    assert traces[2:] == [False, False]


def test_initialisers_are_run_only_where_they_do_not_say_a_shape():
    """One that is asked for the shape that the parameter has need not be tried; Flax tries all in each call."""
    asked = []

    def ones(key, shape=(4,), dtype=None):
        asked.append(shape)
        return jnp.ones(shape)

    class Scaled(nn.Module):
        @nn.compact
        def __call__(self, x):
            return self.param("scale", ones, (3,)) * nn.LayerNorm(scale_init=ones)(x) * self.param("one", ones)[0]

    x = jnp.ones((2, 3))
    model = Scaled()
    variables = model.init(KEY, x)
    asked.clear()
    graph, own = nas.from_linen(model, variables, x)
    assert set(asked) == {(4,)}
    same(graph.apply(own, x), model.apply(variables, x))
    with pytest.raises(nas.VariablesError, match="scale"):
        nas.from_linen(model, {"params": {**variables["params"], "scale": jnp.ones(1)}}, x)
