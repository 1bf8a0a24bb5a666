"""Reduction: from ties, requests and utility to a small problem about groups of interchangeable neurons.

Neurons that are tied are one *class*; a class is worth the sum of its members' utilities. Classes that occur equally
often on every axis, and are equally free, differ in nothing but their worth: they form a *group*. For a group of N
classes sorted by worth, keeping k of them is worth at most f(k), the sum of the k largest: concave, and piecewise
linear. So the problem has two integers per group, kept ``y`` and inserted ``w``, instead of two per neuron, and is the
same problem:

    sizes   s = M (y + w)           one row per axis; M counts how often an axis holds a class of a group
    bounds  0 <= y <= N, 0 <= w, s >= 1
    rows    what layers and users require of sizes: linear in s
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp

from naivenas_jax.align.problem.budget import Budget
from naivenas_jax.align.problem.factors import Choice, Runs, choices
from naivenas_jax.align.problem.request import Target
from naivenas_jax.errors import UtilityError
from naivenas_jax.sizes.condition import Condition, Size, Terms
from naivenas_jax.sizes.ties import Ties

UNLIMITED = 10**6
_UNREACHED = "no request reaches it"
PRODUCT = "it follows its factors"


@dataclass(frozen=True, eq=False)
class Group:
    """Interchangeable classes.

    Attributes:
      classes: their numbers, in original order.
      best: positions in ``classes``, best utility first; of equal ones the earlier. In a fixed group: any order.
      worth: shape (N + 1,): the utility of the first k of them, for k = 0 ... N.
      fixed: why none may be dropped or inserted, or None.
    """

    classes: np.ndarray
    best: np.ndarray
    worth: np.ndarray
    fixed: str | None

    @property
    def size(self) -> int:
        return len(self.classes)

    @property
    def utility(self) -> np.ndarray:
        """Of each class, best first."""
        return np.diff(self.worth)


@dataclass(frozen=True, eq=False)
class Problem:
    """The reduced problem.

    Attributes:
      groups: of interchangeable classes.
      rows: shape (rows, groups): how often each axis holds a class of each group. Axes that hold the same share a row.
      names: for each row the axes that it stands for.
      present: shape (rows,): the sizes now.
      least: shape (rows,): the smallest size allowed.
      insertable: shape (rows,): how many neurons may be inserted at most.
      targets: for each request its row, and the request.
      equal: pairs of rows whose sizes must agree.
      group_of_run: the group of each run of the ties.
      required: conditions on the sizes.
      objectives: sums of sizes to be minimised one after the other, before utility decides.
      budgets: counts that may not exceed a bound.
      row_of: the row of each axis that conditions, objectives and budgets name.
      pinned: rows whose sizes stand in ``rows`` as numbers, and these sizes: factors that change besides others.
      resting: axes with products, and why a factor of these does not change.
    """

    groups: tuple[Group, ...]
    rows: sp.csr_array
    names: tuple[tuple[str, ...], ...]
    present: np.ndarray
    least: np.ndarray
    insertable: np.ndarray
    targets: tuple[tuple[int, Target], ...]
    equal: tuple[tuple[int, int], ...] = ()
    group_of_run: tuple[int, ...] = field(default=())
    required: tuple[Condition, ...] = ()
    objectives: tuple[Size, ...] = ()
    budgets: tuple[Budget, ...] = ()
    row_of: Mapping[str, int] = field(default_factory=dict)
    pinned: tuple[tuple[int, int], ...] = ()
    resting: Mapping[str, str] = field(default_factory=dict)

    def named(self, sizes: np.ndarray) -> dict[str, int]:
        """The sizes of the axes that conditions, objectives and budgets name."""
        return {axis: round(float(sizes[row])) for axis, row in self.row_of.items()}

    def sizes(self, kept: np.ndarray, new: np.ndarray) -> np.ndarray:
        """The size of every row."""
        return self.rows @ (kept + new)

    def __str__(self) -> str:
        lines = [
            f"{names[0]}: {_linear(self.rows[[i]].toarray()[0])} = {self.present[i]}"
            for i, names in enumerate(self.names)
        ]
        lines += [f"g{i} of {g.size}" + (f", fixed: {g.fixed}" if g.fixed else "") for i, g in enumerate(self.groups)]
        lines += [f"ask {target}" for _, target in self.targets]
        lines += [f"{self.names[a][0]} = {self.names[b][0]}" for a, b in self.equal]
        lines += [f"require {row}" for row in self.required]
        lines += [f"minimise {objective}" for objective in self.objectives]
        lines += [f"within {budget}" for budget in self.budgets]
        return "\n".join(lines)


def _linear(row: np.ndarray) -> str:
    return " + ".join(f"{'' if n == 1 else f'{n:g} '}g{g}" for g, n in enumerate(row) if n) or "0"


def reduce(
    ties: Ties,
    targets: Collection[Target],
    utility: Mapping[str, np.ndarray],
    *,
    frozen: Mapping[str, str] | None = None,
    reached: Collection[str] | None = None,
    choice: Choice | None = None,
    equal: Collection[tuple[str, str]] = (),
    least: Mapping[str, int] | None = None,
    insertable: Mapping[str, int] | None = None,
    required: Collection[Condition] = (),
    objectives: Collection[Size] = (),
    budgets: Collection[Budget] = (),
) -> Problem:
    """Build the reduced problem.

    Args:
      ties: of the graph.
      targets: the requests.
      utility: scores by axis, each of shape (size of the axis,).
      frozen: axes none of whose neurons may be dropped or inserted, with the reason.
      reached: the axes that may change at all; all where not given.
      choice: which factors of products may change, so that sizes are linear; the first of `choices` where not given.
      equal: pairs of axes whose sizes must agree.
      least: the smallest size of an axis, 1 where not given; a single run of an imported model may be empty.
      insertable: how many neurons an axis may gain at most; no limit where not given.
      required: conditions on sizes, besides those of the layers.
      objectives: sums of sizes to be minimised.
      budgets: counts that may not exceed a bound.
    """
    fixed = closed(ties, frozen, reached)
    choice = choices(ties, fixed, targets)[0] if choice is None else choice
    fixed |= {**choice.resting, **dict.fromkeys(ties.products, PRODUCT)}
    rows, row_of = _distinct_rows(ties, fixed, choice)
    columns = _columns(ties, rows)
    runs_of, group_of_run = _groups(ties, columns, fixed)
    worth = _class_utility(ties, utility)
    start = ties.starts
    groups = tuple(_group(runs, start, worth, fixed.get(runs[0])) for runs in runs_of)
    names: list[list[str]] = [[] for _ in rows]
    for axis, row in row_of.items():
        names[row].append(axis)
    matrix = _matrix(rows, group_of_run, len(groups))
    # what a layer requires holds now, so that it matters only where something may change
    open_rows = set(matrix[:, [i for i, group in enumerate(groups) if not group.fixed]].tocoo().coords[0].tolist())
    layers = [row for row in ties.conditions if not open_rows.isdisjoint(row_of[axis] for axis in row.axes)]
    conditions = tuple(dict.fromkeys([*layers, *required]))
    present = np.array([ties.size(axes[0]) for axes in names], dtype=np.int64)
    return Problem(
        groups=groups,
        rows=matrix,
        names=tuple(map(tuple, names)),
        present=present,
        least=_per_row(names, least or {}, np.array([not all(map(_nameless, axes)) for axes in names])),
        insertable=_per_row(names, insertable or {}, np.full(len(rows), UNLIMITED)),
        targets=tuple((row_of[target.axis], target) for target in targets),
        equal=tuple((row_of[a], row_of[b]) for a, b in equal if row_of[a] != row_of[b]),
        group_of_run=group_of_run,
        required=conditions,
        objectives=tuple(objectives),
        budgets=tuple(budgets),
        row_of={
            **{axis: row_of[axis] for terms in _all_terms(conditions, objectives) for axis, _ in terms},
            **{axis: row_of[axis] for budget in budgets for axis in sorted(budget.count.axes)},
        },
        pinned=tuple((row_of[t.axis], t.wish) for t in targets if tuple(sorted(ties.axes[t.axis])) in choice.pinned),
        resting={
            axis: choice.resting[run]
            for axis, runs in (ties.axes.items() if choice.resting else ())
            for run in sorted(ties.plain(runs) & choice.resting.keys())
        },
    )


def closed(ties: Ties, frozen: Mapping[str, str] | None, reached: Collection[str] | None) -> dict[int, str]:
    """The runs that may not change, whatever changes of products; with the reason."""
    fixed = dict(ties.fixed)
    for axis, reason in (frozen or {}).items():
        fixed.update({run: reason for run in ties.plain(ties.axes[axis]) if run not in fixed})
    if reached is not None:
        free = {run for axis in reached for run in ties.plain(ties.axes[axis])}
        fixed |= {run: _UNREACHED for run in range(len(ties.run_sizes)) if run not in free and run not in fixed}
    return fixed


def _all_terms(conditions: Collection[Condition], objectives: Collection[Size]) -> list[Terms]:
    return [*(row.terms for row in conditions), *(objective.terms for objective in objectives)]


def _distinct_rows(
    ties: Ties, fixed: Mapping[int, str], choice: Choice
) -> tuple[list[tuple[tuple[int, int], ...]], dict[str, int]]:
    """Axes as multisets of runs with classes; those that hold the same are one row."""
    number: dict[tuple[tuple[tuple[int, int], ...], int], int] = {}
    row_of = {}
    for axis, runs in ties.axes.items():
        content = tuple(sorted(_content(ties, runs, fixed, choice).items()))
        row_of[axis] = number.setdefault((content, ties.size(axis)), len(number))
    return [content for content, _ in number], row_of


def _content(ties: Ties, runs: Runs, fixed: Mapping[int, str], choice: Choice) -> Counter[int]:
    """How often each run counts: in a product, as often as the other factors have combinations after the change."""
    found: Counter[int] = Counter()
    for run in runs:
        if run not in ties.products:
            found[run] += 1
            continue
        factors = ties.products[run]
        free = [any(part not in fixed for part in ties.plain(row)) for row in factors]
        counted = max((i for i, moves in enumerate(free) if moves), default=0)
        sizes = [
            choice.size(ties, row) if moves else ties.length(row) for row, moves in zip(factors, free, strict=True)
        ]
        others = math.prod(sizes[:counted] + sizes[counted + 1 :])
        for part, count in _content(ties, factors[counted], fixed, choice).items():
            found[part] += count * others
    return found


def _columns(ties: Ties, rows: list[tuple[tuple[int, int], ...]]) -> list[list[tuple[int, int]]]:
    columns: list[list[tuple[int, int]]] = [[] for _ in ties.run_sizes]
    for i, row in enumerate(rows):
        for run, count in row:
            columns[run].append((i, count))
    return columns


def _groups(
    ties: Ties, columns: list[list[tuple[int, int]]], fixed: Mapping[int, str]
) -> tuple[list[list[int]], tuple[int, ...]]:
    """Runs with the same column and the same freedom; an empty place is a group of its own."""
    number: dict[tuple, int] = {}
    runs_of: list[list[int]] = []
    group_of_run = []
    for run, size in enumerate(ties.run_sizes):
        key = (tuple(columns[run]), run in fixed, None if size else run)
        group = number.setdefault(key, len(number))
        if group == len(runs_of):
            runs_of.append([])
        runs_of[group].append(run)
        group_of_run.append(group)
    return runs_of, tuple(group_of_run)


def _class_utility(ties: Ties, utility: Mapping[str, np.ndarray]) -> np.ndarray:
    """The worth of each class: the sum over all neurons that it ties."""
    start = ties.starts
    worth = np.zeros(start[-1])
    with np.errstate(over="ignore", invalid="ignore"):
        for axis, scores in utility.items():
            _add_worth(ties, start, worth, ties.axes[axis], np.asarray(scores))
        total = np.abs(worth).sum()
    if not np.isfinite(total):
        largest = max(utility, key=lambda axis: float(np.max(np.abs(utility[axis]), initial=0.0)))
        raise UtilityError(
            f"The utility of all neurons together is more than a float can hold; the largest scores are those of "
            f"{largest!r}, up to {np.abs(utility[largest]).max():.3g}. Only their proportions matter: divide all by "
            "one number."
        )
    return worth


def _add_worth(ties: Ties, start: np.ndarray, worth: np.ndarray, runs: tuple[int, ...], scores: np.ndarray) -> None:
    offset = 0
    for run in runs:
        size = ties.run_sizes[run]
        part = scores[offset : offset + size]
        offset += size
        if run not in ties.products:
            worth[start[run] : start[run] + size] += part
            continue
        factors = ties.products[run]
        grid = part.reshape([ties.length(row) for row in factors])
        for i, row in enumerate(factors):  # a member of combinations is worth the sum of them
            _add_worth(ties, start, worth, row, grid.sum(tuple(d for d in range(grid.ndim) if d != i)))


def _group(runs: list[int], start: np.ndarray, worth: np.ndarray, fixed: str | None) -> Group:
    classes = np.concatenate([np.arange(start[run], start[run + 1]) for run in runs])
    # all of a fixed group stay, so that their order does not matter, and most groups are fixed: no request reaches them
    best = np.arange(len(classes)) if fixed else np.argsort(-worth[classes], kind="stable")
    return Group(classes, best, np.concatenate([[0.0], np.cumsum(worth[classes][best])]), fixed)


def _matrix(rows: list[tuple[tuple[int, int], ...]], group_of_run: tuple[int, ...], groups: int) -> sp.csr_array:
    """Every run of a group occurs equally often in a row, so that any one of them tells the count."""
    entries = {(i, group_of_run[run]): count for i, row in enumerate(rows) for run, count in row}
    keys = np.array(list(entries), dtype=np.int64).reshape(-1, 2)
    values = np.array(list(entries.values()), dtype=np.float64)
    return sp.csr_array((values, (keys[:, 0], keys[:, 1])), shape=(len(rows), groups))


def _nameless(axis: str) -> bool:
    """Whether an axis is but one run of a larger one (``~3``)."""
    return axis.startswith("~") and axis[1:].isdigit()


def _per_row(names: list[list[str]], given: Mapping[str, int], default: np.ndarray) -> np.ndarray:
    result = np.array(default, dtype=np.int64)
    for i, axes in enumerate(names):
        values = [given[axis] for axis in axes if axis in given]
        if values:
            result[i] = min(values)
    return result
