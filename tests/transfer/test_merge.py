"""Channels that are summed into one: of grey images nothing changes."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import naivenas_jax as nas

GREY = jax.random.normal(jax.random.key(0), (2, 6, 6, 1))
COLOURED = jnp.repeat(GREY, 3, axis=-1)


class Images(nn.Module):
    mean: tuple[float, ...] = (0.0,)

    @nn.compact
    def __call__(self, image):
        return nn.Dense(2)(nn.relu(nn.Conv(4, (3, 3), name="conv")(image - jnp.array(self.mean))).mean((1, 2)))


class NnxImages(nnx.Module):
    def __init__(self, rngs):
        self.conv, self.head = nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, image):
        return self.head(nnx.relu(self.conv(image)).mean((1, 2)))


def linen(model=Images()):  # noqa: B008  # frozen
    return nas.from_linen(model, model.init(jax.random.key(1), COLOURED), COLOURED)


def hand_written():
    image = nas.input_vertex("image", 3)
    graph = nas.Graph(image, nas.layer("conv", nn.Conv(4, (3, 3)), image))
    return graph, graph.init(jax.random.key(1), COLOURED)


@pytest.mark.parametrize("make", [linen, hand_written, lambda: nas.from_nnx(NnxImages(nnx.Rngs(0)), COLOURED)])
def test_three_channels_become_one_and_three_again(make):
    graph, variables = make()
    merged = nas.merge_neurons(graph, variables, {"image": [1]})
    wanted = graph.apply(variables, COLOURED)
    np.testing.assert_allclose(graph.apply(merged, COLOURED), wanted, atol=1e-5)
    grey = nas.delta_nout(graph, merged, {"image": nas.to(keep=[1])})
    np.testing.assert_allclose(grey.graph.apply(grey.variables, GREY), wanted, atol=1e-5)
    grey.check(COLOURED)
    back = nas.delta_nout(*grey, {"image": nas.to(3)})
    np.testing.assert_allclose(back.graph.apply(back.variables, COLOURED), wanted, atol=1e-5)
    np.testing.assert_array_equal(
        grey.undo(grey.variables)[1]["params"]["conv"]["kernel"], merged["params"]["conv"]["kernel"]
    )


def test_weights_by_hand():
    graph, variables = hand_written()
    kernel = variables["params"]["conv"]["kernel"]
    summed = nas.merge_neurons(graph, variables, {"image": [0, 2]})["params"]["conv"]["kernel"]
    np.testing.assert_allclose(summed[..., 0, :], kernel[..., 0, :] + kernel[..., 1, :] / 2, atol=1e-6)
    assert not summed[..., 1, :].any()
    mean = nas.merge_neurons(graph, variables, {"image": [0]}, how="mean")["params"]["conv"]["kernel"]
    np.testing.assert_allclose(mean[..., 0, :], kernel.mean(-2), atol=1e-6)


def test_what_is_computed_of_single_channels_is_refused():
    image = nas.input_vertex("image", 3)
    normed = nas.layer("norm", nn.BatchNorm(use_running_average=True), image)
    graph = nas.Graph(image, nas.layer("conv", nn.Conv(4, (3, 3)), normed))
    variables = graph.init(jax.random.key(0), COLOURED)
    with pytest.raises(nas.RequestError, match=r"norm/.* does something else with them than to read them"):
        nas.merge_neurons(graph, variables, {"image": [0]})
    with pytest.raises(nas.RequestError, match=r"conv/.* does something else"):
        nas.merge_neurons(*hand_written(), {"conv": [0]})
    with pytest.raises(nas.RequestError, match="a constant for each channel"):
        nas.merge_neurons(*linen(Images(mean=(0.1, 0.5, 0.9))), {"image": [0]})


@pytest.mark.parametrize("keep", [{"image": []}, {"image": [3]}, {"image": [0, 0]}, {"image": "a"}, {"image": 1}])
def test_positions_are_checked(keep):
    with pytest.raises(nas.RequestError, match="positions of neurons from 0 to 2"):
        nas.merge_neurons(*hand_written(), keep)
    with pytest.raises(nas.UnknownNameError, match="nothing"):
        nas.merge_neurons(*hand_written(), {"nothing": [0]})
    with pytest.raises(nas.RequestError, match="how must be"):
        nas.merge_neurons(*hand_written(), {"image": [0]}, how="max")


@pytest.mark.parametrize("over", [jnp.sum, jnp.linalg.norm])
def test_what_is_computed_over_the_neurons_is_refused(over):
    x, params = jax.random.normal(jax.random.key(0), (5, 3)), {"w": jnp.ones((3, 2))}
    graph, variables = nas.from_function(
        lambda v, x: x @ v["params"]["w"] + over(x, axis=-1, keepdims=True), {"params": params}, x
    )
    with pytest.raises(nas.RequestError, match="'x' cannot be merged: they are coupled"):
        nas.merge_neurons(graph, variables, {"x": [0]})
