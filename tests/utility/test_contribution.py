"""Contributions by hand, that they see through normalisations, and that budgets keep what is read."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas


def network():
    """A stem, a branch that is added to it, another that is concatenated, and a grouped convolution behind it."""
    x = nas.input_vertex("x", 3)
    stem = nas.layer("norm", nn.BatchNorm(), nas.layer("stem", nn.Dense(4), x))
    inner = nas.layer("inner", nn.Dense(5), stem)
    total = (stem + nas.layer("outer", nn.Dense(4), inner)).named("total")
    both = nas.concat("both", total, nas.layer("side", nn.Dense(3), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), both))
    variables = graph.init(jax.random.key(0), jnp.ones((1, 3)))
    scale = jnp.array([0.5, -2.0, 1.0, 3.0])
    params = {**variables["params"], "norm": {**variables["params"]["norm"], "scale": scale}}
    return graph, {**variables, "params": params}


def shares(sizes):
    """The definition, one by one."""
    larger = [sum(other for other in sizes if other > one) for one in sizes]
    return np.array([one / left if left else 1.0 for one, left in zip(sizes, larger, strict=True)])


def test_scores_are_those_of_the_formula():
    graph, variables = network()
    kernel = {name: np.asarray(own["kernel"]) for name, own in variables["params"].items() if "kernel" in own}
    found = nas.contribution(graph, variables)
    amplitude = np.abs([0.5, -2.0, 1.0, 3.0])
    made = {name: np.linalg.norm(kernel[name], axis=0) for name in ("inner", "side")}
    read = {name: np.linalg.norm(kernel[name], axis=1) for name in ("inner", "outer", "out")}
    last = shares(np.concatenate([amplitude, made["side"]]) * read["out"])  # concatenated: they compete
    np.testing.assert_allclose(found["stem"], shares(amplitude * read["inner"]) + last[:4], rtol=1e-5)
    np.testing.assert_allclose(found["inner"], shares(made["inner"] * read["outer"]) / 2, rtol=1e-5)  # one of two
    np.testing.assert_allclose(found["side"], last[4:], rtol=1e-5)
    assert set(found) == {"x", "stem", "inner", "side", "out"}  # each class at its first handle


def test_it_is_the_default_within_budgets_and_depends_on_no_scale_that_the_function_does_not_depend_on():
    graph, variables = network()
    params = variables["params"]
    rescaled = {**params, "stem": {**params["stem"], "kernel": 7e20 * params["stem"]["kernel"]}}  # normalised
    for name, factor in (("inner", 1e-25), ("outer", 1e25)):
        rescaled[name] = {**rescaled[name], "kernel": factor * params[name]["kernel"]}
    scores = nas.contribution(graph, variables)
    for name, own in nas.contribution(graph, {**variables, "params": rescaled}).items():
        np.testing.assert_allclose(own, scores[name], rtol=1e-4)
    given = nas.resize(graph, variables, max_params=0.6, utility=scores)
    found = nas.resize(graph, variables, max_params=0.6)
    for axis in ("stem", "inner", "side"):
        assert found.indices(axis).tolist() == given.indices(axis).tolist()


def test_neurons_that_are_read_by_nothing_but_zeros_go_first_and_where_all_are_all_are_alike():
    graph, variables = network()
    kernel = variables["params"]["outer"]["kernel"]
    some = {**variables["params"], "outer": {"kernel": kernel.at[1].set(0.0), "bias": jnp.zeros(4)}}
    assert nas.contribution(graph, {**variables, "params": some})["inner"][1] == 0
    none = {**variables["params"], "outer": {"kernel": 0 * kernel, "bias": jnp.zeros(4)}}
    found = nas.contribution(graph, {**variables, "params": none})["inner"]
    assert sorted(found) == pytest.approx([1 / 8, 1 / 6, 1 / 4, 1 / 2, 1 / 2])


def test_a_depthwise_convolution_only_passes_neurons_on():
    x = nas.input_vertex("x", 2, shape=(4, 4, 2))
    wide = nas.layer("wide", nn.Conv(6, (1, 1)), x)
    graph = nas.Graph(
        x, nas.layer("out", nn.Conv(3, (1, 1)), nas.layer("deep", nn.Conv(6, (3, 3), feature_group_count=6), wide))
    )
    variables = graph.init(jax.random.key(0), jnp.ones((1, 4, 4, 2)))
    kernels = {name: np.asarray(own["kernel"]) for name, own in variables["params"].items()}
    sizes = np.linalg.norm(kernels["wide"][0, 0], axis=0) * np.linalg.norm(kernels["out"][0, 0], axis=1)
    np.testing.assert_allclose(nas.contribution(graph, variables)["wide"], shares(sizes), rtol=1e-5)


def test_a_weight_that_is_not_finite_is_reported_at_the_neuron_that_has_it():
    graph, variables = network()
    kernel = variables["params"]["side"]["kernel"].at[0, 2].set(jnp.nan)
    broken = {**variables["params"], "side": {**variables["params"]["side"], "kernel": kernel}}
    with pytest.raises(nas.UtilityError, match="'side' is not finite: nan at neuron 2"):
        nas.resize(graph, {**variables, "params": broken}, max_params=0.6)


def test_shapes_alone_make_all_neurons_alike():
    graph, variables = network()
    shapes = jax.eval_shape(lambda: variables)
    found = nas.contribution(graph, shapes)
    assert found["inner"].tolist() == [1, 1, 1 / 2, 1 / 3, 1 / 4]


def test_one_of_two_heads_counts_as_much_as_the_other_and_neurons_of_a_wide_layer_hardly():
    x = nas.input_vertex("x", 3)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(50), x)))
    params = {
        "hidden": {"kernel": np.ones((3, 50)), "bias": np.zeros(50)},
        "out": {"kernel": np.ones((50, 2)), "bias": np.zeros(2)},
    }
    found = nas.contribution(graph, {"params": params})["hidden"]
    exact = np.log([n / (n - 1) for n in range(2, 51)])  # what each adds to the logarithm of what is kept
    assert (found[1:] >= exact).all()
    np.testing.assert_allclose(found[10:], exact[9:], rtol=0.06)
    two = nas.delta_nout(graph, {"params": params}, {"hidden": -48})
    assert nas.contribution(*two)["hidden"].tolist() == [1, 1]
