"""Reports, against figures counted by hand on the arrays; and every verb on shapes alone."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas

IMAGE = jnp.ones((2, 8, 8, 3))


def network():
    x = nas.input_vertex("x", 3, shape=(8, 8, 3))
    stem = nas.layer("stem", nn.Conv(12, (3, 3)), x)
    block = nas.layer("outer", nn.Conv(12, (3, 3)), nas.layer("inner", nn.Conv(16, (3, 3)), stem))
    mean = nas.invariant_vertex("mean", global_mean, (stem + block).named("sum"))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(5), nas.layer("hidden", nn.Dense(20), mean)))
    return graph, graph.init(jax.random.key(0), IMAGE)


def global_mean(x):
    return x.mean((1, 2))


def tanh_last(x):
    return jnp.tanh(x)


@pytest.fixture(scope="module")
def trained():
    return network()


def size_of(variables, *names):
    return sum(np.size(a) for name in names for a in jax.tree.leaves(variables["params"][name]))


def of(found, handle):
    return next(one for one in found.handles if one.handle == handle)


def test_figures_are_those_of_the_arrays(trained):
    graph, variables = trained
    mutation = nas.resize(graph, variables, max_params=0.5)
    found = nas.report(mutation, IMAGE)
    for i, now in enumerate((variables, mutation.variables)):
        assert of(found, "inner").params[i] == size_of(now, "inner") + np.size(now["params"]["outer"]["kernel"])
        assert of(found, "hidden").params[i] == size_of(now, "hidden") + np.size(now["params"]["out"]["kernel"])
        assert of(found, "stem").params[i] == sum(
            [size_of(now, "stem", "outer"), *(np.size(now["params"][name]["kernel"]) for name in ("inner", "hidden"))]
        )
    after = nas.costs(*mutation, IMAGE)
    assert (found.before, found.after) == (nas.costs(graph, variables, IMAGE), after)
    for one in found.handles:
        assert (one.before, one.after) == (graph.nout(one.handle), mutation.graph.nout(one.handle))
        assert (one.kept, one.new) == (one.after, 0)
    inner = 64 * 9 * mutation.graph.nout("inner") * 2  # of each of two images
    assert of(found, "inner").macs[1] == inner * 2 * mutation.graph.nout("stem")


def test_what_bound_is_what_one_more_would_break(trained):
    graph, variables = trained
    names = ("stem", "inner", "hidden")
    for limits in ({"max_params": 0.5}, {"max_macs": 0.4}, {"max_params": 0.5, "max_macs": 0.3, "max_bytes": 3000}):
        mutation = nas.resize(graph, variables, **limits)
        found, sizes = nas.report(mutation), {name: nas.to(mutation.graph.nout(name)) for name in names}
        before = nas.costs(graph, variables, IMAGE[:1])
        for name in names:
            if mutation.graph.nout(name) == graph.nout(name):
                assert of(found, name).bound_by == ()
                continue
            more = nas.delta_nout(graph, variables, {**sizes, name: nas.to(mutation.graph.nout(name) + 1)})
            cost = nas.costs(*more, IMAGE[:1])
            broken = {
                "max_params": cost.params > limits.get("max_params", 1.0) * before.params,
                "max_macs": cost.macs > limits.get("max_macs", 1.0) * before.macs,
                "max_bytes": cost.bytes > limits.get("max_bytes", before.bytes),
            }
            assert broken["max_params"] or broken["max_macs"] or broken["max_bytes"]
            assert set(of(found, name).bound_by) - {"minimum"} == {key for key, value in broken.items() if value}


def test_requests_multiples_minimum_and_utility_bind(trained):
    graph, variables = trained
    mutation = nas.resize(graph, variables, max_params=0.6, multiple_of=4, request={"inner": nas.to(8)})
    found = nas.report(mutation)
    assert "request for 'inner'" in of(found, "inner").bound_by
    hidden = of(found, "hidden")
    assert hidden.after == 20 or any("multiple of 4" in why for why in hidden.bound_by)
    scores = {"hidden": np.where(np.arange(20) < 12, -1.0, 3.0)}
    worthless = nas.report(nas.resize(graph, variables, utility=scores))
    assert of(worthless, "hidden").bound_by == ("utility",)
    assert of(worthless, "hidden").utility_kept == pytest.approx(24 / 12)  # the rest was worth less than nothing
    single = nas.report(nas.delta_nout(graph, variables, {"hidden": nas.to(1)}))
    assert of(single, "hidden").bound_by == ("request for 'hidden'", "minimum")


def test_a_condition_on_tied_handles_is_told_once_and_in_terms_of_each(trained):
    graph, variables = trained
    utility = nas.comparable(graph, nas.magnitude(graph, variables))  # by which the stem shrinks
    found = nas.report(nas.resize(graph, variables, max_params=0.5, multiple_of=4, utility=utility))
    assert of(found, "stem").after < 12
    for name in ("stem", "outer", "sum", "mean"):
        conditions = [why for why in of(found, name).bound_by if "multiple" in why]
        assert conditions == [f"size({name!r}) is a multiple of 4 (multiple_of=)"]


def test_handles_of_the_same_neurons_name_the_first(trained):
    graph, variables = trained
    found = nas.report(nas.resize(graph, variables, max_params=0.5))
    same = {one.handle: one.same_as for one in found.handles}
    assert same == {
        **dict.fromkeys(("x", "stem", "inner", "hidden", "out")),
        **dict.fromkeys(("outer", "sum", "mean"), "stem"),
    }
    inserted = nas.insert_vertex(
        graph, variables, "stem", lambda v: nas.layer("more", nn.Conv(12, (3, 3)), v), outputs=["inner"]
    )
    assert of(nas.report(inserted), "more").same_as is None


def test_utility_kept_is_the_share_of_the_sum(trained):
    graph, variables = trained
    scores = np.arange(1.0, 21.0)
    mutation = nas.delta_nout(graph, variables, {"hidden": nas.to(5)}, utility={"hidden": scores})
    assert of(nas.report(mutation), "hidden").utility_kept == pytest.approx(scores[-5:].sum() / scores.sum())


def test_it_prints_draws_and_is_plain_data(trained):
    graph, variables = trained
    found = nas.report(nas.resize(graph, variables, max_params=0.5), IMAGE)
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()
    assert found.to_dict()["after"]["params"] == found.after.params
    text = str(found)
    assert f"16 -> {of(found, 'inner').after}" in text
    assert f"params: {found.before.params:,} -> {found.after.params:,}" in text
    assert found.svg().count("<rect") == 3 * 5  # x, stem, inner, hidden and out; the others have the same neurons
    assert "stem (+ 3 tied)" in text
    assert "outer" not in text
    assert "hidden" in found._repr_svg_()
    assert "stem (+ 3 tied)" in found.svg()


def test_operations_have_a_column_where_they_are_counted(trained):
    graph, variables = trained
    smaller = nas.resize(graph, variables, max_params=0.5)
    assert "MACs" in str(nas.report(smaller, IMAGE))
    assert "MACs" not in str(nas.report(smaller))
    assert "MACs" not in nas.report(smaller)._repr_html_()


def test_growth_and_new_vertices(trained):
    graph, variables = trained
    found = nas.report(nas.delta_nout(graph, variables, {"hidden": 4}))
    assert (of(found, "hidden").after, of(found, "hidden").new, of(found, "hidden").bound_by) == (24, 4, ())
    inserted = nas.insert_vertex(graph, variables, "hidden", lambda v: nas.layer("more", nn.Dense(20), v))
    assert of(nas.report(inserted, IMAGE), "more").before == 0
    renamed = nas.report(nas.rename(graph, variables, {"hidden": "wide"}))
    assert (of(renamed, "wide").before, of(renamed, "wide").after) == (20, 20)


VERBS = {
    "delta_nout": lambda g, v: nas.delta_nout(g, v, {"inner": -3, "hidden": 2}),
    "split": lambda g, v: nas.delta_nout(g, v, {"hidden": 2}, new="split"),
    "delta_nin": lambda g, v: nas.delta_nin(g, v, {"out": (-3,)}),
    "resize": lambda g, v: nas.resize(g, v, request={"hidden": nas.to(7)}),
    "insert_vertex": lambda g, v: nas.insert_vertex(g, v, "hidden", lambda s: nas.layer("new", nn.Dense(20), s)),
    "remove_vertex": lambda g, v: nas.remove_vertex(g, v, "inner"),
    "create_edge": lambda g, v: nas.create_edge(g, v, "stem", "sum"),
    "remove_edge": lambda g, v: nas.remove_edge(g, v, "stem", "sum"),
    "replace_layer": lambda g, v: nas.replace_layer(g, v, "inner", nn.Conv(16, (3, 3), use_bias=False)),
    "map_vertices": lambda g, v: nas.map_vertices(
        g, v, lambda s: nas.layer("inner", nn.Conv(16, (5, 5)), *s.inputs) if s.name == "inner" else None
    ),
    "change_kernel": lambda g, v: nas.change_kernel(g, v, {"inner": (5, 5)}),
    "rename": lambda g, v: nas.rename(g, v, {"hidden": "wide"}),
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_runs_on_shapes(trained, verb):
    graph, variables = trained
    shapes = jax.eval_shape(lambda: variables)
    wet, dry = VERBS[verb](graph, variables), VERBS[verb](graph, shapes)
    assert jax.tree.map(np.shape, dry.variables) == jax.tree.map(np.shape, wet.variables)
    assert nas.report(dry, IMAGE).after == nas.costs(*wet, IMAGE)


def test_a_dry_run_keeps_to_budgets_and_imported_models_too():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(16, name="embed")(x)
            return nn.Dense(3, name="head")(x + nn.Dense(16, name="down")(nn.relu(nn.Dense(32, name="up")(x))))

    x = jax.ShapeDtypeStruct((2, 5, 8), jnp.float32)
    shapes = jax.eval_shape(Model().init, jax.random.key(1), x)
    graph, shapes = nas.from_linen(Model(), shapes, x)
    mutation = nas.resize(graph, shapes, max_params=0.5, max_macs=0.6, inputs=x)
    found = nas.report(mutation, x)
    assert found.after.params <= 0.5 * found.before.params
    assert found.after.macs <= 0.6 * found.before.macs
    assert of(found, "up").params[0] == 16 * 32 + 32 + 32 * 16
    assert 1 < of(found, "up").after < 32  # not one layer emptied for the other


def test_a_gap_that_nothing_bounds_is_plain_data_too(trained):
    graph, variables = trained
    mutation = nas.resize(graph, variables, max_latency=0.5, latency=lambda graph: 1e-6 * graph.nout("inner"))
    assert mutation.gap == np.inf
    found = nas.report(mutation, IMAGE).to_dict()
    assert found["gap"] is None
    assert json.loads(json.dumps(found, allow_nan=False)) == found
