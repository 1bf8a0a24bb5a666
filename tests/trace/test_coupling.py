"""Coupled is a matter of single runs: of an attention the features of queries and keys, but not its heads."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas

X = jax.random.normal(jax.random.key(1), (2, 5, 12))


class Attention(nn.Module):
    """Heads come from a reshape, as in most models that are not flax's own."""

    @nn.compact
    def __call__(self, x):
        query, key, value = (nn.Dense(16, name=n)(x).reshape(2, 5, 4, 4) for n in ("query", "key", "value"))
        weights = nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", query, key))
        return nn.Dense(3, name="out")(jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(2, 5, 16))


@pytest.fixture(scope="module")
def imported():
    return nas.from_linen(Attention(), Attention().init(jax.random.key(0), X), X)


def test_heads_and_value_features_are_not_coupled(imported):
    handles = imported[0].handles()
    assert {name: bool(handle.coupled) for name, handle in handles.items()} == {
        **{"x": False, "output": False, "out": False},
        **{"query": True, "query:heads": False, "query:features": True},
        **{"key": True, "key:heads": False, "key:features": True},
        **{"value": False, "value:heads": False, "value:features": False},
    }


@pytest.mark.parametrize("handle", ["query:heads", "value:features"])
@pytest.mark.parametrize("change", [-1, 2])
def test_the_oracle_compares_them(imported, handle, change):
    graph, variables = imported
    mutation = nas.delta_nout(graph, variables, {handle: change})
    check = mutation.check(X)
    assert check.compared, check.reason
    same = np.allclose(mutation.graph.apply(mutation.variables, X), graph.apply(variables, X), atol=1e-5)
    assert same == (change > 0)  # what went away did matter


def test_the_oracle_says_by_name_what_is_coupled(imported):
    check = nas.delta_nout(*imported, {"query:features": -1}).check(X)
    assert not check.compared
    assert check.reason.endswith("changed and is coupled: two activations are contracted over it")
    assert not check.reason.startswith("'~")
