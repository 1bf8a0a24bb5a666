"""Changes of structure inside imported models, against the same model written with the change."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

import naivenas_jax as nas

X = jax.random.normal(jax.random.key(7), (4, 6))
IMAGE = jax.random.normal(jax.random.key(8), (2, 8, 8, 3))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.Dense(12, name="up")(nn.relu(x))
        return x + nn.Dense(x.shape[-1], name="down")(nn.relu(y))


class Net(nn.Module):
    """``adapter``, ``without`` and ``skip`` say by hand what the library is to do."""

    adapter: int = 0
    without: bool = False
    skip: bool = False

    @nn.compact
    def __call__(self, x):
        stem = nn.Dense(8, name="stem")(x)
        x = stem
        if self.adapter:
            x = nn.Dense(self.adapter, name="adapter")(x)
        if not self.without:
            x = Block(name="block")(x)
        x = nn.relu(nn.Dense(8, name="middle")(x))
        return nn.Dense(3, name="head")(x + stem if self.skip else x)


@pytest.fixture(scope="module")
def network():
    model = Net()
    return nas.from_linen(model, model.init(jax.random.key(0), X), X)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


# -- insert ------------------------------------------------------------------------------------------------------------


def test_an_inserted_layer_starts_as_identity_at_the_width_of_its_place(network):
    graph, variables = network
    mutation = nas.insert_vertex(graph, variables, "stem", lambda v: nas.layer("adapter", nn.Dense(5), v))
    assert mutation.aligned == "grow"
    assert mutation.variables["params"]["adapter"]["kernel"].shape == (8, 8)
    close(mutation.graph.apply(mutation.variables, X), graph.apply(variables, X))
    assert mutation.check(X).compared
    assert jax.tree.structure(mutation.variables) == jax.tree.structure(Net(adapter=8).init(jax.random.key(0), X))


def test_an_inserted_layer_computes_what_it_does_in_a_model_that_has_it(network):
    graph, variables = network
    after, own = nas.insert_vertex(graph, variables, "stem", lambda v: nas.layer("adapter", nn.Dense(8), v), new="init")
    assert not np.allclose(after.apply(own, X), graph.apply(variables, X))
    for x in (X, jnp.ones((9, 6))):  # another batch size than the one traced
        close(after.apply(own, x), Net(adapter=8).apply(own, x))
    gradient = jax.grad(lambda v: jnp.sum(after.apply(v, X) ** 2))(own)
    wanted = jax.grad(lambda v: jnp.sum(Net(adapter=8).apply(v, X) ** 2))(own)
    jax.tree.map(close, gradient, wanted)


def test_the_inserted_layer_is_a_handle_like_any_other(network):
    mutation = nas.insert_vertex(*network, "stem", lambda v: nas.layer("adapter", nn.Dense(8), v))
    assert set(mutation.graph.handles()) >= {"adapter", "stem", "block/up"}
    assert "block/down" in mutation.graph.handles()["adapter"].tied_to  # the residual sum after it
    narrow = nas.delta_nout(*mutation, {"adapter": -3, "stem": -2})
    assert narrow.variables["params"]["adapter"]["kernel"].shape == (6, 5)
    assert narrow.check(X).compared
    wide = nas.delta_nout(*narrow, {"adapter": 4})
    assert wide.check(X).compared
    close(wide.graph.apply(wide.variables, X), narrow.graph.apply(narrow.variables, X))


def test_several_layers_can_be_inserted_at_once_and_one_after_the_other(network):
    def bottleneck(v):
        return nas.layer("wide", nn.Dense(8), nas.invariant_vertex("act", nn.relu, nas.layer("narrow", nn.Dense(2), v)))

    first = nas.insert_vertex(*network, "block", bottleneck)
    assert first.variables["params"]["narrow"]["kernel"].shape == (8, 2)
    second = nas.insert_vertex(*first, "wide", lambda v: nas.layer("last", nn.Dense(8), v))
    third = nas.insert_vertex(*second, "block", lambda v: nas.layer("first", nn.Dense(8), v))
    close(third.graph.apply(third.variables, X), first.graph.apply(first.variables, X))
    own = third.variables["params"]
    x = nn.Dense(8).apply({"params": own["stem"]}, X)
    x = Block().apply({"params": own["block"]}, x)
    for name in ("first", "narrow"):
        x = nn.Dense(1).clone(features=own[name]["bias"].size).apply({"params": own[name]}, x)
    x = nn.Dense(8).apply({"params": own["wide"]}, nn.relu(x))
    x = nn.relu(nn.Dense(8).apply({"params": own["middle"]}, nn.Dense(8).apply({"params": own["last"]}, x)))
    close(third.graph.apply(third.variables, X), nn.Dense(3).apply({"params": own["head"]}, x))


class Trained(nn.Module):
    norm: bool = False

    @nn.compact
    def __call__(self, x, deterministic=True):
        x = nn.Dense(8, name="stem")(x)
        if self.norm:
            x = nn.BatchNorm(use_running_average=deterministic, name="norm")(x)
        return nn.Dense(3, name="head")(nn.Dropout(0.5, deterministic=deterministic)(x))


def test_inserted_layers_are_trained_with_the_model():
    model = Trained()
    network = nas.from_linen(model, model.init(jax.random.key(0), X), X)
    graph, variables = nas.insert_vertex(*network, "stem", lambda v: nas.layer("norm", nn.BatchNorm(), v))
    assert variables["batch_stats"]["norm"]["mean"].shape == (8,)
    given = {"deterministic": False, "rngs": {"dropout": jax.random.key(3)}, "mutable": ["batch_stats"]}
    outputs, updates = graph.apply(variables, X, **given)
    wanted, own = Trained(norm=True).apply(variables, X, **given)
    close(outputs, wanted)
    jax.tree.map(close, updates, own)
    close(graph.apply(variables, X), Trained(norm=True).apply(variables, X))


def test_inserted_layers_are_trained_where_the_model_knows_no_training():
    model = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(3)])
    network = nas.from_linen(model, model.init(jax.random.key(0), X), X)
    graph, variables = nas.insert_vertex(*network, "layers_0", lambda v: nas.layer("norm", nn.BatchNorm(), v))
    outputs, updates = graph.apply(variables, X, train=True, mutable=["batch_stats"])
    hidden = nn.Dense(8).apply({"params": variables["params"]["layers_0"]}, X)
    own = {name: variables[name]["norm"] for name in ("params", "batch_stats")}
    hidden, wanted = nn.BatchNorm(use_running_average=False).apply(own, hidden, mutable=["batch_stats"])
    close(outputs, nn.Dense(3).apply({"params": variables["params"]["layers_2"]}, nn.relu(hidden)))
    jax.tree.map(close, updates["batch_stats"]["norm"], wanted["batch_stats"])


def test_layers_go_before_and_after_the_model_as_well(network):
    graph, variables = network
    for at, width in (("x", 6), ("output", 3)):
        mutation = nas.insert_vertex(graph, variables, at, lambda v, n=width: nas.layer("new", nn.Dense(n), v))
        assert mutation.check(X).compared
        assert nas.delta_nout(*mutation, {"stem": -2}).check(X).compared


def test_modules_may_have_the_names_of_arguments():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, query):
            return nn.Dense(2, name="output")(nn.Dense(4, name="model")(nn.Dense(8, name="query")(query)))

    model = Model()
    graph, variables = nas.from_linen(model, model.init(jax.random.key(0), X), X)
    assert [vertex.name for vertex in graph.vertices] == ["query_", "model_", "output_"]
    assert nas.delta_nout(graph, variables, {"query": -3, "model": -1}).check(X).compared


def test_optimizer_state_and_undo(network):
    graph, variables = network
    mutation = nas.insert_vertex(graph, variables, "stem", lambda v: nas.layer("adapter", nn.Dense(8), v))
    tx = optax.adam(1e-2)
    state = mutation.carry(tx.init(variables["params"]))
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, tx.init(mutation.variables["params"]))
    back, old = mutation.undo(mutation.variables)
    assert back == graph
    jax.tree.map(np.testing.assert_array_equal, old, variables)


def test_equal_edits_compile_once(network):
    traced = []

    def apply(graph, variables, x):
        traced.append(graph)
        return nas.apply(graph, variables, x)

    run, layer = jax.jit(apply), nn.Dense(8)
    for _ in range(2):
        run(*nas.insert_vertex(*network, "stem", lambda v: nas.layer("adapter", layer, v)), X)
    assert len(traced) == 1


# -- remove ------------------------------------------------------------------------------------------------------------


def test_a_removed_block_leaves_the_model_without_it(network):
    graph, variables = network
    mutation = nas.remove_vertex(graph, variables, "block")
    assert set(mutation.variables["params"]) == {"stem", "middle", "head"}
    close(mutation.graph.apply(mutation.variables, X), Net(without=True).apply(mutation.variables, X))
    assert not any(name.startswith("block") for name in mutation.graph.handles())
    back, old = mutation.undo(mutation.variables)
    close(back.apply(old, X), graph.apply(variables, X))
    state = mutation.carry(optax.adam(1.0).init(variables["params"]))
    assert "block" not in state[0].mu


def test_where_the_removed_module_changed_the_width_the_sizes_are_aligned_first():
    model = nn.Sequential([nn.Dense(8), nn.Dense(5), nn.relu, nn.Dense(3)])
    graph, variables = nas.from_linen(model, model.init(jax.random.key(0), X), X)
    for align, width in (("grow", 8), ("shrink", 5)):
        mutation = nas.remove_vertex(graph, variables, "layers_1", align=align)
        own = mutation.variables["params"]
        assert own["layers_0"]["kernel"].shape == (6, width)
        assert mutation.aligned == align
        x = nn.relu(nn.Dense(width).apply({"params": own["layers_0"]}, X))
        close(mutation.graph.apply(mutation.variables, X), nn.Dense(3).apply({"params": own["layers_3"]}, x))
    kept = mutation.indices("layers_0")
    np.testing.assert_array_equal(own["layers_0"]["kernel"], variables["params"]["layers_0"]["kernel"][:, kept])


def test_statistics_go_with_their_layer():
    model = Trained(norm=True)
    mutation = nas.remove_vertex(*nas.from_linen(model, model.init(jax.random.key(0), X), X), "norm")
    assert set(mutation.variables) == {"params"}
    close(mutation.graph.apply(mutation.variables, X), Trained().apply(mutation.variables, X))
    training = {"deterministic": False, "rngs": {"dropout": jax.random.key(3)}}
    outputs = mutation.graph.apply(mutation.variables, X, mutable=["batch_stats"], **training)
    close(outputs[0], Trained().apply(mutation.variables, X, **training))


def test_what_was_inserted_can_be_removed(network):
    graph, variables = network
    inserted = nas.insert_vertex(graph, variables, "stem", lambda v: nas.layer("adapter", nn.Dense(8), v))
    removed = nas.remove_vertex(*inserted, "adapter")
    assert jax.tree.structure(removed.variables) == jax.tree.structure(variables)
    close(removed.graph.apply(removed.variables, X), graph.apply(variables, X))


def test_a_module_is_replaced_by_another_computation_of_what_it_took_in(network):
    graph, variables = network
    after, own = nas.replace_layer(graph, variables, "block", nn.Dense(8))
    assert set(own["params"]) == {"stem", "block_new", "middle", "head"}
    x = nn.Dense(8).apply({"params": own["params"]["stem"]}, X)
    x = nn.Dense(8).apply({"params": own["params"]["block_new"]}, x)
    x = nn.relu(nn.Dense(8).apply({"params": own["params"]["middle"]}, x))
    close(after.apply(own, X), nn.Dense(3).apply({"params": own["params"]["head"]}, x))
    named, its = nas.replace_layer(
        graph, variables, "middle", lambda v: nas.layer("other", nn.Dense(8), v), new="identity"
    )
    np.testing.assert_array_equal(its["params"]["other"]["kernel"], np.eye(8))
    assert nas.delta_nout(named, its, {"other": -2}).check(X).compared
    with pytest.raises(nas.StructureError, match="has 8 neurons, what takes its place 5"):
        nas.replace_layer(graph, variables, "block", nn.Dense(5))


# -- edges -------------------------------------------------------------------------------------------------------------


def test_a_skip_edge_adds_what_a_module_returned_to_what_another_takes_in(network):
    mutation = nas.create_edge(*network, "stem", "head")
    close(mutation.graph.apply(mutation.variables, X), Net(skip=True).apply(mutation.variables, X))
    handles = mutation.graph.handles()
    assert "middle" in handles["stem"].tied_to
    assert nas.delta_nout(*mutation, {"stem": -3}).check(X).compared


def test_the_widths_of_an_edge_are_aligned():
    model = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(5), nn.relu, nn.Dense(3)])
    graph, variables = nas.from_linen(model, model.init(jax.random.key(0), X), X)
    mutation = nas.create_edge(graph, variables, "layers_0", "layers_4")
    own = mutation.variables["params"]
    assert own["layers_4"]["kernel"].shape == (8, 3)
    first = nn.Dense(8).apply({"params": own["layers_0"]}, X)
    second = nn.relu(nn.Dense(8).apply({"params": own["layers_2"]}, nn.relu(first)))
    close(mutation.graph.apply(mutation.variables, X), nn.Dense(3).apply({"params": own["layers_4"]}, first + second))
    back, old = mutation.undo(mutation.variables)
    close(back.apply(old, X), graph.apply(variables, X))


def test_changes_of_all_kinds_one_after_the_other(network):
    start = network
    first = nas.delta_nout(*start, {"stem": -2, "block/up": 3})
    second = nas.insert_vertex(*first, "block", lambda v: nas.layer("adapter", nn.Dense(6), v))
    third = nas.delta_nout(*second, {"adapter": 5, "middle": -1})
    fourth = nas.create_edge(*third, "adapter", "head")
    fifth = nas.remove_vertex(*fourth, "block")
    last = nas.delta_nout(*fifth, {"stem": -1})
    assert last.check(X).compared
    own = last.variables["params"]
    x = nn.Dense(own["stem"]["bias"].size).apply({"params": own["stem"]}, X)
    adapted = nn.Dense(own["adapter"]["bias"].size).apply({"params": own["adapter"]}, x)
    x = nn.relu(nn.Dense(own["middle"]["bias"].size).apply({"params": own["middle"]}, adapted))
    close(last.graph.apply(last.variables, X), nn.Dense(3).apply({"params": own["head"]}, x + adapted))
    plan = last.plan @ fifth.plan @ fourth.plan @ third.plan @ second.plan @ first.plan
    assert plan.created == {("params", "adapter", "kernel"), ("params", "adapter", "bias")}
    tx = optax.sgd(0.1, momentum=0.9)
    state = tx.init(start[1]["params"])
    for mutation in (first, second, third, fourth, fifth, last):
        state = mutation.carry(state)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, tx.init(last.variables["params"]))


# -- nnx, functions, convolutions, shared modules ----------------------------------------------------------------------


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Linear(6, 8, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(8, 8, rngs=rngs), nnx.Linear(8, 8, rngs=rngs)])
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = nnx.relu(block(x))
        return self.head(x)


def test_nnx_models_are_edited_at_their_modules():
    model = NnxNet(nnx.Rngs(0))
    graph, variables = nas.from_nnx(model, X)
    mutation = nas.insert_vertex(graph, variables, "blocks/0", lambda v: nas.layer("adapter", nn.Dense(8), v))
    assert mutation.check(X).compared
    assert type(model.blocks[0]) is nnx.Linear  # untouched
    removed = nas.remove_vertex(*mutation, "blocks/1")
    assert set(removed.variables["params"]["blocks"]) == {"0"}
    close(removed.graph.apply(removed.variables, X), model.head(nnx.relu(nnx.relu(model.blocks[0](model.stem(X))))))
    skip = nas.create_edge(graph, variables, "stem", "head")
    hidden = nnx.relu(model.blocks[1](nnx.relu(model.blocks[0](model.stem(X)))))
    close(skip.graph.apply(skip.variables, X), model.head(hidden + model.stem(X)))


def test_values_of_a_function_are_named_by_the_user():
    def mlp(variables, x):
        hidden = checkpoint_name(x @ variables["first"]["kernel"], "hidden")
        return jnp.maximum(hidden, 0) @ variables["second"]["kernel"]

    variables = {"first": {"kernel": jnp.ones((6, 8))}, "second": {"kernel": jnp.ones((8, 2))}}
    graph, variables = nas.from_function(mlp, variables, X)
    mutation = nas.insert_vertex(graph, variables, "hidden", lambda v: nas.layer("adapter", nn.Dense(8), v))
    assert mutation.check(X).compared


def test_convolutions_and_their_shapes():
    model = nn.Sequential([nn.Conv(6, (3, 3)), nn.relu, nn.Conv(4, (3, 3)), nn.relu, nn.Conv(4, (3, 3), strides=2)])
    graph, variables = nas.from_linen(model, model.init(jax.random.key(0), IMAGE), IMAGE)
    mutation = nas.insert_vertex(graph, variables, "layers_2", lambda v: nas.layer("conv", nn.Conv(4, (3, 3)), v))
    assert mutation.check(IMAGE).compared
    removed = nas.remove_vertex(graph, variables, "layers_2")
    assert removed.graph.apply(removed.variables, IMAGE).shape == (2, 4, 4, 4)
    with pytest.raises(nas.StructureError, match=r"layers_4' has the shape \(2, 8, 8, 4\).*\(2, 4, 4, 4\)"):
        nas.remove_vertex(graph, variables, "layers_4")


def test_a_shared_module_is_edited_at_each_of_its_calls():
    class Shared(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(6, name="shared")
            return nn.Dense(2, name="head")(nn.relu(layer(nn.relu(layer(x)))))

    model = Shared()
    graph, variables = nas.from_linen(model, model.init(jax.random.key(0), X), X)
    after, own = nas.insert_vertex(graph, variables, "shared", lambda v: nas.layer("new", nn.Dense(6), v), new="init")

    def once(x):
        return nn.relu(nn.Dense(6).apply({"params": own["params"]["new"]}, nn.Dense(6).apply(layer, x)))

    layer = {"params": variables["params"]["shared"]}
    close(after.apply(own, X), nn.Dense(2).apply({"params": own["params"]["head"]}, once(once(X))))


def test_modules_that_are_called_like_functions_have_no_places():
    class Twice(nn.Module):
        def __call__(self, x):
            return 2 * x

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2, name="head")(Twice(parent=None)(nn.Dense(4, name="stem")(x)))

    model = Model()
    graph, variables = nas.from_linen(model, model.init(jax.random.key(0), X), X)
    close(graph.apply(variables, X), model.apply(variables, X))


def test_half_precision_stays_half_precision():
    model = nn.Sequential([nn.Dense(8, dtype=jnp.bfloat16), nn.relu, nn.Dense(3, dtype=jnp.bfloat16)])
    graph, variables = nas.from_linen(model, model.init(jax.random.key(0), X), X)
    after, own = nas.insert_vertex(graph, variables, "layers_0", lambda v: nas.layer("adapter", nn.Dense(8), v))
    assert after.apply(own, X).dtype == jnp.bfloat16


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_refusals(network):
    graph, variables = network

    def adapter(v):
        return nas.layer("adapter", nn.Dense(8), v)

    with pytest.raises(nas.UnknownNameError, match=r"'steam'.*'stem'.*call of a module"):
        nas.insert_vertex(graph, variables, "steam", adapter)
    with pytest.raises(nas.StructureError, match="'head', which the model computes later"):
        nas.create_edge(graph, variables, "head", "stem")
    with pytest.raises(nas.DuplicateNameError, match="'block'"):
        nas.insert_vertex(graph, variables, "stem", lambda v: nas.layer("block", nn.Dense(8), v))
    with pytest.raises(nas.StructureError, match="outputs= is for vertices"):
        nas.insert_vertex(graph, variables, "stem", adapter, outputs=["block"])
    with pytest.raises(nas.StructureError, match="reconnect='none'"):
        nas.remove_vertex(graph, variables, "block", reconnect="none")
    with pytest.raises(nas.StructureError, match="position=0"):
        nas.create_edge(graph, variables, "stem", "head", position=0)
    with pytest.raises(nas.StructureError, match="not removed edge by edge"):
        nas.remove_edge(graph, variables, "stem", "block")
    with pytest.raises(nas.StructureError, match="'x' is a vertex, and 'head' is none"):
        nas.create_edge(graph, variables, "x", "head")
    with pytest.raises(nas.StructureError, match="make must"):
        nas.insert_vertex(graph, variables, "stem", nn.Dense(8))
    with pytest.raises(nas.VariablesError, match="has no variable"):
        nas.remove_vertex(graph, {**variables, "more": {"stem": {"x": X}}}, "block")


def test_a_module_under_vmap_has_no_places():
    class Mapped(nn.Module):
        @nn.compact
        def __call__(self, x):
            axes = {"in_axes": None, "variable_axes": {"params": 0}, "split_rngs": {"params": True}}
            dense = nn.vmap(nn.Dense, axis_size=2, **axes)
            return nn.Dense(2, name="head")(dense(4, name="mapped")(x).sum(0))

    model = Mapped()
    graph, variables = nas.from_linen(model, model.init(jax.random.key(0), X), X)
    with pytest.raises(nas.UnknownNameError, match=r"not under jax\.vmap"):
        nas.insert_vertex(graph, variables, "mapped", lambda v: nas.layer("adapter", nn.Dense(4), v))


def test_layers_in_a_loop_share_what_is_inserted():
    class Cell(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.tanh(nn.Dense(6, name="dense")(x)), None

    class Looped(nn.Module):
        @nn.compact
        def __call__(self, x):
            cell = nn.scan(Cell, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
            return nn.Dense(2, name="head")(cell(name="cell")(x, None)[0])

    model = Looped()
    graph, variables = nas.from_linen(model, model.init(jax.random.key(0), X), X)
    make = {"after": "cell/dense", "make": lambda v: nas.layer("adapter", nn.Dense(6), v), "new": "init"}
    after, own = nas.insert_vertex(graph, variables, **make)
    x = X
    for kernel, bias in zip(*(own["params"]["cell"]["dense"][k] for k in ("kernel", "bias")), strict=True):
        x = jnp.tanh(nn.Dense(6).apply({"params": own["params"]["adapter"]}, x @ kernel + bias))
    close(after.apply(own, X), nn.Dense(2).apply({"params": own["params"]["head"]}, x))
    with pytest.raises(nas.StructureError, match="inside a loop"):
        nas.create_edge(graph, variables, "cell/dense", "head")


@pytest.mark.parametrize("transform", ["scan", "remat"])
def test_statistics_inside_a_loop_are_refused(transform):
    """Their updates could not leave; a layer without them is taken, and so are statistics outside."""

    class Cell(nn.Module):
        @nn.compact
        def __call__(self, x, _=None):
            return jnp.tanh(nn.Dense(6, name="dense")(x)), None

    class Wrapped(nn.Module):
        @nn.compact
        def __call__(self, x):
            scan = nn.scan(Cell, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
            cell = {"scan": scan, "remat": nn.remat(Cell)}[transform]
            return nn.Dense(2, name="head")(cell(name="cell")(x, None)[0])

    model = Wrapped()
    graph, variables = nas.from_linen(model, model.init(jax.random.key(0), X), X)

    def norm(v):
        return nas.layer("norm", nn.BatchNorm(), v)

    for refused in (
        lambda: nas.insert_vertex(graph, variables, "cell/dense", norm),
        lambda: nas.replace_layer(graph, variables, "cell/dense", nn.BatchNorm()),
    ):
        with pytest.raises(nas.StructureError, match=r"loop, branch or transformed call .*batch_stats.*nn.LayerNorm"):
            refused()
    after, own = nas.insert_vertex(graph, variables, "cell/dense", lambda v: nas.layer("norm", nn.LayerNorm(), v))
    assert after.apply(own, X).shape == (4, 2)
    after, own = nas.insert_vertex(graph, variables, "head", norm)
    assert "norm" in after.apply(own, X, train=True, mutable=["batch_stats"])[1]["batch_stats"]
