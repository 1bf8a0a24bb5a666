"""Conditions and objectives that users, layers and vertices add to the alignment."""

from __future__ import annotations

import random

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from reference.network import disagreements
from reference.per_neuron import optimum, worth_of
from strategies import placeholder_variables, random_graph, random_request, random_utility

import naivenas_jax as nas
from naivenas_jax.align.problem.problem import Solution
from naivenas_jax.align.problem.reduction import Reduction
from naivenas_jax.align.problem.restrictions import Restrictions
from naivenas_jax.align.solve.solution import violations
from naivenas_jax.sizes.condition import Condition, Size


def two_layers(a=8, b=6):
    """x 3 -> a -> b -> out 2; the sizes of a and b are independent."""
    x = nas.input_vertex("x", 3)
    hidden = nas.layer("b", nn.Dense(b), nas.layer("a", nn.Dense(a), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), hidden))
    return graph, graph.init(jax.random.key(0), jnp.ones((1, 3)))


def _params(a, b):
    return 4 * a + (a + 1) * b + (b + 1) * 2


def two_branches(a=8, b=6):
    """out reads concat(a, b)."""
    x = nas.input_vertex("x", 3)
    cat = nas.concat("cat", nas.layer("a", nn.Dense(a), x), nas.layer("b", nn.Dense(b), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), cat))
    return graph, graph.init(jax.random.key(0), jnp.ones((1, 3)))


class TestExpressions:
    def test_sums(self):
        both = 3 - (nas.size("a") - 2 * nas.size("b")) * 2 + nas.size("a")
        assert both.at({"a": 5, "b": 7}) == 3 - (5 - 14) * 2 + 5
        assert str(both) == "-1 * size('a') + 4 * size('b') + 3"

    @pytest.mark.parametrize(
        ("row", "holds", "breaks"),
        [
            (nas.size("a") <= 5, 5, 6),
            (nas.size("a") >= 5, 5, 4),
            (nas.size("a") == 5, 5, 6),
            (5 >= nas.size("a"), 5, 6),  # noqa: SIM300  the reflected comparison is meant
            (10 - nas.size("a") >= 5, 5, 6),
            (nas.multiple_of("a", 4), 8, 9),
            (nas.multiple_of(nas.size("a") + 1, 4), 7, 8),
            (nas.one_of("a", (8, 3)), 8, 9),
            (nas.one_of(2 * nas.size("a") + 1, nas.ladder(5, 17, 1.5)), 8, 7),
        ],
        ids=str,
    )
    def test_conditions(self, row, holds, breaks):
        assert row.holds({"a": holds})
        assert not row.holds({"a": breaks})

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: 1 <= nas.size("a") <= 3, "two conditions"),
            (lambda: nas.size("a") < 3, "<="),
            (lambda: nas.size("a") > 3, ">="),
            (lambda: nas.size("a") != 3, "no linear condition"),
            (lambda: nas.size("a") * 0.5, r"whole number.*0\.5"),
            (lambda: nas.size("a") * nas.size("b"), "whole number"),
            (lambda: nas.size("a") <= 2.5, "common denominator"),
            (lambda: nas.size("a") <= True, "whole number"),
            (lambda: nas.size("a") <= 10**15, "lie within"),
            (lambda: nas.size(3), "name of an axis"),
            (lambda: nas.multiple_of("a", 0), "1 or more"),
            (lambda: nas.one_of("a", ()), "whole numbers.*found "),
            (lambda: nas.one_of("a", "8"), "found '8'"),
            (lambda: nas.one_of("a", (8, 2.5)), r"whole number, found 2\.5"),
            (lambda: nas.ladder(8, 4), "found 8 and 4"),
            (lambda: nas.ladder(8, 64, 1.0), r"above 1, such as 1\.5; found 1\.0"),
            (lambda: nas.ladder(8, 63, multiple_of=4), "multiples; found 4"),
            (lambda: nas.ladder(1, 10**6, 1.001), "at most 1000 sizes"),
        ],
    )
    def test_what_makes_no_sense(self, make, message):
        with pytest.raises(nas.RequestError, match=message):
            make()


class TestOfUsers:
    def test_a_sum_of_sizes(self):
        """b is not tied to a, but the condition names it: it gives way."""
        mutation = nas.delta_nout(*two_layers(), {"a": 4}, constraints=nas.size("a") + nas.size("b") <= 14)
        assert (mutation.graph.nout("a"), mutation.graph.nout("b")) == (12, 2)
        mutation.check(jnp.ones((2, 3)))

    def test_without_need_nothing_changes(self):
        mutation = nas.delta_nout(*two_layers(), {"a": 4}, constraints=[nas.size("b") >= 3, nas.size("a") <= 12])
        assert mutation.graph.nout("b") == 6

    def test_function_of_the_sizes(self):
        def hardware(size):
            return [nas.multiple_of(size[name], 4) for name in size if name not in ("x", "out")]

        mutation = nas.delta_nout(*two_layers(), {"a": nas.relaxed(-1)}, constraints=hardware)
        assert (mutation.graph.nout("a"), mutation.graph.nout("b")) in ((4, 4), (4, 8))

    def test_resize_to_multiples(self):
        mutation = nas.resize(*two_layers(), constraints=lambda size: [nas.multiple_of(size[n], 4) for n in "ab"])
        assert mutation.graph.nout("a") == 8
        assert mutation.graph.nout("b") in (4, 8)

    @pytest.mark.parametrize(
        ("asked", "found"),
        [(nas.relaxed(-1), 5), (nas.relaxed(-4), 3), (nas.relaxed(1), 12), (nas.relaxed(9), 18), (nas.to(12), 12)],
        ids=str,
    )
    def test_steps_of_a_ladder(self, asked, found):
        mutation = nas.delta_nout(*two_layers(), {"a": asked}, constraints=nas.one_of("a", (3, 5, 12, 18)))
        assert (mutation.graph.nout("a"), mutation.graph.nout("b")) == (found, 6)

    def test_a_size_beside_the_ladder_is_refused_with_the_nearest_step(self):
        with pytest.raises(nas.InfeasibleError, match=r"size\('a'\) is one of 3, 5, 12"):
            nas.delta_nout(*two_layers(), {"a": nas.to(6)}, constraints=nas.one_of("a", (3, 5, 12)))

    def test_a_ladder_within_a_budget_and_of_a_sum(self):
        steps = nas.ladder(2, 8, 1.5)
        rows = [nas.one_of("a", steps), nas.one_of(nas.size("a") + nas.size("b"), (5, 7))]
        utility = {"a": np.arange(8.0), "b": np.arange(6.0) / 100}
        graph, _ = nas.resize(*two_layers(), utility=utility, max_params=0.6, constraints=rows)
        ours = (graph.nout("a"), graph.nout("b"))
        fits = [  # by hand: what a neuron of b is worth makes no difference
            (a, total - a)
            for a in steps
            for total in (5, 7)
            if 1 <= total - a <= 6 and _params(a, total - a) <= 0.6 * _params(8, 6)
        ]
        assert ours in fits
        assert ours[0] == max(a for a, _ in fits)

    def test_utility_decides_what_goes(self):
        """Of a and b together 5 neurons must go: the 5 worst of both."""
        utility = {"a": np.arange(8.0), "b": np.array([0.5, 1.5, 2.5, 30.0, 31.0, 32.0])}
        mutation = nas.resize(*two_layers(), utility=utility, constraints=nas.size("a") + nas.size("b") <= 9)
        assert mutation.indices("a").tolist() == [3, 4, 5, 6, 7]
        assert mutation.indices("b").tolist() == [2, 3, 4, 5]

    def test_products_of_a_concatenation(self):
        graph, variables = two_branches()
        mutation = nas.delta_nout(graph, variables, {"cat": -5}, constraints=nas.size("a") == 2 * nas.size("b"))
        assert [mutation.graph.nout(name) for name in ("a", "b", "cat")] == [6, 3, 9]

    def test_infeasible_is_explained(self):
        why = (nas.size("a") + nas.size("b") <= 10).because("ten lanes")
        with pytest.raises(nas.InfeasibleError, match="ten lanes") as caught:
            nas.delta_nout(*two_layers(), {"a": 4}, constraints=why)
        assert set(caught.value.conflicts) == {"a", "b"}
        assert caught.value.nearest == {"a": 9}
        nas.delta_nout(*two_layers(), {"a": nas.to(9)}, constraints=why)

    def test_only_what_conflicts_is_named(self):
        rows = [nas.size("b") <= 100, nas.size("a") <= 10]
        with pytest.raises(nas.InfeasibleError) as caught:
            nas.delta_nout(*two_layers(), {"a": 4, "b": -1}, constraints=rows)
        assert "size('a') <= 10" in str(caught.value)
        assert "size('b')" not in str(caught.value)

    def test_conditions_that_contradict_one_another(self):
        rows = [nas.size("a") <= 3, nas.size("a") >= 5]
        with pytest.raises(nas.InfeasibleError, match="No sizes at all") as caught:
            nas.resize(*two_layers(), constraints=rows)
        assert caught.value.conflicts == ("a",)

    def test_where_no_more_may_be_inserted(self):
        """That is said of what has to grow; without a request to grow nothing is inserted."""
        limit = r"at most {} neurons may be inserted into 'a' \(max_new=\)\.\nNo sizes at all satisfy the ties and cond"
        with pytest.raises(nas.InfeasibleError, match=limit.format(0)):
            nas.resize(*two_layers(), multiple_of={"a": 64})
        with pytest.raises(nas.InfeasibleError, match=limit.format(2)):
            nas.resize(*two_layers(), min_size={"a": 100}, max_new=2)
        both = r"at most 1 neurons may be inserted into 'a' \(max_new=\)\.\nFixed: at most 1 neurons .* into 'b'"
        with pytest.raises(nas.InfeasibleError, match=both):
            nas.resize(*two_layers(), constraints=nas.size("a") + nas.size("b") >= 100, max_new=1)
        assert nas.resize(*two_layers(), multiple_of={"a": 64}, max_new=64).graph.nout("a") == 64

    def test_outputs_stay(self):
        with pytest.raises(nas.InfeasibleError, match="output of the graph"):
            nas.resize(*two_layers(), constraints=nas.size("out") <= 1)
        mutation = nas.resize(*two_layers(), constraints=nas.size("out") <= 1, free_outputs=True)
        assert mutation.graph.nout("out") == 1

    @pytest.mark.parametrize(
        ("given", "error", "message"),
        [
            (nas.size("nowhere") <= 3, nas.UnknownNameError, "constraints.*nowhere"),
            (lambda size: size["nowhere"] <= 3, nas.UnknownNameError, "constraints.*nowhere"),
            (nas.size("a"), nas.RequestError, "conditions on sizes"),
            ("a <= 3", nas.RequestError, "str"),
            ([True], nas.RequestError, "bool"),
            (7, nas.RequestError, "int"),
        ],
    )
    def test_bad_arguments(self, given, error, message):
        with pytest.raises(error, match=message):
            nas.resize(*two_layers(), constraints=given)

    @pytest.mark.parametrize("given", [nas.size("nowhere"), lambda size: size["nowhere"]])
    def test_bad_objective_name(self, given):
        with pytest.raises(nas.UnknownNameError, match=r"minimise.*nowhere"):
            nas.resize(*two_layers(), minimise=given)

    def test_bad_objective(self):
        with pytest.raises(nas.RequestError, match="sums of sizes"):
            nas.resize(*two_layers(), minimise=nas.size("a") <= 3)


class TestObjectives:
    def test_comes_before_utility(self):
        """Dropping from b costs more utility, but b counts double."""
        utility = {"a": np.full(8, 1.0), "b": np.full(6, 100.0)}
        request = {"cat": -5}
        free = nas.delta_nout(*two_branches(), request, utility=utility)
        assert (free.graph.nout("a"), free.graph.nout("b")) == (3, 6)
        asked = nas.delta_nout(*two_branches(), request, utility=utility, minimise=nas.size("a") + 2 * nas.size("b"))
        assert (asked.graph.nout("a"), asked.graph.nout("b")) == (8, 1)

    def test_one_after_the_other(self):
        goals = [-1 * nas.size("cat"), nas.size("a")]
        mutation = nas.delta_nout(*two_branches(), {"cat": nas.relaxed(0)}, minimise=goals, max_new=20)
        assert [mutation.graph.nout(name) for name in ("cat", "a")] == [14, 1]

    def test_after_the_requests(self):
        mutation = nas.delta_nout(*two_branches(), {"cat": nas.relaxed(-2)}, minimise=nas.size("cat"))
        assert mutation.graph.nout("cat") == 12


class TestOfLayers:
    @pytest.fixture(autouse=True)
    def _lanes(self):
        nas.register_layer(
            Lanes,
            leaves={"params/scale": "in"},
            new={"params/scale": 1.0},
            constraints=lambda size: nas.multiple_of(size["in"], 4).because("four lanes"),
        )

    def graph(self, size=8):
        x = nas.input_vertex("x", 3)
        lanes = nas.layer("lanes", Lanes(), nas.layer("a", nn.Dense(size), x))
        graph = nas.Graph(x, nas.layer("out", nn.Dense(2), lanes))
        return graph, graph.init(jax.random.key(0), jnp.ones((1, 3)))

    def test_holds_after_every_change(self):
        mutation = nas.delta_nout(*self.graph(), {"a": nas.relaxed(-1)})
        assert mutation.graph.nout("a") == 4
        mutation.check(jnp.ones((2, 3)))
        again = nas.delta_nout(*mutation, {"lanes": nas.relaxed(3)})
        assert again.graph.nout("a") == 8

    def test_infeasible_is_explained(self):
        with pytest.raises(nas.InfeasibleError, match="four lanes") as caught:
            nas.delta_nout(*self.graph(), {"a": -1})
        assert caught.value.nearest == {"a": 4}  # 8 would be no change

    def test_cannot_be_built_otherwise(self):
        with pytest.raises(nas.SizeMismatchError, match=r"'lanes'.*multiple of 4.*four lanes.*found in = 6"):
            self.graph(6)

    def test_out_of_reach_it_does_not_matter(self):
        x = nas.input_vertex("x", 3)
        lanes = nas.layer("lanes", Lanes(), nas.layer("a", nn.Dense(8), x))
        graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("b", nn.Dense(5), lanes)))
        mutation = nas.delta_nout(graph, graph.init(jax.random.key(0), jnp.ones((1, 3))), {"b": -1})
        assert mutation.graph.nout("a") == 8

    def test_after_an_edit(self):
        graph, variables = self.graph()
        mutation = nas.insert_vertex(graph, variables, "a", lambda v: nas.layer("c", nn.Dense(12), v))
        assert mutation.graph.nin("lanes") == (12,)
        mutation = nas.insert_vertex(graph, variables, "a", lambda v: nas.layer("c", nn.Dense(9), v), max_new=0)
        assert mutation.graph.nin("lanes") == (8,)

    def test_unknown_axis(self):
        nas.register_layer(Lanes, leaves={"params/scale": "in"}, constraints=lambda size: nas.size("width") <= 3)
        with pytest.raises(nas.SizeMismatchError, match=r"'width'.*in0, out, in"):
            self.graph()


class Lanes(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x * self.param("scale", nn.initializers.ones, (x.shape[-1],))


def test_of_a_vertex_of_ones_own():
    """A bottleneck at most half as wide as what it makes, and both follow."""

    def low_rank(params, x):
        return x @ params["down"] @ params["up"]

    x = nas.input_vertex("x", 6)
    y = nas.absorb_vertex(
        "y",
        low_rank,
        x,
        nout=8,
        params={"down": "in r", "up": "r out"},
        inner={"r": 4},
        constraints=lambda size: 2 * size["r"] <= size["out"],
    )
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), y))
    variables = graph.init(jax.random.key(0), jnp.ones((1, 6)))
    mutation = nas.delta_nout(graph, variables, {"y": -3})
    assert (mutation.graph.nout("y"), mutation.plan.axes["y:r"].after) == (5, 2)
    grown = nas.delta_nout(graph, variables, {"y:r": 1})
    assert (grown.graph.nout("y"), grown.plan.axes["y:r"].after) == (10, 5)
    grown.check(jnp.ones((2, 6)))


def test_an_answer_that_breaks_a_condition_is_found():
    graph, _ = two_layers()
    problem = Reduction(graph.ties, restrictions=Restrictions(conditions=[nas.multiple_of("a", 4)])).problems()[0]
    whole = Solution(np.array([g.size for g in problem.groups]), np.zeros(len(problem.groups), int))
    assert violations(problem, whole) == []
    kept = [g.size - (problem.names[i][0] == "a") for i, g in enumerate(problem.groups)]
    assert "multiple of 4 does not hold for {'a': 7}" in violations(problem, Solution(np.array(kept), whole.new))[0]


def test_as_text():
    graph, _ = two_layers()
    restrictions = Restrictions(conditions=[nas.size("a") <= 3], objectives=[nas.size("b")])
    problem = Reduction(graph.ties, restrictions=restrictions).problems()[0]
    assert str(problem).splitlines()[-2:] == ["require size('a') <= 3", "minimise size('b')"]


def random_conditions(rng: random.Random, graph: nas.Graph) -> list[Condition]:
    """One or two conditions that the present sizes nearly satisfy."""
    rows = []
    for _ in range(rng.randint(1, 2)):
        total = random_sum(rng, graph)
        now = total.at({axis: graph.ties.size(axis) for axis, _ in total.terms}) + rng.randint(-4, 4)
        kind = rng.choice(["<=", ">=", "==", "multiple"])
        if kind == "multiple":
            rows.append(nas.multiple_of(total, rng.randint(2, 4)))
        else:
            rows.append({"<=": total <= now, ">=": total >= now, "==": total == now}[kind])
    return rows


def random_sum(rng: random.Random, graph: nas.Graph) -> Size:
    axes = [axis for axis in graph.ties.axes if not axis.startswith("~")]
    chosen = rng.sample(axes, min(len(axes), rng.randint(1, 3)))
    return sum((rng.choice([1, 1, 2, -1]) * nas.size(axis) for axis in chosen), Size(()))


@given(st.randoms(use_true_random=False))
@settings(max_examples=80)
def test_optimum(rng):
    """Against the formulation with one variable per neuron."""
    graph = random_graph(rng, images=False)
    request, utility = random_request(rng, graph), random_utility(rng, graph)
    rows = random_conditions(rng, graph)
    goals = [random_sum(rng, graph)] if rng.random() < 0.4 else []
    wanted = optimum(graph, request, utility, conditions=rows, objectives=goals)
    how = {"utility": utility, "constraints": rows, "minimise": goals, "new": "zeros"}
    if not wanted.feasible:
        with pytest.raises(nas.InfeasibleError):
            nas.delta_nout(graph, placeholder_variables(graph), request, **how)
        return
    plan = nas.delta_nout(graph, placeholder_variables(graph), request, **how).plan
    sizes = {axis: change.after for axis, change in plan.axes.items()}
    assert all(row.holds(sizes) for row in rows)
    assert [goal.at(sizes) for goal in goals] == [goal.at(wanted.sizes) for goal in goals]
    kept = {axis: change.kept for axis, change in plan.axes.items()}
    assert worth_of(kept, utility) == pytest.approx(wanted.utility, rel=1e-6, abs=1e-6)
    assert disagreements(graph, plan) == []


def test_of_an_imported_model():
    """Conditions name handles as the user's own model spells them."""
    model = nn.Sequential([nn.Dense(9), nn.relu, nn.Dense(7), nn.relu, nn.Dense(2)])
    x = jnp.ones((1, 3))
    graph, variables = nas.from_linen(model, model.init(jax.random.key(0), x), x)
    rows = [nas.multiple_of("layers_0", 4), nas.size("layers_0") + nas.size("layers_2") <= 12]
    mutation = nas.delta_nout(graph, variables, {"layers_0": nas.relaxed(-1)}, constraints=rows)
    kernels = [mutation.variables["params"][f"layers_{i}"]["kernel"].shape for i in (0, 2, 4)]
    assert kernels == [(3, 8), (8, 4), (4, 2)]
    assert mutation.check(x).compared
    kept = nas.delta_nout(graph, variables, {"layers_0": 3}, constraints=rows, fallback=nas.fallback.keep)
    assert not kept.plan.changed
