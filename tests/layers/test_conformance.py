"""Every registered layer keeps its promises: layer x {linen, nnx} x {float32, bfloat16} x change.

What comes out is compared with the same layers, built by Flax itself at the new sizes and called one after the other by
hand; which numbers of a parameter belong to which neuron is written down here a second time (`SIDES`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, reduce
from pathlib import Path
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict

import naivenas_jax as nas
from naivenas_jax.layers.registry import registered_layers

NIN, NOUT, VOCABULARY = 6, 6, 7


@dataclass(frozen=True)
class Case:
    """A layer: how either library makes it for ``i`` input and ``o`` output neurons, and the input's other axes."""

    linen: Callable[[int, int], nn.Module] | None
    nnx: Callable[[int, int], nnx.Module] | None
    leading: tuple[int, ...] = (2,)
    absorbs: bool = True
    coupled: bool = False
    keeps: bool = True  # whether inserted it can be the identity
    sides: Mapping[str, Mapping[int, str]] = field(default_factory=dict)  # where they differ from SIDES
    call: Mapping[str, Any] = field(default_factory=dict)  # what linen wants besides

    def make(self, library: str, i: int, o: int) -> Any:
        if library == "linen":
            return self.linen(i, o)
        return nnx.eval_shape(lambda: self.nnx(i, o))  # with shapes for arrays: to compile initialisers takes its time


def rngs() -> nnx.Rngs:
    return nnx.Rngs(3)


def conv(leading: tuple[int, ...], window: tuple[int, ...], keeps: bool = False, **options: Any) -> Case:
    return Case(
        lambda i, o: nn.Conv(o, window, **options),
        lambda i, o: nnx.Conv(i, o, window, **options, rngs=rngs()),
        (2, *leading),
        keeps=keeps,
    )


def transposed(leading: tuple[int, ...], window: tuple[int, ...], **options: Any) -> Case:
    swapped = {-2: "out", -1: "in"} if options.get("transpose_kernel") else {-2: "in", -1: "out"}
    return Case(
        lambda i, o: nn.ConvTranspose(o, window, **options),
        lambda i, o: nnx.ConvTranspose(i, o, window, **options, rngs=rngs()),
        (2, *leading),
        keeps=False,
        sides={"kernel": swapped},
    )


def norm(linen: Any, of_nnx: Any, coupled: bool) -> Case:
    return Case(
        lambda i, o: linen(),
        lambda i, o: of_nnx(i, rngs=rngs()),
        (2, 3),
        absorbs=False,
        coupled=coupled,
        keeps=False,
    )


CASES = {
    "dense": Case(lambda i, o: nn.Dense(o), lambda i, o: nnx.Linear(i, o, rngs=rngs())),
    "dense-no-bias": Case(
        lambda i, o: nn.Dense(o, use_bias=False), lambda i, o: nnx.Linear(i, o, use_bias=False, rngs=rngs())
    ),
    "dense-general": Case(lambda i, o: nn.DenseGeneral(o), lambda i, o: nnx.LinearGeneral(i, o, rngs=rngs())),
    "dense-general-makes-two-axes": Case(
        lambda i, o: nn.DenseGeneral((2, o)),
        lambda i, o: nnx.LinearGeneral(i, (2, o), rngs=rngs()),
        keeps=False,
        sides={"kernel": {0: "in", -1: "out"}},
    ),
    "dense-general-reads-two-axes": Case(
        lambda i, o: nn.DenseGeneral(o, axis=(-2, -1), use_bias=False),
        lambda i, o: nnx.LinearGeneral((3, i), o, axis=(-2, -1), use_bias=False, rngs=rngs()),
        (2, 3),
        keeps=False,
    ),
    "einsum": Case(
        lambda i, o: nn.Einsum((3, i, o), "bta,tac->btc"),
        lambda i, o: nnx.Einsum("bta,tac->btc", (3, i, o), (3, o), rngs=rngs()),
        (2, 3),
        keeps=False,
    ),
    "einsum-transposed": Case(
        lambda i, o: nn.Einsum((o, i), "...a,ca->...c", use_bias=False),
        lambda i, o: nnx.Einsum("...a,ca->...c", (o, i), rngs=rngs()),
        keeps=False,
        sides={"kernel": {0: "out", 1: "in"}},
    ),
    "einsum-scale": Case(
        lambda i, o: nn.Einsum((i,), "...a,a->...a", use_bias=False, kernel_init=nn.initializers.ones),
        lambda i, o: nnx.Einsum("...a,a->...a", (i,), rngs=rngs(), kernel_init=nnx.initializers.ones),
        absorbs=False,
        keeps=False,
        sides={"kernel": {0: "in"}},
    ),
    "conv1d": conv((6,), (3,), keeps=True),
    "conv2d-strided": conv((7, 6), (3, 2), strides=(2, 1), padding="VALID"),
    "conv2d-padded": conv((5, 5), (3, 3), padding=((1, 0), (2, 1)), use_bias=False),
    "conv2d-dilated": conv((7, 7), (3, 3), kernel_dilation=2, padding="CIRCULAR", keeps=True),
    "conv3d": conv((4, 3, 3), (2, 3, 1), keeps=True),
    "depthwise": Case(
        lambda i, o: nn.Conv(i, (3, 3), feature_group_count=i),
        lambda i, o: nnx.Conv(i, i, (3, 3), feature_group_count=i, rngs=rngs()),
        (2, 4, 4),
        absorbs=False,
        sides={"kernel": {-1: "in"}},
    ),
    "depthwise-times-2": Case(
        lambda i, o: nn.Conv(2 * i, (3,), feature_group_count=i),
        lambda i, o: nnx.Conv(i, 2 * i, (3,), feature_group_count=i, rngs=rngs()),
        (2, 4),
        absorbs=False,
        keeps=False,
        sides={"kernel": {-1: "out"}},
    ),
    "grouped": Case(
        lambda i, o: nn.Conv(o, (3,), feature_group_count=3),
        lambda i, o: nnx.Conv(i, o, (3,), feature_group_count=3, rngs=rngs()),
        (2, 4),
        sides={"kernel": {-2: ":in_per_group", -1: "out"}},
    ),
    "conv-transpose": transposed((4,), (3,), strides=(2,)),
    "conv-transpose-2d": transposed((3, 3), (2, 3), transpose_kernel=True, padding="VALID"),
    "conv-local": Case(
        lambda i, o: nn.ConvLocal(o, (3,)), None, (2, 4), keeps=False, sides={"kernel": {-2: "in*3", -1: "out"}}
    ),
    "batch-norm": Case(
        lambda i, o: nn.BatchNorm(use_running_average=True),
        lambda i, o: nnx.BatchNorm(i, use_running_average=True, rngs=rngs()),
        (2, 3),
        absorbs=False,
    ),
    "layer-norm": norm(nn.LayerNorm, nnx.LayerNorm, coupled=True),
    "rms-norm": norm(nn.RMSNorm, nnx.RMSNorm, coupled=True),
    "instance-norm": norm(nn.InstanceNorm, nnx.InstanceNorm, coupled=False),
    "group-norm": Case(
        lambda i, o: nn.GroupNorm(3),
        lambda i, o: nnx.GroupNorm(i, 3, rngs=rngs()),
        (2, 3),
        absorbs=False,
        coupled=True,
        keeps=False,
    ),
    "group-norm-by-size": Case(  # 6 = 2 groups of 3; whole groups come and go, which couples nothing
        lambda i, o: nn.GroupNorm(None, 3),
        lambda i, o: nnx.GroupNorm(i, None, 3, rngs=rngs()),
        (2, 3),
        absorbs=False,
        keeps=False,
    ),
    "dropout": Case(
        lambda i, o: nn.Dropout(0.5, deterministic=True),
        lambda i, o: nnx.Dropout(0.5, deterministic=True, rngs=rngs()),
        absorbs=False,
    ),
    "prelu": Case(lambda i, o: nn.PReLU(), lambda i, o: nnx.PReLU(), absorbs=False),
    "embed": Case(lambda i, o: nn.Embed(i, o), lambda i, o: nnx.Embed(i, o, rngs=rngs()), (2, 3), keeps=False),
    "weight-norm": Case(
        lambda i, o: nn.WeightNorm(nn.Dense(o)),
        lambda i, o: nnx.WeightNorm(nnx.Linear(i, o, rngs=rngs()), use_scale=False, rngs=rngs()),
        coupled=True,
        keeps=False,
    ),
    "weight-norm-of-everything": Case(
        lambda i, o: nn.WeightNorm(nn.Conv(o, (2,)), variable_filter=None),
        lambda i, o: nnx.WeightNorm(
            nnx.Conv(i, o, (2,), rngs=rngs()), use_scale=False, variable_filter=..., rngs=rngs()
        ),
        (2, 4),
        coupled=True,
        keeps=False,
    ),
    "spectral-norm": Case(
        lambda i, o: nn.SpectralNorm(nn.Dense(o)),
        lambda i, o: nnx.SpectralNorm(nnx.Linear(i, o, rngs=rngs()), rngs=rngs()),
        coupled=True,
        keeps=False,
        call={"update_stats": False},
    ),
    "sequential": Case(
        lambda i, o: nn.Sequential([nn.Dense(4), nn.relu, nn.BatchNorm(True), nn.Dense(o), nn.tanh]),
        lambda i, o: nnx.Sequential(
            nnx.Linear(i, 4, rngs=rngs()),
            nnx.relu,
            nnx.BatchNorm(4, rngs=rngs()),
            nnx.Linear(4, o, rngs=rngs()),
            nnx.tanh,
        ),
        keeps=False,
        sides={
            f"{first}/{leaf}": sides
            for first, weight, per_neuron in [("0", {-2: "in"}, {}), ("2", {}, {}), ("3", {-1: "out"}, {-1: "out"})]
            for leaf, sides in {"kernel": weight, **dict.fromkeys(("bias", "scale", "mean", "var"), per_neuron)}.items()
        },
    ),
    "lora": Case(
        None,
        lambda i, o: nnx.LoRA(i, 2, o, base_module=nnx.Linear(i, o, rngs=rngs()), rngs=rngs()),
        keeps=False,
        sides={"lora_a": {0: "in"}, "lora_b": {1: "out"}},
    ),
    "lora-linear": Case(
        None,
        lambda i, o: nnx.LoRALinear(i, o, lora_rank=2, rngs=rngs()),
        keeps=False,
        sides={"lora_a": {0: "in"}, "lora_b": {1: "out"}},
    ),
}

#: On which dimensions of a parameter the input's and the output's neurons lie.
SIDES = {
    "kernel": {-2: "in", -1: "out"},
    "embedding": {0: "in", 1: "out"},
    "bias": {-1: "out"},
    "scale": {-1: "out"},
    "mean": {-1: "out"},
    "var": {-1: "out"},
    "u": {-1: "out"},
    "sigma": {},
    "negative_slope": {},
}

BOTH = [(name, library) for name, case in CASES.items() for library in ("linen", "nnx") if getattr(case, library)]
TIED = [(name, library) for name, library in BOTH if name in ("dense", "conv2d-strided", "grouped", "group-norm")]
DTYPES = {"float32": 1e-4, "bfloat16": 4e-2}  # and how far two ways to compute the same may be apart


pytestmark = pytest.mark.usefixtures("compiled_quickly")


@cache
def network_of(name: str, library: str, dtype: str = "float32", relation: str = "chain") -> Network:
    """Networks do not change, so that one serves all tests."""
    return Network(CASES[name], library, relation, dtype)


class Network:
    """``x -> pre -> layer -> post``; with a twin of the layer where two are related."""

    def __init__(self, case: Case, library: str, relation: str = "chain", dtype: str = "float32"):
        self.case, self.library, self.relation, self.dtype = case, library, relation, dtype
        self.tokens = isinstance(case.make(library, 6, 6), nn.Embed | nnx.Embed)
        self.twins = ("layer",) if relation == "chain" else ("layer", "layer2")
        self.graph = self._graph()
        self.x = self.inputs(self.graph.nout("x"))
        shapes = jax.eval_shape(self.graph.init, jax.random.key(0), self.x)
        self.variables = random_like(shapes, dtype)

    def source(self, layer: str) -> str:
        return "x" if self.tokens else layer.replace("layer", "pre")

    def inputs(self, size: int) -> jax.Array:
        if self.tokens:
            return jax.random.randint(jax.random.key(7), self.case.leading, 0, size)
        values = np.random.default_rng(7).normal(size=(*self.case.leading, size))
        return jnp.asarray(values, self.dtype)

    def dense(self, i: int, o: int) -> Any:
        return CASES["dense"].make(self.library, i, o)

    def _graph(self) -> nas.Graph:
        size = VOCABULARY if self.tokens else 3
        shape = None if self.tokens else (*self.case.leading[1:], size)
        x = nas.input_vertex("x", size, dtype="int32" if self.tokens else "float32", shape=shape)
        layers = []
        for name in self.twins:
            below = x if self.tokens else nas.layer(self.source(name), self.dense(3, NIN), x)
            layers.append(nas.layer(name, self.case.make(self.library, below.nout, NOUT), below))
        joined = layers[0] if self.relation == "chain" else JOIN[self.relation][0](*layers)
        return nas.Graph(x, nas.layer("post", self.dense(joined.nout, 4), joined))

    def by_hand(self, graph: nas.Graph, variables: Any, x: jax.Array) -> jax.Array:
        """The network without this library, at the sizes of ``graph``."""
        values = []
        for name in self.twins:
            value = x if self.tokens else self._run(self.dense, graph, self.source(name), variables, x)
            make = lambda i, o: self.case.make(self.library, i, o)  # noqa: E731
            values.append(self._run(make, graph, name, variables, value, **self.case.call))
        joined = values[0] if self.relation == "chain" else JOIN[self.relation][1](*values)
        return self._run(self.dense, graph, "post", variables, joined)

    def _run(self, make: Any, graph: nas.Graph, name: str, variables: Any, x: jax.Array, **call: Any) -> jax.Array:
        module = make(graph.nin(name)[0], graph.nout(name))
        own = {collection: tree[name] for collection, tree in variables.items() if name in tree}
        if self.library == "linen":
            return module.apply(own, x, **call)
        module.eval()
        values = {path[1:]: value for path, value in flatten_dict(own).items()}
        for path, leaf in nnx.to_flat_state(nnx.state(module)):
            if not isinstance(leaf, nnx.RngState):
                names = tuple("/".join(key) if isinstance(key, tuple) else str(key) for key in path)
                variable, value = reduce(item, path, module), values.pop(names)
                assert variable.shape == value.shape
                variable.set_value(value)
        assert not values
        return module(x)

    def sides(self, vertex: str, leaf: tuple[str, ...]) -> Mapping[int, str]:
        path = [name.removeprefix("layers_") for part in leaf for name in part.split("/")]
        special = self.case.sides if vertex in self.twins else {}
        return special.get("/".join(path[-2:]), special.get(path[-1], SIDES.get(path[-1])))  # type: ignore[return-value]


def item(owner: Any, key: Any) -> Any:
    return owner[key] if isinstance(owner, nnx.List | Mapping) else getattr(owner, key)


JOIN: dict[str, tuple[Any, Any]] = {
    "add": (lambda a, b: (a + b).named("join"), lambda a, b: a + b),
    "concat": (lambda a, b: nas.concat("join", a, b), lambda a, b: jnp.concatenate([a, b], -1)),
}


def random_like(shapes: Any, dtype: str) -> Any:
    """Random variables: nothing is 0 or 1, variances are positive."""
    paths, treedef = jax.tree_util.tree_flatten_with_path(shapes)
    rng = np.random.default_rng(5)
    values = [rng.normal(size=leaf.shape) for _, leaf in paths]
    positive = [np.abs(v) + 0.5 if path[-1].key == "var" else v for (path, _), v in zip(paths, values, strict=True)]
    return treedef.unflatten([jnp.asarray(v, dtype) for v in positive])


def changes(network: Network, kind: str) -> dict[str, int]:
    """Requests for the neurons that the layer reads and, if they are others, for those it makes."""
    below, above = network.source("layer"), "layer"
    if not network.case.absorbs:
        return {"shrink": {below: -3}, "grow": {below: 3}, "both": {below: -3, "x": 1}}[kind]
    return {"shrink": {below: -3, above: -3}, "grow": {below: 3, above: 3}, "both": {below: 3, above: -3}}[kind]


@pytest.mark.parametrize("kind", ["shrink", "grow", "both"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "library"), BOTH)
def test_resizes(name: str, library: str, dtype: str, kind: str):
    check_resizes(network_of(name, library, dtype), kind)


@pytest.mark.parametrize("kind", ["shrink", "grow", "both"])
@pytest.mark.parametrize("relation", JOIN)
@pytest.mark.parametrize(("name", "library"), TIED)
def test_resizes_where_two_are_tied(name: str, library: str, relation: str, kind: str):
    check_resizes(network_of(name, library, relation=relation), kind)


def check_resizes(network: Network, kind: str):
    request = changes(network, kind)
    mutation = nas.delta_nout(network.graph, network.variables, request)
    for vertex, change in request.items():
        assert mutation.graph.nout(vertex) == network.graph.nout(vertex) + change
    assert_is_sliced(network, mutation)
    assert_agrees_by_hand(network, mutation)
    check = mutation.check(network.x)
    renumbered = network.tokens and mutation.graph.nout("x") < VOCABULARY
    assert check.compared is not (network.case.coupled or renumbered)


def assert_agrees_by_hand(network: Network, mutation: nas.Mutation):
    """The new variables fit a fresh network of the new sizes, and Flax computes the same with them."""
    graph, variables = mutation
    x = network.inputs(graph.nout("x"))
    fresh = jax.eval_shape(graph.init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, fresh)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {network.dtype}
    expected, tolerance = network.by_hand(graph, variables, x), DTYPES[network.dtype]
    close(graph.apply(variables, x), expected, tolerance)


def close(found: Any, expected: Any, tolerance: float):
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


def assert_is_sliced(network: Network, mutation: nas.Mutation):
    """Every number of a neuron that stayed is where its neuron is."""
    for (collection, vertex, *leaf), old in flatten_dict(network.variables).items():
        new = flatten_dict(mutation.variables)[(collection, vertex, *leaf)]
        new, wanted = np.asarray(new), np.asarray(old)
        for dim, side in network.sides(vertex, tuple(leaf)).items():
            source = sources(network, mutation, vertex, side)
            new = np.take(new, np.flatnonzero(source >= 0), dim)
            wanted = np.take(wanted, source[source >= 0], dim)
        np.testing.assert_array_equal(new, wanted)


def sources(network: Network, mutation: nas.Mutation, vertex: str, side: str) -> np.ndarray:
    """For each neuron on a side where it was; -1 if it is new."""
    (below,) = network.graph.inputs_of(vertex)
    if side.startswith(":"):
        return mutation.indices(vertex + side)
    if side == "in*3":
        source = mutation.indices(below)[:, None]
        return np.where(source < 0, -1, 3 * source + np.arange(3)).ravel()
    return mutation.indices({"in": below, "out": vertex}[side])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "library"), [each for each in BOTH if each[0] != "embed"])
def test_is_inserted_and_removed(name: str, library: str, dtype: str):
    case = CASES[name]
    network = Network(replace(CASES["dense"], leading=case.leading), library, dtype=dtype)
    x = network.x
    inserted = nas.insert_vertex(
        network.graph, network.variables, "pre", lambda v: nas.layer("new", case.make(library, NIN, NIN), v)
    )
    before, after = network.graph.apply(network.variables, x), inserted.graph.apply(inserted.variables, x)
    assert inserted.check(x, tolerance=DTYPES[dtype]).compared is case.keeps
    if case.keeps:
        close(after, before, DTYPES[dtype])
    removed = nas.remove_vertex(*inserted, "new")
    assert removed.graph.nout("pre") == (2 * NIN if name == "depthwise-times-2" else NIN)
    if name != "depthwise-times-2":
        assert removed.graph == network.graph
        jax.tree.map(np.testing.assert_array_equal, removed.variables, network.variables)
    removed.check(x)


def test_local_convolution_is_inserted_only_where_the_positions_are_known():
    x = nas.input_vertex("x", 3)
    graph = nas.Graph(x, nas.layer("post", nn.Dense(4), nas.layer("pre", nn.Dense(NIN), x)))
    variables = graph.init(jax.random.key(0), jnp.ones((1, 4, 3)))
    with pytest.raises(nas.StructureError, match=r"ConvLocal.*shape="):
        nas.insert_vertex(graph, variables, "pre", lambda v: nas.layer("new", nn.ConvLocal(NIN, (3,)), v))


def test_every_layer_of_flax_has_a_case():
    tested = {type(case.make(library, 6, 6)) for name, library in BOTH for case in (CASES[name],)}
    elsewhere = ("attention", "recurrent")  # in files of tests of their own
    known = {
        kind: rule_of.__module__.rpartition(".")[2]
        for kind, rule_of in registered_layers().items()
        if kind.__module__.startswith("flax.") and rule_of.__module__.startswith("naivenas_jax.layers")
    }
    assert {kind for kind, module in known.items() if module not in elsewhere} == tested


@pytest.mark.parametrize(("name", "library"), BOTH)
def test_is_saved_and_loaded(name: str, library: str, tmp_path: Path):
    network = network_of(name, library)
    nas.save(tmp_path / "net", network.graph, network.variables)
    graph, variables = nas.load(tmp_path / "net")
    assert graph == network.graph
    chex.assert_trees_all_equal(variables, network.variables)
