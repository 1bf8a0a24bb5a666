"""Absolute values of variables of any dtype."""

from __future__ import annotations

from typing import Any

import numpy as np

from naivenas_jax.transfer.take import to_host


def absolute(array: Any) -> np.ndarray:
    """``|array|`` in float64, of the same shape; of complex numbers the modulus.

    >>> absolute(np.array([3 + 4j, -1])).tolist()
    [5.0, 1.0]
    """
    host = to_host(array)
    # widened first: the absolute value of the smallest integer of a dtype is none of its numbers
    return np.abs(host.astype(np.complex128 if np.iscomplexobj(host) else np.float64))
