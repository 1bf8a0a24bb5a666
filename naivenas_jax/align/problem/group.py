"""Interchangeable neurons, of which the alignment decides only how many stay."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True, eq=False, kw_only=True)
class Group:
    """Classes that every axis holds equally often and that are equally free to change.

    Attributes:
      classes: shape (N,): their numbers, in original order.
      best: shape (N,): positions in ``classes``, best utility first; of equal ones the earlier. In a fixed group: any
        order.
      utility_kept: shape (N + 1,): the utility of the best k of them together, for k = 0 ... N.
      fixed: why none may be dropped or inserted, or None.
    """

    classes: Int[np.ndarray, " classes"]
    best: Int[np.ndarray, " classes"]
    utility_kept: Float[np.ndarray, " classes+1"]
    fixed: str | None

    @classmethod
    def of(
        cls, classes: Int[np.ndarray, " classes"], utility: Float[np.ndarray, " classes"], fixed: str | None
    ) -> Group:
        """A group of classes, given the utility of each."""
        # all of a fixed group stay, so that their order does not matter, and most groups are fixed: no request
        # reaches them
        best = np.arange(len(classes)) if fixed else np.argsort(-utility, kind="stable")
        return cls(
            classes=classes,
            best=best,
            utility_kept=np.concatenate([[0.0], np.cumsum(utility[best])]),
            fixed=fixed,
        )

    @cached_property
    def size(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @cached_property
    def utility(self) -> Float[np.ndarray, " classes"]:
        """The utility of each class, best first."""
        return np.diff(self.utility_kept)
