"""The keywords that the verbs have in common."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from naivenas_jax.errors import RequestError, StructureError, UnknownNameError
from naivenas_jax.graph.dag import unknown_name
from naivenas_jax.mutate.request.conditions import Constraints, Minimise
from naivenas_jax.transfer.new_neurons.fill import New
from naivenas_jax.utility.user_scores import Utility

MaxNew = int | Mapping[str, int] | Callable[[str], int | None] | None
ALIGN = ("grow", "shrink", "both")


@dataclass(frozen=True)
class Options:
    """Keywords of the verbs.

    Attributes:
      align: how sizes that disagree after an edit are brought in line. "auto": the first of "grow" (the smaller becomes
        as large as the larger), "shrink" (the larger as small as the smaller) and "both" (whatever is nearest) that
        works. A tuple of these: the first of them that works.
      utility, new, rng, time_limit, max_new, free_outputs, constraints, minimise, layer_keywords: as for
        `delta_nout`.
    """

    align: str | tuple[str, ...] = "auto"
    utility: Utility | None = None
    new: New = None
    rng: Any = None
    time_limit: float | None = None
    max_new: MaxNew = None
    free_outputs: bool = False
    constraints: Constraints = None
    minimise: Minimise = None
    layer_keywords: Mapping[str, Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        if not self.ways or any(way not in ALIGN for way in self.ways):
            raise StructureError(f"align must be 'auto', one of {ALIGN}, or a tuple of these, found {self.align!r}.")
        limit = self.time_limit
        if limit is not None and not (isinstance(limit, int | float | np.number) and limit >= 0):  # not NaN either
            raise RequestError(f"time_limit must be a number of seconds, 0 or more, or None; found {limit!r:.80}.")

    @property
    def ways(self) -> tuple[Any, ...]:
        """The ways of aligning to try, in order."""
        if self.align == "auto":
            return ALIGN
        return tuple(self.align) if isinstance(self.align, list | tuple) else (self.align,)

    @classmethod
    def read(cls, keywords: Mapping[str, Any]) -> Options:
        """The options that a verb was given as keywords.

        Raises:
          StructureError: names a keyword that there is not.
        """
        known = [field.name for field in fields(cls)]
        unknown = [key for key in keywords if key not in known]
        if unknown:
            raise StructureError(f"There is no keyword {unknown[0]!r}. There are: {', '.join(known)}.")
        return cls(**keywords)

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
        if isinstance(bound, bool) or not hasattr(bound, "__index__") or int(bound) < 0:
            raise RequestError(f"max_new for {axis!r} must be a whole number of neurons, 0 or more; found {bound!r}.")
        return min(int(bound), 10**9)
