"""States that people write themselves, whole variables, Equinox modules; and what is no state."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import naivenas_jax as nas

INPUT = nas.input_vertex("x", 3)
X = jax.random.normal(jax.random.key(1), (4, 6))


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.BatchNorm(use_running_average=True, name="norm")(nn.Dense(8, name="up")(x))
        return nn.Dense(3, name="down")(nn.relu(h))


def own(key: str) -> optax.GradientTransformation:
    """A transformation whose state is a plain dict."""

    def init(params):
        return {key: jax.tree.map(jnp.zeros_like, params), "count": jnp.zeros(())}

    return optax.GradientTransformation(init, lambda updates, state, params=None: (updates, state))


@pytest.fixture(scope="module")
def grown():
    network = nas.from_linen(Normed(), Normed().init(jax.random.key(0), X), X)
    return nas.delta_nout(*network, {"up": 4})


def fresh_at_zero(tree):
    return not np.any(tree["up"]["kernel"][:, 8:])


def fresh_as_new(tree, grown):
    return np.array_equal(tree["up"]["kernel"], grown.variables["params"]["up"]["kernel"])


CHAINS = {
    "behind clipping": ([optax.clip(1.0), own("buffer")], 1),
    "before scaling": ([own("buffer"), optax.scale(-0.1)], 0),
    "before a schedule": ([own("buffer"), optax.scale_by_schedule(lambda count: 1.0)], 0),
    "behind Adam": ([optax.scale_by_adam(), own("m")], 1),
    "among all": ([optax.clip(1.0), optax.scale_by_adam(), own("buffer"), optax.scale(-0.1)], 2),
}


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("beside", ["alone", "in a pair", "in a dict"])
def test_a_plain_dict_in_a_chain_is_state(grown, chain, beside):
    parts, place = CHAINS[chain]
    params = grown.variables_before["params"]
    state = jax.tree.map(lambda leaf: leaf + jnp.ones_like(leaf), optax.chain(*parts).init(params))
    if beside == "alone":
        carried = grown.carry(state)
    elif beside == "in a pair":
        held, carried = grown.carry((params, state))
        assert fresh_as_new(held, grown)
    else:
        both = grown.carry({"anything": params, "opt": state})
        assert fresh_as_new(both["anything"], grown)
        carried = both["opt"]
    moments = next(value for key, value in carried[place].items() if key != "count")
    assert fresh_at_zero(moments)
    assert (moments["up"]["kernel"][:, :8] == 1).all()


def test_a_state_that_nobody_can_tell_is_refused_by_name(grown):
    state = optax.chain(optax.scale_by_adam(), own("buffer")).init(grown.variables_before["params"])
    with pytest.raises(nas.CarryError, match=r"new entries of \[1\]\['buffer'\]\['down'\]\['kernel'\].*unknown"):
        grown.carry(state)


def test_an_optimizer_of_plain_dicts_beside_parameters(grown):
    params = grown.variables_before["params"]
    held, state = grown.carry((params, {"m": params, "v": params, "step": 3}))
    assert fresh_as_new(held, grown)
    assert fresh_at_zero(state["m"])
    assert fresh_at_zero(state["v"])


@pytest.mark.parametrize("make", [optax.scale_by_adam, lambda: optax.MultiSteps(optax.adam(1e-2), 2)])
def test_a_single_state_in_a_tuple_is_beside_parameters(grown, make):
    params = grown.variables_before["params"]
    state = make().init(params)
    for order in (0, 1):
        pair = grown.carry((params, state)[:: 1 - 2 * order])
        assert fresh_as_new(pair[order], grown)
        moments = pair[1 - order]
        assert fresh_at_zero(moments.mu if hasattr(moments, "mu") else moments.acc_grads)
    held, _ = grown.carry(({"params": params, "ema": params}, state))
    assert fresh_as_new(held["ema"], grown)


def test_whole_variables_and_statistics_get_the_entries_of_the_new_ones(grown):
    before, after = grown.variables_before, grown.variables
    for tree, wanted in (
        (before, after),
        (before["batch_stats"], after["batch_stats"]),
        ({"batch_stats": before["batch_stats"]}, {"batch_stats": after["batch_stats"]}),
    ):
        jax.tree.map(np.testing.assert_array_equal, grown.carry(tree), wanted)
    assert fresh_at_zero(grown.carry({"params": before["params"]})["params"])  # may be gradients


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (None, "Found None, a NoneType"),
        (3, "Found 3, a int"),
        ("x", "Found 'x', a str"),
        (jnp.array(1.0), "Found Array"),
        (Normed(), r"Found Normed\(\), a Normed"),
        (len, "Found <built-in function len>"),
        (optax.adam(1e-2), "tx.init.*the tree is a GradientTransformation"),
        (({"up": {"bias": jnp.ones(8)}}, optax.sgd(1e-2)), r"tx.init.*\[1\] is a GradientTransformation"),
        (nas.Graph(INPUT, INPUT), "Found Graph"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_tree_of_arrays_is_refused_by_name(grown, tree, message):
    with pytest.raises(nas.CarryError, match=message):
        grown.carry(tree)


def test_report_is_a_flag(grown):
    with pytest.raises(nas.CarryError, match="report must be True or False"):
        grown.carry(grown.variables_before["params"], report=np.ones(2))


def test_states_without_arrays_pass(grown):
    state = optax.sgd(1e-2).init(grown.variables_before["params"])
    assert grown.carry(state) == state


def test_an_nnx_model_has_no_place_for_a_layer_that_is_inserted():
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(nnx.Linear(6, 8, rngs=rngs), nnx.relu, nnx.Linear(8, 3, rngs=rngs))
    network = nas.from_nnx(model, X)
    inserted = nas.insert_vertex(*network, "layers/0", lambda v: nas.layer("new", nn.Dense(8), v))
    with pytest.raises(nas.CarryError, match=r"a Sequential, whose class says which layers it has(.|\n)*as_nnx"):
        inserted.carry(model)
    state = nnx.to_pure_dict(inserted.carry(nnx.state(model), new="params"))
    for wanted, found in zip(jax.tree.leaves(inserted.variables["params"]), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(found, wanted)


# --- states of optax that do not start at zero


@pytest.mark.parametrize("make", [optax.adagrad, optax.contrib.cocob])
def test_sums_that_optax_starts_above_zero(grown, make):
    old, new = grown.variables_before["params"], grown.variables["params"]
    carried, fresh = grown.carry(make(1e-2).init(old)), make(1e-2).init(new)
    jax.tree.map(np.testing.assert_array_equal, carried, fresh)


def test_steps_of_rprop_are_asked_for(grown):
    """A step of zero would stay zero for ever."""
    tx, params = optax.rprop(1e-2), grown.variables_before["params"]
    with pytest.raises(nas.CarryError, match=r"step_sizes.*only the optimizer knows.*fresh=tx.init"):
        grown.carry(tx.init(params))
    fresh = tx.init(grown.variables["params"])
    jax.tree.map(np.testing.assert_array_equal, grown.carry(tx.init(params), fresh=fresh), fresh)


# --- Equinox


class Net(eqx.Module):
    up: eqx.nn.Linear
    down: eqx.nn.Linear
    activation: Any = jax.nn.relu

    def __call__(self, x):
        return self.down(self.activation(self.up(x)))


class Training(eqx.Module):
    model: Net
    shadow: Net
    opt_state: Any
    step: jax.Array


@pytest.fixture(scope="module")
def equinox():
    """A module, a mutation of the function that it computes, and a state of Adam all of whose moments are 1."""
    model = Net(eqx.nn.Linear(6, 8, key=jax.random.key(0)), eqx.nn.Linear(8, 3, key=jax.random.key(1)))
    layers = {name: getattr(model, name) for name in ("up", "down")}
    variables = {"params": {name: {"weight": one.weight, "bias": one.bias} for name, one in layers.items()}}

    def apply(v, x):
        up, down = v["params"]["up"], v["params"]["down"]
        return jax.nn.relu(x @ up["weight"].T + up["bias"]) @ down["weight"].T + down["bias"]

    mutation = nas.delta_nout(*nas.from_function(apply, variables, X), {"up": 4})
    state = optax.adam(1e-2).init(eqx.filter(model, eqx.is_array))
    return model, mutation, jax.tree.map(lambda leaf: leaf + jnp.ones_like(leaf), state)


def is_new(model, mutation):
    """Whether a module computes what the changed graph does."""
    wanted = mutation.graph.apply(mutation.variables, X)
    return model.up.weight.shape == (12, 6) and np.allclose(jax.vmap(model)(X), wanted, atol=1e-5)


def test_equinox_modules_and_states_over_them(equinox):
    model, mutation, state = equinox
    assert is_new(mutation.carry(model), mutation)
    carried, moments = mutation.carry((model, state))
    assert is_new(carried, mutation)
    for kind in ("mu", "nu"):
        found = getattr(moments[0], kind).up.weight
        assert (found[:8] == 1).all()
        assert not found[8:].any()
    fresh = optax.adam(1e-2).init(eqx.filter(carried, eqx.is_array))
    assert jax.tree.structure(moments) == jax.tree.structure(fresh)


def test_a_training_state_that_is_an_equinox_module(equinox):
    model, mutation, state = equinox
    carried = mutation.carry(Training(model, model, state, jnp.array(7)))
    assert is_new(carried.model, mutation)
    assert is_new(carried.shadow, mutation)
    assert not carried.opt_state[0].mu.up.bias[8:].any()
    assert carried.step == 7
    several = optax.MultiSteps(optax.adam(1e-2), 2).init(eqx.filter(model, eqx.is_array))
    held, accumulated = mutation.carry((model, several))
    assert is_new(held, mutation)
    assert accumulated.acc_grads.up.weight.shape == (12, 6)
