"""What cannot be meant is refused: with an exception of ours that says what to do, and nothing half-changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import naivenas_jax as nas

ONES = jnp.ones((2, 3))


def low_rank(params, x):
    return x @ params["down"] @ params["up"]


def softplus(x):
    return jnp.logaddexp(x, 0.0)


def halves(x):
    return x[..., : x.shape[-1] // 2]


class Unknown(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x


class Misregistered(nn.Module):
    width: int = 3

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.width)(x)


@dataclass(frozen=True)
class Net:
    """A graph and its variables, which a bad call gets and must leave as they are."""

    graph: nas.Graph
    variables: dict[str, Any]
    parts: dict[str, nas.Vertex] = field(default_factory=dict)


@cache
def net() -> Net:
    """x -> a, b -> a + b -> act;  concat(act, c) -> out."""
    x = nas.input_vertex("x", 3)
    a, b, c = (nas.layer(name, nn.Dense(size), x) for name, size in (("a", 4), ("b", 4), ("c", 5)))
    total = (a + b).named("sum")
    act = nas.invariant_vertex("act", nn.relu, total)
    cat = nas.concat("cat", act, c)
    out = nas.layer("out", nn.Dense(2), cat)
    graph = nas.Graph(x, out)
    return Net(graph, graph.init(jax.random.key(0), ONES), {v.name: v for v in graph})


@cache
def other() -> Net:
    """Another network with the same vertex names, and sizes of its own."""
    x = nas.input_vertex("x", 3)
    hidden = nas.layer("a", nn.Dense(7), x)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), hidden))
    return Net(graph, graph.init(jax.random.key(1), ONES), {v.name: v for v in graph})


@cache
def chained(*, frozen: bool = False) -> Net:
    """x -> hidden -> (frozen: an immutable vertex) -> last;  last + skip is the output."""
    x = nas.input_vertex("x", 3)
    hidden = nas.layer("hidden", nn.Dense(4), x)
    middle = nas.immutable_vertex("middle", softplus, hidden) if frozen else hidden
    graph = nas.Graph(x, (nas.layer("last", nn.Dense(3), middle) + nas.layer("skip", nn.Dense(3), x)).named("sum"))
    return Net(graph, graph.init(jax.random.key(0), ONES))


@cache
def residual() -> Net:
    """The input is added to a layer."""
    x = nas.input_vertex("x", 3)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), (nas.layer("hidden", nn.Dense(3), x) + x).named("sum")))
    return Net(graph, graph.init(jax.random.key(0), ONES))


@cache
def cyclic() -> Net:
    """An edge from ``half`` to ``total`` would need half = half + rest."""
    x = nas.input_vertex("x", 3)
    half, rest = nas.layer("half", nn.Dense(3), x), nas.layer("rest", nn.Dense(2), x)
    total = (nas.concat("both", half, rest) + nas.layer("wide", nn.Dense(5), x)).named("total")
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), total))
    return Net(graph, graph.init(jax.random.key(0), ONES))


@dataclass(frozen=True)
class Bad:
    """A call, and what it must raise."""

    call: Callable[[Net], Any]
    error: type[nas.NaiveNASError]
    match: str
    net: Callable[[], Net] = net


def nout(request, **keywords):
    return lambda n: nas.delta_nout(n.graph, n.variables, request, **keywords)


def nin(request, **keywords):
    return lambda n: nas.delta_nin(n.graph, n.variables, request, **keywords)


def resized(**keywords):
    return lambda n: nas.resize(n.graph, n.variables, **keywords)


def insert(after, make, **keywords):
    return lambda n: nas.insert_vertex(n.graph, n.variables, after, make, **keywords)


def remove(name, **keywords):
    return lambda n: nas.remove_vertex(n.graph, n.variables, name, **keywords)


def join(source, target, **keywords):
    return lambda n: nas.create_edge(n.graph, n.variables, source, target, **keywords)


def cut(source, target, **keywords):
    return lambda n: nas.remove_edge(n.graph, n.variables, source, target, **keywords)


def dense(vertex, name="new", size=4):
    return nas.layer(name, nn.Dense(size), vertex)


def with_variables(change):
    """A shrink with changed variables."""
    return lambda n: nas.delta_nout(n.graph, change(n.variables), {"c": -1})


def without(variables, *path):
    *outer, last = path
    return {
        k: without(v, *path[1:]) if k == path[0] and outer else v for k, v in variables.items() if k != last or outer
    }


def replaced(variables, value, *path):
    if not path:
        return value
    return {**variables, path[0]: replaced(variables.get(path[0], {}), value, *path[1:])}


def shrunk(n: Net) -> nas.Mutation:
    return nas.delta_nout(n.graph, n.variables, {"c": -1})


def state_of(n: Net):
    return optax.adam(1e-3).init(n.variables["params"])


def traced(n: Net, **keywords):
    return jax.jit(lambda variables: nas.delta_nout(n.graph, variables, {"c": -1}, **keywords).variables)(n.variables)


NAMES = {
    "delta_nout of an unknown name": Bad(nout({"nope": -1}), nas.UnknownNameError, "'nope'"),
    "delta_nout of a misspelt name": Bad(nout({"outt": -1}), nas.UnknownNameError, "'outt'.*mean: 'out'"),
    "delta_nout of a number": Bad(nout({0: -1}), nas.UnknownNameError, "named 0"),
    "delta_nout of an unknown factor": Bad(nout({"a:heads": -1}), nas.UnknownNameError, "'a:heads'"),
    "delta_nin of an unknown name": Bad(nin({"nope": -1}), nas.UnknownNameError, "'nope'"),
    "delta_nin of a position": Bad(nin({1: -1}), nas.UnknownNameError, "named 1"),
    "resize of an unknown name": Bad(resized(request={"nope": 1}), nas.UnknownNameError, "'nope'"),
    "insert after an unknown name": Bad(insert("nope", dense), nas.UnknownNameError, "'nope'"),
    "insert after a position": Bad(insert(1, dense), nas.UnknownNameError, "named 1"),
    "insert before an unknown name": Bad(insert("a", dense, outputs=["nope"]), nas.UnknownNameError, "'nope'"),
    "remove an unknown name": Bad(remove("nope"), nas.UnknownNameError, "'nope'"),
    "remove a position": Bad(remove(-1), nas.UnknownNameError, "named -1"),
    "edge from an unknown name": Bad(join("nope", "cat"), nas.UnknownNameError, "'nope'"),
    "edge to an unknown name": Bad(join("a", "nope"), nas.UnknownNameError, "'nope'"),
    "remove an edge from an unknown name": Bad(cut("nope", "cat"), nas.UnknownNameError, "'nope'"),
    "remove an edge to an unknown name": Bad(cut("c", "nope"), nas.UnknownNameError, "'nope'"),
    "indices of an unknown handle": Bad(
        lambda n: shrunk(n).indices("nope"), nas.UnknownNameError, "'nope'.*'a'|'nope'.*a,"
    ),
    "ask a graph for an unknown name": Bad(lambda n: n.graph["nope"], nas.UnknownNameError, "'nope'"),
    "ask a graph for a number beyond its vertices": Bad(
        lambda n: n.graph[100], nas.UnknownNameError, r"graph\[0\] to graph\[-1\]; found graph\[100\]"
    ),
    "compose a plan with a number": Bad(lambda n: shrunk(n).plan @ 3, nas.PlanError, "found 3"),
    "compose a plan with a mutation": Bad(lambda n: shrunk(n).plan @ shrunk(n), nas.PlanError, "found Mutation"),
    "apply to a whole number": Bad(
        lambda n: n.graph.apply(n.variables, 3), nas.SizeMismatchError, r"'x' has 3 neurons.*single number.*\(\): 3"
    ),
    "apply to a list": Bad(lambda n: n.graph.apply(n.variables, [1.0]), nas.GraphError, "must be an array; found list"),
    "apply to nothing": Bad(lambda n: n.graph.apply(n.variables, None), nas.GraphError, "array; found NoneType"),
    "nin of an unknown name": Bad(lambda n: n.graph.nin("nope"), nas.UnknownNameError, "'nope'"),
    "ancestors of an unknown name": Bad(lambda n: n.graph.ancestors("nope"), nas.UnknownNameError, "'nope'"),
    "descendants of an unknown name": Bad(lambda n: n.graph.descendants("nope"), nas.UnknownNameError, "'nope'"),
    "reach of an unknown name": Bad(lambda n: n.graph.reach("a", "nope"), nas.UnknownNameError, "'nope'"),
    "outputs of a slice": Bad(lambda n: n.graph.outputs_of(slice(0, 2)), nas.UnknownNameError, "slice"),
    "find by a number": Bad(lambda n: n.graph.find(3), nas.GraphError, "pattern.*predicate.*found 3"),
}

SIZES = {
    "to zero": Bad(nout({"a": nas.to(0)}), nas.TooSmallError, "'a' has 4 neurons.*left with 0.*smallest size is 1"),
    "to a negative size": Bad(nout({"a": nas.to(-2)}), nas.TooSmallError, "'a'.*left with -2"),
    "drop all": Bad(nout({"a": -4}), nas.TooSmallError, "'a'.*left with 0.*Drop 3 at the most.*'a': -3.*remove_vertex"),
    "drop more than all": Bad(nout({"a": -9}), nas.TooSmallError, "'a'.*left with -5"),
    "a float": Bad(nout({"a": -1.5}), nas.RequestError, "'a'.*whole number.*-1.5"),
    "a whole float": Bad(nout({"a": 2.0}), nas.RequestError, "'a'.*whole number.*2.0"),
    "a bool": Bad(nout({"a": True}), nas.RequestError, "'a'.*whole number.*True"),
    "NaN": Bad(nout({"a": float("nan")}), nas.RequestError, "'a'.*whole number.*nan"),
    "text": Bad(nout({"a": "3"}), nas.RequestError, "'a'.*whole number.*'3'"),
    "nothing": Bad(nout({"a": None}), nas.RequestError, "'a'.*whole number.*None"),
    "an array": Bad(nout({"a": np.array([1, 2])}), nas.RequestError, "'a'.*whole number"),
    "to a float": Bad(lambda n: nas.to(2.5), nas.RequestError, r"nas\.to.*2\.5"),
    "to a bool": Bad(lambda n: nas.to(False), nas.RequestError, r"nas\.to.*False"),
    "relaxed text": Bad(lambda n: nas.relaxed("few"), nas.RequestError, r"nas\.relaxed.*'few'"),
    "several sizes of one vertex": Bad(nout({"a": (1, 2)}), nas.RequestError, r"'a'.*\(1, 2\)"),
    "several relaxed sizes of one vertex": Bad(nout({"a": nas.relaxed((1, 2))}), nas.RequestError, r"'a'.*\(1, 2\)"),
    "a request that is a list": Bad(nout(["a"]), nas.RequestError, "mapping.*found list"),
    "a request that is a number": Bad(nout(-1), nas.RequestError, "mapping.*found int"),
    "an input request that is a list": Bad(nin(["out"]), nas.RequestError, "mapping.*found list"),
    "one change for two inputs": Bad(nin({"cat": -1}), nas.RequestError, r"'cat' has 2 inputs \(act, c\).*found 1"),
    "three changes for two inputs": Bad(nin({"cat": (-1, None, 1)}), nas.RequestError, "'cat' has 2 inputs.*found 3"),
    "a change of an input's inputs": Bad(nin({"x": -1}), nas.RequestError, "'x' has 0 inputs.*found 1"),
    "contradicting changes of one source": Bad(nin({"a": 1, "b": 2}), nas.RequestError, "Two different.*'x'.*1 and 2"),
    "max_new negative": Bad(nout({"a": 1}, max_new=-1), nas.RequestError, "max_new.*0 or more.*-1"),
    "max_new a float": Bad(nout({"a": 1}, max_new=1.5), nas.RequestError, "max_new.*whole number.*1.5"),
    "max_new a bool": Bad(nout({"a": 1}, max_new=True), nas.RequestError, "max_new.*True"),
    "max_new text": Bad(nout({"a": 1}, max_new="many"), nas.RequestError, "max_new.*'many'"),
    "max_new of an unknown name": Bad(nout({"a": 1}, max_new={"nope": 3}), nas.UnknownNameError, "max_new.*'nope'"),
    "max_new by a function, negative": Bad(nout({"a": 1}, max_new=lambda h: -3), nas.RequestError, "max_new.*-3"),
    "max_new of an edge, NaN": Bad(join("a", "cat", max_new=float("nan")), nas.RequestError, "max_new.*nan"),
    "max_new of an edge, unknown": Bad(join("a", "cat", max_new={"no": 1}), nas.UnknownNameError, "max_new.*'no'"),
    "time limit negative": Bad(nout({"a": -1}, time_limit=-1), nas.RequestError, "time_limit.*-1"),
    "time limit NaN": Bad(nout({"a": -1}, time_limit=float("nan")), nas.RequestError, "time_limit.*nan"),
    "time limit text": Bad(cut("c", "cat", time_limit="1s"), nas.RequestError, "time_limit.*'1s'"),
    "time limit zero": Bad(nout({"cat": nas.relaxed(-3)}, time_limit=0), nas.TimeLimitError, "time limit"),
}

UTILITY = {
    "NaN": Bad(nout({"a": -1}, utility={"a": [1, np.nan, 3, 4]}), nas.UtilityError, "'a'.*nan at neuron 1"),
    "infinite": Bad(nout({"a": -1}, utility={"a": np.inf}), nas.UtilityError, "'a'.*inf"),
    "too short": Bad(nout({"a": -1}, utility={"a": [1, 2, 3]}), nas.UtilityError, r"'a' has shape \(3,\).*\(4,\)"),
    "a matrix": Bad(nout({"a": -1}, utility={"a": np.ones((4, 1))}), nas.UtilityError, r"'a' has shape \(4, 1\)"),
    "text": Bad(nout({"a": -1}, utility={"a": "high"}), nas.UtilityError, "'a' must be real numbers.*'high'"),
    "text that reads as a number": Bad(
        nout({"a": -1}, utility={"a": "3"}), nas.UtilityError, "'a' must be real numbers"
    ),
    "complex": Bad(nout({"a": -1}, utility={"a": np.ones(4) * 1j}), nas.UtilityError, "'a' must be real numbers"),
    "ragged": Bad(nout({"a": -1}, utility={"a": [[1], [2, 3]]}), nas.UtilityError, "'a' must be real numbers"),
    "unknown name": Bad(nout({"a": -1}, utility={"nope": 1.0}), nas.UtilityError, "'nope'"),
    "by a function, NaN": Bad(nout({"a": -1}, utility=lambda h: np.nan), nas.UtilityError, "not finite: nan"),
    "by a function, wrong length": Bad(nout({"a": -1}, utility=lambda h: [1, 2]), nas.UtilityError, r"shape \(2,\)"),
    "by a function, no number": Bad(nout({"a": -1}, utility=lambda h: h), nas.UtilityError, "must be real numbers"),
    "a list": Bad(nout({"a": -1}, utility=[1, 2, 3, 4]), nas.UtilityError, "mapping.*function.*found list"),
    "in resize": Bad(resized(utility={"a": [1, -np.inf, 0, 0]}), nas.UtilityError, "'a'.*-inf at neuron 1"),
    "in remove_edge": Bad(cut("c", "cat", utility={"c": [1.0]}), nas.UtilityError, r"'c' has shape \(1,\)"),
    "in create_edge": Bad(join("a", "cat", utility=lambda h: "x"), nas.UtilityError, "must be real numbers"),
    "in insert_vertex, though not needed": Bad(insert("a", dense, utility={"nope": 1}), nas.UtilityError, "'nope'"),
    "an unknown norm": Bad(lambda n: nas.magnitude(n.graph, n.variables, norm="l3"), nas.UtilityError, "norm.*'l3'"),
}

VERTICES = {
    "no name": Bad(lambda n: nas.input_vertex("", 3), nas.GraphError, "non-empty string"),
    "a name that is a number": Bad(lambda n: nas.input_vertex(3, 3), nas.GraphError, "non-empty string.*found 3"),
    "a name like a factor's": Bad(lambda n: nas.input_vertex("a:b", 3), nas.GraphError, "without ':'.*'a:b'"),
    "an input of size 0": Bad(lambda n: nas.input_vertex("i", 0), nas.GraphError, "'i'.*at least 1.*size=0"),
    "an input of negative size": Bad(lambda n: nas.input_vertex("i", -3), nas.GraphError, "'i'.*size=-3"),
    "an input of size 2.5": Bad(lambda n: nas.input_vertex("i", 2.5), nas.GraphError, "'i'.*size=2.5"),
    "an input of size True": Bad(lambda n: nas.input_vertex("i", True), nas.GraphError, "'i'.*size=True"),
    "an input of another shape": Bad(
        lambda n: nas.input_vertex("i", 3, shape=(8, 4)), nas.GraphError, "'i'.*end with 3"
    ),
    "an input whose shape is a number": Bad(
        lambda n: nas.input_vertex("i", 3, shape=3), nas.GraphError, "'i'.*shape.*3"
    ),
    "an input whose shape is text": Bad(
        lambda n: nas.input_vertex("i", 3, shape=("h", 3)), nas.GraphError, "'i'.*shape.*'h'"
    ),
    "an input with an empty dimension": Bad(
        lambda n: nas.input_vertex("i", 3, shape=(0, 3)), nas.GraphError, r"'i'.*shape.*\(0, 3\)"
    ),
    "an input of an unknown dtype": Bad(
        lambda n: nas.input_vertex("i", 3, dtype="floaty"), nas.GraphError, "'i'.*dtype.*'floaty'"
    ),
    "elementwise of unequal sizes": Bad(
        lambda n: n.parts["a"] + n.parts["c"], nas.SizeMismatchError, r"'a\+c'.*\[4, 5\].*must be equal"
    ),
    "elementwise with a number": Bad(lambda n: n.parts["a"] * 3, nas.GraphError, "'a' . int.*invariant_vertex"),
    "a number with elementwise": Bad(lambda n: 1 - n.parts["a"], nas.GraphError, "int - 'a'.*invariant_vertex.*1 - x"),
    "an array with elementwise": Bad(lambda n: np.ones(4) * n.parts["a"], nas.GraphError, r"ndarray \* 'a'"),
    "invariant of unequal sizes": Bad(
        lambda n: nas.invariant_vertex("v", jnp.add, n.parts["a"], n.parts["c"]),
        nas.SizeMismatchError,
        r"'v'.*\[4, 5\]",
    ),
    "invariant that changes the number": Bad(
        lambda n: nas.invariant_vertex("v", halves, n.parts["a"]), nas.SizeMismatchError, "'v'.*makes 2 neurons of 4"
    ),
    "invariant without a function": Bad(
        lambda n: nas.invariant_vertex("v", "relu", n.parts["a"]), nas.GraphError, "'v' needs a function.*'relu'"
    ),
    "invariant without an input": Bad(
        lambda n: nas.invariant_vertex("v", nn.relu), nas.GraphError, "'v'.*at least one"
    ),
    "invariant of an array": Bad(lambda n: nas.invariant_vertex("v", nn.relu, ONES), nas.GraphError, "'v'.*a vertex"),
    "invariant of an unhashable function": Bad(
        lambda n: nas.invariant_vertex("v", Unhashable(), n.parts["a"]), nas.GraphError, "'v' must be hashable"
    ),
    "immutable of unknown size": Bad(
        lambda n: nas.immutable_vertex("v", lambda x, y: x, n.parts["a"]), nas.GraphError, "'v'.*nout="
    ),
    "immutable of size 0": Bad(
        lambda n: nas.immutable_vertex("v", nn.relu, n.parts["a"], nout=0), nas.GraphError, "'v'.*nout=0"
    ),
    "immutable of size 2.5": Bad(
        lambda n: nas.immutable_vertex("v", nn.relu, n.parts["a"], nout=2.5), nas.GraphError, "'v'.*nout=2.5"
    ),
    "immutable without a function": Bad(
        lambda n: nas.immutable_vertex("v", None, n.parts["a"], nout=4), nas.GraphError, "'v' needs a function"
    ),
    "immutable of text": Bad(lambda n: nas.immutable_vertex("v", nn.relu, "a"), nas.GraphError, "'v'.*a vertex.*'a'"),
    "concat of nothing": Bad(lambda n: nas.concat("v"), nas.GraphError, "'v'.*at least one"),
    "concat of a list": Bad(lambda n: nas.concat("v", [n.parts["a"]]), nas.GraphError, "'v'.*a vertex.*list"),
    "flatten without a shape": Bad(
        lambda n: nas.flatten("v", n.parts["a"]), nas.GraphError, "'v'.*shape.*input_vertex"
    ),
    "flatten of text": Bad(lambda n: nas.flatten("v", "a"), nas.GraphError, "'v'.*a vertex.*'a'"),
    "absorb of size 0": Bad(
        lambda n: nas.absorb_vertex("v", low_rank, n.parts["a"], nout=0, params={}), nas.GraphError, "'v'.*nout=0"
    ),
    "absorb without a function": Bad(
        lambda n: nas.absorb_vertex("v", 3, n.parts["a"], nout=2, params={}), nas.GraphError, "'v' needs a function"
    ),
    "absorb with an unknown axis": Bad(
        lambda n: nas.absorb_vertex("v", low_rank, n.parts["a"], nout=2, params={"down": "in r"}),
        nas.GraphError,
        "'down' of vertex 'v'.*axis 'r'.*It has: in0, out",
    ),
    "absorb with an unknown size": Bad(
        lambda n: nas.absorb_vertex("v", low_rank, n.parts["a"], nout=2, params={"w": "_ in out"}),
        nas.GraphError,
        "'w' of vertex 'v'.*as a number",
    ),
    "absorb with a pattern that is a list": Bad(
        lambda n: nas.absorb_vertex("v", low_rank, n.parts["a"], nout=2, params={"w": ["in", "out"]}),
        nas.GraphError,
        "'w' of vertex 'v'.*pattern",
    ),
    "absorb with parameters in a list": Bad(
        lambda n: nas.absorb_vertex("v", low_rank, n.parts["a"], nout=2, params=["w"]),
        nas.GraphError,
        "'v'.*params.*list",
    ),
    "absorb with an inner axis of size 0": Bad(
        lambda n: nas.absorb_vertex("v", low_rank, n.parts["a"], nout=2, params={"w": "in r"}, inner={"r": 0}),
        nas.GraphError,
        "'r' of vertex 'v'.*0",
    ),
    "absorb with an inner axis named out": Bad(
        lambda n: nas.absorb_vertex("v", low_rank, n.parts["a"], nout=2, params={"w": "in out"}, inner={"out": 3}),
        nas.GraphError,
        "'out' of vertex 'v'",
    ),
}


class Unhashable:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self, x):
        return x


LAYERS = {
    "an unregistered layer": Bad(
        lambda n: nas.layer("v", Unknown(), n.parts["a"]),
        nas.UnregisteredLayerError,
        r"'v'.*Unknown.*(\n.*)*register_layer",
    ),
    "a layer that is a function": Bad(
        lambda n: nas.layer("v", nn.relu, n.parts["a"]), nas.GraphError, "'v'.*Flax layer.*invariant_vertex"
    ),
    "a layer that is nothing": Bad(lambda n: nas.layer("v", None, n.parts["a"]), nas.GraphError, "NoneType"),
    "a class in place of a layer": Bad(
        lambda n: nas.layer("v", nn.Dense, n.parts["a"]), nas.GraphError, r"'v'.*class.*Dense\(\.\.\.\)"
    ),
    "a layer without an input": Bad(lambda n: nas.layer("v", nn.Dense(2)), nas.GraphError, "'v' needs at least one"),
    "a layer of text": Bad(lambda n: nas.layer("v", nn.Dense(2), "a"), nas.GraphError, "'v'.*vertex.*'a'"),
    "a layer without neurons": Bad(
        lambda n: nas.layer("v", nn.Dense(0), n.parts["a"]), nas.GraphError, "'v'.*features=0.*at least 1"
    ),
    "a layer with 2.5 neurons": Bad(
        lambda n: nas.layer("v", nn.Dense(2.5), n.parts["a"]), nas.GraphError, "'v'.*features=2.5"
    ),
    "a layer made for another size": Bad(
        lambda n: nas.layer("v", nn.Embed(9, 3), n.parts["a"]), nas.SizeMismatchError, "'v'.*num_embeddings=9.*4"
    ),
    "a dense layer of two inputs": Bad(
        lambda n: nas.layer("v", nn.Dense(2), n.parts["a"], n.parts["b"]),
        nas.GraphError,
        r"'v': a Dense.*2 inputs.*nas\.concat",
    ),
    "a graph with two outputs": Bad(
        lambda n: nas.layer("v", nas.Graph(n.parts["x"], [n.parts["a"], n.parts["b"]]), n.parts["x"]),
        nas.GraphError,
        "'v'.*one output.*has 2",
    ),
    "a graph of other inputs": Bad(
        lambda n: nas.layer("v", n.graph, n.parts["a"]), nas.SizeMismatchError, r"'v'.*\[3\].*\[4\]"
    ),
    "register what is no class": Bad(lambda n: nas.register_layer(Unknown(), leaves={}), nas.GraphError, "layer class"),
    "register a rule and its fields": Bad(
        lambda n: nas.register_layer(Unknown, nas.LayerRule({}), leaves={}), nas.GraphError, "not both"
    ),
    "register an unknown field": Bad(
        lambda n: nas.register_layer(Unknown, leaf={"params/w": "in"}), nas.GraphError, "'leaf'.*leaves"
    ),
}

GRAPHS = {
    "two layers of one name": Bad(
        lambda n: nas.Graph(n.parts["x"], dense(dense(n.parts["x"], "d"), "d")), nas.DuplicateNameError, "'d'.*unique"
    ),
    "an input that is not listed": Bad(
        lambda n: nas.Graph(nas.input_vertex("y", 2), n.parts["out"]), nas.GraphError, "'x'.*not among.*'y'"
    ),
    "an input listed twice": Bad(
        lambda n: nas.Graph([n.parts["x"], n.parts["x"]], n.parts["out"]), nas.GraphError, r"twice: \['x', 'x'\]"
    ),
    "an input that is a layer": Bad(
        lambda n: nas.Graph(n.parts["a"], n.parts["out"]), nas.GraphError, "input_vertex.*'a'"
    ),
    "no outputs": Bad(lambda n: nas.Graph(n.parts["x"], ()), nas.GraphError, "outputs must be"),
    "outputs that are names": Bad(lambda n: nas.Graph(n.parts["x"], "out"), nas.GraphError, "outputs must be.*'out'"),
    "outputs that are a number": Bad(lambda n: nas.Graph(n.parts["x"], 3), nas.GraphError, "outputs must be.*3"),
    "outputs that are arrays": Bad(lambda n: nas.Graph(n.parts["x"], [ONES]), nas.GraphError, "outputs must be"),
    "set an attribute": Bad(lambda n: setattr(n.graph, "inputs", ()), nas.ImmutableError, "immutable.*'inputs'"),
    "delete an attribute": Bad(lambda n: delattr(n.graph, "outputs"), nas.ImmutableError, "immutable.*'outputs'"),
    "apply to no array": Bad(lambda n: n.graph.apply(n.variables), nas.GraphError, r"1 input.*\(x\).*found 0"),
    "apply to two arrays": Bad(lambda n: n.graph.apply(n.variables, ONES, ONES), nas.GraphError, "found 2 arrays"),
    "init on no array": Bad(lambda n: n.graph.init(jax.random.key(0)), nas.GraphError, "found 0 arrays"),
    "apply to a wrong width": Bad(
        lambda n: n.graph.apply(n.variables, jnp.ones((2, 4))), nas.SizeMismatchError, r"'x'.*3 neurons.*\(2, 4\)"
    ),
    "apply to a number": Bad(lambda n: n.graph.apply(n.variables, 1.0), nas.SizeMismatchError, r"'x'.*3 neurons.*\(\)"),
    "apply an unknown keyword": Bad(
        lambda n: n.graph.apply(n.variables, ONES, training=True), nas.GraphError, "'training'.*train"
    ),
    "apply without variables": Bad(lambda n: n.graph.apply({}, ONES), nas.VariablesError, "graph.init"),
    "apply with foreign variables": Bad(
        lambda n: n.graph.apply(other().variables, ONES), nas.VariablesError, "/a.*graph.init"
    ),
    "apply with a list": Bad(lambda n: n.graph.apply([1], ONES), nas.VariablesError, "dict of collections.*list"),
    "traced train": Bad(
        lambda n: jax.jit(lambda v, train: batch_norm().graph.apply(v, ONES, train=train))(
            batch_norm().variables, True
        ),
        nas.GraphError,
        "train= must be True or False.*static_argnames",
    ),
    "verbs of what is no graph": Bad(
        lambda n: nas.delta_nout(n.variables, n.graph, {"a": -1}), nas.GraphError, "nas.Graph.*found dict"
    ),
    "structure of what is no graph": Bad(
        lambda n: nas.remove_vertex(n.variables, n.graph, "a"), nas.GraphError, "nas.Graph.*found dict"
    ),
}


@cache
def batch_norm() -> Net:
    x = nas.input_vertex("x", 3)
    graph = nas.Graph(x, nas.layer("bn", nn.BatchNorm(), x))
    return Net(graph, graph.init(jax.random.key(0), ONES))


VARIABLES = {
    "not a mapping": Bad(with_variables(lambda v: [v]), nas.VariablesError, "dict of collections.*found list"),
    "nothing": Bad(
        with_variables(lambda v: {}), nas.VariablesError, r"\['params'\]\['a'\]\['kernel'\].*Found: nothing"
    ),
    "parameters without their collection": Bad(
        with_variables(lambda v: v["params"]), nas.VariablesError, r"no variables\['params'\]"
    ),
    "a missing layer": Bad(
        with_variables(lambda v: without(v, "params", "b")), nas.VariablesError, r"no variables\['params'\]\['b'\]"
    ),
    "a missing collection": Bad(
        lambda n: nas.resize(n.graph, without(n.variables, "batch_stats")),
        nas.VariablesError,
        r"no variables\['batch_stats'\]\['bn'\]\['mean'\]",
        batch_norm,
    ),
    "a wrong shape": Bad(
        with_variables(lambda v: replaced(v, jnp.ones((3, 6)), "params", "c", "kernel")),
        nas.VariablesError,
        r"\['c'\]\['kernel'\] has shape \(3, 6\).*\(3, 5\)",
    ),
    "a wrong number of dimensions": Bad(
        with_variables(lambda v: replaced(v, jnp.ones((1, 5)), "params", "c", "bias")),
        nas.VariablesError,
        r"\['c'\]\['bias'\] has shape \(1, 5\).*\(5\)",
    ),
    "an extra entry": Bad(
        with_variables(lambda v: replaced(v, jnp.ones(2), "params", "c", "gain")),
        nas.VariablesError,
        r"no variable variables\['params'\]\['c'\]\['gain'\]",
    ),
    "another graph's": Bad(with_variables(lambda v: other().variables), nas.VariablesError, "another graph"),
    "those after a mutation": Bad(
        lambda n: nas.delta_nout(n.graph, shrunk(n).variables, {"a": -1}),
        nas.VariablesError,
        r"\['c'\]\['kernel'\] has shape \(3, 4\).*\(3, 5\)",
    ),
    "text for an array": Bad(
        with_variables(lambda v: replaced(v, "ones", "params", "c", "bias")), nas.VariablesError, r"\['c'\]\['bias'\]"
    ),
    "in structure": Bad(
        lambda n: nas.remove_edge(n.graph, other().variables, "c", "cat"), nas.VariablesError, "another graph"
    ),
    "traced": Bad(lambda n: traced(n), nas.VariablesError, "traced.*outside"),
    "traced, with a utility": Bad(lambda n: traced(n, utility={}), nas.VariablesError, "traced.*outside"),
    "traced, in structure": Bad(
        lambda n: jax.jit(lambda v: nas.remove_edge(n.graph, v, "c", "cat").variables)(n.variables),
        nas.VariablesError,
        "traced.*outside",
    ),
    "traced, in grad": Bad(
        lambda n: jax.grad(lambda v: nas.magnitude(n.graph, v)["a"].sum())(n.variables), nas.VariablesError, "traced"
    ),
    "magnitude of a list": Bad(lambda n: nas.magnitude(n.graph, [1]), nas.VariablesError, "dict of collections"),
    "magnitude of another graph's": Bad(
        lambda n: nas.magnitude(n.graph, other().variables), nas.VariablesError, "another graph"
    ),
    "undo with the old variables": Bad(
        lambda n: shrunk(n).undo(n.variables), nas.VariablesError, r"\['c'\]\['kernel'\] has shape \(3, 5\).*\(3, 4\)"
    ),
    "undo with nothing": Bad(lambda n: shrunk(n).undo({}), nas.VariablesError, r"no variables\['params'\]"),
    "carry of a foreign tree": Bad(lambda n: shrunk(n).carry(state_of(other())), nas.CarryError, "'a'"),
    "carry of an array": Bad(lambda n: shrunk(n).carry(jnp.ones((9, 9))), nas.CarryError, r"\(9, 9\)"),
    "carry with an unknown start": Bad(lambda n: shrunk(n).carry(state_of(n), new="ones"), nas.CarryError, "'ones'"),
    "check of no array": Bad(lambda n: shrunk(n).check(), nas.GraphError, "1 input.*found 0"),
    "check of a wrong width": Bad(lambda n: shrunk(n).check(jnp.ones((2, 9))), nas.SizeMismatchError, "'x'.*3 neurons"),
}

STRUCTURE = {
    "remove an input": Bad(remove("x"), nas.StructureError, "'x' is an input.*cannot be removed"),
    "remove an output": Bad(remove("out"), nas.StructureError, "'out' is an output.*cannot be removed"),
    "remove and leave nothing to read": Bad(
        remove("act", reconnect="none"), nas.StructureError, "'cat' would have 0 inputs.*at least one", lambda: lonely()
    ),
    "remove and leave a layer without input": Bad(
        remove("cat", reconnect="none"), nas.StructureError, "'out' would have 0 inputs.*takes 1"
    ),
    "remove and give a layer two inputs": Bad(remove("cat"), nas.StructureError, "'out' would have 2 inputs.*takes 1"),
    "reconnect an unknown input": Bad(remove("act", reconnect=["c"]), nas.StructureError, r"'act' \(sum\).*'c'"),
    "reconnect a word": Bad(remove("act", reconnect="some"), nas.StructureError, "'all', 'none'.*'some'"),
    "reconnect a number": Bad(remove("act", reconnect=1), nas.StructureError, "'all', 'none'.*1"),
    "reconnect nothing meant as no": Bad(remove("act", reconnect=None), nas.StructureError, "'all', 'none'.*None"),
    "an edge that closes a loop": Bad(join("cat", "sum"), nas.StructureError, "loop: .*cat.*sum|loop: .*sum.*cat"),
    "an edge to itself": Bad(join("cat", "cat"), nas.StructureError, "loop: cat -> cat"),
    "an edge to a layer": Bad(join("a", "out"), nas.StructureError, "'out'.*takes exactly 1 input"),
    "an edge to an input": Bad(join("a", "x"), nas.StructureError, "'x'.*takes exactly 0 inputs"),
    "an edge to an activation": Bad(join("a", "act"), nas.StructureError, "'act'.*takes exactly 1 input"),
    "an edge at a negative position": Bad(join("a", "cat", position=-1), nas.StructureError, "'cat'.*0 to 2.*-1"),
    "an edge past the end": Bad(join("a", "cat", position=3), nas.StructureError, "'cat'.*0 to 2.*3"),
    "an edge at half a position": Bad(join("a", "cat", position=0.5), nas.StructureError, "'cat'.*0 to 2.*0.5"),
    "an edge at a named position": Bad(join("a", "cat", position="last"), nas.StructureError, "'cat'.*'last'"),
    "an edge that is not there": Bad(cut("a", "cat"), nas.StructureError, "no edge from 'a' to 'cat'.*act, c"),
    "an edge that is there once": Bad(cut("c", "cat", occurrence=1), nas.StructureError, "1 time.*occurrence 1"),
    "an edge counted from behind": Bad(cut("c", "cat", occurrence=-1), nas.StructureError, "occurrence -1"),
    "an edge counted in halves": Bad(cut("c", "cat", occurrence=0.5), nas.StructureError, "occurrence 0.5"),
    "an edge counted in words": Bad(cut("c", "cat", occurrence="last"), nas.StructureError, "occurrence 'last'"),
    "the only edge of a layer": Bad(cut("cat", "out"), nas.StructureError, "'out' would have 0 inputs"),
    "the only edge of a sum": Bad(cut("hidden", "once"), nas.StructureError, "'once'.*at least one", lambda: once()),
    "align by a word": Bad(cut("c", "cat", align="tight"), nas.StructureError, "align.*'grow'.*'tight'"),
    "align by unknown words": Bad(remove("act", align=("grow", "wide")), nas.StructureError, r"align.*'wide'"),
    "insert nothing": Bad(insert("a", lambda v: None), nas.StructureError, "make.*reads 'a'.*None"),
    "insert what was given": Bad(
        insert("a", lambda v: v), nas.StructureError, "make must return a new vertex that reads 'a'"
    ),
    "insert a layer and no vertex": Bad(insert("a", lambda v: nn.Dense(3)), nas.StructureError, "make.*Dense"),
    "insert what is no function": Bad(
        insert("a", nn.Dense(3)), nas.StructureError, "make must be a function.*lambda v.*found Dense"
    ),
    "insert a vertex": Bad(
        insert("a", dense(net().parts["a"])), nas.StructureError, "make must be a function.*found Vertex"
    ),
    "insert a vertex of the graph": Bad(
        insert("a", lambda v: net().parts["act"]),
        nas.StructureError,
        "make must return a new vertex that reads 'a'.*found Vertex..act",
    ),
    "insert another graph's vertex": Bad(
        insert("c", lambda v: other().parts["out"]), nas.StructureError, "'out'.*does not read 'c'"
    ),
    "insert a new input": Bad(
        insert("a", lambda v: (v + nas.input_vertex("y", 4)).named("new")), nas.StructureError, "input 'y'"
    ),
    "insert what reads something else": Bad(
        insert("a", lambda v: dense(net().parts["b"])), nas.StructureError, "does not read 'a'"
    ),
    "insert a name that is taken": Bad(insert("a", lambda v: dense(v, "out")), nas.DuplicateNameError, "'out'.*unique"),
    "insert what reads a later vertex": Bad(
        insert("a", lambda v: nas.concat("new", v, net().parts["act"])), nas.StructureError, "loop"
    ),
    "insert before who does not read": Bad(
        insert("a", dense, outputs=["out"]), nas.StructureError, "'out' does not read 'a'.*sum"
    ),
    "insert before nobody": Bad(
        insert("a", dense, outputs=[]),
        nas.StructureError,
        r"outputs must name vertices that read 'a' \(sum\), found \[\]",
    ),
    "insert before a number": Bad(insert("a", dense, outputs=3), nas.StructureError, "outputs.*3"),
    "an unknown keyword": Bad(
        lambda n: nas.remove_vertex(n.graph, n.variables, "act", alignment="grow"),
        nas.ArgumentError,
        "'alignment'.*align",
    ),
}


@cache
def lonely() -> Net:
    """A concatenation of one, so that nothing is left without it."""
    x = nas.input_vertex("x", 3)
    act = nas.invariant_vertex("act", nn.relu, nas.layer("a", nn.Dense(4), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.concat("cat", act)))
    return Net(graph, graph.init(jax.random.key(0), ONES))


@cache
def once() -> Net:
    """A sum that has been left with one summand."""
    x = nas.input_vertex("x", 3)
    hidden, extra = nas.layer("hidden", nn.Dense(4), x), nas.layer("extra", nn.Dense(4), x)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), (hidden + extra).named("once")))
    graph, variables = nas.remove_edge(graph, graph.init(jax.random.key(0), ONES), "extra", "once")
    return Net(graph, variables)


NEW = {
    "an unknown word": Bad(nout({"c": 2}, new="ones"), nas.PlanError, "'ones'.*'zeros'.*'split'"),
    "an unknown word, in a shrink": Bad(nout({"c": -2}, new="ones"), nas.PlanError, "'ones'"),
    "a number": Bad(nout({"c": 2}, new=0), nas.PlanError, "new=0"),
    "a list": Bad(nout({"c": 2}, new=["zeros"]), nas.PlanError, r"new=\['zeros'\]"),
    "a function of the wrong shape": Bad(
        nout({"c": 2}, new=lambda e: np.ones((2, 2, 2))), nas.PlanError, r"shape \(2, 2, 2\).*\['c'\].*\(3, 7\)"
    ),
    "a function that returns nothing": Bad(
        nout({"c": 2}, new=lambda e: None), nas.PlanError, r"None.*\['c'\].*numbers"
    ),
    "a function that returns text": Bad(
        nout({"c": 2}, new=lambda e: "zeros"), nas.PlanError, r"'zeros'.*\['c'\].*numbers"
    ),
    "an unknown word, in an insertion": Bad(insert("a", dense, new="ones"), nas.PlanError, "'ones'.*'identity'"),
    "a function of the wrong shape, in an insertion": Bad(
        insert("a", dense, new=lambda e: np.ones((5, 5, 5))), nas.PlanError, r"\(5, 5, 5\).*\['new'\]"
    ),
    "a number for a key": Bad(nout({"c": 2}, rng=0), nas.PlanError, r"rng.*jax\.random\.key\(0\)"),
    "a number for a key, in an insertion": Bad(insert("a", dense, rng=1), nas.PlanError, "rng.*found 1"),
}

INFEASIBLE = {
    "an immutable vertex": Bad(
        nout({"middle": -1}), nas.InfeasibleError, "(?s)'middle'.*immutable", lambda: chained(frozen=True)
    ),
    "what an immutable vertex reads": Bad(
        nout({"hidden": 1}),
        nas.InfeasibleError,
        "(?s)'hidden' = 5.*'middle' is immutable",
        lambda: chained(frozen=True),
    ),
    "tied to an output that is not named": Bad(
        nout({"last": 1}), nas.InfeasibleError, "(?s)'last' = 4.*'sum' is an output.*free_outputs=True", chained
    ),
    "tied to an input that is not named": Bad(
        nout({"hidden": -1}), nas.InfeasibleError, "(?s)'hidden' = 2.*'x' is an input.*names it", residual
    ),
    "contradictory requests of tied vertices": Bad(
        nout({"a": -1, "b": 1}), nas.InfeasibleError, "(?s)'a' = 3.*'b' = 5.*Nearest"
    ),
    "a concatenation that does not add up": Bad(
        nout({"act": -1, "c": -1, "cat": -1}), nas.InfeasibleError, "(?s)'act' = 3.*'c' = 4.*'cat' = 8.*Nearest"
    ),
    "more than max_new": Bad(nout({"c": 3}, max_new=2), nas.InfeasibleError, "(?s)at most 2.*'c'.*max_new"),
    "a size cycle": Bad(
        join("half", "total"), nas.InfeasibleError, "(?s)'half' .now 3. must become.*now 5.*old graph stands", cyclic
    ),
    "an edge between immutable sizes": Bad(
        join("x", "sum"), nas.InfeasibleError, "(?s)'x'.*'sum'|'x'.*place", lambda: pinned()
    ),
    "growth that is forced and impossible": Bad(
        remove("hidden", align="grow"), nas.InfeasibleError, "(?s)'x'.*must become as wide", chained
    ),
}


@cache
def pinned() -> Net:
    """A sum that an immutable vertex reads."""
    x = nas.input_vertex("x", 3)
    a, b = nas.layer("a", nn.Dense(4), x), nas.layer("b", nn.Dense(4), x)
    frozen = nas.immutable_vertex("frozen", softplus, (a + b).named("sum"))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), frozen))
    return Net(graph, graph.init(jax.random.key(0), ONES))


PLANS = {
    "no JSON": Bad(lambda n: nas.Plan.from_json("hello"), nas.PlanError, "not a plan"),
    "nothing": Bad(lambda n: nas.Plan.from_json(""), nas.PlanError, "not a plan"),
    "None": Bad(lambda n: nas.Plan.from_json(None), nas.PlanError, "not a plan"),
    "other JSON": Bad(lambda n: nas.Plan.from_json("[1, 2]"), nas.PlanError, "not a plan"),
    "JSON without axes": Bad(lambda n: nas.Plan.from_json('{"leaves": []}'), nas.PlanError, "not a plan.*axes"),
    "axes that are a list": Bad(
        lambda n: nas.Plan.from_json('{"axes": [1], "leaves": [], "created": [], "removed": []}'),
        nas.PlanError,
        "not a plan",
    ),
    "half of a plan": Bad(lambda n: nas.Plan.from_json(shrunk(n).plan.to_json()[:-40]), nas.PlanError, "not a plan"),
    "composed in the wrong order": Bad(lambda n: wrong_order(n), nas.PlanError, "'c'.*later @ earlier"),
}


def wrong_order(n: Net):
    first = nas.delta_nout(n.graph, n.variables, {"c": -2})
    second = nas.delta_nout(*first, {"c": -1})
    return first.plan @ second.plan


TABLE = {
    f"{title}: {name}": bad
    for title, rows in {
        "name": NAMES,
        "size": SIZES,
        "utility": UTILITY,
        "vertex": VERTICES,
        "layer": LAYERS,
        "graph": GRAPHS,
        "variables": VARIABLES,
        "structure": STRUCTURE,
        "new": NEW,
        "infeasible": INFEASIBLE,
        "plan": PLANS,
    }.items()
    for name, bad in rows.items()
}


@pytest.mark.parametrize("bad", [pytest.param(bad, id=name) for name, bad in TABLE.items()])
def test_refused(bad: Bad):
    given = bad.net()
    graph, leaves = given.graph, jax.tree_util.tree_leaves_with_path(given.variables)
    values = [np.array(leaf) for _, leaf in leaves]
    fields, key, rebuilt = (
        (graph.inputs, graph.outputs, graph.vertices),
        hash(graph),
        nas.Graph(graph.inputs, graph.outputs),
    )

    with pytest.raises(bad.error, match=bad.match) as raised:
        bad.call(given)

    assert type(raised.value) is bad.error
    assert (graph.inputs, graph.outputs, graph.vertices) == fields
    assert hash(graph) == key
    assert graph == rebuilt
    after = jax.tree_util.tree_leaves_with_path(given.variables)
    assert [path for path, _ in after] == [path for path, _ in leaves]
    assert all(now is before for (_, now), (_, before) in zip(after, leaves, strict=True))
    for now, before in zip((leaf for _, leaf in after), values, strict=True):
        np.testing.assert_array_equal(now, before)


def test_all_have_the_common_base():
    errors = [
        value
        for value in (getattr(nas, name) for name in nas.__all__)
        if isinstance(value, type) and issubclass(value, Exception)
    ]
    assert all(issubclass(error, nas.NaiveNASError) for error in errors)
    assert {bad.error for bad in TABLE.values()} <= set(errors)


def test_infeasible_says_what_and_what_else():
    n = net()
    with pytest.raises(nas.InfeasibleError) as raised:
        nas.delta_nout(n.graph, n.variables, {"act": -1, "c": -1, "cat": -1})
    assert set(raised.value.conflicts) == {"act", "c", "cat"}
    request = {name: nas.to(size) for name, size in raised.value.nearest.items()}
    assert nas.delta_nout(n.graph, n.variables, request).graph.nout("cat") in (7, 8)
