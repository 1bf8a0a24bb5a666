"""One linear constraint on the sizes of very many layers: how long its alignment takes, and how near to the best it is.

    python benchmarks/linear_constraints.py [--quick] [--write docs/benchmarks/linear_constraints.md]

``--quick``: a small network, to see that the script works; nothing is written.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
from graphs import random_nas
from machine import measured_with

import naivenas_jax as nas
from naivenas_jax.align.layout import layout
from naivenas_jax.align.problem.deadline import Deadline
from naivenas_jax.align.problem.problem import Problem, Solution
from naivenas_jax.align.problem.reduction import Reduction
from naivenas_jax.align.problem.restrictions import Restrictions
from naivenas_jax.align.solve import solve as solving
from naivenas_jax.align.solve.solution import utility_lost
from naivenas_jax.mutate.request.defaults import kept_ends
from naivenas_jax.mutate.request.options import Options
from naivenas_jax.sizes.condition import Size

HEAD = """# Linear constraints on very many layers

    python benchmarks/linear_constraints.py --write docs/benchmarks/linear_constraints.md

{date}, on {machine}; Python {python}, naivenas_jax at {revision}, {versions}. One run each; CPU seconds.

Random networks of layers, sums and concatenations, with uniform scores. All dense layers together are to keep half of
their neurons: `constraints=[size("v1") + size("v4") + ... <= n]`. *Alignment*: ties, reduction to groups, sizes, and
which neurons stay. *Integer program*: the sizes alone by HiGHS, with its steps for the least change among equally good
sizes, as it was done before; {limit:g} seconds of it. *Same*: whether utility and change are the same.

| vertices | neurons | groups | alignment | of it: ties | sizes | gap | integer program | same |
|---:|---:|---:|---:|---:|---:|---:|---:|---|
"""
#: Numbers of vertices.
VERTICES, FEW = (200, 1000, 8000, 22_000), (60,)
LIMIT = 60.0


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    return call(), time.process_time() - start


def reduced(graph: nas.Graph) -> Problem:
    """The problem, in groups of tied neurons."""
    layers, generator = [vertex.name for vertex in graph.vertices if vertex.op.absorbs], np.random.default_rng(0)
    utility = {name: generator.uniform(size=graph.nout(name)) for name in layers}
    half = sum(map(graph.nout, layers)) // 2
    restrictions = Restrictions(
        frozen=kept_ends(graph, set(), False),
        insertable=Options().insertable(graph.ties.sizes),
        conditions=[Size(tuple((name, 1) for name in layers)) <= half],
    )
    return Reduction(graph.ties, (), utility, restrictions).problems()[0]


def by_program(problem: Problem) -> Solution | None:
    """The same by HiGHS, if there is time."""
    try:
        return solving._solve(problem, Deadline.after(LIMIT), 16)
    except solving.UnprovenError:
        return None


def change(problem: Problem, solution: Solution) -> int:
    """How many neurons are dropped or inserted, each counted once per axis that it lies on."""
    axes = problem.rows.astype(bool).T @ np.array([len(names) for names in problem.names])
    return int(axes @ (problem.group_sizes - solution.kept + solution.new))


def row(vertices: int) -> str:
    """One network."""
    graph = random_nas(vertices)
    graph.__dict__.pop("ties", None)
    ties, known = timed(lambda: graph.ties)
    problem, reducing = timed(lambda: reduced(graph))
    solution, solving_ = timed(lambda: solving.solve(problem))
    _, laying = timed(lambda: layout(ties, problem, solution))
    other, program = timed(lambda: by_program(problem))
    same, took = "", f"more than {LIMIT:g}"
    if other is not None:
        nearly = np.isclose(utility_lost(problem, solution), utility_lost(problem, other), rtol=1e-9)
        same, took = "yes" if nearly and change(problem, solution) == change(problem, other) else "no", f"{program:.2f}"
    neurons, total = sum(vertex.nout for vertex in graph.vertices), known + reducing + solving_ + laying
    times = f"{total:.3f} | {known:.3f} | {solving_:.3f}"
    return (
        f"| {len(graph):,} | {neurons:,} | {len(problem.groups):,} | {times} | {solution.gap:.2g} | {took} | {same} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small network; nothing is written")
    parser.add_argument("--write", type=Path, help="where to write the page")
    asked = parser.parse_args()
    import cvxpy  # noqa: F401  not to be measured

    head, lines = HEAD.format(limit=LIMIT, **measured_with("highspy", "cvxpy", "numpy")), []
    print(head, end="")
    for vertices in FEW if asked.quick else VERTICES:
        lines.append(row(vertices))
        print(lines[-1], flush=True)
    if asked.write and not asked.quick:
        asked.write.write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
