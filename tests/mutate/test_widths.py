"""Changes of width with sizes, neurons and numbers written out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict

import naivenas_jax as nas


class Net(NamedTuple):
    """What unpacks to the arguments of the verbs."""

    graph: nas.Graph
    variables: Any

    @classmethod
    def of(cls, *outputs: nas.Vertex, seed: int = 0) -> Net:
        """With random numbers for all variables, biases and scales too."""
        inputs = [v for v in nas_sources(outputs) if not v.inputs]
        graph = nas.Graph(inputs, outputs)
        shapes = jax.eval_shape(lambda *xs: graph.init(jax.random.key(0), *xs), *data(graph))
        generator = np.random.default_rng(seed)
        return cls(graph, jax.tree.map(lambda s: generator.uniform(0.5, 1.5, s.shape).astype(s.dtype), shapes))


def nas_sources(outputs: tuple[nas.Vertex, ...]) -> list[nas.Vertex]:
    found: dict[nas.Vertex, None] = {}
    todo = list(outputs)
    while todo:
        vertex = todo.pop()
        found[vertex] = None
        todo += vertex.inputs
    return sorted(found, key=lambda v: v.name)


def data(graph: nas.Graph, batch: int = 3) -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    return [generator.normal(size=(batch, *(v.op.shape or (v.nout,)))).astype(np.float32) for v in graph.inputs]


def sizes(graph: nas.Graph) -> dict[str, int]:
    return {vertex.name: vertex.nout for vertex in graph.vertices}


def changed(mutation: nas.Mutation) -> dict[str, int]:
    """New sizes of the vertices whose size is another one."""
    before = sizes(mutation.before)
    return {name: size for name, size in sizes(mutation.graph).items() if size != before[name]}


def mlp() -> Net:
    """x 4 -> a 6 -> b 8 -> out 2, each of its own size."""
    x = nas.input_vertex("x", 4)
    return Net.of(nas.layer("out", nn.Dense(2), nas.layer("b", nn.Dense(8), nas.layer("a", nn.Dense(6), x))))


def twice() -> Net:
    """c = concat(a, a), of 6 neurons."""
    a = nas.layer("a", nn.Dense(6), nas.input_vertex("x", 4))
    return Net.of(nas.layer("out", nn.Dense(2), nas.concat("c", a, a)))


def image() -> Net:
    """conv of 4 channels at 2 x 3 positions, flattened to 24."""
    conv = nas.layer("conv", nn.Conv(4, (2, 2)), nas.input_vertex("x", 2, shape=(2, 3, 2)))
    return Net.of(nas.layer("out", nn.Dense(2), nas.flatten("flat", conv)))


def sum_of_three() -> Net:
    """a + concat(b, b, b): a multiple of 3."""
    x = nas.input_vertex("x", 4)
    a, b = nas.layer("a", nn.Dense(9), x), nas.layer("b", nn.Dense(3), x)
    return Net.of(nas.layer("out", nn.Dense(2), (a + nas.concat("c", b, b, b)).named("sum")))


class TestRequests:
    @pytest.mark.parametrize(
        ("request_", "expected"),
        [
            ({"a": -2}, {"a": 4}),
            ({"a": 3}, {"a": 9}),
            ({"a": -5}, {"a": 1}),
            ({"a": np.int64(-1)}, {"a": 5}),
            ({"a": nas.to(3)}, {"a": 3}),
            ({"a": nas.to(6)}, {}),
            ({"a": 0}, {}),
            ({}, {}),
            ({"a": nas.relaxed(-2)}, {"a": 4}),
            ({"a": nas.relaxed(nas.to(10))}, {"a": 10}),
            ({"a": nas.relaxed(0)}, {}),
            ({"a": nas.relaxed(nas.to(6))}, {}),
            ({"a": nas.relaxed(-9)}, {"a": 1}),
            ({"a": -2, "b": 3}, {"a": 4, "b": 11}),
            ({"a": nas.to(2), "b": nas.relaxed(-1), "out": 1}, {"a": 2, "b": 7, "out": 3}),
            ({"x": 1}, {"x": 5}),
            ({"x": -1}, {"x": 3}),
            ({"out": -1}, {"out": 1}),
        ],
        ids=str,
    )
    def test_sizes_that_are_free(self, request_: Mapping[str, Any], expected: Mapping[str, int]):
        mutation = nas.delta_nout(*mlp(), request_)
        assert changed(mutation) == expected
        assert mutation.check(*data(mutation.before)).compared

    @pytest.mark.parametrize(
        ("request_", "expected"),
        [
            ({"sum": 3}, {"a": 12, "b": 4, "c": 12, "sum": 12}),
            ({"b": -1}, {"a": 6, "b": 2, "c": 6, "sum": 6}),
            ({"sum": nas.relaxed(-1)}, {"a": 6, "b": 2, "c": 6, "sum": 6}),  # 8: 9 is the present size, 6 is next
            ({"sum": nas.relaxed(1)}, {"a": 12, "b": 4, "c": 12, "sum": 12}),  # 10: 12 is nearer than 6
            ({"sum": nas.relaxed(-5)}, {"a": 3, "b": 1, "c": 3, "sum": 3}),  # 4: 3
            ({"sum": nas.relaxed(nas.to(16))}, {"a": 15, "b": 5, "c": 15, "sum": 15}),
            ({"b": 0, "sum": nas.relaxed(0)}, {}),
            ({"b": 1, "sum": nas.relaxed(-3)}, {"a": 12, "b": 4, "c": 12, "sum": 12}),  # what is exact comes first
            ({"b": nas.relaxed(-1), "sum": nas.relaxed(-3)}, {"a": 6, "b": 2, "c": 6, "sum": 6}),
        ],
        ids=str,
    )
    def test_sizes_that_are_tied(self, request_: Mapping[str, Any], expected: Mapping[str, int]):
        mutation = nas.delta_nout(*sum_of_three(), request_)
        assert changed(mutation) == expected
        assert mutation.check(*data(mutation.before)).compared

    @pytest.mark.parametrize(("change", "size"), [(-9, 12), (-3, 18), (3, 30), (9, 36), (-4, 18), (4, 30), (-15, 6)])
    def test_of_two_equally_near_sizes_the_one_in_the_direction_of_the_wish(self, change: int, size: int):
        """Sizes are multiples of 6; the present one is 24, and 21 and 27 are as near to it as to another one."""
        mutation = nas.delta_nout(*image(), {"flat": nas.relaxed(change)})
        assert changed(mutation) == {"conv": size // 6, "flat": size}

    def test_a_relaxed_request_differs_from_the_present_size(self):
        """Even if that takes the other direction."""
        assert changed(nas.delta_nout(*mlp(), {"a": nas.relaxed(1)}, max_new=0)) == {"a": 5}
        single = nas.delta_nout(*mlp(), {"a": nas.to(1)})
        assert changed(nas.delta_nout(*single, {"a": nas.relaxed(-1)})) == {"a": 2}

    @pytest.mark.parametrize(
        ("net", "request_", "nearest"),
        [
            (image, {"flat": -5}, "'flat': nas.to(18)"),
            (twice, {"c": -1}, "'c': nas.to(10)"),
            (sum_of_three, {"sum": 2}, "'sum': nas.to(12)"),
            (sum_of_three, {"sum": 0, "b": 1}, "'b': nas.to("),
        ],
    )
    def test_impossible_sizes(self, net: Any, request_: Mapping[str, Any], nearest: str):
        with pytest.raises(nas.InfeasibleError) as error:
            nas.delta_nout(*net(), request_)
        assert nearest in str(error.value)

    def test_requests_that_make_no_sense(self):
        net = mlp()
        with pytest.raises(nas.RequestError, match="'a' has 6 neurons and would be left with 0"):
            nas.delta_nout(*net, {"a": -6})
        with pytest.raises(nas.RequestError, match="a whole number is needed"):
            nas.delta_nout(*net, {"a": 1.5})
        with pytest.raises(nas.UnknownNameError, match="no vertex or axis named 'q'"):
            nas.delta_nout(*net, {"q": 1})
        with pytest.raises(nas.RequestError, match="must be one size"):
            nas.delta_nout(*net, {"a": (1, 2)})

    def test_outputs_keep_their_neurons(self):
        x = nas.input_vertex("x", 4)
        net = Net.of((nas.layer("a", nn.Dense(5), x) + nas.layer("b", nn.Dense(5), x)).named("sum"))
        with pytest.raises(nas.InfeasibleError, match="'sum' is an output of the graph"):
            nas.delta_nout(*net, {"a": -1})
        all_four = {"a": 4, "b": 4, "sum": 4}
        assert changed(nas.delta_nout(*net, {"a": -1}, free_outputs=True)) == all_four
        assert changed(nas.delta_nout(*net, {"a": -1, "sum": nas.relaxed(-1)})) == all_four


class TestInputs:
    @pytest.mark.parametrize(
        ("request_", "expected"),
        [
            ({"out": -1}, {"b": 7}),
            ({"out": (-1,)}, {"b": 7}),
            ({"out": [2], "b": (nas.to(3),)}, {"a": 3, "b": 10}),
            ({"out": (None,)}, {}),
            ({"out": nas.relaxed((-3,))}, {"b": 5}),
            ({"a": (1,)}, {"x": 5}),
        ],
        ids=str,
    )
    def test_one_input(self, request_: Mapping[str, Any], expected: Mapping[str, int]):
        assert changed(nas.delta_nin(*mlp(), request_)) == expected

    def test_several_inputs(self):
        net = sum_of_three()
        wider = nas.delta_nin(*net, {"sum": (3, None), "c": nas.relaxed((None, 1, 1))})
        assert changed(wider) == {"a": 12, "b": 4, "c": 12, "sum": 12}
        with pytest.raises(nas.RequestError, match="has 2 inputs"):
            nas.delta_nin(*net, {"sum": 3})
        with pytest.raises(nas.RequestError, match="Two different changes"):
            nas.delta_nin(*net, {"c": (1, 2, None)})


class TestDuplicates:
    """An axis that holds a neuron twice."""

    def test_both_copies_go(self):
        mutation = nas.delta_nout(*twice(), {"c": -2}, utility={"a": [5, 0, 3, 4, 1, 2]})
        assert mutation.indices("a").tolist() == [0, 2, 3, 4, 5]
        assert mutation.indices("c").tolist() == [0, 2, 3, 4, 5, 6, 8, 9, 10, 11]
        assert mutation.check(*data(mutation.before)).compared

    def test_utility_of_the_copies_is_added(self):
        scores = [0, 9, 9, 9, 9, 9, 9, 1, 9, 9, 9, 9]  # neuron 0: 0 + 9, neuron 1: 9 + 1
        assert nas.delta_nout(*twice(), {"c": -2}, utility={"c": scores}).indices("a").tolist() == [1, 2, 3, 4, 5]

    def test_both_copies_are_new(self):
        mutation = nas.delta_nout(*twice(), {"a": 1})
        assert mutation.indices("c").tolist() == [*range(6), -1, *range(6, 12), -1]
        assert mutation.check(*data(mutation.before)).compared

    def test_flatten_multiplies(self):
        mutation = nas.delta_nout(*image(), {"flat": -6}, utility={"conv": [1, 0, 2, 3]})
        assert mutation.indices("conv").tolist() == [0, 2, 3]
        assert mutation.indices("flat").tolist() == [4 * p + i for p in range(6) for i in (0, 2, 3)]
        assert mutation.variables["params"]["out"]["kernel"].shape == (18, 2)
        assert mutation.check(*data(mutation.before)).compared


class TestUtility:
    @pytest.mark.parametrize(
        ("utility", "kept"),
        [
            pytest.param({"a": [3, 1, 2, 6, 5, 4]}, [0, 3, 4, 5], id="mapping"),
            pytest.param({"a": np.array([3, 1, 2, 6, 5, 4], np.float16)}, [0, 3, 4, 5], id="numpy"),
            pytest.param({"a": jnp.array([3, 1, 2, 6, 5, 4])}, [0, 3, 4, 5], id="jax"),
            pytest.param(lambda name: [3, 1, 2, 6, 5, 4] if name == "a" else None, [0, 3, 4, 5], id="function"),
            pytest.param(lambda name: 1, [0, 1, 2, 3], id="scalar"),
            pytest.param({}, [0, 1, 2, 3], id="none of it"),
            pytest.param({"a": [1, 2, 2, 2, 2, 2]}, [1, 2, 3, 4], id="equal ones: the earlier stay"),
            pytest.param({"a": [2, 1, 1, 1, 1, 2]}, [0, 1, 2, 5], id="in their old order"),
        ],
    )
    def test_given(self, utility: Any, kept: list[int]):
        assert nas.delta_nout(*mlp(), {"a": -2}, utility=utility).indices("a").tolist() == kept

    def test_default_is_magnitude(self):
        graph, variables = mlp()
        for order in ([0, 1, 2, 3, 4, 5], [3, 5, 0, 1, 4, 2]):
            kernel = variables["params"]["a"]["kernel"].copy()
            kernel *= np.array(order)
            changed = {"params": {**variables["params"], "a": {**variables["params"]["a"], "kernel": kernel}}}
            kept = nas.delta_nout(graph, changed, {"a": -3}).indices("a").tolist()
            assert kept == [i for i in range(6) if order[i] >= 3]
            given = nas.delta_nout(graph, changed, {"a": -3}, utility=nas.magnitude(graph, changed))
            assert given.indices("a").tolist() == kept

    @pytest.mark.parametrize(
        ("scores", "kept"), [(-1.0, [0, 1, 2, 3]), ([-3, -1, -2, -6, -5, -4], [0, 1, 2, 5])], ids=["scalar", "array"]
    )
    def test_negative(self, scores: Any, kept: list[int]):
        """The best of them stay where nothing may be inserted; else new neurons, which are worth 0, are better."""
        mutation = nas.delta_nout(*mlp(), {"a": -2}, utility={"a": scores}, max_new=0)
        assert mutation.indices("a").tolist() == kept
        mutation = nas.delta_nout(*mlp(), {"a": -2}, utility={"a": scores})
        assert mutation.indices("a").tolist() == [-1] * 4

    def test_an_exact_size_may_exchange_neurons_of_negative_utility(self):
        """Size 6 with two negative ones: dropping them and adding new ones is worth more."""
        utility = {"a": [1, -1, -2, 1, 1, 1]}
        assert nas.delta_nout(*mlp(), {"a": -1}, utility=utility).indices("a").tolist() == [0, 3, 4, 5, -1]
        mutation = nas.delta_nout(*mlp(), {"a": 0}, utility=utility)
        assert mutation.indices("a").tolist() == [0, 3, 4, 5, -1, -1]
        assert mutation.check(*data(mutation.before)).compared

    def test_utility_is_added_over_ties(self):
        utility = {"a": [0.0] * 9, "b": [0, 0.5, 0]}
        utility["a"][2] = 1.0
        mutation = nas.delta_nout(*sum_of_three(), {"b": -1}, utility=utility)
        assert mutation.indices("b").tolist() == [1, 2]
        assert mutation.indices("sum").tolist() == [1, 2, 4, 5, 7, 8]

    @pytest.mark.parametrize(
        ("utility", "message"),
        [
            ({"a": [1, 2]}, "has shape"),
            ({"a": [1, 2, 3, 4, 5, np.nan]}, "not finite"),
            ({"q": 1}, "no vertex or axis named 'q'"),
            ({"a": "much"}, "numbers"),
            (3, "must be a mapping"),
        ],
    )
    def test_bad(self, utility: Any, message: str):
        with pytest.raises(nas.UtilityError, match=message):
            nas.delta_nout(*mlp(), {"a": -1}, utility=utility)


class TestResize:
    def test_drops_what_is_negative(self):
        mutation = nas.resize(*mlp(), utility={"a": [1, -1, 2, -0.5, 3, 0.1], "b": [-1] * 7 + [1]})
        assert mutation.indices("a").tolist() == [0, 2, 4, 5]
        assert mutation.indices("b").tolist() == [7]
        assert changed(mutation) == {"a": 4, "b": 1}
        assert mutation.check(*data(mutation.before)).compared

    def test_one_neuron_stays(self):
        """As the documentation of resize says."""
        mutation = nas.resize(*mlp(), utility={"b": [-2, -1, -3, -2, -2, -2, -2, -2]})
        assert changed(mutation) == {"b": 1}
        assert mutation.indices("b").tolist() == [1]

    def test_keeps_what_is_zero_or_better(self):
        assert changed(nas.resize(*mlp())) == {}
        assert changed(nas.resize(*mlp(), utility={})) == {}

    def test_the_total_counts(self):
        utility = {"b": [-1, -1, -1], "a": [0, 0, 0, 4, 0, 0, 0, 0, 0]}
        mutation = nas.resize(*sum_of_three(), utility=utility)
        assert mutation.indices("b").tolist() == [0]  # the first: -1 + 4
        assert changed(mutation) == {"a": 3, "b": 1, "c": 3, "sum": 3}

    def test_outputs_and_inputs(self):
        net = mlp()
        utility = dict.fromkeys(("x", "a", "b", "out"), -1)
        assert changed(nas.resize(*net, utility=utility)) == {"a": 1, "b": 1}
        assert changed(nas.resize(*net, utility=utility, free_outputs=True)) == {"a": 1, "b": 1, "out": 1}

    def test_with_a_request(self):
        mutation = nas.resize(*mlp(), request={"b": nas.to(5)}, utility={"a": [-1, 1, 1, 1, 1, 1], "b": np.arange(8)})
        assert mutation.indices("a").tolist() == [1, 2, 3, 4, 5]
        assert mutation.indices("b").tolist() == [3, 4, 5, 6, 7]


class TestBounds:
    @pytest.mark.parametrize(
        "max_new", [2, {"a": 2}, lambda name: 2 if name == "a" else 0], ids=["number", "mapping", "function"]
    )
    def test_max_new(self, max_new: Any):
        assert changed(nas.delta_nout(*mlp(), {"a": 2}, max_new=max_new)) == {"a": 8}
        assert changed(nas.delta_nout(*mlp(), {"a": nas.relaxed(5)}, max_new=max_new)) == {"a": 8}
        with pytest.raises(nas.InfeasibleError, match=r"at most 2 neurons may be inserted(.|\n)*'a': nas.to\(8\)"):
            nas.delta_nout(*mlp(), {"a": 3}, max_new=max_new)

    def test_other_axes_keep_the_default(self):
        assert changed(nas.delta_nout(*mlp(), {"a": 3}, max_new={"b": 0})) == {"a": 9}
        assert changed(nas.delta_nout(*mlp(), {"a": 3}, max_new=lambda name: None)) == {"a": 9}

    def test_default_is_at_least_200_and_ten_times_the_size(self):
        assert changed(nas.delta_nout(*mlp(), {"a": 200})) == {"a": 206}
        with pytest.raises(nas.InfeasibleError, match=r"nas.to\(206\)"):
            nas.delta_nout(*mlp(), {"a": 201})
        large = Net.of(nas.layer("out", nn.Dense(1), nas.layer("a", nn.Dense(30), nas.input_vertex("x", 1))))
        assert changed(nas.delta_nout(*large, {"a": 300})) == {"a": 330}
        with pytest.raises(nas.InfeasibleError, match=r"nas.to\(330\)"):
            nas.delta_nout(*large, {"a": 301})

    def test_a_tied_vertex_counts(self):
        with pytest.raises(nas.InfeasibleError, match=r"nas.to\(12\)"):
            nas.delta_nout(*sum_of_three(), {"sum": 6}, max_new={"b": 1})

    @pytest.mark.parametrize("max_new", [-1, 1.5, True, {"a": -1}])
    def test_bad(self, max_new: Any):
        with pytest.raises(nas.RequestError, match="max_new for"):
            nas.delta_nout(*mlp(), {"a": 1}, max_new=max_new)


class TestReach:
    def test_what_is_not_reached_stays_even_if_its_utility_is_negative(self):
        utility = {"a": [3, 2, 1, 6, 5, 4], "b": [-1] * 8}
        mutation = nas.delta_nout(*mlp(), {"a": -1}, utility=utility)
        assert changed(mutation) == {"a": 5}
        assert mutation.indices("b").tolist() == list(range(8))
        assert mutation.graph.reach("a") == ("a",)

    def test_an_empty_request_reaches_nothing(self):
        assert not nas.delta_nout(*mlp(), {}, utility=lambda name: -1).plan.changed

    def test_what_is_tied_is_reached(self):
        graph, _ = sum_of_three()
        assert set(graph.reach("b")) == {"a", "b", "c", "sum"}


NEW = [None, "zeros", "split"]


class TestGrowth:
    @pytest.mark.parametrize("new", NEW, ids=str)
    @pytest.mark.parametrize(
        ("net", "request_"),
        [
            (mlp, {"a": 3, "b": 2}),
            (sum_of_three, {"sum": 6}),
            (image, {"flat": 12}),
            (twice, {"c": 4}),
            (mlp, {"a": -2, "b": 4}),
        ],
        ids=["dense", "sum", "flatten", "duplicates", "both ways"],
    )
    def test_keeps_the_function(self, new: Any, net: Any, request_: Mapping[str, int]):
        graph, variables = net()
        mutation = nas.delta_nout(graph, variables, request_, new=new)
        inputs = data(graph)
        assert mutation.check(*inputs).compared
        if all(change > 0 for change in request_.values()):
            np.testing.assert_allclose(
                mutation.graph.apply(mutation.variables, *inputs), graph.apply(variables, *inputs), rtol=2e-5, atol=1e-5
            )

    def test_default(self):
        params = nas.delta_nout(*mlp(), {"a": 2}).variables["params"]
        assert (params["a"]["kernel"][:, 6:] != 0).all()  # they can learn at once
        assert (params["b"]["kernel"][6:] == 0).all()
        assert (params["a"]["bias"][6:] == 0).all()

    def test_zeros(self):
        params = nas.delta_nout(*mlp(), {"a": 2}, new="zeros").variables["params"]
        assert not params["a"]["kernel"][:, 6:].any()
        assert not params["b"]["kernel"][6:].any()

    def test_split(self):
        graph, variables = mlp()
        mutation = nas.delta_nout(graph, variables, {"a": 2}, new="split")
        old, params = variables["params"], mutation.variables["params"]
        twin = mutation.plan.axes["a"].twin[6:]
        assert len(set(twin.tolist())) == 2
        np.testing.assert_array_equal(params["a"]["kernel"][:, 6:], old["a"]["kernel"][:, twin])
        np.testing.assert_array_equal(params["a"]["bias"][6:], old["a"]["bias"][twin])
        np.testing.assert_allclose(params["b"]["kernel"][6:], old["b"]["kernel"][twin] / 2, rtol=1e-6)
        np.testing.assert_allclose(params["b"]["kernel"][twin], old["b"]["kernel"][twin] / 2, rtol=1e-6)

    def test_init(self):
        x = nas.input_vertex("x", 4)
        a = nas.layer(
            "a", nn.Dense(3, kernel_init=nn.initializers.constant(7), bias_init=nn.initializers.constant(5)), x
        )
        graph, variables = Net.of(nas.layer("out", nn.Dense(2, kernel_init=nn.initializers.constant(3)), a))
        mutation = nas.delta_nout(graph, variables, {"a": 1}, new="init")
        old, params = variables["params"], mutation.variables["params"]
        np.testing.assert_array_equal(params["a"]["kernel"], np.c_[old["a"]["kernel"], [7] * 4])
        np.testing.assert_array_equal(params["a"]["bias"], [*old["a"]["bias"], 5])
        np.testing.assert_array_equal(params["out"]["kernel"], np.r_[old["out"]["kernel"], [[3, 3]]])
        found = mutation.check(*data(graph))
        assert not found.compared
        assert "init" in found.reason

    def test_function(self):
        seen = {}

        def new(entries: nas.NewEntries) -> Any:
            seen[entries.path] = (entries.old.shape, entries.shape, int(entries.is_new.sum()))
            return np.full(entries.shape, len(entries.path))

        graph, variables = mlp()
        mutation = nas.delta_nout(graph, variables, {"a": 1}, new=new)
        assert seen == {
            ("params", "a", "kernel"): ((4, 6), (4, 7), 4),
            ("params", "a", "bias"): ((6,), (7,), 1),
            ("params", "b", "kernel"): ((6, 8), (7, 8), 8),
        }
        params = mutation.variables["params"]
        np.testing.assert_array_equal(params["a"]["kernel"][:, 6], 3)
        np.testing.assert_array_equal(params["b"]["kernel"][6], 3)
        np.testing.assert_array_equal(params["b"]["kernel"][:6], variables["params"]["b"]["kernel"])

    def test_function_that_returns_another_shape(self):
        with pytest.raises(nas.PlanError, match="new= returned shape"):
            nas.delta_nout(*mlp(), {"a": 1}, new=lambda entries: np.zeros(99))

    def test_unknown(self):
        with pytest.raises(nas.PlanError, match="new='nothing' is unknown"):
            nas.delta_nout(*mlp(), {"a": 1}, new="nothing")

    def test_statistics_of_a_batch_norm(self):
        x = nas.input_vertex("x", 4)
        bn = nas.layer("bn", nn.BatchNorm(), nas.layer("a", nn.Dense(3), x))
        mutation = nas.delta_nout(*Net.of(nas.layer("out", nn.Dense(2), bn)), {"a": 1})
        assert mutation.indices("bn").tolist() == [0, 1, 2, -1]
        variables = mutation.variables
        new = [variables["params"]["bn"][k][3] for k in ("scale", "bias")]
        new += [variables["batch_stats"]["bn"][k][3] for k in ("mean", "var")]
        assert [float(value) for value in new] == [1, 0, 0, 1]
        assert mutation.check(*data(mutation.before)).compared


class TestRng:
    def test_same_key_same_numbers(self):
        net = mlp()
        default, again = (nas.delta_nout(*net, {"a": 2}).variables for _ in range(2))
        jax.tree.map(np.testing.assert_array_equal, default, again)
        explicit = nas.delta_nout(*net, {"a": 2}, rng=jax.random.key(0)).variables
        jax.tree.map(np.testing.assert_array_equal, default, explicit)

    @pytest.mark.parametrize("new", [None, "init"], ids=str)
    def test_another_key_other_numbers(self, new: Any):
        net = mlp()
        one, other = (
            nas.delta_nout(*net, {"a": 2}, new=new, rng=jax.random.key(seed)).variables["params"] for seed in (1, 2)
        )
        assert (one["a"]["kernel"][:, 6:] != other["a"]["kernel"][:, 6:]).all()
        np.testing.assert_array_equal(one["a"]["kernel"][:, :6], other["a"]["kernel"][:, :6])

    def test_each_parameter_has_numbers_of_its_own(self):
        x = nas.input_vertex("x", 4)
        pair = [nas.layer(name, nn.Dense(3), x) for name in ("a", "b")]
        mutation = nas.delta_nout(*Net.of(nas.layer("out", nn.Dense(2), nas.concat("c", *pair))), {"a": 1, "b": 1})
        params = mutation.variables["params"]
        assert (params["a"]["kernel"][:, 3] != params["b"]["kernel"][:, 3]).all()


class TestVariables:
    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
    @pytest.mark.parametrize("new", [*NEW, "init"], ids=str)
    def test_dtype_is_kept(self, dtype: Any, new: Any):
        graph, variables = mlp()
        half = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), variables)
        mutation = nas.delta_nout(graph, half, {"a": 2, "b": -2}, new=new)
        assert {leaf.dtype for leaf in jax.tree.leaves(mutation.variables)} == {jnp.dtype(dtype)}
        kept = mutation.indices("b")
        np.testing.assert_array_equal(mutation.variables["params"]["b"]["bias"], half["params"]["b"]["bias"][kept])
        _, restored = mutation.undo(mutation.variables)
        assert {leaf.dtype for leaf in jax.tree.leaves(restored)} == {jnp.dtype(dtype)}

    def test_bits_are_kept(self):
        """Not a number and minus zero stay as they are, where they are kept."""
        graph, variables = mlp()
        odd = np.array([-0.0, np.nan, np.inf, 1e-40, 5, 6], np.float32)
        variables = {"params": {**variables["params"], "a": {**variables["params"]["a"], "bias": odd}}}
        smaller = nas.delta_nout(graph, variables, {"a": -2}, utility={"a": [9, 9, 9, 9, 1, 1]})
        got = np.asarray(smaller.variables["params"]["a"]["bias"])
        assert got.tobytes() == odd[:4].tobytes()

    def test_frozen_dict(self):
        graph, variables = mlp()
        frozen = nas.delta_nout(graph, FrozenDict(variables), {"a": -2})
        plain = nas.delta_nout(graph, variables, {"a": -2})
        assert frozen.plan == plain.plan
        jax.tree.map(np.testing.assert_array_equal, frozen.variables, FrozenDict(plain.variables))
        jax.tree.map(np.testing.assert_array_equal, frozen.undo(frozen.variables)[1], FrozenDict(variables))
        assert frozen.check(*data(graph)).compared

    def test_of_another_graph(self):
        graph, _ = mlp()
        with pytest.raises(nas.VariablesError):
            nas.delta_nout(graph, nas.delta_nout(*mlp(), {"a": 1}).variables, {"a": 1})

    def test_what_does_not_change_is_shared_unless_it_can_be_written_to(self):
        graph, variables = mlp()
        on_device = jax.tree.map(jnp.asarray, variables)
        mutation = nas.delta_nout(graph, on_device, {"a": 1})
        assert mutation.variables["params"]["out"]["kernel"] is on_device["params"]["out"]["kernel"]
        on_host = jax.tree.map(np.array, variables)
        kernel = nas.delta_nout(graph, on_host, {"a": 1}).variables["params"]["out"]["kernel"]
        np.testing.assert_array_equal(kernel, on_host["params"]["out"]["kernel"])
        assert not np.shares_memory(kernel, on_host["params"]["out"]["kernel"])


class TestPlan:
    def test_axes(self):
        plan = nas.delta_nout(*mlp(), {"a": -2, "b": 1}, utility={"a": [3, 1, 2, 6, 5, 4]}).plan
        assert plan.axes["a"] == nas.AxisPlan.of(6, [0, 3, 4, 5])
        assert plan.axes["b"].source.tolist() == [*range(8), -1]
        assert plan.axes["a"].dropped.tolist() == [1, 2]
        assert (plan.axes["b"].before, plan.axes["b"].after, plan.axes["b"].new.tolist()) == (8, 9, [8])
        assert set(plan.changed) == {"a", "b"}
        assert plan.leaves["params", "b", "kernel"] == ("a", "b")
        assert str(plan) == "a: 6 -> 4, drops [1, 2]\nb: 8 -> 9, new at [8]"
        assert nas.Plan.from_json(plan.to_json()) == plan

    def test_indices(self):
        mutation = nas.delta_nout(*mlp(), {"a": -2}, utility={"a": [3, 1, 2, 6, 5, 4]})
        assert mutation.indices("a").tolist() == [0, 3, 4, 5]
        assert mutation.indices("b").tolist() == list(range(8))
        with pytest.raises(nas.UnknownNameError, match="no axis 'q'"):
            mutation.indices("q")

    @pytest.mark.parametrize("net", [mlp, twice, image, sum_of_three])
    def test_same_question_same_answer(self, net: Any):
        utility = dict.fromkeys(net().graph.ties.axes, 1.0)  # everything is equally good
        plans = set()
        for _ in range(3):
            graph, variables = net()
            first = next(v.name for v in graph.vertices if v.inputs)
            plans.add(nas.delta_nout(graph, variables, {first: nas.relaxed(-2)}, utility=utility, max_new=3).plan)
        assert len(plans) == 1

    def test_equal_utilities_keep_the_earlier(self):
        x = nas.input_vertex("x", 4)
        a, b = nas.layer("a", nn.Dense(4), x), nas.layer("b", nn.Dense(4), x)
        net = Net.of(nas.layer("out", nn.Dense(2), nas.concat("c", a, b)))
        mutation = nas.delta_nout(*net, {"a": -1, "b": -2}, utility=lambda name: 1)
        assert mutation.indices("c").tolist() == [0, 1, 2, 4, 5]
        spread = nas.delta_nout(*net, {"c": -4}, utility=lambda name: 1)  # the largest change is small
        assert changed(spread) == {"a": 2, "b": 2, "c": 4}
        assert spread.indices("c").tolist() == [0, 1, 4, 5]


class TestUndo:
    @pytest.mark.parametrize("net", [mlp, twice, image, sum_of_three])
    @pytest.mark.parametrize("change", [-2, 2])
    def test_exact(self, net: Any, change: int):
        graph, variables = net()
        name = next(v.name for v in graph.vertices if v.inputs)
        mutation = nas.delta_nout(graph, variables, {name: nas.relaxed(change)})
        assert mutation.plan.changed
        restored_graph, restored = mutation.undo(mutation.variables)
        assert restored_graph == graph
        jax.tree.map(np.testing.assert_array_equal, restored, variables)

    def test_what_was_learned_meanwhile_stays(self):
        graph, variables = mlp()
        mutation = nas.delta_nout(graph, variables, {"a": -2}, utility={"a": [1, 0, 1, 1, 0, 1]})
        learned = jax.tree.map(lambda leaf: leaf + 1, mutation.variables)
        _, restored = mutation.undo(learned)
        bias, old = restored["params"]["a"]["bias"], variables["params"]["a"]["bias"]
        np.testing.assert_array_equal(bias, old + np.array([1, 0, 1, 1, 0, 1], np.float32))


def test_boxed_variables_are_refused_with_what_unboxes_them():
    x = nas.input_vertex("x", 4)
    kernel = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("h", nn.Dense(6, kernel_init=kernel), x)))
    boxed = graph.init(jax.random.key(0), jnp.ones((1, 4)))
    with pytest.raises(nas.VariablesError, match=r"'h'\]\['kernel'\] is Partitioned, a box .*meta.unbox\(variables\)"):
        nas.delta_nout(graph, boxed, {"h": -2})
    assert nas.delta_nout(graph, nn.meta.unbox(boxed), {"h": -2}).graph.nout("h") == 4
