"""What is to be known of a variable that becomes a weight by a function, so that a stored 0 is no weight of 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, Self

from naivenas_jax.paths import Path
from naivenas_jax.typing import Array


class WeightFunction(Protocol):
    """What a variable is in weights that are functions of variables. Arrays are those of all variables, by path."""

    @property
    def linear(self) -> bool:
        """Whether the weights are homogeneous of degree 1 in the variable: they are 0 where it is."""

    @property
    def switches(self) -> bool:
        """Whether neurons are switched off by this variable; if not, another one does it."""

    @property
    def holds(self) -> bool:
        """Whether the size of the weights is told by this variable, and not by another one that they are made of."""

    @property
    def near(self) -> float | None:
        """Where weights are too small to count, but have a derivative; None where they have one at 0 as well."""

    def switched_off(self, arrays: Mapping[Path, Array]) -> Array | float:
        """The entries with which the weights are 0: a number, or an array of the variable's shape."""

    def value(self, arrays: Mapping[Path, Array]) -> Array | None:
        """The entries of the weight in the places of the variable's entries; None if there are others."""

    def value_and_slope(self, arrays: Mapping[Path, Array]) -> tuple[Array, Array] | None:
        """`value`, and the derivative of each entry by the variable's."""

    def within(self, scope: Path) -> Self:
        """The same, where all paths are below a scope."""
