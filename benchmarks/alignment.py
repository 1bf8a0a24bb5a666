"""How long an alignment takes: ours, and one variable per neuron in the same solver.

    python benchmarks/alignment.py [--quick] [GRAPH ...]

CPU seconds, the median of up to five runs, everything from the graph to the plan. Prints a table and, when all graphs
are measured, writes docs/benchmarks/alignment.md. ``--quick``: a small network, once, to see that the script works.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]

import numpy as np  # noqa: E402
from graphs import GRAPHS, SMALL, Network  # noqa: E402
from machine import processor, revision  # noqa: E402
from reference.per_neuron import PerNeuron  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

import naivenas_jax as nas  # noqa: E402
from naivenas_jax.align.layout import layout  # noqa: E402
from naivenas_jax.align.problem.reduction import Reduction  # noqa: E402
from naivenas_jax.align.problem.request import targets  # noqa: E402
from naivenas_jax.align.problem.restrictions import Restrictions  # noqa: E402
from naivenas_jax.align.solve import solve as solving  # noqa: E402
from naivenas_jax.mutate.request.defaults import kept_ends  # noqa: E402
from naivenas_jax.mutate.request.options import Options  # noqa: E402

LIMIT = 60.0  # seconds of HiGHS
SLOW = 5.0  # what takes longer is measured once

HEADER = """# Alignment: time

{command}, {date}, on {cores} x {cpu}; Python {python}, naivenas_jax at {revision},
HiGHS {highspy}, cvxpy {cvxpy}, numpy {numpy}.

CPU seconds from the graph to the plan, the median of up to five runs. *Build*: ties, reduction to groups and, where the
solver is needed, canonicalisation in cvxpy. *Solve*: HiGHS and reading the answer back.

The peer is the formulation with one binary and one integer per neuron of every vertex and equalities between tied
neurons, handed to the same HiGHS directly (`tests/reference/per_neuron.py`), at HiGHS's own gap of 1e-4 where ours is
0. It is measured twice:

- **peer**: all vertices of the graph, with one objective as in NaiveNASlib: utility, size changes in two norms, and
  insertions. NaiveNASlib itself leaves out vertices that the request does not reach, so for shrink, grow and mixed its
  time lies between the two;
- **peer at best**: only those vertices that the request reaches, and utility alone, which is all that it has in common
  with the answer of ours.

A time above {limit:.0f} s of HiGHS is cut off and marked with >. The utility is random; for *prune* about 30 % of it is
negative. *Mixed* is one exact and one relaxed request.

"""


@dataclass(frozen=True)
class Question:
    """What is asked of a network."""

    request: Mapping[str, Any]
    utility: Mapping[str, np.ndarray]
    everything: bool = False


@dataclass(frozen=True)
class Times:
    """CPU seconds of building and solving."""

    build: float
    solve: float
    finished: bool = True

    @property
    def total(self) -> float:
        return self.build + self.solve

    def __str__(self) -> str:
        return f"{'' if self.finished else '> '}{self.total:.3g}"


def questions(graph: nas.Graph, first: str, second: str) -> dict[str, Question]:
    """Shrink, grow, prune, mixed."""
    generator = np.random.default_rng(0)
    utility = {v.name: generator.uniform(size=v.nout) for v in graph.vertices if v.op.absorbs}
    tenth = -(-graph.nout(first) // 10)
    other = nas.relaxed(max(1, graph.nout(second) // 8))
    return {
        "shrink": Question({first: -tenth}, utility),
        "grow": Question({first: tenth}, utility),
        "prune": Question({}, {name: scores - 0.3 for name, scores in utility.items()}, everything=True),
        "mixed": Question({first: -tenth, second: other}, utility),
    }


def ours(make: Callable[[], nas.Graph], question: Question) -> Times:
    """Each run has a graph of its own, whose ties are not known yet. Making the graph is not counted."""
    graph, formulating = make(), []
    graph.__dict__.pop("ties", None)
    original = solving.formulate

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        result = original(*args, **kwargs)
        formulating.append(time.process_time() - start)
        return result

    solving.formulate = timed
    try:
        start = time.process_time()
        ties = graph.ties
        sizes = ties.sizes
        restrictions = Restrictions(
            frozen=kept_ends(graph, set(question.request), False),
            reached=None if question.everything else ties.reach(question.request),
            insertable=Options().insertable(sizes),
        )
        asked = targets(question.request, sizes)
        problem = Reduction(ties, asked, question.utility, restrictions).problems()[0]
        reduced = time.process_time()
        layout(ties, problem, solving.solve(problem))
        end = time.process_time()
    finally:
        solving.formulate = original
    build = reduced - start + sum(formulating)
    return Times(build, end - start - build)


def peer(make: Callable[[], nas.Graph], question: Question, *, at_best: bool) -> Times:
    """One variable per neuron."""
    graph = make()
    start = time.process_time()
    problem = PerNeuron.of(
        graph,
        question.request,
        question.utility,
        everything=question.everything or not at_best,
        gap=None,
        size_norms=not at_best,
        time_limit=LIMIT,
    )
    built, finished, solution = time.process_time(), True, None
    try:
        for cost in problem.steps():
            solution = problem.minimise(cost)
            problem.hold(cost, float(cost @ solution))
        problem.read(solution)
    except RuntimeError:  # the time limit
        finished = False
    return Times(built - start, time.process_time() - built, finished)


def median(measure: Callable[[], Times], runs: int) -> Times:
    """Of several runs; one is enough where it takes long."""
    found = [measure()]
    while len(found) < runs and found[0].total < SLOW:
        found.append(measure())
    return sorted(found, key=lambda times: times.total)[len(found) // 2]


def measure(name: str, network: Network, runs: int) -> list[list[str]]:
    """Rows of the table for one network."""
    make, first, second = network
    graph = make()
    neurons = sum(vertex.nout for vertex in graph.vertices)
    rows = []
    for kind, question in questions(graph, first, second).items():
        mine = median(lambda q=question: ours(make, q), runs)
        full = median(lambda q=question: peer(make, q, at_best=False), runs)
        best = median(lambda q=question: peer(make, q, at_best=True), runs)
        row = [name, f"{neurons:,}", kind, f"{mine.build:.4f}", f"{mine.solve:.4f}", f"{mine.total:.4f}"]
        for other in (full, best):
            row += [f"{other.build:.2f}", str(Times(0.0, other.solve, other.finished)), ratio(other, mine)]
        rows.append(row)
    return rows


def ratio(other: Times, mine: Times) -> str:
    return f"{'' if other.finished else '> '}{other.total / mine.total:,.0f}"


COLUMNS = [
    *("graph", "neurons", "request", "build", "solve", "ours"),
    *("peer build", "peer solve", "ratio", "at best: build", "solve", "ratio"),
]


def write(rows: list[list[str]]) -> Path:
    """The table as a page of the docs."""
    text = HEADER.format(
        command="`python benchmarks/alignment.py`",
        date=datetime.date.today().isoformat(),
        cores=os.cpu_count(),
        cpu=processor(),
        python=platform.python_version(),
        limit=LIMIT,
        revision=revision(),
        **{name: version(name) for name in ("highspy", "cvxpy", "numpy")},
    )
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * 3 + "---:|" * (len(COLUMNS) - 3)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    path = ROOT / "docs" / "benchmarks" / "alignment.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text + "\n".join(lines) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphs", nargs="*", metavar="GRAPH", help=", ".join(GRAPHS))
    parser.add_argument("--quick", action="store_true", help="a small network, once; nothing is written")
    asked = parser.parse_args()
    networks = SMALL if asked.quick else {name: GRAPHS[name] for name in asked.graphs or GRAPHS}
    console, rows = Console(width=150), []
    for name, network in networks.items():
        console.print(f"measuring {name} ...")
        rows += measure(name, network, runs=1 if asked.quick else 5)
    table = Table(*COLUMNS, title="CPU seconds, and how many times longer the peer takes")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if networks.keys() == GRAPHS.keys():
        console.print(f"written to {write(rows)}")


if __name__ == "__main__":
    main()
