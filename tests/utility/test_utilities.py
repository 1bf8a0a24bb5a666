"""Utilities that need no gradients: against brute force, and against each other on hand-written and imported graphs."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import core
from reference.trained import KINDS, case_of, residual

import naivenas_jax as nas


def kernels(variables):
    """The squares of all weights between neurons, summed."""
    leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
    return {
        norm: sum(np.sum(np.abs(np.asarray(leaf, np.float64)) ** power) for p, leaf in leaves if leaf.ndim > 1)
        for norm, power in (("l1", 1), ("l2", 2))
    }


def without(case, handle, position):
    """The network without one neuron and all that is tied to it."""
    wish = {handle: -1.0 * (np.arange(case.graph.ties.size(handle)) == position)}
    return nas.delta_nout(case.graph, case.variables, {handle: -1}, utility=wish)


class TestGroupMagnitude:
    @pytest.mark.parametrize(("kind", "norm"), [("linen", "l1"), ("nnx", "l2"), ("imported", "l2")])
    def test_is_what_dropping_the_neuron_removes(self, kind, norm):
        case = case_of(kind)
        scores = nas.magnitude(case.graph, case.variables, norm=norm, group=True)
        for handle in ("a", "c"):
            for position, score in enumerate(scores[handle]):
                removed = kernels(case.variables)[norm] - kernels(without(case, handle, position).variables)[norm]
                assert score == pytest.approx(removed if norm == "l1" else removed**0.5, rel=1e-9)

    def test_an_entry_that_is_read_and_made_by_the_same_neuron_counts_once(self):
        x = nas.input_vertex("x", 3)
        a = nas.layer("a", nn.Dense(3, use_bias=False), x)
        graph = nas.Graph(x, nas.layer("out", nn.Dense(1), (a + nas.layer("loop", nn.Dense(3), a)).named("sum")))
        variables = jax.tree.map(jnp.ones_like, graph.init(jax.random.key(0), jnp.ones((1, 3))))
        found = nas.magnitude(graph, variables, group=True)["a"]
        assert found.tolist() == [3 + 5 + 1] * 3  # a column of a, row and column of loop that cross, a row of out

    def test_only_some_axes(self):
        case = residual()
        assert set(nas.magnitude(case.graph, case.variables, group=True, axes=["c"])) == {"c"}


class TestBatchNormScale:
    @pytest.mark.parametrize("kind", KINDS)
    def test_scale(self, kind):
        case = case_of(kind)
        scores = nas.batchnorm_scale(case.graph, case.variables)
        expected = np.abs(np.asarray(case.variables["params"]["norm"]["scale"]))
        np.testing.assert_allclose(nas.total_utility(case.graph, scores)["a"], expected, rtol=1e-6)

    def test_summed_over_what_is_tied(self):
        x = nas.input_vertex("x", 3)
        branches = [nas.layer(f"norm{i}", nn.BatchNorm(), nas.layer(f"d{i}", nn.Dense(2), x)) for i in range(2)]
        graph = nas.Graph(x, (branches[0] + branches[1]).named("sum"))
        variables = graph.init(jax.random.key(0), jnp.ones((1, 3)))
        variables["params"]["norm0"]["scale"] = jnp.array([1.0, -2.0])
        variables["params"]["norm1"]["scale"] = jnp.array([0.5, 0.25])
        assert nas.total_utility(graph, nas.batchnorm_scale(graph, variables))["d1"].tolist() == [1.5, 2.25]

    def test_no_batch_norm(self):
        x = nas.input_vertex("x", 3)
        graph = nas.Graph(x, nas.layer("norm", nn.LayerNorm(), nas.layer("d", nn.Dense(2), x)))
        with pytest.raises(nas.UtilityError, match="no batch normalisation"):
            nas.batchnorm_scale(graph, graph.init(jax.random.key(0), jnp.ones((1, 3))))


def read_values(case, inputs):
    """For each handle what convolutions and dense layers read of it: recorded on its way, one list per vertex."""
    seen = {}

    def intercept(path, vertex, port, value):
        if vertex.op.absorbs:
            seen[vertex.inputs[port].name] = np.asarray(value, np.float64)
        return value

    core.apply(case.graph.run, mutable=False)(case.variables, inputs, intercept=intercept)
    act, total, flat = (seen[name] for name in ("act", "total", "flat"))
    both = flat.reshape(-1, 7)  # what the dense layer reads: positions of c and of the sum
    return {"c": both[:, :3], "a": np.concatenate([x.reshape(-1, 4) for x in (act, total, both[:, 3:])])}


STATISTICS = {
    "mean": lambda values: np.abs(values).mean(0),
    "variance": lambda values: values.var(0),
    "active": lambda values: (values != 0).mean(0),  # clear of rounding: of a relu, not of the tail of a gelu
}


class TestActivity:
    @pytest.mark.parametrize(("kind", "statistic"), [("linen", "mean"), ("imported", "variance"), ("nnx", "active")])
    def test_of_all_values_that_weights_read(self, kind, statistic):
        activation = nn.relu if statistic == "active" else nn.gelu
        case = case_of(kind) if activation is nn.gelu else residual(kind, activation)
        batches = [case.inputs, 2 * case.inputs]
        scores = nas.activity(case.graph, case.variables, batches, statistic=statistic)
        written = residual(activation=activation)
        values = [read_values(written._replace(variables=case.variables), batch) for batch in batches]
        for handle in ("a", "c"):
            expected = STATISTICS[statistic](np.concatenate([value[handle] for value in values]))
            np.testing.assert_allclose(scores[handle], expected, rtol=1e-4, atol=1e-6)

    def test_zeros(self):
        x = nas.input_vertex("x", 2)
        hidden = nas.invariant_vertex("relu", nn.relu, nas.layer("h", nn.Dense(2), x))
        graph = nas.Graph(x, nas.layer("out", nn.Dense(1), hidden))
        variables = graph.init(jax.random.key(0), jnp.ones((1, 2)))
        variables["params"]["h"] = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
        batch = jnp.array([[1.0, -1.0], [2.0, 3.0], [-1.0, -1.0], [4.0, -2.0]])
        assert nas.activity(graph, variables, [batch], statistic="active")["h"].tolist() == [0.75, 0.25]
        assert nas.activity(graph, variables, [batch])["h"].tolist() == [7 / 4, 3 / 4]

    def test_read_by_several_weights_counts_once(self):
        """Queries, keys and values read the same."""
        x = jax.random.normal(jax.random.key(1), (2, 4, 6))
        model = nn.Sequential([nn.Dense(8), nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8)])
        variables = model.init(jax.random.key(0), x)
        graph, variables = nas.from_linen(model, variables, x)
        made = nn.Dense(8).apply({"params": variables["params"]["layers_0"]}, x)
        scores = nas.activity(graph, variables, [x], statistic="mean", missing=0.0)
        np.testing.assert_allclose(scores["layers_0"], np.abs(made).mean((0, 1)), rtol=1e-5)

    def test_out_of_sight(self):
        def looped(variables, x):
            def body(state, _):
                return jnp.tanh(state @ variables["w"]["inner"]), None

            return jax.lax.scan(body, x @ variables["w"]["first"], None, length=2)[0] @ variables["w"]["last"] * 0 + 1.0

        rng = np.random.default_rng(0)
        shapes = {"first": (3, 4), "inner": (4, 4), "last": (4, 2)}
        variables = {"w": {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}}
        graph, variables = nas.from_function(looped, variables, jnp.ones((1, 3)))
        scores = nas.activity(graph, variables, [jnp.ones((2, 3))])  # read by "last", after the loop
        assert min(map(np.min, scores.values())) > 0
        rest = {"w": {"first": variables["w"]["first"], "inner": variables["w"]["inner"]}}

        def only_inside(variables, x):
            def body(state, _):
                return jnp.tanh(state @ variables["w"]["inner"]), None

            return jax.lax.scan(body, x @ variables["w"]["first"], None, length=2)[0].sum(-1, keepdims=True)

        graph, rest = nas.from_function(only_inside, rest, jnp.ones((1, 3)))
        with pytest.raises(nas.UtilityError, match="out of sight"):
            nas.activity(graph, rest, [jnp.ones((2, 3))])
        filled = nas.activity(graph, rest, [jnp.ones((2, 3))], missing=7.0)
        assert 7.0 in np.concatenate(list(filled.values()))

    @pytest.mark.parametrize("imported", [False, True])
    @pytest.mark.parametrize(("groups", "features"), [(4, 12), (8, 8), (8, 16)], ids=["grouped", "depthwise", "twice"])
    def test_grouped_convolutions_read_all_their_groups(self, groups, features, imported):
        images = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
        first, second = nn.Conv(8, (1, 1)), nn.Conv(features, (2, 2), feature_group_count=groups)
        layers = [first, nn.tanh, second, nn.relu, nn.Conv(2, (1, 1))]
        x = nas.input_vertex("x", 3)
        y = nas.invariant_vertex("tanh", nn.tanh, nas.layer("layers_0", first, x))
        y = nas.invariant_vertex("relu", nn.relu, nas.layer("layers_2", second, y))
        graph = nas.Graph(x, nas.layer("layers_4", layers[-1], y))
        variables = graph.init(jax.random.key(1), images)
        if imported:
            graph, variables = nas.from_linen(nn.Sequential(layers), variables, images)
        scores = nas.activity(graph, variables, [images, 2 * images])
        read = [[], []]
        for batch in (images, 2 * images):
            hidden = nn.tanh(first.apply({"params": variables["params"]["layers_0"]}, batch))
            read[0].append(hidden)
            read[1].append(nn.relu(second.apply({"params": variables["params"]["layers_2"]}, hidden)))
        hidden, made = (np.abs(np.concatenate(arrays)) for arrays in read)
        if groups == features:  # one class, read by both
            np.testing.assert_allclose(scores["layers_0"], (hidden + made).mean((0, 1, 2)) / 2, rtol=1e-5)
            return
        np.testing.assert_allclose(scores["layers_0"], hidden.mean((0, 1, 2)), rtol=1e-5)
        np.testing.assert_allclose(scores["layers_2"], made.mean((0, 1, 2)), rtol=1e-5)
        assert all(not scores[handle].any() for handle in scores if handle.startswith("layers_2:"))

    def test_no_batches(self):
        case = residual()
        with pytest.raises(nas.UtilityError, match="at least one batch"):
            nas.activity(case.graph, case.variables, [])

    def test_unknown_statistic(self):
        case = residual()
        with pytest.raises(nas.UtilityError, match="statistic must be one of"):
            nas.activity(case.graph, case.variables, [case.inputs], statistic="apoz")


def chain():
    x = nas.input_vertex("x", 3)
    a, b = nas.layer("a", nn.Dense(3), x), nas.layer("b", nn.Dense(3), x)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), (a + b).named("sum")))
    return graph, graph.init(jax.random.key(0), jnp.ones((1, 3)))


class TestSums:
    def test_total_is_what_the_alignment_goes_by(self):
        graph, variables = chain()
        utility = {"a": [3.0, 1.0, 2.0], "b": [0.0, 5.0, 2.5]}
        assert nas.total_utility(graph, utility)["sum"].tolist() == [3.0, 6.0, 4.5]
        for number, order in ((-1, [1, 2]), (-2, [1])):
            assert nas.delta_nout(graph, variables, {"b": number}, utility=utility).indices("a").tolist() == order

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_class_is_scored_once(self, kind):
        """The totals of what is given once are what is given, at every handle that holds the class."""
        case = case_of(kind)
        scores = nas.random_utility(case.graph, jax.random.key(3))
        totals = nas.total_utility(case.graph, scores)
        np.testing.assert_array_equal(totals["a"], scores["a"])
        np.testing.assert_array_equal(totals["b"], scores["a"])

    def test_combinations_count_for_each_factor(self):
        def headed(variables, x):
            heads = jnp.tanh(x @ variables["w"]["first"]).reshape(-1, 2, 4)
            return jnp.einsum("bhf,hfo->bo", heads, variables["w"]["last"])

        variables = {"w": {"first": jnp.ones((3, 8)), "last": jnp.ones((2, 4, 5))}}
        graph, variables = nas.from_function(headed, variables, jnp.ones((1, 3)))
        heads, features = (handle for handle in graph.handles() if handle.startswith("w/first:"))
        totals = nas.total_utility(graph, {"w/first": np.arange(8.0)})
        assert totals[heads].tolist() == [0 + 1 + 2 + 3, 4 + 5 + 6 + 7]
        assert totals[features].tolist() == [4, 6, 8, 10]
        for handle in (heads, features):  # the alignment goes by the same sums
            for best in range(graph.ties.size(handle)):
                scores = np.zeros(8)
                scores[best * 4 if handle == heads else best] = 1.0
                mutation = nas.delta_nout(graph, variables, {handle: nas.to(1)}, utility={"w/first": scores})
                assert mutation.indices(handle).tolist() == [best]


class TestCombinations:
    def test_sum(self):
        graph, _ = chain()
        parts = [({"a": [1.0, 2.0, 3.0], "b": 1.0}, 2.0), (lambda handle: 4.0 if handle == "b" else None, -0.5)]
        found = nas.combine(graph, parts, normalise=None)
        assert found["a"].tolist() == [2 * 2 - 2, 2 * 3 - 2, 2 * 4 - 2]

    def test_product(self):
        graph, _ = chain()
        parts = [({"a": [1.0, 2.0, 4.0]}, 0.5), ({"b": [1.0, 3.0, 0.0]}, 1.0)]
        assert nas.combine(graph, parts, how="product", normalise=None)["a"].tolist() == [1.0, 3 * 2**0.5, 0.0]

    def test_normalised_parts(self):
        graph, _ = chain()
        parts = [({"a": [100.0, 200.0, 300.0]}, 1.0), ({"a": [3.0, 2.0, 1.0]}, 1.0)]
        for norm in ("mean", "l2", "max", "rank"):
            assert np.ptp(nas.combine(graph, parts, normalise=norm)["a"]) < 1e-12

    def test_ranks(self):
        graph, _ = chain()
        assert nas.normalise(graph, {"a": [5.0, -1.0, 5.0]}, "rank")["a"].tolist() == [2.5 / 3, 1 / 3, 2.5 / 3]

    def test_normalised_per_handle(self):
        graph, _ = chain()
        found = nas.normalise(graph, {"a": [1.0, 2.0, 3.0], "out": [10.0, 30.0]})
        assert found["a"].tolist() == [0.5, 1.0, 1.5]
        assert found["out"].tolist() == [0.5, 1.5]
        assert nas.normalise(graph, {"a": 0.0})["a"].tolist() == [0.0, 0.0, 0.0]

    @pytest.mark.parametrize(
        ("keywords", "match"),
        [
            ({"parts": []}, "at least one pair"),
            ({"parts": [{"a": 1.0}]}, "pairs of a utility and its weight"),
            ({"parts": [({"a": -1.0}, 1.0)], "how": "product", "normalise": None}, "scores below zero"),
            ({"parts": [({"a": 1.0}, 1.0)], "how": "mean"}, "how must be"),
            ({"parts": [({"a": 1.0}, 1.0)], "normalise": "sum"}, "by must be one of"),
            ({"parts": [({"nobody": 1.0}, 1.0)]}, "nobody"),
        ],
    )
    def test_refusals(self, keywords, match):
        graph, _ = chain()
        with pytest.raises(nas.UtilityError, match=match):
            nas.combine(graph, **keywords)


class TestNonFinite:
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_refused_with_the_name_of_the_handle(self, bad):
        graph, variables = chain()
        with pytest.raises(nas.UtilityError, match=r"utility of 'b' is not finite: -?(nan|inf) at neuron 1.*nas\.repl"):
            nas.delta_nout(graph, variables, {"a": -1}, utility={"b": [1.0, bad, 1.0]})

    def test_of_a_network_with_nan(self):
        graph, variables = chain()
        variables["params"]["b"]["kernel"] = variables["params"]["b"]["kernel"].at[0, 0].set(np.nan)
        with pytest.raises(nas.UtilityError, match="'b' is not finite: nan at neuron 0"):
            nas.delta_nout(graph, variables, {"a": -1})

    def test_replaced(self):
        graph, variables = chain()
        utility = {"b": [1.0, np.nan, 2.0]}
        for given in (utility, utility.get):
            repaired = nas.replace_nonfinite(given, 5.0)
            assert nas.delta_nout(graph, variables, {"a": -1}, utility=repaired).indices("a").tolist() == [1, 2]

    def test_by_something_finite(self):
        with pytest.raises(nas.UtilityError, match="finite value"):
            nas.replace_nonfinite({}, np.inf)

    def test_what_is_no_number_is_left_to_the_verbs(self):
        graph, variables = chain()
        with pytest.raises(nas.UtilityError, match="must be real numbers"):
            nas.delta_nout(graph, variables, {"a": -1}, utility=nas.replace_nonfinite({"a": "much"}, 0.0))


def test_random_is_uniform_and_repeatable():
    case = residual()
    one, other = (nas.random_utility(case.graph, jax.random.key(k)) for k in (0, 1))
    again = nas.random_utility(case.graph, jax.random.key(0))
    assert all(np.array_equal(one[handle], again[handle]) for handle in one)
    assert not np.array_equal(one["a"], other["a"])
    draws = [nas.random_utility(case.graph, jax.random.key(k)) for k in range(60)]
    drawn = np.concatenate([scores for draw in draws for scores in draw.values()])
    assert 0 <= drawn.min() < 0.05
    assert 0.95 < drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_every_utility_goes_with_every_verb(kind):
    case = case_of(kind)

    def loss(apply, variables, batch):
        return jnp.mean(apply(variables, batch) ** 2)

    batches = [case.inputs]
    utilities = [
        nas.magnitude(case.graph, case.variables, group=True),
        nas.batchnorm_scale(case.graph, case.variables),
        nas.taylor(case.graph, case.variables, loss, batches),
        nas.activity(case.graph, case.variables, batches),
        nas.random_utility(case.graph, jax.random.key(0)),
    ]
    for utility in [*utilities, nas.combine(case.graph, [(u, 1.0) for u in utilities])]:
        mutation = nas.delta_nout(case.graph, case.variables, {"b": -1}, utility=utility)
        worst = int(np.argmin(nas.total_utility(case.graph, utility)["b"]))
        assert mutation.plan.axis("b").dropped.tolist() == [worst]
        threshold = {handle: scores - 1e9 for handle, scores in nas.normalise(case.graph, utility).items()}
        resized = nas.resize(case.graph, case.variables, utility=threshold)  # every score is negative
        assert resized.graph.ties.size("c") == 1


class TestScoresTooLargeToAdd:
    @staticmethod
    def graph():
        x = nas.input_vertex("x", 3)
        a, b = nas.layer("a", nn.Dense(8), x), nas.layer("b", nn.Dense(8), x)
        return nas.Graph(x, nas.layer("out", nn.Dense(2), (a + b).named("sum")))

    @pytest.mark.parametrize(
        "utility", [{"a": [1e308] * 8, "b": [1e308] * 8}, {"a": [1e308] * 8}], ids=["tied", "one layer"]
    )
    def test_verbs_refuse_them(self, utility):
        graph = self.graph()
        variables = graph.init(jax.random.key(0), jnp.ones((1, 3)))
        with pytest.raises(nas.UtilityError, match=r"'a', up to 1e\+308"):
            nas.delta_nout(graph, variables, {"a": -2}, utility=utility)

    @pytest.mark.parametrize("use", [nas.total_utility, nas.comparable, nas.normalise])
    def test_utilities_refuse_them(self, use):
        with pytest.raises(nas.UtilityError, match="'b', up to 1e"):
            use(self.graph(), {"a": [1e308] * 8, "b": [1e308] * 8})
