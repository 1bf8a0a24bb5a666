"""How ties relate the sizes of some axes, in words: what no request can change, and why it contradicts them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Real

from naivenas_jax.align.problem.problem import Problem
from naivenas_jax.align.problem.request import Target
from naivenas_jax.sizes.condition import Size

#: Of more axes than this no relation is looked for.
_MOST_AXES = 12


def relations(problems: Sequence[Problem], targets: Sequence[Target], axes: Sequence[str]) -> list[str]:
    """What ties say about the axes of requests and conditions that contradict one another.

    Args:
      problems: the choices of factors that may change; the first one is explained.
      targets: the requests.
      axes: all axes that these and the conditions name.
    """
    problem, wishes = problems[0], {target.axis: target.wish for target in targets}
    names = list(dict.fromkeys(axes))
    found = [text for axis in names for text in _steps(problems, axis, len(names) == 1)]
    if not any(axis in problem.resting for axis in names) and len(names) <= _MOST_AXES:
        rows = {axis: problem.rows[[_row(problem, axis)]].toarray()[0] for axis in names}
        related = next(_sums(rows), None) or next(_contained(rows, wishes), None)
        found += [related] if related else [text for axis in wishes for text in _smallest(problem, axis, wishes[axis])]
    return found


def _row(problem: Problem, axis: str) -> int:
    """The row of an axis that a request or a condition names."""
    asked = {target.axis: row for row, target in problem.targets}
    return asked[axis] if axis in asked else problem.row_of[axis]


def _steps(problems: Sequence[Problem], axis: str, alone: bool) -> Iterator[str]:
    """In which steps a size changes, if that is not one by one."""
    ways: dict[int, str] = {}
    for problem in problems:
        row = problem.rows[[_row(problem, axis)]]
        free = [i for i, group in enumerate(row.indices.tolist()) if not problem.groups[group].fixed]
        if not free:
            continue
        step = math.gcd(*(round(float(row.data[i])) for i in free))
        ways.setdefault(step, _factor(problem, axis, set(row.indices[free].tolist())))
    if axis in problems[0].resting:
        if ways and alone:
            by = ", or ".join(f"{f'with {name!r} ' if name else ''}by a multiple of {n}" for n, name in ways.items())
            yield (
                f"the size of {axis!r} is a product, and changes {by}; several change at once only if the size of each "
                "is requested exactly"
            )
    elif ways and (step := min(ways)) > 1:
        yield f"neurons of {axis!r} are tied to one another, so that its size changes by a multiple of {step}"


def _factor(problem: Problem, axis: str, groups: set[int]) -> str:
    """The name of an axis that holds the same groups: the factor of a product that changes."""
    own = [
        name
        for row, names in enumerate(problem.names)
        if set(problem.rows[[row]].indices.tolist()) == groups
        for name in names
        if name != axis and not name.startswith("~")
    ]
    return min(own, key=lambda name: (not name.startswith(f"{axis}:"), len(name), name), default="")


def _sums(rows: Mapping[str, Real[np.ndarray, " groups"]]) -> Iterator[str]:
    """Axes whose size is a sum of those of others."""
    for axis, row in rows.items():
        others = [name for name in rows if name != axis and rows[name].any()]
        if not others or not row.any():
            continue
        matrix = np.array([rows[name] for name in others]).T
        counts = np.rint(np.linalg.lstsq(matrix, row, rcond=None)[0]).astype(int)
        if np.array_equal(matrix @ counts, row) and (counts >= 0).all():
            terms = tuple((name, int(count)) for name, count in zip(others, counts, strict=True) if count)
            yield f"neurons are tied such that size({axis!r}) is always {Size(terms)}"


def _contained(rows: Mapping[str, Real[np.ndarray, " groups"]], wishes: Mapping[str, int]) -> Iterator[str]:
    """Axes that hold all neurons of another one, and others, and are not to be larger."""
    for axis in wishes:
        for other in wishes:
            if other != axis and wishes[other] >= wishes[axis] and (rows[axis] >= rows[other]).all():
                yield f"{axis!r} holds all neurons of {other!r}, and others besides"


def _smallest(problem: Problem, axis: str, wish: int) -> Iterator[str]:
    """Whether an axis is to have fewer neurons than what lies beside one another in it needs."""
    number = _row(problem, axis)
    own = problem.rows[[number]].toarray()[0]
    need, parts = 0, list[str]()
    taken = np.zeros_like(own)
    order = sorted(range(len(problem.names)), key=lambda row: problem.rows.indptr[row + 1] - problem.rows.indptr[row])
    for row in order:
        held, name = problem.rows[[row]].toarray()[0], problem.names[row][0]
        free_of = not (held.astype(bool) & taken.astype(bool)).any()
        if row != number and free_of and held.any() and (own >= held).all() and problem.least[row] > 0:
            times = int((own[held > 0] // held[held > 0]).min())
            need += times * int(problem.least[row])
            taken = taken + held
            parts += [] if name.startswith("~") else [name]
    if need > wish and len(parts) > 1:
        listed = ", ".join(map(repr, parts[:5])) + (", ..." if len(parts) > 5 else "")
        yield f"{axis!r} holds {listed}, each of which keeps a neuron"
