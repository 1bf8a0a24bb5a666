"""The numbers of NaiveNASlib's quick tutorial and of its closer look at weights.

The models, requests and expected numbers are the reference's; docs/tutorial.md tells the story. Two conventions differ:
arrays are (batch, neurons) and kernels (in, out), and outputs keep their neurons unless named or ``free_outputs=True``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas


def ones_layer(name: str, size: int, vertex: nas.Vertex) -> nas.Vertex:
    """All weights are 1, as in the reference's tiny library."""
    return nas.layer(name, nn.Dense(size, use_bias=False, kernel_init=nn.initializers.ones), vertex)


def started(graph: nas.Graph) -> dict[str, Any]:
    return graph.init(jax.random.key(0), *ones_for(graph))


def ones_for(graph: nas.Graph) -> list[jax.Array]:
    return [jnp.ones((1, vertex.nout)) for vertex in graph.inputs]


def result(graph: nas.Graph, variables: Any) -> list[float]:
    """Of the first output, on ones."""
    outputs = graph.apply(variables, *ones_for(graph))
    return (outputs[0] if isinstance(outputs, tuple) else outputs)[0].tolist()


class TestFirstGraph:
    def test_sum_of_two_numbers(self):
        in1, in2 = nas.input_vertex("in1", 1), nas.input_vertex("in2", 1)
        add = (in1 + in2).named("add")
        graph = nas.Graph([in1, in2], add)
        for a, b in [(2, 3), (100, 200)]:
            assert graph.apply({}, jnp.array([[a]]), jnp.array([[b]])).tolist() == [[a + b]]
        assert graph.vertices == (in1, in2, add)
        assert [vertex.name for vertex in graph.vertices] == ["in1", "in2", "add"]
        assert graph[0] is in1
        assert graph[-1] is graph[2] is add
        assert graph[:] == graph.vertices

    def test_two_layers(self):
        x = nas.input_vertex("input", 3)
        graph = nas.Graph(x, ones_layer("layer2", 5, ones_layer("layer1", 4, x)))
        variables = started(graph)
        batch = jax.random.normal(jax.random.key(1), (2, 3))
        assert graph.apply(variables, batch).shape == (2, 5)
        assert (graph.nout("layer1"), graph.nin("layer2")) == (4, (4,))

        smaller, its = nas.delta_nout(graph, variables, {"layer1": -2})
        assert (smaller.nout("layer1"), smaller.nin("layer2")) == (2, (2,))
        assert jax.tree.map(jnp.shape, its["params"]) == {"layer1": {"kernel": (3, 2)}, "layer2": {"kernel": (2, 5)}}
        assert smaller.apply(its, batch).shape == (2, 5)


class Net(NamedTuple):
    """What unpacks to the arguments of the verbs."""

    graph: nas.Graph
    variables: Any


def scaled(name: str, factor: float, vertex: nas.Vertex) -> nas.Vertex:
    return nas.invariant_vertex(name, lambda x: factor * x, vertex)


@pytest.fixture(scope="module")
def original() -> Net:
    """``start + concat(2 split, 3 split, 5 split)`` with sizes 6 and 2."""
    x = nas.input_vertex("input", 6)
    start = ones_layer("start", 6, x)
    split = ones_layer("split", 2, start)
    joined = nas.concat("joined", scaled("x2", 2, split), scaled("x3", 3, split), scaled("x5", 5, split))
    graph = nas.Graph(x, (start + joined).named("out"))
    return Net(graph, started(graph))


@pytest.fixture(scope="module")
def grown(original: Net) -> nas.Mutation:
    """9 neurons where there were 6, and 3 where there were 2."""
    return nas.delta_nout(*original, {"out": nas.relaxed(2)}, new="zeros")


def widths(graph: nas.Graph) -> list[int]:
    """Of all vertices in the reference's order."""
    return [graph.nout(name) for name in ("input", "start", "split", "x2", "x3", "x5", "joined", "out")]


class TestSizesThatDepend:
    def test_start(self, original: Net):
        assert result(*original) == [78, 78, 114, 114, 186, 186]
        assert widths(original.graph) == [6, 6, 2, 2, 2, 2, 6, 6]
        assert original.graph.nin("out") == (6, 6)

    def test_exact_request_that_cannot_be_met(self, original: Net):
        with pytest.raises(nas.InfeasibleError, match=r"'out' = 8 \(now 6\)(.|\n)*nas.to\(9\)"):
            nas.delta_nout(*original, {"out": 2})

    def test_relaxed_request(self, original: Net, grown: nas.Mutation):
        assert widths(grown.graph) == [6, 9, 3, 3, 3, 3, 9, 9]
        assert grown.graph.nin("out") == (9, 9)
        assert result(*grown) == [78, 78, 0, 114, 114, 0, 186, 186, 0]
        assert result(*original) == [78, 78, 114, 114, 186, 186]
        assert grown.check(*ones_for(grown.before)).compared

    @pytest.mark.parametrize(
        ("score", "expected"),
        [
            pytest.param(lambda n: np.arange(1, n + 1), [42, 0, 60, 0, 96, 0], id="high"),
            pytest.param(lambda n: np.arange(n, 0, -1), [78, 78, 114, 114, 186, 186], id="low"),
        ],
    )
    def test_utility(self, grown: nas.Mutation, score: Any, expected: list[float]):
        graph = grown.graph
        mutation = nas.delta_nout(*grown, {"out": -3}, utility=lambda name: score(graph.ties.size(name)))
        assert result(*mutation) == expected
        assert mutation.check(*ones_for(graph)).compared

    def test_magnitude_is_the_mean_absolute_weight(self, original: Net, grown: nas.Mutation):
        assert nas.magnitude(*original)["split"].tolist() == [1, 1]
        scores = nas.magnitude(*grown, norm="l1")
        assert sorted(scores) == ["split", "start"]  # utility of the others is 0, as in the reference
        np.testing.assert_allclose(scores["start"], [1, 1, 0] * 3)
        np.testing.assert_allclose(scores["split"], [2 / 3, 2 / 3, 0])
        given = nas.delta_nout(*grown, {"out": -3}, utility=scores)
        assert result(*given) == result(*nas.delta_nout(*grown, {"out": -3})) == [78, 78, 114, 114, 186, 186]

    def test_decrease_and_then_increase(self, grown: nas.Mutation):
        smaller = nas.delta_nout(*grown, {"split": nas.relaxed(-2)}, new="zeros", free_outputs=True)
        assert widths(smaller.graph) == [6, 3, 1, 1, 1, 1, 3, 3]
        larger = nas.delta_nout(*smaller, {"out": 6}, new="zeros")
        assert result(*larger) == [42, 0, 0, 60, 0, 0, 96, 0, 0]

    def test_decrease_and_increase_at_once(self, grown: nas.Mutation):
        """The reference answers [78, 78, 6, 0, 108, 114, 6, 6, 180, 180, 0, 0]: the same sizes, but neurons of start
        are added to others than before. Ours stay with those that they were added to."""
        both = nas.delta_nout(*grown, {"split": nas.relaxed(-2), "out": 3}, new="zeros")
        assert widths(both.graph) == [6, 12, 4, 4, 4, 4, 12, 12]
        assert result(*both) == [78, 78, 0, 0, 114, 114, 0, 0, 186, 186, 0, 0]
        assert both.check(*ones_for(grown.graph)).compared

        split = both.indices("split")
        assert split.tolist() == [0, 1, 2, -1]
        third = both.indices("joined").reshape(3, 4)
        for k in range(3):  # every copy of a neuron has the fate of the neuron
            assert third[k].tolist() == [i + 3 * k if i >= 0 else -1 for i in split]
        assert both.indices("start").tolist() == both.indices("out").tolist() == both.indices("joined").tolist()

    def test_what_reads_the_grown_vertex_computes_what_it_did(self, grown: nas.Mutation):
        last = nas.layer("last", nn.Dense(1, use_bias=False), grown.graph["out"])
        graph = nas.Graph(grown.graph.inputs, last)
        kernel = jnp.arange(1.0, 10.0).reshape(9, 1)
        variables = {"params": {**grown.variables["params"], "last": {"kernel": kernel}}}
        both = nas.delta_nout(graph, variables, {"split": nas.relaxed(-2), "out": 3}, new="zeros")
        assert result(graph, variables) == result(*both) == [4050]

    def test_input_direction(self, grown: nas.Mutation):
        request = {"joined": (3, nas.relaxed(2), None), "out": nas.relaxed((1, 2))}
        mutation = nas.delta_nin(*grown, request, free_outputs=True)
        assert mutation.graph.nin("joined") == (6, 6, 6)
        assert mutation.graph.nin("out") == (18, 18)

    def test_prune_by_a_threshold(self, grown: nas.Mutation):
        below = {name: score - 0.4 * score.mean() for name, score in nas.magnitude(*grown).items()}
        mutation = nas.resize(*grown, utility=below, free_outputs=True)
        assert widths(mutation.graph) == [6, 6, 2, 2, 2, 2, 6, 6]
        assert result(*mutation) == [78, 78, 114, 114, 186, 186]
        assert widths(nas.resize(*grown, utility=below).graph) == widths(grown.graph)  # the output keeps what it has


@pytest.fixture(scope="module")
def net() -> Net:
    """``v4(concat(v1(in1), v2(in2)))``, and the concatenation is added to ``v3(in1)``. Kernels count 1, 2, 3, ..."""

    def layer(name: str, size: int, vertex: nas.Vertex) -> nas.Vertex:
        return nas.layer(name, nn.Dense(size, use_bias=False), vertex)

    in1, in2 = nas.input_vertex("in1", 3), nas.input_vertex("in2", 4)
    merged = nas.concat("merged", layer("v1", 4, in1), layer("v2", 3, in2))
    add = (layer("v3", 7, in1) + merged).named("add")
    graph = nas.Graph([in1, in2], [layer("v4", 2, merged), add])
    params = {}
    for name in ("v1", "v2", "v3", "v4"):
        nin, nout = graph.nin(name)[0], graph.nout(name)
        params[name] = {"kernel": jnp.arange(1.0, nin * nout + 1).reshape(nin, nout)}
    return Net(graph, {"params": params})


@pytest.fixture(scope="module")
def mutation(net: Net) -> nas.Mutation:
    """v2 loses a neuron, and v1 must gain one for the concatenation to keep its size."""
    utility = {**dict.fromkeys(net.graph.ties.axes, 1), "v2": [10, 1, 10]}
    request = {"v2": -1, "merged": 0}
    return nas.delta_nout(*net, request, utility=utility, new="zeros", free_outputs=True)


class TestWeights:
    # rows are neurons of the output here, as the reference prints them
    @pytest.mark.parametrize(
        ("name", "before", "after"),
        [
            pytest.param(
                "v1",
                [[1, 5, 9], [2, 6, 10], [3, 7, 11], [4, 8, 12]],
                [[1, 5, 9], [2, 6, 10], [3, 7, 11], [4, 8, 12], [0, 0, 0]],
                id="v1 gains a last neuron",
            ),
            pytest.param(
                "v2",
                [[1, 4, 7, 10], [2, 5, 8, 11], [3, 6, 9, 12]],
                [[1, 4, 7, 10], [3, 6, 9, 12]],
                id="v2 loses the one of least utility",
            ),
            pytest.param(
                "v3",
                [[1, 8, 15], [2, 9, 16], [3, 10, 17], [4, 11, 18], [5, 12, 19], [6, 13, 20], [7, 14, 21]],
                [[1, 8, 15], [2, 9, 16], [3, 10, 17], [4, 11, 18], [0, 0, 0], [5, 12, 19], [7, 14, 21]],
                id="v3 is added to both",
            ),
            pytest.param(
                "v4",
                [[1, 3, 5, 7, 9, 11, 13], [2, 4, 6, 8, 10, 12, 14]],
                [[1, 3, 5, 7, 0, 9, 13], [2, 4, 6, 8, 0, 10, 14]],
                id="v4 reads both",
            ),
        ],
    )
    def test_kernel(self, net: Net, mutation: nas.Mutation, name: str, before: list, after: list):
        assert net.variables["params"][name]["kernel"].T.tolist() == before
        assert mutation.variables["params"][name]["kernel"].T.tolist() == after

    def test_default_utility_may_choose_another_neuron_but_the_same_sizes(self, net: Net):
        mutation = nas.delta_nout(*net, {"v2": -1, "merged": 0}, new="zeros", free_outputs=True)
        assert mutation.indices("v2").tolist() == [1, 2]  # the smallest weights are those of neuron 0
        assert mutation.graph.nin("merged") == (5, 2)

    def test_undo(self, net: Net, mutation: nas.Mutation):
        graph, variables = mutation.undo(mutation.variables)
        assert graph == net.graph
        assert jax.tree.map(np.array_equal, variables, net.variables) == jax.tree.map(lambda _: True, net.variables)


class TestStructure:
    @pytest.mark.parametrize(("new", "expected"), [("init", 9), ("identity", 3)])
    def test_insert(self, new: str, expected: float):
        x = nas.input_vertex("input", 3)
        graph = nas.Graph(x, ones_layer("layer1", 5, x))
        variables = started(graph)
        assert (len(graph), result(graph, variables)) == (2, [3] * 5)
        mutation = nas.insert_vertex(graph, variables, "input", lambda v: ones_layer("between", v.nout, v), new=new)
        assert (len(mutation.graph), result(*mutation)) == (3, [expected] * 5)

    def test_remove(self):
        x = nas.input_vertex("input", 3)
        graph = nas.Graph(x, ones_layer("layer2", 4, ones_layer("layer1", 5, x)))
        variables = started(graph)
        assert (len(graph), result(graph, variables)) == (3, [15] * 4)
        mutation = nas.remove_vertex(graph, variables, "layer1")
        assert (len(mutation.graph), result(*mutation)) == (2, [3] * 4)
        assert (mutation.aligned, mutation.graph.nin("layer2")) == ("shrink", (3,))

    def test_add_an_edge(self):
        x1, x2 = nas.input_vertex("input1", 3), nas.input_vertex("input2", 2)
        add = (ones_layer("layer1", 4, x1) + ones_layer("layer2", 4, x2)).named("add")
        # the reference adds a vertex from outside the graph; here it is an output, so that it belongs to the graph
        graph = nas.Graph([x1, x2], [ones_layer("out", 5, add), ones_layer("layer3", 6, x2)])
        variables = started(graph)
        assert (graph.nin("add"), result(graph, variables)) == ((4, 4), [20] * 5)
        mutation = nas.create_edge(graph, variables, "layer3", "add", new="zeros")
        assert (mutation.graph.nin("add"), result(*mutation)) == ((6, 6, 6), [28] * 5)
        assert mutation.aligned == "grow"

    def test_remove_an_edge(self):
        x = nas.input_vertex("input", 4)
        layer1, layer2 = ones_layer("layer1", 3, x), ones_layer("layer2", 5, x)
        graph = nas.Graph(x, ones_layer("out", 3, nas.concat("merged", layer1, layer2, layer1)))
        variables = started(graph)
        assert (graph.nin("merged"), result(graph, variables)) == ((3, 5, 3), [44] * 3)
        mutation = nas.remove_edge(graph, variables, "layer1", "merged")
        assert (mutation.graph.nin("merged"), result(*mutation)) == ((5, 3), [32] * 3)
