"""Whatever people hold of a network in training is carried as what it is."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, struct
from flax.training import train_state

import naivenas_jax as nas

X = jax.random.normal(jax.random.key(1), (4, 6))
TX = optax.adam(1e-2)


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        h = nn.BatchNorm(use_running_average=not train, name="norm")(nn.Dense(8, name="up")(x))
        return nn.Dense(3, name="down")(nn.relu(h))


class AnyState(train_state.TrainState):
    batch_stats: Any = None
    shadow: Any = None
    grads: Any = None
    dropout_rng: Any = None


class Training(NamedTuple):
    params: Any
    average: Any
    opt_state: Any
    step: int = 0


class Unknown(NamedTuple):
    something: Any


@struct.dataclass
class Record:
    model: Any
    target: Any
    opt_state: Any


@pytest.fixture(scope="module")
def grown():
    variables = Normed().init(jax.random.key(0), X)
    return nas.delta_nout(*nas.from_linen(Normed(), variables, X), {"up": 4})


def alike(tree, other):
    return jax.tree.all(jax.tree.map(np.array_equal, tree, other))


def moments_start_at_zero(opt_state):
    return not opt_state[0].mu["up"]["kernel"][:, 8:].any() and not opt_state[0].nu["up"]["bias"][8:].any()


def state_of(params):
    """A state of Adam whose moments are no zeros."""
    return jax.tree.map(lambda leaf: leaf + jnp.ones_like(leaf), TX.init(params))


def test_a_training_state_of_any_class(grown):
    old, new = grown.variables_before, grown.variables
    params = old["params"]
    state = AnyState.create(
        apply_fn=None,
        params=params,
        tx=TX,
        batch_stats=old["batch_stats"],
        shadow=params,
        grads=params,
        dropout_rng=jax.random.PRNGKey(0),
    ).replace(opt_state=state_of(params))
    carried = grown.carry(state)
    assert alike(carried.params, new["params"])
    assert alike(carried.shadow, new["params"])
    assert alike(carried.batch_stats, new["batch_stats"])
    assert not carried.grads["up"]["kernel"][:, 8:].any()
    assert alike(carried.dropout_rng, state.dropout_rng)
    assert moments_start_at_zero(carried.opt_state)
    assert (carried.opt_state[0].mu["up"]["kernel"][:, :8] == 1).all()


HOLDERS = {
    "tuple": (lambda p, s: (p, s), lambda t: t),
    "dict": (lambda p, s: {"ema": p, "optimizer": s}, lambda t: (t["ema"], t["optimizer"])),
    "named tuple": (lambda p, s: Training(p, p, s), lambda t: (t.average, t.opt_state)),
    "dataclass": (lambda p, s: Record(p, p, s), lambda t: (t.target, t.opt_state)),
}


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("new", ["zeros", "params"])
def test_parameters_beside_an_optimizer_are_parameters(grown, holder, new):
    put, get = HOLDERS[holder]
    params = grown.variables_before["params"]
    held, opt_state = get(grown.carry(put(params, state_of(params)), new=new))
    assert alike(held, grown.variables["params"])
    assert moments_start_at_zero(opt_state)


def test_a_bare_tree_may_be_gradients(grown):
    params = grown.variables_before["params"]
    assert not grown.carry(params)["up"]["kernel"][:, 8:].any()
    assert alike(grown.carry(params, new="params"), grown.variables["params"])


@pytest.mark.parametrize("make", [optax.adam, optax.rmsprop, optax.adabelief, optax.amsgrad, optax.lion, optax.yogi])
def test_no_moment_is_a_parameter(grown, make):
    params, tx = grown.variables_before["params"], make(1e-2)
    carried = grown.carry(tx.init(params), new="params")
    assert alike(carried, grown.carry(tx.init(params)))


def test_an_average_that_optax_keeps_is_one_of_parameters_if_the_user_says_so(grown):
    params = grown.variables_before["params"]
    state = optax.ema(0.9).update(params, optax.ema(0.9, debias=False).init(params))[1]
    carried = grown.carry(state, new="params").ema["up"]["kernel"]
    np.testing.assert_array_equal(carried[:, 8:], grown.variables["params"]["up"]["kernel"][:, 8:])


def test_a_record_of_an_unknown_kind_is_refused_by_name(grown):
    params = grown.variables_before["params"]
    with pytest.raises(nas.CarryError, match=r"new entries of .* \(Unknown\.something\) start at is unknown"):
        grown.carry((params, TX.init(params), Unknown(params)))


class Net(nnx.Module):
    def __init__(self, rngs):
        self.up, self.norm = nnx.Linear(6, 8, rngs=rngs), nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
        self.down = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.down(nnx.relu(self.norm(self.up(x))))


@pytest.fixture(scope="module")
def trained():
    model = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, TX, wrt=nnx.Param)
    optimizer.update(model, nnx.grad(lambda m: (m(X) ** 2).sum())(model))
    return model, optimizer, nas.from_nnx(model, X)


def test_nnx_models_and_their_states_and_optimizers(trained):
    model, optimizer, network = trained
    grown = nas.delta_nout(*network, {"up": 4})
    carried, after = grown.carry((model, optimizer))
    for one in (carried, grown.carry(model)):
        np.testing.assert_array_equal(one.up.kernel[...], grown.variables["params"]["up"]["kernel"])
        np.testing.assert_array_equal(one.norm.var[...], grown.variables["batch_stats"]["norm"]["var"])
    state = grown.carry(nnx.state(model))
    np.testing.assert_array_equal(state["norm"]["var"][...], grown.variables["batch_stats"]["norm"]["var"])
    kernel = after.opt_state[0].mu["up"]["kernel"][...]
    np.testing.assert_array_equal(kernel[:, :8], optimizer.opt_state[0].mu["up"]["kernel"][...])
    assert not kernel[:, 8:].any()


@pytest.mark.parametrize("form", ["optimizer", "state", "opt_state", "fresh"])
def test_moments_of_what_stays_outlive_an_insertion(trained, form):
    _, optimizer, network = trained
    inserted = nas.insert_vertex(*network, "up", lambda v: nas.layer("new", nn.Dense(8), v))
    mu = optimizer.opt_state[0].mu["down"]["kernel"][...]
    if form == "optimizer":
        found = inserted.carry(optimizer).opt_state[0].mu
    elif form == "state":
        found = inserted.carry(nnx.state(optimizer))["opt_state"][0]["mu"]
    elif form == "opt_state":
        found = inserted.carry(optimizer.opt_state)[0].mu
    else:
        found = inserted.carry(optimizer, fresh=TX.init(inserted.variables["params"]))[0].mu
    np.testing.assert_array_equal(found["down"]["kernel"][...], mu)
    assert found["new"]["kernel"].shape == (8, 8)
    assert not found["new"]["kernel"][...].any()
    if form != "fresh":
        assert type(found["new"]["kernel"]) is type(found["down"]["kernel"])
