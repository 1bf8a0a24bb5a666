"""What is known of an array inside a traced function."""

from __future__ import annotations

from dataclasses import dataclass

from naivenas_jax.sizes.blocks import Vector

#: The neurons along a dimension; None: the dimension is fixed, and the index along it carries meaning.
Dim = Vector | None


@dataclass(frozen=True)
class Value:
    """The neurons on each dimension of an array, and where the array comes from.

    Attributes:
      dims: per dimension.
      weight: whether it depends on variables and constants only.
      leaf: the variable that it is, perhaps cast, transposed or shifted by a constant.
      leaf_dims: for each dimension that of the variable, None where it was added.
      summed: what it is a sum over: neurons, and the number of terms that are no neurons.
    """

    dims: tuple[Dim, ...]
    weight: bool = False
    leaf: tuple[str, ...] | None = None
    leaf_dims: tuple[int | None, ...] = ()
    summed: tuple[tuple[Vector, ...], int] | None = None
