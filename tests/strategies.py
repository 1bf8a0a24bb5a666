"""Random networks, requests and utilities for property tests. Small, so that hundreds of them are quick."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

import naivenas_jax as nas


# Functions are compared by identity and probed once each, so they are made once.
def positive(x):
    """Denominators."""
    return 1.0 + x * x


def shifted(x):
    """Not zero where its input is."""
    return jnp.cos(x) + 0.5


def max_pool(x):
    return nn.max_pool(x, (2, 2), strides=(1, 1), padding="SAME")


def mean_pool(x):
    return nn.avg_pool(x, (2, 2), strides=(2, 2))


def max_pool_1d(x):
    return nn.max_pool(x, (2,), strides=(2,), padding="SAME")


def global_mean(x):
    return x.mean(axis=tuple(range(1, x.ndim - 1)))


def reverse_neurons(x):
    return x[..., ::-1]


def low_rank(params, x):
    with np.errstate(invalid="ignore"):  # set by BLAS for lanes that are not used
        return x @ params["down"] @ params["up"]


ACTIVATIONS = (nn.relu, jnp.tanh, nn.sigmoid, shifted)


@dataclass
class Node:
    """A vertex, and the shape of its output between batch and neurons."""

    vertex: nas.Vertex
    spatial: tuple[int, ...]


@dataclass
class Grower:
    """Grows a random graph vertex by vertex."""

    rng: random.Random
    nodes: list[Node] = field(default_factory=list)
    inputs: list[nas.Vertex] = field(default_factory=list)
    numbers: int = 0
    sizes: tuple[int, int] = (3, 8)

    def name(self, kind: str) -> str:
        self.numbers += 1
        return f"{kind}{self.numbers}"

    def size(self) -> int:
        return self.rng.randint(*self.sizes)

    def add(self, vertex: nas.Vertex, spatial: tuple[int, ...]) -> Node:
        node = Node(vertex, spatial)
        self.nodes.append(node)
        return node

    def input(self, kind: str) -> None:
        size = self.size()
        spatial = {"vector": (), "sequence": (3,), "image": (3, 4), "tokens": (3,)}[kind]
        if kind == "tokens":
            vertex = nas.input_vertex(self.name("tokens"), size, shape=spatial, dtype="int32")
            self.inputs.append(vertex)
            self.add(nas.layer(self.name("embed"), nn.Embed(size, self.size()), vertex), spatial)
            return
        vertex = nas.input_vertex(self.name(kind), size, shape=(*spatial, size))
        self.inputs.append(vertex)
        self.add(vertex, spatial)

    def pick(self) -> Node:
        # later vertices rather than earlier ones, which makes graphs deep
        return self.nodes[max(self.rng.randrange(len(self.nodes)) for _ in range(2))]

    def dense(self, node: Node, size: int | None = None) -> Node:
        return self.add(nas.layer(self.name("dense"), nn.Dense(size or self.size()), node.vertex), node.spatial)

    def conv(self, node: Node) -> Node:
        if not node.spatial:
            return self.dense(node)
        window = (2,) * len(node.spatial)
        kind = self.rng.randrange(4)
        if kind == 0:  # depthwise
            size = node.vertex.nout
            module = nn.Conv(size, window, feature_group_count=size)
        else:
            module = nn.Conv(self.size(), window, use_bias=kind != 1)
        return self.add(nas.layer(self.name("conv"), module, node.vertex), node.spatial)

    def norm(self, node: Node) -> Node:
        module = self.rng.choice([nn.BatchNorm(), nn.LayerNorm(), nn.Dropout(0.5)])
        return self.add(nas.layer(self.name(type(module).__name__.lower()), module, node.vertex), node.spatial)

    def activation(self, node: Node) -> Node:
        fn = self.rng.choice(ACTIVATIONS)
        return self.add(nas.invariant_vertex(self.name("act"), fn, node.vertex), node.spatial)

    def pool(self, node: Node) -> Node:
        if not node.spatial:
            return self.activation(node)
        choices = [(global_mean, ())]
        if len(node.spatial) == 2:
            choices += [(max_pool, node.spatial)]
            if min(node.spatial) >= 2:
                choices += [(mean_pool, tuple((n - 2) // 2 + 1 for n in node.spatial))]
        else:
            choices += [(max_pool_1d, ((node.spatial[0] + 1) // 2,))]
        fn, spatial = self.rng.choice(choices)
        return self.add(nas.invariant_vertex(self.name("pool"), fn, node.vertex), spatial)

    def flatten(self, node: Node) -> Node:
        if not node.spatial:
            return self.dense(node)
        return self.add(nas.flatten(self.name("flat"), node.vertex), ())

    def partner(self, node: Node) -> Node:
        """A vertex that can be added to this one: there already, or projected to its size."""
        same = [other for other in self.nodes if other.spatial == node.spatial]
        fitting = [other for other in same if other.vertex.nout == node.vertex.nout and other is not node]
        if fitting and self.rng.random() < 0.8:
            return self.rng.choice(fitting)
        return self.dense(self.rng.choice(same), node.vertex.nout)

    def elementwise(self, node: Node) -> Node:
        kind = self.rng.choice("++*-/n1")
        if kind == "n":
            return self.add((-node.vertex).named(self.name("neg")), node.spatial)
        if kind == "1":
            single = self.dense(node, 1)
            return self.add((node.vertex * single.vertex).named(self.name("gate")), node.spatial)
        other = self.partner(node)
        if kind == "/":
            below = self.add(nas.invariant_vertex(self.name("pos"), positive, other.vertex), other.spatial)
            return self.add((node.vertex / below.vertex).named(self.name("div")), node.spatial)
        made = {"+": node.vertex.__add__, "*": node.vertex.__mul__, "-": node.vertex.__sub__}[kind](other.vertex)
        return self.add(made.named(self.name("sum")), node.spatial)

    def concat(self, node: Node) -> Node:
        same = [other for other in self.nodes if other.spatial == node.spatial]
        members = [node, *(self.rng.choice(same) for _ in range(self.rng.randint(1, 2)))]
        if sum(member.vertex.nout for member in members) > 8 * self.sizes[1]:
            return self.dense(node)
        self.rng.shuffle(members)
        return self.add(nas.concat(self.name("cat"), *(m.vertex for m in members)), node.spatial)

    def subgraph(self, node: Node) -> Node:
        size = node.vertex.nout
        inside = nas.input_vertex("in", size)
        hidden = nas.layer("hidden", nn.Dense(self.size()), inside)
        out: nas.Vertex = nas.layer("out", nn.Dense(size), nas.invariant_vertex("act", nn.relu, hidden))
        if self.rng.random() < 0.6:
            out = (out + inside).named("residual")
        return self.add(nas.layer(self.name("block"), nas.Graph(inside, out), node.vertex), node.spatial)

    def custom(self, node: Node) -> Node:
        params = {"down": "in r", "up": "r out"}
        made = nas.absorb_vertex(
            self.name("lowrank"),
            low_rank,
            node.vertex,
            nout=self.size(),
            params=params,
            inner={"r": self.rng.randint(1, 3)},
        )
        return self.add(made, node.spatial)

    def immutable(self, node: Node) -> Node:
        if self.rng.random() < 0.7:  # many of them freeze everything
            return self.dense(node)
        made = nas.immutable_vertex(self.name("frozen"), reverse_neurons, node.vertex, nout=node.vertex.nout)
        return self.add(made, node.spatial)

    def step(self) -> Node:
        kinds = [self.dense, self.conv, self.conv, self.norm, self.activation, self.pool, self.flatten]
        kinds += [self.elementwise] * 4 + [self.concat] * 2 + [self.subgraph, self.custom, self.immutable]
        return self.rng.choice(kinds)(self.pick())


def random_graph(
    rng: random.Random, steps: tuple[int, int] = (3, 12), images: bool = True, sizes: tuple[int, int] = (3, 8)
) -> nas.Graph:
    """A random network. ``images=False``: no axes but batch and neurons, which is quicker to make and run."""
    grower = Grower(rng, sizes=sizes)
    kinds = ["vector", "sequence", "image", "tokens"] if images else ["vector"]
    for _ in range(rng.randint(1, 2)):
        grower.input(rng.choice(kinds))
    for _ in range(rng.randint(*steps)):
        grower.step()
    outputs = [grower.nodes[-1]]
    if rng.random() < 0.7:  # a head, so that what lies before it may change
        outputs = [grower.dense(outputs[0])]
    if rng.random() < 0.3:
        outputs.append(rng.choice(grower.nodes))
    chosen = list(dict.fromkeys(node.vertex for node in outputs))
    return nas.Graph(grower.inputs, chosen)


def random_request(rng: random.Random, graph: nas.Graph, kinds: str = "eerrtz", most: int = 3) -> dict[str, Any]:
    """Requests for one to three axes. Kinds: exact change, relaxed, to, zero."""
    axes = [axis for axis in graph.ties.axes if "[" not in axis]
    ends = {v.name for v in (*graph.inputs, *graph.outputs)}
    inner = [axis for axis in axes if axis not in ends] or axes
    request: dict[str, Any] = {}
    for _ in range(min(rng.randint(1, most), rng.randint(1, most))):
        axis = rng.choice(inner if rng.random() < 0.85 else axes)
        size, kind = graph.ties.size(axis), rng.choice(kinds)
        change = rng.choice([-3, -2, -1, 1, 2, 3]) if rng.random() < 0.9 else rng.randint(-8, 20)
        if kind == "z":
            request[axis] = rng.choice([0, nas.relaxed(0)])
        elif kind == "r":
            request[axis] = nas.relaxed(rng.choice([change, nas.to(max(0, size + change))]))
        else:
            wish = max(1, size + change)
            request[axis] = nas.to(wish) if kind == "t" else wish - size
    return request


def random_utility(rng: random.Random, graph: nas.Graph) -> dict[str, np.ndarray]:
    """Scores for some axes: of any sign, equal ones, zeros."""
    generator = np.random.default_rng(rng.randrange(2**31))
    utility = {}
    for axis in graph.ties.axes:
        size, kind = (
            graph.ties.size(axis),
            rng.choice(["normal", "normal", "rounded", "zero", "none", "equal", "positive"]),
        )
        scores = {
            "normal": generator.normal(size=size),
            "rounded": generator.normal(size=size).round(),
            "zero": np.zeros(size),
            "equal": np.full(size, 0.5),
            "positive": generator.uniform(size=size),
        }
        if kind != "none":
            utility[axis] = scores[kind]
    return utility


def placeholder_variables(graph: nas.Graph, seed: int = 0) -> dict[str, Any]:
    """Variables of the right axes, without tracing anything. Fixed dimensions, such as windows, have size 1."""
    generator = np.random.default_rng(seed)
    tree: dict[str, Any] = {}
    for path, leaf in graph.ties.leaves.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        shape = tuple(1 if axis is None else graph.ties.size(axis) for axis in leaf.axes)
        node[path[-1]] = generator.normal(size=shape).astype(np.float32)
    return tree


def random_variables(graph: nas.Graph, seed: int = 0) -> dict[str, Any]:
    """Variables of the right shapes, random everywhere: biases, scales and statistics too."""
    arrays = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in random_inputs(graph)]
    shapes = jax.eval_shape(lambda *xs: graph.init(jax.random.key(0), *xs), *arrays)
    generator = np.random.default_rng(seed)

    def value(path: Any, leaf: Any) -> np.ndarray:
        array = generator.normal(size=leaf.shape) * 0.5
        if path[-1].key in ("var", "scale"):
            array = np.abs(array) + 0.5
        return array.astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(value, shapes)


def random_inputs(graph: nas.Graph, seed: int = 0, batch: int = 2) -> list[np.ndarray]:
    """One array per input."""
    generator = np.random.default_rng(seed)
    arrays = []
    for vertex in graph.inputs:
        source: Any = vertex.op
        shape = (batch, *source.shape)
        if source.whole:
            arrays.append(generator.integers(source.size, size=shape).astype(np.int32))
        else:
            arrays.append(generator.normal(size=shape).astype(np.float32))
    return arrays


@st.composite
def graphs(draw: Any, **keywords: Any) -> nas.Graph:
    """Random networks; hypothesis makes every choice, so that it can simplify what fails."""
    return random_graph(draw(st.randoms(use_true_random=False)), **keywords)


@st.composite
def problems(draw: Any, kinds: str = "eerrtz", **keywords: Any) -> tuple[nas.Graph, dict[str, Any], Mapping[str, Any]]:
    """A network, a request and a utility."""
    rng = draw(st.randoms(use_true_random=False))
    graph = random_graph(rng, **keywords)
    return graph, random_request(rng, graph, kinds), random_utility(rng, graph)
