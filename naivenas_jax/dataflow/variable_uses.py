"""How a network uses its variables, whatever layer they are from: the events that `naivenas_jax.dataflow.walk` shows.

Three kinds of use are recognised:

* a *contraction*: a variable, cast or rearranged, meets an activation in a matrix product or convolution;
* a variable that is *added* to the result of a contraction or *subtracted* from it: a bias, or the mean of a
  normalisation;
* a *standardisation*: the running mean of a collection of statistics is subtracted from an activation.

Two more events say what happens to the result of a contraction: a *skip connection*, and its *outcome*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

from naivenas_jax.dataflow.contraction import Contraction
from naivenas_jax.paths import Path
from naivenas_jax.typing import Array


class AddedVariable(NamedTuple):
    """A variable is added to the result of a contraction, or subtracted from it.

    Attributes:
      contraction: the contraction.
      path: the variable.
      sign: 1 where it is added, -1 where it is subtracted.
      shape: the shape of the result, which may have been reshaped.
      dims: for each dimension of the variable the one of the result that it lies on; None where that cannot be told.
    """

    contraction: Contraction
    path: Path
    sign: int
    shape: tuple[int, ...]
    dims: tuple[int, ...] | None


class Standardisation(NamedTuple):
    """A running mean is subtracted from an activation.

    Attributes:
      path: the running mean.
      activation: the array that it is subtracted from.
      dims: for each dimension of the mean the one of the activation that it lies on.
      step: the step that subtracts it.
    """

    path: Path
    activation: Array
    dims: tuple[int, ...]
    step: int

    @property
    def moments(self) -> tuple[float, Array, Array]:
        """The number of values of the activation along all other dimensions, their mean and variance."""
        others = tuple(d for d in range(self.activation.ndim) if d not in self.dims)
        values = jnp.asarray(self.activation, jnp.float32)
        mean = values.mean(others)
        kept = tuple(int(d) for d in np.argsort(np.argsort(self.dims)))
        variance = ((values - jnp.expand_dims(mean, others)) ** 2).mean(others)
        number = float(np.prod([values.shape[d] for d in others]))
        return number, mean.transpose(kept), variance.transpose(kept)


class SkipConnection(NamedTuple):
    """An activation is added to the result of a contraction, and to whatever else was added to that.

    It depends on earlier contractions alone. Where more is added to the sum, it is shown again, with all activations so
    far. Where the result was multiplied first with what depends on no input (a layer scale), activations are divided by
    that: the sum is as good as ``result + activation``.

    Attributes:
      contraction: the contraction.
      activation: the array that is added.
      step: the step that adds it.
    """

    contraction: Contraction
    activation: Array
    step: int

    @property
    def path(self) -> Path:
        """The variable that was contracted."""
        return self.contraction.path


class Outcome(NamedTuple):
    """The result of a contraction after all that is computed entry by entry, until something mixes its entries.

    See `naivenas_jax.dataflow.pointwise_tail`.

    Attributes:
      contraction: the contraction.
      array: the outcome.
      slope: computes the derivative of each entry of the outcome by the entry of the result that it comes from.
      step: the step that returns the outcome.
    """

    contraction: Contraction
    array: Array
    slope: Callable[[], Array]
    step: int

    @property
    def path(self) -> Path:
        """The variable that was contracted."""
        return self.contraction.path


class OtherUse(NamedTuple):
    """A variable is used in any other way: looked up by index, scaled, passed to a loop."""

    path: Path


VariableUse: TypeAlias = Contraction | AddedVariable | Standardisation | SkipConnection | Outcome | OtherUse
#: Sees each use of a variable; may return an array to go on with in place of the result of a contraction.
Hook: TypeAlias = Callable[[VariableUse], Array | None]


@dataclass(frozen=True)
class UseCounts:
    """How often each variable is used in one evaluation, by kind of use.

    Attributes:
      rows: for each contraction of a variable the number of its rows.
      skips: of how many contractions there is a skip connection to the result.
      outcomes: the outcomes of what it makes.
      elsewhere: the variables that are used in any other way.
    """

    rows: dict[Path, list[int]]
    skips: Counter[Path]
    outcomes: Counter[Path]
    elsewhere: frozenset[Path]

    @classmethod
    def of(cls, uses: Sequence[VariableUse]) -> UseCounts:
        """The uses of one evaluation, counted."""
        rows: dict[Path, list[int]] = {}
        for use in uses:
            if isinstance(use, Contraction):
                rows.setdefault(use.path, []).append(use.sizes.rows)
        return cls(
            rows=rows,
            skips=Counter(
                path for path, _ in {(u.path, u.contraction.number) for u in uses if isinstance(u, SkipConnection)}
            ),
            outcomes=Counter(use.path for use in uses if isinstance(use, Outcome)),
            elsewhere=frozenset(use.path for use in uses if isinstance(use, OtherUse)),
        )


def ignore(use: VariableUse) -> None:
    """A hook that does nothing."""
    del use
