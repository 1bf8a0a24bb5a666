"""Run the zoo and write docs/benchmarks/zoo.md: ``python tests/zoo/table.py [part of a name]``."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from pathlib import Path

from exercise import GROWTHS, SHRINKS, Row, exercise
from models import ZOO

HEAD = """# Models that other people wrote

Each model is imported with random weights in a small size, shrunk {shrinks} times and grown {growths} times at handles
chosen at random (seeded by its name). A change is counted if the new network runs and has a finite gradient, and, where
the handle is not coupled ("compared"), if it computes what the user's own model does with zeros in the weights that
read the dropped neurons (a growth: what it did before).

    {command}

{machine}; {versions}.

| package | model | handles | resizable | froze the rest | shrinks | growths | compared | import, CPU s |
|---|---|---|---|---|---|---|---|---|
"""


def line(row: Row) -> str:
    package, model = row.name.split("/", 1)
    cells = [package, model, row.handles, f"{row.share:.0%}", row.froze.replace("|", "/")]
    cells += [f"{row.shrinks} of {SHRINKS}", f"{row.growths} of {GROWTHS}", row.compared, f"{row.seconds:.2f}"]
    return "| " + " | ".join(map(str, cells)) + " |"


def main(wanted: str = "") -> None:
    rows = []
    for name in ZOO:
        if wanted in name:
            rows.append(exercise(name))
            print(line(rows[-1]), *rows[-1].problems, sep="\n    ", flush=True)
    packages = ("jax", "flax", *dict.fromkeys(row.name.split("/")[0] for row in rows))
    text = HEAD.format(
        shrinks=SHRINKS,
        growths=GROWTHS,
        command="python tests/zoo/table.py",
        machine=f"{platform.machine()}, Python {platform.python_version()}",
        versions=", ".join(f"{package} {metadata.version(package)}" for package in packages),
    )
    text += "\n".join(map(line, rows)) + "\n"
    problems = [f"- {row.name}: {problem}" for row in rows for problem in row.problems]
    if problems:
        text += "\n## What fails\n\n" + "\n".join(problems) + "\n"
    if not wanted:
        path = Path(__file__).parents[2] / "docs" / "benchmarks" / "zoo.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
