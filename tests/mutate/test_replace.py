"""Other layers, other names, all vertices at once."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import naivenas_jax as nas
from naivenas_jax.align.plan import Plan
from naivenas_jax.transfer.carrying.carry import carry


def mean(x):
    return x.mean((1, 2))


def images():
    """image 6 x 6 x 2 -> conv 4 -> norm -> act -> mean -> hidden 5 -> out 3."""
    x = nas.input_vertex("image", 2, shape=(6, 6, 2))
    norm = nas.layer("norm", nn.BatchNorm(), nas.layer("conv", nn.Conv(4, (3, 3)), x))
    pooled = nas.invariant_vertex("mean", mean, nas.invariant_vertex("act", nn.relu, norm))
    return nas.Graph(x, nas.layer("out", nn.Dense(3), nas.layer("hidden", nn.Dense(5), pooled)))


@pytest.fixture(scope="module")
def net():
    graph, x = images(), jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 6, 2)), jnp.float32)
    return graph, graph.init(jax.random.key(1), x), x


def equal(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


class TestReplaceLayer:
    def test_another_activation(self, net):
        graph, variables, x = net
        mutation = nas.replace_layer(graph, variables, "act", lambda v: nas.invariant_vertex("any", jnp.tanh, v))
        assert equal(mutation.variables, variables)
        act = nn.BatchNorm(use_running_average=True)
        conv = nn.Conv(4, (3, 3)).apply({"params": variables["params"]["conv"]}, x)
        normed = act.apply({k: variables[k]["norm"] for k in ("params", "batch_stats")}, conv)
        hidden = nn.Dense(5).apply({"params": variables["params"]["hidden"]}, mean(jnp.tanh(normed)))
        expected = nn.Dense(3).apply({"params": variables["params"]["out"]}, hidden)
        np.testing.assert_allclose(mutation.graph.apply(mutation.variables, x), expected, rtol=1e-5, atol=1e-6)

    def test_what_fits_is_kept(self, net):
        graph, variables, _ = net
        mutation = nas.replace_layer(graph, variables, "hidden", nn.Dense(5, use_bias=False))
        new = mutation.variables["params"]["hidden"]
        assert set(new) == {"kernel"}
        assert np.array_equal(new["kernel"], variables["params"]["hidden"]["kernel"])
        assert mutation.plan.removed == {("params", "hidden", "bias")}
        assert mutation.plan.created == frozenset()
        back = nas.replace_layer(*mutation, "hidden", nn.Dense(5, bias_init=nn.initializers.ones))
        assert np.array_equal(back.variables["params"]["hidden"]["bias"], np.ones(5))

    def test_all_anew(self, net):
        graph, variables, _ = net
        mutation = nas.replace_layer(graph, variables, "hidden", nn.Dense(5), keep=False, rng=jax.random.key(7))
        assert not np.array_equal(
            mutation.variables["params"]["hidden"]["kernel"], variables["params"]["hidden"]["kernel"]
        )
        assert equal(mutation.variables["params"]["out"], variables["params"]["out"])

    def test_another_window(self, net):
        graph, variables, x = net
        mutation = nas.replace_layer(graph, variables, "conv", nn.Conv(4, (5, 5)))
        new = mutation.variables["params"]["conv"]
        assert new["kernel"].shape == (5, 5, 2, 4)
        assert np.array_equal(new["bias"], variables["params"]["conv"]["bias"])
        assert mutation.graph.apply(mutation.variables, x).shape == (2, 3)

    @pytest.mark.parametrize("size", [3, 5, 9])
    def test_another_width(self, net, size):
        graph, variables, x = net
        mutation = nas.replace_layer(graph, variables, "hidden", nn.Dense(size))
        assert mutation.graph.nin("out") == (size,)
        assert mutation.graph.apply(mutation.variables, x).shape == (2, 3)
        by_width = nas.delta_nout(graph, variables, {"hidden": nas.to(size)}, new="zeros")
        assert equal(mutation.variables, by_width.variables)

    def test_a_new_head(self, net):
        graph, variables, x = net
        mutation = nas.replace_layer(graph, variables, "out", nn.Dense(10), keep=False)
        assert mutation.graph.apply(mutation.variables, x).shape == (2, 10)
        assert equal(mutation.variables["params"]["hidden"], variables["params"]["hidden"])

    def test_nnx_in_the_place_of_linen(self, net):
        graph, variables, x = net
        mutation = nas.replace_layer(graph, variables, "hidden", nnx.Linear(4, 5, rngs=nnx.Rngs(0)))
        assert mutation.graph.apply(mutation.variables, x).shape == (2, 3)
        assert np.array_equal(mutation.variables["params"]["hidden"]["kernel"], variables["params"]["hidden"]["kernel"])

    def test_a_layer_in_the_place_of_a_function(self, net):
        """The tie between input and output goes."""
        graph, variables, _ = net
        mutation = nas.replace_layer(graph, variables, "act", nn.Conv(4, (1, 1)))
        assert mutation.graph.reach("conv") == ("conv", "norm")
        assert nas.delta_nout(*mutation, {"conv": 2}).graph.nout("mean") == 4

    def test_positions_of_a_flatten(self):
        """A stride of two leaves a quarter of the positions: what reads the flattened image is realigned."""
        x = nas.input_vertex("image", 1, shape=(4, 4, 1))
        flat = nas.flatten("flat", nas.layer("conv", nn.Conv(3, (2, 2)), x))
        graph = nas.Graph(x, nas.layer("out", nn.Dense(2), flat))
        variables = graph.init(jax.random.key(0), jnp.ones((1, 4, 4, 1)))
        mutation = nas.replace_layer(graph, variables, "conv", nn.Conv(3, (2, 2), strides=(2, 2)))
        assert (mutation.graph.nout("conv"), mutation.graph.nin("out")) == (3, (12,))
        wider = nas.replace_layer(*mutation, "conv", nn.Conv(3, (2, 2)))
        assert (wider.graph.nout("conv"), wider.graph.nin("out")) == (3, (48,))
        assert mutation.graph.apply(mutation.variables, jnp.ones((1, 4, 4, 1))).shape == (1, 2)

    def test_undo(self, net):
        graph, variables, _ = net
        for make in (nn.Dense(5, use_bias=False), nn.Dense(3), nn.Dense(9)):
            mutation = nas.replace_layer(graph, variables, "hidden", make, keep=False)
            graph_again, variables_again = mutation.undo(mutation.variables)
            assert graph_again == graph
            assert equal(variables_again, variables)

    @pytest.mark.parametrize("keep", [True, False])
    @pytest.mark.parametrize("size", [3, 5, 9])
    def test_optimizer_state(self, net, size, keep):
        graph, variables, _ = net
        tx = optax.adam(1e-3)
        state = tx.update(jax.tree.map(jnp.ones_like, variables["params"]), tx.init(variables["params"]))[1]
        mutation = nas.replace_layer(graph, variables, "hidden", nn.Dense(size), keep=keep)
        carried = mutation.carry(state)
        fresh = tx.init(mutation.variables["params"])
        assert jax.tree.map(jnp.shape, carried) == jax.tree.map(jnp.shape, fresh)
        assert np.array_equal(carried[0].mu["conv"]["kernel"], state[0].mu["conv"]["kernel"])
        survivors = min(size, 5) if keep else 0
        assert np.count_nonzero(carried[0].mu["hidden"]["bias"]) == survivors

    @pytest.mark.parametrize(
        ("name", "make", "message"),
        [
            ("image", nn.Dense(3), "input of the graph.*delta_nout"),
            ("act", nn.Dense(7), "do not both have a width"),
            ("act", lambda v: v.inputs[0], "reads the same vertices"),
            ("act", lambda v: nn.relu, "reads the same vertices"),
            ("act", lambda v: nas.invariant_vertex("b", nn.relu, nas.invariant_vertex("a", nn.relu, v)), "same vert"),
        ],
    )
    def test_refused(self, net, name, make, message):
        graph, variables, _ = net
        with pytest.raises(nas.StructureError, match=message):
            nas.replace_layer(graph, variables, name, make)

    def test_refused_otherwise(self, net):
        graph, variables, _ = net
        with pytest.raises(nas.UnknownNameError, match="nowhere"):
            nas.replace_layer(graph, variables, "nowhere", nn.Dense(3))
        with pytest.raises(nas.GraphError, match="'act' needs a Flax layer"):
            nas.replace_layer(graph, variables, "act", 3)
        with pytest.raises(nas.ArgumentError, match="keyword"):
            nas.replace_layer(graph, variables, "act", nn.Dense(4), colour="red")


class TestMapVertices:
    def test_all_activations(self, net):
        graph, variables, _ = net

        def smooth(vertex):
            if vertex.op.describe() == "relu":
                return nas.invariant_vertex("smooth", nn.gelu, *vertex.inputs)
            return None

        mutation = nas.map_vertices(graph, variables, smooth)
        one = nas.replace_layer(graph, variables, "act", lambda v: nas.invariant_vertex("act", nn.gelu, v))
        assert mutation.graph == one.graph
        assert equal(mutation.variables, one.variables)

    def test_several_layers(self, net):
        graph, variables, x = net

        def plain(vertex):
            if isinstance(getattr(vertex.op, "module", None), nn.Dense):
                return nas.layer(vertex.name, nn.Dense(vertex.nout, use_bias=False), *vertex.inputs)
            return vertex

        mutation = nas.map_vertices(graph, variables, plain)
        assert mutation.plan.removed == {("params", "hidden", "bias"), ("params", "out", "bias")}
        assert mutation.graph.apply(mutation.variables, x).shape == (2, 3)
        assert equal(mutation.undo(mutation.variables)[1], variables)

    def test_nothing(self, net):
        graph, variables, x = net
        mutation = nas.map_vertices(graph, variables, lambda vertex: None)
        assert mutation.graph == graph
        assert equal(mutation.variables, variables)
        assert mutation.check(x).compared

    def test_widths_stay(self, net):
        graph, variables, _ = net
        with pytest.raises(nas.StructureError, match=r"'hidden' 7 wide in place of 5.*delta_nout"):
            nas.map_vertices(
                graph,
                variables,
                lambda v: nas.layer("hidden", nn.Dense(7), *v.inputs) if v.name == "hidden" else None,
            )


class TestRename:
    def test_everything_moves_along(self, net):
        graph, variables, x = net
        mutation = nas.rename(graph, variables, {"conv": "stem", "norm": "stem_norm", "image": "input"})
        assert "conv" not in mutation.graph
        assert mutation.graph.inputs_of("stem_norm") == ("stem",)
        assert set(mutation.variables["params"]) == {"stem", "stem_norm", "hidden", "out"}
        assert set(mutation.variables["batch_stats"]) == {"stem_norm"}
        assert np.array_equal(mutation.graph.apply(mutation.variables, x), graph.apply(variables, x))
        assert mutation.check(x).compared
        assert mutation.indices("stem").tolist() == [0, 1, 2, 3]

    def test_swap(self, net):
        graph, variables, x = net
        mutation = nas.rename(graph, variables, {"hidden": "out", "out": "hidden"})
        assert mutation.graph.nout("hidden") == 3
        assert equal(mutation.variables["params"]["hidden"], variables["params"]["out"])
        assert np.array_equal(mutation.graph.apply(mutation.variables, x), graph.apply(variables, x))
        assert equal(mutation.undo(mutation.variables)[1], variables)

    def test_optimizer_state(self, net):
        graph, variables, _ = net
        tx = optax.chain(optax.clip(1.0), optax.adam(1e-3))
        state = tx.update(variables["params"], tx.init(variables["params"]))[1]
        names = {"hidden": "out", "out": "hidden", "conv": "stem"}
        mutation = nas.rename(graph, variables, names)
        carried, report = mutation.carry(state, report=True)
        assert report.restarted == ()
        assert jax.tree.structure(carried) == jax.tree.structure(tx.init(mutation.variables["params"]))
        for old, new in (*names.items(), ("norm", "norm")):
            assert equal(carried[1][0].mu[new], state[1][0].mu[old])

    def test_masked_optimizer_state(self, net):
        graph, variables, _ = net
        params = variables["params"]
        tx = optax.masked(optax.adam(1e-3), {name: name != "conv" for name in params})
        mutation = nas.rename(graph, variables, {"conv": "stem", "hidden": "wide"})
        carried = mutation.carry(tx.init(params))
        after = optax.masked(optax.adam(1e-3), {name: name != "stem" for name in mutation.variables["params"]})
        assert jax.tree.structure(carried) == jax.tree.structure(after.init(mutation.variables["params"]))

    def test_labels(self, net):
        graph, variables, _ = net
        mask = nas.freeze_mask(graph, variables, "conv")
        mutation = nas.rename(graph, variables, {"conv": "stem"})
        assert mutation.carry(mask) == nas.freeze_mask(*mutation, "stem")

    def test_undo(self, net):
        graph, variables, _ = net
        mutation = nas.rename(graph, variables, {"conv": "stem"})
        graph_again, variables_again = mutation.undo(mutation.variables)
        assert graph_again == graph
        assert equal(variables_again, variables)

    def test_plans_compose(self, net):
        """Shrink, rename, shrink: as one plan it says where each neuron comes from."""
        graph, variables, _ = net
        tx = optax.adam(1e-3)
        state = tx.update(variables["params"], tx.init(variables["params"]))[1]
        first = nas.delta_nout(graph, variables, {"conv": -1, "hidden": 2})
        second = nas.rename(*first, {"conv": "hidden", "hidden": "wide"})
        third = nas.delta_nout(*second, {"hidden": -1})
        step = third.carry(second.carry(first.carry(state)))
        plan = third.plan @ second.plan @ first.plan
        other = third.plan @ (second.plan @ first.plan)
        assert plan == other
        assert Plan.from_json(plan.to_json()) == plan
        assert plan.axis("hidden").source.tolist() == first.indices("conv")[third.indices("hidden")].tolist()
        assert plan.renamed["wide"] == "hidden"
        assert ("params", "wide", "kernel") in plan.moved
        once, _ = carry(plan, state, variables, third.variables)
        assert equal(once, step)

    @pytest.mark.parametrize(
        ("names", "error", "message"),
        [
            ({"nowhere": "a"}, nas.UnknownNameError, "nowhere"),
            ({"conv": "out"}, nas.DuplicateNameError, "out"),
            ({"conv": "a:b"}, nas.GraphError, "':'"),
            ({"conv": 3}, nas.GraphError, "3"),
            (["conv"], nas.RequestError, "list"),
        ],
    )
    def test_refused(self, net, names, error, message):
        graph, variables, _ = net
        with pytest.raises(error, match=message):
            nas.rename(graph, variables, names)

    def test_inside_a_vertex(self):
        inside = nas.input_vertex("in", 4)
        block = nas.Graph(inside, nas.layer("dense", nn.Dense(4), inside))
        x = nas.input_vertex("x", 4)
        graph = nas.Graph(x, nas.layer("block", block, x))
        variables = graph.init(jax.random.key(0), jnp.ones((1, 4)))
        mutation = nas.rename(graph, variables, {"block": "stage"})
        assert "stage/dense" in mutation.plan.axes
        assert mutation.variables["params"]["stage"]["dense"]["kernel"].shape == (4, 4)
        assert mutation.check(jnp.ones((2, 4))).compared

    def test_imported(self):
        """The vertex has another name; the variables stay as the user had them."""
        model = nn.Sequential([nn.Dense(5), nn.relu, nn.Dense(2)])
        x = jnp.ones((1, 3))
        graph, variables = nas.from_linen(model, model.init(jax.random.key(0), x), x)
        mutation = nas.rename(graph, variables, {graph.outputs[0].name: "network"})
        assert equal(mutation.variables, variables)
        assert nas.delta_nout(*mutation, {"layers_0": -1}).check(x).compared
