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
      more_choices: by how much more often the largest output of the elaborate one is another than the original's.
      choices_off: the standard error of this difference.
    """

    elaborate: float
    simple: float
    off: float
    number: int
    held_back: bool
    by_example: bool = True
    more_choices: float = 0.0
    choices_off: float = 0.0

    @classmethod
    def of(
        cls,
        elaborate: Float[np.ndarray, " examples"],
        simple: Float[np.ndarray, " examples"],
        held_back: bool,
        by_example: bool = True,
        choices: tuple[Float[np.ndarray, " examples"], Float[np.ndarray, " examples"]] | None = None,
    ) -> Comparison:
        """The distances of two networks on every example, compared.

        Args:
          elaborate: those of the one that took more to make.
          simple: those of the other.
          held_back: whether neither was fitted to these examples.
          by_example: whether these are examples, and not batches.
          choices: for both, in this order, how often the largest output is another one than the original's.
        """
        first, second = (np.where(np.isnan(own), np.inf, own) for own in (elaborate, simple))
        both = np.isfinite(first) & np.isfinite(second)
        more, off = (0.0, 0.0) if choices is None else _mean(choices[0] - choices[1])
        return cls(
            elaborate=float(first.mean()),
            simple=float(second.mean()),
            off=_mean((first - second)[both])[1],
            number=len(first),
            held_back=held_back,
            by_example=by_example,
            more_choices=more,
            choices_off=off,
        )

    @property
    def worth_it(self) -> bool:
        """Whether the elaborate one is better by more than chance may have made it: one standard error.

        It is nearer, and does not choose differently from the original more often. Logits may be nearer on the whole
        and further away where it matters: the square counts what all classes have in common, and how sure the network
        is of what is clear anyway.
        """
        nearer = self.elaborate < self.simple - self.off or not np.isfinite(self.simple)
        return nearer and not self.chooses_worse

    @property
    def chooses_worse(self) -> bool:
        """Whether the largest output of the elaborate one is another more often, by more than chance."""
        return bool(np.isfinite(self.simple)) and self.more_choices > self.choices_off

    def __str__(self) -> str:
        """What was found, for the notes of a mutation."""
        where = "that no fit had seen" if self.held_back else "that both were fitted to, since none could be held back"
        taken = "the steps" if self.worth_it else "resize and compensate at once"
        counted = "examples" if self.by_example else "batches"
        words = f"; after steps the largest output is another one more often, by {self.more_choices:.2g}"
        return (
            f"{taken} taken: on {self.number} {counted} {where}, outputs are off by a relative square of "
            f"{self.elaborate:.3g} after steps and {self.simple:.3g} at once; known to {self.off:.1g}"
            f"{words if self.chooses_worse else ''}"
        )


def _mean(values: Float[np.ndarray, " examples"]) -> tuple[float, float]:
    """A mean, and its standard error; 0, where a single value or none tells nothing of chance."""
    if not len(values):
        return 0.0, 0.0
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
