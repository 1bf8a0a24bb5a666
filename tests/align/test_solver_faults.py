"""Whatever goes wrong inside the solver is a `SolverError`, which `fallback=` sees; nothing is printed."""

import subprocess
import sys
from types import SimpleNamespace

import cvxpy
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cvxpy.reductions.solvers.solving_chain import SolvingChain

import naivenas_jax as nas

UTILITY = {"a": np.array([5.0, 1, 7, 2, 9, 3, 8, 4]), "b": np.array([0.5, 6, 1.5, 2.5, 3.5, 10])}


def fork():
    """Both branches of a concatenation; how many of each stay is for the solver to say."""
    x = nas.input_vertex("x", 3)
    cat = nas.concat("cat", nas.layer("a", nn.Dense(8), x), nas.layer("b", nn.Dense(6), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), cat))
    return graph, graph.init(jax.random.key(0), jnp.ones((1, 3)))


def exactly(**keywords):
    return nas.delta_nout(*fork(), {"cat": -4}, utility=UTILITY, **keywords)


def within(**keywords):
    """Within budgets the solver is asked where sizes are wished for."""
    return nas.resize(*fork(), request={"cat": nas.relaxed(-4)}, max_params=0.5, utility=UTILITY, **keywords)


def answer(result, *, point=None, prices=None, status=None, bound=None):
    """An answer of HiGHS with some of it replaced."""
    solution, info = result["solution"], result["info"]
    return {
        **result,
        "model_status": result["model_status"] if status is None else status,
        "solution": SimpleNamespace(
            col_value=solution.col_value if point is None else point(np.array(solution.col_value)),
            row_dual=solution.row_dual if prices is None else prices(np.array(solution.row_dual)),
        ),
        "info": SimpleNamespace(
            primal_solution_status=info.primal_solution_status,
            mip_dual_bound=info.mip_dual_bound if bound is None else bound,
        ),
    }


def raised(error):
    def fault(result):
        raise error

    return fault


FAULTS = {
    "an exception of cvxpy": raised(cvxpy.error.SolverError("failed")),
    "an exception of Python": raised(IndexError("failed")),
    "no memory": raised(MemoryError()),
    "nothing": lambda result: None,
    "no status": lambda result: {key: value for key, value in result.items() if key != "model_status"},
    "no status at all": lambda result: {**result, "model_status": None},
    "an unknown status": lambda result: answer(result, status="kUnknown"),
    "a status of failure": lambda result: answer(result, status="kSolveError"),
    "interrupted": lambda result: answer(result, status="kInterrupt"),
    "no solution": lambda result: {**result, "solution": None},
    "NaN": lambda result: answer(result, point=lambda x: np.full_like(x, np.nan)),
    "one NaN": lambda result: answer(result, point=lambda x: np.where(np.arange(x.size) == 0, np.nan, x)),
    "infinite": lambda result: answer(result, point=lambda x: np.full_like(x, np.inf)),
    "too short": lambda result: answer(result, point=lambda x: x[:-1]),
    "too long": lambda result: answer(result, point=lambda x: np.append(x, 1.0)),
    "empty": lambda result: answer(result, point=lambda x: x[:0]),
    "text": lambda result: answer(result, point=lambda x: ["many"] * x.size),
    "prices of NaN": lambda result: answer(result, prices=lambda y: np.full_like(y, np.nan)),
    "zeros": lambda result: answer(result, point=np.zeros_like),
    "worse than can be": lambda result: answer(result, point=lambda x: np.floor(x / 2)),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("change", [exactly, within])
def test_is_a_solver_error(monkeypatch, change, fault):
    solve, graph = SolvingChain.solve_via_data, fork()[0]
    monkeypatch.setattr(SolvingChain, "solve_via_data", lambda *given, **named: fault(solve(*given, **named)))
    with pytest.raises(nas.SolverError, match="HiGHS"):
        change()
    kept = change(fallback=nas.fallback.keep)
    assert kept.graph == graph
    assert "nothing was changed" in kept.notes[0]


def test_no_sizes_is_not_believed_where_there_are_some(monkeypatch):
    """Each group at its own best is feasible; only the wish is not met."""
    solve = SolvingChain.solve_via_data
    monkeypatch.setattr(
        SolvingChain,
        "solve_via_data",
        lambda *given, **named: answer(solve(*given, **named), status="kInfeasible"),
    )
    with pytest.raises(nas.SolverError, match="no solution"):
        nas.delta_nout(*fork(), {"a": nas.relaxed(0), "cat": nas.relaxed(nas.to(14)), "b": nas.relaxed(-4)})


def test_cvxpy_fails_to_write_the_problem(monkeypatch):
    def fails(self, *given, **named):
        raise cvxpy.error.SolverError("HIGHS is not installed")

    monkeypatch.setattr(cvxpy.Problem, "get_problem_data", fails)
    with pytest.raises(nas.SolverError, match="HIGHS is not installed"):
        exactly()


@pytest.mark.parametrize(
    "change",
    [
        "nas.resize(g, v, max_params=0.5)",
        "nas.delta_nout(g, v, {'cat': -4}, utility=u)",
        "nas.delta_nout(g, v, {'cat': -99}, fallback=nas.fallback.keep)",
    ],
)
def test_nothing_is_printed(change):
    code = (
        "import jax, jax.numpy as jnp, flax.linen as nn, naivenas_jax as nas\n"
        "x = nas.input_vertex('x', 3); u = {'a': range(1, 9), 'b': [2.0, 4.5, 1.5, 8, 9, 3]}\n"
        "cat = nas.concat('cat', nas.layer('a', nn.Dense(8), x), nas.layer('b', nn.Dense(6), x))\n"
        "g = nas.Graph(x, nas.layer('out', nn.Dense(2), cat)); v = g.init(jax.random.key(0), jnp.ones((1, 3)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code + change], capture_output=True, text=True, check=True)
    assert done.stdout == ""
