"""What is known of an array inside a traced function."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from naivenas_jax.paths import Path
from naivenas_jax.sizes.vector import Vector
from naivenas_jax.typing import Array

#: The neurons along a dimension; None: the dimension is fixed, and the index along it carries meaning.
Dim = Vector | None
#: One dimension of a variable: its path, and the number of the dimension.
Origin = tuple[Path, int]
#: Arrays with more entries are not looked into.
LARGEST = 1 << 16


@dataclass(frozen=True, eq=False)
class Known:
    """The content of an array that depends on neither variables nor inputs. It is computed when somebody asks for it.

    Attributes:
      compute: computes it.
      sources: the values it is made of. Where its content is used, their sizes may not change.
      number: what all entries are equal to, where one number has been broadcast.
    """

    compute: Callable[[], Array]
    sources: tuple[Value, ...] = ()
    number: Known | None = None

    @cached_property
    def array(self) -> np.ndarray:
        """The content."""
        with jax.ensure_compile_time_eval():  # inside a jit as well
            return np.asarray(self.compute())


@dataclass(frozen=True)
class WeightProduct:
    """A weight in two parts: variables that are contracted with one another, so that one makes what the other reads.

    Attributes:
      left: the dimensions of variables that lie on the contracted dimension of the first operand.
      right: those of the second.
      over: the neurons that were contracted.
    """

    left: frozenset[Origin]
    right: frozenset[Origin]
    over: Dim

    def reader(self, entry: frozenset[Origin]) -> frozenset[Origin]:
        """The side that reads, if activations are contracted with the dimensions ``entry``.

        Where ``entry`` does not tell, it is the second side, as in ``x @ (a @ b)``.
        """
        paths = {path for path, _ in entry}
        inside = [bool(paths & {path for path, _ in side}) for side in (self.left, self.right)]
        return self.left if inside == [False, True] else self.right


@dataclass(frozen=True)
class Sum:
    """A sum over some dimensions at once, to some power.

    Attributes:
      over: the neurons, one vector for each dimension of neurons that is summed over.
      rest: the number of terms for each neuron, from dimensions of fixed size that are summed over as well.
      power: the exponent of the sum; 1/2 for a square root.
    """

    over: tuple[Vector, ...]
    rest: int
    power: float = 1.0

    @overload
    def count(self, length: Callable[[Vector], int] = ...) -> int: ...
    @overload
    def count(self, length: Callable[[Vector], int | jax.Array]) -> int | jax.Array: ...
    def count(self, length: Callable[[Vector], int | jax.Array] = len) -> int | jax.Array:
        """The number of terms, for given numbers of neurons."""
        return math.prod(map(length, self.over), start=self.rest)


@dataclass(frozen=True, eq=False)
class Share:
    """A number that an array has been multiplied by. Should the array be summed later, it may stand for 1 / terms.

    Attributes:
      notes: those of the frame of the equation that multiplies, which can be told there to use another number.
      eqn: that equation.
      factor: the number.
    """

    notes: dict[JaxprEqn, object]
    eqn: JaxprEqn
    factor: float


@dataclass(frozen=True, eq=False)
class Wrap:
    """A number that has been added to positions, so that negative ones count from the end of an axis.

    Attributes:
      notes: those of the frame of the equation that adds it.
      eqn: that equation.
      operand: the operand that the number is.
      size: the number.
    """

    notes: dict[JaxprEqn, object]
    eqn: JaxprEqn
    operand: int
    size: int


@dataclass(frozen=True)
class Lookup:
    """Positions: whole numbers by which entries of something can be looked up.

    Attributes:
      over: the neurons whose positions they are; None: they come from outside, as the numbers of words do.
      by: the primitive that has selected them.
      wrap: a number that has been added to all of them.
      wraps: numbers that have been added to the negative ones.
      columns: of positions on several axes at once, which lie side by side: what each of them looks up.
    """

    over: Dim = None
    by: str = ""
    wrap: Wrap | None = None
    wraps: tuple[Wrap, ...] = ()
    columns: tuple[Lookup | None, ...] = ()


@dataclass(frozen=True)
class Value:
    """The neurons on each dimension of an array, and where the array comes from.

    Attributes:
      dims: the neurons on each dimension.
      weight: whether it depends on variables and constants only.
      origins: for each dimension of a weight the dimensions of variables that lie on it; empty if there are none.
      products: the contractions of variables that a weight is made of.
      sums: the sums that it is, of one another and up to factors and added numbers, the last one last. A sum that has
        been divided by the number of its terms is none of them any more.
      share: the number that it has been multiplied by last, if it may be summed later.
      known: its content, if that depends on neither variables nor inputs, and somebody may want to read it.
      lookup: what entries can be looked up by it.
      constant: whether it depends on neither variables nor inputs.
      added: the neurons of constants that a weight has been put together with, so that a stored 0 is no weight of 0.
      stored: whether it is a variable, or one round's part of it, as it is stored.
    """

    dims: tuple[Dim, ...]
    weight: bool = False
    origins: tuple[frozenset[Origin], ...] = ()
    products: frozenset[WeightProduct] = frozenset()
    sums: tuple[Sum, ...] = ()
    share: Share | None = field(default=None, compare=False, repr=False)
    known: Known | None = field(default=None, compare=False, repr=False)
    lookup: Lookup | None = field(default=None, compare=False, repr=False)
    constant: bool = False
    added: frozenset[Vector] = frozenset()
    stored: bool = field(default=False, compare=False, repr=False)

    def origin(self, dim: int) -> frozenset[Origin]:
        """The dimensions of variables that lie on this one."""
        return self.origins[dim] if self.origins else frozenset()

    @property
    def variables(self) -> set[Path]:
        """The paths of the variables that a weight is made of."""
        return {path for origin in self.origins for path, _ in origin}


def variable(dims: tuple[Dim, ...], path: Path) -> Value:
    """A variable as it is."""
    return Value(dims, True, tuple(frozenset([(path, d)]) for d in range(len(dims))), stored=True)


def together(dims: Sequence[Dim], values: Sequence[Value]) -> Value:
    """What is known of an array made of others with the same dimensions; of weights, origins come from all of them."""
    if not all(value.weight for value in values):
        return Value(tuple(dims))
    return weight_of(dims, [frozenset().union(*(v.origin(d) for v in values)) for d in range(len(dims))], values)


def weight_of(dims: Sequence[Dim], origins: Sequence[frozenset[Origin]], sources: Iterable[Value]) -> Value:
    """A weight made of others, given the dimensions of variables on its own. What is not made of variables has none."""
    made = list(sources)
    added = frozenset().union(*(source.added for source in made))
    if not any(origins):
        return Value(tuple(dims), True, added=added)
    products = frozenset().union(*(source.products for source in made if any(source.origins)))
    return Value(tuple(dims), True, tuple(origins), products, added=added)


def constant(array: Array) -> Value:
    """A literal, or a constant of the model. Its axes are fixed, until it meets neurons."""
    dtype, shape = getattr(array, "dtype", np.float32), np.shape(array)
    keys = jnp.issubdtype(dtype, jax.dtypes.extended)
    legible = not keys and not isinstance(array, jax.core.Tracer) and math.prod(shape) <= LARGEST
    known = Known(lambda: array) if legible else None
    return Value((None,) * len(shape), weight=True, known=known, constant=True)
