"""One array through index sources, against loops over its entries."""

from __future__ import annotations

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas
from naivenas_jax.align.axis_plan import NEW
from naivenas_jax.errors import PlanError
from naivenas_jax.transfer.take import new_mask, new_shape, take

SOURCES = [np.array([2, NEW, 0]), None, np.array([1, 1, NEW, 0])]


def by_definition(array, sources, fill):
    sources = [np.arange(size) if s is None else s for s, size in zip(sources, array.shape, strict=True)]
    out = np.empty([len(s) for s in sources], array.dtype)
    for new in itertools.product(*map(range, out.shape)):
        old = tuple(s[i] for s, i in zip(sources, new, strict=True))
        out[new] = fill if NEW in old else array[old]
    return out


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "bfloat16", "float8_e4m3fn", "int4", "int8", "bool", "complex64"]
)
def test_every_dtype_keeps_its_bits(dtype, kind):
    array = kind(jnp.arange(3 * 2 * 2).reshape(3, 2, 2).astype(dtype))
    out = take(array, SOURCES, 1)
    assert isinstance(out, type(array))
    assert out.dtype == array.dtype
    expected = by_definition(np.asarray(array), SOURCES, 1)
    assert np.asarray(out).tobytes() == expected.tobytes()
    assert out.shape == new_shape(SOURCES, array.shape)


def test_payloads_of_nan_survive():
    array = np.array([0x7FC00001, 0x80000000], np.uint32).view(np.float32)
    assert take(jnp.asarray(array), [np.array([1, 0])]).tobytes() == array[::-1].tobytes()


def test_fill_may_be_an_array_of_the_new_shape():
    out = take(np.zeros((2, 2)), [None, np.array([0, NEW, NEW])], np.arange(6.0).reshape(2, 3))
    assert out.tolist() == [[0, 1, 2], [0, 4, 5]]


@pytest.mark.parametrize(("shape", "sources"), [((0, 2), [[NEW] * 3, None]), ((2, 0), [[1], [NEW]]), ((2,), [[]])])
def test_axes_of_size_zero(shape, sources):
    sources = [None if s is None else np.array(s, int) for s in sources]
    out = take(jnp.ones(shape), sources, 7)
    assert out.shape == new_shape(sources, shape)
    assert (np.asarray(out) == 7).all()


def test_new_mask():
    zeros = np.zeros((3, 2, 2))
    np.testing.assert_array_equal(new_mask(SOURCES, zeros.shape), by_definition(zeros, SOURCES, 1) == 1)


@pytest.mark.parametrize(
    "array", [np.ones(2), jnp.ones(2), jax.ShapeDtypeStruct((2,), "int8"), jax.random.split(jax.random.key(0))]
)
def test_nothing_changes(array):
    assert take(array, [np.arange(2)]) is array
    assert take(array, [None]) is array


def test_scalars_of_python():
    assert take(3.5, []) == 3.5


def test_shapes_without_numbers():
    assert take(jax.ShapeDtypeStruct((3, 2, 2), jnp.bfloat16), SOURCES) == jax.ShapeDtypeStruct((3, 2, 4), jnp.bfloat16)


def test_keys_are_taken_but_never_invented():
    keys = jax.random.split(jax.random.key(0), 3)
    assert (take(keys, [np.array([2, 0])]) == keys[np.array([2, 0])]).all()
    with pytest.raises(PlanError, match=r"PRNG keys of shape \(3,\) would need new keys"):
        take(keys, [np.array([0, NEW])])


def test_placement():
    mesh = jax.make_mesh((1,), ("x",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    assert take(jax.device_put(jnp.ones(4), sharding), [np.array([0])]).sharding == sharding
    assert not take(jnp.ones(4), [np.array([0])]).committed
    assert take(jax.device_put(jnp.ones(4), jax.devices()[0]), [np.array([0])]).committed


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([np.array([0, 5])], r"takes index 5 \(lowest: 0\) of dimension 0 of an array of shape \(3,\)"),
        ([np.array([0, -2])], r"lowest: -2"),
        ([None, None], r"for 2 dimensions, but the array has shape \(3,\)"),
    ],
)
def test_sources_that_do_not_fit(sources, message):
    with pytest.raises(PlanError, match=message):
        take(np.zeros(3), sources)


def test_traced_arrays_are_refused():
    with pytest.raises(PlanError, match="mutations change shapes and run outside jit"):
        jax.jit(lambda x: take(x, [np.array([0])]))(jnp.ones(3))


def test_new_parameters_lie_where_the_others_were_put():
    """Else a jitted step would be compiled again as soon as it has returned them."""
    x = nas.input_vertex("x", 3)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(4), x)))
    variables = graph.init(jax.random.key(0), jnp.ones((1, 3)))
    for given, chosen in ((variables, False), (jax.device_put(variables, jax.devices()[0]), True)):
        inserted = nas.insert_vertex(graph, given, "hidden", lambda v: nas.layer("new", nn.Dense(4), v))
        replaced = nas.replace_layer(graph, given, "hidden", nn.Dense(4, use_bias=False), keep=False)
        for mutation in (inserted, replaced):
            assert all(leaf.committed == chosen for leaf in jax.tree.leaves(mutation.variables))
