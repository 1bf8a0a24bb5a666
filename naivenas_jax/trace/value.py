"""What is known of an array inside a traced function."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np

from naivenas_jax.sizes.blocks import Vector

#: The neurons along a dimension; None: the dimension is fixed, and the index along it carries meaning.
Dim = Vector | None


@dataclass(frozen=True, eq=False)
class Known:
    """An array that is the same whatever the variables and inputs are. Computed only when somebody asks.

    Attributes:
      compute: computes it.
      sources: the values it is made of; where its content is used, their sizes may not change.
    """

    compute: Callable[[], Any]
    sources: tuple[Value, ...] = ()

    @cached_property
    def array(self) -> np.ndarray:
        with jax.ensure_compile_time_eval():  # inside a jit as well
            return np.asarray(self.compute())


@dataclass(frozen=True)
class Value:
    """The neurons on each dimension of an array, and where the array comes from.

    Attributes:
      dims: per dimension.
      weight: whether it depends on variables and constants only.
      leaf: the variable that it is, perhaps cast, transposed or shifted by a constant.
      leaf_dims: for each dimension that of the variable, None where it was added.
      summed: what it is a sum over: neurons, and the number of terms that are no neurons.
      known: its content, if that depends on nothing.
    """

    dims: tuple[Dim, ...]
    weight: bool = False
    leaf: tuple[str, ...] | None = None
    leaf_dims: tuple[int | None, ...] = ()
    summed: tuple[tuple[Vector, ...], int] | None = None
    known: Known | None = field(default=None, compare=False, repr=False)


#: Larger constants are not looked into.
_LARGEST = 1 << 16


def constant(array: Any) -> Value:
    """Constants of the model are what they are: their axes are fixed."""
    shape = np.shape(array)
    keys = jax.dtypes.issubdtype(getattr(array, "dtype", np.float32), jax.dtypes.extended)
    legible = not keys and not isinstance(array, jax.core.Tracer) and math.prod(shape) <= _LARGEST
    return Value((None,) * len(shape), weight=True, known=Known(lambda: array) if legible else None)
