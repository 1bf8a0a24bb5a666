"""Plans are applied to trees shaped like the variables: by themselves, composed, and as JSON in another process."""

import subprocess
import sys
from dataclasses import dataclass
from functools import reduce

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import core, nnx
from flax.serialization import msgpack_restore, to_bytes

import naivenas_jax as nas

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6, 3)), jnp.float32)


def network():
    x = nas.input_vertex("x", 3)
    hidden = nas.layer("norm", nn.BatchNorm(), nas.layer("dense", nn.Dense(8), x))
    heads = nas.layer("attention", nn.MultiHeadDotProductAttention(2, qkv_features=8), hidden)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), (hidden + heads).named("sum")))
    return graph, graph.init(jax.random.key(0), X)


GRAPH, VARIABLES = network()
SHRINK = nas.delta_nout(GRAPH, VARIABLES, {"dense": -3, "attention:qk": -1})
GROWN = nas.delta_nout(GRAPH, VARIABLES, {"dense": 2, "attention:qk": 1})
EDITED = nas.insert_vertex(*SHRINK, "norm", lambda v: nas.layer("new", nn.Dense(v.nout), v))
REMOVED = nas.remove_vertex(*EDITED, "norm")
RENAMED = nas.rename(*REMOVED, {"dense": "first"})


def test_a_shrink_is_repeated_to_the_bit_with_rescaled_queries():
    assert SHRINK.plan.rescaled
    made = SHRINK.plan.apply(VARIABLES)
    chex.assert_trees_all_equal(made, SHRINK.variables)
    assert made["params"]["out"]["bias"] is VARIABLES["params"]["out"]["bias"]


@pytest.mark.parametrize("again", [lambda plan: plan, lambda plan: nas.Plan.from_json(plan.to_json())])
@pytest.mark.parametrize(
    "steps",
    [[GROWN], [SHRINK, EDITED], [SHRINK, EDITED, REMOVED, RENAMED]],
    ids=["growth", "a shrink and an edit", "removed and renamed"],
)
def test_new_entries_come_from_a_tree(steps, again):
    """Composed plans do at once what they do one after the other, created, removed and renamed leaves included."""
    whole = reduce(lambda earlier, step: step.plan @ earlier, steps[1:], steps[0].plan)
    chex.assert_trees_all_equal(again(whole).apply(VARIABLES, new=steps[-1].variables), steps[-1].variables)


def test_zeros():
    params = GROWN.plan.apply(VARIABLES, new="zeros")["params"]
    np.testing.assert_array_equal(params["dense"]["kernel"][:, :8], VARIABLES["params"]["dense"]["kernel"])
    assert not params["dense"]["kernel"][:, 8:].any()


@dataclass
class Held:
    kernel: jax.Array
    bias: jax.Array
    name: str = "held"


jax.tree_util.register_dataclass(Held, data_fields=["kernel", "bias"], meta_fields=["name"])


@pytest.mark.parametrize(
    "kind",
    [
        core.freeze,
        lambda tree: nnx.State(tree),
        lambda tree: jax.tree.map(np.asarray, tree),
        lambda tree: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree),
        lambda tree: tree["params"],
        lambda tree: core.freeze(tree["params"]),
        lambda tree: {"batch_stats": tree["batch_stats"]},
    ],
    ids=["FrozenDict", "State", "numpy", "shapes", "params", "FrozenDict of params", "statistics alone"],
)
def test_trees_keep_their_kind(kind):
    made, wanted = SHRINK.plan.apply(kind(VARIABLES)), kind(SHRINK.variables)
    assert type(made) is type(wanted)
    assert jax.tree.structure(made) == jax.tree.structure(wanted)
    if not isinstance(jax.tree.leaves(made)[0], jax.ShapeDtypeStruct):
        chex.assert_trees_all_equal(made, wanted)
    else:
        assert jax.tree.leaves(made) == jax.tree.leaves(wanted)


def test_dataclasses():
    def computed(layers, x):
        return jnp.tanh(x @ layers[0].kernel + layers[0].bias) @ layers[1].kernel + layers[1].bias

    layers = [Held(jnp.arange(24.0).reshape(3, 8), jnp.arange(8.0)), Held(jnp.ones((8, 1)), jnp.zeros(1))]
    graph, variables = nas.from_function(computed, layers, X)
    mutation = nas.delta_nout(graph, variables, {"0": -2})
    made = mutation.plan.apply(layers)
    assert made[0].bias.shape == (6,)
    chex.assert_trees_all_equal(made, mutation.variables)


def test_where_leaves_lie():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    variables = jax.device_put(VARIABLES, spread)
    for leaf in jax.tree.leaves(SHRINK.plan.apply(variables)):
        assert leaf.sharding == spread
    alone = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    for sharding in (alone, jax.tree.map(lambda _: alone, SHRINK.variables)):
        made = SHRINK.plan.apply(variables, sharding=sharding)
        assert {leaf.sharding for leaf in jax.tree.leaves(made)} == {alone}
        chex.assert_trees_all_equal(made, SHRINK.variables)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), VARIABLES)
    assert {leaf.sharding for leaf in jax.tree.leaves(SHRINK.plan.apply(shapes, sharding=spread))} == {spread}
    with pytest.raises(
        nas.PlanError, match=r"sharding= has 'cpu' for batch_stats/norm/mean\. It is one jax.sharding.Sharding"
    ):
        SHRINK.plan.apply(variables, sharding=jax.tree.map(lambda _: "cpu", SHRINK.variables))


def changed(path, value):
    """The variables with another leaf at a path; None: without it."""
    tree = jax.tree.map(lambda leaf: leaf, VARIABLES)
    *above, last = path
    node = tree
    for name in above:
        node = node[name]
    node.pop(last) if value is None else node.update({last: value})
    return tree


def refusals():
    dense = ("params", "dense", "bias")
    yield (
        SHRINK,
        changed(dense, jnp.zeros(7)),
        {},
        r"params/dense/bias has shape \(7,\), and by the plan .* \(8\) before",
    )
    yield SHRINK, SHRINK.variables, {}, r"params/\S+ has shape .*, and by the plan it has .* before the change"
    yield SHRINK, changed(dense, None), {}, "it lacks params/dense/bias"
    yield SHRINK, changed(("params", "dense", "scale"), jnp.zeros(8)), {}, "it has params/dense/scale, which the plan"
    yield SHRINK, {"dense": {"bias": jnp.zeros(8)}}, {}, "it lacks params/attention"
    yield SHRINK, {}, {}, "it has no leaves"
    yield SHRINK, 3.0, {}, "not shaped like the variables"
    yield GROWN, VARIABLES, {}, r"params/\S+ has new entries, along the axis '\S+' \(\d -> \d+"
    yield GROWN, VARIABLES, {"new": "ones"}, "new='ones' is unknown"
    yield GROWN, VARIABLES, {"new": VARIABLES}, r"params/\S+ of new= has shape .* after the change"
    yield EDITED, SHRINK.variables, {"new": "zeros"}, "creates the leaf params/new/kernel, and knows neither its dtype"


@pytest.mark.parametrize(("mutation", "tree", "given", "message"), list(refusals()), ids=lambda value: "")
def test_wrong_trees_are_refused_by_leaf(mutation, tree, given, message):
    with pytest.raises(nas.PlanError, match=message):
        mutation.plan.apply(tree, **given)


def test_traced_trees_are_refused():
    with pytest.raises(nas.PlanError, match=r"outside.*jit"):
        jax.jit(SHRINK.plan.apply)(VARIABLES)


def test_another_process_needs_the_plan_alone(tmp_path):
    (tmp_path / "plan.json").write_text(SHRINK.plan.to_json())
    (tmp_path / "old").write_bytes(to_bytes(VARIABLES))
    code = """
import sys, pathlib
import naivenas_jax as nas
from flax.serialization import msgpack_restore, to_bytes
here = pathlib.Path(sys.argv[1])
plan = nas.Plan.from_json((here / "plan.json").read_text())
(here / "new").write_bytes(to_bytes(plan.apply(msgpack_restore((here / "old").read_bytes()))))
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    chex.assert_trees_all_equal(msgpack_restore((tmp_path / "new").read_bytes()), SHRINK.variables)
