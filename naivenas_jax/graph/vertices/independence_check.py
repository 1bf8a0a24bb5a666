"""Does a function keep the neuron axis? Asked of the function itself, with a handful of numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import jax
import numpy as np

from naivenas_jax.graph.op import keywords_of, select
from naivenas_jax.typing import PyTree

_FEW = 6
_MANY = 64
_LEADING = ((4,), (4, 8, 8), (4, 8), (4, 8, 8, 8))  # batch, images, sequences, volumes
_SCALES = (1.0, 30.0, 1000.0, 0.03)  # of the examples in the batch: a threshold should not hide what happens beyond it


@dataclass(frozen=True)
class Probe:
    """What was found out about a function of arrays with ``size`` neurons on the last axis.

    Attributes:
      nout: neurons of its output; None if it could not be run on made-up input.
      fixed: why it does not run with fewer neurons, or None.
      coupled: why its neurons are not independent, or None.
    """

    nout: int | None = None
    fixed: str | None = None
    coupled: str | None = None


@lru_cache(maxsize=4096)
def probe(fn: Callable[..., PyTree], arity: int, size: int, known: tuple[int, ...] | None = None) -> Probe:
    """Run ``fn`` on ``arity`` arrays of ``size`` neurons and, if it keeps them, on some of those neurons only.

    ``fn`` keeps the neuron axis if and only if ``fn(x[..., keep]) == fn(x)[..., keep]`` for every choice of neurons.

    Args:
      fn: the function.
      arity: how many arrays it takes.
      size: the number of neurons of each.
      known: the axes before the neurons, where they are known; else several are tried.
    """
    candidates = _LEADING if known is None else ((len(_SCALES), *known[1:]),)
    with jax.ensure_compile_time_eval():
        for leading in candidates:  # a pooling window needs an image, a plain function is happy with a batch
            few = _run(fn, _inputs(arity, leading, _FEW))
            if few is not None and few.ndim and few.shape[-1] == _FEW:
                counts = (_FEW, min(size, _MANY)) if size > _FEW else (_FEW,)
                found = (_coupling(fn, arity, leading, count, train) for count in counts for train in (False, True))
                return Probe(nout=size, coupled=next((reason for reason in found if reason), None))
        for leading in candidates:
            whole = _run(fn, _inputs(arity, leading, size))
            if whole is not None and whole.ndim > 1:
                return Probe(nout=int(whole.shape[-1]), fixed=f"its function runs with {size} neurons only")
    return Probe()


def _coupling(fn: Callable[..., PyTree], arity: int, leading: tuple[int, ...], count: int, train: bool) -> str | None:
    if train and "train" not in (keywords_of(fn) or ()):
        return None
    inputs = _inputs(arity, leading, count)
    whole = _run(fn, inputs, train)
    if whole is None:
        return None if train else "its function needs a certain number of neurons"
    generator = np.random.default_rng(1)
    order = generator.permutation(count)
    for keep in (np.sort(order[: count // 2]), order[:1], np.arange(count)[::-1], order):
        part = _run(fn, [x[..., keep] for x in inputs], train)
        if part is None or part.shape != whole[..., keep].shape:
            return "its function needs a certain number of neurons"
        if not np.allclose(part, whole[..., keep], rtol=1e-4, atol=1e-6, equal_nan=True):
            return "its function mixes the neurons, or depends on their position"
    return None


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
