"""Products of an activation and a variable, as the matrices that they are said to be."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import naivenas_jax as nas
from naivenas_jax.fit.matrix import Contraction
from naivenas_jax.fit.walk import Additive, Other, Standardisation, trace, walk
from naivenas_jax.transfer.variables import flat


def seen(fn, variables, *inputs):
    found = []
    walk(trace(fn, variables, inputs), variables, inputs, lambda event: found.append(event) and None)
    return found


IMAGE = jax.random.normal(jax.random.key(0), (2, 9, 8, 3))
CASES = {
    "dense": (nn.Dense(4), jnp.ones((5, 2, 3))),
    "conv": (nn.Conv(4, (3, 2), strides=(2, 1)), IMAGE),
    "valid, dilated": (nn.Conv(4, (2, 2), padding="VALID", kernel_dilation=(2, 3)), IMAGE),
    "transposed": (nn.ConvTranspose(4, (3, 3), strides=(2, 2)), IMAGE),
    "one dimension": (nn.Conv(4, (3,), padding="CIRCULAR"), IMAGE[0]),
    "several features": (nn.DenseGeneral((2, 5), axis=(-2, -1)), IMAGE),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_times_matrix_are_columns(case):
    module, x = CASES[case]
    x = jax.random.normal(jax.random.key(1), x.shape)
    variables = module.init(jax.random.key(2), x)
    (found,) = [e for e in seen(module.apply, variables, x) if isinstance(e, Contraction)]
    kernel = np.asarray(flat(variables)[found.path])
    assert found.path[-1] == "kernel"
    np.testing.assert_allclose(found.x @ found.matrix(kernel), found.y, atol=1e-5)
    np.testing.assert_array_equal(kernel.ravel()[found.entries(kernel.shape)], found.matrix(kernel))


def test_weights_on_the_left_and_transposed():
    w, x = jax.random.normal(jax.random.key(0), (4, 3)), jax.random.normal(jax.random.key(1), (3, 5))
    for fn, array in ((lambda v, x: v["params"]["w"] @ x, x), (lambda v, x: x @ v["params"]["w"].T, x.T)):
        (found,) = seen(fn, {"params": {"w": w}}, array)
        np.testing.assert_allclose(found.x @ found.matrix(np.asarray(w)), found.y, atol=1e-6)


def test_weights_that_are_computed_are_no_contraction():
    w = jnp.ones((3, 4))
    found = seen(lambda v, x: x @ (2 * v["params"]["w"]), {"params": {"w": w}}, jnp.ones((2, 3)))
    assert found == [Other(("params", "w"))]


def test_grouped_convolutions_are_none():
    module = nn.Conv(6, (3, 3), feature_group_count=3)
    found = seen(module.apply, module.init(jax.random.key(0), IMAGE), IMAGE)
    assert not any(isinstance(e, Contraction) for e in found)


def test_bias_and_running_mean_are_found_for_linen_and_nnx():
    x = nas.input_vertex("x", 3)
    for dense, norm in (
        (nn.Dense(4), nn.BatchNorm()),
        (nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.BatchNorm(4, rngs=nnx.Rngs(0))),
    ):
        graph = nas.Graph(x, nas.layer("norm", norm, nas.layer("dense", dense, x)))
        variables = graph.init(jax.random.key(0), jnp.ones((2, 3)))
        found = seen(graph.apply, variables, jnp.ones((2, 3)))
        product, bias, standardisation = (e for e in found if not isinstance(e, Other))
        assert {e.path[-1] for e in found if isinstance(e, Other)} <= {"scale", "var", "bias"}  # of the normalisation
        assert isinstance(product, Contraction)
        assert isinstance(bias, Additive)
        assert bias.contraction.path == product.path
        assert bias.path[-1] == "bias"
        assert bias.sign == 1
        assert isinstance(standardisation, Standardisation)
        assert standardisation.path[-1] == "mean"
