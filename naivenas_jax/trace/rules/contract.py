"""Contractions: matrix products and convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from naivenas_jax.trace.analysis import Analysis, Frame, unknown
from naivenas_jax.trace.rebind import Sizes, bind
from naivenas_jax.trace.table import binds, ties
from naivenas_jax.trace.value import Dim, Value


@ties("dot_general")
def dot(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """Contracted and batch dimensions are tied, the others pass."""
    del frame
    left, right = values
    (left_over, right_over), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    for a, b in zip(left_over, right_over, strict=True):
        tied = analysis.tie(left.dims[a], right.dims[b], "it is contracted with an axis of fixed size")
        analysis.reads(left, a)
        analysis.reads(right, b)
        if not (left.weight or right.weight):
            analysis.couple(tied, "two activations are contracted over it")
    batch = [
        analysis.tie(left.dims[a], right.dims[b], "it is a batch axis beside one of fixed size")
        for a, b in zip(left_batch, right_batch, strict=True)
    ]
    rest = [dim for d, dim in enumerate(left.dims) if d not in (*left_over, *left_batch)]
    rest += [dim for d, dim in enumerate(right.dims) if d not in (*right_over, *right_batch)]
    return [Value((*batch, *rest), left.weight and right.weight)]


@ties("conv_general_dilated")
def conv(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """Input channels are tied to those of the kernel, output channels pass; positions are fixed."""
    image, kernel = values
    numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    inputs, outputs = image.dims[numbers.lhs_spec[1]], kernel.dims[numbers.rhs_spec[0]]
    channels = eqn.invars[0].aval.shape[numbers.lhs_spec[1]]
    if eqn.params["batch_group_count"] != 1:
        return unknown(analysis, frame, eqn, values)
    for value, spec in ((image, numbers.lhs_spec), (kernel, numbers.rhs_spec)):
        for d in spec[2:]:
            analysis.fix(value.dims[d], "a convolution slides along it")
            analysis.reads(value, d)
    if groups == 1:
        analysis.tie(inputs, kernel.dims[numbers.rhs_spec[1]], "it meets a kernel of fixed size")
        analysis.reads(kernel, numbers.rhs_spec[1])
        if not kernel.weight:
            analysis.couple(inputs, "it is convolved with an activation")
    elif groups == channels:
        outputs = _depthwise(analysis, inputs, outputs, eqn.outvars[0].aval.shape[numbers.out_spec[1]] // groups)
    else:
        for dim in (inputs, outputs, kernel.dims[numbers.rhs_spec[1]]):
            analysis.fix(dim, f"the channels of a convolution with {groups} groups cannot be changed one by one")
    dims: list[Any] = [None] * len(image.dims)
    dims[numbers.out_spec[0]] = image.dims[numbers.lhs_spec[0]]
    dims[numbers.out_spec[1]] = outputs
    return [Value(tuple(dims), image.weight and kernel.weight)]


def _depthwise(analysis: Analysis, inputs: Dim, outputs: Dim, times: int) -> Dim:
    """Each channel makes ``times`` others, one after the other."""
    if inputs is None or outputs is None or times == 1:
        return analysis.tie(inputs, outputs, "it meets a kernel of fixed size")
    copies = analysis.tying.new(times)
    analysis.fix(copies, "each channel of a depthwise convolution makes the same number of others")
    analysis.tie(outputs, analysis.tying.blocks.product([inputs, copies]), "")
    return outputs


@binds("conv_general_dilated")
def bind_conv(sizes: Sizes, frame: Frame, eqn: Any, arrays: Sequence[Any]) -> list[Any]:
    """A depthwise convolution has as many groups as channels."""
    del sizes, frame
    groups, axis = eqn.params["feature_group_count"], eqn.params["dimension_numbers"].lhs_spec[1]
    if groups > 1 and groups == eqn.invars[0].aval.shape[axis]:
        groups = arrays[0].shape[axis]
    return bind(eqn, arrays, feature_group_count=groups)
