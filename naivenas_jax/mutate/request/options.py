"""The keywords by which verbs find sizes, read and checked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias, TypedDict

import jax
import numpy as np

from naivenas_jax.checks import as_whole
from naivenas_jax.errors import RequestError, StructureError, UnknownNameError
from naivenas_jax.graph.dag import unknown_name
from naivenas_jax.mutate.request.conditions import Constraints, Minimise
from naivenas_jax.transfer.new_neurons.strategy import New, Strategy, strategy_of
from naivenas_jax.typing import Array, Shape
from naivenas_jax.utility.user_scores import Utility

#: Arrays or shapes, one per input of the graph; one alone if it has one input.
Inputs: TypeAlias = Sequence[Array | Shape] | Array | Shape | None
#: How many neurons may be inserted: for all axes, by axis, or a function of the axis's name (None: the default).
MaxNew: TypeAlias = int | Mapping[str, int] | Callable[[str], int | None] | None
Way: TypeAlias = Literal["grow", "shrink", "both"]
#: What ``align=`` may be.
Ways: TypeAlias = Literal["auto"] | Way | tuple[Way, ...]
WAYS: tuple[Way, ...] = ("grow", "shrink", "both")


class SearchKeywords(TypedDict, total=False):
    """Keywords of whatever finds sizes. What they mean is said at `delta_nout`."""

    rng: jax.Array | None
    time_limit: float | None
    max_new: MaxNew
    free_outputs: bool
    constraints: Constraints
    minimise: Minimise
    layer_keywords: Mapping[str, Mapping[str, object]] | None


class SizeKeywords(SearchKeywords, total=False):
    """Keywords of every verb that finds sizes: those of `SearchKeywords`, and ``utility``."""

    utility: Utility | None


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a verb was told about how to find sizes, with the defaults of what it was not.

    Attributes:
      align: how sizes that disagree after an edit are brought in line; see `EditKeywords`.
      new: what parameters of new neurons start at.
      utility, rng, time_limit, max_new, free_outputs, constraints, minimise, layer_keywords: see `delta_nout`.

    Raises:
      StructureError: if ``align`` is no way of aligning.
      RequestError: if ``time_limit`` is no number of seconds.
      PlanError: if there is no such ``new``.
    """

    utility: Utility | None = None
    new: New = None
    rng: jax.Array | None = None
    time_limit: float | None = None
    max_new: MaxNew = None
    free_outputs: bool = False
    constraints: Constraints = None
    minimise: Minimise = None
    layer_keywords: Mapping[str, Mapping[str, object]] | None = None
    align: Ways = "auto"

    def __post_init__(self) -> None:
        if not self.ways or any(way not in WAYS for way in self.ways):
            raise StructureError(f"align must be 'auto', one of {WAYS}, or a tuple of these, found {self.align!r}.")
        limit = self.time_limit
        if limit is not None and not (isinstance(limit, int | float | np.number) and limit >= 0):  # not NaN either
            raise RequestError(f"time_limit must be a number of seconds, 0 or more, or None; found {limit!r:.80}.")

    @classmethod
    def of(cls, keywords: SizeKeywords, new: New = None) -> Options:
        """The options that a verb was given as keywords (those of `EditKeywords` have ``align`` besides)."""
        return cls(new=new, **keywords)

    @cached_property
    def strategy(self) -> Strategy:
        """What ``new`` means.

        Raises:
          PlanError: if there is no such ``new``.
        """
        return strategy_of(self.new)

    @property
    def ways(self) -> tuple[Way, ...]:
        """The ways of aligning to try, in order."""
        if self.align == "auto":
            return WAYS
        return tuple(self.align) if isinstance(self.align, list | tuple) else (self.align,)

    def insertable(self, sizes: Mapping[str, int], also: Collection[str] = ()) -> dict[str, int]:
        """How many neurons each axis may gain: ten times its size and at least 200, unless ``max_new`` says otherwise.

        Args:
          sizes: of the axes.
          also: further names that ``max_new`` may have.
        """
        unknown = [name for name in self.max_new if name not in sizes] if isinstance(self.max_new, Mapping) else []
        for name in unknown:
            if name not in also:
                raise UnknownNameError(f"max_new: {unknown_name(name, sizes)}")
        return {axis: self._bound(axis, max(200, 10 * size)) for axis, size in sizes.items()}

    def _bound(self, axis: str, default: int) -> int:
        given = self.max_new
        bound = given(axis) if callable(given) else given.get(axis) if isinstance(given, Mapping) else given
        if bound is None:
            return default
        number = as_whole(bound)
        if number is None or number < 0:
            raise RequestError(f"max_new for {axis!r} must be a whole number of neurons, 0 or more; found {bound!r}.")
        return min(number, 10**9)
