"""Kernel sizes: filters stay centred, compared with Flax's own convolutions whose outer taps are zero."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import naivenas_jax as nas

POSITIONS = 9
EXACT: dict[str, tuple[type, dict[str, Any]]] = {
    "same": (nn.Conv, {}),
    "same-dilated-3": (nn.Conv, {"kernel_dilation": 3}),
    "circular-strided": (nn.Conv, {"padding": "CIRCULAR", "strides": 2}),
    "reflect": (nn.Conv, {"padding": "REFLECT"}),
    "causal-strided-dilated": (nn.Conv, {"padding": "CAUSAL", "strides": 2, "kernel_dilation": 2}),
    "valid-strided": (nn.Conv, {"padding": "VALID", "strides": 2}),
    "numbers": (nn.Conv, {"padding": ((3, 1),), "strides": 2, "kernel_dilation": 2}),
    "one-number": (nn.Conv, {"padding": 2}),
    "numbers-input-dilated": (nn.Conv, {"input_dilation": 2, "padding": ((2, 1),)}),
    "grouped": (nn.Conv, {"feature_group_count": 2}),
    "transposed": (nn.ConvTranspose, {}),
    "transposed-strided": (nn.ConvTranspose, {"strides": (2,)}),
    "transposed-flipped": (nn.ConvTranspose, {"strides": (2,), "transpose_kernel": True}),
    "transposed-numbers": (nn.ConvTranspose, {"strides": (2,), "padding": ((2, 3),)}),
}


def network(kind: type, window: tuple[int, ...], leading: tuple[int, ...] = (POSITIONS,), **options: Any):
    x = nas.input_vertex("x", 4)
    graph = nas.Graph(x, nas.layer("conv", kind(4, window, **options), x))
    batch = jnp.asarray(np.random.default_rng(0).normal(size=(2, *leading, 4)), jnp.float32)
    return graph, graph.init(jax.random.key(0), batch), batch


@pytest.mark.parametrize(("before", "after"), [(3, 5), (3, 4), (2, 5), (1, 4), (5, 3), (5, 2), (4, 3), (3, 1)])
@pytest.mark.parametrize("name", EXACT)
def test_keeps_what_the_taps_read(name: str, before: int, after: int):
    """Grown, it computes the same; shrunk, what the original does with the outer taps zero."""
    kind, options = EXACT[name]
    graph, variables, x = network(kind, (before,), **options)
    mutation = nas.change_kernel(graph, variables, {"conv": after})
    if mutation.notes:  # 3 taps at a distance of 2 or 3 have a middle, 4 have none
        assert options.get("kernel_dilation", 1) > 1
        assert (after - before) % 2
        return
    kept = mutation.indices("conv:window0")
    kernel = np.array(variables["params"]["conv"]["kernel"])
    kernel[np.setdiff1d(np.arange(before), kept)] = 0
    params = {"params": {**variables["params"]["conv"], "kernel": kernel}}
    expected = kind(4, (before,), **options).apply(params, x)
    np.testing.assert_allclose(mutation.graph.apply(mutation.variables, x), expected, rtol=1e-5, atol=1e-5)
    assert mutation.check(x).compared
    assert len(kept) == after
    assert mutation.variables["params"]["conv"]["kernel"].shape[0] == after


def test_same_with_a_stride_says_that_outputs_may_shift():
    graph, variables, x = network(nn.Conv, (3,), strides=2)
    mutation = nas.change_kernel(graph, variables, {"conv": 6})
    assert "'SAME' adds with stride 2" in mutation.notes[0]
    assert mutation.check(x).compared is False
    assert mutation.graph.apply(mutation.variables, x).shape == graph.apply(variables, x).shape


def test_window_of_two_axes_nnx_and_back():
    """Parameters, optimizer state and undo follow; other vertices are left alone."""
    x = nas.input_vertex("x", 3)
    conv = nas.layer("conv", nnx.Conv(3, 4, (3, 5), padding=((1, 1), (2, 2)), rngs=nnx.Rngs(0)), x)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), conv))
    batch = jax.random.normal(jax.random.key(1), (2, 6, 6, 3))
    variables = graph.init(jax.random.key(0), batch)
    mutation = nas.change_kernel(graph, variables, {"conv": (4, 3)})
    module = mutation.graph["conv"].op.module
    assert (module.kernel_size, module.kernel_shape, module.padding) == ((4, 3), (4, 3, 3, 4), ((1, 2), (1, 1)))
    assert mutation.variables["params"]["out"] == variables["params"]["out"]
    old = variables["params"]["conv"]["kernel"]
    np.testing.assert_array_equal(mutation.variables["params"]["conv"]["kernel"][:3], old[:, 1:4])
    np.testing.assert_array_equal(mutation.variables["params"]["conv"]["kernel"][3], 0)
    assert mutation.check(batch).compared
    fresh = jax.eval_shape(mutation.graph.init, jax.random.key(0), batch)
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, mutation.variables)

    state = optax.adam(0.1).init(variables["params"])
    _, state = optax.adam(0.1).update(jax.tree.map(jnp.ones_like, variables["params"]), state)
    carried = mutation.carry(state)
    assert carried[0].mu["conv"]["kernel"].shape == (4, 3, 3, 4)
    assert float(carried[0].mu["conv"]["kernel"][0, 0, 0, 0]) == pytest.approx(0.1)
    assert not carried[0].mu["conv"]["kernel"][3].any()

    before, restored = mutation.undo(mutation.variables)
    assert before == graph
    jax.tree.map(np.testing.assert_array_equal, restored, variables)
    jax.tree.map(np.testing.assert_array_equal, mutation.carry(variables), mutation.variables)


def test_width_and_kernel_compose():
    graph, variables, _ = network(nn.Conv, (3,))
    wider = nas.delta_nout(graph, variables, {"conv": 2})
    larger = nas.change_kernel(*wider, {"conv": 5})
    narrower = nas.delta_nout(*larger, {"conv": -3})
    plan = narrower.plan @ larger.plan @ wider.plan
    assert plan.axis("conv:window0").source.tolist() == [-1, 0, 1, 2, -1]
    assert type(plan).from_json(plan.to_json()) == plan
    from naivenas_jax.transfer.carrying.carry import carry

    together, _ = carry(plan, variables, variables, narrower.variables)
    step = narrower.carry(larger.carry(wider.carry(variables)))
    jax.tree.map(np.testing.assert_array_equal, together, step)


@pytest.mark.parametrize(
    ("kind", "options", "request_", "error", "message"),
    [
        (nn.Conv, {}, {"conv": (3, 3)}, nas.RequestError, r"'conv'.*1 whole number .*found \(3, 3\)"),
        (nn.Conv, {}, {"conv": 0}, nas.RequestError, "at least 1, found 0"),
        (nn.Conv, {}, {}, nas.RequestError, "vertex: kernel size"),
        (nn.Conv, {}, {"cov": 3}, nas.UnknownNameError, "'conv'"),
        (nn.ConvLocal, {}, {"conv": 5}, nas.StructureError, "'conv'.*no kernel size"),
        (nn.ConvTranspose, {"padding": "CIRCULAR"}, {"conv": 5}, nas.StructureError, "transposed and circular"),
        (nn.Conv, {}, {"x": 5}, nas.StructureError, "'x'"),
    ],
)
def test_refusals(kind: type, options: dict[str, Any], request_: Any, error: type, message: str):
    graph, variables, _ = network(kind, (3,), **options)
    with pytest.raises(error, match=message):
        nas.change_kernel(graph, variables, request_)
