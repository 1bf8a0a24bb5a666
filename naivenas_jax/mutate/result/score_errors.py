"""How sure a choice of neurons is, by scores that were measured with some error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from naivenas_jax.align.axis_plan import AxisPlan
from naivenas_jax.errors import UtilityError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.utility.tied import total_utility
from naivenas_jax.utility.user_scores import Utility


@dataclass(frozen=True, eq=False)
class ScoreErrors:
    """Measured scores and their standard errors.

    Scores are measured on the same examples, and how their errors go together is not known. So errors of sums are taken
    as large as they can be, whatever the correlations: the sum of the errors.

    Attributes:
      scores: of each neuron of each handle, with everything tied to it.
      errors: their standard errors, at the most.
    """

    scores: Mapping[str, np.ndarray]
    errors: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, graph: Graph, measured: tuple[Utility, Utility]) -> ScoreErrors:
        """For the graph before a mutation.

        Raises:
          UtilityError: if it is no pair of scores and standard errors, or an error is negative.
        """
        scores, errors = _pair(measured)
        found = cls(total_utility(graph, scores), total_utility(graph, errors))
        for handle, own in found.errors.items():
            if (own < 0).any():
                raise UtilityError(f"measured: the standard error of {handle!r} is negative: {own.min():.3g}.")
        return found

    def kept(self, handle: str, plan: AxisPlan) -> tuple[float, float] | None:
        """The share of the scores that is kept, and its standard error at the most, to first order.

        With K the sum kept, D the sum dropped and s = K / (K + D), ds = ((1 - s) dK - s dD) / (K + D).
        """
        scores, errors = self.scores[handle], self.errors[handle]
        total = float(scores.sum())
        if total <= 0:
            return None
        share = float(scores[plan.kept].sum()) / total
        spread = abs(1 - share) * errors[plan.kept].sum() + abs(share) * errors[plan.dropped].sum()
        return share, float(spread) / total

    def unsure(self, handle: str, plan: AxisPlan) -> int:
        """How many dropped neurons are not below the least that is kept by more than their standard error."""
        scores, errors = self.scores[handle], self.errors[handle]
        least = scores[plan.kept].min(initial=np.inf)
        return int((scores[plan.dropped] + errors[plan.dropped] >= least).sum())


def _pair(measured: tuple[Utility, Utility]) -> tuple[Utility, Utility]:
    if not isinstance(measured, tuple) or len(measured) != 2:
        raise UtilityError(
            "measured must be a pair of scores and standard errors, as nas.fisher(..., errors=True) returns; found "
            f"{type(measured).__name__}."
        )
    return measured
