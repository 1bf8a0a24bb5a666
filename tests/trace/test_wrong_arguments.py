"""What is given in the place of a model, a mutation or a variable and is none, is refused by name."""

import copy

import cloudpickle
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from flax.core import freeze

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
    with pytest.raises(nas.StructureError, match=r"fn must be a function of \(vertex\); found int: 3"):
        nas.map_vertices(*written, 3)


def test_a_summary_needs_all_variables(written):
    with pytest.raises(nas.VariablesError, match=r"no variables\['params'\]"):
        nas.summary(written[0], {})


class Misnamed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="params")(x)


def test_a_module_that_is_called_params_is_refused():
    x = jnp.ones((1, 3))
    with pytest.raises(nas.GraphError, match="no module or parameter of the model may be named 'params'"):
        nas.from_linen(Misnamed(), Misnamed().init(jax.random.key(0), x), x)


def test_an_imported_graph_is_saved_as_sizes_and_variables():
    """Or pickled: all three compute the same, and a copy is equal to the graph."""
    x, model = jnp.ones((2, 3)), nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(6), nn.relu, nn.Dense(2)])
    graph, variables = nas.from_linen(model, model.init(jax.random.key(0), x), x)
    mutation = nas.delta_nout(graph, variables, {"layers_0": -3, "layers_2": 1})
    assert copy.deepcopy(mutation.graph) == mutation.graph
    pickled = cloudpickle.loads(cloudpickle.dumps(mutation.graph))  # pickle refuses classes of Flax's own
    assert pickled == mutation.graph
    sizes = {name: handle.size for name, handle in mutation.graph.handles().items()}
    again, _ = nas.from_linen(model, variables, x)
    loaded = nas.delta_nout(again, variables, {name: nas.to(size) for name, size in sizes.items()}).graph
    planned = nas.delta_nout(again, variables, nas.Plan.from_json(mutation.plan.to_json())).graph
    wanted = mutation.graph.apply(mutation.variables, x).tolist()
    assert [graph.apply(mutation.variables, x).tolist() for graph in (pickled, loaded, planned)] == [wanted] * 3


def test_names_that_nobody_gave_are_not_shown():
    x, model = jnp.ones((2, 3)), nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(2)])
    graph, variables = nas.from_linen(model, model.init(jax.random.key(0), x), x)
    mutation = nas.delta_nout(graph, variables, {"layers_0": -3})
    assert "~" not in f"{mutation!r} {mutation.plan!r} {mutation.plan}"
    for wrong in ({"layers_1": -1}, {"~params/layers_0": -1}):
        with pytest.raises(nas.UnknownNameError, match=r"Did you mean: [^~]*$"):
            nas.delta_nout(graph, variables, wrong)


def test_frozen_variables_stay_frozen():
    x, model = jnp.ones((2, 3)), nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(2)])
    graph, variables = nas.from_linen(model, freeze(model.init(jax.random.key(0), x)), x)
    mutation = nas.delta_nout(graph, variables, {"layers_0": -3})
    state = mutation.carry(optax.adam(1e-3).init(variables["params"]))
    assert jax.tree.structure(state[0].mu) == jax.tree.structure(mutation.variables["params"])
    assert jax.tree.structure(mutation.undo(mutation.variables)[1]) == jax.tree.structure(variables)
    assert mutation.check(x).compared
