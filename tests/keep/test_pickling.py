"""Graphs and mutations, hand-written and imported, go through pickles to other processes and come back as they were."""

import copy
import pickle
import re

import chex
import cloudpickle
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from fresh_process import run_in_a_process
from keep_models import Blocks, Hidden, NnxBlocks, doubled, mlp

import naivenas_jax as nas

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
WEIGHTS = {"dense0": {"kernel": jnp.ones((3, 8))}, "out": {"kernel": jnp.arange(16.0).reshape(8, 2)}}


def by_hand():
    x = nas.input_vertex("x", 3)
    h = nas.layer("dense0", nn.Dense(8, kernel_init=nn.initializers.he_normal()), x)
    h = nas.invariant_vertex("doubled", doubled, nas.invariant_vertex("act", nn.relu, h))
    h = nas.layer(
        "norm", nn.BatchNorm(), nas.concat("both", h, nas.layer("nnx", nnx.Linear(3, 4, rngs=nnx.Rngs(0)), x))
    )
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), h))
    return graph, graph.init(jax.random.key(0), X)


def linen(**kwargs):
    return nas.from_linen(Blocks(), Blocks().init(jax.random.key(0), X), X, **kwargs)


NETWORKS = {
    "by hand": by_hand,
    "linen": linen,
    "linen, called with arguments": lambda: linen(train=False, method="__call__"),
    "nnx": lambda: nas.from_nnx(NnxBlocks(nnx.Rngs(0)), X),
    "function": lambda: nas.from_function(mlp, WEIGHTS, X),
    "function, an array among its arguments": lambda: nas.from_function(mlp, WEIGHTS, X, scale=jnp.float32(3)),
    "closure": lambda: nas.from_function(lambda v, x: mlp(v, x, scale=WEIGHTS["out"]["kernel"][1]), WEIGHTS, X),
}


def mutations(name):
    """The network with other widths; where it can be edited, with another structure; and with other widths again."""
    narrow = nas.delta_nout(*NETWORKS[name](), {"dense0": -3})
    yield narrow
    if "function" in name or name == "closure":
        return
    edited = nas.insert_vertex(*narrow, "dense0", lambda v: nas.layer("new", nn.Dense(v.nout), v), new="identity")
    yield edited
    yield nas.delta_nout(*edited, {"dense0": 2, "new": -1} if name == "by hand" else {"dense0": 2})


def outputs(graph, variables):
    return jax.tree.leaves(graph.apply(variables, X))


# Both processes are fresh: one that has run other tests may hold programs that were compiled with other options.
WRITES = """
import pickle, sys
import cloudpickle, numpy as np
from keep.test_pickling import NETWORKS, X, mutations, outputs
kept = [
    (name, cloudpickle.dumps(mutation), np.asarray(X), list(map(np.asarray, outputs(*mutation))))
    for name in NETWORKS
    for mutation in mutations(name)
]
with open(sys.argv[1], "wb") as file:
    pickle.dump(kept, file)
print("all", len(kept))
"""
READS = """
import pickle, sys
import jax, numpy as np
with open(sys.argv[1], "rb") as file:
    kept = pickle.load(file)
for name, data, x, expected in kept:
    mutation = pickle.loads(data)
    graph, variables = mutation
    for found, was in zip(jax.tree.leaves(graph.apply(variables, x)), expected, strict=True):
        np.testing.assert_array_equal(found, was, err_msg=name)
    assert pickle.loads(data).graph == graph, name
    import naivenas_jax as nas
    narrower = nas.delta_nout(graph, variables, {"dense0": -1})
    narrower.check(x)
    before, restored = narrower.undo(narrower.variables)
    assert before == graph
    back, weights = mutation.undo(variables)
    back.apply(weights, x)
print("all", len(kept))
"""


def test_another_process_computes_the_same_and_goes_on(tmp_path):
    written = run_in_a_process(WRITES, tmp_path / "kept")
    assert written == "all 15"
    assert run_in_a_process(READS, tmp_path / "kept") == written


@pytest.mark.parametrize("copied", [lambda v: pickle.loads(pickle.dumps(v)), copy.deepcopy], ids=["pickle", "deepcopy"])
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "closure"])
def test_copies_are_equal_and_compute_the_same(name, copied):
    for mutation in mutations(name):
        again = copied(mutation)
        assert again.graph == mutation.graph
        assert hash(again.graph) == hash(mutation.graph)
        assert again.before == mutation.before
        assert again.plan == mutation.plan
        chex.assert_trees_all_equal(again.variables, mutation.variables)


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps], ids=["pickle", "cloudpickle"])
def test_what_is_unpickled_is_not_compiled_again(dumps):
    graph, variables = list(mutations("linen"))[-1]
    traces = []

    def applied(*args):
        traces.append(args)
        return nas.apply(*args)

    step = jax.jit(applied)
    wanted = step(graph, variables, X)
    chex.assert_trees_all_equal(step(pickle.loads(dumps(graph)), variables, X), wanted)
    assert len(traces) == 1


def test_training_mode_and_keys_come_back():
    graph, variables = linen()
    again = pickle.loads(pickle.dumps(graph))
    given = {"train": True, "mutable": ["batch_stats"], "rngs": {"dropout": jax.random.key(3)}}
    chex.assert_trees_all_equal(again.apply(variables, X, **given), graph.apply(variables, X, **given))


def test_functions_without_a_name_are_left_to_cloudpickle():
    """Pickle refuses the lambda by name; cloudpickle takes its code along, and the function stays the same."""
    graph, _ = NETWORKS["closure"]()
    with pytest.raises((pickle.PicklingError, AttributeError), match=r"Can't pickle.*lambda"):
        pickle.dumps(graph)
    assert pickle.loads(cloudpickle.dumps(graph)) == graph


def test_a_model_that_has_changed_is_refused(monkeypatch):
    graph, _ = nas.from_linen(Blocks(), Blocks().init(jax.random.key(0), X), jnp.ones((7, 3)))  # equal to no other here
    data = pickle.dumps(graph)
    del graph
    import gc

    gc.collect()
    monkeypatch.setattr(Blocks, "__call__", lambda self, x, train=False: {"y": x})
    with pytest.raises(nas.GraphError, match="has changed since it was pickled"):
        pickle.loads(data)


def test_rebuilt_models():
    model = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(2)])
    mutation = nas.delta_nout(*nas.from_linen(model, model.init(jax.random.key(0), X), X), {"layers_0": -3})
    own = Hidden()
    inner = nas.delta_nout(*nas.from_linen(own, own.init(jax.random.key(0), X), X), {"dense0": -3})
    for old, changed in ((model, mutation), (own, inner)):
        new = nas.rebuild(old, changed)
        again = cloudpickle.loads(cloudpickle.dumps(new))
        # Flax's own modules are left to cloudpickle, which makes their initialisers anew, at other addresses
        assert re.sub(" at 0x[0-9a-f]+", "", repr(again)) == re.sub(" at 0x[0-9a-f]+", "", repr(new))
        chex.assert_trees_all_equal(again.apply(changed.variables, X), new.apply(changed.variables, X))
    assert pickle.loads(pickle.dumps(new)) == new  # the classes of Flax itself cannot be pickled without cloudpickle


def given_out(path):
    """What the library gives out besides networks and changes."""
    graph, variables = linen()
    narrow, wide = (nas.delta_nout(graph, variables, {"dense0": change}) for change in (-3, 1))
    nas.save(path, narrow, undo=True)
    yield nas.load(path, model=Blocks())
    yield nas.Population.of([narrow, wide])
    yield nas.report(narrow, X)
    yield nas.History().add("start", graph).add("narrow", narrow, "start", keep=True)
    yield from (narrow.plan, narrow.check(X), narrow.carry(variables, report=True)[1])
    yield from (graph.summary(variables), graph.handles(), nas.costs(graph, variables, X), nas.diagram(narrow))
    yield from (nas.canonical(graph), nas.TaylorAverage.init(graph), nas.SearchSpace({"dense0": [4, 8]}))
    yield from (nas.magnitude(graph, variables), nas.size("dense0"), nas.to(3))
    yield from (narrow.graph.as_module(), narrow.graph.as_nnx(narrow.variables))


def shown_arrays(value):
    """What a value says of itself, without addresses and in any order, and the arrays in it."""
    arrays = [leaf for leaf in jax.tree.leaves(value) if hasattr(leaf, "dtype")]
    lines = re.sub(" at 0x[0-9a-f]+", "", repr(value)).splitlines()
    return sorted(line.strip(" ,") for line in lines), arrays


@pytest.mark.parametrize(
    "copied",
    [lambda v: pickle.loads(pickle.dumps(v)), lambda v: cloudpickle.loads(cloudpickle.dumps(v)), copy.deepcopy],
    ids=["pickle", "cloudpickle", "deepcopy"],
)
def test_what_is_given_out_can_be_copied(copied, tmp_path):
    kinds = set()
    for value in given_out(tmp_path / "net"):
        again = copied(value)
        assert type(again) is type(value)
        found, wanted = shown_arrays(again), shown_arrays(value)
        assert found[0] == wanted[0]
        chex.assert_trees_all_equal(found[1], wanted[1])
        kinds.add(type(value).__name__)
    assert len(kinds) >= 17
    np.testing.assert_array_equal(again(X)["y"], value(X)["y"])  # a model of nnx


def test_errors_go_between_processes():
    """As workers of a pool send them: with the message that names what is wrong."""
    graph, variables = by_hand()
    for request in ({"dense": -1}, {"dense0": -9}, {"dense0": "x"}):
        with pytest.raises(nas.NaiveNASError) as caught:
            nas.delta_nout(graph, variables, request)
        again = pickle.loads(pickle.dumps(caught.value))
        assert (type(again), str(again)) == (type(caught.value), str(caught.value))
