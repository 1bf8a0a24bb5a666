"""From ties, requests and utility to a plan for every axis: the whole of the alignment."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from naivenas_jax.align.axis_plan import AxisPlan
from naivenas_jax.align.explain import explain, too_small
from naivenas_jax.align.layout import layout
from naivenas_jax.align.problem.factors import choices
from naivenas_jax.align.problem.problem import Problem, closed, reduce
from naivenas_jax.align.problem.request import Target
from naivenas_jax.align.program.milp import NoSolutionError
from naivenas_jax.align.solve.growth import solve_growth
from naivenas_jax.align.solve.solve import Answer, UnprovenError, rank, solve
from naivenas_jax.errors import InfeasibleError, TimeLimitError
from naivenas_jax.sizes.ties import Ties


class Alignment(NamedTuple):
    """What an alignment has decided.

    Attributes:
      axes: the plan of every axis.
      gap: within budgets, how much more utility an optimum could keep, as a share of ``kept``.
      kept: the utility kept of the neurons that might have been dropped.
      lost: the utility of those that were.
    """

    axes: dict[str, AxisPlan]
    gap: float
    kept: float
    lost: float


def align(
    ties: Ties,
    targets: Collection[Target],
    utility: Mapping[str, Any],
    *,
    time_limit: float | None = None,
    grow: bool = False,
    **bounds: Any,
) -> Alignment:
    """Choose which neurons stay and where new ones go.

    Args:
      ties: of the graph.
      targets: the requests.
      utility: scores by axis.
      time_limit: for the solver, in seconds.
      grow: whether what is left of the budgets is spent on new neurons, and nothing is dropped.
      **bounds: ``frozen``, ``reached``, ``equal``, ``least``, ``insertable``, ``required``, ``objectives``, ``budgets``
        of `naivenas_jax.align.problem.problem.reduce`.

    Raises:
      InfeasibleError: if no sizes satisfy the request; says why and what would.
      TooSmallError: if a request is for less than one neuron.
      TimeLimitError: if the time limit strikes; its ``best`` makes the plan of the best sizes found by then.
    """
    least = bounds.get("least") or {}
    small = [target for target in targets if target.exact and target.wish < least.get(target.axis, 1)]
    targets = [replace(target, wish=1) if target in small else target for target in targets]
    fixed = closed(ties, bounds.get("frozen"), bounds.get("reached"))
    problems = [reduce(ties, targets, utility, choice=choice, **bounds) for choice in choices(ties, fixed, targets)]
    if small:
        raise too_small(small[0], problems[0], time_limit)
    answers: list[tuple[Problem, Answer]] = []
    gaps: list[str] = []
    stopped = False
    for problem in problems:
        try:
            answers.append((problem, (solve_growth if grow else solve)(problem, time_limit=time_limit)))
        except NoSolutionError:
            continue
        except UnprovenError as error:
            stopped = True
            if error.answer is not None:
                answers.append((problem, error.answer))
                gaps.append(error.gap)
    # of equal answers the earlier choice
    chosen = min(answers, key=lambda pair: rank(*pair)) if answers else None
    if stopped:
        raise _out_of_time(ties, chosen, "; ".join(gaps))
    if chosen is None:
        raise explain(problems, time_limit)
    plans = layout(ties, *chosen)
    if chosen[0].pinned:
        _few_new(plans, bounds.get("insertable") or {})
    kept, lost = _kept(*chosen), rank(*chosen)[-1]
    return Alignment(plans, chosen[1].gap if grow else _gap(chosen, answers), kept, lost)


def _kept(problem: Problem, answer: Answer) -> float:
    groups = zip(problem.groups, answer.kept, strict=True)
    return float(sum(group.worth[kept] for group, kept in groups if not group.fixed))


def _gap(chosen: tuple[Problem, Answer], answers: Collection[tuple[Problem, Answer]]) -> float:
    """How much less could be lost, over all choices that meet the requests as well, as a share of what is kept."""
    *nearness, lost = rank(*chosen)
    alike = [pair for pair in answers if list(rank(*pair)[:-1]) == nearness]
    least = min(rank(*pair)[-1] - pair[1].gap * abs(_kept(*pair)) for pair in alike)
    gap = max(0.0, lost - least) / max(abs(_kept(*chosen)), 1e-12)
    return max(gap, chosen[1].gap) if gap > 1e-9 else chosen[1].gap


def _few_new(plans: Mapping[str, AxisPlan], insertable: Mapping[str, int]) -> None:
    """Where two factors of a product change, how many combinations are new is no sum of sizes, and is counted after."""
    for axis, most in insertable.items():
        if len(plans[axis].new) > most:
            raise InfeasibleError(
                f"{axis!r} would get {len(plans[axis].new)} new neurons, combinations of those of factors that change "
                f"together; at most {most} may be inserted (max_new=).",
                (axis,),
            )


def _out_of_time(ties: Ties, chosen: tuple[Problem, Answer] | None, gap: str) -> TimeLimitError:
    message = "The time limit struck before the best sizes were proven. Allow more, time_limit=."
    if chosen is None:
        return TimeLimitError(f"{message} No feasible sizes had been found.")
    what = f"Of the best found by then: {gap}."
    return TimeLimitError(f"{message} {what}", lambda: layout(ties, *chosen), gap)
