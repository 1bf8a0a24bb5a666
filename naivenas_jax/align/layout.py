"""Read the solution back: from numbers per group to positions on every axis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from naivenas_jax.align.axis_plan import NEW, AxisPlan, keeping
from naivenas_jax.align.problem.problem import Problem, Solution
from naivenas_jax.sizes.ties import Ties


def layout(ties: Ties, problem: Problem, solution: Solution) -> dict[str, AxisPlan]:
    """The plan of every axis.

    The best classes of a group are kept, in their original order. New ones follow the last original class of the group,
    kept or not, wherever it occurs.
    """
    survivors = _Survivors(ties, problem, solution)
    plans: dict[tuple[int, ...], AxisPlan] = {}
    unchanged: dict[int, AxisPlan] = {}
    for axis, runs in ties.axes.items():
        if runs in plans:
            continue
        size = ties.sizes[axis]
        if not survivors.changed.isdisjoint(runs):
            plans[runs] = survivors.axis(runs)
        elif size in unchanged:
            plans[runs] = unchanged[size]
        else:
            plans[runs] = unchanged[size] = AxisPlan.identity(size)
    return {axis: plans[runs] for axis, runs in ties.axes.items()}


class _Survivors:
    """Which classes survive, and where new ones go.

    Attributes:
      alive: for each class whether it stays.
      models: for each run that new classes follow, a surviving class for each of these that it may copy; NEW: none.
      changed: the runs that are not as they were, products among them.
    """

    def __init__(self, ties: Ties, problem: Problem, solution: Solution):
        self.ties = ties
        self.alive = np.zeros(ties.starts[-1], dtype=bool)
        self.models: dict[int, Int[np.ndarray, " new"]] = {}
        last_run = {group: run for run, group in enumerate(problem.group_of_run) if run not in ties.products}
        for i, (group, kept, new) in enumerate(zip(problem.groups, solution.kept, solution.new, strict=True)):
            survivors = group.classes[group.top(int(kept))]
            self.alive[survivors] = True
            if new:
                survivors, run = np.sort(survivors), last_run[i]
                copied = kept and run not in ties.single
                self.models[run] = np.resize(survivors, new) if copied else np.full(new, NEW)
        self.changed = self._changed()

    def _changed(self) -> frozenset[int]:
        number = np.concatenate([[0], np.cumsum(self.alive)])[self.ties.starts]
        fewer = np.flatnonzero(np.diff(number) != np.diff(self.ties.starts)).tolist()
        changed = {*self.models, *fewer} - self.ties.products.keys()
        return frozenset(changed | {run for run in self.ties.products if changed & self.ties.plain([run])})

    def axis(self, runs: tuple[int, ...]) -> AxisPlan:
        """The plan of an axis that consists of these runs."""
        if self.ties.products.keys().isdisjoint(runs) and self.models.keys().isdisjoint(runs):
            starts = self.ties.starts
            return keeping(np.concatenate([self.alive[starts[run] : starts[run + 1]] for run in runs]))
        sources: list[Int[np.ndarray, " _"]] = [np.zeros(0, int)]
        twins: list[Int[np.ndarray, " _"]] = [np.zeros(0, int)]  # of the new neurons alone
        offsets, size = self._offsets(runs)
        seen: Counter[int] = Counter()
        for run in runs:
            offset = offsets[run][seen[run]]
            if run in self.ties.products:
                plan = self._product(run)
                sources.append(_shifted(plan.source, offset))
                twins.append(_shifted(plan.twin, offset)[plan.source == NEW])
            else:
                models = self.models.get(run, np.zeros(0, int))
                sources.append(offset + np.flatnonzero(self.alive[self.ties.starts[run] : self.ties.starts[run + 1]]))
                sources.append(np.full(len(models), NEW))
                twins.append(np.array([self._position(m, offsets, seen[run]) for m in models.tolist()], int))
            seen[run] += 1
        source = np.concatenate(sources)
        twin = np.full(len(source), NEW)
        twin[source == NEW] = np.concatenate(twins)
        return AxisPlan.of(size, source, twin)

    def _offsets(self, runs: tuple[int, ...]) -> tuple[dict[int, list[int]], int]:
        """For each run the positions on an axis at which it begins, and the size of the axis."""
        offsets: dict[int, list[int]] = {}
        offset = 0
        for run in runs:
            offsets.setdefault(run, []).append(offset)
            offset += self.ties.run_sizes[run]
        return offsets, offset

    def _product(self, run: int) -> AxisPlan:
        """All combinations of what the factors have now; one with a new member is new."""
        whole = AxisPlan.identity(1)
        for row in self.ties.products[run]:
            part = self.axis(row)
            model, part_model = (np.where(p.source == NEW, p.twin, p.source) for p in (whole, part))
            whole = AxisPlan.of(
                whole.before * part.before,
                _combined(whole.source, part.source, part.before),
                _combined(model, part_model, part.before),
            )
        return whole

    def _position(self, model: int, offsets: Mapping[int, Sequence[int]], occurrence: int) -> int:
        """The position on an axis of a surviving class that may be copied, in the same occurrence; NEW if none is."""
        if model == NEW:
            return NEW
        home = int(np.searchsorted(self.ties.starts, model, side="right")) - 1
        there = offsets.get(home, ())
        return int(there[occurrence] + model - self.ties.starts[home]) if occurrence < len(there) else NEW


def _shifted(positions: Int[np.ndarray, " neurons"], offset: int) -> Int[np.ndarray, " neurons"]:
    """Positions further on by an offset; NEW stays NEW."""
    return np.where(positions == NEW, NEW, positions + offset)


def _combined(
    outer: Int[np.ndarray, " outer"], inner: Int[np.ndarray, " inner"], size: int
) -> Int[np.ndarray, " outer*inner"]:
    """Positions of all combinations, row by row; NEW where either is."""
    grid = outer[:, None] * size + inner[None, :]
    return np.where((outer[:, None] == NEW) | (inner[None, :] == NEW), NEW, grid).ravel()
