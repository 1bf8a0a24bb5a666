"""Products of an activation and a variable, as the matrices that they are said to be."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import naivenas_jax as nas
from naivenas_jax.dataflow.contraction import Contraction
from naivenas_jax.dataflow.tape import record
from naivenas_jax.dataflow.variable_uses import AddedVariable, OtherUse, SkipConnection, Standardisation
from naivenas_jax.dataflow.walk import walk_tape
from naivenas_jax.transfer.variables import flat


def seen(fn, variables, *inputs):
    found = []
    tape = record(fn, variables, inputs)
    walk_tape(tape, variables, tape.start(inputs), found.append)
    return found


IMAGE = jax.random.normal(jax.random.key(0), (2, 9, 8, 3))
CASES = {
    "dense": (nn.Dense(4), jnp.ones((5, 2, 3))),
    "conv": (nn.Conv(4, (3, 2), strides=(2, 1)), IMAGE),
    "valid, dilated": (nn.Conv(4, (2, 2), padding="VALID", kernel_dilation=(2, 3)), IMAGE),
    "transposed": (nn.ConvTranspose(4, (3, 3), strides=(2, 2)), IMAGE),
    "one dimension": (nn.Conv(4, (3,), padding="CIRCULAR"), IMAGE[0]),
    "several features": (nn.DenseGeneral((2, 5), axis=(-2, -1)), IMAGE),
    "grouped": (nn.Conv(6, (3, 2), strides=(2, 1), feature_group_count=3), IMAGE),
    "depthwise": (nn.Conv(3, (3, 3), feature_group_count=3, padding="VALID"), IMAGE),
    "wider than the image": (nn.Conv(4, (7, 5)), IMAGE[:, :2, :3]),
    "wider, strided, dilated, grouped": (
        nn.Conv(6, (4, 6), strides=(2, 3), kernel_dilation=(3, 1), feature_group_count=3),
        IMAGE[:, :5, :2],
    ),
    "wider, transposed": (nn.ConvTranspose(4, (9, 3), strides=(2, 2)), IMAGE[:, :2, :1]),
    "wider, and padded by hand": (nn.Conv(4, (5, 3), padding=((4, 0), (-1, 2))), IMAGE[:, :2]),
    "a batch of weights": (nn.Einsum((3, 8, 4), "bnkh,hkm->bnhm", use_bias=False), IMAGE),
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
    np.testing.assert_array_equal(found.seen, (np.asarray(found.x) != 0).any((0, 1)))
    assert found.seen.all() == ("wider" not in case)
    np.testing.assert_array_equal(kernel.ravel()[found.entries(kernel.shape)], found.matrix(kernel))


SUMS = {  # and the factor of what is made in the sum, and how often a skip connection is shown
    "an input": (lambda v, x: x + x @ v["w"], 1.0, 1),
    "a bias": (lambda v, x: jnp.sin(x) + (x @ v["w"] + v["s"]), None, 1),
    "a cast between": (lambda v, x: x + (x @ v["w"]).astype(jnp.float32).reshape(x.shape), 1.0, 1),
    "a layer scale": (lambda v, x: (x @ v["w"]) * v["s"] + x, jnp.array([1.0, 2.0, 4.0]), 1),
    "a computed scale": (
        lambda v, x: jnp.exp(-v["s"] / 4) * (x @ v["w"]) + x,
        jnp.exp(-jnp.array([1.0, 2.0, 4.0]) / 4),
        1,
    ),
    "several": (lambda v, x: (x @ v["w"] + 2 * x) * 0.5 + x, 0.5, 2),
    "two branches": (lambda v, x: x + (jnp.sin(x @ v["u"]) + x @ v["w"]), 1.0, 2),
    "the other is computed later": (lambda v, x: (x @ v["w"]) + jnp.sin(x), 1.0, 1),
    "what reads it": (lambda v, x: (y := x @ v["w"]) + jnp.sin(y), None, 0),
    "a later weight": (lambda v, x: x @ v["w"] + jnp.sin(x @ v["u"]), None, 0),
    "statistics": (lambda v, x: x + (x @ v["w"] - v["batch_stats"]["mean"]) * v["s"], None, 0),
    "a scale of inputs": (lambda v, x: x + (x @ v["w"]) * x.mean(), None, 0),
}


@pytest.mark.parametrize("case", SUMS)
def test_a_sum_is_what_a_weight_makes_and_the_rest(case):
    function, scale, number = SUMS[case]
    x = jax.random.normal(jax.random.key(1), (5, 3))
    matrices = {name: jax.random.normal(jax.random.key(i), (3, 3)) for i, name in enumerate("uw")}
    scales = {"s": jnp.array([1.0, 2.0, 4.0]), "batch_stats": {"mean": jnp.ones(3)}}
    variables = {**matrices, **scales}
    skips = [e for e in seen(function, variables, x) if isinstance(e, SkipConnection) and e.path == ("w",)]
    assert len(skips) == number
    if scale is not None:
        total = scale * (skips[-1].contraction.result + skips[-1].activation)
        np.testing.assert_allclose(total, function(variables, x), rtol=1e-5, atol=1e-5)


def test_weights_on_the_left_and_transposed():
    w, x = jax.random.normal(jax.random.key(0), (4, 3)), jax.random.normal(jax.random.key(1), (3, 5))
    for fn, array in ((lambda v, x: v["params"]["w"] @ x, x), (lambda v, x: x @ v["params"]["w"].T, x.T)):
        (found,) = seen(fn, {"params": {"w": w}}, array)
        np.testing.assert_allclose(found.x @ found.matrix(np.asarray(w)), found.y, atol=1e-6)


def test_a_batch_of_weights_on_the_left():
    w, x = jax.random.normal(jax.random.key(0), (4, 3, 5)), jax.random.normal(jax.random.key(1), (2, 5, 4))
    (found,) = seen(lambda v, x: jnp.einsum("hmk,bkh->mbh", v["params"]["w"], x), {"params": {"w": w}}, x)
    assert found.x.shape == (4, 2, 5)
    np.testing.assert_allclose(found.x @ found.matrix(np.asarray(w)), found.y, atol=1e-5)


def test_weights_that_are_computed_are_no_contraction():
    w = jnp.ones((3, 4))
    found = seen(lambda v, x: x @ (2 * v["params"]["w"]), {"params": {"w": w}}, jnp.ones((2, 3)))
    assert found == [OtherUse(("params", "w"))]


def test_complex_and_whole_numbers_are_no_contractions():
    x = jnp.ones((2, 3))
    for w, array in ((jnp.ones((3, 4)), x * 1j), (jnp.ones((3, 4)) * 1j, x), (jnp.ones((3, 4), int), x)):
        found = seen(lambda v, x: x @ v["params"]["w"] + v["params"]["b"], {"params": {"w": w, "b": w[0]}}, array)
        assert not any(isinstance(e, Contraction | AddedVariable) for e in found)


def dense(variables, x):
    return nn.relu(x @ variables["params"]["w"] + variables["params"]["b"]) @ variables["params"]["v"]


def test_evaluation_goes_on_from_anywhere():
    w, b, v = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(3, 4), (4,), (4, 2)]))
    x, variables = jnp.ones((5, 3)), {"params": {"w": w, "b": b, "v": v}}
    tape = record(dense, variables, [x])
    wanted = np.asarray(dense(variables, x))
    for stop in range(len(tape.steps) + 1):
        live = walk_tape(tape, variables, tape.start([x]), lambda event: None, stop=stop)
        (result,) = walk_tape(tape, variables, live, lambda event: None, stop).values()
        np.testing.assert_allclose(result, wanted, rtol=1e-6)
    stop = tape.first_use([("params", "b")])
    live = walk_tape(tape, variables, tape.start([x]), lambda event: None, stop=stop)
    other = {"params": {"w": w, "b": b + 1, "v": v}}
    (result,) = walk_tape(tape, other, live, lambda event: None, stop).values()
    np.testing.assert_allclose(result, dense(other, x), rtol=1e-6)


def test_bias_and_running_mean_are_found_for_linen_and_nnx():
    x = nas.input_vertex("x", 3)
    for dense, norm in (
        (nn.Dense(4), nn.BatchNorm()),
        (nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.BatchNorm(4, rngs=nnx.Rngs(0))),
    ):
        graph = nas.Graph(x, nas.layer("norm", norm, nas.layer("dense", dense, x)))
        variables = graph.init(jax.random.key(0), jnp.ones((2, 3)))
        found = seen(graph.apply, variables, jnp.ones((2, 3)))
        product, bias, standardisation = (e for e in found if not isinstance(e, OtherUse))
        others = {e.path[-1] for e in found if isinstance(e, OtherUse)}
        assert others <= {"scale", "var", "bias"}  # of the normalisation
        assert isinstance(product, Contraction)
        assert isinstance(bias, AddedVariable)
        assert bias.contraction.path == product.path
        assert bias.path[-1] == "bias"
        assert bias.sign == 1
        assert isinstance(standardisation, Standardisation)
        assert standardisation.path[-1] == "mean"
