"""Networks to measure on, in the graph language. Only their shape matters, so nothing here is ever evaluated."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

import naivenas_jax as nas


def max_pool(x):
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")


def mean_pool(x):
    return nn.avg_pool(x, (2, 2), strides=(2, 2))


def global_mean(x):
    return x.mean(axis=(1, 2))


def attend(q, k, v, heads=8):
    """Attention with the projections done by other vertices."""
    q, k, v = (x.reshape(*x.shape[:-1], heads, -1) for x in (q, k, v))
    return jax.nn.dot_product_attention(q, k, v).reshape(*q.shape[:-2], -1)


def conv(name: str, size: int, vertex: nas.Vertex, window: int = 3, stride: int = 1) -> nas.Vertex:
    return nas.layer(name, nn.Conv(size, (window, window), strides=stride, use_bias=False), vertex)


def norm(name: str, vertex: nas.Vertex) -> nas.Vertex:
    return nas.layer(name, nn.BatchNorm(), vertex)


def relu(name: str, vertex: nas.Vertex) -> nas.Vertex:
    return nas.invariant_vertex(name, nn.relu, vertex)


def dense(name: str, size: int, vertex: nas.Vertex) -> nas.Vertex:
    return nas.layer(name, nn.Dense(size), vertex)


def mlp(layers: int = 8, width: int = 1024) -> nas.Graph:
    """A chain of dense layers."""
    x = vertex = nas.input_vertex("x", 784)
    for i in range(layers):
        vertex = relu(f"relu{i}", dense(f"dense{i}", width, vertex))
    return nas.Graph(x, dense("out", 10, vertex))


def chain(layers: int, width: int) -> nas.Graph:
    """Dense layers and nothing else."""
    x = vertex = nas.input_vertex("x", 64)
    for number in range(layers):
        vertex = dense(f"dense{number}", width, vertex)
    return nas.Graph(x, dense("out", 10, vertex))


def resnet50() -> nas.Graph:
    """He et al., Deep Residual Learning for Image Recognition, 2015."""
    image = nas.input_vertex("image", 3)
    stem = relu("stem/relu", norm("stem/norm", conv("stem/conv", 64, image, 7, 2)))
    vertex = nas.invariant_vertex("stem/pool", max_pool, stem)
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            vertex = _bottleneck(f"stage{stage}/{block}", vertex, 64 * 2**stage, stride, project=not block)
    return nas.Graph(image, dense("out", 1000, nas.invariant_vertex("mean", global_mean, vertex)))


def _bottleneck(name: str, vertex: nas.Vertex, width: int, stride: int, project: bool) -> nas.Vertex:
    inner = relu(f"{name}/relu1", norm(f"{name}/norm1", conv(f"{name}/conv1", width, vertex, 1)))
    inner = relu(f"{name}/relu2", norm(f"{name}/norm2", conv(f"{name}/conv2", width, inner, 3, stride)))
    inner = norm(f"{name}/norm3", conv(f"{name}/conv3", 4 * width, inner, 1))
    if project:
        vertex = norm(f"{name}/norm0", conv(f"{name}/conv0", 4 * width, vertex, 1, stride))
    return relu(f"{name}/relu3", (inner + vertex).named(f"{name}/add"))


def densenet121(growth: int = 32) -> nas.Graph:
    """Huang et al., Densely Connected Convolutional Networks, 2016."""
    image = nas.input_vertex("image", 3)
    stem = relu("stem/relu", norm("stem/norm", conv("stem/conv", 2 * growth, image, 7, 2)))
    vertex = nas.invariant_vertex("stem/pool", max_pool, stem)
    for stage, layers in enumerate((6, 12, 24, 16)):
        for i in range(layers):
            name = f"stage{stage}/{i}"
            inner = relu(f"{name}/relu1", norm(f"{name}/norm1", vertex))
            inner = relu(f"{name}/relu2", norm(f"{name}/norm2", conv(f"{name}/conv1", 4 * growth, inner, 1)))
            vertex = nas.concat(f"{name}/concat", vertex, conv(f"{name}/conv2", growth, inner))
        if stage < 3:
            inner = relu(f"between{stage}/relu", norm(f"between{stage}/norm", vertex))
            halved = conv(f"between{stage}/conv", vertex.nout // 2, inner, 1)
            vertex = nas.invariant_vertex(f"between{stage}/pool", mean_pool, halved)
    last = relu("relu", norm("norm", vertex))
    return nas.Graph(image, dense("out", 1000, nas.invariant_vertex("mean", global_mean, last)))


def transformer(layers: int = 6, width: int = 512) -> nas.Graph:
    """An encoder with normalisation first. What lies between the heads is immutable; the rest is free."""
    tokens = nas.input_vertex("tokens", 10_000, dtype="int32")
    vertex: nas.Vertex = nas.layer("embed", nn.Embed(10_000, width), tokens)
    for i in range(layers):
        normed = nas.layer(f"{i}/norm1", nn.LayerNorm(), vertex)
        q, k, v = (dense(f"{i}/{part}", width, normed) for part in "qkv")
        attended = nas.immutable_vertex(f"{i}/attend", attend, q, k, v, nout=width)
        vertex = (vertex + dense(f"{i}/project", width, attended)).named(f"{i}/add1")
        normed = nas.layer(f"{i}/norm2", nn.LayerNorm(), vertex)
        hidden = nas.invariant_vertex(f"{i}/gelu", nn.gelu, dense(f"{i}/up", 4 * width, normed))
        vertex = (vertex + dense(f"{i}/down", width, hidden)).named(f"{i}/add2")
    return nas.Graph(tokens, dense("out", 1000, nas.layer("norm", nn.LayerNorm(), vertex)))


def random_nas(count: int = 500, seed: int = 0) -> nas.Graph:
    """What a long random search may end with: layers, sums and stacks in any order."""
    rng = random.Random(seed)
    x = nas.input_vertex("x", 64)
    found = [dense("stem", 64, x)]
    while len(found) < count - 3:
        vertex, name = found[max(rng.randrange(len(found)) for _ in range(3))], f"v{len(found)}"
        other = next((v for v in rng.sample(found, min(30, len(found))) if v.nout == vertex.nout), None)
        match rng.choice(["dense", "dense", "relu", "norm", "add", "add", "concat"]):
            case "relu":
                found.append(relu(name, vertex))
            case "norm":
                found.append(norm(name, vertex))
            case "add" if other not in (None, vertex):
                found.append((vertex + other).named(name))
            case "concat" if vertex.nout + found[-1].nout <= 512:
                found.append(nas.concat(name, vertex, found[-1]))
            case _:
                found.append(dense(name, rng.choice([16, 32, 64, 128]), vertex))
    sinks = set(found) - {source for vertex in found for source in vertex.inputs}
    last = nas.concat("last", *(vertex for vertex in found if vertex in sinks))
    return nas.Graph(x, dense("out", 10, nas.invariant_vertex("act", jnp.tanh, last)))


#: What makes a network, the layer that is shrunk and grown, and a second one for mixed requests.
Network = tuple[Callable[[], nas.Graph], str, str]
GRAPHS: dict[str, Network] = {
    "MLP": (mlp, "dense3", "dense5"),
    "ResNet-50": (resnet50, "stage2/1/conv3", "stage1/0/conv1"),
    "DenseNet-121": (densenet121, "stage2/5/conv2", "between1/conv"),
    "transformer": (transformer, "3/down", "2/up"),
    "random NAS, 500": (random_nas, "v96", "v9"),
}
#: For a short run.
SMALL: dict[str, Network] = {"small MLP": (partial(mlp, layers=3, width=16), "dense1", "dense2")}
