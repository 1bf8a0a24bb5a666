"""Convolutions in the layout that is fast in loops are those that they stand for, and so are all their derivatives."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from naivenas_jax.jaxpr.looped_convolution import convolve_in_loop

CASES = {
    "plain": ((3, 8, 7, 4), (3, 3, 4, 6), {"padding": "SAME"}),
    "strides": ((3, 8, 7, 4), (3, 2, 4, 6), {"window_strides": (2, 3), "padding": "VALID"}),
    "dilated": ((3, 8, 7, 4), (3, 3, 4, 6), {"padding": [(1, 2), (0, 3)], "rhs_dilation": (2, 1)}),
    "transposed": ((3, 4, 5, 4), (3, 3, 4, 6), {"padding": [(1, 2), (2, 2)], "lhs_dilation": (2, 3)}),
    "groups": ((3, 8, 7, 4), (3, 3, 2, 6), {"padding": "SAME", "feature_group_count": 2}),
    "depthwise": ((3, 8, 7, 4), (3, 3, 1, 4), {"padding": "SAME", "window_strides": (2, 2), "feature_group_count": 4}),
    "one dimension": ((3, 9, 4), (3, 4, 6), {"padding": "SAME", "names": ("NWC", "WIO", "NWC")}),
    "three dimensions": ((2, 4, 5, 3, 2), (2, 2, 2, 2, 3), {"padding": "SAME", "names": ("NDHWC", "DHWIO", "NDHWC")}),
    "channels first": ((3, 4, 8, 7), (6, 4, 3, 3), {"padding": "SAME", "names": ("NCHW", "OIHW", "NCHW")}),
    "any layout": ((4, 8, 3, 7), (6, 3, 4, 3), {"padding": "SAME", "names": ("CHNW", "OHIW", "HCWN")}),
}


def pair(case):
    image, kernel, params = CASES[case]
    params = dict(params)
    strides = params.pop("window_strides", (1,) * (len(image) - 2))
    names = params.pop("names", ("NHWC", "HWIO", "NHWC"))

    def original(x, k):
        return lax.conv_general_dilated(x, k, strides, dimension_numbers=names, **params)

    operands = [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate((image, kernel))]
    (eqn,) = jax.make_jaxpr(original)(*operands).jaxpr.eqns
    return original, lambda x, k: convolve_in_loop(eqn, x, k, eqn.params["feature_group_count"]), operands


@pytest.mark.parametrize("case", CASES)
def test_values_and_derivatives(case):
    original, other, operands = pair(case)
    moved = [jax.random.normal(jax.random.key(7), x.shape) for x in operands]

    def found(fn):
        made, forward = jax.jvp(fn, operands, moved)
        _, pull = jax.vjp(fn, *operands)
        loss = jax.grad(lambda x, k: jnp.sum(jnp.sin(fn(x, k))), (0, 1))
        of_one = [jax.jvp(lambda o, i=i: fn(*(o if j == i else x for j, x in enumerate(operands))),
                          (operands[i],), (moved[i],))[1] for i in (0, 1)]  # fmt: skip
        return made, forward, pull(made), jax.jvp(loss, operands, moved)[1], of_one

    chex.assert_trees_all_close(
        jax.jit(found, static_argnums=0)(other), jax.jit(found, static_argnums=0)(original), rtol=1e-4, atol=1e-4
    )


def test_side_by_side():
    original, other, (x, k) = pair("groups")
    both = jnp.stack([x, -x]), jnp.stack([k, 2 * k])
    grads = [
        jax.jit(jax.vmap(jax.grad(lambda x, k, fn=fn: jnp.sum(jnp.sin(fn(x, k))), (0, 1)))) for fn in (original, other)
    ]
    chex.assert_trees_all_close(grads[0](*both), grads[1](*both), rtol=1e-4, atol=1e-4)


def test_whole_numbers_are_convolved_as_they_are():
    x, k = np.arange(24).reshape(1, 3, 4, 2), np.ones((2, 2, 2, 1), int)

    def original(x, k):
        return lax.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    (eqn,) = jax.make_jaxpr(original)(x, k).jaxpr.eqns
    np.testing.assert_array_equal(convolve_in_loop(eqn, jnp.asarray(x), jnp.asarray(k), 1), original(x, k))


@pytest.mark.parametrize("case", ["plain", "channels first", "any layout", "strides"])
def test_all_convolutions_of_a_gradient_in_a_loop_have_the_fast_layout(case):
    """The three of the compiled program, whose text says how it labels dimensions."""
    original, other, operands = pair(case)
    many = [jnp.stack([x, 2 * x]) for x in operands]

    def layouts(fn):
        looped = jax.grad(lambda xs, ks: jnp.sum(jnp.sin(lax.map(lambda xk: fn(*xk), (xs, ks)))), (0, 1))
        text = jax.jit(looped).lower(*many).compile().as_text()
        return re.findall(r"convolution\(.*dim_labels=(\w+->\w+)", text)

    assert layouts(other) == ["b01f_01io->b01f"] * 3
    assert layouts(original) != ["b01f_01io->b01f"] * 3
