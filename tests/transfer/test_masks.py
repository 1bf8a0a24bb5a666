"""Partly frozen networks: masks, what a change of shape does to them, and training on."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import naivenas_jax as nas


@pytest.fixture(scope="module")
def net():
    """x 3 -> stem 4 -> body 5 -> out 2."""
    x = nas.input_vertex("x", 3)
    body = nas.layer("body", nn.Dense(5), nas.layer("stem", nn.Dense(4), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), body))
    return graph, graph.init(jax.random.key(0), jnp.ones((1, 3)))


def frozen_leaves(mask):
    return {
        "/".join(key.key for key in path) for path, flag in jax.tree_util.tree_leaves_with_path(mask) if np.all(flag)
    }


class TestNames:
    @pytest.mark.parametrize(
        ("names", "expected"),
        [
            ("stem", {"stem/kernel", "stem/bias"}),
            (["stem", "out"], {"stem/kernel", "stem/bias", "out/kernel", "out/bias"}),
            ("*o*", {"body/kernel", "body/bias", "out/kernel", "out/bias"}),
            ("stem/bias", {"stem/bias"}),
            ("*/bias", {"stem/bias", "body/bias", "out/bias"}),
            ((), set()),
        ],
    )
    def test_hand_written(self, net, names, expected):
        mask = nas.freeze_mask(*net, names)
        assert frozen_leaves(mask) == expected
        assert jax.tree.structure(mask) == jax.tree.structure(net[1]["params"])

    def test_imported(self):
        model = nn.Sequential([nn.Dense(5), nn.relu, nn.Dense(2)])
        x = jnp.ones((1, 3))
        graph, variables = nas.from_linen(model, model.init(jax.random.key(0), x), x)
        assert frozen_leaves(nas.freeze_mask(graph, variables, "layers_0")) == {"layers_0/kernel", "layers_0/bias"}

    def test_refused(self, net):
        graph, variables = net
        with pytest.raises(nas.UnknownNameError, match=r"'steam'.*'stem'"):
            nas.freeze_mask(graph, variables, "steam")
        with pytest.raises(nas.UnknownNameError, match="'x' has no parameters"):
            nas.freeze_mask(graph, variables, "x")
        with pytest.raises(nas.RequestError, match="names="):
            nas.freeze_mask(graph, variables, [3])
        with pytest.raises(nas.VariablesError, match="'params'"):
            nas.freeze_mask(graph, variables["params"], "stem")


def step(graph, variables, tx, state, x):
    grads = jax.grad(lambda p: (graph.apply({**variables, "params": p}, x) ** 2).sum())(variables["params"])
    updates, state = tx.update(grads, state, variables["params"])
    return {**variables, "params": optax.apply_updates(variables["params"], updates)}, state


class TestThroughChanges:
    def test_one_flag_for_each_parameter(self, net):
        """Widths change; the flags stay, and a frozen layer rests at its new shape."""
        mask = nas.freeze_mask(*net, "stem")
        mutation = nas.delta_nout(*net, {"stem": 2, "body": -1})
        carried = mutation.carry(mask)
        assert carried == mask
        tx = optax.chain(optax.adam(0.1), optax.transforms.freeze(carried))
        graph, variables = mutation
        trained, _ = step(graph, variables, tx, tx.init(variables["params"]), jnp.ones((4, 3)))
        assert np.array_equal(trained["params"]["stem"]["kernel"], variables["params"]["stem"]["kernel"])
        assert not np.array_equal(trained["params"]["body"]["kernel"], variables["params"]["body"]["kernel"])

    def test_one_flag_for_each_entry(self, net):
        """Old entries stay frozen, new neurons of the frozen layer are free; what is dropped takes its flag along."""
        mask = nas.freeze_mask(*net, "stem", entries=True)
        mask["body"]["bias"] = np.array([True, False, True, False, True])
        mutation = nas.delta_nout(*net, {"stem": 2, "body": -2}, utility={"body": np.array([1.0, 2, 3, 0, 0])})
        carried = mutation.carry(mask)
        assert jax.tree.map(np.shape, carried) == jax.tree.map(np.shape, mutation.variables["params"])
        assert all(leaf.dtype == bool for leaf in jax.tree.leaves(carried))
        assert carried["stem"]["kernel"].tolist() == [[True] * 4 + [False] * 2] * 3
        assert carried["body"]["bias"].tolist() == [True, False, True]
        assert not carried["body"]["kernel"].any()

    def test_training_of_new_neurons_only(self, net):
        mutation = nas.delta_nout(*net, {"stem": 2})
        mask = mutation.carry(nas.freeze_mask(*net, "stem", entries=True))
        frozen = optax.stateless(lambda updates, params: jax.tree.map(lambda u, m: jnp.where(m, 0, u), updates, mask))
        tx = optax.chain(optax.sgd(0.1), frozen)
        graph, variables = mutation
        state = tx.init(variables["params"])
        # the weights that read new neurons are zero at first: the second step reaches the new neurons
        trained, state = step(graph, variables, tx, state, jnp.ones((4, 3)))
        trained, state = step(graph, trained, tx, state, jnp.ones((4, 3)))
        before, after = variables["params"]["stem"], trained["params"]["stem"]
        assert np.array_equal(after["kernel"][:, :4], before["kernel"][:, :4])
        assert not np.array_equal(after["kernel"][:, 4:], before["kernel"][:, 4:])

    def test_state_of_a_partly_frozen_optimizer(self, net):
        """What a fresh start would look like, with the old moments."""
        graph, variables = net
        mask = nas.freeze_mask(graph, variables, "stem")
        trainable = jax.tree.map(lambda frozen: not frozen, mask)
        tx = optax.masked(optax.adam(0.1), trainable)
        state = step(graph, variables, tx, tx.init(variables["params"]), jnp.ones((4, 3)))[1]
        mutation = nas.delta_nout(graph, variables, {"stem": -1, "body": 1})
        carried = mutation.carry(state)
        assert jax.tree.map(jnp.shape, carried) == jax.tree.map(jnp.shape, tx.init(mutation.variables["params"]))
        old, new = state.inner_state[0].mu["out"]["kernel"], carried.inner_state[0].mu["out"]["kernel"]
        assert np.array_equal(new[:5], old)

    def test_an_inserted_layer(self, net):
        """Whether a new vertex is frozen is not to be guessed; entries of a mask by entry are free."""
        graph, variables = net
        mutation = nas.insert_vertex(graph, variables, "stem", lambda v: nas.layer("new", nn.Dense(4), v))
        with pytest.raises(nas.CarryError, match="fresh"):
            mutation.carry(nas.freeze_mask(graph, variables, "stem"))
        carried = mutation.carry(nas.freeze_mask(graph, variables, "stem", entries=True))
        assert not carried["new"]["kernel"].any()
        assert frozen_leaves(carried) == {"stem/kernel", "stem/bias"}

    def test_a_new_head(self, net):
        graph, variables = net
        mutation = nas.replace_layer(graph, variables, "out", nn.Dense(6), keep=False)
        mask = nas.freeze_mask(graph, variables, "stem", entries=True)
        assert frozen_leaves(mutation.carry(mask)) == {"stem/kernel", "stem/bias"}


class TestOtherInputs:
    def test_more_channels(self):
        """The request names the input: the function of the old channels is kept."""
        x = nas.input_vertex("image", 1, shape=(6, 6, 1))
        graph = nas.Graph(x, nas.layer("conv", nn.Conv(4, (3, 3)), x))
        grey = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 6, 1)), jnp.float32)
        variables = graph.init(jax.random.key(0), grey)
        wider, its = nas.delta_nout(graph, variables, {"image": nas.to(3)})
        colour = jnp.concatenate([grey, grey * 2, -grey], -1)
        np.testing.assert_allclose(wider.apply(its, colour), graph.apply(variables, grey), rtol=1e-5, atol=1e-6)

    def test_shared_among_channels(self):
        """new="split": each channel counts a third, so that a grey image in colour gives what it gave."""
        x = nas.input_vertex("image", 1, shape=(6, 6, 1))
        graph = nas.Graph(x, nas.layer("conv", nn.Conv(4, (3, 3)), x))
        grey = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 6, 1)), jnp.float32)
        variables = graph.init(jax.random.key(0), grey)
        wider, its = nas.delta_nout(graph, variables, {"image": nas.to(3)}, new="split")
        np.testing.assert_allclose(
            wider.apply(its, grey.repeat(3, -1)), graph.apply(variables, grey), rtol=1e-4, atol=1e-5
        )
