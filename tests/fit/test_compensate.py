"""Re-fitted weights, against least squares on the whole data at once."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas

DATA = jax.random.normal(jax.random.key(0), (300, 5))
BATCHES = [DATA[:100], DATA[100:250], DATA[250:]]


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
    one, several = (nas.compensate(pruned, b, ridge=1e-6).variables for b in ([DATA], iter(BATCHES)))
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


def test_what_cannot_be_done_is_refused():
    graph, variables = two_layers()
    pruned = nas.delta_nout(graph, variables, {"hidden": -5})
    with pytest.raises(nas.VariablesError, match="batches= was empty"):
        nas.compensate(pruned, [])
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
