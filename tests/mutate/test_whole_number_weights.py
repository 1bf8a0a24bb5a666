"""Weights of whole numbers with a zero point, ``(q - z) * s``: 0 is where q is z."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas
from naivenas_jax.jaxpr.weight_root import whole_root

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 3)).astype(np.float32)
READ = {
    "floats": lambda p: (p["q"].astype(jnp.float32) - p["z"]) * p["s"],
    "wide numbers": lambda p: (p["q"].astype(jnp.int32) - p["z"].astype(jnp.int32)).astype(jnp.float32) * p["s"],
    "multiplied out": lambda p: p["q"] * p["s"] - p["z"] * p["s"],
}
ZEROS = {"one": np.int8(3), "by channel": np.array([3, -2, 0, 127], np.int8), "unsigned": np.uint8(200)}


def params(zero):
    dtype, info = zero.dtype, np.iinfo(zero.dtype)
    return {
        "a": RNG.normal(size=(3, 6)).astype(np.float32),
        "q": RNG.integers(info.min, info.max, (6, 4)).astype(dtype),
        "z": np.asarray(zero),
        "s": RNG.uniform(0.01, 0.02, 4).astype(np.float32),
        "out": RNG.normal(size=(4, 2)).astype(np.float32),
    }


def net(read, p, x, gates=1.0):
    return jax.nn.relu((jax.nn.relu(x @ p["a"]) * gates) @ read(p)) @ p["out"]


@pytest.mark.parametrize("zero", ZEROS)
@pytest.mark.parametrize("name", READ)
def test_neurons_that_are_read_come_and_go(name, zero):
    read, given = READ[name], params(ZEROS[zero])
    graph, variables = nas.from_function(lambda v, x: net(read, v["params"], x), {"params": given}, X)
    assert graph.handles()["a"].coupled is None
    before = net(read, given, X)
    grown = nas.delta_nout(graph, variables, {"a": 2})
    new = np.asarray(grown.variables["params"]["q"])
    assert new.dtype == given["q"].dtype
    assert (new[grown.indices("a") < 0] == given["z"]).all()
    np.testing.assert_allclose(grown.graph.apply(grown.variables, X), before, rtol=1e-5, atol=1e-6)
    shrunk = nas.delta_nout(graph, variables, {"a": -2})
    alive = np.zeros(6, np.float32)
    alive[shrunk.indices("a")] = 1
    masked = net(read, given, X, alive)
    np.testing.assert_allclose(shrunk.graph.apply(shrunk.variables, X), masked, rtol=1e-5, atol=1e-6)
    assert shrunk.check(X)
    soft = nas.masked(variables, nas.soft_masks(shrunk))
    assert np.asarray(soft["params"]["q"]).dtype == given["q"].dtype
    np.testing.assert_allclose(net(read, soft["params"], X), masked, rtol=1e-5, atol=1e-6)


def test_a_zero_point_that_is_out_of_range_is_refused():
    given = params(np.int8(3))

    def function(variables, x):
        return net(READ["wide numbers"], variables["params"], x)

    graph, variables = nas.from_function(function, {"params": {**given, "z": np.array(3, np.int32)}}, X)
    assert nas.delta_nout(graph, variables, {"a": 1}).check(X)
    variables = {"params": {**given, "z": np.array(1000, np.int32)}}
    with pytest.raises(nas.StructureError, match=r"params/q holds whole numbers \(int8\).* 0 for none of them"):
        nas.delta_nout(graph, variables, {"a": 1})
    assert nas.delta_nout(graph, variables, {"a": -1}).graph.handles()["a"].size == 5  # nothing has to be 0


def test_a_zero_point_that_need_not_be_whole_couples():
    given = params(np.int8(3))
    floats = {"params": {**given, "z": np.array(3.5, np.float32)}}
    graph, _ = nas.from_function(lambda v, x: net(READ["floats"], v["params"], x), floats, X)
    assert "function of q" in graph.handles()["a"].coupled


def test_far_from_the_zero_a_slope_is_not_exact():
    zero = np.array([30_000, -32_768, 32_767], np.int16)
    root = whole_root(lambda q: (q.astype(jnp.float32) - zero) * np.float32(0.013), (3,), np.dtype("int16"))
    assert root is not None
    np.testing.assert_array_equal(root, zero)
    assert whole_root(lambda q: q.astype(jnp.float32) - 0.5, (3,), np.dtype("int16")) is None
