"""Recurrent layers: hidden neurons are the output axis, all gates are tied to it, and inputs are as of any layer.

What comes out is compared with Flax's own layer of the new size and parameters sliced here, by what is written down
about each cell a second time: whether a variable reads inputs or hidden neurons, and how many gates it makes.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import naivenas_jax as nas

NIN, HIDDEN, STEPS = 5, 4, 3


@dataclass(frozen=True)
class Case:
    """A layer for ``i`` inputs and ``h`` hidden neurons; how many gates one kernel makes; axes of an image."""

    make: Callable[[int, int, Any], Any]
    gates: int = 1
    spatial: tuple[int, ...] = ()

    def inputs(self, size: int) -> jax.Array:
        return jax.random.normal(jax.random.key(7), (2, STEPS, *self.spatial, size))


def linen(cell: Any, **fixed: Any) -> Callable[[int, int, Any], Any]:
    return lambda i, h, dtype: nn.RNN(cell(h, dtype=dtype, param_dtype=dtype, **fixed))


def of_nnx(cell: Any) -> Callable[[int, int, Any], Any]:
    init = nnx.initializers.lecun_normal()  # the default is not implemented for bfloat16 on CPUs
    kinds = {"recurrent_kernel_init": init, "rngs": nnx.Rngs(3)}
    return lambda i, h, dtype: nnx.RNN(cell(i, h, dtype=dtype, param_dtype=dtype, **kinds))


CASES = {
    "linen lstm": Case(linen(nn.LSTMCell)),
    "linen fused lstm": Case(linen(nn.OptimizedLSTMCell)),
    "linen gru": Case(linen(nn.GRUCell)),
    "linen mgu": Case(linen(nn.MGUCell)),
    "linen mgu without reset": Case(linen(nn.MGUCell, reset_gate=False)),
    "linen simple": Case(linen(nn.SimpleCell, residual=True)),
    "linen conv": Case(linen(nn.ConvLSTMCell, kernel_size=(2,)), gates=4, spatial=(3,)),
    "nnx lstm": Case(of_nnx(nnx.LSTMCell)),
    "nnx fused lstm": Case(of_nnx(nnx.OptimizedLSTMCell), gates=4),
    "nnx gru": Case(of_nnx(nnx.GRUCell), gates=3),
    "nnx simple": Case(of_nnx(nnx.SimpleCell)),
}


def network(layer: Any) -> nas.Graph:
    x = nas.input_vertex("x", 3)
    rnn = nas.layer("rnn", layer, nas.layer("pre", nn.Dense(NIN), x))
    return nas.Graph(x, nas.layer("post", nn.Dense(2), rnn))


def random_like(shapes: Any) -> Any:
    rng = np.random.default_rng(5)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes)


@functools.cache  # tests share what they only read
def start(name: str, dtype: str = "float32") -> tuple[nas.Graph, Any, jax.Array]:
    case = CASES[name]
    graph, x = network(case.make(NIN, HIDDEN, jnp.dtype(dtype))), case.inputs(3)
    return graph, random_like(jax.eval_shape(graph.init, jax.random.key(0), x)), x


def sources(mutation: nas.Mutation, module: str, gates: int, before: int) -> tuple[np.ndarray, np.ndarray]:
    """For each row and column of a kernel of a cell the old one, -1 where new."""
    hidden = mutation.indices("rnn")
    fused = np.concatenate([np.where(hidden < 0, -1, hidden + gate * before) for gate in range(gates)])
    reads_hidden = module.startswith(("h", "dense_h"))
    return hidden if reads_hidden else mutation.indices("pre"), fused


def assert_is_sliced(case: Case, old: Any, mutation: nas.Mutation):
    """Every number of a neuron that stayed is where its neuron is, in every gate."""
    for module, leaves in old["params"]["rnn"]["cell"].items():
        rows, columns = sources(mutation, module, case.gates, HIDDEN)
        for leaf, array in leaves.items():
            new, wanted = np.asarray(mutation.variables["params"]["rnn"]["cell"][module][leaf]), np.asarray(array)
            for dim, source in ((-1, columns), (-2, rows)) if leaf == "kernel" else ((-1, columns),):
                assert new.shape[dim] == len(source)
                new = np.take(new, np.flatnonzero(source >= 0), dim)
                wanted = np.take(wanted, source[source >= 0], dim)
            np.testing.assert_array_equal(new, wanted)


def with_params(layer: Any, params: Any, x: jax.Array) -> jax.Array:
    """Flax's own layer with these parameters."""
    if isinstance(layer, nn.Module):
        return layer.apply({"params": params}, x)
    for path, variable in nnx.to_flat_state(nnx.state(layer, nnx.Param)):
        value = functools.reduce(lambda node, key: node[key], path, params)
        assert variable[...].shape == value.shape
        variable[...] = value
    return layer(x)


def by_hand(layer: Any, variables: Any, x: jax.Array) -> jax.Array:
    params = variables["params"]
    hidden = with_params(layer, params["rnn"], x @ params["pre"]["kernel"] + params["pre"]["bias"])
    return hidden @ params["post"]["kernel"] + params["post"]["bias"]


#: The others differ from these in the names of their variables only; in bfloat16 they are left to -m slow.
TYPICAL = ("linen gru", "linen conv", "nnx fused lstm")


@pytest.mark.parametrize(
    ("name", "kind", "dtype"),
    [(name, kind, "float32") for name in CASES for kind in ("shrink", "grow")]
    + [pytest.param(n, "both", "bfloat16", marks=() if n in TYPICAL else pytest.mark.slow) for n in CASES],
)
def test_resizes(name: str, kind: str, dtype: str):
    case, (graph, variables, x) = CASES[name], start(name, dtype)
    request = {"shrink": {"pre": -2, "rnn": -1}, "grow": {"pre": 1, "rnn": 2}, "both": {"pre": 2, "rnn": -2}}[kind]
    mutation = nas.delta_nout(graph, variables, request)
    assert mutation.graph.nin("rnn") == (NIN + request["pre"],)
    assert mutation.graph.nout("rnn") == HIDDEN + request["rnn"]
    assert_is_sliced(case, variables, mutation)
    assert mutation.check(x).compared
    if kind == "shrink":
        layer, found = case.make(NIN - 2, HIDDEN - 1, dtype), mutation.graph.apply(mutation.variables, x)
        np.testing.assert_allclose(found, by_hand(layer, mutation.variables, x), rtol=1e-5, atol=1e-5)
    fresh = jax.eval_shape(mutation.graph.init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, mutation.variables)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(mutation.variables["params"]["rnn"]))


@pytest.mark.parametrize("name", ["linen gru", "linen conv", "nnx fused lstm"])
def test_the_layer_is_flaxs_own_of_the_new_size(name: str):
    graph, variables, _ = start(name)
    mutation = nas.delta_nout(graph, variables, {"pre": 1, "rnn": -1})
    module = mutation.graph["rnn"].op.module
    assert type(module) in (nn.RNN, nnx.RNN)
    assert getattr(module.cell, "features", None) == HIDDEN - 1 or module.cell.hidden_features == HIDDEN - 1
    if name == "nnx fused lstm":
        assert (module.cell.in_features, module.cell.dense_h.out_features) == (NIN + 1, 4 * (HIDDEN - 1))


@pytest.mark.parametrize("name", ["linen mgu", "nnx gru"])
@pytest.mark.parametrize("new", ["split", "init"])
def test_ways_to_start_new_hidden_neurons(name: str, new: str):
    graph, variables, x = start(name)
    mutation = nas.delta_nout(graph, variables, {"rnn": 2}, new=new)
    assert mutation.check(x).compared is (new != "init")


def test_is_inserted_and_removed():
    graph, variables, x = start("linen gru")
    inserted = nas.insert_vertex(graph, variables, "rnn", lambda v: nas.layer("second", nn.RNN(nn.LSTMCell(v.nout)), v))
    assert inserted.graph.apply(inserted.variables, x).shape == (2, STEPS, 2)
    assert inserted.variables["params"]["second"]["cell"]["hi"]["kernel"].shape == (HIDDEN, HIDDEN)
    removed = nas.remove_vertex(*inserted, "second")
    assert removed.graph == graph
    jax.tree.map(np.testing.assert_array_equal, removed.variables, variables)
    without = nas.remove_vertex(graph, variables, "rnn")
    assert without.graph.nin("post") == (without.graph.nout("pre"),)


def two_ways(library: str, **options: Any) -> Any:
    if library == "linen":
        return nn.Bidirectional(nn.RNN(nn.GRUCell(HIDDEN)), nn.RNN(nn.LSTMCell(options.pop("back", 3))), **options)
    back = nnx.RNN(nnx.LSTMCell(NIN, options.pop("back", 3), rngs=nnx.Rngs(1)))
    return nnx.Bidirectional(nnx.RNN(nnx.GRUCell(NIN, HIDDEN, rngs=nnx.Rngs(0))), back, **options)


@pytest.mark.parametrize("library", ["linen", "nnx"])
def test_both_directions_are_joined(library: str):
    graph = network(two_ways(library))
    x = CASES["linen gru"].inputs(3)
    variables = random_like(jax.eval_shape(graph.init, jax.random.key(0), x))
    sizes = {name: handle.size for name, handle in graph.handles().items() if name.startswith("rnn")}
    assert sizes == {"rnn:forward": HIDDEN, "rnn:backward": 3, "rnn": HIDDEN + 3}
    mutation = nas.delta_nout(graph, variables, {"rnn:forward": -1, "rnn:backward": 2, "pre": -1})
    assert mutation.check(x).compared
    forward, backward = mutation.indices("rnn:forward"), mutation.indices("rnn:backward")
    np.testing.assert_array_equal(mutation.indices("rnn"), [*forward, *np.where(backward < 0, -1, backward + HIDDEN)])
    new = mutation.variables["params"]["rnn"]
    assert new["backward_rnn"]["cell"]["hi"]["kernel"].shape == (5, 5)
    module = mutation.graph["rnn"].op.module
    made = nn.Bidirectional if library == "linen" else nnx.Bidirectional
    assert type(module) is made
    whole = nas.delta_nout(graph, variables, {"rnn": -3})
    assert whole.graph.nout("rnn") == HIDDEN
    assert whole.check(x).compared


def test_both_directions_are_added():
    graph = network(two_ways("linen", back=HIDDEN, merge_fn=jnp.add))
    x = CASES["linen gru"].inputs(3)
    variables = random_like(jax.eval_shape(graph.init, jax.random.key(0), x))
    mutation = nas.delta_nout(graph, variables, {"rnn": -1})
    cells = mutation.variables["params"]["rnn"]
    assert cells["forward_rnn"]["cell"]["hn"]["kernel"].shape == cells["backward_rnn"]["cell"]["hi"]["kernel"].shape
    assert mutation.check(x).compared


def test_what_is_refused():
    x = nas.input_vertex("x", 3)
    with pytest.raises(nas.GraphError, match="computes one step"):
        nas.layer("cell", nn.LSTMCell(4), x, x)
    with pytest.raises(nas.GraphError, match="return_carry"):
        nas.layer("rnn", nn.RNN(nn.LSTMCell(4), return_carry=True), x)
    rnn = nn.RNN(nn.LSTMCell(4))
    with pytest.raises(nas.GraphError, match="are one layer"):
        nas.layer("both", nn.Bidirectional(rnn, rnn), x)
    added = nn.Bidirectional(rnn, nn.RNN(nn.LSTMCell(5)), merge_fn=jnp.add)
    with pytest.raises(nas.SizeMismatchError, match=r"forward_rnn\.cell\.features=4"):
        nas.layer("added", added, x)

    class Own(nn.GRUCell):
        pass

    with pytest.raises(nas.UnregisteredLayerError, match="Own"):
        nas.layer("own", nn.RNN(Own(4)), x)
    odd = nn.Bidirectional(nn.RNN(nn.LSTMCell(4)), nn.RNN(nn.LSTMCell(4)), merge_fn=lambda a, b: a + b[..., ::-1])
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("odd", odd, x)))
    assert "merge_fn is unknown" in graph.fixed()["odd"]


def test_a_registered_cell_of_ones_own_runs_along_a_sequence():
    class Decay(nn.RNNCellBase):
        size: int

        @nn.compact
        def __call__(self, carry: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            rate = self.param("rate", nn.initializers.ones, (self.size,))
            carry = jnp.tanh(rate * carry + nn.Dense(self.size, name="reads")(x))
            return carry, carry

        def initialize_carry(self, rng: Any, input_shape: tuple[int, ...]) -> jax.Array:
            return jnp.zeros((*input_shape[:-1], self.size))

        @property
        def num_feature_axes(self) -> int:
            return 1

    leaves = {"params/rate": "out", "params/reads/kernel": "in out", "params/reads/bias": "out"}
    nas.register_layer(Decay, leaves=leaves, sizes={"size": "out"}, new={"params/rate": 1.0})
    graph, x = network(nn.RNN(Decay(HIDDEN))), CASES["linen gru"].inputs(3)
    variables = random_like(jax.eval_shape(graph.init, jax.random.key(0), x))
    mutation = nas.delta_nout(graph, variables, {"rnn": -1, "pre": 1})
    assert mutation.check(x).compared
    assert mutation.graph["rnn"].op.module.cell.size == HIDDEN - 1


def test_survives_pickle():
    graph = network(two_ways("linen"))  # layers in a layer
    assert pickle.loads(pickle.dumps(graph)) == graph


def test_an_initial_state_that_depends_on_the_size_is_coupled():
    cell = nn.GRUCell(HIDDEN, carry_init=nn.initializers.normal())
    assert "initial state" in (network(nn.RNN(cell)).handles()["rnn"].coupled or "")
    assert network(nn.RNN(nn.GRUCell(HIDDEN, carry_init=nn.initializers.ones))).handles()["rnn"].coupled is None


def test_keyword_arguments_and_keys_reach_the_layer():
    graph, variables, x = start("nnx gru")
    lengths = jnp.array([1, 3])
    shorter = graph.apply(variables, x, seq_lengths=lengths, reverse=True, keep_order=True)
    assert not np.allclose(shorter, graph.apply(variables, x))
    with_key = graph.apply(variables, x, rngs={"dropout": jax.random.key(0)}, train=True)  # none of its own is needed
    np.testing.assert_allclose(with_key, graph.apply(variables, x), rtol=1e-6)


@pytest.mark.parametrize("name", ["linen gru", "nnx fused lstm"])
def test_the_rule_agrees_with_the_ties_that_tracing_finds(name: str):
    """The runs on the dimensions of every variable, by the rule and by an analysis of what the layer computes."""
    graph, variables, x = start(name)
    traced, _ = nas.from_function(graph.apply, variables, x)
    for path, leaf in graph.ties.leaves.items():
        other = traced.ties.leaves[path]
        for dim in range(len(leaf.axes)):
            for path2, leaf2 in graph.ties.leaves.items():
                for dim2 in range(len(leaf2.axes)):
                    by_rule = graph.ties.axes[leaf.axes[dim]] == graph.ties.axes[leaf2.axes[dim2]]
                    by_trace = runs(traced, other, dim) == runs(traced, traced.ties.leaves[path2], dim2)
                    assert by_rule == by_trace, (path, dim, path2, dim2)


def runs(graph: nas.Graph, leaf: Any, dim: int) -> Any:
    return leaf.axes[dim] and graph.ties.axes[leaf.axes[dim]]


@pytest.mark.parametrize("library", ["linen", "nnx"])
def test_imported(library: str):
    """As part of a model that somebody wrote: the cell's variables are handles, tied to one another."""

    class Linen(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return nn.Dense(2)(nn.RNN(nn.GRUCell(HIDDEN), name="rnn")(x))

    class Nnx(nnx.Module):
        def __init__(self) -> None:
            self.rnn = nnx.RNN(nnx.GRUCell(3, HIDDEN, rngs=nnx.Rngs(0)))
            self.out = nnx.Linear(HIDDEN, 2, rngs=nnx.Rngs(1))

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.out(self.rnn(x))

    x = CASES["linen gru"].inputs(3)
    if library == "linen":
        graph, variables = nas.from_linen(Linen(), Linen().init(jax.random.key(0), x), x)
        request = {"GRUCell_0/hn": -1}  # made in the scope of the model, so that is its name
    else:
        graph, variables = nas.from_nnx(Nnx(), x)
        request = {"rnn/cell/dense_h": -3}  # three gates in one kernel
    mutation = nas.delta_nout(graph, variables, request)
    assert mutation.check(x).compared
    params = mutation.variables["params"]
    recurrent = params["GRUCell_0"]["hn"] if library == "linen" else params["rnn"]["cell"]["dense_h"]
    assert recurrent["kernel"].shape[0] == HIDDEN - 1
