"""From ties, requests and utility to a plan for every axis: the whole of the alignment."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from naivenas_jax.align.explain import explain
from naivenas_jax.align.layout import layout
from naivenas_jax.align.plan import AxisPlan
from naivenas_jax.align.problem import Problem, reduce
from naivenas_jax.align.program import NoSolutionError
from naivenas_jax.align.request import Target
from naivenas_jax.align.solve import Answer, solve
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
    problems = [reduce(ties, targets, utility, varying=v, **bounds) for v in _choices(ties, bounds.get("reached"))]
    answers = []
    for problem in problems:
        try:
            answers.append((problem, solve(problem, time_limit=time_limit)))
        except NoSolutionError:
            continue
    if not answers:
        raise explain(problems[0], time_limit)
    return layout(ties, *min(answers, key=lambda pair: _rank(*pair)))


def _choices(ties: Ties, reached: Collection[str] | None) -> range:
    """Which factors of products to try as the one that changes."""
    if not ties.products:
        return range(1)
    runs = ties.plain(run for axis in ties.axes if reached is None or axis in reached for run in ties.axes[axis])
    open_runs = runs - ties.fixed.keys()
    free = [sum(not open_runs.isdisjoint(ties.plain(row)) for row in factors) for factors in ties.products.values()]
    return range(max([1, *free]))


def _rank(problem: Problem, answer: Answer) -> tuple[float, float]:
    """Nearer to the requests is better, then losing less utility; of equal answers the earlier choice."""
    sizes = problem.sizes(answer.kept, answer.new)
    distance = sum(abs(sizes[row] - target.wish) for row, target in problem.targets)
    lost = sum(group.worth[-1] - group.worth[kept] for group, kept in zip(problem.groups, answer.kept, strict=True))
    return float(distance), float(lost)
