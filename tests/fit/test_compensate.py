"""Re-fitted weights, against least squares on the whole data at once."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas
from naivenas_jax.fit.network import network

DATA = jax.random.normal(jax.random.key(0), (300, 5))
BATCHES = [DATA[:150], DATA[150:]]  # of one shape, which is compiled once


def two_layers(bias=True):
    x = nas.input_vertex("x", 5)
    hidden = nas.invariant_vertex("relu", nn.relu, nas.layer("hidden", nn.Dense(12), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(3, use_bias=bias), hidden))
    return graph, graph.init(jax.random.key(1), DATA)


@pytest.mark.parametrize("bias", [True, False])
def test_least_squares_of_numpy(bias):
    graph, variables = two_layers(bias)
    pruned = nas.delta_nout(graph, variables, {"hidden": -5})
    found = nas.compensate(pruned, BATCHES, ridge=1e-12)
    own = variables["params"]
    kept = pruned.indices("hidden")
    read = np.asarray(nn.relu(DATA @ own["hidden"]["kernel"] + own["hidden"]["bias"]), np.float64)[:, kept]
    if bias:
        read = np.hstack([read, np.ones((len(read), 1))])
    wanted = np.linalg.lstsq(read, np.asarray(graph.apply(variables, DATA), np.float64), rcond=None)[0]
    np.testing.assert_allclose(found.variables["params"]["out"]["kernel"], wanted[: len(kept)], atol=2e-4)
    if bias:
        np.testing.assert_allclose(found.variables["params"]["out"]["bias"], wanted[-1], atol=2e-4)
    assert found.graph == pruned.graph
    assert pruned.variables["params"]["out"]["kernel"].shape == (7, 3)


def test_a_ridge_pulls_to_the_present_weights():
    graph, variables = two_layers()
    pruned = nas.delta_nout(graph, variables, {"hidden": -5})
    kernel = pruned.variables["params"]["out"]["kernel"]
    far = [
        float(jnp.abs(nas.compensate(pruned, BATCHES, ridge=r).variables["params"]["out"]["kernel"] - kernel).max())
        for r in (1e-6, 1.0, 1e6)
    ]
    assert far[0] > far[1] > far[2]
    assert far[2] < 1e-4


def test_batches_are_only_added_up():
    graph, variables = two_layers()
    pruned = nas.delta_nout(graph, variables, {"hidden": -5})
    unequal = [DATA[:100], DATA[100:250], DATA[250:]]
    one, several = (nas.compensate(pruned, b, ridge=1e-6).variables for b in ([DATA], iter(unequal)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), one, several)


def dead(kernel, bias, value):
    """Neurons 1 and 4 are the same for all inputs."""
    kernel, bias = np.array(kernel), np.array(bias)
    kernel[..., [1, 4]] = 0.0
    bias[[1, 4]] = value, -1.0
    return kernel, bias


@pytest.mark.parametrize("weights", [True, False])
def test_constant_neurons_are_folded_into_the_bias(weights):
    graph, variables = two_layers()
    kernel, bias = dead(variables["params"]["hidden"]["kernel"], variables["params"]["hidden"]["bias"], 3.0)
    variables["params"]["hidden"] = {"kernel": kernel, "bias": bias}
    utility = {"hidden": np.where(np.isin(np.arange(12), [1, 4]), 0.0, 1.0)}
    pruned = nas.delta_nout(graph, variables, {"hidden": -2}, utility=utility)
    found = nas.compensate(pruned, BATCHES, weights=weights)
    fresh = 3 * jax.random.normal(jax.random.key(9), (50, 5))  # not only on the data
    np.testing.assert_allclose(found.graph.apply(found.variables, fresh), graph.apply(variables, fresh), atol=1e-4)
    assert float(jnp.abs(pruned.graph.apply(pruned.variables, fresh) - graph.apply(variables, fresh)).max()) > 0.1


def test_constant_neurons_are_folded_into_a_running_mean():
    x = nas.input_vertex("x", 5)
    hidden = nas.invariant_vertex("relu", nn.relu, nas.layer("hidden", nn.Dense(12), x))
    graph = nas.Graph(x, nas.layer("norm", nn.BatchNorm(), nas.layer("out", nn.Dense(3, use_bias=False), hidden)))
    variables = graph.init(jax.random.key(1), DATA)
    kernel, bias = dead(variables["params"]["hidden"]["kernel"], variables["params"]["hidden"]["bias"], 3.0)
    variables["params"]["hidden"] = {"kernel": kernel, "bias": bias}
    utility = {"hidden": np.where(np.isin(np.arange(12), [1, 4]), 0.0, 1.0)}
    pruned = nas.delta_nout(graph, variables, {"hidden": -2}, utility=utility)
    found = nas.compensate(pruned, BATCHES, statistics=False)
    np.testing.assert_allclose(found.graph.apply(found.variables, DATA), graph.apply(variables, DATA), atol=1e-4)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.BatchNorm(use_running_average=True, name="norm")(nn.Conv(8, (3, 3), name="conv")(x)))
        x = nn.relu(nn.Conv(6, (3, 3), strides=(2, 2), name="second")(x))
        return nn.Dense(3, name="head")(x.reshape(len(x), -1))


IMAGES = jax.random.normal(jax.random.key(3), (80, 6, 6, 2))


def test_imported_and_hand_written_agree_and_are_nearer_to_the_original():
    variables = Net().init(jax.random.key(1), IMAGES)
    imported, its_variables = nas.from_linen(Net(), variables, IMAGES)
    x = nas.input_vertex("x", 2, shape=(6, 6, 2))
    norm = nas.layer("norm", nn.BatchNorm(), nas.layer("conv", nn.Conv(8, (3, 3)), x))
    second = nas.layer("second", nn.Conv(6, (3, 3), strides=(2, 2)), nas.invariant_vertex("r", nn.relu, norm))
    flattened = nas.flatten("flat", nas.invariant_vertex("r2", nn.relu, second))
    written = nas.Graph(x, nas.layer("head", nn.Dense(3), flattened))
    wanted, outputs = Net().apply(variables, IMAGES), []
    for graph, own in ((imported, its_variables), (written, variables)):
        pruned = nas.delta_nout(graph, own, {"conv": -3, "second": -2})
        found = nas.compensate(pruned, [IMAGES[:40], IMAGES[40:]], ridge=1e-3)
        errors = [float(((m.graph.apply(m.variables, IMAGES) - wanted) ** 2).mean()) for m in (pruned, found)]
        assert errors[1] < 0.3 * errors[0]
        outputs.append(found.graph.apply(found.variables, IMAGES))
    np.testing.assert_allclose(*outputs, atol=1e-3)


def test_composed_with_what_came_before_and_undone():
    graph, variables = two_layers()
    pruned = nas.compensate(nas.delta_nout(graph, variables, {"hidden": -5}), BATCHES)
    assert not pruned.check(DATA).compared
    back, its_variables = pruned.undo(pruned.variables)
    assert back == graph
    assert its_variables["params"]["out"]["kernel"].shape == (12, 3)


@pytest.mark.parametrize("change", [{"hidden": 0}, {"out": -1}])
def test_where_nothing_had_to_be_fitted_the_mutation_can_still_be_compared(change):
    pruned = nas.delta_nout(*two_layers(), change)
    found = nas.compensate(pruned, BATCHES)
    jax.tree.map(np.testing.assert_array_equal, found.variables, pruned.variables)
    assert found.notes[len(pruned.notes) :] == ("nothing was re-fitted on data: every variable is as it was",)
    assert found.check(DATA).compared


def test_what_cannot_be_done_is_refused():
    graph, variables = two_layers()
    pruned = nas.delta_nout(graph, variables, {"hidden": -5})
    with pytest.raises(nas.VariablesError, match="batches= was empty"):
        nas.compensate(pruned, [])
    for ridge in (-1, float("nan"), True, "1"):
        with pytest.raises(nas.RequestError, match="ridge must be a number of at least 0"):
            nas.compensate(pruned, BATCHES, ridge=ridge)
    with pytest.raises(nas.VariablesError, match="Batch 0 is not finite: nan"):
        nas.compensate(pruned, [jnp.full_like(BATCHES[0], jnp.nan)])
    with pytest.raises(
        nas.VariablesError, match="params/out/kernel on batch 0 reads, or has to make, is not finite: an activation"
    ):
        nas.compensate(pruned, [1e30 * BATCHES[0]])
    with pytest.raises(nas.PlanError, match="changes the input 'x'"):
        nas.compensate(nas.delta_nout(graph, variables, {"x": -1}), BATCHES)


def test_a_table_that_is_looked_up_as_well_is_left_alone():
    class Tied(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            embed = nn.Embed(11, 8, name="embed")
            x = embed(tokens)
            x = x + nn.Dense(8, name="down")(nn.relu(nn.Dense(24, name="up")(x)))
            return embed.attend(x)

    tokens = jax.random.randint(jax.random.key(3), (64, 5), 0, 11)
    model = Tied()
    graph, variables = nas.from_linen(model, model.init(jax.random.key(4), tokens), tokens)
    fitted = nas.compensate(nas.delta_nout(graph, variables, {"up": -8}), [tokens])
    before, after = (v["params"]["embed"]["embedding"] for v in (variables, fitted.variables))
    np.testing.assert_array_equal(before, after)
    assert not np.array_equal(variables["params"]["down"]["bias"], fitted.variables["params"]["down"]["bias"])


class Grouped(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(12, (1, 1), name="first")(x))
        x = nn.Conv(8, (2, 2), padding="VALID", feature_group_count=2, name="grouped")(x)
        return nn.Dense(3, name="head")(nn.relu(x).mean((1, 2)))


def test_grouped_convolutions_are_least_squares_of_each_group():
    variables = Grouped().init(jax.random.key(1), IMAGES)
    graph, variables = nas.from_linen(Grouped(), variables, IMAGES)
    pruned = nas.delta_nout(graph, variables, {"first": -4})
    found = nas.compensate(pruned, [IMAGES[:40], IMAGES[40:]], ridge=1e-12, outcomes=False)
    kept, own = pruned.indices("first"), variables["params"]
    width = len(kept) // 2
    assert all((kept[g * width : (g + 1) * width] // 6 == g).all() for g in range(2))
    read = np.asarray(nn.relu(nn.Conv(12, (1, 1)).apply({"params": own["first"]}, IMAGES)), np.float64)
    layer = nn.Conv(8, (2, 2), padding="VALID", feature_group_count=2)
    wanted = np.asarray(layer.apply({"params": own["grouped"]}, read))
    kernel, bias = (np.asarray(found.variables["params"]["grouped"][name]) for name in ("kernel", "bias"))
    for g in range(2):
        x = read[..., kept[g * width : (g + 1) * width]]
        x = np.stack([x[:, i : i + 5, j : j + 5] for i in range(2) for j in range(2)], -2).reshape(-1, 4 * width)
        y = wanted[..., 4 * g : 4 * g + 4].reshape(-1, 4)
        best = np.linalg.lstsq(np.hstack([x, np.ones((len(x), 1))]), y, rcond=None)[0]
        np.testing.assert_allclose(kernel[..., 4 * g : 4 * g + 4].reshape(-1, 4), best[:-1], atol=2e-3)
        np.testing.assert_allclose(bias[4 * g : 4 * g + 4], best[-1], atol=2e-3)


def test_depthwise_convolutions_are_refitted():
    class Mobile(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(10, (1, 1), name="expand")(nn.relu(nn.Conv(9, (3, 3), name="stem")(x))))
            x = nn.relu(nn.Conv(10, (3, 3), feature_group_count=10, name="depthwise")(x))
            return nn.Dense(3, name="head")(x.mean((1, 2)))

    graph, variables = nas.from_linen(Mobile(), Mobile().init(jax.random.key(1), IMAGES), IMAGES)
    pruned = nas.delta_nout(graph, variables, {"stem": -4, "expand": -3})
    found = nas.compensate(pruned, [IMAGES])
    kernels = [m.variables["params"]["depthwise"]["kernel"] for m in (pruned, found)]
    assert kernels[0].shape == kernels[1].shape == (3, 3, 1, 7)
    assert float(jnp.abs(kernels[0] - kernels[1]).max()) > 1e-3
    wanted = graph.apply(variables, IMAGES)
    errors = [float(((m.graph.apply(m.variables, IMAGES) - wanted) ** 2).mean()) for m in (pruned, found)]
    assert errors[1] < 0.3 * errors[0]


def test_weights_of_complex_numbers_stay():
    def fn(variables, x):
        own = variables["params"]
        hidden = nn.relu(x @ own["up"])
        return (hidden @ own["down"]) @ own["mix"], hidden @ own["other"] + own["bias"]

    shapes = {"up": (5, 9), "down": (9, 4), "mix": (4, 4), "other": (9, 3), "bias": (3,)}
    own = {name: jax.random.normal(jax.random.key(i), shape) for i, (name, shape) in enumerate(shapes.items())}
    own |= {name: own[name] * (1 + 1j) for name in ("mix", "bias")}
    graph, variables = nas.from_function(fn, {"params": own}, DATA)
    found = nas.compensate(pruned := nas.delta_nout(graph, variables, {"up": -4}), BATCHES)
    for name in ("mix", "bias"):
        np.testing.assert_array_equal(found.variables["params"][name], own[name])
    for name in ("down", "other"):
        assert not np.array_equal(found.variables["params"][name], pruned.variables["params"][name])


def test_types_of_variables_stay():
    graph, variables = two_layers()
    for to in (np.asarray, lambda a: jnp.asarray(a, jnp.bfloat16)):
        pruned = nas.delta_nout(graph, jax.tree.map(to, variables), {"hidden": -5})
        found = nas.compensate(pruned, BATCHES)
        types = [[(type(a), a.dtype) for a in jax.tree.leaves(m.variables)] for m in (found, pruned)]
        assert types[0] == types[1]


def test_a_bias_that_does_not_lie_on_the_columns_is_no_shift():
    def fn(variables, x):  # a square result: the bias fits both ways
        own = variables["params"]
        return (nn.relu(x @ own["up"]) @ own["down"]).T.reshape(6, 6) + own["bias"]

    x = jax.random.normal(jax.random.key(7), (6, 5))
    shapes = {"up": (5, 9), "down": (9, 6), "bias": (6,)}
    own = {name: jax.random.normal(jax.random.key(i), shape) for i, (name, shape) in enumerate(shapes.items())}
    graph, variables = nas.from_function(fn, {"params": own}, x)
    found = nas.compensate(nas.delta_nout(graph, variables, {"up": -3}), [x])
    np.testing.assert_array_equal(found.variables["params"]["bias"], own["bias"])


def test_what_does_not_fit_into_memory_is_computed_again(monkeypatch):
    variables = Net().init(jax.random.key(1), IMAGES)
    graph, variables = nas.from_linen(Net(), variables, IMAGES)
    pruned, batches = nas.delta_nout(graph, variables, {"conv": -3, "second": -2}), [IMAGES[:40], IMAGES[40:]]
    wanted = nas.compensate(pruned, batches).variables
    monkeypatch.setattr(network, "KEPT", 60_000)  # none of the two at first, one later
    found = nas.compensate(pruned, batches).variables
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, wanted)


def test_from_few_examples_weights_are_left_rather_than_made_worse():
    """What is dropped is independent of the rest, so that nothing can take it over; the present weights are best."""
    x = nas.input_vertex("x", 48)
    hidden = nas.invariant_vertex("tanh", nn.tanh, nas.layer("hidden", nn.Dense(48), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(8), hidden))
    few, fresh = jax.random.normal(jax.random.key(0), (80, 48)), jax.random.normal(jax.random.key(1), (2000, 48))
    variables = graph.init(jax.random.key(2), few)
    variables["params"]["hidden"]["kernel"] = jnp.linalg.qr(jax.random.normal(jax.random.key(3), (48, 48)))[0]
    pruned = nas.delta_nout(graph, variables, {"hidden": -4})

    def error(m):
        return float(((m.graph.apply(m.variables, fresh) - graph.apply(variables, fresh)) ** 2).mean())

    assert error(nas.compensate(pruned, [few])) < 1.05 * error(pruned)
    assert error(nas.compensate(pruned, [few], ridge=0.1)) > 1.5 * error(pruned)


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x):
        for i in range(2):
            x = x + nn.Dense(5, name=f"down{i}")(nn.relu(nn.Dense(12, name=f"up{i}")(x)))
        return x


def test_skip_connections_are_made_up_for():
    graph, variables = nas.from_linen(Residual(), Residual().init(jax.random.key(1), DATA), DATA)
    pruned = nas.delta_nout(graph, variables, {"up0": -6, "up1": -6})
    found = nas.compensate(pruned, BATCHES, ridge=1e-12)
    own, wanted = found.variables["params"], np.asarray(graph.apply(variables, DATA), np.float64)

    def block(x, i):
        read = nn.relu(x @ own[f"up{i}"]["kernel"] + own[f"up{i}"]["bias"])
        return np.asarray(read, np.float64), x + read @ own[f"down{i}"]["kernel"] + own[f"down{i}"]["bias"]

    _, between = block(DATA, 0)
    read, _ = block(between, 1)
    read = np.hstack([read, np.ones((len(read), 1))])
    best = np.linalg.lstsq(read, wanted - between, rcond=None)[0]  # of the sum, and not of what is added to it
    np.testing.assert_allclose(own["down1"]["kernel"], best[:-1], atol=2e-3)
    np.testing.assert_allclose(own["down1"]["bias"], best[-1], atol=2e-3)


class Duel(nn.Module):
    """A value for all, and an advantage for each, whichever is made first."""

    value_first: bool

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(16, name="hidden")(x))
        if self.value_first:
            value, each = nn.Dense(1, name="value")(x), nn.Dense(4, name="each")(x)
        else:
            each, value = nn.Dense(4, name="each")(x), nn.Dense(1, name="value")(x)
        return value + each


@pytest.mark.parametrize("value_first", [True, False])
def test_what_is_added_to_every_neuron_is_a_skip_connection(value_first):
    """Against least squares of the sum: the last of the two makes up for the first, as far as it can."""
    model = Duel(value_first)
    graph, variables = nas.from_linen(model, model.init(jax.random.key(1), DATA), DATA)
    pruned = nas.delta_nout(graph, variables, {"hidden": -8})
    own = nas.compensate(pruned, BATCHES, ridge=1e-12, outcomes=False).variables["params"]
    wanted = np.asarray(graph.apply(variables, DATA), np.float64)
    read = np.asarray(nn.relu(DATA @ own["hidden"]["kernel"] + own["hidden"]["bias"]), np.float64)
    read = np.hstack([read, np.ones((len(read), 1))])
    if value_first:
        value = np.asarray(read[:, :-1] @ own["value"]["kernel"] + own["value"]["bias"], np.float64)
        best, name = np.linalg.lstsq(read, wanted - value, rcond=None)[0], "each"
    else:  # what is added to one number is none to that number, which is fitted to what it made
        made = variables["params"]
        hidden = np.asarray(nn.relu(DATA @ made["hidden"]["kernel"] + made["hidden"]["bias"]), np.float64)
        alone = hidden @ np.asarray(made["value"]["kernel"], np.float64) + np.asarray(made["value"]["bias"])
        best, name = np.linalg.lstsq(read, alone, rcond=None)[0], "value"
    np.testing.assert_allclose(own[name]["kernel"], best[:-1], atol=2e-3)
    np.testing.assert_allclose(own[name]["bias"], best[-1], atol=2e-3)


def test_what_reads_others_after_a_layer_is_removed_is_fitted():
    """Against least squares on what it reads now."""
    x = nas.input_vertex("x", 5)
    hidden = nas.invariant_vertex("relu", nn.relu, nas.layer("hidden", nn.Dense(12), x))
    more = nas.invariant_vertex("relu2", nn.relu, nas.layer("more", nn.Dense(12), hidden))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(3), more))
    variables = graph.init(jax.random.key(1), DATA)
    mutation = nas.remove_vertex(graph, variables, "more")
    assert mutation.graph.nout("hidden") == 12
    found = nas.compensate(mutation, BATCHES, ridge=1e-12).variables["params"]["out"]
    own = variables["params"]["hidden"]
    read = np.asarray(nn.relu(DATA @ own["kernel"] + own["bias"]), np.float64)
    read = np.hstack([read, np.ones((len(read), 1))])
    wanted = np.linalg.lstsq(read, np.asarray(graph.apply(variables, DATA), np.float64), rcond=None)[0]
    np.testing.assert_allclose(found["kernel"], wanted[:-1], atol=2e-4)
    np.testing.assert_allclose(found["bias"], wanted[-1], atol=2e-4)


def test_what_is_no_mutation_or_holds_no_values_is_refused():
    graph, variables = two_layers()
    with pytest.raises(nas.PlanError, match=r"must be a nas.Mutation, as every verb returns it.*found Graph"):
        nas.compensate(graph, BATCHES)
    shapes = jax.eval_shape(lambda: variables)
    with pytest.raises(nas.VariablesError, match="made on shapes, a dry run"):
        nas.compensate(nas.delta_nout(graph, shapes, {"hidden": -2}), BATCHES)


class Mixer(nn.Module):
    """Tokens are mixed by weights that are used once for each channel."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(10, name="channels")(x)
        mixed = nn.Dense(3, name="back")(nn.gelu(nn.Dense(6, name="tokens")(jnp.swapaxes(x, 1, 2))))
        return nn.Dense(2, name="last")((x + jnp.swapaxes(mixed, 1, 2)).mean(1))


@pytest.mark.parametrize("outcomes", [True, False])
def test_a_weight_that_is_used_once_for_each_neuron_stays(outcomes):
    """Which of its rows were which is not known, where neurons went; what others make up for, they do."""
    data = jax.random.normal(jax.random.key(0), (50, 3, 5))
    graph, variables = nas.from_linen(Mixer(), Mixer().init(jax.random.key(1), data), data)
    cut = nas.delta_nout(graph, variables, {"channels": -4})
    fitted = nas.compensate(cut, [data[:30], data[30:]], outcomes=outcomes)
    params, before = fitted.variables["params"], cut.variables["params"]
    for name in ("tokens", "back"):
        np.testing.assert_array_equal(params[name]["kernel"], before[name]["kernel"])
    wanted = graph.apply(variables, data)
    errors = [float(((one.graph.apply(one.variables, data) - wanted) ** 2).mean()) for one in (cut, fitted)]
    assert errors[1] < 0.5 * errors[0]
    whole = nas.compensate(nas.delta_nout(graph, variables, {"tokens": -2}), [data])  # all rows are there
    assert "not re-fitted" not in " ".join(whole.notes)


class Transposed(nn.Module):
    """A weight is read as it is and transposed, so that it is one matrix in no fit."""

    width: int

    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.lecun_normal(), (8, self.width))
        return nn.Dense(4, name="last")(jnp.tanh(jnp.tanh(nn.Dense(8, name="first")(x)) @ w) @ w.T)


@pytest.mark.parametrize("width", [8, 16])
def test_a_weight_that_is_also_read_transposed_stays(width):
    graph, variables = nas.from_linen(Transposed(width), Transposed(width).init(jax.random.key(1), DATA), DATA)
    pruned = nas.delta_nout(graph, variables, {"first": -3})
    found = nas.compensate(pruned, BATCHES, ridge=1e-12)
    np.testing.assert_array_equal(found.variables["params"]["w"], pruned.variables["params"]["w"])
    assert "params/w" in found.notes[-1]
    own, wanted = found.variables["params"], np.asarray(graph.apply(variables, DATA), np.float64)
    hidden = jnp.tanh(DATA @ own["first"]["kernel"] + own["first"]["bias"])
    read = np.asarray(jnp.tanh(hidden @ own["w"]) @ own["w"].T, np.float64)
    read = np.hstack([read, np.ones((len(read), 1))])
    best = read @ np.linalg.lstsq(read, wanted, rcond=None)[0]
    np.testing.assert_allclose(found.graph.apply(found.variables, DATA), best, atol=2e-3)
