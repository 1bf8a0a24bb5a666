"""Changes of structure: who reads whom afterwards, which sizes there are, and where every weight went."""

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


def softplus(x):
    return jnp.logaddexp(x, 0.0)


def dense(name: str, size: int, *inputs: nas.Vertex) -> nas.Vertex:
    return nas.layer(name, nn.Dense(size), *inputs)


def act(name: str, vertex: nas.Vertex) -> nas.Vertex:
    return nas.invariant_vertex(name, nn.relu, vertex)


@dataclass(frozen=True)
class Net:
    graph: nas.Graph
    variables: dict[str, Any]
    inputs: tuple[jax.Array, ...]


def numbered(graph: nas.Graph, *shapes: tuple[int, ...]) -> Net:
    """Weights that tell where they are, ``kernel[..., i, j] = 1 + j + i / 10``; later neurons are worth more."""
    draw = np.random.default_rng(0)
    inputs = tuple(jnp.asarray(draw.normal(size=shape), jnp.float32) for shape in shapes)

    def number(leaf):  # with numpy, for which nothing has to be compiled
        *rest, last = leaf.shape
        i = np.arange(rest[-1])[:, None] if rest else 0.0
        return jnp.asarray(np.broadcast_to(1.0 + np.arange(last) + i / 10.0, leaf.shape), leaf.dtype)

    return Net(graph, jax.tree.map(number, jax.eval_shape(graph.init, jax.random.key(0), *inputs)), inputs)


@cache
def chain(*sizes: int, out: int = 2, freeze: bool = False) -> Net:
    """x (3) -> v0 -> v1 -> ... -> out."""
    x = v = nas.input_vertex("x", 3)
    for i, size in enumerate(sizes):
        v = dense(f"v{i}", size, v)
    if freeze:
        v = nas.immutable_vertex("frozen", softplus, v)
    return numbered(nas.Graph(x, dense("out", out, v)), (4, 3))


@cache
def stack(order: str = "abc", width: int = 3) -> Net:
    """x -> a (4), b (5), c (6); concatenated in some order -> out."""
    x = nas.input_vertex("x", width)
    made = {name: dense(name, size, x) for name, size in (("a", 4), ("b", 5), ("c", 6))}
    cat = nas.concat("cat", *(made[name] for name in order))
    return numbered(nas.Graph(x, dense("out", 7, cat)), (4, width))


@cache
def summed(order: str = "abc", width: int = 3, size: int = 5) -> Net:
    """x -> a, b, c of equal size; all added in one vertex -> out."""
    x = nas.input_vertex("x", width)
    made = {name: dense(name, size, x) for name in "abc"}
    first, second = (made[name] for name in order[:2])
    net = numbered(nas.Graph(x, dense("out", 7, (first + second).named("sum"))), (4, width))
    for name in order[2:]:
        if name not in net.graph:
            graph = nas.Graph(x, [net.graph["out"], made[name]])
            net = numbered(graph, (4, width))
        graph, variables = nas.create_edge(net.graph, net.variables, name, "sum")
        net = Net(nas.Graph(graph.inputs, graph["out"]), {**variables}, net.inputs)
    return net


@cache
def fork(times: int, after: int) -> Net:
    """v (5) through several activations, concatenated, -> next -> out."""
    x = nas.input_vertex("x", 3)
    v = dense("v", 5, x)
    join = nas.concat("join", *(act(f"p{i}", v) for i in range(times)))
    return numbered(nas.Graph(x, dense("out", 4, dense("next", after, join))), (4, 3))


@cache
def cycle() -> Net:
    """half (3) and rest (2), concatenated, are added to what they come from (5)."""
    x = nas.input_vertex("x", 3)
    v2 = dense("v2", 5, dense("v1", 3, x))
    v3 = act("v3", v2)
    thin = dense("thin", 2, v3)
    parts = nas.concat(
        "parts",
        dense("half", 3, v3),
        dense("rest", 2, v3),
    )
    beside = nas.concat("beside", dense("long", 3, thin), dense("rest2", 2, v3))
    both = ((parts + v2).named("first") + beside).named("second")
    return numbered(nas.Graph(x, dense("out", 2, both)), (4, 3))


@cache
def residual() -> Net:
    """v1 (10) -> v2 (3) -> v3 -> v4 (10); v4 + v1 -> v6 (4) -> v7 (13)."""
    x = nas.input_vertex("x", 3)
    v1 = dense("v1", 10, x)
    v4 = dense("v4", 10, nas.concat("v3", dense("v2", 3, v1)))
    return numbered(nas.Graph(x, dense("v7", 13, dense("v6", 4, (v4 + v1).named("v5")))), (4, 3))


@cache
def nested_stack() -> Net:
    """inner = [a, b];  outer = [c, inner, a] -> out."""
    x = nas.input_vertex("x", 3)
    a, b, c = dense("a", 4, x), dense("b", 5, x), dense("c", 6, x)
    inner = nas.concat("inner", a, b)
    return numbered(nas.Graph(x, dense("out", 7, nas.concat("outer", c, inner, a))), (4, 3))


@cache
def images(stride: int = 1) -> Net:
    """Convolutions, one of them with a stride, a flatten and a classifier."""
    x = nas.input_vertex("x", 2, shape=(4, 4, 2))
    first = nas.layer("first", nn.Conv(3, (3, 3)), x)
    second = nas.layer("second", nn.Conv(4, (3, 3), strides=(stride, stride)), act("relu", first))
    return numbered(nas.Graph(x, dense("out", 2, nas.flatten("flat", second))), (4, 4, 4, 2))


def insert(after, make, **keywords):
    return lambda n: nas.insert_vertex(n.graph, n.variables, after, make, **keywords)


def remove(name, **keywords):
    return lambda n: nas.remove_vertex(n.graph, n.variables, name, **keywords)


def join(source, target, **keywords):
    return lambda n: nas.create_edge(n.graph, n.variables, source, target, **keywords)


def cut(source, target, **keywords):
    return lambda n: nas.remove_edge(n.graph, n.variables, source, target, **keywords)


def wide(size, name="new"):
    return lambda v: dense(name, size, v)


@dataclass(frozen=True)
class Case:
    """An edit, and what the graph looks like afterwards."""

    net: Callable[[], Net]
    edit: Callable[[Net], nas.Mutation]
    reads: dict[str, tuple[str, ...]]
    nin: dict[str, tuple[int, ...]]
    aligned: str = "none"
    same: bool = False  # whether the function is kept
    gone: tuple[str, ...] = field(default=())


INSERT = {
    "as wide": Case(
        lambda: chain(5, 4), insert("v0", wide(5)), {"new": ("v0",), "v1": ("new",)}, {"v1": (5,)}, same=True
    ),
    "wider": Case(
        lambda: chain(5, 4), insert("v0", wide(7)), {"v1": ("new",)}, {"new": (5,), "v1": (7,)}, "grow", same=True
    ),
    "narrower, which makes it grow": Case(
        lambda: chain(5, 4), insert("v0", wide(2)), {"v1": ("new",)}, {"new": (5,), "v1": (5,)}, "grow", same=True
    ),
    "narrower, and to stay so": Case(
        lambda: chain(5, 4),
        insert("v0", wide(2), align="shrink"),
        {"v1": ("new",)},
        {"new": (5,), "v1": (2,)},
        "shrink",
    ),
    "much wider": Case(
        lambda: chain(5, 4), insert("v0", wide(400)), {"v1": ("new",)}, {"new": (5,), "v1": (400,)}, "grow", same=True
    ),
    "several": Case(
        lambda: chain(5, 4),
        insert("v0", lambda v: dense("n2", 5, dense("n1", 3, v)), new="init"),
        {"n1": ("v0",), "n2": ("n1",), "v1": ("n2",)},
        {"n1": (5,), "n2": (3,), "v1": (5,)},
    ),
    "a residual branch": Case(
        lambda: chain(5, 4),
        insert("v0", lambda v: (v + dense("branch", 5, v)).named("sum"), new="zeros"),
        {"branch": ("v0",), "sum": ("v0", "branch"), "v1": ("sum",)},
        {"v1": (5,)},
        same=True,
    ),
    "two branches": Case(
        lambda: chain(4, 3),
        insert("v0", lambda v: nas.concat("both", dense("n1", 1, v), dense("n2", 3, v)), new="init"),
        {"both": ("n1", "n2"), "v1": ("both",)},
        {"both": (1, 3), "v1": (4,)},
    ),
    "a copy beside itself": Case(
        lambda: chain(4, 3),
        insert("v0", lambda v: nas.concat("both", v, v)),
        {"both": ("v0", "v0"), "v1": ("both",)},
        {"both": (4, 4), "v1": (8,)},
        "grow",
    ),
    "a copy beside itself, in the same room": Case(
        lambda: chain(4, 3),
        insert("v0", lambda v: nas.concat("both", v, v), align="shrink"),
        {"both": ("v0", "v0")},
        {"both": (2, 2), "v1": (4,)},
        "shrink",
    ),
    "before one reader of three": Case(
        lambda: stack(),
        insert("x", wide(3), outputs=["b"]),
        {"a": ("x",), "b": ("new",), "c": ("x",)},
        {"b": (3,)},
        same=True,
    ),
    "before two readers of three, wider": Case(
        lambda: stack(),
        insert("x", wide(6), outputs=["a", "c"]),
        {"a": ("new",), "b": ("x",), "c": ("new",)},
        {"a": (6,), "b": (3,), "c": (6,)},
        "grow",
        same=True,
    ),
    "before all readers": Case(
        lambda: stack(), insert("x", wide(3)), {"a": ("new",), "b": ("new",), "c": ("new",)}, {"a": (3,)}, same=True
    ),
    "between a vertex and a concatenation": Case(
        lambda: stack(),
        insert("b", wide(8)),
        {"cat": ("a", "new", "c")},
        {"cat": (4, 8, 6), "out": (18,)},
        "grow",
        same=True,
    ),
    "where a concatenation reads twice": Case(
        lambda: stack("abca"),
        insert("a", wide(5)),
        {"cat": ("new", "b", "c", "new")},
        {"cat": (5, 5, 6, 5), "new": (4,)},
        "grow",
        same=True,
    ),
    "into a sum, wider": Case(
        lambda: summed("ab"),
        insert("a", wide(8)),
        {"sum": ("new", "b")},
        {"new": (5,), "sum": (8, 8), "out": (8,)},
        "grow",
        same=True,
    ),
    "where a sum reads twice": Case(
        lambda: summed("aa"),
        insert("a", wide(6)),
        {"sum": ("new", "new")},
        {"sum": (6, 6), "new": (5,)},
        "grow",
        same=True,
    ),
    "after the output": Case(lambda: chain(5), insert("out", wide(2)), {"new": ("out",)}, {"new": (2,)}, same=True),
    "after the output, wider": Case(lambda: chain(5), insert("out", wide(9)), {"new": ("out",)}, {"new": (2,)}),
    "before a flatten": Case(
        lambda: images(),
        insert("second", lambda v: nas.layer("new", nn.Conv(6, (1, 1)), v)),
        {"flat": ("new",)},
        {"new": (4,), "flat": (6,), "out": (96,)},
        "grow",
        same=True,
    ),
}

REMOVE = {
    "and shrink, as the input stays": Case(
        lambda: chain(5), remove("v0"), {"out": ("x",)}, {"out": (3,)}, "shrink", gone=("v0",)
    ),
    "narrow after wide": Case(
        lambda: chain(5, 4), remove("v1"), {"out": ("v0",)}, {"v1": (), "out": (5,)}, "grow", gone=("v1",)
    ),
    "narrow after wide, shrinking": Case(
        lambda: chain(5, 4), remove("v1", align="shrink"), {"out": ("v0",)}, {"out": (4,)}, "shrink", gone=("v1",)
    ),
    "wide after narrow": Case(lambda: chain(4, 6), remove("v1"), {"out": ("v0",)}, {"out": (6,)}, "grow", gone=("v1",)),
    "of equal width": Case(lambda: chain(4, 4), remove("v1"), {"out": ("v0",)}, {"out": (4,)}, gone=("v1",)),
    "negative utility does not undo growth": Case(
        lambda: chain(5, 4), remove("v1", utility={"v0": -1.0, "out": 1.0}), {"out": ("v0",)}, {"out": (5,)}, "grow"
    ),
    "one of a concatenation's": Case(
        lambda: stack(), remove("b"), {"cat": ("a", "x", "c")}, {"cat": (4, 3, 6), "out": (13,)}, "shrink", gone=("b",)
    ),
    "one of a concatenation's, under a wide input": Case(
        lambda: stack(width=7), remove("b"), {"cat": ("a", "x", "c")}, {"cat": (4, 7, 6), "out": (17,)}, "grow"
    ),
    "one of a concatenation's, without a substitute": Case(
        lambda: stack(), remove("b", reconnect="none"), {"cat": ("a", "c")}, {"cat": (4, 6), "out": (10,)}, gone=("b",)
    ),
    "what a concatenation reads twice": Case(
        lambda: stack("abba"), remove("a"), {"cat": ("x", "b", "b", "x")}, {"cat": (3, 5, 5, 3), "out": (16,)}, "shrink"
    ),
    "what a concatenation reads twice, without a substitute": Case(
        lambda: stack("abba"), remove("b", reconnect="none"), {"cat": ("a", "a")}, {"cat": (4, 4), "out": (8,)}
    ),
    "one of a sum's": Case(
        lambda: summed("ab"), remove("b"), {"sum": ("a", "x")}, {"sum": (3, 3), "out": (3,)}, "shrink", gone=("b",)
    ),
    "one of a sum's, under a wide input": Case(
        lambda: summed("abc", width=7), remove("b"), {"sum": ("a", "x", "c")}, {"sum": (7, 7, 7), "out": (7,)}, "grow"
    ),
    "one of a sum's, without a substitute": Case(
        lambda: summed("abc"), remove("b", reconnect="none"), {"sum": ("a", "c")}, {"sum": (5, 5), "out": (5,)}
    ),
    "what a sum reads twice": Case(
        lambda: summed("abba"), remove("a"), {"sum": ("x", "b", "b", "x")}, {"sum": (3, 3, 3, 3), "out": (3,)}, "shrink"
    ),
    "a sum before a concatenation, by name": Case(
        lambda: numbered_sum_in_stack(),
        remove("sum", reconnect=["b"]),
        {"cat": ("b", "c")},
        {"cat": (5, 6)},
        gone=("a", "sum"),
    ),
    "a sum before a concatenation": Case(
        lambda: numbered_sum_in_stack(),
        remove("sum"),
        {"cat": ("a", "b", "c")},
        {"cat": (5, 5, 6), "out": (16,)},
        "grow",
    ),
    "a concatenation inside one": Case(
        lambda: nested_stack(),
        remove("inner"),
        {"outer": ("c", "a", "b", "a")},
        {"outer": (6, 4, 5, 4), "out": (19,)},
        same=True,
        gone=("inner",),
    ),
    "a concatenation inside one, part of it": Case(
        lambda: nested_stack(), remove("inner", reconnect="b"), {"outer": ("c", "b", "a")}, {"outer": (6, 9, 4)}, "grow"
    ),
    "an activation, which has no sizes": Case(
        lambda: fork(2, 12), remove("p0"), {"join": ("v", "p1")}, {"join": (5, 5)}, gone=("p0",)
    ),
    "what twice the same stack replaces": Case(
        lambda: fork(2, 12), remove("next"), {"out": ("join",)}, {"join": (6, 6), "out": (12,)}, "grow"
    ),
    "what three times the same cannot be as wide as": Case(
        lambda: fork(3, 16), remove("next"), {"out": ("join",)}, {"join": (5, 5, 5), "out": (15,)}, "shrink"
    ),
    "the long way of a sum": Case(
        lambda: residual(), remove("v4"), {"v5": ("v3", "v1")}, {"v5": (10, 10), "v3": (10,), "v6": (10,)}, "grow"
    ),
    "right before a fork": Case(
        lambda: fork(2, 12), remove("v"), {"p0": ("x",), "p1": ("x",)}, {"p0": (3,), "p1": (3,), "next": (6,)}, "shrink"
    ),
    "the first of two on one way of a sum": Case(
        lambda: cycle(), remove("thin"), {"long": ("v3",)}, {"long": (5,), "beside": (3, 2)}, "grow"
    ),
    "a convolution that halves the image": Case(
        lambda: images(2), remove("second"), {"flat": ("relu",)}, {"flat": (4,), "out": (64,)}, "grow", gone=("second",)
    ),
    "a convolution that keeps the image": Case(
        lambda: images(), remove("first"), {"relu": ("x",)}, {"second": (2,), "out": (64,)}, "shrink"
    ),
}


@cache
def numbered_sum_in_stack() -> Net:
    """cat = [a + b, c] -> out."""
    x = nas.input_vertex("x", 3)
    both = (dense("a", 5, x) + dense("b", 5, x)).named("sum")
    return numbered(nas.Graph(x, dense("out", 7, nas.concat("cat", both, dense("c", 6, x)))), (4, 3))


EDGES = {
    "to a concatenation": Case(
        lambda: stack("ab"),
        join("x", "cat"),
        {"cat": ("a", "b", "x")},
        {"cat": (4, 5, 3), "out": (12,)},
        "grow",
        same=True,
    ),
    "to the front of a concatenation": Case(
        lambda: stack("ab"),
        join("x", "cat", position=0),
        {"cat": ("x", "a", "b")},
        {"cat": (3, 4, 5)},
        "grow",
        same=True,
    ),
    "to the middle of a concatenation, again": Case(
        lambda: stack("ab"),
        join("b", "cat", position=1),
        {"cat": ("a", "b", "b")},
        {"cat": (4, 5, 5)},
        "grow",
        same=True,
    ),
    "the third of its kind": Case(
        lambda: stack("aab"), join("a", "cat"), {"cat": ("a", "a", "b", "a")}, {"cat": (4, 4, 5, 4)}, "grow", same=True
    ),
    "from what is much wider": Case(
        lambda: chain_with_stack(300),
        join("v", "cat"),
        {"cat": ("a", "v")},
        {"cat": (4, 300), "out": (304,)},
        "grow",
        same=True,
    ),
    "to a sum": Case(lambda: summed("ab"), join("a", "sum"), {"sum": ("a", "b", "a")}, {"sum": (5, 5, 5)}),
    "to a sum, from what is narrower and cannot grow": Case(
        lambda: summed("ab"), join("x", "sum"), {"sum": ("a", "b", "x")}, {"sum": (3, 3, 3), "out": (3,)}, "shrink"
    ),
    "to a sum, from what is wider and cannot shrink": Case(
        lambda: summed("ab", width=8), join("x", "sum"), {"sum": ("a", "b", "x")}, {"sum": (8, 8, 8)}, "grow"
    ),
    "to a sum, from a layer": Case(
        lambda: unequal(), join("c", "sum"), {"sum": ("a", "b", "c")}, {"sum": (6, 6, 6), "side": (6,)}, "grow"
    ),
    "to a sum, from a layer, shrinking": Case(
        lambda: unequal(),
        join("c", "sum", align="shrink"),
        {"sum": ("a", "b", "c")},
        {"sum": (4, 4, 4), "side": (4,)},
        "shrink",
    ),
    "to the middle of a sum": Case(
        lambda: unequal(), join("c", "sum", position=1), {"sum": ("a", "c", "b")}, {"sum": (6, 6, 6)}, "grow"
    ),
    "from a concatenation": Case(
        lambda: stack("abc"), cut("b", "cat"), {"cat": ("a", "c")}, {"cat": (4, 6), "out": (10,)}, gone=("b",)
    ),
    "from a concatenation, the first of two": Case(
        lambda: stack("aba"), cut("a", "cat"), {"cat": ("b", "a")}, {"cat": (5, 4), "out": (9,)}
    ),
    "from a concatenation, the second of two": Case(
        lambda: stack("aba"), cut("a", "cat", occurrence=1), {"cat": ("a", "b")}, {"cat": (4, 5), "out": (9,)}
    ),
    "from a sum": Case(lambda: summed("ab"), cut("b", "sum"), {"sum": ("a",)}, {"sum": (5,)}, gone=("b",)),
    "from a sum, the first of two": Case(lambda: summed("aba"), cut("a", "sum"), {"sum": ("b", "a")}, {"sum": (5, 5)}),
    "from a sum, the second of two": Case(
        lambda: summed("aba"), cut("a", "sum", occurrence=1), {"sum": ("a", "b")}, {"sum": (5, 5)}
    ),
}


@cache
def unequal() -> Net:
    """a + b (4), and c (6), which a layer beside them reads."""
    x = nas.input_vertex("x", 3)
    both = (dense("a", 4, x) + dense("b", 4, x)).named("sum")
    return numbered(nas.Graph(x, [dense("out", 2, both), dense("side", 2, dense("c", 6, x))]), (4, 3))


@cache
def chain_with_stack(width: int) -> Net:
    """x -> v (wide) -> a (4) -> cat -> out."""
    x = nas.input_vertex("x", 3)
    return numbered(nas.Graph(x, dense("out", 2, nas.concat("cat", dense("a", 4, dense("v", width, x))))), (4, 3))


TABLE = {
    f"{verb}: {name}": case
    for verb, rows in {"insert": INSERT, "remove": REMOVE, "edge": EDGES}.items()
    for name, case in rows.items()
}


@pytest.fixture(scope="module", params=[pytest.param(case, id=name) for name, case in TABLE.items()])
def edit(request) -> tuple[Case, Net, nas.Mutation]:
    """Each edit, made once for all that is asked of it."""
    net = request.param.net()
    return request.param, net, request.param.edit(net)


def assert_same(got: Any, wanted: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_who_reads_whom(edit):
    case, _, mutation = edit
    graph = mutation.graph
    assert {name: graph.inputs_of(name) for name in case.reads} == case.reads
    assert {name: graph.nin(name) for name in case.nin if name in graph} == {k: v for k, v in case.nin.items() if v}
    assert mutation.aligned == case.aligned
    assert not [name for name in case.gone if name in graph]
    assert all(name in " ".join(mutation.notes) for name in case.gone)
    for vertex in graph:
        assert vertex.nin == tuple(source.nout for source in vertex.inputs)


def test_variables_fit(edit):
    _, net, mutation = edit
    fresh = jax.eval_shape(mutation.graph.init, jax.random.key(0), *net.inputs)
    assert jax.tree.map(jnp.shape, mutation.variables) == jax.tree.map(jnp.shape, fresh)
    outputs = jax.tree.leaves(mutation.graph.apply(mutation.variables, *net.inputs))
    assert all(np.isfinite(output).all() for output in outputs)


def test_function_is_kept_where_it_can_be(edit):
    case, net, mutation = edit
    found = mutation.check(*net.inputs)
    if case.same:
        before, after = (
            jax.tree.leaves(graph.apply(variables, *net.inputs))
            for graph, variables in ((net.graph, net.variables), mutation)
        )
        for old, new in zip(before, after, strict=True):
            np.testing.assert_allclose(new[..., : old.shape[-1]], old, rtol=1e-5, atol=1e-4)
    else:
        assert not found.compared or found.max_difference < 1e-3


def test_undo_is_exact(edit):
    _, net, mutation = edit
    graph, variables = mutation.undo(mutation.variables)
    assert graph == net.graph
    assert_same(variables, net.variables)


def test_optimizer_state_goes_along(edit):
    _, net, mutation = edit
    tx = optax.adam(1e-2)
    old, new = (jax.tree.map(np.asarray, tree["params"]) for tree in (net.variables, mutation.variables))
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(tx.init, old))
    state = (state[0]._replace(mu=old, count=np.array(7)), *state[1:])  # moments that tell where they are
    carried = mutation.carry(state)
    fresh = jax.eval_shape(tx.init, new)
    assert jax.tree.structure(carried) == jax.tree.structure(fresh)
    assert jax.tree.map(jnp.shape, carried) == jax.tree.map(jnp.shape, fresh)
    assert carried[0].count == 7
    moments = jax.tree.leaves(jax.tree.map(np.asarray, carried[0].mu))
    for moment, value in zip(moments, jax.tree.leaves(new), strict=True):
        assert np.all((moment == value) | (moment == 0))
    assert any(moment.any() for moment in moments)
    jax.eval_shape(tx.update, new, carried, new)


def test_plan_tells_where_weights_went(edit):
    """The same weights are found by the plan alone."""
    _, net, mutation = edit
    plan = nas.Plan.from_json(mutation.plan.to_json())
    assert plan == mutation.plan
    before, after = (
        {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree["params"])}
        for tree in (net.variables, mutation.variables)
    )
    for path, dims in plan.leaves.items():
        key = "".join(f"[{part!r}]" for part in path[1:])
        if path in plan.created or key not in before:
            continue
        old, new = np.asarray(before[key]), np.asarray(after[key])
        for d, axis in enumerate(dims):
            if axis is not None:
                source = plan.axes[axis].source
                old, new = np.take(old, source[source >= 0], d), np.take(new, np.flatnonzero(source >= 0), d)
        np.testing.assert_array_equal(new, old)


def test_nothing_is_changed_in_place():
    net = stack()
    key, leaves = hash(net.graph), jax.tree.leaves(net.variables)
    copies = jax.tree.map(np.array, net.variables)
    nas.remove_vertex(net.graph, net.variables, "b")
    assert hash(net.graph) == key
    assert all(a is b for a, b in zip(leaves, jax.tree.leaves(net.variables), strict=True))
    assert_same(copies, jax.tree.map(np.array, net.variables))


def kernel(mutation: nas.Mutation, name: str) -> np.ndarray:
    return np.asarray(mutation.variables["params"][name]["kernel"])


def rows(mutation: nas.Mutation, name: str) -> list[int]:
    """The original input neuron of each row of a numbered kernel, -1 where the row is zero."""
    first = kernel(mutation, name)[:, 0]
    return [-1 if value == 0 else round((value - 1) * 10) for value in first]


def columns(mutation: nas.Mutation, name: str) -> list[int]:
    """The original output neuron of each column."""
    return [round(float(value) - 1) for value in kernel(mutation, name)[0]]


class TestWeights:
    """Explicit numbers: row i and column j of every kernel hold 1 + j + i / 10."""

    def test_identity(self):
        mutation = insert("v0", wide(7))(chain(5, 4))
        np.testing.assert_array_equal(kernel(mutation, "new"), np.eye(5, 7))
        assert rows(mutation, "v1") == [0, 1, 2, 3, 4, -1, -1]

    def test_identity_of_what_survives(self):
        """Of five neurons two arrive, the most useful, and the weights that read them are theirs."""
        mutation = insert("v0", wide(2), align="shrink")(chain(5, 4))
        assert rows(mutation, "v1") == [3, 4]
        np.testing.assert_array_equal(kernel(mutation, "new"), np.eye(5)[:, [3, 4]])

    def test_utility_decides_who_survives(self):
        mutation = insert("v0", wide(2), align="shrink", utility={"v0": [3, 1, 2, 0, 0]})(chain(5, 4))
        assert rows(mutation, "v1") == [0, 2]
        np.testing.assert_array_equal(kernel(mutation, "new"), np.eye(5)[:, [0, 2]])

    def test_removed_before_the_input(self):
        mutation = remove("v0")(chain(5))
        assert rows(mutation, "out") == [2, 3, 4]

    def test_removed_narrow(self):
        mutation = remove("v1")(chain(5, 4))
        assert rows(mutation, "out") == [0, 1, 2, 3, -1]
        assert columns(mutation, "v0") == [0, 1, 2, 3, 4]

    def test_removed_wide(self):
        mutation = remove("v1")(chain(4, 6))
        assert rows(mutation, "out") == [0, 1, 2, 3, 4, 5]
        assert columns(mutation, "v0")[:4] == [0, 1, 2, 3]
        assert mutation.indices("v0").tolist() == [0, 1, 2, 3, -1, -1]

    def test_removed_shrinking_both_sides(self):
        """The producer keeps its best, the reader the rows of the best of what it read."""
        mutation = remove("v1", align="shrink", utility={"v0": [5, 4, 3, 2, 1], "v1": [1, 2, 3, 4]})(chain(5, 4))
        assert columns(mutation, "v0") == [0, 1, 2, 3]
        assert rows(mutation, "out") == [0, 1, 2, 3]

    def test_slot_of_a_concatenation(self):
        mutation = remove("b", reconnect="none")(stack())
        assert rows(mutation, "out") == [0, 1, 2, 3, 9, 10, 11, 12, 13, 14]

    def test_slot_of_a_concatenation_reconnected(self):
        mutation = remove("b")(stack())
        assert rows(mutation, "out") == [0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14]

    def test_slot_of_a_concatenation_widened(self):
        mutation = remove("b")(stack(width=7))
        assert rows(mutation, "out") == [0, 1, 2, 3, 4, 5, 6, 7, 8, -1, -1, 9, 10, 11, 12, 13, 14]

    @pytest.mark.parametrize(("occurrence", "left"), [(0, [*range(4, 13)]), (1, [*range(9)])])
    def test_edge_of_two(self, occurrence, left):
        mutation = cut("a", "cat", occurrence=occurrence)(stack("aba"))
        assert rows(mutation, "out") == left

    @pytest.mark.parametrize(
        ("position", "expected"),
        [
            (0, [-1, -1, -1, *range(9)]),
            (1, [0, 1, 2, 3, -1, -1, -1, 4, 5, 6, 7, 8]),
            (2, [*range(9), -1, -1, -1]),
            (None, [*range(9), -1, -1, -1]),
        ],
    )
    def test_new_edge(self, position, expected):
        mutation = join("x", "cat", position=position)(stack("ab"))
        assert rows(mutation, "out") == expected
        assert mutation.indices("cat").tolist() == expected

    def test_concatenation_dissolved(self):
        mutation = remove("inner")(nested_stack())
        assert rows(mutation, "out") == [*range(19)]

    def test_sum_shrinks_by_the_utility_of_all(self):
        given = {"a": [9, 0, 0, 1, 5], "b": [0, 9, 0, 1, 5]}
        mutation = join("x", "sum", utility=given)(summed("ab"))
        assert rows(mutation, "out") == [0, 1, 4]
        assert columns(mutation, "a") == columns(mutation, "b") == [0, 1, 4]

    def test_flatten_stacks_less(self):
        """Of a strided convolution and a flatten, the classifier reads positions that did not exist."""
        mutation = remove("second")(images(2))
        assert mutation.graph["flat"].op.positions == 16
        assert kernel(mutation, "out").shape == (64, 2)
        assert not mutation.check(*images(2).inputs).compared

    def test_flatten_under_a_removed_channel(self):
        mutation = remove("second", align="shrink")(images())
        flat = mutation.indices("flat")
        assert mutation.graph.nin("flat") == (3,)
        assert kernel(mutation, "out").shape == (48, 2)
        assert len(flat) == 48


class TestInsert:
    def test_becomes_the_output(self):
        mutation = insert("out", wide(9))(chain(5))
        assert [v.name for v in mutation.graph.outputs] == ["new"]
        assert mutation.graph.nout("new") == 9

    def test_output_that_is_also_read(self):
        x = nas.input_vertex("x", 3)
        v = dense("v", 4, x)
        net = numbered(nas.Graph(x, [v, dense("out", 2, v)]), (4, 3))
        both = insert("v", wide(4))(net).graph
        assert ([v.name for v in both.outputs], both.inputs_of("out")) == (["new", "out"], ("new",))
        one = insert("v", wide(4), outputs="out")(net).graph
        assert ([v.name for v in one.outputs], one.inputs_of("out")) == (["v", "out"], ("new",))

    def test_several_vertices_at_once_share_the_input(self):
        def make(v):
            left, right = dense("left", 2, v), act("right", dense("mid", 3, v))
            return nas.concat("both", left, right)

        mutation = insert("v0", make, new="init")(chain(5, 4))
        assert mutation.graph.inputs_of("both") == ("left", "right")
        assert mutation.graph.inputs_of("left") == mutation.graph.inputs_of("mid") == ("v0",)
        assert set(mutation.plan.created) >= {("params", "left", "kernel"), ("params", "mid", "bias")}

    def test_may_read_what_comes_before(self):
        mutation = insert("v1", lambda v: nas.concat("new", v, chain(5, 4).graph["v0"]))(chain(5, 4))
        assert mutation.graph.inputs_of("new") == ("v1", "v0")
        assert mutation.graph.nin("out") == (9,)

    def test_activation_does_what_it_does(self):
        net = chain(5, 4)
        mutation = insert("v0", lambda v: nas.invariant_vertex("new", softplus, v))(net)
        found = mutation.check(*net.inputs)
        assert not found.compared
        graph = net.graph
        hidden = nas.Graph(graph.inputs, graph["v0"]).apply(
            {"params": {"v0": net.variables["params"]["v0"]}}, *net.inputs
        )
        params = net.variables["params"]
        wanted = softplus(hidden)
        for name in ("v1", "out"):
            wanted = wanted @ params[name]["kernel"] + params[name]["bias"]
        np.testing.assert_allclose(mutation.graph.apply(mutation.variables, *net.inputs), wanted, rtol=1e-5)

    @pytest.mark.parametrize("new", ["init", "zeros", "default", None, "split"])
    def test_starts(self, new):
        net = chain(5, 4)
        mutation = insert("v0", wide(5), new=new)(net)
        fresh = kernel(mutation, "new")
        if new in (None, "identity"):
            np.testing.assert_array_equal(fresh, np.eye(5))
        elif new == "zeros":
            np.testing.assert_array_equal(fresh, np.zeros((5, 5)))
        else:
            assert len(np.unique(fresh)) == 25
        assert rows(mutation, "v1") == [0, 1, 2, 3, 4]

    def test_starts_by_a_function(self):
        seen = []

        def ones(entries):
            seen.append((entries.path, entries.shape))
            return np.ones(entries.shape)

        mutation = insert("v0", wide(5), new=ones)(chain(5, 4))
        np.testing.assert_array_equal(kernel(mutation, "new"), np.ones((5, 5)))
        assert (("params", "new", "kernel"), (5, 5)) in seen

    def test_same_key_same_numbers(self):
        one, two, other = (
            kernel(insert("v0", wide(5), new="init", rng=jax.random.key(i))(chain(5, 4)), "new") for i in (1, 1, 2)
        )
        np.testing.assert_array_equal(one, two)
        assert not np.array_equal(one, other)


class TestAlign:
    @pytest.mark.parametrize(("align", "size"), [("grow", 6), ("shrink", 4), ("both", None), ("auto", 6)])
    def test_forced(self, align, size):
        mutation = join("c", "sum", align=align)(unequal())
        nout = mutation.graph.nout("sum")
        assert nout == size or (size is None and 4 <= nout <= 6)
        assert mutation.graph.nin("sum") == (nout,) * 3

    def test_grow_is_impossible_beside_the_input(self):
        with pytest.raises(nas.InfeasibleError, match=r"(?s)'x'.*input of the graph"):
            join("x", "sum", align="grow")(summed("ab"))

    def test_bound_on_new_neurons(self):
        mutation = join("c", "sum", max_new=1)(unequal())
        assert (mutation.graph.nout("sum"), mutation.aligned) == (4, "shrink")

    def test_width_brought_along_is_no_new_neuron(self):
        assert join("x", "cat", max_new=0)(stack("ab")).graph.nin("out") == (12,)

    def test_frozen_on_both_sides(self):
        with pytest.raises(nas.InfeasibleError, match=r"(?s)'x'.*'frozen' is immutable"):
            remove("v0")(chain(4, freeze=True))

    def test_frozen_and_wide_enough(self):
        mutation = remove("v1")(chain(4, 5, freeze=True))
        assert mutation.graph.nin("frozen") == (5,)
        assert mutation.indices("v0").tolist() == [0, 1, 2, 3, -1]


class TestCycles:
    @pytest.mark.parametrize("align", ["auto", "grow", "shrink", "both"])
    def test_edge(self, align):
        with pytest.raises(nas.InfeasibleError, match="no sizes satisfy all ties"):
            join("half", "first", align=align)(cycle())

    def test_removal(self):
        with pytest.raises(nas.InfeasibleError, match="no sizes satisfy all ties"):
            remove("half")(cycle())

    def test_edge_to_a_part(self):
        with pytest.raises(nas.InfeasibleError, match="no sizes satisfy all ties"):
            join("v3", "parts")(cycle())

    @pytest.mark.parametrize("name", ["thin", "long"])
    def test_almost(self, name):
        mutation = remove(name)(cycle())
        assert mutation.graph.nin("beside") == (3, 2)
        assert mutation.graph.nout("second") == 5

    def test_old_network_stands(self):
        net = cycle()
        wanted = net.graph.apply(net.variables, *net.inputs)
        with pytest.raises(nas.InfeasibleError, match="old graph stands"):
            remove("half")(net)
        np.testing.assert_array_equal(net.graph.apply(net.variables, *net.inputs), wanted)


class TestOutputs:
    @staticmethod
    def net() -> Net:
        """The activation after ``hidden`` is the output."""
        x = nas.input_vertex("x", 3)
        return numbered(nas.Graph(x, act("end", dense("hidden", 5, dense("v", 4, x)))), (4, 3))

    def test_keep_every_neuron(self):
        net = self.net()
        mutation = remove("hidden")(net)
        assert mutation.graph.nout("end") == 5
        assert mutation.indices("v").tolist() == [0, 1, 2, 3, -1]

    def test_error_says_how_to_free_them(self):
        with pytest.raises(nas.InfeasibleError, match=r"(?s)'end' is an output.*free_outputs=True"):
            remove("hidden", align="shrink")(self.net())

    def test_freed(self):
        mutation = remove("hidden", align="shrink", free_outputs=True)(self.net())
        assert mutation.graph.nout("end") == 4

    def test_frozen_input_and_output(self):
        x = nas.input_vertex("x", 3)
        net = numbered(nas.Graph(x, act("end", dense("hidden", 5, x))), (4, 3))
        with pytest.raises(nas.InfeasibleError, match=r"(?s)'end' is an output|'x' is an input"):
            remove("hidden")(net)
        assert remove("hidden", free_outputs=True)(net).graph.nout("end") == 3


class TestSequences:
    def test_residual_block_taken_apart(self):
        """Layer after layer, until both summands are the same vertex."""
        net = residual()
        graph, variables = net.graph, net.variables
        done = []
        for name, reads in (("v4", ("v3", "v1")), ("v3", ("v2", "v1")), ("v2", ("v1", "v1"))):
            mutation = nas.remove_vertex(graph, variables, name)
            graph, variables = mutation
            done.append(mutation)
            assert graph.inputs_of("v5") == reads
            assert graph.nin("v5") == (10, 10)
        mutation = nas.remove_vertex(graph, variables, "v6")
        done.append(mutation)
        assert mutation.graph.nin("v7") == (10,)
        assert mutation.graph.apply(mutation.variables, *net.inputs).shape == (4, 13)
        graph, variables = mutation
        for each in reversed(done):
            graph, variables = each.undo(variables)
        assert graph == net.graph
        assert_same(variables, net.variables)

    def test_insert_and_remove_is_nothing(self):
        net = chain(5, 4)
        graph, variables = insert("v0", wide(5))(net)
        graph, variables = nas.remove_vertex(graph, variables, "new")
        assert graph == net.graph
        assert_same(variables, net.variables)

    def test_create_and_remove_is_nothing(self):
        net = stack("ab")
        graph, variables = join("a", "cat", position=1)(net)
        graph, variables = nas.remove_edge(graph, variables, "a", "cat", occurrence=1)
        assert graph == net.graph
        assert_same(variables, net.variables)

    def test_plans_compose(self):
        net = stack("abc")
        first = remove("b")(net)
        second = nas.delta_nout(*first, {"c": -2})
        plan = second.plan @ first.plan
        for name in ("a", "c", "cat"):
            early, late = first.indices(name), second.indices(name)
            assert plan.axis(name).source.tolist() == early[late].tolist()

    def test_trained_values_survive_undo(self):
        net = stack("abc")
        mutation = remove("b")(net)
        trained = jax.tree.map(lambda leaf: leaf + 0.5, mutation.variables)
        _, variables = mutation.undo(trained)
        old, new = (tree["params"]["out"]["kernel"] for tree in (net.variables, variables))
        np.testing.assert_array_equal(new[jnp.array([0, 1, 2, 3, 6, 14])], old[jnp.array([0, 1, 2, 3, 6, 14])] + 0.5)
        np.testing.assert_array_equal(new[jnp.array([4, 5])], old[jnp.array([4, 5])])
        assert_same(variables["params"]["b"], net.variables["params"]["b"])
