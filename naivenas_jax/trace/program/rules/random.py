"""Random numbers: every dimension of an array of them may have any size.

What a key draws depends on the whole shape, so that with another number of neurons those that stay get other numbers:
the neurons are coupled.
"""

from __future__ import annotations

from collections.abc import Sequence

from naivenas_jax.jaxpr.interpret import Equation, bind
from naivenas_jax.trace.program.analysis import Analysis, fixed_results, ties
from naivenas_jax.trace.program.frame import Frame
from naivenas_jax.trace.program.rebind import NewSizes, binds
from naivenas_jax.trace.program.value import Dim, Value
from naivenas_jax.typing import Array


@ties("random_bits")
def random_bits(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """As many bits as are asked for, for each key; the number of keys is fixed. Of a constant key they are constant."""
    del frame
    if values[0].constant:
        return fixed_results(eqn, values)
    analysis.fix_all(values[0], "there is a key for each")
    keys = len(values[0].dims)
    return [Value((*(None for _ in range(keys)), *_drawn(analysis, eqn.outvars[0].aval.shape[keys:])))]


def _drawn(analysis: Analysis, shape: Sequence[int]) -> tuple[Dim, ...]:
    """The dimensions of an array of random numbers."""
    dims = tuple(analysis.new(n) for n in shape)
    for dim in dims:
        analysis.couple(dim, "random numbers are drawn along it, and depend on the shape that is drawn")
    return dims


@binds("random_bits")
def bind_random_bits(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """As many numbers as there are neurons now."""
    keys = eqn.invars[0].aval.ndim
    return bind(eqn, arrays, shape=sizes.result_shape(frame, eqn)[keys:])


@ties("rng_bit_generator")
def rng_bits(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """A new key, and bits."""
    del frame
    analysis.fix_all(values[0], "it is a key")
    key, bits = (var.aval for var in eqn.outvars)
    return [Value((None,) * key.ndim), Value(_drawn(analysis, bits.shape))]


@binds("rng_bit_generator")
def bind_rng_bits(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """As many numbers as there are neurons now."""
    bits = eqn.outvars[1]
    return bind(eqn, arrays, shape=sizes.shape(frame.values[bits], bits.aval.shape))


@ties("rng_uniform")
def rng_uniform(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """Numbers between two scalars."""
    del frame, values
    return [Value(_drawn(analysis, eqn.outvars[0].aval.shape))]


@binds("rng_uniform")
def bind_rng_uniform(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """As many numbers as there are neurons now."""
    return bind(eqn, arrays, shape=sizes.result_shape(frame, eqn))


@ties("random_split")
def random_split(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """As many keys as are asked for: a loop takes one for each of its layers. Of a constant key they are constant."""
    if values[0].constant or values[0].dims:
        return list(keys(analysis, frame, eqn, values))
    dims = tuple(analysis.new(n) for n in eqn.outvars[0].aval.shape)
    analysis.split.update(dim for dim in dims if dim is not None)
    return [Value(dims)]


@binds("random_split")
def bind_random_split(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """As many keys as there are layers now."""
    return bind(eqn, arrays, shape=sizes.result_shape(frame, eqn)[eqn.invars[0].aval.ndim :])


@ties("random_wrap", "random_unwrap")
def wrapped_keys(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """Each key by itself; the numbers that it consists of are fixed."""
    count = min(len(eqn.outvars[0].aval.shape), len(values[0].dims))
    if values[0].constant or any(dim not in analysis.split for dim in values[0].dims[:count]):
        return list(keys(analysis, frame, eqn, values))
    for dim in values[0].dims[count:]:
        analysis.fix(dim, "keys are derived from it")
    return [Value((*values[0].dims[:count], *(None for _ in eqn.outvars[0].aval.shape[count:])))]


@ties(
    *["random_seed", "random_fold_in", "random_clone", "random_gamma"],
    *["threefry2x32"],
)
def keys(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """The axes of keys are fixed, and of what they are derived from."""
    del frame
    for value in values:
        analysis.fix_all(value, "keys are derived from it")
    return fixed_results(eqn, values)
