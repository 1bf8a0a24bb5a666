"""The reduced problem as a mixed-integer linear program, canonicalised once by cvxpy and solved in steps by HiGHS."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from naivenas_jax.align.problem.deadline import Deadline, StoppedError
from naivenas_jax.align.program.solver_answer import asked, quiet
from naivenas_jax.errors import SolverError

#: A point of a program, or the cost of each of its columns.
Point: TypeAlias = Float[np.ndarray, " columns"]

#: The relative gap at which `IntegerProgram.bounded` ends a search in whole numbers.
_NEARLY = 1e-4
#: By so much HiGHS lets prices of linear programs be wrong.
_DUAL_TOLERANCE = 1e-7


class NoSolutionError(Exception):
    """The constraints cannot all hold. Internal: callers turn it into an explained `InfeasibleError`."""


class PairRows(NamedTuple):
    """Rows of a program that are about sums of pairs of columns, and about nothing else.

    Attributes:
      rows: their numbers.
      coefficients: of each pair in each row.
      bounds: their right-hand sides.
      equal: which of them are equalities.
    """

    rows: Int[np.ndarray, " conditions"]
    coefficients: Float[np.ndarray, "conditions pairs"]
    bounds: Float[np.ndarray, " conditions"]
    equal: Bool[np.ndarray, " conditions"]


@dataclass
class LinearRows:
    """Linear rows ``coefficients @ x <= bound`` (or ``==``), collected one by one."""

    entries: list[tuple[int, Int[np.ndarray, " _"], Float[np.ndarray, " _"]]] = field(default_factory=list)
    bounds: list[float] = field(default_factory=list)

    def add(self, terms: dict[int, float], bound: float) -> int:
        """Add a row; returns its number."""
        self.entries.append((len(self.bounds), np.fromiter(terms, int), np.fromiter(terms.values(), float)))
        self.bounds.append(bound)
        return len(self.bounds) - 1

    def matrix(self, columns: int) -> sp.csc_array:
        """The coefficients of all rows: sparse, shape (rows, columns)."""
        if not self.entries:
            return sp.csc_array((0, columns))
        row = np.concatenate([np.full(len(cols), i) for i, cols, _ in self.entries])
        col = np.concatenate([cols for _, cols, _ in self.entries])
        value = np.concatenate([values for _, _, values in self.entries])
        return sp.csc_array((value, (row, col)), shape=(len(self.bounds), columns))


@dataclass
class Unknowns:
    """The columns of a program: its unknowns with their bounds, collected one by one."""

    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    integer: list[int] = field(default_factory=list)

    def add(self, upper: float, lower: float = 0.0, integer: bool = False) -> int:
        """Add an unknown; returns its number."""
        if integer:
            self.integer.append(len(self.lower))
        self.lower.append(lower)
        self.upper.append(upper)
        return len(self.lower) - 1


class IntegerProgram:
    """``minimise c @ x`` subject to rows and bounds, for several ``c`` after one another.

    cvxpy canonicalises once, with placeholders for costs and for the bounds of the rows that are set later; these are
    then written into the canonical data. One stacked variable and two sparse matrices keep that at a few ms.

    Attributes:
      found: every point that a step ended with, the latest last; kept for when the time limit strikes.
    """

    def __init__(self, columns: Unknowns, equal: LinearRows, below: LinearRows, deadline: Deadline):
        self.size = len(columns.lower)
        self.found: list[Point] = []
        self._integer = np.array(columns.integer, dtype=int)
        self._dual = -np.inf
        self._places: dict[int, Int[np.ndarray, " entries"]] = {}
        self._prices = np.zeros(len(equal.bounds) + len(below.bounds))
        self._deadline = deadline
        self._data, self._chain, self._problem = self._canonical(columns, equal, below)
        self._equalities = len(equal.bounds)
        self._data["b"] = np.concatenate([equal.bounds, below.bounds]).astype(float)

    def _canonical(self, columns: Unknowns, equal: LinearRows, below: LinearRows) -> tuple[dict[str, Any], Any, object]:
        import cvxpy as cp  # here: it takes longer to import than all else, and most changes need no solver

        lower, upper = np.array(columns.lower), np.array(columns.upper)
        integer = (np.array(columns.integer),) if columns.integer else False
        x = cp.Variable(self.size, bounds=[lower, upper], integer=integer)
        constraints = []
        if equal.bounds:
            constraints.append(equal.matrix(self.size) @ x == np.array(equal.bounds))
        if below.bounds:
            finite = np.where(np.isfinite(below.bounds), below.bounds, 0.0)
            constraints.append(below.matrix(self.size) @ x <= finite)
        problem = cp.Problem(cp.Minimize(np.ones(self.size) @ x), constraints)
        quiet()
        try:
            data, chain, _ = problem.get_problem_data(cp.HIGHS)
        except Exception as error:  # cvxpy's own errors and others
            raise SolverError(f"cvxpy could not write the problem for HiGHS: {error!r:.200}.") from error
        if data["A"].shape != (len(equal.bounds) + len(below.bounds), self.size):
            raise SolverError(f"cvxpy canonicalised to an unexpected shape {data['A'].shape}.")
        data["lower_bounds"], data["upper_bounds"] = lower, upper
        return data, chain, problem

    @property
    def prices(self) -> Float[np.ndarray, " rows"]:
        """How the least cost in real numbers, the latest, changes with the bound of each row, equalities first."""
        return self._prices

    def upper(self, columns: Int[np.ndarray, " some"]) -> Float[np.ndarray, " some"]:
        """Upper bounds of some columns."""
        upper: np.ndarray = self._data["upper_bounds"][columns]
        return upper

    def pair_rows(self, kept: Int[np.ndarray, " pairs"], new: Int[np.ndarray, " pairs"]) -> PairRows:
        """The rows that are about sums ``kept + new`` of at least two pairs of columns, and about nothing else.

        Args:
          kept: the first column of each pair.
          new: the second column of each pair.
        """
        matrix = self._data["A"].tocsr()
        first, second = matrix[:, kept].toarray(), matrix[:, new].toarray()
        several = np.count_nonzero(first, axis=1) > 1
        alone = np.count_nonzero(first, axis=1) + np.count_nonzero(second, axis=1) == np.diff(matrix.indptr)
        rows = np.flatnonzero(several & alone & (first == second).all(axis=1) & np.isfinite(self._data["b"]))
        return PairRows(rows, first[rows], self._data["b"][rows], rows < self._equalities)

    def set_bound(self, row: int, bound: float) -> None:
        """Set the right-hand side of an inequality."""
        self._data["b"][self._equalities + row] = bound

    def set_row(self, row: int, columns: Int[np.ndarray, " some"], values: Float[np.ndarray, " some"]) -> None:
        """Overwrite the coefficients of an inequality; it must have entries at exactly these columns."""
        matrix = self._data["A"]
        if row not in self._places:  # a row that is set is set again and again
            self._places[row] = np.flatnonzero(matrix.indices == self._equalities + row)  # in column order
        matrix.data[self._places[row]] = values[np.argsort(columns)]

    def set_upper(self, columns: Int[np.ndarray, " some"], upper: Float[np.ndarray, " some"]) -> None:
        """Set the upper bounds of some columns."""
        self._data["upper_bounds"][columns] = upper

    def set_bounds(self, column: int, lower: float, upper: float) -> None:
        """Set both bounds of a column."""
        self._data["lower_bounds"][column], self._data["upper_bounds"][column] = lower, upper

    def bounded(self, cost: Point, whole: bool) -> tuple[Point, float]:
        """A point of nearly the least ``cost @ x``, and what no point can be below; raises as `minimise` does.

        Args:
          cost: shape (size,).
          whole: whether integers have to be integers.
        """
        x = self._run(cost, [])
        if not whole or self._integral(x):
            return x, float(cost @ x)
        return self._run(cost, self._integer.tolist(), _NEARLY), self._dual

    def minimise(self, cost: Point, known: Point | None = None) -> Point:
        """Minimise ``cost @ x``: first without integrality, which is often enough.

        Args:
          cost: shape (size,).
          known: a point that satisfies all constraints, as an earlier step leaves one. It is returned if the solver
            finds none, which happens where rows leave room near the limit of its precision.

        Raises:
          NoSolutionError: if the constraints contradict one another.
          StoppedError: if the time limit strikes.
        """
        try:
            relaxation = self._run(cost, [])
            x = relaxation if self._integral(relaxation) else self._run(cost, self._integer.tolist())
        except StoppedError as stop:
            self.found += [] if stop.point is None else [stop.point]
            raise
        except NoSolutionError:
            if known is None:
                raise
            return known
        self.found.append(x)
        return x

    def _integral(self, x: Point) -> bool:
        """Whether all unknowns that must be whole numbers are."""
        return bool(np.all(np.abs(x[self._integer] - x[self._integer].round()) < 1e-6))

    def _run(self, cost: Point, integer: list[int], gap: float = 0.0) -> Point:
        """Solve with HiGHS: the point at which ``cost`` is least, with whole numbers in the columns ``integer``."""
        data = {**self._data, "c": cost, "int_vars_idx": integer, "bool_vars_idx": []}
        options = {
            "presolve": "on" if self.size > 3000 else "off",
            "mip_rel_gap": gap,
            "mip_abs_gap": 1e-9,
            # finer than the slack that a step leaves to the next one, else a tight row is taken for a contradiction
            "mip_feasibility_tolerance": 1e-9,
            "primal_feasibility_tolerance": 1e-9,
            "mip_heuristic_run_feasibility_jump": False,
            "time_limit": self._deadline.remaining(),
        }
        answer = asked(lambda: self._chain.solve_via_data(self._problem, data, False, False, options), self._shape)
        if answer.status == "kTimeLimit":
            # a point of the relaxation is no solution, and its cost bounds nothing before the optimum
            raise StoppedError(answer.point, answer.bound) if integer else StoppedError
        if answer.status in ("kInfeasible", "kUnboundedOrInfeasible"):
            raise NoSolutionError
        point = answer.optimum()
        cost_found = float(cost @ point)
        if integer:
            self._dual = answer.bound
            least, allowed = answer.bound, gap * abs(cost_found) + 1e-6 * (1.0 + abs(cost_found))
        else:
            self._prices = answer.prices
            least, allowed = self._least(cost, answer.prices), _slack(cost, point)
        if not cost_found - least <= allowed:
            raise SolverError(
                f"HiGHS calls a point optimal whose cost is {cost_found:.9g}, where {least:.9g} is not excluded. "
                "Nothing was changed."
            )
        return point

    @property
    def _shape(self) -> tuple[int, int]:
        return len(self._data["b"]), self.size

    def _least(self, cost: Point, prices: Float[np.ndarray, " rows"]) -> float:
        """What no point can cost less than, whatever the prices of the rows (weak duality); minus infinity: unknown.

        With prices ``y``, of inequalities not positive, ``cost @ x >= y @ bounds + sum_j min over x_j of d_j x_j`` for
        ``d = cost - A.T @ y``.
        """
        bounds = self._data["b"]
        limited = np.isfinite(bounds)
        y = np.where(limited, prices, 0.0)
        y[self._equalities :] = np.minimum(y[self._equalities :], 0.0)
        reduced = cost - self._data["A"].T @ y
        reduced[np.abs(reduced) < _DUAL_TOLERANCE] = 0.0
        at = np.where(reduced > 0, self._data["lower_bounds"], self._data["upper_bounds"])
        used = reduced != 0
        return float(y[limited] @ bounds[limited] + reduced[used] @ at[used])


def _slack(cost: Point, point: Point) -> float:
    """How far the costs of a point and of its prices may differ by rounding."""
    return 1e-6 * (1.0 + float(np.abs(cost) @ np.abs(point))) + _DUAL_TOLERANCE * float(np.abs(point).sum())
