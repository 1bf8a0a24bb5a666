"""Random choices from a key, the same on every machine and backend."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

import jax
import numpy as np

from naivenas_jax.checks import shown
from naivenas_jax.errors import PlanError

T = TypeVar("T")


class Draws:
    """Choices that follow from a key alone.

    The numbers are those of Python's generator, whose stream for a seed is promised never to change, seeded by the data
    of the key: no jax backend, precision or flag has a part in them.

    >>> draws = Draws(jax.random.key(0))
    >>> [draws.one_of("abc") for _ in range(5)]
    ['c', 'c', 'b', 'a', 'b']
    """

    def __init__(self, key: jax.Array):
        self._random = random.Random(int.from_bytes(key_data(key).tobytes(), "big"))

    def one_of(self, items: Sequence[T]) -> T:
        """One of the items, each as likely as the others."""
        return items[int(self._random.random() * len(items))]

    def weighted(self, weights: Mapping[str, float]) -> str:
        """One of the names; each is as likely as its weight is large. At least one weight is above 0."""
        left = self._random.random() * sum(weights.values())
        drawn = next(iter(weights))
        for name, weight in weights.items():
            if weight > 0:
                drawn, left = name, left - weight
                if left < 0:
                    break
        return drawn


def key_data(key: object) -> np.ndarray:
    """The numbers of one key, in big-endian order of bytes.

    Raises:
      PlanError: if it is no key, or one that is traced.
    """
    try:
        jax.random.fold_in(key, 0)  # type: ignore[arg-type]  # it raises for what is no key, which is the question
        data = jax.random.key_data(key)  # type: ignore[arg-type]
        return np.asarray(data).astype(">u4")
    except (TypeError, ValueError, jax.errors.TracerArrayConversionError) as error:
        raise PlanError(
            f"key must be one key, such as jax.random.key(0), outside of jax.jit; found {shown(key)}."
        ) from error
