"""Random hand-written graphs: every registered layer, in linen and nnx, and every kind of vertex."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from strategies import Grower, Node, random_inputs, random_variables
from subject import Subject, rng_of

import naivenas_jax as nas


def softmax(x: Any) -> Any:
    return jax.nn.softmax(x)


def total(*values: Any) -> Any:
    return sum(values)


def soft_product(*values: Any) -> Any:
    product = values[0]
    for value in values[1:]:
        product = product * jnp.tanh(value)
    return product


CELLS = {
    "LSTMCell": nnx.LSTMCell,
    "OptimizedLSTMCell": nnx.OptimizedLSTMCell,
    "GRUCell": nnx.GRUCell,
    "SimpleCell": nnx.SimpleCell,
}


def shapes_of(make: Callable[[], nnx.Module]) -> nnx.Module:
    """An nnx layer with shapes for arrays, which compiles nothing."""
    return nnx.eval_shape(make)


@dataclass
class VertexGrower(Grower):
    """`Grower` with further kinds of vertices; half of the layers are of nnx."""

    def linear(self, node: Node) -> Node:
        """A dense layer of nnx, without bias at times."""
        size, bias = self.size(), self.rng.random() < 0.5
        module = shapes_of(lambda: nnx.Linear(node.vertex.nout, size, use_bias=bias, rngs=nnx.Rngs(0)))
        return self.layer("linear", module, node)

    def layer(self, kind: str, module: Any, node: Node, spatial: tuple[int, ...] | None = None) -> Node:
        made = nas.layer(self.name(kind), module, node.vertex)
        return self.add(made, node.spatial if spatial is None else spatial)

    def general(self, node: Node) -> Node:
        if self.rng.random() < 0.5:
            return self.layer("general", nn.DenseGeneral(self.size()), node)
        size, nout = node.vertex.nout, self.size()
        return self.layer("einsum", nn.Einsum((nout, size), "...a,ca->...c"), node)

    def more_convs(self, node: Node) -> Node:
        if not node.spatial:
            return self.linear(node)
        size, window = node.vertex.nout, (self.rng.choice([1, 2, 3]),) * len(node.spatial)
        kind = self.rng.choice(["grouped", "transposed", "depthwise times 2", "nnx", "local"])
        if kind == "grouped":
            groups = self.rng.choice([n for n in (2, 3, 4) if size % n == 0] or [1])
            nout = groups * self.rng.randint(1, 3)
            return self.layer("grouped", nn.Conv(nout, window, feature_group_count=groups), node)
        if kind == "transposed":
            swapped = self.rng.random() < 0.3
            module = nn.ConvTranspose(self.size(), window, transpose_kernel=swapped)
            return self.layer("transposed", module, node)
        if kind == "depthwise times 2" and size < 12:
            return self.layer("depthwise", nn.Conv(2 * size, window, feature_group_count=size), node)
        if kind == "local":
            return self.layer("local", nn.ConvLocal(self.size(), window), node)
        nout = self.size()
        return self.layer("conv", shapes_of(lambda: nnx.Conv(size, nout, window, rngs=nnx.Rngs(0))), node)

    def more_norms(self, node: Node) -> Node:
        size = node.vertex.nout
        kinds = ["RMSNorm", "nnx batch", "nnx layer", "PReLU", "weight", "spectral"]
        kinds += ["GroupNorm"] * (size % 2 == 0) + ["InstanceNorm"] * bool(node.spatial)
        kind = self.rng.choice(kinds)
        if kind == "nnx batch":
            return self.layer("norm", shapes_of(lambda: nnx.BatchNorm(size, rngs=nnx.Rngs(0))), node)
        if kind == "nnx layer":
            return self.layer("norm", shapes_of(lambda: nnx.LayerNorm(size, rngs=nnx.Rngs(0))), node)
        if kind == "weight":
            return self.layer("weight", nn.WeightNorm(nn.Dense(self.size())), node)
        if kind == "spectral":
            return self.layer("spectral", nn.SpectralNorm(nn.Dense(self.size())), node)
        module = nn.GroupNorm(2) if kind == "GroupNorm" else getattr(nn, kind)()
        return self.layer("norm", module, node)

    def attention(self, node: Node) -> Node:
        if len(node.spatial) != 1:
            return self.general(node)
        heads = self.rng.choice([1, 2, 3])
        size, inner = self.size(), heads * self.rng.randint(1, 3)
        if self.rng.random() < 0.5:
            module = nn.MultiHeadDotProductAttention(heads, qkv_features=inner, out_features=size)
        else:
            read = node.vertex.nout
            module = shapes_of(
                lambda: nnx.MultiHeadAttention(
                    heads, read, qkv_features=inner, out_features=size, decode=False, rngs=nnx.Rngs(0)
                )
            )
        return self.layer("attention", module, node)

    def recurrent(self, node: Node) -> Node:
        if len(node.spatial) != 1:
            return self.linear(node)
        cell, size, read = self.rng.choice(list(CELLS)), self.rng.randint(2, 5), node.vertex.nout
        kind = self.rng.choice(["linen", "nnx", "both ways"])
        if kind == "nnx":
            return self.layer("rnn", shapes_of(lambda: nnx.RNN(CELLS[cell](read, size, rngs=nnx.Rngs(0)))), node)
        there = nn.RNN(getattr(nn, cell)(size))
        if kind == "both ways":
            return self.layer("rnn", nn.Bidirectional(there, nn.RNN(nn.SimpleCell(self.rng.randint(2, 4)))), node)
        return self.layer("rnn", there, node)

    def any_number(self, node: Node) -> Node:
        """A function of any number of inputs."""
        others = [self.partner(node) for _ in range(self.rng.randint(1, 2))]
        fn = self.rng.choice([total, soft_product])
        made = nas.invariant_vertex(self.name("total"), fn, node.vertex, *(other.vertex for other in others))
        return self.add(made, node.spatial)

    def mixed(self, node: Node) -> Node:
        return self.add(nas.invariant_vertex(self.name("softmax"), softmax, node.vertex), node.spatial)

    def tied_words(self, node: Node) -> Node:
        """An embedding, and logits by the same table."""
        words, size = self.size(), node.vertex.nout
        tokens = nas.input_vertex(self.name("tokens"), words, shape=(3,), dtype="int32")
        self.inputs.append(tokens)
        embed = nas.layer(self.name("embed"), nn.Embed(words, size), tokens)
        self.add(embed, (3,))
        read = node if node.spatial == (3,) else self.nodes[-1]
        hidden = nas.layer(self.name("dense"), nn.Dense(size), read.vertex)
        return self.add(nas.attend(self.name("attend"), embed, hidden), (3,))

    def low_rank(self, node: Node) -> Node:
        size, nout, rank = node.vertex.nout, self.size(), self.rng.randint(1, 3)
        return self.layer("lora", shapes_of(lambda: nnx.LoRALinear(size, nout, lora_rank=rank, rngs=nnx.Rngs(0))), node)

    def block(self, number: int) -> Node:
        kinds: Sequence[Callable[[Node], Node]] = [
            *(self.dense, self.conv, self.norm, self.activation, self.pool, self.flatten),
            *(self.elementwise, self.elementwise, self.concat, self.subgraph, self.custom),
            *(self.linear, self.general, self.more_convs, self.more_convs, self.more_norms, self.more_norms),
            *(self.attention, self.recurrent, self.any_number, self.mixed, self.low_rank, self.immutable),
        ]
        if number == 0 and self.rng.random() < 0.15:
            return self.tied_words(self.pick())
        return self.rng.choice(kinds)(self.pick())


def vertices(seed: int, blocks: Sequence[int]) -> Subject:
    """A random hand-written graph.

    Args:
      seed: of the graph.
      blocks: the numbers of the blocks that it is made of: each depends on its number and on what is there.
    """
    grower = VertexGrower(rng_of(seed, "inputs"), sizes=(2, 6))
    for _ in range(grower.rng.randint(1, 2)):
        grower.input(grower.rng.choice(["vector", "sequence", "sequence", "image", "tokens"]))
    for number in blocks:
        grower.rng = rng_of(seed, "block", number)
        grower.block(number)
    grower.rng = rng_of(seed, "outputs")
    last = grower.nodes[-1]
    outputs = [grower.dense(last)] if grower.rng.random() < 0.8 else [last]
    if grower.rng.random() < 0.2:
        outputs.append(grower.rng.choice(grower.nodes))
    chosen = list(dict.fromkeys(node.vertex for node in outputs))
    graph = nas.Graph(grower.inputs, chosen)
    inputs = tuple(np.asarray(x) for x in random_inputs(graph, seed))
    return Subject(graph, random_variables(graph, seed), inputs, "vertices")
