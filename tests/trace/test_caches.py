"""Models that write a cache in evaluation: it is a state, whose axes are those of what is written."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import naivenas_jax as nas

X = jax.random.normal(jax.random.key(0), (2, 5, 4))
STEP = X[:, :1]


class Decoder(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.Dense(8, name="in_")(x)
        h = h + nn.MultiHeadDotProductAttention(2, qkv_features=8, decode=True, name="att")(h, h)
        return {"logits": nn.Dense(3, name="out")(h), "hidden": h}


class Memory(nn.Module):
    """A cell whose state is a variable; its normalisation does not change in evaluation."""

    @nn.compact
    def __call__(self, x):
        h = nn.BatchNorm(use_running_average=True, name="norm")(nn.Dense(6, name="in_")(x))
        memory = self.variable("cache", "memory", jnp.zeros, (len(x), 1, 6))
        memory.value = jnp.tanh(h + 0.5 * memory.value)
        return {"logits": nn.Dense(3, name="out")(memory.value)}


class NnxMemory(nnx.Module):
    def __init__(self):
        self.in_, self.out = nnx.Linear(4, 6, rngs=nnx.Rngs(0)), nnx.Linear(6, 3, rngs=nnx.Rngs(1))
        self.memory = nnx.Cache(jnp.zeros((2, 1, 6)))

    def __call__(self, x):
        self.memory[...] = jnp.tanh(self.in_(x) + 0.5 * self.memory[...])
        return {"logits": self.out(self.memory[...])}


def steps(apply, variables):
    """The logits of three steps, and the variables after them."""
    found = []
    for i in range(3):
        outputs, updates = apply(variables, X[:, i : i + 1], mutable=["cache"])
        variables = {**variables, **updates}
        found.append(outputs["logits"])
    return jnp.stack(found), variables


def imported(module):
    variables = module.init(jax.random.key(1), X if isinstance(module, Decoder) else STEP)
    return variables, *nas.from_linen(module, variables, STEP)


def cut(variables, name, dim, kept):
    """The user's own variables with the weights that read dropped neurons set to zero by hand."""
    params = variables["params"]
    layer = params["att"]["out"] if name == "att" else params[name]
    mask = np.zeros(layer["kernel"].shape, np.float32)
    mask[(slice(None),) * dim + (kept,)] = 1
    layer = {**layer, "kernel": layer["kernel"] * mask}
    params = {**params, name: {**params[name], "out": layer} if name == "att" else layer}
    return {**variables, "params": params}


@pytest.mark.parametrize(
    ("module", "handle", "reader", "dim", "shapes"),
    [
        (Decoder(), "att/value:features", "att", 1, {"cached_value": (2, 5, 2, 3), "cached_key": (2, 5, 2, 4)}),
        (Decoder(), "att/value:heads", "att", 0, {"cached_value": (2, 5, 1, 4), "cached_key": (2, 5, 1, 4)}),
        (Memory(), "in_", "out", 0, {"memory": (2, 1, 5)}),
    ],
)
def test_a_cache_shrinks_with_what_is_written_to_it(module, handle, reader, dim, shapes):
    variables, graph, own = imported(module)
    for a, b in zip(jax.tree.leaves(steps(graph.apply, own)), jax.tree.leaves(steps(module.apply, own)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    mutation = nas.delta_nout(graph, own, {handle: -1})
    logits, after = steps(mutation.graph.apply, mutation.variables)
    cache = after["cache"]["att"] if reader == "att" else after["cache"]
    assert {name: cache[name].shape for name in shapes} == shapes
    expected, _ = steps(module.apply, cut(variables, reader, dim, mutation.indices(handle)))
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert mutation.check(STEP).compared
    assert mutation.check(STEP, mutable=["cache"]).compared
    grown = nas.delta_nout(graph, after_three(graph, own), {handle: 1})
    assert grown.check(STEP).compared


def after_three(graph, variables):
    """Variables whose cache has been written to."""
    return steps(graph.apply, variables)[1]


def test_updates_are_asked_for_as_of_the_model_itself():
    _, graph, variables = imported(Memory())
    with pytest.raises(nas.GraphError, match=r"Cannot update variable \"memory\".*Pass graph.apply\(..., mutable="):
        graph.apply(variables, STEP)
    _, updates = graph.apply(variables, STEP, mutable=["cache", "batch_stats"])
    assert sorted(updates) == ["batch_stats", "cache"]


def test_what_reads_data_does_not_need_to_be_told():
    _, graph, variables = imported(Memory())
    mutation = nas.delta_nout(graph, variables, {"in_": -2}, inputs=STEP)
    assert nas.compensate(mutation, [STEP] * 2).variables["cache"]["memory"].shape == (2, 1, 4)
    assert nas.activity(graph, variables, [STEP])["in_"].shape == (6,)
    assert nas.costs(graph, variables, STEP).macs == 2 * (4 * 6 + 6 * 3)
    edited = nas.insert_vertex(graph, variables, "in_", lambda v: nas.layer("more", nn.Dense(6), v))
    np.testing.assert_allclose(
        steps(edited.graph.apply, edited.variables)[0], steps(graph.apply, variables)[0], atol=1e-6
    )


def test_models_with_a_cache_come_back():
    for module, free in ((Memory(), False), (Decoder(), "output/hidden")):
        _, graph, variables = imported(module)
        mutation = nas.delta_nout(graph, variables, {"in_": -2}, free_outputs=free)
        own, its = nas.rebuild(module, mutation), mutation.variables
        np.testing.assert_allclose(steps(own.apply, its)[0], steps(mutation.graph.apply, its)[0], atol=1e-6)


def test_a_cache_of_nnx():
    model = NnxMemory()
    graph, variables = nas.from_nnx(model, STEP)
    mutation = nas.delta_nout(graph, variables, {"in_": -2})
    logits, after = steps(mutation.graph.apply, mutation.variables)
    assert after["cache"]["memory"].shape == (2, 1, 4)
    kernel = model.out.kernel[...]
    model.out.kernel[...] = jnp.zeros_like(kernel).at[mutation.indices("in_")].set(kernel[mutation.indices("in_")])
    expected = jnp.stack([model(X[:, i : i + 1])["logits"] for i in range(3)])
    np.testing.assert_allclose(logits, expected, atol=1e-6)
    with pytest.raises(nas.GraphError, match=r"mutable=\['cache'\]"):
        mutation.graph.apply(mutation.variables, STEP)
    rebuilt = nas.rebuild(NnxMemory(), mutation)
    np.testing.assert_allclose(jnp.stack([rebuilt(X[:, i : i + 1])["logits"] for i in range(3)]), logits, atol=1e-6)


def test_a_cache_that_is_returned_freezes_nothing():
    def step(v, x, cache):
        hidden = jnp.tanh(x @ v["params"]["in_"]["w"] + cache["hidden"])
        return hidden @ v["params"]["out"]["w"], {"hidden": hidden, "count": cache["count"] + 1}

    variables = {"params": {"in_": {"w": jnp.ones((4, 6))}, "out": {"w": jnp.ones((6, 3))}}}
    cache = {"hidden": jnp.zeros((2, 6)), "count": jnp.zeros((), jnp.int32)}
    graph, variables = nas.from_function(step, variables, X[:, 0], cache)
    assert [v.name for v in graph.outputs] == ["output0", "output1/count", "output1/hidden"]
    small, its = nas.delta_nout(graph, variables, {"cache/hidden": -2}, free_outputs="output1")
    logits, new = small.apply(its, X[:, 0], {**cache, "hidden": jnp.zeros((2, 4))})
    assert logits.shape == (2, 3)
    assert new["hidden"].shape == (2, 4)
    assert int(new["count"]) == 1
