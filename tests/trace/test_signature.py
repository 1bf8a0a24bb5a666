"""Imported models take and return what they did: dicts, tuples, dataclasses, with constants and None among them."""

from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import freeze

import naivenas_jax as nas

KEY = jax.random.key(0)
IMAGE, TEXT = jax.random.normal(KEY, (2, 4)), jax.random.normal(jax.random.key(1), (2, 5))


class Views(NamedTuple):
    image: Any
    text: Any


@flax.struct.dataclass
class Batch:
    views: Views
    kind: str = flax.struct.field(pytree_node=False, default="a")


@flax.struct.dataclass
class Found:
    logits: Any
    parts: Any = None


def _computed(dense, image, text):
    """Two towers and a head; ``dense(name, width)`` is a layer."""
    h = nn.relu(dense("image", 8)(image)) + dense("text", 8)(text)
    return dense("head", 3)(nn.relu(h)), h


class Dicts(nn.Module):
    @nn.compact
    def __call__(self, batch, mode="sum", extra=None):
        logits, h = _computed(lambda name, n: nn.Dense(n, name=name), batch["image"], batch["text"])
        logits = logits if extra is None else logits + extra["bias"]
        return {"logits": logits, "pooled": {"embedding": h, "mode": mode}, "none": None}


class Dataclasses(nn.Module):
    @nn.compact
    def __call__(self, batch):
        assert batch.kind == "b"
        logits, h = _computed(lambda name, n: nn.Dense(n, name=name), batch.views.image, batch.views.text)
        return Found(logits, [h, (jnp.tanh(logits), 7)])


class OfNnx(nnx.Module):
    def __init__(self):
        for name, n, m in (("image", 4, 8), ("text", 5, 8), ("head", 8, 3)):
            setattr(self, name, nnx.Linear(n, m, rngs=nnx.Rngs(3)))

    def __call__(self, views, scale):
        logits, h = _computed(lambda name, n: getattr(self, name), views.image * scale["by"], views.text)
        return Views(logits, (h,))


def _linen(module, *inputs):
    graph, variables = nas.from_linen(module, module.init(KEY, *inputs), *inputs)
    return graph, variables, lambda v: module.apply(v, *inputs), inputs


def _nnx():
    model, inputs = OfNnx(), (Views(IMAGE, TEXT), {"by": 2.0})
    graph, variables = nas.from_nnx(model, *inputs)
    definition, state = nnx.split(model)

    def call(v):
        new = nnx.clone(nnx.merge(definition, state))
        for name in ("image", "text", "head"):
            getattr(new, name).kernel.set_value(v["params"][name]["kernel"])
            getattr(new, name).bias.set_value(v["params"][name]["bias"])
        return new(*inputs)

    return graph, variables, call, inputs


def _function():
    def function(v, views):
        def dense(name, width):
            return lambda x: x @ v["params"][name]["kernel"] + v["params"][name]["bias"]

        logits, h = _computed(dense, *views)
        return [logits, {"h": h, "none": None}]

    _, variables, _, _ = _linen(Dicts(), {"image": IMAGE, "text": TEXT})
    inputs = ([IMAGE, TEXT],)
    graph, variables = nas.from_function(function, variables, *inputs)
    return graph, variables, lambda v: function(v, *inputs), inputs


MODELS = {
    "dicts": lambda: _linen(Dicts(), {"image": IMAGE, "text": TEXT}, "sum", None),
    "a frozen dict": lambda: _linen(Dicts(), freeze({"image": IMAGE, "text": TEXT}), "sum", {"bias": TEXT[:, :3]}),
    "dataclasses": lambda: _linen(Dataclasses(), Batch(Views(IMAGE, TEXT), "b")),
    "nnx": _nnx,
    "a function": _function,
}
NAMES = {
    "dicts": (["batch/image", "batch/text"], ["output/logits", "output/pooled/embedding"]),
    "a frozen dict": (
        ["batch/image", "batch/text", "extra/bias"],
        ["output/logits", "output/pooled/embedding"],
    ),
    "dataclasses": (["batch/views/image", "batch/views/text"], ["output/logits", "output/parts/0", "output/parts/1/0"]),
    "nnx": (["views/image", "views/text"], ["output/image", "output/text/0"]),
    "a function": (["views0", "views1"], ["output0", "output1/h"]),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return (*MODELS[request.param](), NAMES[request.param])


def same(found, expected):
    """The same structure, constants and values."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert isinstance(a, jax.Array) == isinstance(b, jax.Array)
        if isinstance(a, jax.Array):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        else:
            assert (type(a), a) == (type(b), b)


def test_a_graph_takes_and_returns_what_the_model_does(model):
    graph, variables, call, inputs, (takes, returns) = model
    assert ([v.name for v in graph.inputs], [v.name for v in graph.outputs]) == (takes, returns)
    same(graph.apply(variables, *inputs), call(variables))
    same(nas.apply(graph, variables, *inputs), call(variables))
    same(graph.apply(variables, *[x for x in jax.tree.leaves(inputs) if isinstance(x, jax.Array)]), call(variables))


def _zeroed(variables, dropped):
    """Weights of the user's own model whose dropped neurons are cut off by hand, where they are read."""
    kernel = variables["params"]["head"]["kernel"].at[jnp.asarray(dropped)].set(0)
    return {"params": {**variables["params"], "head": {**variables["params"]["head"], "kernel": kernel}}}


def test_a_shrink_keeps_the_signature_and_is_the_users_model_with_neurons_cut_by_hand(model):
    graph, variables, call, inputs, (_, returns) = model
    free = tuple(name for name in returns if name not in returns[:1])
    mutation = nas.delta_nout(graph, variables, {"image": -3}, free_outputs=free)
    small, its = mutation
    kept = mutation.indices("image")
    found, expected = small.apply(its, *inputs), call(_zeroed(variables, np.setdiff1d(np.arange(8), kept)))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    arrays = [[x for x in jax.tree.leaves(t) if isinstance(x, jax.Array)] for t in (found, expected)]
    np.testing.assert_allclose(arrays[0][0], arrays[1][0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(arrays[0][1], arrays[1][1][:, kept], rtol=1e-5, atol=1e-6)
    assert mutation.check(*inputs).compared
    back, old = mutation.undo(its)
    same(back.apply(old, *inputs), call(variables))
    assert back == graph
    assert hash(back) == hash(graph)


def test_outputs_that_are_not_freed_keep_their_neurons(model):
    graph, variables, _, _, (_, returns) = model
    with pytest.raises(nas.InfeasibleError, match=f"'{returns[1]}' is an output of the graph and keeps every neuron"):
        nas.delta_nout(graph, variables, {"image": -3})


def test_requests_and_sample_inputs_go_by_the_names_of_arrays(model):
    graph, variables, _, inputs, (takes, _) = model
    arrays = [x for x in jax.tree.leaves(inputs) if isinstance(x, jax.Array)]
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays]
    for given in (inputs, tuple(arrays), dict(zip(takes, shapes, strict=True))):
        smaller = nas.delta_nout(graph, variables, {takes[0]: -1}, inputs=given)
        assert smaller.graph.nout(takes[0]) == 3
        assert smaller.variables["params"]["image"]["kernel"].shape == (3, 8)
    assert nas.delta_nin(graph, variables, {"model": (-1, *(None,) * (len(takes) - 1))}).graph.nout(takes[0]) == 3
    by_macs = nas.resize(
        graph, variables, max_macs=0.9, inputs=inputs if len(inputs) > 1 else inputs[0], free_outputs=True
    )
    assert nas.costs(by_macs.graph, by_macs.variables, *inputs).macs <= 0.9 * nas.costs(graph, variables, *inputs).macs


def test_transformations_of_jax_go_through(model):
    graph, variables, call, inputs, _ = model
    arrays, others = [x for x in jax.tree.leaves(inputs) if isinstance(x, jax.Array)], jax.tree.structure(inputs)
    constants = [None if isinstance(x, jax.Array) else x for x in jax.tree.leaves(inputs)]

    def outputs(v, given):
        rest = iter(given)
        full = jax.tree.unflatten(others, [next(rest) if c is None else c for c in constants])
        return [x for x in jax.tree.leaves(graph.apply(v, *full)) if isinstance(x, jax.Array)]

    expected = [x for x in jax.tree.leaves(call(variables)) if isinstance(x, jax.Array)]
    same(jax.jit(outputs)(variables, arrays), expected)
    one_by_one = jax.vmap(lambda given: outputs(variables, [x[None] for x in given]))(arrays)
    same([x[:, 0] for x in one_by_one], expected)
    slope = jax.grad(lambda v: outputs(v, arrays)[0].sum())(variables)
    np.testing.assert_allclose(slope["params"]["head"]["bias"], [2.0, 2.0, 2.0])


@pytest.mark.parametrize("name", ["dicts", "nnx"])
def test_what_reads_data_takes_the_structures(name):
    (graph, variables, _, inputs), (_, returns) = MODELS[name](), NAMES[name]
    batches = [inputs if len(inputs) > 1 else inputs[0]] * 2
    mutation = nas.delta_nout(graph, variables, {"image": -3}, free_outputs=returns[1:])
    assert nas.compensate(mutation, batches).graph == mutation.graph
    assert (
        nas.compress(graph, variables, batches, max_params=0.9, refine=0, free_outputs=True).graph.signature
        == graph.signature
    )
    assert nas.recalibrate(graph, variables, batches) == variables
    assert nas.activity(graph, variables, batches)["image"].shape == (8,)

    def loss(apply, v, batch):
        found = apply(v, *(batch if len(inputs) > 1 else (batch,)))
        return sum((x**2).mean() for x in jax.tree.leaves(found) if isinstance(x, jax.Array))

    for each in ("batch", "example"):
        assert nas.taylor(graph, variables, loss, batches, each=each)["image"].shape == (8,)
    assert nas.fisher(graph, variables, loss, batches)["image"].shape == (8,)
    table = nas.measure_latency(graph, variables, *inputs, timer=lambda fn, arrays: arrays[1].size)
    assert table(graph) > table(mutation.graph)
    assert "image" in str(nas.summary(graph, variables))
    assert "head" in str(graph.summary(variables))


def test_an_edit_keeps_the_signature(model):
    graph, variables, call, inputs, (_, returns) = model
    modules = () if returns[0] == "output0" else ("head",)  # a function has none
    for at in (*modules, returns[0]):
        edited = nas.insert_vertex(graph, variables, at, lambda v: nas.layer("more", nn.Dense(3), v))
        same(edited.graph.apply(edited.variables, *inputs), call(variables))
        named = nas.rename(edited.graph, edited.variables, {returns[0]: "answer"})
        same(named.graph.apply(named.variables, *inputs), call(variables))


def test_rebuild_gives_back_a_model_of_the_same_signature():
    for module, inputs in (
        (Dicts(), ({"image": IMAGE, "text": TEXT}, "sum", {"bias": TEXT[:, :3]})),
        (Dataclasses(), (Batch(Views(IMAGE, TEXT), "b"),)),
    ):
        graph, variables = nas.from_linen(module, module.init(KEY, *inputs), *inputs)
        mutation = nas.delta_nout(graph, variables, {"image": -3}, free_outputs=True)
        own = nas.rebuild(module, mutation)
        same(own.apply(mutation.variables, *inputs), mutation.graph.apply(mutation.variables, *inputs))
    model, inputs = OfNnx(), (Views(IMAGE, TEXT), {"by": 2.0})
    mutation = nas.delta_nout(*nas.from_nnx(model, *inputs), {"image": -3}, free_outputs=True)
    same(nas.rebuild(model, mutation)(*inputs), mutation.graph.apply(mutation.variables, *inputs))


class Switching(nn.Module):
    @nn.compact
    def __call__(self, x, details=False):
        h = nn.Dense(6, name="hidden")(x)
        logits = nn.Dense(3, name="out")(nn.relu(h))
        return {"logits": logits, "hidden": h} if details else logits


def test_another_structure_in_another_way_to_call_it():
    module = Switching()
    variables = module.init(KEY, IMAGE)
    graph, variables = nas.from_linen(module, variables, IMAGE)
    same(graph.apply(variables, IMAGE, details=True), module.apply(variables, IMAGE, details=True))
    small, its = nas.delta_nout(graph, variables, {"hidden": -2})
    found = small.apply(its, IMAGE, details=True)
    assert found["hidden"].shape == (2, 4)
    np.testing.assert_allclose(found["logits"], small.apply(its, IMAGE), rtol=1e-6)
    behind = nas.insert_vertex(graph, variables, "output", lambda v: nas.layer("more", nn.Dense(3), v))
    with pytest.raises(nas.GraphError, match="returns another structure than at its import"):
        behind.graph.apply(behind.variables, IMAGE, details=True)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (({"image": IMAGE},), "'batch/text' is missing"),
        (({"image": IMAGE, "text": TEXT, "more": TEXT}, "sum", None), "'batch/more' is not among them"),
        (((IMAGE, TEXT), "sum", None), "'batch/image' is missing"),
        (({"image": IMAGE, "text": None}, "sum", None), "'batch/text' is None, and was not"),
        (({"image": IMAGE, "text": TEXT}, "sum", TEXT), "'extra' is an array, and was not"),
        (({"image": IMAGE, "text": TEXT}, "mean", None), "'mode' was 'sum' when the model was imported"),
        ((freeze({"image": IMAGE, "text": TEXT}), "sum", None), "found other containers"),
        (({"image": IMAGE, "text": "no"}, "sum", None), "Input 'batch/text' must be an array; found str"),
    ],
)
def test_other_structures_and_constants_are_refused(inputs, message):
    graph, variables, _, _ = MODELS["dicts"]()
    with pytest.raises(nas.GraphError, match=message):
        graph.apply(variables, *inputs)
    with pytest.raises(nas.GraphError, match="inputs="):
        nas.delta_nout(graph, variables, {"text": 1}, inputs=inputs, free_outputs=True)


def test_a_constant_that_is_traced_is_refused():
    def scaled(v, batch):
        return batch["x"] @ v["params"]["w"] * batch["by"]

    variables, batch = {"params": {"w": jnp.ones((4, 3))}}, {"x": IMAGE, "by": 2}
    graph, variables = nas.from_function(scaled, variables, batch)
    same(graph.apply(variables, batch), scaled(variables, batch))
    for other in (3, 2.0, True, "2"):
        with pytest.raises(nas.GraphError, match="'batch/by' was 2 when the model was imported"):
            graph.apply(variables, {"x": IMAGE, "by": other})
    with pytest.raises(nas.GraphError, match="found a traced value"):
        jax.jit(graph.apply)(variables, batch)


def test_classes_that_are_no_pytrees_are_refused():
    class Unregistered:
        __hash__ = None

    with pytest.raises(nas.GraphError, match="A class that holds arrays has to be a pytree"):
        nas.from_function(lambda v, x, y: x @ v["params"]["w"], {"params": {"w": TEXT}}, TEXT.T, Unregistered())


def test_a_graph_as_a_part_of_another_graph():
    graph, variables, _, _ = MODELS["dicts"]()
    assert nas.Graph(graph.inputs, graph.outputs).signature is None
    first, second = nas.Graph(graph.inputs, graph.outputs).apply(variables, IMAGE, TEXT)
    assert first.shape == (2, 3)
    assert second.shape == (2, 8)
    as_module = graph.as_module()
    same(as_module.apply(variables, {"image": IMAGE, "text": TEXT}, "sum", None)["logits"], first)
