"""What is known of an array inside a traced function."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np

from naivenas_jax.sizes.blocks import Vector

#: The neurons along a dimension; None: the dimension is fixed, and the index along it carries meaning.
Dim = Vector | None
#: One dimension of a variable, by the path of that.
Origin = tuple[tuple[str, ...], int]


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
class Product:
    """Two variables were contracted with one another: a weight in two parts, of which one makes what the other reads.

    Attributes:
      left: the dimensions of variables that lie on the contracted dimension of the first operand.
      right: those of the second.
      over: the neurons that were contracted.
    """

    left: frozenset[Origin]
    right: frozenset[Origin]
    over: Dim

    def reader(self, entry: frozenset[Origin]) -> frozenset[Origin]:
        """The side that reads, if activations come in at the dimensions ``entry``; else the second, as in ``x @ w``."""
        paths = {path for path, _ in entry}
        inside = [bool(paths & {path for path, _ in side}) for side in (self.left, self.right)]
        return self.left if inside == [False, True] else self.right


@dataclass(frozen=True)
class Sum:
    """A sum over neurons, or a power of one.

    Attributes:
      over: the neurons.
      rest: the number of terms for each of them, from other dimensions.
      power: of the sum; 1/2 for its square root.
    """

    over: tuple[Vector, ...]
    rest: int
    power: float = 1.0

    def count(self, length: Callable[[Vector], int] = len) -> int:
        """The number of terms, for given numbers of neurons."""
        return self.rest * math.prod(map(length, self.over))


@dataclass(frozen=True)
class Share:
    """What is summed is scaled by a number already, by an equation that can be told to use another one.

    Attributes:
      rules: of the frame that the equation is in.
      position: of the equation.
      factor: by which it multiplies.
    """

    rules: dict[int, Any] = field(compare=False)
    position: int
    factor: float


@dataclass(frozen=True)
class Value:
    """The neurons on each dimension of an array, and where the array comes from.

    Attributes:
      dims: per dimension.
      weight: whether it depends on variables and constants only.
      origins: of a weight, for each dimension those of variables that lie there; empty if there are none at all.
      products: contractions of variables that it is made of.
      summed: what it is a sum over, up to factors and added numbers.
      share: by what it has been scaled last, before it is summed.
      known: its content, if that depends on nothing.
    """

    dims: tuple[Dim, ...]
    weight: bool = False
    origins: tuple[frozenset[Origin], ...] = ()
    products: frozenset[Product] = frozenset()
    summed: Sum | None = None
    share: Share | None = field(default=None, compare=False, repr=False)
    known: Known | None = field(default=None, compare=False, repr=False)

    def origin(self, dim: int) -> frozenset[Origin]:
        """The dimensions of variables that lie on this one."""
        return self.origins[dim] if self.origins else frozenset()

    @property
    def variables(self) -> set[tuple[str, ...]]:
        """The paths of the variables that it is made of, element by element."""
        return {path for origin in self.origins for path, _ in origin}


def variable(dims: tuple[Dim, ...], path: tuple[str, ...]) -> Value:
    """A variable as it is."""
    return Value(dims, True, tuple(frozenset([(path, d)]) for d in range(len(dims))))


def together(dims: Sequence[Dim], values: Sequence[Value]) -> Value:
    """What is made of several values of the same dimensions: of weights, each dimension comes from all of theirs."""
    if not all(value.weight for value in values):
        return Value(tuple(dims))
    return weight_of(dims, [frozenset().union(*(v.origin(d) for v in values)) for d in range(len(dims))], values)


def weight_of(dims: Sequence[Dim], origins: Sequence[frozenset[Origin]], sources: Iterable[Value]) -> Value:
    """A weight made of others, given what lies on its dimensions. A number, or one number for all, has no origin."""
    if not any(origins):
        return Value(tuple(dims), True)
    return Value(tuple(dims), True, tuple(origins), frozenset().union(*(s.products for s in sources if any(s.origins))))


#: Larger constants are not looked into.
_LARGEST = 1 << 16


def constant(array: Any) -> Value:
    """Constants of the model are what they are: their axes are fixed."""
    shape = np.shape(array)
    keys = jax.dtypes.issubdtype(getattr(array, "dtype", np.float32), jax.dtypes.extended)
    legible = not keys and not isinstance(array, jax.core.Tracer) and math.prod(shape) <= _LARGEST
    return Value((None,) * len(shape), weight=True, known=Known(lambda: array) if legible else None)
