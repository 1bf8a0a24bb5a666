"""What new neurons start with: the function is kept where that is promised, and they can learn."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference.trained import KINDS, case_of, loss, residual

import naivenas_jax as nas

WIDER = {"a": 2, "c": 3}
apply = jax.jit(nas.apply)


def gradients(case, mutation):
    slope = jax.jit(jax.grad(lambda v: loss(mutation.graph.apply, v, (case.inputs, case.targets))))
    return slope(mutation.variables)["params"]


def grown(kind, new):
    case = case_of(kind)
    return case, nas.delta_nout(case.graph, case.variables, WIDER, new=new)


def assert_kept(case, mutation):
    outputs = [apply(one.graph, one.variables, case.inputs) for one in (mutation, case)]
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-4)


class TestStrategies:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("new", [None, "zeros", "split", "identity", {"bias": "zeros"}], ids=str)
    def test_function_is_kept(self, kind, new):
        case, mutation = grown(kind, new)
        assert_kept(case, mutation)

    def test_the_oracle_knows(self):
        case, mutation = grown("linen", {"bias": "zeros"})
        assert mutation.check(case.inputs).compared

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("new", [None, "split"])
    def test_new_neurons_can_learn(self, kind, new):
        case, mutation = grown(kind, new)
        grads = gradients(case, mutation)
        for handle, readers in {"a": ["b", "c"], "c": ["out"]}.items():
            positions = mutation.plan.axis(handle).new
            for reader in readers:
                kernel = np.asarray(grads[reader]["kernel"])
                rows = _rows_of_c(mutation, kernel) if reader == "out" else kernel[0]
                assert np.abs(rows[:, positions]).max(axis=(0, 2)).min() > 1e-5

    def test_zeros(self):
        _, mutation = grown("linen", "zeros")
        positions = mutation.plan.axis("c").new
        assert not mutation.variables["params"]["c"]["kernel"][..., positions].any()

    def test_init_does_not_keep_it(self):
        case, mutation = grown("linen", "init")
        assert not mutation.check(case.inputs).compared
        made = np.asarray(mutation.variables["params"]["c"]["kernel"])[..., mutation.plan.axis("c").new]
        assert made.std() == pytest.approx((1 / (9 * 6)) ** 0.5, rel=0.35)  # LeCun: by the fan-in of the new kernel

    @pytest.mark.parametrize("new", [None, "zeros", "init"])
    @pytest.mark.parametrize("kind", ["linen", "imported"])
    def test_normalisation_is_neutral(self, kind, new):
        case = case_of(kind)
        mutation = nas.delta_nout(case.graph, case.variables, {"a": 2}, new=new)
        positions = mutation.plan.axis("a").new
        norm, statistics = mutation.variables["params"]["norm"], mutation.variables["batch_stats"]["norm"]
        assert norm["scale"][positions].tolist() == [1, 1]
        assert norm["bias"][positions].tolist() == [0, 0]
        assert statistics["mean"][positions].tolist() == [0, 0]
        assert statistics["var"][positions].tolist() == [1, 1]

    def test_repeatable_and_by_key(self):
        case = residual()
        one, same, other = (
            nas.delta_nout(case.graph, case.variables, {"c": 2}, rng=rng).variables["params"]["c"]["kernel"]
            for rng in (None, jax.random.key(0), jax.random.key(1))
        )
        assert np.array_equal(one, same)
        assert not np.array_equal(one, other)


def _rows_of_c(mutation, kernel):
    """The rows of the last kernel that read c: positions, neurons of c, outputs."""
    return np.asarray(kernel).reshape(9, -1, kernel.shape[-1])[:, : mutation.plan.axis("c").after]


class TestSplit:
    """Net2WiderNet: copies, and readers divided by how many there are, through everything that is tied."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_copies_and_divided_readers(self, kind):
        case, mutation = grown(kind, "split")
        before, after = case.variables["params"], mutation.variables["params"]
        plan = mutation.plan.axis("c")
        model = np.where(plan.source < 0, plan.twin, plan.source)
        copies = np.array([np.sum(model == one) for one in model])
        assert copies.max() > 1
        np.testing.assert_array_equal(after["c"]["bias"], np.asarray(before["c"]["bias"])[model])
        rows = np.asarray(before["out"]["kernel"]).reshape(9, -1, 3)[:, :3][:, model] / copies[:, None]
        np.testing.assert_allclose(_rows_of_c(mutation, after["out"]["kernel"]), rows, rtol=1e-6)
        tied = mutation.plan.axis("a")
        twin = np.where(tied.source < 0, tied.twin, tied.source)
        for name in ("norm", "b"):  # copied with what it is tied to
            np.testing.assert_array_equal(after[name]["bias"], np.asarray(before[name]["bias"])[twin])

    def test_undo_is_exact(self):
        case, mutation = grown("linen", "split")
        _, back = mutation.undo(mutation.variables)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), back, case.variables)


class TestIdentity:
    """Net2DeeperNet: an inserted layer passes its input on."""

    @pytest.mark.parametrize("layer", ["dense", "conv"])
    @pytest.mark.parametrize("library", ["linen", "nnx"])
    def test_inserted_layer(self, layer, library):
        case = residual(library)
        after, rngs = ("flat", nnx.Rngs(0)) if layer == "dense" else ("act_c", nnx.Rngs(0))
        width = case.graph.nout(after)
        made = {
            ("dense", "linen"): lambda: nn.Dense(width),
            ("conv", "linen"): lambda: nn.Conv(width, (3, 3)),
            ("dense", "nnx"): lambda: nnx.Linear(width, width, rngs=rngs),
            ("conv", "nnx"): lambda: nnx.Conv(width, width, (3, 3), rngs=rngs),
        }[layer, library]()
        mutation = nas.insert_vertex(case.graph, case.variables, after, lambda v: nas.layer("deeper", made, v))
        assert_kept(case, mutation)
        assert np.abs(gradients(case, mutation)["deeper"]["kernel"]).sum() > 1e-3


class TestByName:
    def test_each_by_its_name(self):
        new = {"kernel": "zeros", "c/kernel": lambda entries: np.full(entries.shape, 2.0), "bias": 0.5}
        _, mutation = grown("linen", new)
        params, plans = mutation.variables["params"], mutation.plan.axes
        assert not params["a"]["kernel"][..., plans["a"].new].any()
        assert (params["c"]["kernel"][..., plans["c"].new] == 2).all()
        assert (params["a"]["bias"][plans["a"].new] == 0.5).all()
        assert (params["norm"]["bias"][plans["a"].new] == 0.5).all()
        assert (params["norm"]["scale"][plans["a"].new] == 1).all()  # not named: the default

    def test_old_entries_stay(self):
        case, mutation = grown("linen", {"bias": 9.0})
        before, after = (variables["params"]["c"]["bias"] for variables in (case.variables, mutation.variables))
        np.testing.assert_array_equal(after[:3], before)
        assert (after[3:] == 9).all()

    def test_need_not_keep_the_function(self):
        case, mutation = grown("linen", {"kernel": "init"})
        assert "need not keep the function" in str(mutation.check(case.inputs).reason)

    @pytest.mark.parametrize(
        ("new", "match"),
        [
            ({"kernal": "zeros"}, "'kernal', and there is no such parameter. Their names are: bias, kernel"),
            ({"kernel": "split"}, "a neuron as a whole"),
            ({"kernel": "much"}, "'much' is unknown"),
            ({"kernel": {"bias": 1}}, "a neuron as a whole"),
            ({1: "zeros"}, "names of parameters"),
            ("kernel", "'kernel' is unknown"),
        ],
    )
    def test_refusals(self, new, match):
        with pytest.raises(nas.PlanError, match=match):
            grown("linen", new)

    def test_inserted_vertex(self):
        case = residual()
        mutation = nas.insert_vertex(
            case.graph, case.variables, "flat", lambda v: nas.layer("deeper", nn.Dense(63), v), new={"bias": 3.0}
        )
        assert (mutation.variables["params"]["deeper"]["bias"] == 3).all()


class TestOwnFunction:
    def test_sees_what_is_new(self):
        seen = {}

        def own(entries):
            seen[entries.path] = entries
            return np.full(entries.shape, 7.0)

        case, mutation = grown("linen", own)
        entries = seen["params", "c", "kernel"]
        assert entries.shape == (3, 3, 6, 6)
        assert entries.made == (3,)
        assert entries.is_new.sum() == 9 * (36 - 4 * 3)
        assert not mutation.check(case.inputs).compared

    @pytest.mark.parametrize(("given", "match"), [("x", "array of numbers"), (np.zeros(99), "broadcast")])
    def test_refusals(self, given, match):
        with pytest.raises(nas.PlanError, match=match):
            grown("linen", lambda entries: given)


def test_heads_of_an_attention():
    """A parameter that makes neurons on two dimensions: new heads are random where they are made, zero where read."""
    x = jax.random.normal(jax.random.key(1), (2, 5, 6))
    model = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8)
    graph, variables = nas.from_linen(model, model.init(jax.random.key(0), x), x)
    mutation = nas.delta_nout(graph, variables, {"query:heads": 2})
    params = mutation.variables["params"]
    new = mutation.plan.axis("query:heads").new
    for name in ("query", "key", "value"):
        assert params[name]["kernel"].shape == (6, 4, 4)
        assert np.asarray(params[name]["kernel"])[:, new].std() == pytest.approx(6**-0.5, rel=0.4)
    assert not np.asarray(params["out"]["kernel"])[new].any()
    np.testing.assert_allclose(mutation.graph.apply(mutation.variables, x), model.apply(variables, x), atol=1e-5)
    grads = jax.grad(lambda v: jnp.sum(mutation.graph.apply(v, x) ** 2))(mutation.variables)["params"]
    assert np.abs(grads["out"]["kernel"])[new].min() > 0
    halved = nas.delta_nout(graph, variables, {"query:heads": 2}, new="split")
    np.testing.assert_allclose(halved.graph.apply(halved.variables, x), model.apply(variables, x), atol=1e-5)


class TestWholeNumbers:
    @staticmethod
    def network(a, b):
        def function(variables, x):
            a, b = (variables["params"][name].astype(jnp.float32) for name in "ab")
            return jnp.tanh(x @ a) @ b

        return nas.from_function(function, {"params": {"a": a, "b": b}}, jnp.ones((1, 3)))

    def test_readers_cannot_be_split(self):
        network = self.network(jnp.ones((3, 2)), jnp.array([[1], [3]], jnp.int32))
        with pytest.raises(nas.PlanError, match=r"variables\['params'\]\['b'\] holds whole numbers \(int32\)"):
            nas.delta_nout(*network, {"a": 2}, new="split")

    def test_makers_can(self):
        graph, variables = self.network(jnp.array([[1, -2]] * 3, jnp.int8), jnp.array([[1.0], [3.0]]))
        mutation = nas.delta_nout(graph, variables, {"a": 2}, new="split")
        assert mutation.variables["params"]["a"].dtype == jnp.int8
        x = jnp.ones((1, 3))
        np.testing.assert_allclose(mutation.graph.apply(mutation.variables, x), graph.apply(variables, x), rtol=1e-6)
