"""Which weights are re-fitted after a mutation, in which order, and to what: least squares on both of its networks."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jax.extend.core import JaxprEqn
from jaxtyping import Float, Int

from naivenas_jax.dataflow.contraction import Contraction
from naivenas_jax.dataflow.tape import Tape
from naivenas_jax.dataflow.thinning import ROWS_PER_COLUMN, thinning
from naivenas_jax.dataflow.variable_uses import Standardisation, UseCounts, VariableUse
from naivenas_jax.fit.network.column_map import ColumnMap, Shift, shift_of
from naivenas_jax.fit.network.memory import most_columns
from naivenas_jax.fit.network.network import Network, Run, Runs, on_device, replaced
from naivenas_jax.fit.regression.generalised_linear_fit import Missed, aimed
from naivenas_jax.fit.regression.reduced_columns import NO_COLUMNS, ReducedColumns, rows_by_class
from naivenas_jax.fit.regression.ridge import Fit, ridge_fit
from naivenas_jax.fit.regression.ridge_choice import chosen_ridge
from naivenas_jax.fit.regression.running_statistics import Moments, moments, restandardised
from naivenas_jax.fit.regression.sums.weight_reader import WeightReader
from naivenas_jax.fit.regression.use_sums import Taken
from naivenas_jax.jaxpr.interpret import called
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.paths import Path
from naivenas_jax.transfer.take import to_host
from naivenas_jax.transfer.variables import flat, nested
from naivenas_jax.typing import Array, PyTree, Variables


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight to be re-fitted.

    Attributes:
      path: the weight.
      step: the step that contracts it first.
      shift: the variable that is added to what it makes, or subtracted from it.
      before: for each column before the mutation the entry of that variable; None without one.
      skip: whether a skip connection adds to it as well.
      outcome: whether there is a nonlinearity behind it, in both networks.
    """

    path: Path
    step: int
    shift: Shift | None
    before: Float[np.ndarray, "H L"] | None
    skip: bool
    outcome: bool


@dataclass(frozen=True)
class Statistic:
    """A running mean to be estimated again.

    Attributes:
      path: the running mean.
      step: the step that subtracts it first.
    """

    path: Path
    step: int


@dataclass(frozen=True, eq=False)
class Fitting:
    """A mutation, and both of its networks on the data that it is fitted to.

    Attributes:
      mutation: the mutation.
      networks: the network before the mutation and after it.
      runs: both networks on every batch.
      weights: whether weights are fitted; if not, only what is added to what they make.
      outcomes: whether weights are fitted to outcomes, where there are some.
      ridge: the relative ridge; None: chosen on rows held out.
      memory: bytes that sums may take.
      notes: what was done for want of memory.
    """

    mutation: Mutation
    networks: tuple[Network, Network]
    runs: Runs
    weights: bool
    outcomes: bool
    ridge: float | None
    memory: int
    notes: list[str] = field(default_factory=list)

    def stages(self) -> list[Weight | Statistic]:
        """What is to be re-fitted, in the order of evaluation."""
        before, after = (UseCounts.of(uses) for uses in self._uses)
        found: dict[Path, Weight | Statistic] = {}
        for use in self._uses[1]:
            if isinstance(use, Standardisation) and use.step >= self._begin:
                found.setdefault(use.path, Statistic(use.path, use.step))
            elif isinstance(use, Contraction) and use.step >= self._begin and use.path not in found:
                then, now = before.rows.get(self._old(use.path)), after.rows[use.path]
                # what is also looked up by index, scaled or transposed means something else there; and with other rows,
                # such as those of a weight that mixes tokens, which has one for each channel, nothing says which were
                # which
                if then == now and use.path not in after.elsewhere and self._is_one_matrix(use.path):
                    found[use.path] = self._weight(use.path, use.step, before, after)
        return list(found.values())

    def passed_over(self, fitted: Collection[Path]) -> list[str]:
        """What is to be said of weights that read other neurons than before, and are not fitted."""
        own = self.mutation
        lost = [
            "/".join(path)
            for path, leaf in own.graph.ties.leaves.items()
            if len(leaf.axes) > 1 and path not in fitted and path in own.plan.leaves
            if any(
                role == "in" and axis in own.plan.axes and own.plan.axes[axis].changed
                for axis, role in zip(leaf.axes, leaf.roles, strict=True)
                if axis is not None
            )
        ]
        if not lost:
            return []
        named = ", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
        why = "inside a loop, computed from other variables, used in another way too, or once for each of other neurons"
        return [f"not re-fitted ({why}): {named}"]

    def _weight(self, path: Path, step: int, before: UseCounts, after: UseCounts) -> Weight:
        old, number = self._old(path), len(after.rows[path])
        shift, was = self._shift(path)
        return Weight(
            path,
            step,
            shift,
            was,
            skip=number == after.skips[path] == before.skips[old],
            outcome=number == after.outcomes[path] == before.outcomes[old] == 1,
        )

    def _old(self, path: Path) -> Path:
        return self.mutation.plan.moved.get(path, path)

    def _reads_others(self, path: Path) -> bool:
        """Whether a weight reads an axis that has changed, or another one than before."""
        plan, ties = self.mutation.plan, self.mutation.graph.ties
        leaf, before = ties.leaves[path], self.mutation.before.ties.leaves.get(self._old(path))
        return any(
            role == "in" and axis is not None and (axis != was or (axis in plan.axes and plan.axes[axis].changed))
            for axis, was, role in zip(leaf.axes, before.axes if before else leaf.axes, leaf.roles, strict=True)
        )

    def _shift(self, path: Path) -> tuple[Shift, Float[np.ndarray, "H L"]] | tuple[None, None]:
        """The same variable that is added to what a weight makes before and after, and its entries before."""
        before, after = self._uses
        then = shift_of(self._old(path), before, self._before)
        now = shift_of(path, after, flat(self.mutation.variables))
        if now is None or then is None or self._old(now.path) != then.path:
            return None, None
        return now, to_host(self._before[then.path]).ravel()[then.entries]

    def restandardised(self, variables: Variables, stage: Statistic) -> dict[str, PyTree]:
        """The variables, with one running mean and variance estimated again."""
        present = on_device(variables)

        def visit(before: Run, after: Run) -> tuple[tuple[Run, Run], list[Moments]]:
            after, found = moments(after, present, stage.path)
            return (before, after), found

        return restandardised(variables, stage.path, self.runs.visited(visit))

    def refitted(self, variables: Variables, stage: Weight) -> dict[str, PyTree]:
        """The variables, with one weight and its shift fitted."""
        columns, shifts = self._columns(stage.path), stage.shift is not None
        if not columns.known.any():
            return dict(variables)
        factor = self.mutation.plan.factor(stage.path)
        values = to_host(flat(variables)[stage.path]).astype(np.float64).ravel()[columns.entries]
        present = np.where(columns.known[:, None], values, 0.0)
        reduced = self._reduced(stage, columns, present)
        reader = self._reader(stage, columns, reduced)
        start = present if reduced is None else np.zeros((len(present), reduced.number, present.shape[2]))
        fewer = None if reader.taken.seen else reduced
        problem = reader.problem(
            variables, start, stage.skip and factor == 1, columns.source, columns.known * factor, fewer
        )
        ridge = self.ridge if self.weights else np.inf
        if ridge is None:
            ridge = chosen_ridge(problem.fitted, problem.held_out, problem.start, shifts)
        every = problem.fitted.and_those(problem.held_out)
        fit = ridge_fit(every, problem.start, ridge, shifts)

        def changed(fit: Fit) -> dict[str, PyTree]:
            b = problem.weights(fit.b)
            b = b if reduced is None else present + reduced.spread(b, present.shape[1])
            return self._with(variables, stage, columns, replace(fit, b=b))

        def missing(fit: Fit) -> Missed:
            return problem.missed(reader.missed(changed(fit), columns.source, columns.known, fewer))

        if reader.aiming:
            fit = aimed(every, fit, problem.start, shifts, missing)
        return changed(fit)

    def _reader(self, stage: Weight, columns: ColumnMap, reduced: ReducedColumns | None) -> WeightReader:
        """Reads a weight on both networks."""
        once = len(self._contractions(stage.path)) == 1
        seen = once and reduced is not None and reduced.plain
        old = self._old(stage.path)
        return WeightReader(
            self.runs,
            self._present_before,
            old,
            stage.path,
            () if stage.shift is None else (stage.shift.path,),
            self._later[stage.path],
            Taken(self._every(stage.path, columns, reduced), seen),
            once,
            aiming=self.outcomes and stage.outcome and self.mutation.plan.factor(stage.path) == 1,
        )

    def _reduced(self, stage: Weight, columns: ColumnMap, present: Float[np.ndarray, "G K M"]) -> ReducedColumns | None:
        """Fewer columns: those that do not only see padding, or as many as sums fit into the memory; None: all."""
        groups, inputs, outputs = present.shape
        most, seen = most_columns(self.memory, groups, outputs), self._seen(stage.path)
        if len(seen) <= most:
            return ReducedColumns.some(seen) if len(seen) < inputs else None
        path, found = stage.path, None
        if groups == 1 and most:
            shape = np.shape(flat(self.mutation.variables)[path])
            (rows,) = rows_by_class(self.mutation.graph.ties, path, columns.entries, shape)
            found = ReducedColumns.of(present[0], rows, most)
        name = f"{'/'.join(path)} reads {inputs} entries, whose sums do not fit into the memory given"
        if found is None or found.number > most:
            self.notes.append(f"{name}: it stays, and only what is added to what it makes is fitted")
            return NO_COLUMNS
        self.notes.append(f"{name}: it is fitted in {found.number} combinations of them")
        return found

    def _seen(self, path: Path) -> Int[np.ndarray, " k"]:
        """The columns of what a weight reads that do not only see padding; all, unless all examples have one shape."""
        seen = np.any([use.seen for use in self._contractions(path)], 0)
        return np.flatnonzero(seen if self.runs.data.alike else np.ones(len(seen), bool))

    def _is_one_matrix(self, path: Path) -> bool:
        """Whether a weight is the same matrix in all its contractions, and not the transpose of it in some."""
        uses, shape = self._contractions(path), np.shape(flat(self.mutation.variables)[path])
        if len(uses) == 1:
            return True
        first, *others = (use.entries(shape) for use in uses)
        return all(np.array_equal(first, other) for other in others)

    def _contractions(self, path: Path) -> list[Contraction]:
        """What a weight is contracted with in the network after the mutation."""
        return [use for use in self._uses[1] if isinstance(use, Contraction) and use.path == path]

    def _with(self, variables: Variables, stage: Weight, columns: ColumnMap, fit: Fit) -> dict[str, PyTree]:
        """The variables, with what was found for a weight and its shift."""
        arrays, known, shift = flat(variables), columns.known, stage.shift
        values = to_host(arrays[stage.path]).astype(np.float64).ravel()
        values[columns.entries] = np.where(known[:, None], fit.b, values[columns.entries])
        arrays[stage.path] = replaced(arrays[stage.path], values)
        if shift is not None and stage.before is not None:
            was = self.mutation.plan.factor(stage.path) * stage.before.ravel()[columns.source]
            moved = to_host(arrays[shift.path]).astype(np.float64).ravel()
            moved[shift.entries] = np.where(known, was + shift.sign * fit.shift, moved[shift.entries])
            arrays[shift.path] = replaced(arrays[shift.path], moved)
        return nested(arrays)

    def _every(self, path: Path, columns: ColumnMap, reduced: ReducedColumns | None) -> int:
        """One in so many rows is enough for the fit of a weight, and fits into a quarter of the memory."""
        of_batch = sum(use.sizes.rows for use in self._contractions(path))
        groups, inputs, outputs = columns.entries.shape
        fewer = inputs if reduced is None else reduced.number
        enough = thinning(of_batch * self.runs.data.number, fewer + outputs + 1, ROWS_PER_COLUMN)
        spent = 8 * groups * of_batch * (inputs + fewer + outputs)  # X twice, in float32
        needed = -(-4 * int(spent) // self.memory)
        if needed > enough:
            self.notes.append(
                f"{'/'.join(path)} is fitted on one in {needed} of its rows: more do not fit into the memory given"
            )
        return max(enough, needed)

    def _columns(self, path: Path) -> ColumnMap:
        own, old = self.mutation, self._old(path)
        shapes = np.shape(flat(own.variables)[path]), np.shape(self._before[old])
        then, now = (
            next(use for use in uses if isinstance(use, Contraction) and use.path == one).entries(shape)
            for uses, one, shape in zip(self._uses, (old, path), shapes[::-1], strict=True)
        )
        return ColumnMap.of(own.plan, path, now, then, shapes)

    @cached_property
    def _later(self) -> dict[Path, list[Path]]:
        """For each weight those that are re-fitted after it, by their paths before the mutation."""
        own = [stage.path for stage in self.stages() if isinstance(stage, Weight)]
        return {path: [self._old(one) for one in own[n + 1 :]] for n, path in enumerate(own)}

    @cached_property
    def _begin(self) -> int:
        """The first step that is another one in the network before, or reads other neurons, be it a loop."""
        own = self.mutation
        before = self.networks[0].tape(own.variables_before, self.runs.data.first).steps
        steps = zip(before, self._tape.steps, strict=False)
        differ = (i for i, (then, now) in enumerate(steps) if primitive_names(then.eqn) != primitive_names(now.eqn))
        parting = next(differ, min(len(before), len(self._tape.steps)))
        return min(parting, self._tape.first_use([*filter(self._reads_others, own.graph.ties.leaves)]))

    @cached_property
    def _tape(self) -> Tape:
        return self.networks[1].tape(self.mutation.variables, self.runs.data.first)

    @cached_property
    def _before(self) -> dict[Path, Array]:
        return flat(self.mutation.variables_before)

    @cached_property
    def _present_before(self) -> Variables:
        return on_device(self.mutation.variables_before)

    @cached_property
    def _uses(self) -> tuple[list[VariableUse], list[VariableUse]]:
        """Every use of a variable, in the network before and after; on shapes."""
        own, inputs, (before, after) = self.mutation, self.runs.data.first, self.networks
        return before.uses(own.variables_before, inputs), after.uses(own.variables, inputs)


def primitive_names(eqn: JaxprEqn) -> list[str]:
    """The names of the primitives of an equation, those inside calls too: what it does, at any sizes."""
    inner = called(eqn)
    own = [eqn.primitive.name]
    return own if inner is None else own + [name for one in inner.jaxpr.eqns for name in primitive_names(one)]
