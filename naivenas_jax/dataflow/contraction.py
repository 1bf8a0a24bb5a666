"""A matrix product or convolution of an activation and a variable, as ``Y[g] = X[g] @ B[g]`` for each of G groups.

X has a row per example and position and a column per entry that is summed over, for a convolution the patches; B is the
variable, its entries moved about. G is 1, except for grouped convolutions and products over a batch of weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from naivenas_jax.dataflow.rearranged import Rearranged
from naivenas_jax.dataflow.thinning import picked_rows
from naivenas_jax.jaxpr.interpret import Equation
from naivenas_jax.paths import Path
from naivenas_jax.typing import Array

#: Takes an array to one with a first dimension of groups: Y or B.
Grouping = Callable[[Array], Shaped[Array, "G _ _"]]


class Sizes(NamedTuple):
    """The sizes of the matrices of a contraction, in every group.

    Attributes:
      rows: N.
      inputs: K.
      outputs: M.
    """

    rows: int
    inputs: int
    outputs: int


#: Takes an activation, the numbers of some rows, and whether only columns are wanted that do not only see padding, to
#: these rows of X.
SomeRows = Callable[[Array, Int[np.ndarray, " n"], bool], Shaped[Array, "G n _"]]


@dataclass(frozen=True, eq=False)
class Contraction:
    """One contraction of a variable with an activation.

    Attributes:
      path: the variable.
      activation: the array that it is contracted with.
      result: the array that the equation returns.
      rows: makes some rows of X, shape (G, n, K), from the activation and their numbers.
      columns: makes Y, shape (G, N, M), from the result.
      matrix: makes B, shape (G, K, M), from the variable, or from any array of its shape.
      seen: which columns of X have more than padding in them; those of a window that is wider than what it slides over
        may not.
      number: how often the variable has been contracted before, in this evaluation.
      step: the step of the evaluation that contracts them.
    """

    path: Path
    activation: Array
    result: Array
    rows: SomeRows
    columns: Grouping
    matrix: Grouping
    seen: Bool[np.ndarray, " K"]
    number: int = 0
    step: int = 0

    @property
    def x(self) -> Float[Array, "G N K"]:
        """The matrices X, in float32."""
        return self.x_at(np.arange(self.sizes.rows))

    @property
    def y(self) -> Float[Array, "G N M"]:
        """The matrices Y, in float32."""
        return self.columns(jnp.asarray(self.result, jnp.float32))

    def x_at(self, picked: Int[np.ndarray, " n"], seen: bool = False) -> Float[Array, "G n _"]:
        """Some rows of X, in float32.

        Args:
          picked: the numbers of the rows.
          seen: whether columns that only see padding are left out.
        """
        return self.rows(jnp.asarray(self.activation, jnp.float32), picked, seen)

    def evaluated_at(self, picked: Int[np.ndarray, " n"], variable: Array) -> Contraction:
        """The same with a result that is only computed at some rows, and 0 at others: what they take is saved.

        Args:
          picked: the numbers of the rows.
          variable: the variable as it is.
        """
        made = self.x_at(picked) @ self.matrix(jnp.asarray(variable, jnp.float32))
        every = jnp.zeros((made.shape[0], self.sizes.rows, made.shape[2]), made.dtype).at[:, picked].set(made)
        # columns() only moves entries about, so that its transpose is the way back
        (result,) = jax.linear_transpose(self.columns, jax.ShapeDtypeStruct(self.result.shape, made.dtype))(every)
        return replace(self, result=result.astype(self.result.dtype))

    def picked(self, every: int) -> Int[np.ndarray, " n"]:
        """One in so many rows, by number."""
        return picked_rows(self.sizes.rows, np.shape(self.activation)[0], every)

    @cached_property
    def sizes(self) -> Sizes:
        """The sizes of the matrices, which are not made for that."""
        _, rows, outputs = jax.eval_shape(self.columns, self.result).shape
        one = jax.eval_shape(lambda array: self.rows(array, np.zeros(1, int), False), self.activation)
        return Sizes(rows, one.shape[2], outputs)

    def entries(self, shape: Sequence[int]) -> Int[np.ndarray, "G K M"]:
        """For each entry of B its position in the flattened variable, which has this shape."""
        return np.asarray(self.matrix(np.arange(prod(shape)).reshape(shape)))


def contraction_of(
    eqn: Equation, side: int, variable: Rearranged, activation: Array, result: Array
) -> Contraction | None:
    """An equation as a product of matrices; None where it is none.

    Args:
      eqn: a ``dot_general`` or a ``conv_general_dilated``.
      side: which of its two operands is the variable.
      variable: how the operand is made of the variable.
      activation: the other operand.
      result: the result of the equation.
    """
    if eqn.primitive.name == "dot_general":
        return _dot(eqn, side, variable, activation, result)
    if side != 1 or eqn.params["batch_group_count"] != 1:
        return None
    return _conv(eqn, variable, activation, result)


def _dot(eqn: Equation, side: int, variable: Rearranged, activation: Array, result: Array) -> Contraction:
    contracted, batch = eqn.params["dimension_numbers"]
    mine, theirs, groups = contracted[side], contracted[1 - side], batch[1 - side]
    kernel, shape = eqn.invars[side].aval.shape, np.shape(activation)
    free = [d for d in range(len(kernel)) if d not in (*mine, *batch[side])]
    others = [d for d in range(len(shape)) if d not in (*theirs, *groups)]
    g, total, made = prod(shape[d] for d in groups), prod(shape[d] for d in theirs), prod(kernel[d] for d in free)
    number = prod(shape[d] for d in others)

    def rows(array: Array, picked: Int[np.ndarray, " n"], seen: bool) -> Array:
        del seen  # there is no padding
        every = array.transpose(*groups, *others, *theirs).reshape(g, number, total)
        return some(every, picked, 1)

    def columns(array: Array) -> Array:  # behind the groups, a result has what is left of the first operand first
        return array.reshape(g, number, made) if side == 1 else array.reshape(g, made, number).transpose(0, 2, 1)

    return Contraction(
        variable.path,
        activation,
        result,
        rows=rows,
        columns=columns,
        matrix=lambda array: variable.forward(array).transpose(*batch[side], *mine, *free).reshape(g, total, made),
        seen=np.ones(total, bool),
    )


def _conv(eqn: Equation, variable: Rearranged, activation: Array, result: Array) -> Contraction:
    params, numbers = eqn.params, eqn.params["dimension_numbers"]
    kernel, g = eqn.invars[1].aval.shape, params["feature_group_count"]
    out, into, *window = numbers.rhs_spec
    total, made = prod(kernel) // kernel[out], kernel[out] // g
    padding = [(*pad, by - 1) for pad, by in zip(params["padding"], params["lhs_dilation"], strict=True)]
    sizes = np.shape(_features_last(result, numbers.out_spec))[:-1]
    places_seen = _places_seen(eqn, sizes[1:])
    all_places = [np.ones(len(own), bool) for own in places_seen]

    def rows(array: Array, picked: Int[np.ndarray, " n"], seen: bool) -> Array:
        padded = jax.lax.pad(
            _features_last(array, numbers.lhs_spec), array.dtype.type(0), [(0, 0, 0), *padding, (0, 0, 0)]
        )
        example, *positions = np.unravel_index(picked, sizes)
        wanted = zip(places_seen if seen else all_places, params["rhs_dilation"], strict=True)
        places = [np.flatnonzero(own) * by for own, by in wanted]
        first = [int(own[0]) if len(own) else 0 for own in places]
        starts = [place * by + at for place, by, at in zip(positions, params["window_strides"], first, strict=True)]
        extents = [int(own[-1]) - at + 1 if len(own) else 0 for own, at in zip(places, first, strict=True)]
        shape = (1, *extents, padded.shape[-1])
        patches: Array = jax.vmap(lambda *start: jax.lax.dynamic_slice(padded, (*start, 0), shape)[0])(example, *starts)
        for d, (own, at) in enumerate(zip(places, first, strict=True), 1):  # (n, *window, features)
            patches = some(patches, own - at, d)
        return jnp.moveaxis(patches.reshape(*patches.shape[:-1], g, kernel[into]), -2, 0).reshape(g, len(picked), -1)

    def matrix(array: Array) -> Array:
        moved = variable.forward(array).transpose(*window, into, out)
        return moved.reshape(total, g, made).transpose(1, 0, 2)

    return Contraction(
        variable.path,
        activation,
        result,
        rows=rows,
        columns=lambda array: _features_last(array, numbers.out_spec).reshape(-1, g, made).transpose(1, 0, 2),
        matrix=matrix,
        seen=np.repeat(reduce(np.multiply.outer, places_seen, np.ones((), bool)).ravel(), kernel[into]),
    )


def some(array: Array, indices: Int[np.ndarray, " k"], dim: int) -> Array:
    """Some entries along a dimension: a slice where they are evenly spaced, which is quicker."""
    steps = np.unique(np.diff(indices))
    if len(steps) > 1 or not len(indices) or (steps <= 0).any():
        return jnp.take(array, indices, dim, mode="clip")  # none is outside: nothing has to be compiled for those
    start, step = int(indices[0]), int(steps[0]) if len(steps) else 1
    return jax.lax.slice_in_dim(array, start, int(indices[-1]) + 1, step, dim)


def _places_seen(eqn: Equation, positions: Sequence[int]) -> list[Bool[np.ndarray, " _"]]:
    """For each dimension of the window of a convolution, which places meet an entry of the activation somewhere."""
    params, numbers = eqn.params, eqn.params["dimension_numbers"]
    found = []
    for d, (into, of, number) in enumerate(zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], positions, strict=True)):
        starts = np.arange(number)[:, None] * params["window_strides"][d] - params["padding"][d][0]
        met = starts + np.arange(eqn.invars[1].aval.shape[of]) * params["rhs_dilation"][d]
        entry, between = np.divmod(met, params["lhs_dilation"][d])
        there = (between == 0) & (entry >= 0) & (entry < eqn.invars[0].aval.shape[into])
        found.append(there.any(0))
    return found


def _features_last(array: Array, spec: Sequence[int]) -> Array:
    """The result of a convolution with its features on the last dimension."""
    batch, features, *window = spec
    return array.transpose(batch, *window, features)
