"""Two ways to the same budget, compared on examples that neither was fitted to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Comparison:
    """How far two networks are from the original, on the same examples.

    Attributes:
      elaborate: the mean distance of the one that took more to make; see `naivenas_jax.fit.outputs.WantedOutputs`.
      simple: that of the other.
      off: the standard error of their difference, over examples; 0 of a single one.
      number: how many examples, or batches where their examples do not lie along one dimension.
      held_back: whether neither was fitted to them.
      by_example: whether it is examples that were counted, and not batches.
    """

    elaborate: float
    simple: float
    off: float
    number: int
    held_back: bool
    by_example: bool = True

    @classmethod
    def of(
        cls,
        elaborate: Float[np.ndarray, " examples"],
        simple: Float[np.ndarray, " examples"],
        held_back: bool,
        by_example: bool = True,
    ) -> Comparison:
        """The distances of two networks on every example, compared."""
        first, second = (np.where(np.isnan(own), np.inf, own) for own in (elaborate, simple))
        both = np.isfinite(first) & np.isfinite(second)
        differences = (first - second)[both]
        off = float(differences.std(ddof=1) / np.sqrt(len(differences))) if len(differences) > 1 else 0.0
        return cls(float(first.mean()), float(second.mean()), off, len(first), held_back, by_example)

    @property
    def worth_it(self) -> bool:
        """Whether the elaborate one is nearer by more than chance may have made it: one standard error."""
        return self.elaborate < self.simple - self.off or not np.isfinite(self.simple)

    def __str__(self) -> str:
        """What was found, for the notes of a mutation."""
        where = "that no fit had seen" if self.held_back else "that both were fitted to, since none could be held back"
        taken = "the steps" if self.worth_it else "resize and compensate at once"
        counted = "examples" if self.by_example else "batches"
        return (
            f"{taken} taken: on {self.number} {counted} {where}, outputs are off by a relative square of "
            f"{self.elaborate:.3g} after steps and {self.simple:.3g} at once; known to {self.off:.1g}"
        )
