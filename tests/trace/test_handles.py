"""Handles of imported models: names, sizes, what is tied to them, and whether being zero is being gone."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn, nnx

import naivenas_jax as nas
from naivenas_jax.mutate.result.oracle import masked_outputs

X = jax.random.normal(jax.random.key(3), (2, 5, 4))
NORMALISED, CONTRACTED = "reduce_", "two activations are contracted over it"


def _attend(q: Any, k: Any, v: Any) -> Any:
    scores = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k) / 2.0)
    return jnp.einsum("bhts,bshd->bthd", scores, v).reshape(*q.shape[:2], -1)


class Model(nn.Module):
    """One small model for each of its methods, which all end in a layer called head."""

    kind: str

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(2, name="head")(getattr(self, self.kind)(x))

    def dense(self, x: Any) -> Any:
        return nn.relu(nn.Dense(6, name="hidden")(x))

    def convolution(self, x: Any) -> Any:
        return nn.relu(nn.Conv(6, (3,), name="hidden")(x)).mean(1)

    def batch_norm(self, x: Any) -> Any:
        return nn.relu(nn.BatchNorm(use_running_average=True)(nn.Dense(6, name="hidden")(x)))

    def layer_norm(self, x: Any) -> Any:
        return nn.relu(nn.LayerNorm()(nn.Dense(6, name="hidden")(x)))

    def rms_norm(self, x: Any) -> Any:
        return nn.relu(nn.RMSNorm()(nn.Dense(6, name="hidden")(x)))

    def instance_norm(self, x: Any) -> Any:
        return nn.relu(nn.InstanceNorm()(nn.Dense(6, name="hidden")(x)))

    def attention(self, x: Any) -> Any:
        x = nn.Dense(6, name="stem")(x)
        return x + nn.MultiHeadDotProductAttention(3, name="attn")(x, x)

    def fused(self, x: Any) -> Any:
        qkv = nn.Dense(3 * 8, name="qkv")(x).reshape(*x.shape[:2], 3, 2, 4)
        return _attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])

    def grouped_query(self, x: Any) -> Any:
        q, k, v = (nn.Dense(4 * heads, name=name)(x) for name, heads in (("q", 4), ("k", 2), ("v", 2)))
        q, k, v = (h.reshape(*h.shape[:2], -1, 4) for h in (q, k, v))
        return _attend(q, jnp.repeat(k, 2, 2), jnp.repeat(v, 2, 2))

    def lstm(self, x: Any) -> Any:
        return nn.RNN(nn.LSTMCell(5, name="cell"))(x)

    def gated(self, x: Any) -> Any:
        return nn.gelu(nn.Dense(6, name="gate")(x)) * nn.Dense(6, name="up")(x)

    def squeeze_excite(self, x: Any) -> Any:
        h = nn.Conv(6, (3,), name="conv")(x)
        s = nn.relu(nn.Dense(3, name="squeeze")(h.mean(1)))
        return (h * nn.sigmoid(nn.Dense(6, name="expand")(s))[:, None]).mean(1)

    def experts(self, x: Any) -> Any:
        gate = nn.softmax(nn.Dense(3, name="router")(x))
        wi, wo = (self.param(n, nn.initializers.normal(), s) for n, s in (("wi", (3, 4, 6)), ("wo", (3, 6, 5))))
        y = jnp.einsum("betf,efd->betd", nn.relu(jnp.einsum("btd,edf->betf", x, wi)), wo)
        return jnp.einsum("betd,bte->btd", y, gate)


#: For each model its handles: size, what is tied, and a piece of the reason why it is coupled.
Expected = dict[str, tuple[int, set[str], str | None]]
_GATES = {f"cell/{a}{b}" for a in "hi" for b in "figo"}
HANDLES: dict[str, Expected] = {
    **{kind: {"hidden": (6, set(), None)} for kind in ("dense", "convolution", "batch_norm", "instance_norm")},
    **{kind: {"hidden": (6, set(), NORMALISED)} for kind in ("layer_norm", "rms_norm")},
    "attention": {
        "stem": (6, {"attn/out"}, None),
        "attn/out": (6, {"stem"}, None),
        **{
            f"attn/{a}:heads": (3, {f"attn/{b}:heads" for b in ("query", "key", "value") if b != a}, None)
            for a in ("query", "key", "value")
        },
        "attn/query:features": (2, {"attn/key:features"}, CONTRACTED),
        "attn/key:features": (2, {"attn/query:features"}, CONTRACTED),
        "attn/value:features": (2, set(), None),
    },
    "fused": {
        "qkv": (24, {"qkv:0", "qkv:1", "qkv:2"}, CONTRACTED),
        "qkv:1": (2, {"qkv"}, None),
        "qkv:2": (4, {"qkv"}, CONTRACTED),
    },
    "grouped_query": {
        "q": (16, {"k", "v", "q:heads", "k:heads", "v:heads", "q:features", "k:features"}, CONTRACTED),
        "k": (8, {"q", "v", "q:heads", "k:heads", "v:heads", "q:features", "k:features"}, CONTRACTED),
        "v": (8, {"q", "k", "q:heads", "k:heads", "v:heads", "v:features"}, None),
        "q:heads": (4, {"q", "k", "v", "k:heads", "v:heads"}, None),
        "k:heads": (2, {"q", "k", "v", "q:heads", "v:heads"}, None),
        "v:heads": (2, {"q", "k", "v", "q:heads", "k:heads"}, None),
        "q:features": (4, {"q", "k", "k:features"}, CONTRACTED),
        "k:features": (4, {"q", "k", "q:features"}, CONTRACTED),
        "v:features": (4, {"v"}, None),
    },
    "lstm": {gate: (5, _GATES - {gate}, None) for gate in _GATES},
    "gated": {"gate": (6, {"up"}, None), "up": (6, {"gate"}, None)},
    "squeeze_excite": {
        "conv": (6, {"expand"}, None),
        "expand": (6, {"conv"}, None),
        "squeeze": (3, set(), None),
    },
    "experts": {
        "router": (3, {"wi:0", "wo:0"}, NORMALISED),
        "wi:0": (3, {"router", "wo:0"}, NORMALISED),
        "wo:0": (3, {"router", "wi:0"}, NORMALISED),
        "wi:1": (6, set(), None),
        "wo:1": (5, set(), None),
    },
}


@cache
def _imported(kind: str) -> tuple[Any, Any]:
    model, rng = Model(kind), np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), X)
    # nothing is zero, and no variance is negative
    variables = jax.tree.map(lambda a: jnp.asarray(rng.uniform(0.2, 1.0, a.shape) - 0.3 * (a.ndim > 1)), shapes)
    return nas.from_linen(model, variables, X)


@pytest.mark.parametrize("kind", HANDLES)
def test_names_sizes_ties_and_coupling(kind: str) -> None:
    graph, _ = _imported(kind)
    found = {name: h for name, h in graph.handles().items() if name not in ("x", "head", "output")}
    wanted = HANDLES[kind]
    assert {name: (h.size, set(h.tied_to)) for name, h in found.items()} == {k: v[:2] for k, v in wanted.items()}
    for name, (_, _, reason) in wanted.items():
        assert (reason in (found[name].coupled or "")) if reason else (found[name].coupled is None), name
    assert graph.handles()["head"].tied_to == ("output",)


@pytest.mark.parametrize("kind", ["layer_norm", "attention", "lstm", "squeeze_excite", "experts"])
def test_a_neuron_that_is_gone_is_one_that_is_zero_unless_it_is_coupled(kind: str) -> None:
    """Against the original with zeros where the dropped neurons are read."""
    graph, variables = _imported(kind)
    for name, (size, tied, reason) in HANDLES[kind].items():
        if reason == CONTRACTED or (tied and name != min({name} | tied)):
            continue  # nothing reads the first but the other activation; of tied handles one is enough
        step = 4 if (kind, name) == ("grouped_query", "k") else 1
        mutation = nas.delta_nout(graph, variables, {name: -step}, utility={name: np.arange(float(size))})
        assert mutation.check(X).compared == (reason is None), name
        (zeroed,) = masked_outputs(graph, variables, mutation.plan, X)
        same = np.allclose(mutation.graph.apply(mutation.variables, X), zeroed, rtol=1e-4, atol=1e-5)
        assert same == (reason is None), name


def test_names_of_nnx_models_are_their_attributes() -> None:
    class Layer(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.attn = nnx.MultiHeadAttention(2, 6, decode=False, rngs=rngs)
            self.up, self.down = nnx.Linear(6, 8, rngs=rngs), nnx.Linear(8, 6, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = x + self.attn(x)
            return x + self.down(nnx.relu(self.up(x)))

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.embed = nnx.Embed(7, 6, rngs=rngs)
            self.layers = nnx.List([Layer(rngs)])

        def __call__(self, tokens: Any) -> Any:
            return self.embed.attend(self.layers[0](self.embed(tokens)))

    tokens = jnp.ones((2, 5), int)
    graph, variables = nas.from_nnx(Net(nnx.Rngs(0)), tokens)
    handles = graph.handles()
    stream = {"embed", "layers/0/attn/out", "layers/0/down"}
    for name in stream:
        assert handles[name].size == 6
        assert set(handles[name].tied_to) == stream - {name}
        assert handles[name].coupled is None
    assert handles["layers/0/up"].tied_to == ()
    assert handles["layers/0/attn/query:heads"].size == 2
    assert handles["output"].tied_to == ("embed:vocabulary",)
    assert nas.delta_nout(graph, variables, {"embed": -2, "layers/0/up": -3}).check(tokens).compared


def test_the_order_of_variables_does_not_matter_to_names():
    """As weights come from other libraries: sorted, biases first."""
    model = nn.Sequential([nn.Dense(6), nn.relu, nn.Dense(3)])
    x = jnp.ones((2, 4))
    params = {
        "layers_0": {"bias": jnp.zeros(6), "kernel": jnp.ones((4, 6))},
        "layers_2": {"bias": jnp.zeros(3), "kernel": jnp.ones((6, 3))},
    }
    graph, variables = nas.from_linen(model, {"params": params}, x)
    assert graph.ties.leaves["params", "layers_0", "bias"].axes == ("layers_0",)
    assert graph.ties.leaves["params", "layers_2", "kernel"].axes[0] == "layers_0"
    assert "layers_0" in nas.magnitude(graph, variables)
    assert nas.resize(graph, variables, max_size=2).graph.handles()["layers_0"].size == 2


class LearnedQueries(nn.Module):
    @nn.compact
    def __call__(self, x):
        queries = self.param("queries", nn.initializers.normal(1.0), (1, 4, 6))
        return nn.MultiHeadDotProductAttention(2, qkv_features=8)(jnp.tile(queries, (x.shape[0], 1, 1)), x)


def test_what_makes_heads_but_no_features_is_numbered():
    """Queries without an input: keys read their projection, which makes what the queries are contracted over."""
    x, model = jnp.ones((2, 3, 5)), LearnedQueries()
    graph, _ = nas.from_linen(model, model.init(jax.random.key(0), x), x)
    sizes = {name.rpartition("/")[2]: handle.size for name, handle in graph.handles().items()}
    assert sizes["key:heads"] == sizes["value:heads"] == 2
    assert all(size in (2, 4) for name, size in sizes.items() if name.endswith((":heads", ":features")))
    assert sizes["query:0"] == 6
