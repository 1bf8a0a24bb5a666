"""The one door to the solver: it is asked here, and what it answers is not believed before it has been looked at."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import highspy
import numpy as np
from jaxtyping import Float

from naivenas_jax.errors import SolverError


class Answer(NamedTuple):
    """What HiGHS has answered.

    Attributes:
      status: in the words of HiGHS, such as "kOptimal".
      point: where it is, if it has found one, and of the right length and finite.
      bound: what it has proven no point in whole numbers to cost less than; minus infinity if nothing.
      prices: shape (rows,): of the rows of a linear program; zeros if it has none.
    """

    status: str
    point: Float[np.ndarray, " columns"] | None
    bound: float
    prices: Float[np.ndarray, " rows"]

    def optimum(self) -> Float[np.ndarray, " columns"]:
        """The point that the answer calls optimal.

        Raises:
          SolverError: if it calls none optimal, or that is no point.
        """
        if self.status != "kOptimal":
            raise SolverError(f"HiGHS ended with status {self.status}; nothing was changed.")
        if self.point is None:
            raise SolverError("HiGHS calls something optimal that is no point of the program; nothing was changed.")
        return self.point


def asked(ask: Callable[[], Any], shape: tuple[int, int]) -> Answer:
    """Ask the solver.

    Args:
      ask: the call, which gives what cvxpy hands on from HiGHS.
      shape: the numbers of rows and columns of the program.

    Raises:
      SolverError: if the call raises anything, or gives nothing that could be read.
    """
    try:
        result = ask()
        info, solution = result["info"], result["solution"]
        feasible = info.primal_solution_status == int(highspy.SolutionStatus.kSolutionStatusFeasible)
        bound = float(info.mip_dual_bound)
        point, prices = _finite(solution.col_value, shape[1]), _finite(solution.row_dual, shape[0])
        return Answer(
            status=str(result["model_status"]),
            point=point if feasible else None,
            bound=-np.inf if np.isnan(bound) else bound,
            prices=np.zeros(shape[0]) if prices is None else prices,
        )
    except Exception as error:  # whatever it is: only so can fallback= see it
        raise SolverError(f"HiGHS failed: {error!r:.200}. Nothing was changed.") from error


def _finite(values: object, length: int) -> Float[np.ndarray, " _"] | None:
    """Numbers, if there are just so many and all are finite."""
    array = np.array(values, dtype=float)
    return array if array.shape == (length,) and bool(np.isfinite(array).all()) else None


class _Silent(highspy.Highs):
    """HiGHS without callbacks: to enable them prints."""

    def enableCallbacks(self) -> None:  # noqa: N802  so HiGHS calls it
        """Enable none."""


@cache
def quiet() -> None:
    """Let HiGHS write the two lines about its version now, where nobody sees them: it does so once in a process."""
    silent = _Silent()  # type: ignore[no-untyped-call]  # the constructor of HiGHS has no types
    silent.setOptionValue("log_to_console", False)
    silent.passModel(highspy.HighsModel())
    silent.run()
