"""Values of wrong kinds, made anew for every case."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from networks import narrower

import naivenas_jax as nas


class Odd:
    """An object of no use."""

    def __repr__(self) -> str:
        return "Odd()"


class ComparesLikeAnArray:
    """As of arrays and tables, ``==`` answers for each entry, and nobody can say whether that is true."""

    __hash__ = None

    def __eq__(self, other: object) -> Any:
        return np.array([True, False])

    def __repr__(self) -> str:
        return "ComparesLikeAnArray()"


def another() -> nas.Graph:
    return nas.Graph(y := nas.input_vertex("y", 2), nas.layer("z", nn.Dense(2), y))


def deleted() -> jax.Array:
    array = jnp.arange(6.0) + 1
    array.delete()
    return array


def numbers() -> Iterator[int]:
    yield from (1, 2)


BAD: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "a word": lambda: "nonsense",
    "no word": lambda: "",
    "a half": lambda: 0.5,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "minus inf": lambda: -float("inf"),
    "minus nothing": lambda: -0.0,
    "minus one": lambda: -1,
    "zero": lambda: 0,
    "huge": lambda: 10**18,
    "huger than a float": lambda: 10**400,
    "minus huge": lambda: -(10**18),
    "true": lambda: True,
    "numpy's false": lambda: np.False_,
    "numpy's nan": lambda: np.float32("nan"),
    "numpy's minus one": lambda: np.int64(-1),
    "complex": lambda: 1j,
    "bytes": lambda: b"bytes",
    "empty list": list,
    "empty tuple": tuple,
    "list of None": lambda: [None],
    "list of words": lambda: ["x", "nonsense"],
    "list of nan": lambda: [float("nan")],
    "tuple of numbers": lambda: (1, 2),
    "tuple of negatives": lambda: (-1, -2),
    "nested": lambda: [[1], [2, 3]],
    "empty dict": dict,
    "dict of wrong keys": lambda: {"nonsense": 1},
    "dict of numbers": lambda: {3: 3},
    "dict of None": lambda: {"a": None},
    "dict of words": lambda: {"a": "nonsense"},
    "dict of huge": lambda: {"a": 10**18},
    "dict of nan": lambda: {"a": float("nan")},
    "dict of true": lambda: {"a": True},
    "dict of lists": lambda: {"a": [1, 2]},
    "set": lambda: {1},
    "array": lambda: np.ones((2, 2)),
    "array of one": lambda: jnp.ones((1,), int),
    "number of jax": lambda: jnp.array(0.5),
    "array of nan": lambda: np.full((4, 3), np.nan),
    "array of halves": lambda: np.ones((4, 3), np.float16),
    "array of bfloat16": lambda: np.ones((4, 3), jnp.bfloat16),
    "complex array": lambda: np.ones((4, 3), np.complex64),
    "array of flags": lambda: np.ones((4, 3), bool),
    "array of words": lambda: np.array(["a", "b"]),
    "array of objects": lambda: np.array([None, 1], object),
    "array of dates": lambda: np.array(["2026-01-01"], "datetime64[D]"),
    "empty array": lambda: np.zeros((0,)),
    "deleted array": deleted,
    "a key": lambda: jax.random.key(0),
    "a shape": lambda: jax.ShapeDtypeStruct((4, 3), "float32"),
    "object": Odd,
    "compares like an array": ComparesLikeAnArray,
    "class": lambda: Odd,
    "lambda": lambda: lambda: 0,
    "iterator": lambda: iter([1, 2]),
    "generator": numbers,
    "range": lambda: range(-1, 2),
    "another graph": another,
    "a vertex": lambda: nas.input_vertex("w", 3),
    "a module": lambda: nn.Dense(3),
    "a mutation": narrower,
}
