"""Every registered layer keeps its promises: layer x relation x {linen, nnx} x change.

What comes out is compared with the same layers, built by Flax itself at the new sizes and called one after the other by
hand; which numbers of a parameter belong to which neuron is written down here a second time (`SIDES`).
"""

from __future__ import annotations

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

NIN, NOUT, VOCABULARY = 6, 5, 7


@dataclass(frozen=True)
class Case:
    """A layer: how either library makes it for ``i`` input and ``o`` output neurons, and the input's other axes."""

    linen: Callable[[int, int], nn.Module]
    nnx: Callable[[int, int], nnx.Module]
    leading: tuple[int, ...] = (2,)
    absorbs: bool = True
    coupled: bool = False
    keeps: bool = True  # whether inserted it can be the identity

    def make(self, library: str, i: int, o: int) -> Any:
        return getattr(self, library)(i, o)


def rngs() -> nnx.Rngs:
    return nnx.Rngs(3)


def conv(leading: tuple[int, ...], window: tuple[int, ...], keeps: bool = False, **options: Any) -> Case:
    return Case(
        lambda i, o: nn.Conv(o, window, **options),
        lambda i, o: nnx.Conv(i, o, window, **options, rngs=rngs()),
        (2, *leading),
        keeps=keeps,
    )


CASES = {
    "dense": Case(lambda i, o: nn.Dense(o), lambda i, o: nnx.Linear(i, o, rngs=rngs())),
    "dense-no-bias": Case(
        lambda i, o: nn.Dense(o, use_bias=False), lambda i, o: nnx.Linear(i, o, use_bias=False, rngs=rngs())
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
    ),
    "batch-norm": Case(
        lambda i, o: nn.BatchNorm(use_running_average=True),
        lambda i, o: nnx.BatchNorm(i, use_running_average=True, rngs=rngs()),
        (2, 3),
        absorbs=False,
    ),
    "layer-norm": Case(
        lambda i, o: nn.LayerNorm(),
        lambda i, o: nnx.LayerNorm(i, rngs=rngs()),
        (2, 3),
        absorbs=False,
        coupled=True,
        keeps=False,
    ),
    "dropout": Case(
        lambda i, o: nn.Dropout(0.5, deterministic=True),
        lambda i, o: nnx.Dropout(0.5, deterministic=True, rngs=rngs()),
        absorbs=False,
    ),
    "embed": Case(lambda i, o: nn.Embed(i, o), lambda i, o: nnx.Embed(i, o, rngs=rngs()), (2, 3), keeps=False),
}

#: On which dimensions of a parameter the input's and the output's neurons lie.
SIDES = {
    "kernel": {-2: "in", -1: "out"},
    "depthwise kernel": {-1: "in"},
    "embedding": {0: "in", 1: "out"},
    "bias": {-1: "out"},
    "scale": {-1: "out"},
    "mean": {-1: "out"},
    "var": {-1: "out"},
}


class Network:
    """``x -> pre -> layer -> post``; with a twin of the layer where two are related."""

    def __init__(self, case: Case, library: str, relation: str):
        self.case, self.library, self.relation = case, library, relation
        self.tokens = isinstance(case.make("linen", 1, 1), nn.Embed)
        self.twins = ("layer",) if relation == "chain" else ("layer", "layer2")
        self.graph = self._graph()
        self.x = self.inputs(self.graph.nout("x"))
        shapes = jax.eval_shape(self.graph.init, jax.random.key(0), self.x)
        self.variables = random_like(shapes)

    def source(self, layer: str) -> str:
        return "x" if self.tokens else layer.replace("layer", "pre")

    def inputs(self, size: int) -> jax.Array:
        if self.tokens:
            return jax.random.randint(jax.random.key(7), self.case.leading, 0, size)
        return jax.random.normal(jax.random.key(7), (*self.case.leading, size))

    def dense(self, i: int, o: int) -> Any:
        return CASES["dense"].make(self.library, i, o)

    def _graph(self) -> nas.Graph:
        size = VOCABULARY if self.tokens else 3
        x = nas.input_vertex("x", size, dtype="int32" if self.tokens else "float32")
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
            values.append(self._run(lambda i, o: self.case.make(self.library, i, o), graph, name, variables, value))
        joined = values[0] if self.relation == "chain" else JOIN[self.relation][1](*values)
        return self._run(self.dense, graph, "post", variables, joined)

    def _run(self, make: Any, graph: nas.Graph, name: str, variables: Any, x: jax.Array) -> jax.Array:
        module = make(graph.nin(name)[0], graph.nout(name))
        own = {collection: tree[name] for collection, tree in variables.items() if name in tree}
        if self.library == "linen":
            return module.apply(own, x)
        for leaves in own.values():
            for leaf, value in leaves.items():
                assert getattr(module, leaf)[...].shape == value.shape
                getattr(module, leaf)[...] = value
        return module(x)

    def sides(self, vertex: str, leaf: str) -> dict[int, str]:
        depthwise = vertex in self.twins and self.case is CASES["depthwise"] and leaf == "kernel"
        return SIDES["depthwise kernel" if depthwise else leaf]


JOIN: dict[str, tuple[Any, Any]] = {
    "add": (lambda a, b: (a + b).named("join"), lambda a, b: a + b),
    "concat": (lambda a, b: nas.concat("join", a, b), lambda a, b: jnp.concatenate([a, b], -1)),
}


def random_like(shapes: Any) -> Any:
    """Random variables: nothing is 0 or 1, variances are positive."""
    paths, treedef = jax.tree_util.tree_flatten_with_path(shapes)
    rng = np.random.default_rng(5)
    values = [rng.normal(size=leaf.shape) for _, leaf in paths]
    positive = [np.abs(v) + 0.5 if path[-1].key == "var" else v for (path, _), v in zip(paths, values, strict=True)]
    return treedef.unflatten([jnp.asarray(v, jnp.float32) for v in positive])


def changes(network: Network, kind: str) -> dict[str, int]:
    """Requests for the neurons that the layer reads and, if they are others, for those it makes."""
    below, above = network.source("layer"), "layer"
    if not network.case.absorbs:
        return {"shrink": {below: -2}, "grow": {below: 3}, "both": {below: -2, "x": 1}}[kind]
    return {"shrink": {below: -2, above: -3}, "grow": {below: 2, above: 3}, "both": {below: 2, above: -2}}[kind]


@pytest.mark.parametrize("kind", ["shrink", "grow", "both"])
@pytest.mark.parametrize("relation", ["chain", "add", "concat"])
@pytest.mark.parametrize("library", ["linen", "nnx"])
@pytest.mark.parametrize("name", CASES)
def test_resizes(name: str, library: str, relation: str, kind: str):
    network = Network(CASES[name], library, relation)
    request = changes(network, kind)
    mutation = nas.delta_nout(network.graph, network.variables, request)
    for vertex, change in request.items():
        assert mutation.graph.nout(vertex) == network.graph.nout(vertex) + change
    assert_is_sliced(network, mutation)
    assert_agrees_by_hand(network, mutation)
    check = mutation.check(network.x)
    renumbered = network.tokens and mutation.graph.nout("x") != VOCABULARY
    assert check.compared is not (network.case.coupled or renumbered)


def assert_agrees_by_hand(network: Network, mutation: nas.Mutation):
    """The new variables fit a fresh network of the new sizes, and Flax computes the same with them."""
    graph, variables = mutation
    x = network.inputs(graph.nout("x"))
    fresh = jax.eval_shape(graph.init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, fresh)
    expected = network.by_hand(graph, variables, x)
    np.testing.assert_allclose(graph.apply(variables, x), expected, rtol=1e-4, atol=1e-5)


def assert_is_sliced(network: Network, mutation: nas.Mutation):
    """Every number of a neuron that stayed is where its neuron is."""
    for collection, vertices in network.variables.items():
        for vertex, leaves in vertices.items():
            (below,) = network.graph.inputs_of(vertex)
            indices = {"in": mutation.indices(below), "out": mutation.indices(vertex)}
            for leaf, old in leaves.items():
                new, wanted = np.asarray(mutation.variables[collection][vertex][leaf]), np.asarray(old)
                for dim, side in network.sides(vertex, leaf).items():
                    source = indices[side]
                    new = np.take(new, np.flatnonzero(source >= 0), dim)
                    wanted = np.take(wanted, source[source >= 0], dim)
                np.testing.assert_array_equal(new, wanted)


@pytest.mark.parametrize("library", ["linen", "nnx"])
@pytest.mark.parametrize("name", [name for name in CASES if name != "embed"])
def test_is_inserted_and_removed(name: str, library: str):
    case = CASES[name]
    network = Network(CASES["dense"], library, "chain")
    x = jax.random.normal(jax.random.key(0), (*case.leading, 3))
    inserted = nas.insert_vertex(
        network.graph, network.variables, "pre", lambda v: nas.layer("new", case.make(library, NIN, NIN), v)
    )
    before, after = network.graph.apply(network.variables, x), inserted.graph.apply(inserted.variables, x)
    assert inserted.check(x).compared is case.keeps
    if case.keeps:
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    removed = nas.remove_vertex(*inserted, "new")
    assert removed.graph == network.graph
    jax.tree.map(np.testing.assert_array_equal, removed.variables, network.variables)
    removed.check(x)
