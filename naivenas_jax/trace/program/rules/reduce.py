"""Reductions, windows, sorting: along an axis whose neurons they mix, these are coupled or fixed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from naivenas_jax.jaxpr.interpret import Equation
from naivenas_jax.trace.program.analysis import Analysis, ties
from naivenas_jax.trace.program.frame import Frame
from naivenas_jax.trace.program.means import summed
from naivenas_jax.trace.program.value import Dim, Sum, Value, together, weight_of


@ties(*["reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "reduce_xor"])
def reduce(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """Neurons that are reduced over are coupled: a zero may count, where a neuron that is not there does not."""
    del frame
    (value,), axes, shape = values, eqn.params["axes"], eqn.invars[0].aval.shape
    over = tuple(dim for d in axes if (dim := value.dims[d]) is not None)
    for dim in over:
        analysis.couple(dim, f"{eqn.primitive.name} runs over its neurons")
        analysis.keep_some(dim)
    rest = [d for d in range(len(value.dims)) if d not in axes]
    dims = tuple(value.dims[d] for d in rest)
    result = weight_of(dims, [value.origin(d) for d in rest], [value]) if value.weight else Value(dims)
    if eqn.primitive.name != "reduce_sum":
        return [result]
    terms = math.prod(shape[d] for d in axes if value.dims[d] is None)
    return [summed(value, Sum(over, terms), result)]


@ties("argmax", "argmin")
def arg(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """The result is a position. By it something can be looked up; if else is done with it, positions may not change."""
    del frame
    (value,), axes = values, eqn.params["axes"]
    found = [analysis.selects(value.dims[d], 1, eqn.primitive.name) for d in axes]
    dims = tuple(dim for d, dim in enumerate(value.dims) if d not in axes)
    return [Value(dims, value.weight, lookup=found[0] if len(found) == 1 else None)]


@ties(*["cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"])
def cumulative(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """Order matters along the axis."""
    del frame
    dims = list(values[0].dims)
    analysis.fix(dims[eqn.params["axis"]], f"{eqn.primitive.name} runs along it")
    dims[eqn.params["axis"]] = None
    return [together(dims, values)]


@ties("sort")
def sort(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """All operands are permuted alike along one axis."""
    del frame
    axis = eqn.params["dimension"]
    for value in values:
        analysis.fix(value.dims[axis], "sort permutes it")
    dims = list(values[0].dims)
    for value in values[1:]:
        dims = [
            None if d == axis else analysis.tie(a, b, "sort ties it to a fixed axis")
            for d, (a, b) in enumerate(zip(dims, value.dims, strict=True))
        ]
    dims[axis] = None
    return [together(dims, [value]) for value in values]


@ties("top_k")
def top_k(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """What is at some positions along the axis, and the positions, by which something can be looked up."""
    del frame
    axis = eqn.params.get("axis", len(values[0].dims) - 1)
    lookup = analysis.selects(values[0].dims[axis], eqn.params["k"], "top_k")
    dims = tuple(None if d == axis else dim for d, dim in enumerate(values[0].dims))
    found = together(dims, values)
    return [found, replace(found, lookup=lookup)]


@ties(
    *["reduce_window_sum", "reduce_window_max", "reduce_window_min", "cumred_reduce_window_impl"],
    *["select_and_gather_add", "select_and_scatter_add"],
)
def window(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """Neurons pass along an axis if the window is one wide there and moves by one; else the axis is fixed."""
    del frame
    passing = [d for d in range(len(values[0].dims)) if _passes(eqn, d)]
    dims: list[Dim] = [None] * len(values[0].dims)
    for d in range(len(dims)):
        if d in passing:
            dims[d] = values[0].dims[d]
            for value in values[1:]:
                dims[d] = analysis.tie(dims[d], value.dims[d], f"{eqn.primitive.name} ties it to a fixed axis")
            continue
        for value in values:
            analysis.fix(value.dims[d], f"{eqn.primitive.name} slides along it")
    return [together(dims, values)] * len(eqn.outvars)


def _passes(eqn: Equation, d: int) -> bool:
    """Whether a window is one wide along a dimension, and moves by one."""
    params = eqn.params
    alone = params["window_dimensions"][d] == params["window_strides"][d] == 1
    dilated = any((params.get(key) or (1,) * (d + 1))[d] != 1 for key in ("base_dilation", "window_dilation"))
    return alone and not dilated and tuple(params["padding"][d]) == (0, 0)


@ties("fft")
def fft(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """The last axes are transformed, the others pass."""
    del frame
    passing = len(values[0].dims) - len(eqn.params["fft_lengths"])
    for dim in values[0].dims[passing:]:
        analysis.fix(dim, "fft runs along it")
    return [together([dim if d < passing else None for d, dim in enumerate(values[0].dims)], values)]
