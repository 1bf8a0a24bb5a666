"""``free_outputs=``: all outputs, none, or those of some names."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas

X = jax.random.normal(jax.random.key(0), (3, 4))


def with_carry(v, x):
    h = jnp.tanh(x @ v["params"]["a"])
    return h @ v["params"]["b"], h


def imported():
    variables = {"params": {"a": jax.random.normal(jax.random.key(1), (4, 6)), "b": jnp.ones((6, 3))}}
    return nas.from_function(with_carry, variables, X)


def by_hand():
    x = nas.input_vertex("x", 4)
    hidden = nas.layer("hidden", nn.Dense(6), x)
    carry = nas.invariant_vertex("carry", jnp.tanh, hidden)
    graph = nas.Graph(x, (nas.layer("logits", nn.Dense(3), carry), carry))
    return graph, graph.init(jax.random.key(0), X)


@pytest.mark.parametrize(("make", "carry"), [(imported, "output1"), (by_hand, "carry")])
@pytest.mark.parametrize("spelled", [lambda name: name, lambda name: (name,), lambda name: {name}])
def test_an_output_of_that_name_may_change_and_no_other(make, carry, spelled):
    graph, variables = make()
    small = nas.resize(graph, variables, max_params=0.5, free_outputs=spelled(carry))
    logits, inside = small.graph.apply(small.variables, X)
    assert logits.shape == (3, 3)
    assert inside.shape[1] < 6
    kept = small.indices(carry)
    np.testing.assert_allclose(inside, graph.apply(variables, X)[1][:, kept], rtol=1e-6)
    small.check(X)


def test_other_outputs_keep_their_neurons():
    graph, variables = by_hand()
    with pytest.raises(nas.InfeasibleError, match=r"free_outputs=\('carry',\)"):
        nas.delta_nout(graph, variables, {"hidden": -1}, free_outputs=("logits",))
    assert nas.delta_nout(graph, variables, {"hidden": -1}, free_outputs=("carry",)).graph.nout("carry") == 5
    with pytest.raises(nas.InfeasibleError):
        nas.delta_nout(graph, variables, {"hidden": -1}, free_outputs=())


@pytest.mark.parametrize("given", ["no such output", ("carry", "hidden"), ["x"]])
def test_names_of_outputs_that_do_not_exist_are_refused(given):
    with pytest.raises(nas.UnknownNameError, match=r"free_outputs: .*Only outputs can be freed"):
        nas.resize(*by_hand(), max_params=0.5, free_outputs=given)


@pytest.mark.parametrize("given", [1, None, jnp.ones(2), (1,), 0.5])
def test_what_is_neither_a_flag_nor_names_is_refused(given):
    with pytest.raises(nas.RequestError, match="free_outputs= takes True, False, or the names of the outputs"):
        nas.resize(*by_hand(), max_params=0.5, free_outputs=given)


def test_verbs_of_structure_take_names_too():
    graph, variables = by_hand()
    with pytest.raises(nas.UnknownNameError):
        nas.insert_vertex(graph, variables, "hidden", lambda v: nas.layer("n", nn.Dense(6), v), free_outputs=("n",))
    made = nas.replace_layer(graph, variables, "hidden", nn.Dense(5), free_outputs=("carry",))
    assert made.graph.nout("carry") == 5
    assert made.graph.nout("logits") == 3
    inside = nas.insert_vertex(
        *imported(), "output0", lambda v: nas.layer("n", nn.Dense(3), v), free_outputs=("output1",)
    )
    assert inside.graph.nout("output1") == 6


def test_the_name_of_a_part_of_what_a_model_returns_means_all_in_it():
    def with_cache(v, x):
        h, g = jnp.tanh(x @ v["params"]["a"]), x @ v["params"]["c"]
        return {"logits": (h + g) @ v["params"]["b"], "cache": {"h": h, "g": [g]}}

    variables = {"params": {"a": jnp.ones((4, 6)), "b": jnp.ones((6, 3)), "c": jnp.ones((4, 6))}}
    graph, variables = nas.from_function(with_cache, variables, X)
    for free in ("output/cache", ["output/cache/h", "output/cache/g/0"]):
        small = nas.resize(graph, variables, max_params=0.5, free_outputs=free)
        found = small.graph.apply(small.variables, X)
        assert found["logits"].shape == (3, 3)
        assert found["cache"]["h"].shape[1] == found["cache"]["g"][0].shape[1] < 6
    for free in ("output/cac", "cache", ["output/cache/h"]):
        with pytest.raises((nas.UnknownNameError, nas.InfeasibleError)):
            nas.delta_nout(graph, variables, {"a": -1}, free_outputs=free)
