"""Contractions: matrix products and convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from naivenas_jax.jaxpr.interpret import Equation, bind
from naivenas_jax.jaxpr.looped_convolution import convolve_in_loop
from naivenas_jax.trace.program.analysis import Analysis, ties, unknown
from naivenas_jax.trace.program.frame import Frame
from naivenas_jax.trace.program.rebind import NewSizes, binds
from naivenas_jax.trace.program.value import Dim, Sum, Value, weight_of
from naivenas_jax.typing import Array


@ties("dot_general")
def dot(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """Contracted and batch dimensions are tied, the others pass."""
    del frame
    left, right = values
    (left_over, right_over), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    found = [analysis.contract(left, a, right, b) for a, b in zip(left_over, right_over, strict=True)]
    batch = [
        analysis.tie(left.dims[a], right.dims[b], "it is a batch axis beside one of fixed size")
        for a, b in zip(left_batch, right_batch, strict=True)
    ]
    rest = [(left, d) for d in range(len(left.dims)) if d not in (*left_over, *left_batch)]
    rest += [(right, d) for d in range(len(right.dims)) if d not in (*right_over, *right_batch)]
    dims = (*batch, *(value.dims[d] for value, d in rest))
    if not (left.weight and right.weight):
        for value, d in rest:
            if value.weight:
                analysis.made(value.origin(d))
        return [Value(dims, sums=_squares(eqn, left, left_over))]
    both = [left.origin(a) | right.origin(b) for a, b in zip(left_batch, right_batch, strict=True)]
    result = weight_of(dims, [*both, *(value.origin(d) for value, d in rest)], values)
    return [replace(result, products=result.products.union(p for p in found if p))]


def _squares(eqn: Equation, value: Value, over: Sequence[int]) -> tuple[Sum, ...]:
    """An array that is contracted with itself makes a sum of squares."""
    if eqn.invars[0] is not eqn.invars[1]:
        return ()
    shape = eqn.invars[0].aval.shape
    squares = Sum(
        tuple(dim for d in over if (dim := value.dims[d]) is not None),
        math.prod(shape[d] for d in over if value.dims[d] is None),
    )
    return (squares,)


@ties("conv_general_dilated")
def conv(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """Input channels are tied to those of the kernel, output channels of the kernel pass; positions are fixed.

    With groups, channels of the input are pairs of a group and a channel in it, and so are channels of the output. The
    kernel is as wide as one group. So the groups are a factor of both products.
    """
    image, kernel = values
    numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    if eqn.params["batch_group_count"] != 1:
        return unknown(analysis, frame, eqn, values, "with the batch in groups")
    for value, spec in ((image, numbers.lhs_spec), (kernel, numbers.rhs_spec)):
        for d in spec[2:]:
            analysis.fix(value.dims[d], "a convolution slides along it")
            analysis.reads(value.origin(d))
    inputs, outputs = image.dims[numbers.lhs_spec[1]], kernel.dims[numbers.rhs_spec[0]]
    read = inputs
    if groups > 1:
        shape = eqn.invars[1].aval.shape
        read = _grouped(analysis, inputs, outputs, groups, (shape[numbers.rhs_spec[1]], shape[numbers.rhs_spec[0]]))
    analysis.tie(read, kernel.dims[numbers.rhs_spec[1]], "it meets a kernel of fixed size")
    analysis.reads(kernel.origin(numbers.rhs_spec[1]))
    analysis.fix_added(kernel, read)
    analysis.made(kernel.origin(numbers.rhs_spec[0]))
    if not kernel.weight:
        analysis.couple(inputs, "it is convolved with an activation")
    elif kernel.constant and kernel.dims[numbers.rhs_spec[1]] is not None:
        analysis.couple(inputs, "it is convolved with a constant, of which no entry can be masked")
    for dim in (inputs, read):
        analysis.keep_some(dim)
    dims: list[Dim] = [None] * len(image.dims)
    dims[numbers.out_spec[0]] = image.dims[numbers.lhs_spec[0]]
    dims[numbers.out_spec[1]] = outputs
    return [Value(tuple(dims), image.weight and kernel.weight)]


def _grouped(analysis: Analysis, inputs: Dim, outputs: Dim, groups: int, kernel: tuple[int, int]) -> Dim:
    """Tie the groups of input and output; returns the channels of one group of the input."""
    own, read = _factors(analysis, inputs, groups, kernel[0])
    made, _ = _factors(analysis, outputs, groups, kernel[1] // groups)
    analysis.tie(own, made, "the groups of a convolution are fixed by its other side")
    return read


def _factors(analysis: Analysis, channels: Dim, groups: int, each: int) -> tuple[Dim, Dim]:
    """Channels as a product: the groups, and the channels of each."""
    if channels is None:
        return None, None
    if each == 1:
        return channels, None
    group, one = analysis.tying.blocks.factor(channels, (groups, each))
    return group, one


@binds("conv_general_dilated")
def bind_conv(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """There are as many groups as kernels fit beside one another on the input channels."""
    del frame
    numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    if groups > 1:
        groups = arrays[0].shape[numbers.lhs_spec[1]] // arrays[1].shape[numbers.rhs_spec[1]]
    if sizes.looped:
        return [convolve_in_loop(eqn, arrays[0], arrays[1], groups)]
    return bind(eqn, arrays, feature_group_count=groups)
