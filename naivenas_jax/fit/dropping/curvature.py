"""What each contraction of a network reads, and how the outputs depend on what it makes, in sums over batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from naivenas_jax.dataflow.contraction import Contraction
from naivenas_jax.dataflow.tape import Tape, Values
from naivenas_jax.dataflow.thinning import thinning
from naivenas_jax.dataflow.variable_uses import VariableUse
from naivenas_jax.dataflow.walk import walk_tape
from naivenas_jax.errors import VariablesError
from naivenas_jax.fit.network.data import Data
from naivenas_jax.fit.network.network import Network, on_device
from naivenas_jax.fit.regression.reduced_columns import ReducedColumns
from naivenas_jax.fit.regression.ridge import Gram, added, gram
from naivenas_jax.paths import Path
from naivenas_jax.typing import Array, Variables

#: A contraction of an evaluation: the weight, and how often it has been contracted before.
Key = tuple[Path, int]

#: As many rows as this are read for every column that is summed over, if there are as many.
ROWS_PER_COLUMN = 2

#: Of more columns than this the covariance of the gradients is taken to be diagonal.
MOST_OUTPUTS = 2048


class Curvature(NamedTuple):
    """Sums over rows for one contraction; as numpy arrays once batches are added up.

    Attributes:
      x: products of the columns of X and a column of ones.
      g: products of the columns of the gradients and a column of ones, or of many their squares.
      yg: squares of ``y * gradient``.
      lost: the number of rows whose gradient is not finite. They say nothing, and count as zeros.
    """

    x: Gram
    g: Gram
    yg: Float[Array, "G M"]
    lost: Float[Array, ""]


def curvatures(
    network: Network, variables: Variables, data: Data, reduced: Mapping[Key, ReducedColumns], seed: int = 0
) -> dict[Key, Curvature]:
    """The sums of every contraction. Gradients are taken of sums of the outputs with random signs.

    Args:
      network: the network.
      variables: its variables.
      data: batches of inputs.
      reduced: for some contractions the columns that are taken in the place of those of X.
      seed: of the signs.
    """
    total, present = dict[Key, Curvature](), on_device(variables)
    for number, inputs in enumerate(data):
        key = jax.random.fold_in(jax.random.key(seed), number)
        tape = network.tape(present, inputs)
        found = network.compiled(_of_batch, tape, data.number)(present, tape.start(inputs), key, reduced)
        for own in tuple(found):  # each let go as it is added
            total[own] = added(total.get(own), found.pop(own), f"{'/'.join(own[0])} on batch {number}")
    for (path, _), sums in total.items():
        if 2 * float(sums.lost) > sums.x.sums[0, -1, -1]:
            raise VariablesError(
                f"The gradient of the outputs by what {'/'.join(path)} makes is not finite for most examples, such as "
                "that of a square root at 0. Mend the model, or use nas.resize and nas.compensate."
            )
    return total


def _of_batch(
    tape: Tape,
    batches: int,
    variables: Variables,
    live: Values,
    key: jax.Array,
    reduced: Mapping[Key, ReducedColumns],
) -> dict[Key, Curvature]:
    """The sums of one of some batches: zeros are added to the result of every contraction, and gradients taken by them.

    Sums over some of the rows are scaled up to all.
    """
    found: dict[Key, Contraction] = {}
    jax.eval_shape(lambda: walk_tape(tape, variables, live, lambda use: found.update(_contraction(use))))
    every = {own: _every(one, batches, reduced.get(own)) for own, one in found.items()}
    picked = {own: one.picked(every[own]) for own, one in found.items()}
    zeros = {own: jnp.zeros(one.result.shape, one.result.dtype) for own, one in found.items()}

    def outputs(deltas: Mapping[Key, jax.Array]) -> tuple[list[Array], dict[Key, tuple[Array, Array]]]:
        seen: dict[Key, tuple[Array, Array]] = {}

        def hook(use: VariableUse) -> Array | None:
            for own, one in _contraction(use).items():
                x, fewer = one.x_at(picked[own]), reduced.get(own)
                seen[own] = x if fewer is None else fewer.columns(x), one.y[:, picked[own]]
            return use.result + deltas[use.path, use.number] if isinstance(use, Contraction) else None

        results = walk_tape(tape, variables, live, hook)
        return [results[n] for n in tape.results if jnp.issubdtype(results[n].dtype, jnp.inexact)], seen

    results, pull, seen = jax.vjp(outputs, zeros, has_aux=True)
    keys = jax.random.split(key, len(results))
    signs = [jax.random.rademacher(k, a.shape, jnp.float32) for k, a in zip(keys, results, strict=True)]
    (slopes,) = pull([sign.astype(a.dtype) for sign, a in zip(signs, results, strict=True)])
    gradients = {own: one.columns(jnp.asarray(slopes[own], jnp.float32))[:, picked[own]] for own, one in found.items()}
    return {own: _curvature(*seen[own], gradients[own], every[own]) for own in found}


def _every(one: Contraction, batches: int, fewer: ReducedColumns | None) -> int:
    """One in so many rows is enough for the covariance of X, which is inverted with a ridge."""
    rows, inputs, outputs = one.sizes
    inputs = inputs if fewer is None else fewer.number
    return thinning(rows * batches, max(inputs, outputs) + 1, ROWS_PER_COLUMN)


def _contraction(use: VariableUse) -> dict[Key, Contraction]:
    return {(use.path, use.number): use} if isinstance(use, Contraction) else {}


def _curvature(x: Float[Array, "G N K"], y: Float[Array, "G N M"], g: Float[Array, "G N M"], every: int) -> Curvature:
    finite = jnp.isfinite(g).all(-1, keepdims=True)
    g = jnp.where(finite, g, 0.0)
    of_g = gram(g) if g.shape[-1] <= MOST_OUTPUTS else gram(g[:, :, :0], g)
    of_x, of_g = (jax.tree.map(lambda sums: sums * every, one)._replace(about=one.about) for one in (gram(x), of_g))
    return Curvature(of_x, of_g, every * ((y * g) ** 2).sum(1), every * (~finite.all(0)).sum())
