"""Read the answer back: from numbers per group to positions on every axis."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from naivenas_jax.align.axis_plan import NEW, AxisPlan
from naivenas_jax.align.problem.problem import Problem
from naivenas_jax.align.solve.solve import Answer
from naivenas_jax.sizes.ties import Ties


def layout(ties: Ties, problem: Problem, answer: Answer) -> dict[str, AxisPlan]:
    """The plan of every axis.

    The best classes of a group are kept, in their original order. New ones follow the last original class of the group,
    kept or not, wherever it occurs.
    """
    selection = _Selection(ties, problem, answer)
    plans: dict[tuple[int, ...], AxisPlan] = {}
    for runs in ties.axes.values():
        if runs not in plans:
            plans[runs] = selection.axis(runs)
    return {axis: plans[runs] for axis, runs in ties.axes.items()}


class _Selection:
    """Which classes survive, and where new ones go."""

    def __init__(self, ties: Ties, problem: Problem, answer: Answer):
        self.sizes, self.products = ties.run_sizes, ties.products
        self.start = ties.starts
        self.alive = np.zeros(self.start[-1], dtype=bool)
        self.inserted: dict[int, int] = {}  # run that new classes follow -> how many
        self.models: dict[int, np.ndarray] = {}  # the same run -> a surviving class for each of them
        last_run = {group: run for run, group in enumerate(problem.group_of_run) if run not in ties.products}
        for i, (group, kept, new) in enumerate(zip(problem.groups, answer.kept, answer.new, strict=True)):
            survivors = np.sort(group.classes[group.best[:kept]])
            self.alive[survivors] = True
            if new:
                self.inserted[last_run[i]] = int(new)
                self.models[last_run[i]] = np.resize(survivors, new) if kept else np.full(new, NEW)

    def axis(self, runs: tuple[int, ...]) -> AxisPlan:
        sources, twins, offsets, offset = [], [], defaultdict(list), 0
        for run in runs:
            offsets[run].append(offset)
            if run in self.products:
                plan = self._product(run)
                sources.append(np.where(plan.source == NEW, NEW, plan.source + offset))
                twins.append(np.where(plan.twin == NEW, NEW, plan.twin + offset)[plan.source == NEW])
            else:
                sources.append(offset + np.flatnonzero(self.alive[self.start[run] : self.start[run + 1]]))
                sources.append(np.full(self.inserted.get(run, 0), NEW))
                twins.append(None)
            offset += self.sizes[run]
        source = np.concatenate(sources) if sources else np.zeros(0, int)
        return AxisPlan.of(offset, source, self._twins(runs, source, offsets, twins))

    def _product(self, run: int) -> AxisPlan:
        """All combinations of what the factors have now; one with a new member is new."""
        whole = AxisPlan.identity(1)
        for row in self.products[run]:
            part = self.axis(row)
            model, part_model = (np.where(p.source == NEW, p.twin, p.source) for p in (whole, part))
            whole = AxisPlan.of(
                whole.before * part.before,
                _combined(whole.source, part.source, part.before),
                _combined(model, part_model, part.before),
            )
        return whole

    def _twins(
        self, runs: tuple[int, ...], source: np.ndarray, offsets: dict[int, list[int]], known: list[np.ndarray | None]
    ) -> np.ndarray | None:
        """For each new position the old position of a surviving class of the same group, in the same occurrence."""
        if not (source == NEW).any():
            return None
        found: list[int] = []
        seen: defaultdict[int, int] = defaultdict(int)
        for run, given in zip(runs, known, strict=True):
            if given is not None:
                found.extend(given)
            for model in self.models.get(run, ()):
                home = int(np.searchsorted(self.start, model, side="right")) - 1 if model != NEW else -1
                there = offsets.get(home, [])
                survives = seen[run] < len(there)
                found.append(there[seen[run]] + model - self.start[home] if survives else NEW)
            seen[run] += 1
        twins = np.full(len(source), NEW)
        twins[source == NEW] = found
        return twins


def _combined(outer: np.ndarray, inner: np.ndarray, size: int) -> np.ndarray:
    """Positions of all combinations, row by row; NEW where either is."""
    grid = outer[:, None] * size + inner[None, :]
    return np.where((outer[:, None] == NEW) | (inner[None, :] == NEW), NEW, grid).ravel()
