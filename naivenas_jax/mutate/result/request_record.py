"""What a change of width was asked to do, kept with its result so that a report can say what was binding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from naivenas_jax.align.problem.budget import Budget
from naivenas_jax.align.problem.request import Target
from naivenas_jax.sizes.condition import Condition


@dataclass(frozen=True, eq=False)
class RequestRecord:
    """Requests, conditions, budgets and utility of a change of width, in terms of the axes of the graph before.

    Attributes:
      targets: the requests.
      required: conditions on sizes, those of layers not among them.
      budgets: counts that may not exceed a bound.
      utility: the scores that decided, by axis; empty in a dry run on shapes.
      kept: the utility of the neurons that stayed, of those that might have been dropped.
      lost: the utility of the neurons that were dropped.
    """

    targets: tuple[Target, ...] = ()
    required: tuple[Condition, ...] = ()
    budgets: tuple[Budget, ...] = ()
    utility: Mapping[str, np.ndarray] = field(default_factory=dict)
    kept: float = 0.0
    lost: float = 0.0
