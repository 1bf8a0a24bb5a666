"""From ties, requests and utility to a plan for every axis: the whole of the alignment."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from naivenas_jax.align.explain import explain
from naivenas_jax.align.layout import layout
from naivenas_jax.align.plan import AxisPlan
from naivenas_jax.align.problem import reduce
from naivenas_jax.align.program import NoSolutionError
from naivenas_jax.align.request import Target
from naivenas_jax.align.solve import solve
from naivenas_jax.sizes.ties import Ties


def align(
    ties: Ties,
    targets: Collection[Target],
    utility: Mapping[str, Any],
    *,
    time_limit: float | None = None,
    **bounds: Any,
) -> dict[str, AxisPlan]:
    """Choose which neurons stay and where new ones go.

    Args:
      ties: of the graph.
      targets: the requests.
      utility: scores by axis.
      time_limit: for the solver, in seconds.
      **bounds: ``frozen``, ``equal``, ``least``, ``insertable`` of `naivenas_jax.align.problem.reduce`.

    Raises:
      InfeasibleError: if no sizes satisfy the request; says why and what would.
      TimeLimitError: if the time limit strikes.
    """
    problem = reduce(ties, targets, utility, **bounds)
    try:
        answer = solve(problem, time_limit=time_limit)
    except NoSolutionError:
        raise explain(problem, time_limit) from None
    return layout(ties, problem, answer)
