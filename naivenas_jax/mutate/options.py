"""The keywords that the verbs have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from naivenas_jax.errors import RequestError, StructureError
from naivenas_jax.transfer.fill import Fill
from naivenas_jax.utility.scores import Utility

MaxNew = int | Mapping[str, int] | Callable[[str], int | None] | None
ALIGN = ("grow", "shrink", "both")


@dataclass(frozen=True)
class Options:
    """Keywords of the verbs.

    Attributes:
      align: how sizes that disagree after an edit are brought in line. "auto": the first of "grow" (the smaller becomes as
        large as the larger), "shrink" (the larger as small as the smaller) and "both" (whatever is nearest) that works.
      utility, new, rng, time_limit, max_new, free_outputs: as for `delta_nout`.
    """

    align: str = "auto"
    utility: Utility | None = None
    new: str | Fill | None = None
    rng: Any = None
    time_limit: float | None = None
    max_new: MaxNew = None
    free_outputs: bool = False

    def __post_init__(self) -> None:
        if self.align not in ("auto", *ALIGN):
            raise StructureError(f"align must be 'auto' or one of {ALIGN}, found {self.align!r}.")

    def insertable(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """How many neurons each axis may gain: ten times its size and at least 200, unless ``max_new`` says otherwise."""
        return {axis: self._bound(axis, max(200, 10 * size)) for axis, size in sizes.items()}

    def _bound(self, axis: str, default: int) -> int:
        given = self.max_new
        bound = given(axis) if callable(given) else given.get(axis) if isinstance(given, Mapping) else given
        if bound is None:
            return default
        if isinstance(bound, bool) or not hasattr(bound, "__index__") or int(bound) < 0:
            raise RequestError(f"max_new for {axis!r} must be a whole number of neurons, 0 or more; found {bound!r}.")
        return int(bound)
