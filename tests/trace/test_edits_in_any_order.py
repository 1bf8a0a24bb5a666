"""Edits of imported models in any order: beside the model and inside, then widths; variables stay on their own axes."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import naivenas_jax as nas


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="c")(nn.relu(nn.Dense(6, name="b")(nn.relu(nn.Dense(6, name="a")(x)))))


class Nnx(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.a, self.b, self.c = nnx.Linear(4, 6, rngs=rngs), nnx.Linear(6, 6, rngs=rngs), nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        return self.c(nnx.relu(self.b(nnx.relu(self.a(x)))))


X = jax.random.normal(jax.random.key(0), (5, 4))


def linen():
    return nas.from_linen(Linen(), Linen().init(jax.random.key(1), X), X)


def of_nnx():
    return nas.from_nnx(Nnx(), X)


def insert(after, name, layer=nn.Dense):
    def edit(graph, variables):
        make = lambda v: nas.layer(name, layer(v.nout) if layer is nn.Dense else layer(use_running_average=True), v)  # noqa: E731
        return nas.insert_vertex(graph, variables, after, make, new="init", rng=jax.random.key(len(name)))

    return edit


EDITS = {
    "at the input": insert("x", "first"),
    "at the output": insert("output", "last"),
    "inside": insert("a", "inner"),
    "normalised at the input": insert("x", "norm", nn.BatchNorm),
    "an edge inside": lambda graph, variables: nas.create_edge(graph, variables, "a", "c"),
    "a removal inside": lambda graph, variables: nas.remove_vertex(graph, variables, "b"),
}


def fits(mutation):
    """The new network runs, its axes have the sizes of its arrays, and each width can change for itself."""
    graph, variables = mutation
    out = graph.apply(variables, X)
    for name, handle in graph.handles().items():
        if name in ("x", "output") or "x" in handle.tied_to:
            continue
        narrow = nas.delta_nout(graph, variables, {name: -1}, free_outputs=True)
        assert narrow.graph.handles()[name].size == handle.size - 1
        kernel = variables["params"].get(name, {}).get("kernel")
        if kernel is not None:
            assert narrow.variables["params"][name]["kernel"].shape[-1] == kernel.shape[-1] - 1
        narrow.check(X)
        if handle.coupled is None:
            grown = nas.delta_nout(graph, variables, {name: 2})
            more = grown.graph.apply(grown.variables, X)[:, : out.shape[1]]  # what grows may be the output
            np.testing.assert_allclose(more, out, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", [linen, of_nnx])
@pytest.mark.parametrize("names", list(itertools.permutations(["at the input", "inside", "at the output"])))
def test_layers_inserted_in_any_order_have_axes_of_their_own(model, names):
    network = model()
    for name in names:
        network = EDITS[name](*network)
    fits(network)
    back = network.undo(network.variables)
    assert back[0] == network.before


@pytest.mark.parametrize(
    "names", [p for p in itertools.permutations(EDITS, 2) if not {"at the output"} & set(p)], ids=" then ".join
)
def test_two_edits_in_any_order(names):
    network = linen()
    for name in names:
        network = EDITS[name](*network)
    fits(network)


def test_a_vertex_beside_the_model_computes_what_it_did_after_an_edit_inside():
    first = EDITS["at the input"](*linen())
    second = nas.insert_vertex(*first, "a", lambda v: nas.layer("inner", nn.Dense(v.nout), v))  # the identity
    np.testing.assert_allclose(
        second.graph.apply(second.variables, X), first.graph.apply(first.variables, X), atol=1e-6
    )
    assert second.graph.ties.leaves["params", "first", "kernel"].axes == ("x", "first")
    assert (second.plan @ first.plan).created >= {("params", "first", "kernel"), ("params", "inner", "kernel")}


def test_a_vertex_beside_the_model_has_a_name_of_its_own():
    graph, variables = linen()
    with pytest.raises(nas.DuplicateNameError):
        nas.insert_vertex(graph, variables, "x", lambda v: nas.layer("a", nn.Dense(v.nout), v))


def test_a_result_whose_variables_do_not_fit_is_never_returned():
    from dataclasses import replace

    from naivenas_jax.mutate.around.fit_check import check_fit

    mutation = nas.delta_nout(*linen(), {"a": -1})
    check_fit(mutation)
    wrong = jax.tree.map(lambda array: array, mutation.variables)
    wrong["params"]["b"]["kernel"] = jnp.ones((6, 6))
    with pytest.raises(nas.InternalError, match=r"\['b'\]\['kernel'\].* \(6, 6\).*mistake of naivenas_jax"):
        check_fit(replace(mutation, variables=wrong))


@pytest.mark.parametrize("model", [linen, of_nnx])
def test_keywords_of_an_edit_inside_name_parts_of_the_whole_network(model):
    graph, variables = model()
    make = lambda v: nas.layer("inner", nn.Dense(v.nout), v)  # noqa: E731
    given = {"utility": nas.magnitude(graph, variables), "free_outputs": ("output",)}
    inserted = nas.insert_vertex(graph, variables, "a", make, **given)
    assert inserted.graph.handles()["inner"].size == 6
    fits(inserted)
    with pytest.raises(nas.UnknownNameError, match="free_outputs: There is no vertex or axis named 'none'"):
        nas.insert_vertex(graph, variables, "a", make, free_outputs=("none",))
    with pytest.raises(nas.UtilityError, match="utility: There is no vertex or axis named 'none'"):
        nas.insert_vertex(graph, variables, "a", make, utility={"none": 1.0})
