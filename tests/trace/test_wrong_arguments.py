"""What is given in the place of a model, a mutation or a variable and is none, is refused by name."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import naivenas_jax as nas

X = jnp.ones((1, 3))


def noisy(variables, x, key):
    return (x @ variables["params"]["a"] + jax.random.normal(key, (1, 1))) @ variables["params"]["b"]


WEIGHTS = {"a": jnp.ones((3, 6)), "b": jnp.ones((6, 2))}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nas.from_linen(3, {}, X), nas.GraphError, r"a linen module.*found int: 3.*nas\.from_nnx"),
        (lambda: nas.from_linen(nn.Dense, {}, X), nas.GraphError, r"found the class Dense: make one, Dense\("),
        (lambda: nas.from_linen(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), {}, X), nas.GraphError, "found Linear"),
        (lambda: nas.from_nnx(3, X), nas.GraphError, "an nnx model.*found int: 3"),
        (lambda: nas.from_nnx(nn.Dense(3), X), nas.GraphError, "(?s)found Dense.*from_linen"),
        (lambda: nas.from_function(3, {}, X), nas.GraphError, "a function.*found int: 3"),
        (lambda: nas.rebuild(3, 4), nas.RebuildError, "a mutation of its graph.*found int: 4"),
        (lambda: nas.summary(3), nas.GraphError, "found int: 3"),
    ],
)
def test_arguments_of_other_kinds(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_key_is_no_variable_but_may_be_an_argument():
    def holds_key(variables, x):
        return noisy(variables, x, variables["rng"]["key"])

    one, other = jax.random.split(jax.random.key(0))
    with pytest.raises(nas.GraphError, match=r"variables\['rng'\]\['key'\] is a PRNG key.*as an argument"):
        nas.from_function(holds_key, {"params": WEIGHTS, "rng": {"key": one}}, X)
    mutation = nas.delta_nout(*nas.from_function(noisy, {"params": WEIGHTS}, X, one), {"a": -2})
    for key in (one, other):
        outputs = mutation.graph.apply(mutation.variables, X, key)
        assert jnp.allclose(outputs, noisy(mutation.variables, X, key))
    assert mutation.check(X, other).compared


@pytest.fixture(scope="module")
def written():
    x = nas.input_vertex("x", 3)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(4), x)))
    return graph, graph.init(jax.random.key(0), X)


@pytest.mark.parametrize("given", [3, ["hidden"], {"hidden": 3}], ids=str)
def test_layer_keywords_of_other_kinds(written, given):
    with pytest.raises(nas.RequestError, match=r"layer_keywords.*mapping.*found"):
        nas.delta_nout(*written, {"hidden": -1}, layer_keywords=given)


def test_map_vertices_takes_a_function(written):
    with pytest.raises(nas.StructureError, match="function of a vertex; found int: 3"):
        nas.map_vertices(*written, 3)


def test_a_summary_needs_all_variables(written):
    with pytest.raises(nas.VariablesError, match=r"no variables\['params'\]"):
        nas.summary(written[0], {})
