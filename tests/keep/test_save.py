"""Networks, hand-written and imported, are saved and loaded: here, and in a process that has only the files."""

import functools
import inspect

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import core, nnx, struct
from flax.training.train_state import TrainState
from keep_models import Blocks, NnxBlocks, doubled, every_kind_of_vertex, low_rank, mlp
from safetensors.numpy import load_file

import naivenas_jax as nas
from naivenas_jax.graph.op import Op
from naivenas_jax.keep import graph_codec, known_names
from naivenas_jax.layers import registry

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
WEIGHTS = {"dense0": {"kernel": jnp.ones((3, 8))}, "out": {"kernel": jnp.arange(16.0).reshape(8, 2)}}
nas.register_function("tests.doubled", doubled)
nas.register_function("tests.low_rank", low_rank)


def by_hand():
    graph = every_kind_of_vertex()
    return graph, graph.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, X)


def linen(**kwargs):
    return nas.from_linen(Blocks(), Blocks().init(jax.random.key(0), X), X, **kwargs)


NETWORKS = {
    "by hand": (by_hand, None),
    "linen": (linen, Blocks()),
    "linen, called with arguments": (lambda: linen(train=False, method="__call__"), Blocks()),
    "nnx": (lambda: nas.from_nnx(NnxBlocks(nnx.Rngs(0)), X), NnxBlocks(nnx.Rngs(1))),
    "function": (lambda: nas.from_function(mlp, WEIGHTS, X, scale=jnp.float32(3)), mlp),
}


def mutations(name):
    """The network with other widths; with another structure, where it can have one; and with other widths again."""
    narrow = nas.delta_nout(*NETWORKS[name][0](), {"dense0": -3})
    yield narrow
    if name == "function":
        return
    edited = nas.insert_vertex(*narrow, "dense0", lambda v: nas.layer("new", nn.Dense(v.nout), v), new="identity")
    yield edited
    yield nas.delta_nout(*edited, {"dense0": 2})


def outputs(graph, variables):
    return jax.tree.leaves(graph.apply(variables, X))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_comes_back_as_it_was(name, tmp_path):
    model = NETWORKS[name][1]
    for number, network in enumerate([NETWORKS[name][0](), *mutations(name)]):
        graph, variables = network
        nas.save(tmp_path / str(number), network if number else graph, None if number else variables)
        saved = nas.load(tmp_path / str(number), model=model)
        assert type(saved.variables["params" if "params" in saved.variables else "dense0"]) is dict
        chex.assert_trees_all_equal(saved.variables, variables)
        chex.assert_trees_all_equal(outputs(*saved), outputs(graph, variables))
        assert saved.plan == (network.plan if number else None)
        if name != "function":  # an array among its arguments, so that it equals nothing else
            assert saved.graph == graph


def small():
    x = nas.input_vertex("x", 3)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(4), x)))
    return graph, graph.init(jax.random.key(0), X)


GRAPH, VARIABLES = small()
TX = optax.chain(optax.clip(1.0), optax.adam(optax.linear_schedule(0.1, 0.0, 10)))
STATE = TX.init(VARIABLES["params"])
TREES = {
    "state": STATE,
    "train_state": TrainState.create(apply_fn=GRAPH.apply, params=VARIABLES["params"], tx=TX),
    "frozen": core.freeze(VARIABLES),
    "nnx_state": nnx.state(nnx.Linear(3, 4, rngs=nnx.Rngs(0))),
    "many": [
        (jnp.ones((2, 0)), {"a": None, "b": np.arange(3), "c": {3: np.float64(2.5)}}),
        [],
        {},
        True,
        7,
        1.5,
        float("inf"),
        "text",
    ],
    "key": {"typed": jax.random.key(3), "old": jax.random.PRNGKey(4), "rbg": jax.random.key(5, impl="rbg")},
    "alone": jnp.arange(3),
    "nothing": (),
}


def test_further_trees_come_back_nested_and_as_they_were(tmp_path):
    nas.save(tmp_path / "net", GRAPH, VARIABLES, **TREES)
    saved = nas.load(tmp_path / "net")
    assert set(saved.trees) == set(TREES)
    assert saved.trees["many"][1:] == [[], {}, True, 7, 1.5, float("inf"), "text"]
    assert saved.trees["many"][0][1]["a"] is None
    assert isinstance(saved.trees["many"][0][1]["b"], np.ndarray)
    assert isinstance(saved.trees["many"][0][1]["c"][3], np.float64)
    np.testing.assert_array_equal(saved.trees["state"][1][0]["mu"]["hidden"]["bias"], np.zeros(4))
    assert [type(saved.trees[name]) for name in ("frozen", "nnx_state", "nothing")] == [dict, dict, list]
    for name, tree in TREES.items():
        restored = saved.restore(name, like=tree)
        assert jax.tree.structure(restored) == jax.tree.structure(tree)
        chex.assert_trees_all_equal(restored, tree)
    fresh = jax.eval_shape(TX.init, VARIABLES["params"])
    chex.assert_trees_all_equal(saved.restore("state", like=fresh), STATE)


DTYPES = (
    *("bool", "int8", "uint8", "int16", "int32", "uint32", "float16", "bfloat16", "float32", "complex64"),
    *("float8_e4m3fn", "float8_e5m2", "int4", "uint4"),
)


def test_every_dtype_keeps_its_bits(tmp_path):
    bits = np.random.default_rng(0).integers(0, 256, (5, 16), dtype=np.uint8)
    arrays = {name: jnp.asarray(bits[:, :4] % 2).astype(name) for name in DTYPES}
    arrays["nan"] = jnp.asarray(np.full(3, 0x7FC12345, np.uint32).view(np.float32))
    wide = {"float64": bits.astype(np.float64) / 3, "int64": -bits.astype(np.int64), "strided": bits[::2, ::3].T}
    nas.save(tmp_path / "net", GRAPH, VARIABLES, arrays=arrays, wide={**wide, "big-endian": np.arange(3, dtype=">i4")})
    trees = nas.load(tmp_path / "net").trees
    for name, array in arrays.items():
        assert trees["arrays"][name].dtype == array.dtype
        assert np.asarray(trees["arrays"][name]).tobytes() == np.asarray(array).tobytes()
    chex.assert_trees_all_equal({name: trees["wide"][name] for name in wide}, wide)
    assert trees["wide"]["big-endian"].tolist() == [0, 1, 2]


def test_the_arrays_are_files_that_other_tools_read(tmp_path):
    nas.save(tmp_path / "net", GRAPH, VARIABLES)
    arrays = load_file(tmp_path / "net" / "variables.safetensors")
    np.testing.assert_array_equal(arrays["params/hidden/kernel"], VARIABLES["params"]["hidden"]["kernel"])
    assert {path.name for path in (tmp_path / "net").iterdir()} == {
        *("manifest.json", "structure.json", "graph.safetensors", "variables.safetensors")
    }


def test_saving_the_same_twice_writes_the_same_bytes(tmp_path):
    for name in ("one", "other"):
        nas.save(tmp_path / name, *by_hand(), state=STATE)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


def test_what_is_there_is_replaced_only_if_asked_and_never_anything_else(tmp_path):
    nas.save(tmp_path / "deep" / "net.v1", GRAPH, VARIABLES)
    with pytest.raises(nas.SaveError, match=r"net\.v1 exists.*overwrite=True"):
        nas.save(tmp_path / "deep" / "net.v1", GRAPH, VARIABLES)
    narrow = nas.delta_nout(GRAPH, VARIABLES, {"hidden": -1})
    nas.save(str(tmp_path / "deep" / "net.v1"), narrow, overwrite=True)
    assert nas.load(tmp_path / "deep" / "net.v1").graph == narrow.graph
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["net.v1"]  # and nothing is left beside it
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work.txt").write_text("precious")
    with pytest.raises(nas.SaveError, match="is no save of this library"):
        nas.save(tmp_path / "mine", GRAPH, VARIABLES, overwrite=True)


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    nas.save(tmp_path / "net", GRAPH, VARIABLES)
    monkeypatch.setattr("os.fsync", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        nas.save(tmp_path / "net", nas.delta_nout(GRAPH, VARIABLES, {"hidden": -1}), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["net"]
    assert nas.load(tmp_path / "net").graph == GRAPH


def with_function(fn):
    x = nas.input_vertex("x", 3)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.invariant_vertex("act", fn, x)))
    return graph, graph.init(jax.random.key(0), X)


def test_functions_without_a_name_are_refused_with_the_line_that_names_them(tmp_path):
    message = r"vertex 'act' holds the function <lambda> \(.*test_save\.py:\d+\).*nas\.register_function\('act', fn\)"
    with pytest.raises(nas.SaveError, match=message):
        nas.save(tmp_path / "net", *with_function(lambda x: x + 1))

    def shifted(x):
        return x + 1

    network = with_function(shifted)
    with pytest.raises(nas.SaveError, match=r"nas\.register_function\('shifted', shifted\)"):
        nas.save(tmp_path / "net", *network)
    nas.register_function("shifted", shifted)
    nas.save(tmp_path / "net", *network)
    assert nas.load(tmp_path / "net").graph == network[0]


def test_partials_of_functions_whose_names_say_array(tmp_path):
    """A function named ``asarray`` was taken for one that has an array beside it, and made anew on loading."""
    network = with_function(functools.partial(jnp.asarray, dtype=jnp.bfloat16))
    nas.save(tmp_path / "net", *network)
    assert nas.load(tmp_path / "net").graph == network[0]


@pytest.mark.parametrize(
    ("fn", "named"),
    [
        (functools.partial(jnp.multiply, jnp.ones(())), "functools.partial, with an array, which has no name"),
        (jax.vmap(jax.nn.relu), "relu"),
    ],
)
def test_functions_made_of_others_are_refused_by_what_they_are_made_of(tmp_path, fn, named):
    with pytest.raises(nas.SaveError) as error:
        nas.save(tmp_path / "net", *with_function(fn))
    assert f"vertex 'act' holds the function {named}" in str(error.value)
    assert "nas.register_function('act', fn)" in str(error.value), "not the function inside"
    assert "traceback_util" not in str(error.value)


def test_functions_and_layers_that_are_not_registered_on_loading_are_named(tmp_path, monkeypatch):
    nas.save(tmp_path / "net", *with_function(doubled))
    monkeypatch.delitem(known_names._registered, "tests.doubled")
    with pytest.raises(nas.SaveError, match=r"'tests\.doubled', which is not registered here\. Register it before"):
        nas.load(tmp_path / "net")

    class Scale(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x * self.param("scale", nn.initializers.ones, (x.shape[-1],))

    nas.register_layer(Scale, leaves={"params/scale": "in"})
    x = nas.input_vertex("x", 3)
    graph = nas.Graph(x, nas.layer("scale", Scale(), x))
    nas.save(tmp_path / "own", graph, graph.init(jax.random.key(0), X))
    assert nas.load(tmp_path / "own").graph == graph
    monkeypatch.delitem(registry._registry, Scale)
    with pytest.raises(nas.SaveError, match=r"layers of the type .*Scale, which is not registered here"):
        nas.load(tmp_path / "own")


def test_a_history_is_saved_along(tmp_path):
    narrow = nas.delta_nout(GRAPH, VARIABLES, {"hidden": -1})
    history = nas.History().add("start", (GRAPH, VARIABLES)).add("narrow", narrow, "start", values={"loss": 0.5})
    nas.save(tmp_path / "net", narrow, history=history)
    saved = nas.load(tmp_path / "net")
    assert saved.history == history
    assert saved.plan == saved.history.plan("start", "narrow")
    for given in ({"history": narrow.plan}, {"plan": history}):
        with pytest.raises(nas.SaveError, match="takes a nas"):
            nas.save(tmp_path / "other", GRAPH, VARIABLES, **given)


def test_a_loaded_change_of_structure_is_made_of_other_weights(tmp_path):
    """The graph and the new leaves come from the save, what stays from weights that the change has never seen."""
    narrow = nas.delta_nout(GRAPH, VARIABLES, {"hidden": -1})
    deeper = nas.insert_vertex(*narrow, "hidden", lambda v: nas.layer("new", nn.Dense(v.nout), v), new="identity")
    nas.save(tmp_path / "net", deeper, plan=deeper.plan @ narrow.plan)
    saved = nas.load(tmp_path / "net")
    other = GRAPH.init(jax.random.key(7), X)
    made = saved.plan.apply(other, new=saved.variables)
    wanted = nas.delta_nout(GRAPH, other, narrow.plan)
    chex.assert_trees_all_close(saved.graph.apply(made, X), wanted.graph.apply(wanted.variables, X), atol=1e-6)


def searched(keep):
    narrow = nas.delta_nout(GRAPH, VARIABLES, {"hidden": -1})
    wide = nas.delta_nout(*narrow, {"hidden": 3})
    deep = nas.insert_vertex(*wide, "hidden", lambda v: nas.layer("new", nn.Dense(v.nout), v), new="identity")
    history = nas.History().add("first", GRAPH).add("narrow", narrow, "first").add("wide", wide, "narrow")
    return history.add("deep", deep, "wide", keep=keep), deep


def test_a_saved_history_is_replayed_on_other_weights(tmp_path):
    history, deep = searched(keep=True)
    nas.save(tmp_path / "net", deep, history=history)
    history = nas.load(tmp_path / "net").history
    assert history.network("deep")[0] == deep.graph
    chex.assert_trees_all_equal(history.network("deep")[1], deep.variables)
    other = GRAPH.init(jax.random.key(7), X)
    narrow = nas.delta_nout(GRAPH, other, history["narrow"].plan)  # the same neurons, and not those that are best here
    wide = nas.delta_nout(*narrow, history["wide"].plan)
    graph, variables = nas.replay(GRAPH, other, history, "wide")
    assert graph == wide.graph
    chex.assert_trees_all_equal(variables, wide.variables)
    graph, variables = nas.replay(GRAPH, other, history)
    assert graph == deep.graph
    np.testing.assert_allclose(graph.apply(variables, X), wide.graph.apply(wide.variables, X), atol=1e-6)


def test_replays_that_cannot_be_are_refused():
    history, _ = searched(keep=False)
    for given, message in (
        ((GRAPH, VARIABLES, history), r"'deep' came of more than a change of widths \(.*keep=True"),
        ((GRAPH, VARIABLES, nas.History()), "at least one network"),
        ((GRAPH, VARIABLES, history.plan("first", "narrow")), "must be a nas.History"),
    ):
        with pytest.raises(nas.PlanError, match=message):
            nas.replay(*given)
    other, weights = by_hand()
    with pytest.raises(nas.PlanError):
        nas.replay(other, weights, history, "narrow")


def test_models_and_optimizers_of_nnx_are_trees(tmp_path):
    model = NnxBlocks(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param)
    nas.save(tmp_path / "net", GRAPH, VARIABLES, model=model, optimizer=optimizer)
    saved, other = nas.load(tmp_path / "net"), NnxBlocks(nnx.Rngs(1))
    restored = saved.restore("model", like=other)
    np.testing.assert_array_equal(restored.dense0.kernel[...], model.dense0.kernel[...])
    assert not np.array_equal(other.dense0.kernel[...], model.dense0.kernel[...])  # untouched
    again = saved.restore("optimizer", like=nnx.Optimizer(other, optax.adam(0.1), wrt=nnx.Param))
    chex.assert_trees_all_equal(nnx.state(again), nnx.state(optimizer))


@pytest.mark.parametrize("library", ["linen", "nnx"])
def test_words_and_recurrent_layers(library, tmp_path):
    rngs, words = nnx.Rngs(0), nas.input_vertex("words", 10, shape=(7,), dtype="int32")
    embed = nn.Embed(10, 4) if library == "linen" else nnx.Embed(10, 4, rngs=rngs)
    embedded = nas.layer("embed", embed, words)
    cells = nn.RNN(nn.GRUCell(4)) if library == "linen" else nnx.RNN(nnx.LSTMCell(4, 4, rngs=rngs), rngs=rngs)
    graph = nas.Graph(words, nas.attend("logits", embedded, nas.layer("rnn", cells, embedded)))
    variables = graph.init(jax.random.key(0), jnp.zeros((1, 7), "int32"))
    nas.save(tmp_path / "net", graph, variables)
    assert nas.load(tmp_path / "net").graph == graph


@pytest.mark.parametrize("library", ["linen", "nnx"])
def test_attention_whose_values_have_another_size(library, tmp_path):
    own = {"num_heads": 2, "qkv_features": 8, "precision": jax.lax.Precision.HIGHEST}
    layer = nn.MultiHeadDotProductAttention(**own)
    if library == "nnx":
        layer = nnx.MultiHeadAttention(in_features=4, decode=False, **own, rngs=nnx.Rngs(0))
    x = nas.input_vertex("x", 4)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("attention", layer, x)))
    mutation = nas.delta_nout(graph, graph.init(jax.random.key(0), jnp.ones((1, 3, 4))), {"attention:value": -1})
    nas.save(tmp_path / "net", mutation)
    saved, rows = nas.load(tmp_path / "net"), jax.random.normal(jax.random.key(1), (2, 3, 4))
    assert saved.graph == mutation.graph
    chex.assert_trees_all_equal(
        saved.graph.apply(saved.variables, rows), mutation.graph.apply(mutation.variables, rows)
    )


@struct.dataclass
class Weights:
    first: jax.Array
    last: jax.Array
    name: str = struct.field(pytree_node=False, default="weights")


def of_weights(weights, x):
    return jnp.tanh(x @ weights.first) @ weights.last


def test_variables_of_a_class_of_ones_own(tmp_path, monkeypatch):
    graph, weights = nas.from_function(of_weights, Weights(jnp.ones((3, 8)), jnp.ones((8, 2))), X)
    with pytest.raises(
        nas.SaveError, match=r"type Weights, which cannot.*nas\.register_function\('Weights', Weights\)"
    ):
        nas.save(tmp_path / "net", graph, weights)
    monkeypatch.setitem(known_names._registered, "Weights", Weights)
    nas.save(tmp_path / "net", graph, weights, weights=weights)
    saved = nas.load(tmp_path / "net", model=of_weights)
    assert saved.graph == graph
    chex.assert_trees_all_equal(saved.graph.apply(saved.variables, X), of_weights(weights, X))
    chex.assert_trees_all_equal(saved.restore("weights", like=weights), weights)


def test_an_imported_model_beside_other_vertices(tmp_path):
    inner, its_variables = NETWORKS["nnx"][0]()
    graph = nas.Graph(inner.inputs, nas.layer("head", nn.Dense(2), inner.outputs[0]))
    own = nn.Dense(2).init(jax.random.key(0), jnp.ones((1, 2)))["params"]
    variables = {**its_variables, "params": {**its_variables["params"], "head": own}}
    nas.save(tmp_path / "net", graph, variables)
    saved = nas.load(tmp_path / "net", model=NnxBlocks(nnx.Rngs(3)))
    assert saved.graph == graph
    chex.assert_trees_all_equal(saved.graph.apply(saved.variables, X), graph.apply(variables, X))


KEY = jax.random.key(0)
UNDONE = {
    "narrow": lambda: nas.delta_nout(GRAPH, VARIABLES, {"hidden": -2}),
    "copies": lambda: nas.delta_nout(GRAPH, VARIABLES, {"hidden": 3}, new="split"),
    "renamed": lambda: nas.rename(GRAPH, VARIABLES, {"hidden": "first"}),
    "replaced": lambda: nas.replace_layer(GRAPH, VARIABLES, "hidden", nn.Dense(6)),
    "removed": lambda: nas.remove_vertex(GRAPH, VARIABLES, "hidden"),
    "crossed": lambda: nas.crossover(
        nas.delta_nout(GRAPH, VARIABLES, {"hidden": 1}),
        nas.delta_nout(GRAPH, VARIABLES, {"hidden": -1}),
        jax.random.key(0),
    ),
    "queries": lambda: nas.delta_nout(*attention(), {"attention:qk": -1}),
}


def attention():
    x = nas.input_vertex("x", 3, shape=(5, 3))
    heads = nas.layer("attention", nn.MultiHeadDotProductAttention(2, qkv_features=8), x)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), heads))
    return graph, graph.init(jax.random.key(0), jnp.ones((1, 5, 3)))


@pytest.mark.parametrize("name", UNDONE)
def test_what_is_loaded_goes_back_as_the_mutation_does(name, tmp_path):
    mutation = UNDONE[name]()
    nas.save(tmp_path / "net", mutation, undo=True)
    saved = nas.load(tmp_path / "net")
    trained = jax.tree.map(lambda leaf: 2 * leaf, saved.variables)
    for variables in (saved.variables, trained):
        graph, restored = saved.undo(variables)
        assert graph == mutation.before
        chex.assert_trees_all_equal(restored, mutation.undo(variables)[1])
    chex.assert_trees_all_equal(saved.undo()[1], saved.undo(saved.variables)[1])
    with pytest.raises(nas.VariablesError):
        saved.undo({"params": {}})


def test_the_way_back_is_saved_where_it_is_asked_for(tmp_path):
    nas.save(tmp_path / "net", nas.delta_nout(GRAPH, VARIABLES, {"hidden": -2}))
    with pytest.raises(nas.SaveError, match=r"nas\.save\(path, mutation, undo=True\)"):
        nas.load(tmp_path / "net").undo()
    with pytest.raises(nas.SaveError, match=r"undo=True is for a mutation.*found Graph"):
        nas.save(tmp_path / "other", GRAPH, VARIABLES, undo=True)


def test_one_model_serves_all_networks_of_a_save(tmp_path):
    graph, variables = linen()
    again = nas.History().add("same", linen(), keep=True)
    nas.save(tmp_path / "net", graph, variables, history=again)
    assert nas.load(tmp_path / "net", model=Blocks()).history.network("same")[0] == graph
    assert nas.load(tmp_path / "net", model=[Blocks()]).graph == graph
    with pytest.raises(nas.SaveError, match="imported from 1 models; found model= with 2"):
        nas.load(tmp_path / "net", model=[Blocks(), mlp])


def test_networks_of_several_models_are_loaded_with_these_in_order(tmp_path):
    graph, variables = linen()
    deep = nas.insert_vertex(graph, variables, "dense0", lambda v: nas.layer("new", nn.Dense(v.nout), v))
    history = nas.History().add("own", (graph, variables), keep=True).add("nnx", NETWORKS["nnx"][0](), keep=True)
    history = history.add("function", nas.from_function(mlp, WEIGHTS, X), keep=True).add("hand", by_hand(), keep=True)
    nas.save(tmp_path / "net", deep, history=history.add("deep", deep, "own", keep=True), undo=True)
    models = [Blocks(), NnxBlocks(nnx.Rngs(5)), mlp]
    saved = nas.load(tmp_path / "net", model=models)
    assert saved.graph == deep.graph
    assert saved.undo()[0] == graph
    assert saved.history.network("deep")[0] == deep.graph
    for name in ("own", "nnx", "function", "hand"):
        chex.assert_trees_all_equal(nas.apply(*saved.history.network(name), X), nas.apply(*history.network(name), X))
    for given, message in (
        (models[0], r"several models.*Number 1 is an nnx model, keep_models\.NnxBlocks.*nas\.load\(path, model=\["),
        (models[:2], r"Number 2 is a function, keep_models\.mlp"),
        ([models[0], mlp, models[1]], r"an nnx model, keep_models\.NnxBlocks; found model\[1\]=<function mlp"),
        ([None, *models[1:]], r"a linen module, .*; found model\[0\]=None"),
        ([], "imported from a linen module"),
        ([*models, mlp], "imported from 3 models; found model= with 4"),
    ):
        with pytest.raises(nas.SaveError, match=message):
            nas.load(tmp_path / "net", model=given)


def test_two_imported_models_in_one_graph_are_refused_with_what_works():
    (one, _), (other, _) = NETWORKS["nnx"][0](), nas.from_function(mlp, WEIGHTS, X)
    message = r"'head' cannot wrap a graph that holds an imported model, here 'model'.*or compose the models in Flax"
    with pytest.raises(nas.GraphError, match=message):
        nas.layer("head", other, one.outputs[0])


def refused_restores():
    params = VARIABLES["params"]
    yield "other", STATE, "There is no tree 'other' in the save"
    yield "state", optax.sgd(0.1).init(params), "state was saved with|state/.* was saved"
    narrow = nas.delta_nout(GRAPH, VARIABLES, {"hidden": -1}).variables["params"]
    yield "state", TX.init(narrow), r"state/1/0/mu/\S+ was float32\[\S*4\S*\], and like= has float32\[\S*3"
    half = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), params)
    yield "state", TX.init(half), r"and like= has bfloat16"
    yield "many", {"a": 1}, "many was saved as list"


def test_trees_of_another_structure_are_refused_by_leaf(tmp_path):
    nas.save(tmp_path / "net", GRAPH, VARIABLES, **TREES)
    saved = nas.load(tmp_path / "net")
    for name, like, message in refused_restores():
        with pytest.raises(nas.SaveError, match=message):
            saved.restore(name, like)


def test_models_of_imported_networks_are_asked_for_and_compared(tmp_path):
    nas.save(tmp_path / "linen", nas.delta_nout(*linen(), {"dense0": -3}))
    nas.save(tmp_path / "nnx", nas.delta_nout(*NETWORKS["nnx"][0](), {"dense0": -3}))

    class Wide(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return {"y": nn.Dense(2)(x)}

    for name, model, message in (
        ("linen", None, r"imported from a linen module, keep_models\.Blocks.*nas\.load\(path, model="),
        ("linen", Blocks, "found model=.*Blocks"),
        ("linen", NnxBlocks(nnx.Rngs(0)), "imported from a linen module"),
        ("linen", Wide(), "cannot be called as the saved one|is not the one that was imported"),
        ("nnx", nnx.Linear(3, 2, rngs=nnx.Rngs(0)), "has other variables, or other sizes"),
    ):
        with pytest.raises(nas.SaveError, match=message):
            nas.load(tmp_path / name, model=model)


def test_what_cannot_be_saved_is_named(tmp_path):
    for tree, message in (
        ({"a": object()}, "The tree 'tree' holds a value of the type object"),
        (np.array(["a"]), "dtype"),
    ):
        with pytest.raises(nas.SaveError, match=message):
            nas.save(tmp_path / "net", GRAPH, VARIABLES, tree=tree)
    with pytest.raises(nas.SaveError, match=r"found '\.\./escaped'"):
        nas.save(tmp_path / "net", GRAPH, VARIABLES, **{"../escaped": X})
    with pytest.raises(nas.VariablesError):
        nas.save(tmp_path / "net", GRAPH, nas.delta_nout(GRAPH, VARIABLES, {"hidden": -1}).variables)
    assert not list(tmp_path.iterdir())


def test_every_kind_of_computation_can_be_saved():
    def below(kind):
        return {kind}.union(*map(below, kind.__subclasses__()))

    ours = {kind for kind in below(Op) if kind.__module__.startswith("naivenas_jax.") and not inspect.isabstract(kind)}
    apart = {"Subgraph", "Attend", "ImportedOp", "LinenOp", "NnxOp"}
    assert {kind.__name__ for kind in ours} == {kind.__name__ for kind in graph_codec._PLAIN.values()} | apart
