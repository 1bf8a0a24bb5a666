"""What `Mutation.check` says of inputs and outputs out of the ordinary."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas

X = jax.random.normal(jax.random.key(3), (5, 3))


def _weights(dtype=jnp.float32):
    a, b = (jax.random.normal(jax.random.key(i), shape, dtype) for i, shape in enumerate([(3, 6), (6, 2)]))
    return {"params": {"a": a, "b": b}}


def _two(variables, x):
    return jnp.tanh(x @ variables["params"]["a"]) @ variables["params"]["b"]


def _shrunk(function, variables):
    return nas.delta_nout(*nas.from_function(function, variables, X), {"a": -2})


def test_an_empty_batch_compares_nothing():
    x = nas.input_vertex("x", 3)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(4), x)))
    mutation = nas.delta_nout(graph, graph.init(jax.random.key(0), X), {"hidden": -1})
    found = mutation.check(X[:0])
    assert (found.compared, found.reason, found.max_difference) == (False, "the inputs are empty", None)
    assert mutation.check(X).compared


@pytest.mark.parametrize(
    "reduced",
    [jnp.sum, lambda y: (y, y.sum()), lambda y: y.sum(0), lambda y: jnp.sign(y).astype(jnp.int32)],
    ids=["scalar", "both", "row", "whole numbers"],
)
def test_outputs_of_any_rank_are_compared(reduced):
    mutation = _shrunk(lambda v, x: reduced(_two(v, x)), _weights())
    assert mutation.check(X).compared


def test_a_scalar_that_differs_is_found():
    mutation = _shrunk(lambda v, x: _two(v, x).sum(), _weights())
    mutation.variables["params"]["b"] += 1.0
    with pytest.raises(nas.OracleError, match="output"):
        mutation.check(X)


def test_imaginary_parts_are_compared():
    mutation = _shrunk(_two, _weights(jnp.complex64))
    assert mutation.check(X).compared
    old = mutation.variables["params"]["b"]
    mutation.variables["params"]["b"] = np.asarray(old) + 1j * np.ones(old.shape, np.complex64)
    with pytest.raises(nas.OracleError, match="output"):
        mutation.check(X)


def test_where_the_original_overflows_nothing_is_compared():
    """What a sum of infinities is depends on its order; outputs that are finite are compared all the same."""
    variables = _weights()
    mutation = _shrunk(lambda v, x: (jnp.exp(1e3 + _two(v, x)) * jnp.sign(_two(v, x)), _two(v, x)), variables)
    mutation.variables["params"]["b"] = -mutation.variables["params"]["b"]
    with pytest.raises(nas.OracleError, match="differs by"):
        mutation.check(X)  # the second output
    mutation = _shrunk(lambda v, x: jnp.exp(1e3 + _two(v, x)) * jnp.sign(_two(v, x)), variables)
    mutation.variables["params"]["b"] = -mutation.variables["params"]["b"]
    found = mutation.check(X)
    assert not found.compared
    assert "of the original is not finite for these inputs" in found.reason


def test_positions_that_are_masked_by_infinity_agree():
    mutation = _shrunk(lambda v, x: jnp.where(jnp.arange(5)[:, None] > 2, -jnp.inf, _two(v, x)), _weights())
    assert mutation.check(X).compared
    mutation.variables["params"]["b"] += 1.0
    with pytest.raises(nas.OracleError, match="differs by"):
        mutation.check(X)


def test_only_the_changed_network_is_not_finite():
    mutation = _shrunk(_two, _weights())
    mutation.variables["params"]["b"] += np.inf
    with pytest.raises(nas.OracleError, match="is not finite, where that of the original is"):
        mutation.check(X)
