"""Run the zoo and write docs/benchmarks/zoo.md: ``python tests/zoo/table.py [part of a name]``."""

from __future__ import annotations

import os

# Compiling is most of the work here, and what it compiles runs once.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import platform
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path

from exercise import GROWTHS, SHRINKS, Row, exercise
from models import ZOO

HEAD = """# Models that other people wrote

Each model is imported with random weights in a small size, shrunk {shrinks} times and grown {growths} times, at handles
that are chosen at random (seeded by its name). They have no neuron in common; where a model has fewer ("tried"),
each more often.

- A shrink or growth counts if it was made. That the new network runs, with finite outputs of the old shapes, is checked
  each time; that its gradient is finite and not zero, for one shrink and one growth of each model.
- *Compared*: of both, how many the dead-neuron oracle (`Mutation.check`) found equal to the original with the dropped
  neurons forced to zero; a growth: to the original. The others are legal changes of coupled neurons, counted below.
- *Own model*: how many of the compared shrinks also agree with the user's own model, run by itself with zeros in the
  weights that read the dropped neurons.
- *Felt*: how many of the compared shrinks changed the outputs at all.
- A primitive that the table of rules does not know is an error.

    {command}

{machine}; {versions}.

{count} models from {packages} packages: {kinds}.

{columns}
{rule}
"""
COLUMNS = ("package", "model", "as", "handles", "tried", "resizable", "froze the rest", "shrinks", "growths")
COLUMNS += ("compared", "own model", "felt", "import, CPU s")


def line(row: Row) -> str:
    package, model = row.name.split("/", 1)
    cells = [package, model, row.kind, row.handles, row.tried, f"{row.share:.0%}", row.froze.replace("|", "/")]
    cells += [f"{row.shrinks} of {SHRINKS}", f"{row.growths} of {GROWTHS}"]
    cells += [row.compared, row.own, row.felt, f"{row.seconds:.2f}"]
    return "| " + " | ".join(map(str, cells)) + " |"


def text(rows: list[Row]) -> str:
    packages = list(dict.fromkeys(row.name.split("/")[0] for row in rows))
    kinds = Counter(row.kind for row in rows)
    head = HEAD.format(
        shrinks=SHRINKS,
        growths=GROWTHS,
        command="python tests/zoo/table.py",
        machine=f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        versions=", ".join(f"{package} {metadata.version(package)}" for package in ("jax", "flax", *packages)),
        columns="| " + " | ".join(COLUMNS) + " |",
        rule="|---" * len(COLUMNS) + "|",
        count=len(rows),
        packages=len(packages),
        kinds=", ".join(f"{count} as {kind}" for kind, count in kinds.most_common()),
    )
    why = sum((row.why for row in rows), Counter[str]())
    problems = [f"- {row.name}: {problem}" for row in rows for problem in row.problems]
    return "\n".join(
        [
            head + "\n".join(map(line, rows)),
            "\n## Not compared\n",
            *(f"- {count} times: the axis {reason}" for reason, count in why.most_common()),
            "\n## What fails\n",
            *(problems or ["Nothing."]),
            "",
        ]
    )


def main(wanted: str = "") -> None:
    rows = []
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as workers:
        for row in workers.map(exercise, [name for name in ZOO if wanted in name]):
            rows.append(row)
            print(line(row), *row.problems, sep="\n    ", flush=True)
    if not wanted:
        path = Path(__file__).parents[2] / "docs" / "benchmarks" / "zoo.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
