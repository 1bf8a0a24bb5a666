"""The alignment problem without any reduction: one binary and one integer per neuron of every vertex.

This is the formulation of NaiveNASlib.jl. It is read off the graph's public queries and the kinds of its vertices, and
shares no code with ``naivenas_jax.sizes`` and ``naivenas_jax.align``, so that it can disagree with them. What it leaves
out of NaiveNASlib is the rule on gaps, whose constraints hold for any sizes, as a prefix of ones always satisfies them.

    select[i] in {0, 1}        whether neuron i stays
    insert[i] in {0, 1, ...}   how many new neurons follow its place

with equalities between tied neurons. It is stated to HiGHS directly and solved in the documented order: exact requests,
nearest relaxed requests, the largest utility kept and, if asked, the fewest neurons dropped and inserted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import highspy
import numpy as np
import scipy.sparse as sp
from reference.network import Network

import naivenas_jax as nas
from naivenas_jax.align.problem.request import Relaxed, To
from naivenas_jax.sizes.condition import Condition, Size

_INFINITY = highspy.kHighsInf


@dataclass(frozen=True)
class Wish:
    """One request: the size asked for, and whether nothing else will do."""

    axis: str
    present: int
    size: int
    exact: bool

    @classmethod
    def of(cls, axis: str, present: int, asked: Any) -> Wish:
        value = asked.wish if isinstance(asked, Relaxed) else asked
        size = value.size if isinstance(value, To) else present + value
        return cls(axis, present, size, not isinstance(asked, Relaxed))


@dataclass(frozen=True)
class Reference:
    """The optimum of the per-neuron problem; ``sizes`` is None if there is none."""

    sizes: dict[str, int] | None
    kept: dict[str, np.ndarray]
    distance: float
    utility: float
    changes: int

    @property
    def feasible(self) -> bool:
        return self.sizes is not None


def optimum(
    graph: nas.Graph,
    request: Mapping[str, Any],
    utility: Mapping[str, Any],
    *,
    everything: bool = False,
    free_outputs: bool = False,
    least_change: bool = False,
    conditions: Iterable[Condition] = (),
    objectives: Iterable[Size] = (),
) -> Reference:
    """Solve the per-neuron problem of a request. ``everything``: all axes may change, as for `nas.resize`."""
    problem = PerNeuron.of(
        graph,
        request,
        utility,
        everything=everything,
        free_outputs=free_outputs,
        conditions=conditions,
        objectives=objectives,
    )
    solution = None
    for cost in problem.steps() + ([problem.changes()] if least_change else []):
        solution = problem.minimise(cost)
        if solution is None:
            return Reference(None, {}, np.nan, np.nan, 0)
        problem.hold(cost, float(cost @ solution))
    return problem.read(solution)


@dataclass
class PerNeuron:
    """The program of one request, handed to HiGHS. Only axes in reach have variables, as in NaiveNASlib."""

    network: Network
    wishes: list[Wish]
    utility: dict[str, np.ndarray]
    reached: list[str]
    neurons: np.ndarray  # the numbers of the neurons that have variables
    solver: highspy.Highs
    width: int
    step_costs: list[np.ndarray]

    @classmethod
    def of(
        cls,
        graph: nas.Graph,
        request: Mapping[str, Any],
        utility: Mapping[str, Any],
        *,
        everything: bool = False,
        free_outputs: bool = False,
        gap: float | None = 0.0,
        size_norms: bool = False,
        time_limit: float | None = None,
        conditions: Iterable[Condition] = (),
        objectives: Iterable[Size] = (),
    ) -> PerNeuron:
        """State the problem.

        Args:
          graph, request, utility, everything, free_outputs: as for `optimum`.
          gap: relative gap at which HiGHS may stop; None: its default.
          size_norms: one weighted objective as in NaiveNASlib (utility, size changes in two norms, insertions) and not
            steps. For benchmarks: it is what the peer solves, once.
          time_limit: in seconds.
          conditions, objectives: on sizes; the axes that they name may change as well.
        """
        network = Network.of(graph)
        wishes = [Wish.of(axis, len(network.axes[axis]), asked) for axis, asked in request.items()]
        ends = [v.name for v in graph.inputs] + ([] if free_outputs else [v.name for v in graph.outputs])
        fixed = [*network.fixed, *(network.axes[name] for name in ends if name not in request)]
        conditions, objectives = list(conditions), list(objectives)
        named = [axis for row in conditions for axis in row.axes]
        named += [axis for objective in objectives for axis, _ in objective.terms]
        reach = set(network.axes) if everything else network.reach([*request, *named])
        reached = [axis for axis in network.axes if axis in reach]
        scores = {axis: np.broadcast_to(np.asarray(u, float), network.axes[axis].shape) for axis, u in utility.items()}
        rows = _Rows(network, reached)
        rows.bound(fixed)
        rows.tie()
        rows.sizes()
        for condition in conditions:
            rows.condition(condition)
        steps = [*rows.requests(wishes), *map(rows.objective, objectives)]
        worth = rows.worth(scores)
        steps.append(rows.weighted(worth, scores) if size_norms else worth)
        solver = rows.solver(gap, time_limit)
        width = rows.width
        padded = [np.concatenate([step, np.zeros(width - len(step))]) for step in steps]
        return cls(network, wishes, scores, reached, rows.neurons, solver, width, padded)

    def steps(self) -> list[np.ndarray]:
        """Costs to minimise one after the other."""
        return self.step_costs

    def changes(self) -> np.ndarray:
        """The cost of dropping and of inserting, one per neuron, less a constant."""
        n = len(self.neurons)
        return np.concatenate([np.full(n, -1.0), np.full(n, 1.0), np.zeros(self.width - 2 * n)])

    def minimise(self, cost: np.ndarray) -> np.ndarray | None:
        """The best point, or None if there is none."""
        self.solver.changeColsCost(self.width, np.arange(self.width, dtype=np.int32), cost)
        self.solver.run()
        status = self.solver.getModelStatus()
        if status == highspy.HighsModelStatus.kInfeasible:
            return None
        if status != highspy.HighsModelStatus.kOptimal:
            raise RuntimeError(f"HiGHS ended with {status}.")
        return np.array(self.solver.getSolution().col_value)

    def hold(self, cost: np.ndarray, value: float) -> None:
        """Whatever follows may not be worse in this."""
        columns = np.flatnonzero(cost).astype(np.int32)
        self.solver.addRow(-_INFINITY, value + 1e-6, len(columns), columns, cost[columns])

    def read(self, solution: np.ndarray) -> Reference:
        """The sizes and the neurons that stay."""
        n = len(self.neurons)
        alive, inserted = np.ones(self.network.count, bool), np.zeros(self.network.count, int)
        alive[self.neurons] = solution[:n] > 0.5
        inserted[self.neurons] = solution[n : 2 * n].round().astype(int)
        kept = {axis: np.flatnonzero(alive[numbers]) for axis, numbers in self.network.axes.items()}
        sizes = {axis: len(kept[axis]) + int(inserted[numbers].sum()) for axis, numbers in self.network.axes.items()}
        distance = sum(abs(sizes[wish.axis] - wish.size) for wish in self.wishes if not wish.exact)
        changes = int((~alive).sum() + inserted.sum())
        return Reference(sizes, kept, float(distance), worth_of(kept, self.utility), changes)


def worth_of(kept: Mapping[str, np.ndarray], utility: Mapping[str, Any]) -> float:
    """The utility of all neurons that stay, counted on every axis. Scores are arrays."""
    return float(sum(np.asarray(scores)[kept[axis]].sum() for axis, scores in utility.items()))


class _Rows:
    """Columns and rows under construction: select of every neuron, insert of every neuron, then what requests need."""

    def __init__(self, network: Network, reached: list[str]):
        self.network, self.reached = network, reached
        self.neurons = np.concatenate([network.axes[axis] for axis in reached])
        self.column = np.full(network.count, -1)
        self.column[self.neurons] = np.arange(len(self.neurons))
        self.n = self.width = len(self.neurons)
        self.lower, self.upper = [np.zeros(self.n)], [np.ones(self.n)]
        most = [np.full(len(network.axes[axis]), max(200.0, 10.0 * len(network.axes[axis]))) for axis in reached]
        self.continuous: list[int] = []
        self.entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.row_lower: list[np.ndarray] = []
        self.row_upper: list[np.ndarray] = []
        self.height = 0
        self._columns(np.zeros(self.n), np.concatenate(most))
        self.width = 2 * self.n

    def _columns(self, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
        self.lower.append(lower)
        self.upper.append(upper)
        self.width += len(lower)
        return np.arange(self.width - len(lower), self.width)

    def _add(
        self, row: np.ndarray, column: np.ndarray, value: np.ndarray, lower: np.ndarray, upper: np.ndarray
    ) -> None:
        self.entries.append((row + self.height, column, value))
        self.row_lower.append(lower)
        self.row_upper.append(upper)
        self.height += len(lower)

    def one(self, terms: Mapping[int, float], lower: float, upper: float) -> None:
        columns = np.fromiter(terms, int)
        values = np.fromiter(terms.values(), float)
        self._add(np.zeros(len(columns), int), columns, values, np.array([lower]), np.array([upper]))

    def bound(self, fixed: list[np.ndarray]) -> None:
        """Neurons that may not change."""
        for numbers in fixed:
            columns = self.column[numbers]
            columns = columns[columns >= 0]
            self.lower[0][columns] = 1.0
            self.upper[1][columns] = 0.0

    def tie(self) -> None:
        """Tied neurons stay together and grow together."""
        inside = set(self.reached)
        pairs = [(a, b) for left, _, a, b in self.network.ties if left in inside]
        if not pairs:
            return
        left = self.column[np.concatenate([a for a, _ in pairs])]
        right = self.column[np.concatenate([b for _, b in pairs])]
        rows, zero = np.arange(len(left)), np.zeros(len(left))
        for shift in (0, self.n):
            columns = np.concatenate([left, right]) + shift
            values = np.concatenate([zero + 1, zero - 1])
            self._add(np.concatenate([rows, rows]), columns, values, zero, zero)

    def sizes(self) -> None:
        """At least one neuron on every axis, and not more new ones than allowed."""
        for axis in self.reached:
            self.one(self.size_of(axis), 1.0, _INFINITY)
            size = len(self.network.axes[axis])
            self.one(dict.fromkeys(self.columns_of(axis) + self.n, 1.0), -_INFINITY, max(200.0, 10.0 * size))

    def columns_of(self, axis: str) -> np.ndarray:
        return self.column[self.network.axes[axis]]

    def size_of(self, axis: str) -> dict[int, float]:
        columns = self.columns_of(axis)
        return dict.fromkeys(np.concatenate([columns, columns + self.n]).tolist(), 1.0)

    def sum_of(self, counts: Iterable[tuple[str, int]]) -> dict[int, float]:
        """A weighted sum of sizes; a neuron that lies on several of the axes counts on each."""
        found: dict[int, float] = {}
        for axis, count in counts:
            for column in np.concatenate([self.columns_of(axis), self.columns_of(axis) + self.n]).tolist():
                found[column] = found.get(column, 0.0) + count
        return found

    def condition(self, row: Condition) -> None:
        """A condition on sizes."""
        terms, right = self.sum_of(row.terms), row.bound - row.constant
        if row.sense == "multiple of":  # sum - bound * times = -constant
            (times,) = self._columns(np.full(1, -1e6), np.full(1, 1e6)).tolist()
            self.one({**terms, times: -float(row.bound)}, -row.constant, -row.constant)
            return
        lower, upper = {"<=": (-_INFINITY, right), ">=": (right, _INFINITY), "==": (right, right)}[row.sense]
        self.one(terms, lower, upper)

    def objective(self, objective: Size) -> np.ndarray:
        """The cost of a sum of sizes, without its constant."""
        cost = np.zeros(self.width)
        for column, count in self.sum_of(objective.terms).items():
            cost[column] = count
        return cost

    def requests(self, wishes: list[Wish]) -> list[np.ndarray]:
        """Rows of the requests; returns the costs of the relaxed ones: distance, then that against the direction."""
        distance: list[int] = []
        backward: list[int] = []
        for wish in wishes:
            terms = self.size_of(wish.axis)
            if wish.exact:
                self.one(terms, wish.size, wish.size)
                continue
            above, below = self._columns(np.zeros(2), np.full(2, _INFINITY)).tolist()
            self.continuous += [above, below]
            self.one({**terms, above: -1.0, below: 1.0}, wish.size, wish.size)
            distance += [above, below]
            if wish.size != wish.present:
                backward.append(below if wish.size > wish.present else above)
                self._must_change(terms, wish)
        return [self._cost(columns) for columns in (distance, backward) if columns]

    def _must_change(self, terms: dict[int, float], wish: Wish) -> None:
        """Either size >= present + 1 or size <= present - 1."""
        large = 20.0 * wish.present + 500.0
        (larger,) = self._columns(np.zeros(1), np.ones(1)).tolist()
        self.one({**terms, larger: -large}, -_INFINITY, wish.present - 1)
        self.one({**terms, larger: -large}, wish.present + 1 - large, _INFINITY)

    def _cost(self, columns: Iterable[int]) -> np.ndarray:
        cost = np.zeros(self.width)
        cost[list(columns)] = 1.0
        return cost

    def worth(self, utility: Mapping[str, np.ndarray]) -> np.ndarray:
        """Minus the utility of what stays."""
        cost = np.zeros(self.width)
        for axis, scores in utility.items():
            if axis in self.reached:
                np.add.at(cost, self.columns_of(axis), -scores)
        return cost

    def weighted(self, worth: np.ndarray, utility: Mapping[str, np.ndarray]) -> np.ndarray:
        """Utility, the L1 and the largest size change, and insertions in one cost, weighted as in NaiveNASlib."""
        scale = {axis: float(np.abs(u).max()) for axis, u in utility.items()}
        (widest,) = self._columns(np.zeros(1), np.full(1, _INFINITY)).tolist()
        self.continuous.append(widest)
        cost = np.zeros(self.width + len(self.reached))
        cost[: len(worth)] = worth
        cost[widest] = 0.8
        for axis in self.reached:
            negative = int((utility[axis] < 0).sum()) if axis in utility else 0
            aim, weight = max(1, len(self.network.axes[axis]) - negative), scale.get(axis, 0.0)
            (change,) = self._columns(np.zeros(1), np.full(1, _INFINITY)).tolist()
            self.continuous.append(change)
            sizes = dict.fromkeys(self.size_of(axis), weight)
            self.one({**sizes, change: -1.0}, -_INFINITY, weight * aim)
            self.one({**sizes, change: 1.0}, weight * aim, _INFINITY)
            self.one({change: 1.0, widest: -1.0}, -_INFINITY, 0.0)
            cost[change] = 0.1
            columns = self.columns_of(axis) + self.n
            place = np.arange(len(columns), 0, -1)
            cost[columns] += (
                0.1 * (float(np.abs(utility[axis]).min()) if axis in utility else 0.0) * place / place.sum()
            )
        return cost

    def solver(self, gap: float | None, time_limit: float | None) -> highspy.Highs:
        """All of it in HiGHS."""
        row, column, value = (np.concatenate(part) for part in zip(*self.entries, strict=True))
        matrix = sp.csr_array((value, (row, column)), shape=(self.height, self.width))
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = self.width, self.height
        lp.col_cost_ = np.zeros(self.width)
        lp.col_lower_, lp.col_upper_ = np.concatenate(self.lower), np.concatenate(self.upper)
        lp.row_lower_, lp.row_upper_ = np.concatenate(self.row_lower), np.concatenate(self.row_upper)
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = matrix.indptr, matrix.indices, matrix.data
        kinds = np.full(self.width, highspy.HighsVarType.kInteger)
        kinds[self.continuous] = highspy.HighsVarType.kContinuous
        lp.integrality_ = kinds.tolist()
        solver = highspy.Highs()
        solver.setOptionValue("output_flag", False)
        if gap is not None:
            solver.setOptionValue("mip_rel_gap", gap)
            solver.setOptionValue("mip_abs_gap", 1e-9)
            # With 1e-6 and the large numbers of `_must_change`, HiGHS 1.15.1 now and then calls a worse point optimal.
            solver.setOptionValue("mip_feasibility_tolerance", 1e-9)
        if time_limit is not None:
            solver.setOptionValue("time_limit", time_limit)
        solver.passModel(lp)
        return solver
