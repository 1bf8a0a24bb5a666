"""What is behind a change out of the sight of least squares, in a `while` or a computed weight, is re-fitted, too."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas

X = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.Dense(6, name="down")(nn.relu(nn.Dense(24, name="cut")(x))), None


class Looped(nn.Module):
    """Neurons go inside of a loop; what it returns is as wide as before."""

    @nn.compact
    def __call__(self, x):
        layers = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        return layers(name="layers")(x, None)[0]


class Repeated(nn.Module):
    """Neurons go inside of a loop that is repeated as long as something holds."""

    @nn.compact
    def __call__(self, x):
        more = self.param("more", nn.initializers.lecun_normal(), (6, 24))
        fewer = self.param("fewer", nn.initializers.lecun_normal(), (24, 6))

        def again(state):
            return state[0] + 1, state[1] + nn.relu(state[1] @ more) @ fewer

        return jax.lax.while_loop(lambda state: state[0] < 2, again, (0, x))[1]


class Computed(nn.Module):
    """Neurons are read by a weight that is computed from variables."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(24, name="cut")(x))
        return nn.relu(nn.WeightNorm(nn.Dense(16, name="read"))(x))


class Masked(nn.Module):
    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (24, 16))
        return jnp.tanh(nn.tanh(nn.Dense(24, name="cut")(x)) @ jax.nn.softplus(kernel))


class Behind(nn.Module):
    changed: nn.Module

    @nn.compact
    def __call__(self, x):
        before = nn.Dense(6, name="before")(x)
        return nn.Dense(3, name="out")(nn.BatchNorm(use_running_average=True, name="norm")(self.changed(before)))


CHANGED = {"repeated": Repeated(), "computed": Computed(), "a function of a variable": Masked()}


@pytest.mark.parametrize("changed", CHANGED)
def test_weights_and_statistics_behind_it_are_fitted(changed):
    model = Behind(CHANGED[changed])
    graph, variables = nas.from_linen(model, model.init(jax.random.key(0), X), X)
    variables = {**variables, "batch_stats": nas.recalibrate(graph, variables, [X])["batch_stats"]}
    handle = next(each.name for each in graph.handles().values() if each.size == 24)
    cut = nas.delta_nout(graph, variables, {handle: -12})
    fitted = nas.compensate(cut, [X])
    wanted = np.asarray(graph.apply(variables, X))

    def error(network):
        return float(((network.graph.apply(network.variables, X) - wanted) ** 2).mean())

    assert error(fitted) < 0.6 * error(cut)
    old, new = cut.variables, fitted.variables
    assert not np.allclose(old["params"]["out"]["kernel"], new["params"]["out"]["kernel"])
    assert not np.allclose(old["batch_stats"]["norm"]["var"], new["batch_stats"]["norm"]["var"])
    np.testing.assert_array_equal(old["params"]["before"]["kernel"], new["params"]["before"]["kernel"])  # not behind it


def test_a_weight_behind_a_loop_is_that_of_numpy():
    model = nn.Sequential([Looped(), nn.Dense(3, use_bias=False)])
    graph, variables = nas.from_linen(model, model.init(jax.random.key(1), X), X)
    handle = next(each.name for each in graph.handles().values() if each.size == 24)
    cut = nas.delta_nout(graph, variables, {handle: -12})
    fitted = nas.compensate(cut, [X], ridge=0)
    left = np.asarray(X, np.float64)
    for weights in zip(*jax.tree.leaves(fitted.variables["params"]["layers_0"]), strict=True):
        bias, kernel, last_bias, last_kernel = (np.asarray(weight, np.float64) for weight in weights)
        left = left + np.maximum(left @ kernel + bias, 0) @ last_kernel + last_bias
    wanted = np.asarray(graph.apply(variables, X), np.float64)
    solved = np.linalg.lstsq(left, wanted, rcond=None)[0]
    np.testing.assert_allclose(fitted.variables["params"]["layers_1"]["kernel"], solved, atol=1e-3)
