"""Evaluates jaxprs with numpy, in double precision.

Nothing is compiled, so that a network of a new shape costs a trace and no more; and nothing is shared with the
interpreter of the library, so that the two may disagree. A primitive that is not in the tables is run by JAX.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jax.extend import core as jex

#: The parameter that holds the jaxpr of a primitive that only calls it.
CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}

ELEMENTWISE: Mapping[str, Callable[..., Any]] = {
    "add": np.add,
    "add_any": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": lambda a, b: np.divide(a, b) if np.issubdtype(np.result_type(a), np.inexact) else np.floor_divide(a, b),
    "max": np.maximum,
    "min": np.minimum,
    "neg": np.negative,
    "exp": np.exp,
    "exp2": np.exp2,
    "log": np.log,
    "log1p": np.log1p,
    "expm1": np.expm1,
    "tanh": np.tanh,
    "logistic": scipy.special.expit,
    "sin": np.sin,
    "cos": np.cos,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "abs": np.abs,
    "sign": np.sign,
    "floor": np.floor,
    "ceil": np.ceil,
    "pow": np.power,
    "square": np.square,
    "erf": scipy.special.erf,
    "is_finite": np.isfinite,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "not": np.invert,
    "stop_gradient": lambda x: x,
    "copy": lambda x: x,
    "copy_p": lambda x: x,
    "clamp": lambda low, x, high: np.clip(x, low, high),
    "select_n": lambda which, *cases: np.choose(np.asarray(which, int), cases) if np.ndim(which) else cases[int(which)],
}
REDUCTIONS = {
    "reduce_sum": np.sum,
    "reduce_max": np.max,
    "reduce_min": np.min,
    "reduce_prod": np.prod,
    "reduce_and": np.all,
    "reduce_or": np.any,
}
CUMULATIVE = {"cumsum": np.cumsum, "cumprod": np.cumprod, "cummax": np.maximum.accumulate}


def evaluate(traced: jex.ClosedJaxpr, *arguments: Any) -> list[Any]:
    """The results of a traced function, for the leaves of its arguments."""
    with np.errstate(all="ignore"):
        return _run(traced.jaxpr, traced.consts, jax.tree.leaves(arguments))


def _run(jaxpr: jex.Jaxpr, consts: Iterable[Any], arguments: Sequence[Any]) -> list[Any]:
    values = {}
    for variable, value in zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True):
        values[variable] = _wide(value)
    read = lambda atom: _wide(atom.val) if isinstance(atom, jex.Literal) else values[atom]  # noqa: E731
    for eqn in jaxpr.eqns:
        results = _equation(eqn, [read(atom) for atom in eqn.invars])
        values.update(zip(eqn.outvars, map(_wide, results), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _wide(value: Any) -> Any:
    """A numpy array, numbers in double precision, complex ones too; keys stay as they are."""
    if jnp.issubdtype(getattr(value, "dtype", np.float32), jax.dtypes.prng_key):
        return value
    array = np.asarray(value)
    return array.astype(_widest(array.dtype)) if jnp.issubdtype(array.dtype, jnp.inexact) else array


def _widest(dtype: Any) -> Any:
    return np.complex128 if jnp.issubdtype(dtype, jnp.complexfloating) else np.float64


def _equation(eqn: jex.JaxprEqn, values: list[Any]) -> Sequence[Any]:
    name, params = eqn.primitive.name, eqn.params
    if name in CALLS:
        inner = params[CALLS[name]]
        jaxpr, consts = (inner.jaxpr, inner.consts) if isinstance(inner, jex.ClosedJaxpr) else (inner, ())
        return _run(jaxpr, consts, values)
    if name in LOOPS:
        return LOOPS[name](values, **params)
    if name in ELEMENTWISE and not any(_is_key(value) for value in values):
        return [ELEMENTWISE[name](*values)]
    if name in SHAPES and not any(_is_key(value) for value in values):
        return [SHAPES[name](*values, **params)]
    return _by_jax(eqn, values)


def _is_key(value: Any) -> bool:
    return not isinstance(value, np.ndarray)


def _by_jax(eqn: jex.JaxprEqn, values: list[Any]) -> Sequence[Any]:
    given = [
        value if _is_key(value) else jnp.asarray(value, atom.aval.dtype)
        for value, atom in zip(values, eqn.invars, strict=True)
    ]
    results = eqn.primitive.bind(*given, **eqn.params)
    return results if eqn.primitive.multiple_results else [results]


# -- loops and branches ----------------------------------------------------------------------------------------------


def _scan(values: Any, *, jaxpr: Any, length: int, reverse: bool, num_consts: int, num_carry: int, **_: Any) -> Any:
    consts, carry = values[:num_consts], values[num_consts : num_consts + num_carry]
    xs, rows = values[num_consts + num_carry :], []
    for i in reversed(range(length)) if reverse else range(length):
        results = _run(jaxpr.jaxpr, jaxpr.consts, [*consts, *carry, *(x[i] for x in xs)])
        carry, row = results[:num_carry], results[num_carry:]
        rows.append(row)
    rows = rows[::-1] if reverse else rows
    count = len(jaxpr.jaxpr.outvars) - num_carry
    return [*carry, *(np.stack([row[i] for row in rows]) for i in range(count))]


def _while(values: Any, *, cond_jaxpr: Any, body_jaxpr: Any, cond_nconsts: int, body_nconsts: int, **_: Any) -> Any:
    of_cond, of_body = values[:cond_nconsts], values[cond_nconsts : cond_nconsts + body_nconsts]
    carry = values[cond_nconsts + body_nconsts :]
    while _run(cond_jaxpr.jaxpr, cond_jaxpr.consts, [*of_cond, *carry])[0]:
        carry = _run(body_jaxpr.jaxpr, body_jaxpr.consts, [*of_body, *carry])
    return carry


def _cond(values: Any, *, branches: Any, **_: Any) -> Any:
    branch = branches[int(np.clip(values[0], 0, len(branches) - 1))]
    return _run(branch.jaxpr, branch.consts, values[1:])


LOOPS = {"scan": _scan, "while": _while, "cond": _cond}


# -- shapes ----------------------------------------------------------------------------------------------------------


def _broadcast(x: Any, *_: Any, shape: Sequence[int], broadcast_dimensions: Sequence[int], **__: Any) -> Any:
    full = [1] * len(shape)
    for at, size in zip(broadcast_dimensions, np.shape(x), strict=True):
        full[at] = size
    return np.broadcast_to(np.reshape(x, full), shape)


def _reshape(x: Any, *_: Any, new_sizes: Sequence[int], dimensions: Sequence[int] | None = None, **__: Any) -> Any:
    return np.reshape(x if dimensions is None else np.transpose(x, dimensions), new_sizes)


def _dot(a: Any, b: Any, *, dimension_numbers: Any, **_: Any) -> Any:
    (read_a, read_b), (batch_a, batch_b) = dimension_numbers
    letters = iter(string.ascii_letters)
    of_a = [next(letters) for _ in range(np.ndim(a))]
    of_b = [next(letters) for _ in range(np.ndim(b))]
    for i, j in (*zip(read_a, read_b, strict=True), *zip(batch_a, batch_b, strict=True)):
        of_b[j] = of_a[i]
    free_a = [c for i, c in enumerate(of_a) if i not in (*read_a, *batch_a)]
    free_b = [c for i, c in enumerate(of_b) if i not in (*read_b, *batch_b)]
    out = [*(of_a[i] for i in batch_a), *free_a, *free_b]
    return np.einsum(f"{''.join(of_a)},{''.join(of_b)}->{''.join(out)}", a, b)


def _pad(x: Any, value: Any, *, padding_config: Any) -> Any:
    """Negative padding cuts."""
    sizes = [
        max(0, (n - 1) * (gap + 1) + 1) if n else 0 for n, (_, _, gap) in zip(x.shape, padding_config, strict=True)
    ]
    spread = np.full(sizes, value, x.dtype)
    spread[tuple(slice(None, None, gap + 1) for _, _, gap in padding_config)] = x
    ends = [(max(0, low), max(0, high)) for low, high, _ in padding_config]
    padded = np.pad(spread, ends, constant_values=value)
    cuts = [
        slice(max(0, -low), n - max(0, -high)) for n, (low, high, _) in zip(padded.shape, padding_config, strict=True)
    ]
    return padded[tuple(cuts)]


def _conv(
    x: Any,
    kernel: Any,
    *,
    window_strides: Sequence[int],
    padding: Any,
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    dimension_numbers: Any,
    feature_group_count: int,
    batch_group_count: int,
    **_: Any,
) -> Any:
    """A sum over the taps of the window of products over the neurons."""
    x = np.transpose(x, dimension_numbers.lhs_spec)  # batch, neurons, positions
    kernel = np.transpose(kernel, dimension_numbers.rhs_spec)  # out, in of a group, taps
    if batch_group_count > 1:  # each part of the batch has the kernels of its own group, as groups of neurons have
        assert feature_group_count == 1
        feature_group_count = batch_group_count
        x = np.concatenate(np.split(x, batch_group_count), axis=1)
    config = [(0, 0, 0), (0, 0, 0), *((*pad, gap - 1) for pad, gap in zip(padding, lhs_dilation, strict=True))]
    x = _pad(x, np.float64(0), padding_config=config)
    groups, window = feature_group_count, kernel.shape[2:]
    reach = [(taps - 1) * gap + 1 for taps, gap in zip(window, rhs_dilation, strict=True)]
    sizes = [(n - r) // s + 1 for n, r, s in zip(x.shape[2:], reach, window_strides, strict=True)]
    x = x.reshape(x.shape[0], groups, -1, *x.shape[2:])
    kernel = kernel.reshape(groups, -1, *kernel.shape[1:])
    total = np.zeros((x.shape[0], groups, kernel.shape[1], *sizes))
    for tap in np.ndindex(*window):
        starts = [t * gap for t, gap in zip(tap, rhs_dilation, strict=True)]
        cut = [slice(a, a + (n - 1) * s + 1, s) for a, n, s in zip(starts, sizes, window_strides, strict=True)]
        total += np.einsum("bgi...,goi->bgo...", x[(..., *cut)], kernel[(slice(None),) * 3 + tap])
    total = total.reshape(total.shape[0], -1, *sizes)
    return np.transpose(total, np.argsort(dimension_numbers.out_spec))


def _iota(*, dtype: Any, shape: Sequence[int], dimension: int, **_: Any) -> Any:
    along = np.arange(shape[dimension], dtype=dtype)
    return np.broadcast_to(along.reshape([-1 if i == dimension else 1 for i in range(len(shape))]), shape)


def _slice(x: Any, *, start_indices: Any, limit_indices: Any, strides: Any) -> Any:
    steps = strides or (1,) * x.ndim
    return x[tuple(slice(a, b, s) for a, b, s in zip(start_indices, limit_indices, steps, strict=True))]


def _cast(x: Any, *, new_dtype: Any, **_: Any) -> Any:
    if jnp.issubdtype(new_dtype, jnp.inexact):
        return np.asarray(x, _widest(new_dtype))
    return np.asarray(x, np.dtype(new_dtype))


def _power(x: Any, *, y: int) -> Any:
    return x**y if y >= 0 else 1 / x**-y


def _reduction(fn: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, *, axes, **_: fn(x, axis=tuple(axes))


def _cumulative(fn: Callable[..., Any]) -> Callable[..., Any]:
    def run(x: Any, *, axis: int, reverse: bool) -> Any:
        return np.flip(fn(np.flip(x, axis), axis=axis), axis) if reverse else fn(x, axis=axis)

    return run


SHAPES: Mapping[str, Callable[..., Any]] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "transpose": lambda x, *, permutation: np.transpose(x, permutation),
    "squeeze": lambda x, *, dimensions: np.squeeze(x, tuple(dimensions)),
    "expand_dims": lambda x, *, dimensions: np.expand_dims(x, tuple(dimensions)),
    "concatenate": lambda *xs, dimension: np.concatenate(xs, dimension),
    "rev": lambda x, *, dimensions: np.flip(x, tuple(dimensions)),
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "pad": _pad,
    "iota": _iota,
    "slice": _slice,
    "convert_element_type": _cast,
    "integer_pow": _power,
    **{name: _reduction(fn) for name, fn in REDUCTIONS.items()},
    **{name: _cumulative(fn) for name, fn in CUMULATIVE.items()},
}
