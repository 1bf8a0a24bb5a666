"""Reduction: from ties, requests and utility to a small problem about groups of interchangeable classes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, TypeAlias

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int, Real

from naivenas_jax.align.problem.factors import Choice, Runs, choices
from naivenas_jax.align.problem.problem import Group, Problem
from naivenas_jax.align.problem.request import Target
from naivenas_jax.align.problem.restrictions import Restrictions
from naivenas_jax.errors import InfeasibleError, RequestError, UtilityError
from naivenas_jax.sizes.condition import Condition
from naivenas_jax.sizes.ties import Ties

#: As many neurons as this may be inserted where nothing limits them.
UNLIMITED = 10**6
#: Why products are fixed.
PRODUCT = "it follows its factors"
_UNREACHED = "no request reaches it"

#: An axis as a sum: runs with classes, and how often each counts.
Content: TypeAlias = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Reduction:
    """What all choices of factors have in common, and the reduced problem of each.

    Attributes:
      ties: of the graph.
      targets: the requests.
      utility: for some axes the utility of each neuron, shape (size of the axis,).
      restrictions: what else limits the sizes.
    """

    ties: Ties
    targets: Collection[Target] = ()
    utility: Mapping[str, Real[np.ndarray, " _"]] = field(default_factory=dict)
    restrictions: Restrictions = field(default_factory=Restrictions)

    @cached_property
    def fixed(self) -> Mapping[int, str]:
        """The runs that may not change, whichever factors of products do; with the reason."""
        ties, given = self.ties, self.restrictions
        fixed = dict(ties.fixed)
        for axis, reason in given.frozen.items():
            fixed.update({run: reason for run in ties.plain(ties.axes[axis]) if run not in fixed})
        if given.reached is not None:
            free = {run for axis in given.reached for run in ties.plain(ties.axes[axis])}
            fixed |= {run: _UNREACHED for run in range(len(ties.run_sizes)) if run not in free}
        return fixed

    @cached_property
    def class_utility(self) -> Float[np.ndarray, " classes"]:
        """The utility of each class."""
        return _class_utility(self.ties, self.utility)

    @cached_property
    def choices(self) -> Sequence[Choice]:
        """Which factors of products may change, so that sizes are linear: all choices that can matter."""
        return choices(self.ties, self.fixed, self.targets)

    def problems(self) -> list[Problem]:
        """The reduced problem of each choice."""
        return [self.problem(choice) for choice in self.choices]

    def problem(self, choice: Choice) -> Problem:
        """The reduced problem if only the factors of one choice may change."""
        ties, given = self.ties, self.restrictions
        fixed = {**self.fixed, **choice.resting, **dict.fromkeys(ties.products, PRODUCT)}
        axes = _Axes.of(ties, fixed, choice, given.reached)
        runs_of, group_of_run = _groups(ties, axes.contents, fixed)
        groups = tuple(self._group(runs, fixed.get(runs[0])) for runs in runs_of)
        rows = _matrix(axes.contents, group_of_run, len(groups))
        conditions = tuple(dict.fromkeys([*self._of_layers(axes, rows, groups), *given.conditions]))
        terms = [*(one.terms for one in conditions), *(objective.terms for objective in given.objectives)]
        named = [axis for own in terms for axis, _ in own]
        named += [axis for budget in given.budgets for axis in sorted(budget.count.axes)]
        return Problem(
            groups=groups,
            rows=rows,
            names=axes.names,
            present=np.array([ties.sizes[names[0]] for names in axes.names], dtype=np.int64),
            least=axes.smallest(given.least, [0 if all(map(_is_run, names)) else 1 for names in axes.names]),
            insertable=axes.smallest(given.insertable, [UNLIMITED] * len(axes.names)),
            targets=tuple((axes.row_of[target.axis], target) for target in self.targets),
            equal=axes.pairs(given.equal),
            group_of_run=group_of_run,
            conditions=conditions,
            objectives=tuple(given.objectives),
            budgets=tuple(given.budgets),
            row_of={axis: axes.row_of[axis] for axis in named},
            pinned=self._pinned(axes, choice),
            resting=_resting(ties, choice),
        )

    @cached_property
    def chosen(self) -> dict[int, str]:
        """The classes whose fate a request has decided, with its axis; `gone` has those that go."""
        return {c: target.axis for target in self.targets if target.keep is not None for c in self._classes(target)}

    @cached_property
    def gone(self) -> frozenset[int]:
        """The classes that must go, since a request says which stay and does not name them.

        Raises:
          RequestError: if requests keep one neuron and drop another that is tied to it, or these are combinations.
        """
        gone, stay = dict[int, str](), dict[int, str]()
        for target in self.targets:
            if target.keep is None:
                continue
            kept = set(target.keep)
            for position, one in enumerate(self._classes(target)):
                (stay if position in kept else gone)[one] = target.axis
        if both := gone.keys() & stay.keys():
            one = min(both)
            raise RequestError(
                f"The requests for {gone[one]!r} and {stay[one]!r} drop a neuron and keep one that is tied to it: of "
                "neurons that are tied all stay, or none."
            )
        return frozenset(gone)

    def _classes(self, target: Target) -> list[int]:
        """The class of each neuron of the axis that a request is about."""
        row, starts = self.ties.axes[target.axis], self.ties.starts
        if any(run in self.ties.products for run in row):
            raise RequestError(
                f"keep= of {target.axis!r}: its neurons are combinations of those of other axes. Say which of these "
                "stay: "
                f"{', '.join(axis for axis in self.ties.axes if axis.startswith(f'{target.axis}:')) or 'its factors'}."
            )
        return [one for run in row for one in range(starts[run], starts[run + 1])]

    def _group(self, runs: Iterable[int], fixed: str | None) -> Group:
        """The classes of some runs as a group, without those that must go.

        What a request keeps has the same utility, and none of it is given up: the size of its axis is exact, so that
        nothing would be won.

        Raises:
          InfeasibleError: if something must go of a group that may not change.
        """
        starts = self.ties.starts
        ranges = [np.arange(starts[run], starts[run + 1]) for run in runs]
        classes = ranges[0] if len(ranges) == 1 else np.concatenate(ranges)
        utility = self.class_utility[classes]
        if self.chosen:
            left = np.array([one not in self.gone for one in classes.tolist()], bool)
            if fixed and not left.all():
                axis = self.chosen[int(classes[~left][0])]
                raise InfeasibleError(f"{axis!r} cannot drop the neurons that keep= leaves out: {fixed}.", (axis,))
            asked = np.array([one in self.chosen for one in classes.tolist()], bool)
            utility = np.where(asked, 1.0 + np.abs(self.class_utility).max(initial=0.0), utility)
            classes, utility = classes[left], utility[left]
        return Group(classes=classes, scores=utility, fixed=fixed)

    def _of_layers(self, axes: _Axes, rows: sp.csr_array, groups: Sequence[Group]) -> list[Condition]:
        """The conditions of layers that can be broken. They hold now, so that one of them has to change something."""
        free = [i for i, group in enumerate(groups) if not group.fixed]
        open_rows = set(rows[:, free].tocoo().coords[0].tolist())
        return [one for one in self.ties.conditions if any(axes.row_of.get(axis) in open_rows for axis in one.axes)]

    def _pinned(self, axes: _Axes, choice: Choice) -> tuple[tuple[int, int], ...]:
        """The rows of factors that change besides others, and the sizes requested for them."""
        return tuple(
            (axes.row_of[target.axis], target.wish)
            for target in self.targets
            if tuple(sorted(self.ties.axes[target.axis])) in choice.pinned
        )


class _Axes(NamedTuple):
    """The axes that may change, where those that hold the same are one row.

    Attributes:
      contents: of each row.
      row_of: the row of each axis.
      names: for each row the axes that it stands for.
    """

    contents: Sequence[Content]
    row_of: Mapping[str, int]
    names: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, ties: Ties, fixed: Mapping[int, str], choice: Choice, reached: Collection[str] | None) -> _Axes:
        """Write axes as sums of runs that have classes, and give those with the same sum the same row.

        Args:
          ties: of the graph.
          fixed: the runs that may not change.
          choice: which factors of products may change.
          reached: the axes that are wanted; None: all. What shares a run with one of them is among them.
        """
        number: dict[tuple[Content, int], int] = {}
        row_of: dict[str, int] = {}
        for axis, runs in ties.axes.items():
            if reached is not None and axis not in reached:
                continue
            content = ties.counts.get(axis) or tuple(sorted(_content(ties, runs, fixed, choice).items()))
            row_of[axis] = number.setdefault((content, ties.sizes[axis]), len(number))
        names: list[list[str]] = [[] for _ in number]
        for axis, row in row_of.items():
            names[row].append(axis)
        return cls([content for content, _ in number], row_of, tuple(map(tuple, names)))

    def smallest(self, given: Mapping[str, int], default: Sequence[int]) -> Int[np.ndarray, " rows"]:
        """For each row the smallest number that is given for one of its axes, or the default."""
        numbers = ([given[axis] for axis in names if axis in given] for names in self.names)
        return np.array([min(own, default=other) for own, other in zip(numbers, default, strict=True)], dtype=np.int64)

    def pairs(self, axes: Iterable[tuple[str, str]]) -> tuple[tuple[int, int], ...]:
        """Pairs of axes as pairs of rows, without those that are one row."""
        rows = ((self.row_of[a], self.row_of[b]) for a, b in axes)
        return tuple((a, b) for a, b in rows if a != b)


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


def _groups(
    ties: Ties, contents: Sequence[Content], fixed: Mapping[int, str]
) -> tuple[list[list[int]], tuple[int, ...]]:
    """Runs that count equally often in every row and are equally free; an empty place is a group of its own.

    Returns:
      The runs of each group, and the group of each run.
    """
    columns: list[list[tuple[int, int]]] = [[] for _ in ties.run_sizes]
    for row, content in enumerate(contents):
        for run, count in content:
            columns[run].append((row, count))
    number: dict[tuple[object, ...], int] = {}
    runs_of: list[list[int]] = []
    group_of_run = []
    for run, size in enumerate(ties.run_sizes):
        group = number.setdefault((tuple(columns[run]), run in fixed, None if size else run), len(number))
        if group == len(runs_of):
            runs_of.append([])
        runs_of[group].append(run)
        group_of_run.append(group)
    return runs_of, tuple(group_of_run)


def _matrix(contents: Sequence[Content], group_of_run: Sequence[int], groups: int) -> sp.csr_array:
    """Shape (rows, groups). The runs of a group occur equally often in a row, so that any of them tells the count."""
    entries = {(row, group_of_run[run]): count for row, content in enumerate(contents) for run, count in content}
    keys = np.array(list(entries), dtype=np.int64).reshape(-1, 2)
    values = np.array(list(entries.values()), dtype=np.float64)
    return sp.csr_array((values, (keys[:, 0], keys[:, 1])), shape=(len(contents), groups))


def _resting(ties: Ties, choice: Choice) -> dict[str, str]:
    """The axes with factors that do not change by a choice, and why."""
    return {
        axis: choice.resting[run]
        for axis, runs in (ties.axes.items() if choice.resting else ())
        for run in sorted(ties.plain(runs) & choice.resting.keys())
    }


def _is_run(axis: str) -> bool:
    """Whether an axis is but one run of a larger one (``~3``)."""
    return axis.startswith("~") and axis[1:].isdigit()


def _class_utility(ties: Ties, utility: Mapping[str, Real[np.ndarray, " _"]]) -> Float[np.ndarray, " classes"]:
    """The utility of each class: the sum over all neurons that it ties.

    Args:
      ties: of the graph.
      utility: for some axes the utility of each neuron, shape (size of the axis,).

    Raises:
      UtilityError: if a sum is more than a float can hold.
    """
    total = np.zeros(ties.starts[-1])
    with np.errstate(over="ignore", invalid="ignore"):
        for axis, given in utility.items():
            _add_utility(ties, total, ties.axes[axis], np.asarray(given))
        every = np.abs(total).sum()
    if not np.isfinite(every):
        largest = max(utility, key=lambda axis: float(np.max(np.abs(utility[axis]), initial=0.0)))
        raise UtilityError(
            f"The utility of all neurons together is more than a float can hold; the largest scores are those of "
            f"{largest!r}, up to {np.abs(utility[largest]).max():.3g}. Only their proportions matter: divide all by "
            "one number."
        )
    return total


def _add_utility(
    ties: Ties, total: Float[np.ndarray, " classes"], runs: tuple[int, ...], utility: Real[np.ndarray, " neurons"]
) -> None:
    """Add the utility of the neurons on some runs to that of their classes, in place."""
    offset = 0
    for run in runs:
        size = ties.run_sizes[run]
        part = utility[offset : offset + size]
        offset += size
        if run not in ties.products:
            total[ties.starts[run] : ties.starts[run + 1]] += part
            continue
        factors = ties.products[run]
        grid = part.reshape([ties.length(row) for row in factors])
        for i, row in enumerate(factors):  # a member of combinations has the utility of all of them
            _add_utility(ties, total, row, grid.sum(tuple(d for d in range(grid.ndim) if d != i)))
