"""Does a function keep the neuron axis? Its jaxpr says; where it does not, the function is run on a few numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import jax
import numpy as np

from naivenas_jax.graph.op import keywords_of, select
from naivenas_jax.graph.vertices.neuron_flow import UnknownFlowError, neuron_flow
from naivenas_jax.typing import PyTree

_FEW = 6
_MANY = 64
_LARGEST = 2**20  # entries of an array to try a function on
_LEADING = ((4,), (4, 8, 8), (4, 8), (4, 8, 8, 8))  # batch, images, sequences, volumes
_SCALES = (1.0, 30.0, 1000.0, 0.03)  # of the examples in the batch: a threshold should not hide what happens beyond it

_CERTAIN = "its function needs a certain number of neurons"
_MIXES = "its function mixes the neurons"
_DEPENDS = "its function depends on the positions of the neurons, or on their number"
_MOVES = (
    "its function moves the neurons, or mixes them by position (a reversal, a shuffle, a sort, a cumulative sum), so "
    "that neuron i of the output does not belong to neuron i of the input. If it works along another axis, tell the "
    "shape of the input: nas.input_vertex(name, size, shape=...)"
)


@dataclass(frozen=True)
class Probe:
    """What was found out about a function of arrays with ``size`` neurons on the last axis.

    Attributes:
      nout: neurons of its output; None if it could not be run on made-up input.
      fixed: why no neuron may be dropped or added, or None.
      coupled: why a neuron that is zero is not the same as a neuron that is not there, or None.
    """

    nout: int | None = None
    fixed: str | None = None
    coupled: str | None = None


@lru_cache(maxsize=4096)
def probe(fn: Callable[..., PyTree], arity: int, size: int, known: tuple[int, ...] | None = None) -> Probe:
    """What ``fn`` does with the neurons of ``arity`` arrays of ``size`` neurons.

    If the jaxpr says that each neuron is computed from itself alone, or from all of them alike, nothing is run
    (`neuron_flow`). Else ``fn`` is run on all neurons and, if it keeps their number, on some only. What is asked, each
    with numbers in which the answer shows:

    - is ``fn(x[..., keep]) == fn(x)[..., keep]``, also with the kept neurons in another order? Then neuron
      i of the output depends on neuron i of the inputs, in the same way for every i and for every number of neurons.
    - if not, does it *mix*: does a kept neuron change when others do?
    - and does it *move*: ``fn(x[..., order]) != fn(x)[..., order]``?

    A function that mixes alike for all neurons (a softmax) is coupled. So is one that mixes nothing, but depends on the
    positions or the number of its neurons. One that mixes and moves (a reversal, a shuffle, a sort, a cumulative sum)
    has an output whose neuron i is not neuron i of the input: which neurons would go together is not known.

    Args:
      fn: the function.
      arity: how many arrays it takes.
      size: the number of neurons of each.
      known: the axes before the neurons, where they are known; else several are tried.
    """
    candidates = _LEADING if known is None else ((len(_SCALES), *known[1:]),)
    with jax.ensure_compile_time_eval():
        for leading in candidates:  # a pooling window needs an image, a plain function is happy with a batch
            if (few := _shape(fn, arity, leading, _FEW)) is not None and few[-1:] == (_FEW,):
                return replace(_keeping(fn, arity, leading, _counts(size, leading)), nout=size)
        for leading in candidates:
            whole = _shape(fn, arity, leading, size)
            if whole is not None and len(whole) > 1:
                return Probe(nout=whole[-1], fixed=f"its function runs with {size} neurons only")
    return Probe()


@lru_cache(maxsize=4096)
def _keeping(fn: Callable[..., PyTree], arity: int, leading: tuple[int, ...], counts: tuple[int, ...]) -> Probe:
    """What a function does that keeps the number of neurons."""
    read = _read(fn, arity, leading, counts)
    if read is not None:
        return read
    found = (_verdict(fn, arity, leading, count) for count in counts)
    return next((each for each in found if each != Probe()), Probe())


def _read(fn: Callable[..., PyTree], arity: int, leading: tuple[int, ...], counts: tuple[int, ...]) -> Probe | None:
    """What the jaxpr says; None: it does not."""
    shapes = [[(*leading, count)] * arity for count in (_FEW, _FEW // 2, *counts[1:])]
    keywords = keywords_of(fn)
    readings = []
    for train in (False, True) if "train" in (keywords or ()) else (False,):
        try:
            readings.append(neuron_flow(partial(fn, **select({"train": train}, keywords)), shapes))
        except UnknownFlowError:
            return None
    if any(reading.mixed for reading in readings):
        return Probe(coupled=_MIXES)
    return None if any(reading.counted for reading in readings) else Probe()


def _shape(fn: Callable[..., PyTree], arity: int, leading: tuple[int, ...], count: int) -> tuple[int, ...] | None:
    """The shape of what a function makes of so many neurons; None: it cannot be run on them."""
    inputs = [jax.ShapeDtypeStruct((*leading, count), np.float32)] * arity
    try:
        made = jax.eval_shape(partial(fn, **select({"train": False}, keywords_of(fn))), *inputs)
        return tuple(made.shape)
    except (
        jax.errors.JAXTypeError,
        jax.errors.JAXIndexError,
        AttributeError,
    ):  # it looks at the numbers, or returns others
        ran = _run(fn, _inputs(arity, leading, count))
        return None if ran is None else ran.shape
    except Exception:  # a function that cannot run on made-up input says so in whatever way it likes
        return None


def failure(fn: Callable[..., PyTree], arity: int, size: int, known: tuple[int, ...] | None = None) -> Exception | None:
    """What a function raises on made-up arrays; None: nothing, or it is not known what it reads."""
    leading = (1,) if known is None else known
    inputs = [jax.ShapeDtypeStruct((*leading, size), np.float32)] * arity
    try:
        jax.eval_shape(partial(fn, **select({"train": False}, keywords_of(fn))), *inputs)
    except Exception as error:  # whatever it is, it is quoted
        return error
    return None


def _counts(size: int, leading: tuple[int, ...]) -> tuple[int, ...]:
    """The numbers of neurons to try: a few; as many as there are, or many; and a power of 2 that is no less.

    What a function does at one power of 2 is remembered for all sizes below, so that a change of size costs nothing.
    """
    if size <= _FEW:
        return (_FEW,)
    if size <= _MANY:
        return (_FEW, size)
    more = 1 << (size - 1).bit_length()
    return (_FEW, _MANY, more) if more * math.prod(leading) <= _LARGEST else (_FEW, _MANY)


@lru_cache(maxsize=4096)
def _verdict(fn: Callable[..., PyTree], arity: int, leading: tuple[int, ...], count: int) -> Probe:
    found = (_coupling(fn, arity, leading, count, train) for train in (False, True))
    return next((each for each in found if each != Probe()), Probe())


def _coupling(fn: Callable[..., PyTree], arity: int, leading: tuple[int, ...], count: int, train: bool) -> Probe:
    if train and "train" not in (keywords_of(fn) or ()):
        return Probe()
    inputs = _inputs(arity, leading, count)
    whole = _run(fn, inputs, train)
    if whole is None:
        return Probe() if train else Probe(fixed=_CERTAIN)
    order = np.random.default_rng(1).permutation(count)
    for keep in (np.sort(order[: count // 2]), order[:1], np.arange(count)[::-1], order):
        part = _run(fn, [x[..., keep] for x in inputs], train)
        if part is None or part.shape != whole[..., keep].shape:  # a constant of the function has so many entries
            return Probe(fixed=_reason(fn, inputs, whole, train).fixed or _CERTAIN)
        if not np.allclose(part, whole[..., keep], rtol=1e-4, atol=1e-6, equal_nan=True):
            return _reason(fn, inputs, whole, train)
    return Probe()


def _reason(fn: Callable[..., PyTree], inputs: list[np.ndarray], whole: np.ndarray, train: bool) -> Probe:
    """Why a function is none of its neurons one by one."""
    mixes = _mixes(fn, inputs, whole, train)
    if mixes and _moves(fn, inputs, whole, train):
        return Probe(fixed=_MOVES)
    return Probe(coupled=_MIXES if mixes else _DEPENDS)


def _mixes(fn: Callable[..., PyTree], inputs: list[np.ndarray], whole: np.ndarray, train: bool) -> bool:
    """Whether some neurons of the output change when others of the inputs do: every pair is on two sides once."""
    count = whole.shape[-1]
    for bit in range((count - 1).bit_length()):
        for side in (0, 1):
            same = (np.arange(count) >> bit) % 2 == side
            part = _run(fn, [np.where(same, x, np.float32(0.7) - x) for x in inputs], train)
            if part is None or not _alike(part[..., same], whole[..., same]):
                return True
    return False


def _moves(fn: Callable[..., PyTree], inputs: list[np.ndarray], whole: np.ndarray, train: bool) -> bool:
    """Whether neurons in another order are another function than the same neurons of the output in that order."""
    count = whole.shape[-1]
    for order in (np.arange(count)[::-1], np.random.default_rng(1).permutation(count), np.roll(np.arange(count), 1)):
        part = _run(fn, [x[..., order] for x in inputs], train)
        if part is None or not _alike(part, whole[..., order]):
            return True
    return False


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal up to what another order of a sum makes: of rounding, in terms of the largest number of each example."""
    if a.shape != b.shape:
        return False
    axes = tuple(range(1, b.ndim))
    largest = np.max(np.where(np.isfinite(b), np.abs(b), 0.0), axis=axes, keepdims=True, initial=0.0)
    with np.errstate(invalid="ignore"):
        near = np.abs(a - b) <= 1e-4 * np.abs(b) + 1e-5 * largest + 1e-6
    return bool(np.all(near | (a == b) | (np.isnan(a) & np.isnan(b))))


def _inputs(arity: int, leading: tuple[int, ...], size: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    scales = np.reshape(_SCALES, (-1, *(1,) * len(leading)))
    return [(scales * generator.normal(size=(*leading, size))).astype(np.float32) for _ in range(arity)]


def _run(fn: Callable[..., PyTree], inputs: list[np.ndarray], train: bool = False) -> np.ndarray | None:
    try:
        result = fn(*map(jax.numpy.asarray, inputs), **select({"train": train}, keywords_of(fn)))
        return np.asarray(result, dtype=np.float64)
    except Exception:  # a function that cannot run on made-up input says so in whatever way it likes
        return None
