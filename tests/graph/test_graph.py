"""The graph as a value: what can be asked of it, and that it computes what Flax does."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import sys
from weakref import WeakValueDictionary

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas
from naivenas_jax.graph.structure import Hashed

IMAGE = (8, 8, 3)


def add(x, y):
    return x + y


def strongest(x):
    return jnp.where(x >= jnp.sort(x, -1)[..., -2:-1], x, 0.0)


def softmax(x):
    return jax.nn.softmax(x)


def centred(x):
    return x - x.mean(-1, keepdims=True)


def positional(x):
    return x * jnp.arange(1.0, 1.0 + x.shape[-1])


def needs_four(x):
    return x * jnp.array([1.0, 2.0, 3.0, 4.0])


def pooled(x):
    return nn.max_pool(x, (2, 2), strides=(2, 2))


def global_mean(x):
    return x.mean((1, 2))


def scaled(x, *, factor=1.0):
    return factor * x


def low_rank(params, x, *, gain=1.0):
    return gain * (x @ params["down"] @ params["up"]) + params["bias"]


def branched() -> nas.Graph:
    """x -> a -> act -> b;  act and b concatenated, with act twice;  two outputs."""
    x = nas.input_vertex("x", 3)
    a = nas.layer("a", nn.Dense(4), x)
    act = nas.invariant_vertex("act", nn.relu, a)
    b = nas.layer("b", nn.Dense(5), act)
    cat = nas.concat("cat", act, b, act)
    return nas.Graph(x, [nas.layer("out", nn.Dense(2), cat), b])


def started(graph: nas.Graph, *shapes):
    inputs = [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]
    return graph.init(jax.random.key(9), *inputs), inputs


class TestQueries:
    def test_sizes(self):
        graph = branched()
        assert graph.nin("cat") == (4, 5, 4)
        assert graph.nin("x") == ()
        assert [graph.nout(v.name) for v in graph] == [3, 4, 4, 5, 13, 2]

    def test_sizes_inside_vertices(self):
        graph, _ = nas.from_linen(
            model := nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)]),
            model.init(jax.random.key(0), jnp.ones((1, 3))),
            jnp.ones((1, 3)),
        )
        assert {name: graph.nout(name) for name in graph.handles()} == {
            name: handle.size for name, handle in graph.handles().items()
        }
        with pytest.raises(
            nas.UnknownNameError, match=r"'layers_0' is an axis inside of a vertex.*graph\.nout\('layers_0'\)"
        ):
            graph.nin("layers_0")
        with pytest.raises(
            nas.UnknownNameError, match=r"no vertex or axis named 'layers_1'\. Did you mean: 'layers_2'"
        ):
            graph.nout("layers_1")

    def test_neighbours(self):
        graph = branched()
        assert graph.inputs_of("cat") == ("act", "b", "act")
        assert graph.outputs_of("act") == ("b", "cat", "cat")
        assert graph.outputs_of("out") == () == graph.inputs_of("x")

    def test_ancestors_and_descendants(self):
        graph = branched()
        assert graph.ancestors("b") == ("x", "a", "act")
        assert graph.ancestors("x") == () == graph.descendants("out")
        assert graph.descendants("act") == ("b", "cat", "out")
        for v in graph:
            assert all(v.name in graph.descendants(name) for name in graph.ancestors(v.name))

    def test_topological_order(self):
        graph = branched()
        assert [v.name for v in graph.vertices] == ["x", "a", "act", "b", "cat", "out"]
        position = {v: i for i, v in enumerate(graph.vertices)}
        assert all(position[source] < position[v] for v in graph for source in v.inputs)

    def test_find(self):
        graph = branched()
        assert [v.name for v in graph.find("a*")] == ["a", "act"]
        assert [v.name for v in graph.find("?")] == ["x", "a", "b"]
        assert graph.find("a") == (graph["a"],)
        assert [v.name for v in graph.find(lambda v: v.nout > 4)] == ["b", "cat"]
        assert graph.find("nothing*") == ()

    def test_as_a_collection(self):
        graph = branched()
        assert len(graph) == 6
        assert graph["cat"] is graph[4] is graph[-2] is graph.vertex("cat")
        assert graph[1:3] == (graph["a"], graph["act"])
        assert list(graph) == list(graph.vertices) == [graph[v.name] for v in graph]
        assert "cat" in graph
        assert graph["cat"] in graph
        assert "dog" not in graph
        assert branched()["cat"] not in graph

    def test_reach(self):
        graph = branched()
        tied = ("a", "act", "b", "cat")  # b by way of cat, whose size another one may have to make up for
        assert all(graph.reach(name) == tied for name in tied)
        assert graph.reach("out") == ("out",)
        assert graph.reach("out", "x") == ("x", "out")
        assert graph.reach() == ()

    def test_twice_read_vertex_counts_twice(self):
        graph = branched()
        variables, (x,) = started(graph, (2, 3))
        graph2, variables2 = nas.delta_nout(graph, variables, {"act": -1})
        assert graph2.nin("cat") == (3, 5, 3)
        assert variables2["params"]["out"]["kernel"].shape == (11, 2)
        assert graph2.apply(variables2, x)[0].shape == (2, 2)


class TestValue:
    def test_frozen(self):
        graph = branched()
        with pytest.raises(AttributeError, match="immutable"):
            graph.outputs = ()
        with pytest.raises(AttributeError):
            graph["a"].name = "other"

    def test_no_leaves(self):
        graph = branched()
        assert jax.tree.leaves(graph) == [] == jax.tree.leaves(graph["a"])
        assert jax.tree.map(lambda leaf: leaf + 1, graph) == graph

    def test_equal_by_value(self):
        one, two = branched(), branched()
        assert one is not two
        assert one == two
        assert hash(one) == hash(two)
        assert len({one, two}) == 1
        assert one != nas.Graph(one.inputs, one.outputs[:1])
        assert one != "graph"

    @pytest.mark.parametrize("differs", ["name", "size", "activation", "order", "input size"])
    def test_different(self, differs):
        def build(change=""):
            x = nas.input_vertex("x", 4 if change == "input size" else 3)
            y = nas.layer("z" if change == "name" else "y", nn.Dense(5 if change == "size" else 4), x)
            act = nas.invariant_vertex("act", nn.tanh if change == "activation" else nn.relu, y)
            both = (act, y) if change == "order" else (y, act)
            return nas.Graph(x, nas.concat("cat", *both))

        assert build() == build()
        assert build() != build(differs)

    def test_functions_by_identity(self):
        def build(fn):
            x = nas.input_vertex("x", 3)
            return nas.Graph(x, nas.invariant_vertex("act", fn, x))

        assert build(nn.relu) == build(nn.relu)
        assert build(lambda x: 2 * x) != build(lambda x: 2 * x)

    def test_pickle_and_copy(self):
        graph = branched()
        for again in (pickle.loads(pickle.dumps(graph)), copy.copy(graph), copy.deepcopy(graph)):
            assert again == graph
            assert hash(again) == hash(graph)
            assert [repr(v) for v in again] == [repr(v) for v in graph]
        vertex = pickle.loads(pickle.dumps(graph["cat"]))
        assert (vertex.name, vertex.nin, vertex.nout) == ("cat", (4, 5, 4), 13)
        assert nas.Graph(graph.inputs, graph["cat"]) == nas.Graph(vertex.inputs[0].inputs[0].inputs, vertex)

    def test_deeper_than_the_stack(self):
        x = v = nas.input_vertex("x", 2)
        for i in range(2000):
            v = nas.invariant_vertex(f"v{i}", positive_shift, v)
        graph = nas.Graph(x, v)
        assert len(graph) == 2001
        assert pickle.loads(pickle.dumps(graph)) == graph
        assert copy.deepcopy(graph) == graph
        assert graph.ancestors("v1999")[:2] == ("x", "v0")
        assert len(graph.descendants("x")) == 2000
        np.testing.assert_array_equal(graph.apply({}, np.zeros((1, 2), np.float32)), [[2000.0, 2000.0]])
        assert nas.delta_nout(graph, {}, {"x": 1, "v1999": 1}).graph.nout("v7") == 3

    def test_representation_names_what_matters(self):
        graph = branched()
        assert repr(graph) == "Graph(inputs=[x], outputs=[out, b], 6 vertices)"
        assert repr(graph["b"]) == "Vertex('b', Dense(4 -> 5), inputs=[act], nout=5)"


def positive_shift(x):
    return x + 1.0


class TestNames:
    def test_infix_names_are_deterministic(self):
        def build():
            a, b, c = (nas.input_vertex(name, 3) for name in "abc")
            return nas.Graph([a, b, c], [(a + b) * c - a / b, -(a + b), a + (b + c)])

        graph = build()
        assert [v.name for v in graph.outputs] == ["((a+b)*c)-(a/b)", "-(a+b)", "a+(b+c)"]
        assert graph == build()

    def test_same_expression_is_the_same_vertex(self):
        a, b = nas.input_vertex("a", 3), nas.input_vertex("b", 3)
        assert a + b is a + b
        assert len(nas.Graph([a, b], [(a + b) * (a + b)])) == 4

    def test_infix_computes(self):
        a, b = nas.input_vertex("a", 3), nas.input_vertex("b", 3)
        graph = nas.Graph([a, b], [a + b, a - b, a * b, a / b, -a])
        variables, (x, y) = started(graph, (2, 3), (2, 3))
        for got, wanted in zip(graph.apply(variables, x, y), (x + y, x - y, x * y, x / y, -x), strict=True):
            np.testing.assert_array_equal(got, wanted)

    def test_named(self):
        a, b = nas.input_vertex("a", 3), nas.input_vertex("b", 3)
        total = (a + b).named("total")
        assert (total.name, total.inputs, total.nout) == ("total", (a, b), 3)
        assert (a + b).name == "a+b"

    def test_broadcast_of_a_single_neuron(self):
        x = nas.input_vertex("x", 3)
        gate = nas.layer("gate", nn.Dense(1), x)
        graph = nas.Graph(x, (x * gate).named("gated"))
        variables, (data,) = started(graph, (2, 3))
        wanted = data * (data @ variables["params"]["gate"]["kernel"] + variables["params"]["gate"]["bias"])
        np.testing.assert_allclose(graph.apply(variables, data), wanted, rtol=1e-6)
        with pytest.raises(nas.InfeasibleError, match="broadcast"):
            nas.delta_nout(graph, variables, {"gate": 1})


class Written(nn.Module):
    """The network of `written` by hand."""

    @nn.compact
    def __call__(self, x, train=False):
        y = nn.Conv(4, (3, 3), name="conv")(x)
        y = nn.BatchNorm(use_running_average=not train, name="bn")(y)
        y = pooled(nn.relu(y))
        z = nn.Conv(4, (1, 1), name="side")(y)
        y = nn.Dropout(0.5, deterministic=not train, name="drop")(y + z)
        return nn.Dense(5, name="out")(y.mean((1, 2)))


def written() -> nas.Graph:
    x = nas.input_vertex("x", 3, shape=IMAGE)
    y = nas.layer("bn", nn.BatchNorm(), nas.layer("conv", nn.Conv(4, (3, 3)), x))
    y = nas.invariant_vertex("pool", pooled, nas.invariant_vertex("relu", nn.relu, y))
    y = nas.layer("drop", nn.Dropout(0.5), y + nas.layer("side", nn.Conv(4, (1, 1)), y))
    return nas.Graph(x, nas.layer("out", nn.Dense(5), nas.invariant_vertex("mean", global_mean, y)))


@pytest.fixture(scope="module")
def both():
    graph = written()
    variables, (x,) = started(graph, (2, *IMAGE))
    return graph, Written(), variables, x


class TestLikeFlax:
    """The same network as a linen module, with the same variables."""

    def test_variables_of_the_same_shapes(self, both):
        _, module, variables, x = both
        other = module.init(jax.random.key(9), x)
        assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, other)
        assert type(variables) is dict

    def test_evaluation(self, both):
        graph, module, variables, x = both
        np.testing.assert_array_equal(graph.apply(variables, x), module.apply(variables, x))
        np.testing.assert_array_equal(graph.apply(variables, x, train=False), module.apply(variables, x))

    def test_training(self, both):
        graph, module, variables, x = both
        rngs = {"dropout": jax.random.key(3)}
        got, updates = graph.apply(variables, x, train=True, mutable=["batch_stats"], rngs=rngs)
        wanted, expected = module.apply(variables, x, train=True, mutable=["batch_stats"], rngs=rngs)
        assert list(updates) == ["batch_stats"]
        jax.tree.map(np.testing.assert_array_equal, updates, expected)
        # linen folds the same names into the key, so that even the dropped elements are the same
        np.testing.assert_array_equal(got, wanted)

    def test_without_permission_nothing_is_updated(self, both):
        graph, _, variables, x = both
        with pytest.raises(Exception, match="batch_stats"):
            graph.apply(variables, x, train=True, rngs={"dropout": jax.random.key(3)})

    def test_gradients(self, both):
        graph, module, variables, x = both

        def loss(model):
            return lambda params: (model.apply({**variables, "params": params}, x) ** 2).sum()

        ours, theirs = (jax.grad(loss(model))(variables["params"]) for model in (graph, module))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), ours, theirs)

    def test_as_module(self, both):
        graph, module, variables, x = both
        alone = graph.as_module()
        jax.tree.map(np.testing.assert_array_equal, alone.init(jax.random.key(9), x), variables)
        np.testing.assert_array_equal(alone.apply(variables, x), module.apply(variables, x))

    def test_as_module_inside_a_module(self, both):
        graph, _, variables, x = both

        class Outer(nn.Module):
            @nn.compact
            def __call__(self, x, train=False):
                return nn.Dense(2, name="head")(graph.as_module(name="body")(x, train=train))

        outer = Outer()
        made = outer.init(jax.random.key(0), x)
        assert jax.tree.map(jnp.shape, made["params"]["body"]) == jax.tree.map(jnp.shape, variables["params"])
        params = {**made["params"], "body": variables["params"]}
        mixed = {"params": params, "batch_stats": {"body": variables["batch_stats"]}}
        head = params["head"]
        wanted = graph.apply(variables, x) @ head["kernel"] + head["bias"]
        np.testing.assert_allclose(outer.apply(mixed, x), wanted, rtol=1e-5, atol=1e-6)
        _, updates = outer.apply(mixed, x, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(1)})
        assert set(updates["batch_stats"]["body"]) == {"bn"}

    def test_transformations(self, both):
        graph, _, variables, x = both
        wanted = graph.apply(variables, x)
        np.testing.assert_allclose(jax.jit(graph.apply)(variables, x), wanted, rtol=1e-5, atol=1e-6)
        one_by_one = jax.vmap(lambda image: graph.apply(variables, image[None])[0])(x)
        np.testing.assert_allclose(one_by_one, wanted, rtol=1e-5, atol=1e-6)

    def test_keywords_reach_who_understands_them(self):
        x = nas.input_vertex("x", 3)
        y = nas.invariant_vertex("scaled", scaled, nas.invariant_vertex("relu", nn.relu, x))
        graph = nas.Graph(x, y)
        data = jnp.ones((1, 3))
        np.testing.assert_array_equal(graph.apply({}, data, factor=3.0), [[3.0, 3.0, 3.0]])
        np.testing.assert_array_equal(graph.apply({}, data), data)


class TestEnds:
    def test_several_inputs_and_outputs(self):
        x, y = nas.input_vertex("x", 3), nas.input_vertex("y", 2)
        both = nas.concat("both", y, x)
        graph = nas.Graph([x, y], [both, x])
        variables, (one, two) = started(graph, (2, 3), (2, 2))
        first, second = graph.apply(variables, one, two)
        np.testing.assert_array_equal(first, np.concatenate([two, one], -1))
        assert second is one
        assert nas.Graph([y, x], [both, x]) != graph

    def test_same_vertex_twice(self):
        x = nas.input_vertex("x", 3)
        graph = nas.Graph(x, [nas.invariant_vertex("twice", add, x, x), nas.concat("cat", x, x), x, x])
        data = jnp.arange(3.0)[None]
        twice, cat, *same = graph.apply({}, data)
        np.testing.assert_array_equal(twice, 2 * data)
        np.testing.assert_array_equal(cat, [[0, 1, 2, 0, 1, 2]])
        assert all(value is data for value in same)
        assert graph.nin("twice") == (3, 3)

    def test_inputs_of_nothing_else(self):
        x, unused = nas.input_vertex("x", 3), nas.input_vertex("unused", 2)
        graph = nas.Graph([x, unused], nas.layer("out", nn.Dense(2), x))
        variables, (one, two) = started(graph, (2, 3), (2, 2))
        assert graph.apply(variables, one, two).shape == (2, 2)
        assert nas.delta_nout(graph, variables, {"unused": 1}).graph.nout("unused") == 3


class TestCompilation:
    def test_once_per_architecture(self):
        traces = []

        def noisy(x):
            traces.append(x.shape)
            return x + 1.0

        def build():
            x = nas.input_vertex("x", 3)
            return nas.Graph(x, nas.layer("out", nn.Dense(2), nas.invariant_vertex("noisy", noisy, x)))

        one, two = build(), build()
        variables, (x,) = started(one, (2, 3))
        run = jax.jit(nas.apply)
        traces.clear()
        first, second = run(one, variables, x), run(two, variables, x)
        assert traces == [(2, 3)]
        np.testing.assert_array_equal(first, second)
        smaller, cut = nas.delta_nout(one, variables, {"out": -1})
        traces.clear()
        run(smaller, cut, x)
        assert traces == [(2, 3)]
        run(pickled_sizes(smaller), cut, x)
        assert traces == [(2, 3)]

    def test_train_is_static(self):
        graph = written()
        variables, (x,) = started(graph, (2, *IMAGE))
        run = jax.jit(nas.apply, static_argnames=("train",))
        np.testing.assert_allclose(
            run(graph, variables, x, train=False), graph.apply(variables, x), rtol=1e-5, atol=1e-6
        )


def pickled_sizes(graph: nas.Graph) -> nas.Graph:
    """The same graph, built anew."""
    return nas.Graph(graph.inputs, graph.outputs)


def nested() -> nas.Graph:
    inside = nas.input_vertex("in", 4)
    hidden = nas.layer("dense", nn.Dense(6), inside)
    inner = nas.Graph(
        inside, (nas.layer("back", nn.Dense(4), nas.invariant_vertex("act", nn.relu, hidden)) + inside).named("sum")
    )
    x = nas.input_vertex("x", 3)
    block = nas.layer("block", inner, nas.layer("stem", nn.Dense(4), x))
    return nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("block2", inner, block)))


class TestNested:
    def test_evaluated(self):
        graph = nested()
        variables, (x,) = started(graph, (2, 3))
        params = variables["params"]
        assert set(params) == {"stem", "block", "block2", "out"}
        assert set(params["block"]) == {"dense", "back"}

        def dense(p, v):
            return v @ p["kernel"] + p["bias"]

        v = dense(params["stem"], x)
        for name in ("block", "block2"):
            v = v + dense(params[name]["back"], jax.nn.relu(dense(params[name]["dense"], v)))
        np.testing.assert_allclose(graph.apply(variables, x), dense(params["out"], v), rtol=1e-5, atol=1e-6)

    def test_resized_inside(self):
        graph = nested()
        variables, (x,) = started(graph, (2, 3))
        mutation = nas.delta_nout(graph, variables, {"block/dense": -2})
        assert mutation.check(x).compared
        kernels = {name: mutation.variables["params"][name]["dense"]["kernel"].shape for name in ("block", "block2")}
        assert kernels == {"block": (4, 4), "block2": (4, 6)}
        kept = mutation.indices("block/act")
        old, new = (tree["params"]["block"]["back"]["kernel"] for tree in (variables, mutation.variables))
        np.testing.assert_array_equal(new, np.asarray(old)[kept])
        again, restored = mutation.undo(mutation.variables)
        assert again == graph
        jax.tree.map(np.testing.assert_array_equal, restored, variables)

    def test_resized_through(self):
        graph = nested()
        variables, (x,) = started(graph, (2, 3))
        mutation = nas.delta_nout(graph, variables, {"stem": -1})
        assert [mutation.graph.nout(name) for name in ("stem", "block", "block2")] == [3, 3, 3]
        assert mutation.check(x).compared
        assert mutation.variables["params"]["block2"]["back"]["kernel"].shape == (6, 3)
        assert nas.delta_nout(graph, variables, {"block2/sum": -1}).graph == mutation.graph

    def test_mutated_around(self):
        graph = nested()
        variables, (x,) = started(graph, (2, 3))
        removed = nas.remove_vertex(graph, variables, "block2")
        assert set(removed.variables["params"]) == {"stem", "block", "out"}
        assert removed.graph.apply(removed.variables, x).shape == (2, 2)
        inserted = nas.insert_vertex(graph, variables, "block", lambda v: nas.layer("between", nn.Dense(4), v))
        np.testing.assert_allclose(
            inserted.graph.apply(inserted.variables, x), graph.apply(variables, x), rtol=1e-5, atol=1e-6
        )
        copied = nas.insert_vertex(
            graph, variables, "block", lambda v: nas.layer("third", graph["block"].op.graph, v), new="init"
        )
        assert jax.tree.map(jnp.shape, copied.variables["params"]["third"]) == jax.tree.map(
            jnp.shape, variables["params"]["block"]
        )
        assert copied.graph.apply(copied.variables, x).shape == (2, 2)

    def test_keywords_and_collections_reach_inside(self):
        inside = nas.input_vertex("in", 3)
        inner = nas.Graph(inside, nas.invariant_vertex("scaled", scaled, nas.layer("bn", nn.BatchNorm(), inside)))
        x = nas.input_vertex("x", 3)
        graph = nas.Graph(x, nas.layer("block", inner, x))
        variables, (data,) = started(graph, (4, 3))
        plain, double = (graph.apply(variables, data, factor=factor) for factor in (1.0, 2.0))
        np.testing.assert_allclose(double, 2 * plain, rtol=1e-6)
        _, updates = graph.apply(variables, data, train=True, mutable=["batch_stats"])
        np.testing.assert_allclose(
            updates["batch_stats"]["block"]["bn"]["mean"], 0.01 * data.mean(0), rtol=1e-4, atol=1e-6
        )

    def test_pickled(self):
        assert pickle.loads(pickle.dumps(nested())) == nested()


class TestCustom:
    def build(self):
        x = nas.input_vertex("x", 6)
        y = nas.absorb_vertex(
            "y",
            low_rank,
            x,
            nout=5,
            inner={"r": 3},
            params={"down": "in r", "up": "r out", "bias": ("out", nn.initializers.ones)},
        )
        return nas.Graph(x, nas.layer("out", nn.Dense(2), y))

    def test_own_parameters(self):
        graph = self.build()
        variables, (x,) = started(graph, (2, 6))
        own = variables["params"]["y"]
        assert {name: value.shape for name, value in own.items()} == {"down": (6, 3), "up": (3, 5), "bias": (5,)}
        np.testing.assert_array_equal(own["bias"], np.ones(5))
        wanted = 2.0 * x @ own["down"] @ own["up"] + 1.0
        got = nas.Graph(graph.inputs, graph["y"]).apply({"params": {"y": own}}, x, gain=2.0)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        ("request_", "shapes"),
        [
            ({"y:r": -1}, [(6, 2), (2, 5), (5,)]),
            ({"y:r": 2, "y": -2}, [(6, 5), (5, 3), (3,)]),
            ({"x": -2}, [(4, 3), (3, 5), (5,)]),
        ],
    )
    def test_resized(self, request_, shapes):
        graph = self.build()
        variables, (x,) = started(graph, (2, 6))
        mutation = nas.delta_nout(graph, variables, request_)
        assert [mutation.variables["params"]["y"][name].shape for name in ("down", "up", "bias")] == shapes
        assert mutation.check(x).compared
        fresh = mutation.graph.init(jax.random.key(0), jnp.ones((1, mutation.graph.nout("x"))))
        assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, mutation.variables)

    def test_inner_axes_are_handles(self):
        graph = self.build()
        assert graph.handles()["y:r"].size == 3
        assert set(graph.handles()) == {"x", "y", "y:r", "out"}


class TestProbing:
    def build(self, fn, size=4):
        x = nas.input_vertex("x", 3)
        v = nas.invariant_vertex("v", fn, nas.layer("a", nn.Dense(size), x))
        graph = nas.Graph(x, nas.layer("out", nn.Dense(2), v))
        return graph, started(graph, (2, 3))[0]

    @pytest.mark.parametrize("fn", [nn.relu, jnp.tanh, scaled, positive_shift, lambda x: x / 2])
    def test_plain(self, fn):
        graph, _ = self.build(fn)
        assert graph.handles()["v"].coupled is None
        assert graph.handles()["v"].tied_to == ("a",)

    @pytest.mark.parametrize(
        ("fn", "why"),
        [
            (softmax, "mixes"),
            (centred, "mixes"),
            (strongest, "mixes"),
            (positional, "positions"),
            (lambda x: x / x.shape[-1], "number"),
            (lambda x: x + jax.random.normal(jax.random.key(0), x.shape), "positions"),
        ],
    )
    def test_coupled(self, fn, why):
        graph, variables = self.build(fn)
        for name in ("a", "v"):
            assert re.search(f"'v': its function.*{why}", graph.handles()[name].coupled)
        for change in (-1, 2):
            mutation = nas.delta_nout(graph, variables, {"a": change})
            assert len(mutation.notes) == 1
            assert re.search(f"coupled.*'a'.*{why}", mutation.notes[0])
        found = nas.delta_nout(graph, variables, {"a": -1}).check(jnp.ones((2, 3)))
        assert not found.compared
        assert "coupled" in found.reason

    @pytest.mark.parametrize("size", [6, 40, 100])
    @pytest.mark.parametrize(
        "fn",
        [
            pytest.param(lambda x: x[..., ::-1], id="reversal"),
            pytest.param(lambda x: jnp.roll(x, 1, -1), id="roll"),
            pytest.param(lambda x: jnp.concatenate([-x[..., 1:], x[..., :1]], -1), id="rotation"),
            pytest.param(lambda x: x.reshape(*x.shape[:-1], 2, -1).swapaxes(-1, -2).reshape(x.shape), id="shuffle"),
            pytest.param(lambda x: x.at[..., 0].set(x[..., 1]).at[..., 1].set(x[..., 0]), id="swap of two"),
            pytest.param(lambda x: jnp.sort(x, -1), id="sort"),
            pytest.param(lambda x: jnp.cumsum(x, -1), id="cumulative sum"),
            pytest.param(lambda x: x * jnp.roll(x, 1, -1), id="pairs"),
            pytest.param(lambda x: jnp.maximum(x, x[..., ::-1]), id="maximum of pairs"),
            pytest.param(lambda x: x * x[..., :1], id="gate by the first"),
            pytest.param(lambda x: x if x.shape[-1] == 3 else x[..., ::-1], id="reversal of most"),
        ],
    )
    def test_what_moves_neurons_is_refused(self, fn, size):
        graph, variables = self.build(fn, size)
        assert not {"a", "v"} & set(graph.handles())
        for change in (-1, 1):
            with pytest.raises(nas.InfeasibleError, match=r"(?s)'v' keeps its size.*does not belong to neuron i"):
                nas.delta_nout(graph, variables, {"a": change})

    def test_what_happens_to_late_neurons_only_is_seen(self):
        graph, _ = self.build(lambda x: jnp.where(jnp.arange(x.shape[-1]) < 90, x, 0.0), 100)
        assert "positions" in graph.handles()["v"].coupled
        graph, _ = self.build(lambda x: x if x.shape[-1] <= 64 else x[..., ::-1], 100)
        assert "v" not in graph.handles()

    def test_another_axis_than_the_neurons_is_free_where_the_shape_is_known(self):
        for fn in (lambda x: x[:, ::-1], lambda x: jnp.cumsum(x, 1), lambda x: x - x.mean(1, keepdims=True)):
            x = nas.input_vertex("x", 3, shape=(5, 3))
            v = nas.invariant_vertex("v", fn, nas.layer("a", nn.Dense(4), x))
            graph = nas.Graph(x, nas.layer("out", nn.Dense(2), v))
            variables, (batch,) = started(graph, (2, 5, 3))
            mutation = nas.delta_nout(graph, variables, {"a": -1})
            assert mutation.notes == ()
            assert mutation.check(batch).compared

    def test_fixed(self):
        graph, variables = self.build(needs_four)
        assert not {"a", "v"} & set(graph.handles())
        with pytest.raises(nas.InfeasibleError, match=r"(?s)'v' keeps its size.*4 neurons only"):
            nas.delta_nout(graph, variables, {"a": -1})

    @pytest.mark.parametrize("size", [4, 6, 100])
    def test_a_constant_with_an_entry_per_neuron_fixes_whatever_its_size(self, size):
        table = jnp.arange(float(size))
        graph, variables = self.build(lambda x: x + table, size)
        assert not {"a", "v"} & set(graph.handles())
        with pytest.raises(nas.InfeasibleError, match="'v' keeps its size: its function"):
            nas.delta_nout(graph, variables, {"a": -1})

    def test_what_the_function_raises_is_the_cause(self):
        def mine(x):
            raise KeyError("where it went wrong")

        with pytest.raises(nas.GraphError, match=r"made-up input \(KeyError: 'where it went wrong'\)") as raised:
            nas.immutable_vertex("v", mine, nas.input_vertex("x", 3))
        assert isinstance(raised.value.__cause__, KeyError)

    def test_window_needs_an_image(self):
        x = nas.input_vertex("x", 3)
        v = nas.invariant_vertex("v", pooled, nas.layer("a", nn.Conv(4, (3, 3)), x))
        assert nas.Graph(x, v).handles()["v"].coupled is None


def test_what_ends_with_the_process_needs_no_hash_any_more(monkeypatch):
    """Modules of Flax hash their fields by functions that are gone when a process ends."""
    raised = []
    monkeypatch.setattr(sys, "unraisablehook", raised.append)
    module = nn.Dense(3)
    held = WeakValueDictionary({Hashed((module, "key")): (value := Mortal())})
    assert held[Hashed((nn.Dense(3), "key"))] is value
    with monkeypatch.context() as gone:
        gone.setattr(nn.Dense, "__hash__", None)
        del value
        gc.collect()
    assert not held
    assert not raised


class Mortal:
    """Something that weak references may be to."""
