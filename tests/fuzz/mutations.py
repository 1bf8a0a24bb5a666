"""Random calls of every verb, on a hand-written graph or an imported model alike."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import nnx
from vertex_grammar import shapes_of, soft_product, total

import naivenas_jax as nas
from naivenas_jax.graph.model_vertex import ModelOp
from naivenas_jax.graph.source import Source
from naivenas_jax.graph.vertices.output_shapes import shape_of


@dataclass(frozen=True)
class Call:
    """A random call of a verb.

    Attributes:
      graph, variables: the network.
      inputs: what the network is called with.
      rng: every choice is made with it.
      tag: a number of its own, for names of new vertices.
    """

    graph: nas.Graph
    variables: Any
    inputs: tuple[Any, ...]
    rng: random.Random
    tag: int

    def name(self, kind: str) -> str:
        return f"{kind}_{self.tag}"

    def handle(self) -> str:
        return self.rng.choice(list(self.graph.handles()) or ["nothing"])

    def vertex(self) -> str:
        """A vertex, or a module inside an imported model."""
        return self.rng.choice([v.name for v in self.graph.vertices] + self.modules() * 2)

    def modules(self) -> list[str]:
        found = [v.op for v in self.graph.vertices if isinstance(v.op, ModelOp)]
        return [str(getattr(place, "name", place)) for op in found for place in op.places()]

    def keywords(self, edit: bool = False) -> dict[str, Any]:
        """Keywords that most verbs take."""
        rng, ties = self.rng, self.graph.ties
        found: dict[str, Any] = {"rng": jax.random.key(rng.randrange(100))}
        if rng.random() < 0.25:
            found["free_outputs"] = True
        elif rng.random() < 0.15:
            found["free_outputs"] = (rng.choice(self.graph.outputs).name,)
        if rng.random() < 0.5:
            generator = np.random.default_rng(rng.randrange(1000))
            scores = {axis: generator.normal(size=ties.size(axis)) for axis in self.graph.handles()}
            found["utility"] = scores if rng.random() < 0.8 else scores.get
        if rng.random() < 0.4:
            found["inputs"] = list(self.inputs)
        if rng.random() < 0.25 and not edit:
            found["new"] = rng.choice(["zeros", "split", "split"])
        if rng.random() < 0.1:
            found["fallback"] = rng.choice([nas.fallback.relax, nas.fallback.keep])
        if rng.random() < 0.1 and self.graph.handles():
            handle = self.handle()
            found["constraints"] = rng.choice(
                [nas.size(handle) >= 2, nas.multiple_of(handle, 2), nas.size(handle) <= 9]
            )
        if edit:
            found["align"] = rng.choice(["auto", "auto", "grow", "shrink", "both"])
        return found

    def change(self, size: int) -> Any:
        rng = self.rng
        change = rng.choice([-3, -2, -1, -1, 1, 1, 2, 3])
        wish = max(1, size + change)
        return rng.choice([wish - size, wish - size, nas.to(wish), nas.relaxed(change), nas.relaxed(nas.to(wish)), 0])


def delta_nout(call: Call) -> nas.Mutation:
    handles = call.graph.handles()
    names = [call.handle() for _ in range(call.rng.choice([1, 1, 1, 2, 3]))]
    request = {name: call.change(handles[name].size if name in handles else 1) for name in names}
    return nas.delta_nout(call.graph, call.variables, request, **call.keywords())


def delta_nin(call: Call) -> nas.Mutation:
    graph, rng = call.graph, call.rng
    vertex = rng.choice([v for v in graph.vertices if v.inputs])
    changes = tuple(rng.choice([None, -1, 1, nas.relaxed(-2), nas.relaxed(2)]) for _ in vertex.inputs)
    return nas.delta_nin(graph, call.variables, {vertex.name: changes}, **call.keywords())


def prune(call: Call) -> nas.Mutation:
    """Neurons of negative utility go."""
    scores = nas.magnitude(call.graph, call.variables)
    part = call.rng.choice([0.1, 0.3, 0.6])
    utility = {axis: np.asarray(score) - np.quantile(score, part) for axis, score in scores.items()}
    return nas.resize(call.graph, call.variables, **{**call.keywords(), "utility": utility})


def budget(call: Call) -> nas.Mutation:
    rng = call.rng
    given: dict[str, Any] = {"max_params": rng.choice([0.5, 0.7, 0.9])}
    if rng.random() < 0.3:
        given = {"max_macs": rng.choice([0.5, 0.8]), "inputs": list(call.inputs)}
    elif rng.random() < 0.3:
        given = {"max_params": rng.choice([1.3, 2.0]), "grow": True, "max_new": 3}
    if rng.random() < 0.2:
        given["multiple_of"] = 2
    keywords = {key: value for key, value in call.keywords().items() if key not in ("utility", "inputs")}
    return nas.resize(call.graph, call.variables, **{**keywords, "time_limit": 2.0, **given})


def insert_vertex(call: Call) -> nas.Mutation:
    rng, graph = call.rng, call.graph
    after = call.vertex()
    given = call.keywords(edit=True)
    if rng.random() < 0.2:
        given["new"] = rng.choice(["init", "zeros"])
    readers = sorted(set(graph.outputs_of(after))) if after in graph else []
    if len(readers) > 1 and rng.random() < 0.3:
        given["outputs"] = [rng.choice(readers)]
    return nas.insert_vertex(graph, call.variables, after, lambda v: inserted(call, v), **given)


def inserted(call: Call, vertex: nas.Vertex) -> nas.Vertex:
    """One of many kinds of vertices that read the given one."""
    rng, size, name = call.rng, vertex.nout, call.name
    shape = shape_of(vertex)
    spatial = len(shape) - 2 if shape is not None else 0
    kinds = ["dense", "dense", "wide", "nnx", "batch", "layer", "drop", "act", "cat", "sum", "two", "total", "block"]
    kinds += ["conv", "depthwise", "rms"] if spatial in (1, 2) else []
    kind = rng.choice(kinds)
    width = max(1, size + rng.choice([-2, 2]))
    if kind == "nnx":
        return nas.layer(name("linear"), shapes_of(lambda: nnx.Linear(size, width, rngs=nnx.Rngs(0))), vertex)
    if kind == "act":
        return nas.invariant_vertex(name("act"), nn.relu, vertex)
    if kind == "cat" and size < 20:
        return nas.concat(name("cat"), vertex, nas.layer(name("beside"), nn.Dense(2), vertex))
    if kind == "sum":
        return (vertex + nas.layer(name("residual"), nn.Dense(size), vertex)).named(name("sum"))
    if kind == "total":
        beside = nas.layer(name("beside"), nn.Dense(size), vertex)
        return nas.invariant_vertex(name("total"), rng.choice([total, soft_product]), vertex, beside)
    if kind == "two":
        return nas.layer(name("second"), nn.Dense(size), nas.layer(name("first"), nn.Dense(size + 2), vertex))
    if kind == "block":
        inside = nas.input_vertex("in", size)
        hidden = nas.invariant_vertex("act", nn.relu, nas.layer("hidden", nn.Dense(3), inside))
        out = (nas.layer("out", nn.Dense(size), hidden) + inside).named("residual")
        return nas.layer(name("block"), nas.Graph(inside, out), vertex)
    modules: Mapping[str, Any] = {
        "batch": nn.BatchNorm(),
        "layer": nn.LayerNorm(),
        "rms": nn.RMSNorm(),
        "drop": nn.Dropout(0.5),
        "conv": nn.Conv(size, (rng.choice([1, 2, 3]),) * spatial),
        "depthwise": nn.Conv(size, (3,) * spatial, feature_group_count=size),
        "wide": nn.Dense(width),
    }
    return nas.layer(name(kind), modules.get(kind, nn.Dense(size)), vertex)


def remove_vertex(call: Call) -> nas.Mutation:
    graph, name = call.graph, call.vertex()
    sources = graph.inputs_of(name) if name in graph else ()
    reconnect = call.rng.choice(["all", "all", "all", "none", sources[:1] or "all"])
    return nas.remove_vertex(graph, call.variables, name, reconnect=reconnect, **call.keywords(edit=True))


def create_edge(call: Call) -> nas.Mutation:
    rng, graph = call.rng, call.graph
    names = [v.name for v in graph.vertices if v.op.takes(len(v.inputs) + 1)]
    target = rng.choice(names) if names and rng.random() < 0.8 else call.vertex()
    modules = call.modules()
    source = rng.choice(modules) if target in modules else rng.choice(graph.vertices).name
    given = call.keywords(edit=True)
    position = rng.choice([None, None, 0])
    return nas.create_edge(graph, call.variables, source, target, position=position, **given)


def remove_edge(call: Call) -> nas.Mutation:
    rng, graph = call.rng, call.graph
    several = [v for v in graph.vertices if len(v.inputs) > 1]
    target = rng.choice(several or graph.vertices[-1:]).name
    source = rng.choice(graph.inputs_of(target) or ("nothing",))
    return nas.remove_edge(graph, call.variables, source, target, **call.keywords(edit=True))


def rename(call: Call) -> nas.Mutation:
    names = [v.name for v in call.graph.vertices if not isinstance(v.op, ModelOp)]
    chosen = call.rng.sample(names, min(len(names), call.rng.choice([1, 2])))
    if len(chosen) == 2 and call.rng.random() < 0.3:
        return nas.rename(call.graph, call.variables, dict(zip(chosen, chosen[::-1], strict=True)))
    new = {name: f"{name.split('_r')[0]}_r{call.tag}{i}" for i, name in enumerate(chosen)}
    return nas.rename(call.graph, call.variables, new)


def replace_layer(call: Call) -> nas.Mutation:
    rng = call.rng
    name = call.vertex()
    handles = call.graph.handles()
    size = handles[name].size if name in handles else call.graph.nout(name) if name in call.graph else 4
    makes: list[Any] = [
        nn.Dense(size),
        nn.Dense(max(1, size + rng.choice([-1, 2]))),
        nn.Dense(size, use_bias=False),
        lambda *values: nas.invariant_vertex("any", nn.relu, *values),
        nn.BatchNorm(),
        shapes_of(lambda: nnx.LayerNorm(size, rngs=nnx.Rngs(0))),
    ]
    keep = rng.random() < 0.5
    return nas.replace_layer(call.graph, call.variables, name, rng.choice(makes), keep=keep, **call.keywords(edit=True))


def map_vertices(call: Call) -> nas.Mutation:
    """Every relu, or every dense layer, becomes something else."""

    def smooth(vertex: nas.Vertex) -> nas.Vertex | None:
        if vertex.op.describe() == "relu":
            return nas.invariant_vertex(vertex.name, nn.gelu, *vertex.inputs)
        return None

    def without_bias(vertex: nas.Vertex) -> nas.Vertex | None:
        if isinstance(getattr(vertex.op, "module", None), nn.Dense):
            return nas.layer(vertex.name, nn.Dense(vertex.nout, use_bias=False), *vertex.inputs)
        return None

    return nas.map_vertices(call.graph, call.variables, call.rng.choice([smooth, without_bias]))


def change_kernel(call: Call) -> nas.Mutation:
    convs = [v for v in call.graph.vertices if hasattr(getattr(v.op, "module", None), "kernel_size")]
    if not convs:
        return nas.change_kernel(call.graph, call.variables, {call.vertex(): (3,)})
    vertex = call.rng.choice(convs)
    size = vertex.op.module.kernel_size
    dims = 1 if isinstance(size, int) else len(size)
    window = tuple(call.rng.choice([1, 2, 3, 5]) for _ in range(dims))
    return nas.change_kernel(call.graph, call.variables, {vertex.name: window})


def widen_then_narrow(call: Call) -> nas.Mutation:
    """Neurons come and others go in one change: an exact request up and one down."""
    handles = call.graph.handles()
    if len(handles) < 2:
        return delta_nout(call)
    up, down = call.rng.sample(list(handles), 2)
    request = {up: 2, down: max(1 - handles[down].size, -1)}
    return nas.delta_nout(call.graph, call.variables, request, **call.keywords())


VERBS: dict[str, Callable[[Call], nas.Mutation]] = {
    function.__name__: function
    for function in (
        *(delta_nout, delta_nin, prune, budget, insert_vertex, remove_vertex, create_edge, remove_edge),
        *(rename, replace_layer, map_vertices, change_kernel, widen_then_narrow),
    )
}
WEIGHTS = {"delta_nout": 8, "prune": 3, "budget": 2, "insert_vertex": 4, "remove_vertex": 2, "widen_then_narrow": 3}
#: Verbs that change widths and nothing else.
WIDTHS = ("delta_nout", "delta_nin", "prune", "budget", "widen_then_narrow")


def random_verb(rng: random.Random) -> str:
    return rng.choices(list(VERBS), [WEIGHTS.get(name, 1) for name in VERBS])[0]


def is_tokens(vertex: nas.Vertex) -> bool:
    return isinstance(vertex.op, Source) and vertex.op.whole
