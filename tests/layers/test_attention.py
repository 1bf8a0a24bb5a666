"""Attention: heads, query-key dimensions, value dimensions and width change apart, and the function is kept.

The reference is written here once more in numpy: it takes the parameters of the *original* network without what was
dropped, and divides by the root of the original number of query-key dimensions: it knows nothing of rescaled queries.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import naivenas_jax as nas

WIDTH, HEADS, QK, OUT = 6, 3, 4, 5
LIBRARIES = ("linen", "nnx")


def layer(
    library: str, dtype: Any = jnp.float32, heads: int = HEADS, qk: int = QK, out: int = OUT, **options: Any
) -> Any:
    kinds = {"dtype": dtype, "param_dtype": dtype, **options}
    if library == "linen":
        return nn.MultiHeadDotProductAttention(num_heads=heads, qkv_features=heads * qk, out_features=out, **kinds)
    reads = kinds.pop("reads", WIDTH)
    return nnx.MultiHeadAttention(heads, reads, heads * qk, out, rngs=nnx.Rngs(0), **kinds)


def network(attention: Any, inputs: int = 1) -> nas.Graph:
    """``x`` through one dense layer for each input of the attention."""
    x = nas.input_vertex("x", 3)
    read = [nas.layer(name, nn.Dense(WIDTH), x) for name in ("q", "k", "v")[:inputs]]
    return nas.Graph(x, nas.layer("post", nn.Dense(2), nas.layer("attn", attention, *read)))


def random_like(shapes: Any) -> Any:
    rng = np.random.default_rng(5)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 2, leaf.dtype), shapes)


X = jax.random.normal(jax.random.key(7), (2, 4, 3))


@functools.cache  # tests share what they only read
def start(library: str, dtype: str = "float32", inputs: int = 1, **options: Any) -> tuple[nas.Graph, Any]:
    graph = network(layer(library, jnp.dtype(dtype), **options), inputs)
    return graph, random_like(jax.eval_shape(graph.init, jax.random.key(0), X))


def without_dropped(mutation: nas.Mutation, params: Any, inputs: int) -> Any:
    """The parameters of the original network, less what the plan drops; no rescaling, nothing new."""

    def kept(array: Any, *axes: str | None) -> np.ndarray:
        found = np.asarray(array, np.float64)
        for dim, axis in enumerate(axes):
            if axis is not None:
                source = mutation.indices(axis)
                found = np.take(found, source[source >= 0], dim)
        return found

    reads = {"query": "q", "key": ("q", "k", "k")[inputs - 1], "value": ("q", "k", "v")[inputs - 1]}
    attn = {
        name: {
            "kernel": kept(params["attn"][name]["kernel"], read, "attn:heads", axis),
            "bias": kept(params["attn"][name]["bias"], "attn:heads", axis),
        }
        for (name, read), axis in zip(reads.items(), ("attn:qk", "attn:qk", "attn:value"), strict=True)
    }
    attn["out"] = {
        "kernel": kept(params["attn"]["out"]["kernel"], "attn:heads", "attn:value", "attn"),
        "bias": kept(params["attn"]["out"]["bias"], "attn"),
    }
    dense = {
        name: (kept(params[name]["kernel"], None, name), kept(params[name]["bias"], name)) for name in reads.values()
    }
    post = kept(params["post"]["kernel"], "attn", None), kept(params["post"]["bias"], None)
    return {"dense": dense, "attn": attn, "post": post, "reads": reads}


def reference(mutation: nas.Mutation, params: Any, inputs: int = 1, mask: Any = None) -> np.ndarray:
    """The original network without the dropped neurons."""
    kept, x = without_dropped(mutation, params, inputs), np.asarray(X, np.float64)
    values = {name: x @ kernel + bias for name, (kernel, bias) in kept["dense"].items()}
    q, k, v = (
        np.einsum("btc,chd->bthd", values[kept["reads"][name]], kept["attn"][name]["kernel"])
        + kept["attn"][name]["bias"]
        for name in ("query", "key", "value")
    )
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(params["attn"]["query"]["kernel"].shape[-1])
    scores = scores if mask is None else np.where(mask, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("bhqk,bkhd->bqhd", weights, v)
    out = np.einsum("bqhd,hdo->bqo", mixed, kept["attn"]["out"]["kernel"]) + kept["attn"]["out"]["bias"]
    return out @ kept["post"][0] + kept["post"][1]


def assert_keeps_function(mutation: nas.Mutation, variables: Any, inputs: int = 1, mask: Any = None, tol: float = 1e-5):
    keywords = {} if mask is None else {"mask": mask}
    found = np.asarray(mutation.graph.apply(mutation.variables, X, **keywords), np.float64)
    np.testing.assert_allclose(found, reference(mutation, variables["params"], inputs, mask), rtol=tol, atol=tol)


REQUESTS = {
    "fewer heads": {"attn:heads": -1},
    "more heads": {"attn:heads": 2},
    "fewer query-key dimensions": {"attn:qk": -1},
    "more query-key dimensions": {"attn:qk": 3},
    "fewer value dimensions": {"attn:value": -2},
    "more value dimensions": {"attn:value": 1},
    "narrower": {"attn": -2, "q": -1},
    "wider": {"attn": 2, "q": 3},
    "everything": {"attn:heads": -1, "attn:qk": 2, "attn:value": -1, "attn": 1, "q": -2},
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", REQUESTS)
def test_resizes(name: str, library: str):
    graph, variables = start(library)
    request = REQUESTS[name]
    mutation = nas.delta_nout(graph, variables, request)
    handles, before = mutation.graph.handles(), graph.handles()
    sizes = {axis: handle.size - before[axis].size for axis, handle in handles.items()}
    assert {axis: change for axis, change in sizes.items() if change} == request
    assert_keeps_function(mutation, variables)
    if name.startswith(("fewer", "narrower")):
        assert mutation.check(X).compared is ("attn:qk" not in request)
    fresh = jax.eval_shape(mutation.graph.init, jax.random.key(0), X)
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, mutation.variables)
    restored = mutation.undo(mutation.variables)[1]
    jax.tree.map(np.testing.assert_array_equal, restored, variables)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", ["fewer query-key dimensions", "everything"])
def test_resizes_in_bfloat16(name: str, library: str):
    graph, variables = start(library, "bfloat16")
    mutation = nas.delta_nout(graph, variables, REQUESTS[name])
    assert {leaf.dtype for leaf in jax.tree.leaves(mutation.variables["params"]["attn"])} == {jnp.dtype("bfloat16")}
    assert_keeps_function(mutation, variables, tol=0.06)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_layer_is_flaxs_own_where_it_can_be(library: str):
    """Values as wide as queries: the graph holds Flax's layer, and a fresh one computes the same with the variables."""
    graph, variables = start(library)
    mutation = nas.delta_nout(graph, variables, {"attn:heads": -1, "attn:qk": 1, "attn:value": 1, "attn": -1})
    module = mutation.graph["attn"].op.module
    fresh = layer(library, heads=HEADS - 1, qk=QK + 1, out=OUT - 1)
    params = mutation.variables["params"]
    hidden = X @ params["q"]["kernel"] + params["q"]["bias"]
    if library == "linen":
        assert type(module) is nn.MultiHeadDotProductAttention
        assert (module.num_heads, module.qkv_features, module.out_features) == (
            HEADS - 1,
            (HEADS - 1) * (QK + 1),
            OUT - 1,
        )
        out = fresh.apply({"params": params["attn"]}, hidden)
    else:
        assert module.attention_fn is fresh.attention_fn
        names = ("num_heads", "num_kv_heads", "head_dim", "qkv_features", "in_features", "out_features")
        assert [getattr(module, name) for name in names] == [getattr(fresh, name) for name in names]
        for name in ("query", "key", "value", "out"):
            for leaf, value in params["attn"][name].items():
                assert getattr(getattr(fresh, name), leaf)[...].shape == value.shape
                getattr(getattr(fresh, name), leaf)[...] = value
        out = fresh(hidden, decode=False)
    expected = out @ params["post"]["kernel"] + params["post"]["bias"]
    np.testing.assert_allclose(mutation.graph.apply(mutation.variables, X), expected, rtol=1e-5, atol=1e-5)
    apart = nas.delta_nout(*mutation, {"attn:value": -1})
    together = nas.delta_nout(*apart, {"attn:value": 1})
    assert type(together.graph["attn"].op.module) is type(module)
    assert together.graph == mutation.graph


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("inputs", [2, 3])
def test_reads_several_vertices(library: str, inputs: int):
    graph, variables = start(library, inputs=inputs)
    mask = jnp.tril(jnp.ones((4, 4), bool))[None, None]
    request = {"q": -1, "k": 2, "attn:qk": -1, "attn:value": 1} | ({"v": -3} if inputs == 3 else {})
    mutation = nas.delta_nout(graph, variables, request)
    widths = tuple(WIDTH + request[name] for name in ("q", "k", "v")[:inputs])
    assert mutation.graph.nin("attn") == widths
    assert_keeps_function(mutation, variables, inputs, mask)


@pytest.mark.parametrize("library", LIBRARIES)
def test_copies_divide_what_reads_them(library: str):
    graph, variables = start(library)
    before = graph.apply(variables, X)
    for axis in ("attn:heads", "attn:qk", "attn:value", "attn", "q"):
        mutation = nas.delta_nout(graph, variables, {axis: 2}, new="split")
        np.testing.assert_allclose(mutation.graph.apply(mutation.variables, X), before, rtol=1e-4, atol=1e-5)
        jax.tree.map(np.testing.assert_allclose, mutation.undo(mutation.variables)[1], variables)


def test_new_heads_can_learn():
    """Their value and query parameters are random, what reads them is zero."""
    graph, variables = start("linen")
    mutation = nas.delta_nout(graph, variables, {"attn:heads": 1})
    new = mutation.variables["params"]["attn"]
    assert all(np.any(new[name]["kernel"][:, -1] != 0) for name in ("query", "key", "value"))
    assert not np.any(new["out"]["kernel"][-1])
    gradients = jax.jit(jax.grad(lambda v: (mutation.graph.apply(v, X) ** 2).sum()))(mutation.variables)
    assert np.any(gradients["params"]["attn"]["out"]["kernel"][-1] != 0)


def test_the_rescaled_queries_are_part_of_the_plan():
    graph, variables = start("linen")
    mutation = nas.delta_nout(graph, variables, {"attn:qk": -3})
    path = ("params", "attn", "query", "kernel")
    assert mutation.plan.factor(path) == pytest.approx(0.5)
    assert mutation.plan.factor(("params", "attn", "key", "kernel")) == 1
    assert nas.Plan.from_json(mutation.plan.to_json()) == mutation.plan
    again = nas.delta_nout(*mutation, {"attn:qk": 3})
    assert (again.plan @ mutation.plan).factor(path) == pytest.approx(1)
    query, kept = variables["params"]["attn"]["query"]["kernel"], mutation.indices("attn:qk")
    np.testing.assert_allclose(mutation.variables["params"]["attn"]["query"]["kernel"], query[..., kept] / 2)


def test_averages_of_rescaled_parameters_are_rescaled_and_moments_are_not():
    graph, variables = start("linen")
    mutation = nas.delta_nout(graph, variables, {"attn:qk": -3})
    average = mutation.carry(variables, new="params")
    jax.tree.map(np.testing.assert_array_equal, average, mutation.variables)
    state = optax.adam(0.1).init(variables["params"])
    state = (state[0]._replace(mu=variables["params"]), *state[1:])
    query, kept = variables["params"]["attn"]["query"]["kernel"], mutation.indices("attn:qk")
    np.testing.assert_array_equal(mutation.carry(state)[0].mu["attn"]["query"]["kernel"], query[..., kept])


def test_undo_divides_what_was_trained_since():
    graph, variables = start("linen")
    mutation = nas.delta_nout(graph, variables, {"attn:qk": -3})
    trained = jax.tree.map(lambda leaf: leaf + 1, mutation.variables)
    _, restored = mutation.undo(trained)
    query, kept = variables["params"]["attn"]["query"]["kernel"], mutation.indices("attn:qk")
    np.testing.assert_allclose(
        restored["params"]["attn"]["query"]["kernel"][..., kept], query[..., kept] + 2, rtol=1e-5
    )  # twice as many dimensions of root: 1 counts as 2


@pytest.mark.parametrize("library", LIBRARIES)
def test_normalised_queries_and_keys_are_not_rescaled(library: str):
    graph, variables = start(library, normalize_qk=True)
    assert "normalised" in (graph.handles()["attn:qk"].coupled or "")
    mutation = nas.delta_nout(graph, variables, {"attn:qk": -1, "attn:value": -1, "attn:heads": -1})
    old, new, kept = variables["params"]["attn"], mutation.variables["params"]["attn"], mutation.indices("attn:qk")
    heads = mutation.indices("attn:heads")
    for name in ("query", "key"):
        np.testing.assert_array_equal(new[name]["kernel"], old[name]["kernel"][:, heads][..., kept])
        np.testing.assert_array_equal(new[f"{name}_ln"]["scale"], old[f"{name}_ln"]["scale"][kept])
    if library == "linen":
        params = mutation.variables["params"]
        fresh = layer(library, heads=HEADS - 1, qk=QK - 1, normalize_qk=True)
        out = fresh.apply({"params": new}, X @ params["q"]["kernel"] + params["q"]["bias"])
        expected = out @ params["post"]["kernel"] + params["post"]["bias"]
        np.testing.assert_allclose(mutation.graph.apply(mutation.variables, X), expected, rtol=1e-5, atol=1e-5)


def test_fewer_heads_of_keys_and_values():
    graph = network(layer("nnx", heads=4, num_kv_heads=2))
    variables = random_like(jax.eval_shape(graph.init, jax.random.key(0), X))
    sizes = {name: handle.size for name, handle in graph.handles().items() if name.startswith("attn:")}
    assert sizes == {"attn:heads": 4, "attn:kv_heads": 2, "attn:group": 2, "attn:qk": QK, "attn:value": QK}
    for request in ({"attn:kv_heads": -1}, {"attn:group": 1}, {"attn:heads": -2}):
        mutation = nas.delta_nout(graph, variables, request)
        assert mutation.check(X).compared
        module = mutation.graph["attn"].op.module
        assert module.num_heads == mutation.graph.handles()["attn:heads"].size
        assert module.key.out_features[0] == module.num_kv_heads
    apart = nas.delta_nout(graph, variables, {"attn:value": 1})  # not fused any more
    before = graph.apply(variables, X)
    np.testing.assert_allclose(apart.graph.apply(apart.variables, X), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("library", LIBRARIES)
def test_drops_in_training_only(library: str):
    graph, variables = start(library, dropout_rate=0.5)
    mutation = nas.delta_nout(graph, variables, {"attn:value": -1})
    assert_keeps_function(mutation, variables)
    rngs = {"dropout": jax.random.key(0)}
    trained = mutation.graph.apply(mutation.variables, X, train=True, rngs=rngs)
    assert not np.allclose(trained, mutation.graph.apply(mutation.variables, X, rngs=rngs))


def test_without_biases_and_sizes_left_to_flax():
    """Where sizes are those of the input, they do not follow it any more when that changes."""
    attention = nn.MultiHeadAttention(num_heads=HEADS, use_bias=False)
    graph = network(attention)
    variables = random_like(jax.eval_shape(graph.init, jax.random.key(0), X))
    mutation = nas.delta_nout(graph, variables, {"q": -2})
    module = mutation.graph["attn"].op.module
    assert (type(module), module.qkv_features, module.out_features) == (nn.MultiHeadAttention, WIDTH, WIDTH)
    assert mutation.check(X).compared


def test_what_is_refused():
    x = nas.input_vertex("x", 6)
    with pytest.raises(nas.GraphError, match="reads one input"):
        nas.layer("attn", nn.SelfAttention(num_heads=2), x, x)
    with pytest.raises(nas.GraphError, match="not divisible by 4 heads"):
        nas.layer("attn", nn.MultiHeadDotProductAttention(num_heads=4), x)
    with pytest.raises(nas.SizeMismatchError, match="in_features=4"):
        nas.layer("attn", nnx.MultiHeadAttention(2, 4, rngs=nnx.Rngs(0)), x)

    def own(query: Any, key: Any, value: Any, mask: Any = None) -> Any:
        return nn.dot_product_attention(query, key, value, mask=mask)[..., ::-1]

    graph = network(layer("linen", attention_fn=own))
    assert all("attention_fn=own" in graph.fixed()[f"attn:{axis}"] for axis in ("heads", "qk", "value"))
    assert {"attn", "q"} <= set(graph.handles())


@pytest.mark.filterwarnings("ignore:SelfAttention will be deprecated:DeprecationWarning")
def test_self_attention_of_linen():
    graph = network(nn.SelfAttention(num_heads=HEADS, qkv_features=HEADS * QK, out_features=OUT))
    variables = random_like(jax.eval_shape(graph.init, jax.random.key(0), X))
    mutation = nas.delta_nout(graph, variables, {"attn:heads": -1, "attn:qk": 1, "attn:value": 1})
    assert type(mutation.graph["attn"].op.module) is nn.SelfAttention
    assert_keeps_function(mutation, variables)
    assert_keeps_function(nas.delta_nout(graph, variables, {"attn:value": -1}), variables)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_cache_of_keys_and_values_follows(library: str):
    attention = layer(library, decode=True)
    if library == "nnx":
        attention.init_cache((2, 4, WIDTH))
    graph = network(attention)
    variables = jax.eval_shape(graph.init, jax.random.key(0), X if library == "linen" else X[:, :1])
    shapes = jax.tree.map(jnp.zeros_like, random_like(variables)["cache"])
    variables = {"params": random_like(variables["params"]), "cache": shapes}
    variables["cache"]["attn"]["cache_index"] = jnp.int32(0)
    mutation = nas.delta_nout(graph, variables, {"attn:heads": -1, "attn:qk": 1, "attn:value": -1})
    cache = mutation.variables["cache"]["attn"]
    assert cache["cached_key"].shape == (2, 4, HEADS - 1, QK + 1)
    assert cache["cached_value"].shape == (2, 4, HEADS - 1, QK - 1)
    _, updates = mutation.graph.apply(mutation.variables, X[:, :1], mutable=["cache"])
    assert int(updates["cache"]["attn"]["cache_index"]) == 1


@pytest.mark.parametrize("library", LIBRARIES)
def test_is_inserted_and_removed(library: str):
    graph, variables = start(library)
    inserted = nas.insert_vertex(
        graph, variables, "q", lambda v: nas.layer("new", layer(library, heads=2, qk=3, out=WIDTH), v)
    )
    assert inserted.graph.apply(inserted.variables, X).shape == (2, 4, 2)
    removed = nas.remove_vertex(*inserted, "new")
    assert removed.graph == graph
    jax.tree.map(np.testing.assert_array_equal, removed.variables, variables)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_rule_agrees_with_the_ties_that_tracing_finds(library: str):
    graph, variables = start(library)
    traced, _ = nas.from_function(graph.apply, variables, X)

    def runs(of: nas.Graph, path: Any, dim: int) -> Any:
        axis = of.ties.leaves[path].axes[dim]
        return axis and of.ties.axes[axis]

    places = [(path, dim) for path, leaf in graph.ties.leaves.items() for dim in range(len(leaf.axes))]
    for one in places:
        for other in places:
            assert (runs(graph, *one) == runs(graph, *other)) == (runs(traced, *one) == runs(traced, *other)), (
                one,
                other,
            )


@pytest.mark.parametrize("library", LIBRARIES)
def test_imported(library: str):
    """In a model that somebody wrote, heads, query-key and value dimensions and width are handles as well."""
    graph, variables = imported(library)
    names = {"attn:heads": "attn/query:heads", "attn:qk": "attn/query:features", "attn:value": "attn/value:features"}
    names |= {"attn": "attn/out", "q": "q"}
    assert set(names.values()) <= set(graph.handles())
    for request in ({"attn:heads": -1}, {"attn:qk": -1}, {"attn:value": -2}, {"attn": 1}, {"attn:value": 1, "q": -1}):
        mutation = nas.delta_nout(graph, variables, {names[axis]: change for axis, change in request.items()})
        sliced = Renamed(mutation, names)
        found = np.asarray(mutation.graph.apply(mutation.variables, X), np.float64)
        np.testing.assert_allclose(found, reference(sliced, variables["params"]), rtol=1e-5, atol=1e-5)


class Renamed:
    """A mutation with the handles of an imported model under the names of the hand-written one."""

    def __init__(self, mutation: nas.Mutation, names: dict[str, str]):
        self._mutation, self._names = mutation, names

    def indices(self, name: str) -> np.ndarray:
        return self._mutation.indices(self._names[name])


def imported(library: str) -> tuple[nas.Graph, Any]:
    class Linen(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.Dense(WIDTH, name="q")(x)
            x = nn.MultiHeadAttention(num_heads=HEADS, qkv_features=HEADS * QK, out_features=OUT, name="attn")(x)
            return nn.Dense(2, name="post")(x)

    class Nnx(nnx.Module):
        def __init__(self) -> None:
            self.q = nnx.Linear(3, WIDTH, rngs=nnx.Rngs(0))
            self.attn = layer("nnx", decode=False)
            self.post = nnx.Linear(OUT, 2, rngs=nnx.Rngs(0))

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.post(self.attn(self.q(x)))

    if library == "linen":
        return nas.from_linen(Linen(), random_like(Linen().init(jax.random.key(0), X)), X)
    graph, variables = nas.from_nnx(Nnx(), X)
    return graph, random_like(variables)
