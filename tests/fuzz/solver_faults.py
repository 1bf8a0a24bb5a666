"""Faults of the solver, injected at its one door."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from mutations import Call, budget
from promises import check_function, check_plan, inputs_after, require, traced
from subject import rng_of
from vertex_grammar import vertices

import naivenas_jax as nas
from naivenas_jax.align.program import milp, solver_answer


def _fails(result: Any) -> Any:
    raise RuntimeError("the solver failed")


def _with(change: Callable[[np.ndarray, random.Random], Any]) -> Callable[[Any], Any]:
    """The point of an answer replaced."""
    rng = random.Random(0)

    def fault(result: Any) -> Any:
        solution = result["solution"]
        point = change(np.array(solution.col_value, dtype=float), rng)
        return {**result, "solution": SimpleNamespace(col_value=point, row_dual=solution.row_dual)}

    return fault


def _one_off(point: np.ndarray, rng: random.Random) -> np.ndarray:
    point[rng.randrange(len(point))] += rng.choice([-1.0, 1.0])
    return point


FAULTS: Mapping[str, Callable[[Any], Any]] = {
    "raises": _fails,
    "answers nothing": lambda result: None,
    "no status": lambda result: {key: value for key, value in result.items() if key != "model_status"},
    "another status": lambda result: {**result, "model_status": "kUnknown"},
    "nothing is feasible": lambda result: {**result, "model_status": "kInfeasible"},
    "no point": lambda result: {**result, "solution": None},
    "NaN": _with(lambda point, rng: np.full_like(point, np.nan)),
    "infinite": _with(lambda point, rng: np.full_like(point, np.inf)),
    "too short": _with(lambda point, rng: point[:-1]),
    "too long": _with(lambda point, rng: np.append(point, 0.0)),
    "zeros": _with(lambda point, rng: np.zeros_like(point)),
    "rounded down": _with(lambda point, rng: np.floor(point / 2)),
    "one off": _with(_one_off),
    "moved": _with(lambda point, rng: np.roll(point, 1)),
}
"""What the solver does in place of answering, by name."""


@contextlib.contextmanager
def failing(fault: str, every: int) -> Iterator[list[int]]:
    """The solver has a fault each ``every`` times that it is asked; the list tells how often it has been asked."""
    asked, count = solver_answer.asked, [0]

    def door(ask: Callable[[], Any], shape: tuple[int, int]) -> Any:
        count[0] += 1
        if count[0] % every:
            return asked(ask, shape)
        return asked(lambda: FAULTS[fault](ask()), shape)

    with mock.patch.object(milp, "asked", door):
        yield count


def survives(fault: str, seed: int, times: int = 3) -> None:
    """Random changes of width while the solver has a fault: each is right, or an error of the solver.

    Args:
      fault: which.
      seed: of the networks and changes.
      times: how many changes are made in which the solver is asked; many sizes are found without it.

    Raises:
      BrokenPromiseError: if a result is wrong, or the solver is never asked.
    """
    asked = 0
    for number in range(20 * times):
        rng = rng_of(seed, fault, number)
        subject = vertices(seed + number // 10, range(7))
        call = Call(subject.graph, subject.variables, subject.inputs, rng, number)
        with failing(fault, every=rng.choice([1, 1, 2])) as count:
            try:
                mutation = rng.choice([several, budget])(call)
            except nas.InternalError:
                raise
            except nas.NaiveNASError as error:
                known = isinstance(error, nas.SolverError | nas.InfeasibleError)
                require(known or not count[0], "solver", f"{error!r}")
                mutation = None
        asked += count[0] > 0
        if mutation is not None and count[0]:
            check_plan(mutation)
            inputs = inputs_after(mutation, subject.inputs)
            before = traced(subject.graph, subject.variables, subject.inputs)
            after = traced(mutation.graph, mutation.variables, inputs)
            check_function(mutation, before, after, subject.inputs, inputs, {})
        if asked == times:
            return
    require(asked > 0, "solver", "it was not asked")


def several(call: Call) -> nas.Mutation:
    """Wishes for many axes at once, which contradict one another."""
    handles = call.graph.handles()
    names = call.rng.sample(list(handles), min(len(handles), 4))
    request = {name: nas.relaxed(call.rng.choice([-2, -1, 1, 2])) for name in names}
    return nas.delta_nout(call.graph, call.variables, request, free_outputs=True)
