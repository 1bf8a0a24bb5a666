"""Why a request cannot be met, and what could be."""

from __future__ import annotations

from dataclasses import replace

from naivenas_jax.align.problem import Problem
from naivenas_jax.align.program import NoSolutionError
from naivenas_jax.align.request import Target
from naivenas_jax.align.solve import nearest, solve
from naivenas_jax.errors import InfeasibleError

_MOST_REQUESTS = 12


def explain(problem: Problem, time_limit: float | None = None) -> InfeasibleError:
    """Find a smallest set of requests that contradict one another, and the nearest sizes that do not."""
    conflict = _conflict(problem, time_limit)
    try:
        feasible = nearest(problem, time_limit=time_limit)
    except NoSolutionError:
        feasible = {}
    lines = [f"The requested sizes cannot be had: {'; '.join(map(str, conflict)) or 'no request is involved'}."]
    reasons = _reasons(problem, conflict)
    lines += [f"Fixed: {reason}." for reason in reasons]
    if feasible:
        found = ", ".join(f"{axis!r}: nas.to({size})" for axis, size in feasible.items())
        relax = " Or wrap the request in nas.relaxed(...)." if all(target.exact for target in conflict) else ""
        lines.append(f"Nearest sizes that can: {{{found}}}.{relax}")
    elif problem.targets:
        lines.append("No sizes at all satisfy the remaining ties.")
    return InfeasibleError("\n".join(lines), tuple(target.axis for target in conflict), feasible, tuple(reasons))


def _conflict(problem: Problem, time_limit: float | None) -> list[Target]:
    """Leave out one request after the other, for as long as what remains is infeasible."""
    kept = list(problem.targets)
    if len(kept) > _MOST_REQUESTS:
        return [target for _, target in kept]
    for candidate in list(kept):
        rest = [entry for entry in kept if entry is not candidate]
        if not _feasible(replace(problem, targets=tuple(rest)), time_limit):
            kept = rest
    return [target for _, target in kept]


def _feasible(problem: Problem, time_limit: float | None) -> bool:
    try:
        solve(problem, time_limit=time_limit)
    except NoSolutionError:
        return False
    return True


def _reasons(problem: Problem, conflict: list[Target]) -> list[str]:
    """What is fixed on the rows in conflict, and on rows that share a group with them."""
    asked = {row for row, target in problem.targets if target in conflict}
    asked |= {row for pair in problem.equal for row in pair if not conflict or asked & set(pair)}
    groups = {int(g) for row in asked for g in problem.rows[[row]].indices}
    touching = {int(row) for g in groups for row in problem.rows[:, [g]].tocoo().coords[0]}
    nearby = groups | {int(g) for row in touching for g in problem.rows[[row]].indices}
    found = [problem.groups[g].fixed for g in sorted(groups)] + [problem.groups[g].fixed for g in sorted(nearby)]
    limits = [
        f"at most {problem.insertable[row]} neurons may be inserted into {problem.names[row][0]!r} (max_new=)"
        for row, target in problem.targets
        if target in conflict and target.wish - target.present > problem.insertable[row]
    ]
    return list(dict.fromkeys([*limits, *(reason for reason in found if reason)]))[:5]
