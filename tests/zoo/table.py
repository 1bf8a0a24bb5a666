"""Run the zoo and write docs/benchmarks/zoo.md: ``python tests/zoo/table.py [--minutes 20]``.

Models are run one after the other, cheap ones first. None is begun after so many minutes; the page names the rest.
``python tests/zoo/table.py --only flaim/`` prints the rows of a part and writes nothing.
"""

from __future__ import annotations

import os

# Compiling is most of the work here, and what it compiles runs once.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import argparse
import platform
import time
import warnings
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

from exercise import GROWTHS, SHRINKS, Row, exercise
from models import ZOO
from revision import revision

ROOT = Path(__file__).parents[2]
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

{date}, on {machine}; naivenas_jax at {revision}; {versions}.

{count} models of {wanted}, from {packages} packages: {kinds}. {changes} changes were made, of which {compared} were
compared. It took {seconds:.0f} CPU seconds, compiling included; other work ran on the machine.

{columns}
{rule}
"""
LEFT_OUT = """
## Not run

{not_run}

Not in the zoo at all:

- jax-image-models CLIP asks the type of its input for a mesh, and imports trace at shape and dtype alone.
- jax-models ConvNeXt calls `.item()` on an array, so JAX cannot trace it.
- jaxgarden and hyperbolix need Python 3.12, gensbi a JAX below 0.10, nnx-lm Flax 0.10.4; the package of jax-bonsai on
  the registry is empty.

Every Flax class of the package transformers is in [transformers.md](transformers.md).
"""
COLUMNS = ("package", "model", "as", "handles", "tried", "resizable", "froze the rest", "shrinks", "growths")
COLUMNS += ("compared", "own model", "felt", "import, CPU s")


def line(row: Row) -> str:
    package, model = row.name.split("/", 1)
    cells = [package, model, row.kind, row.handles, row.tried, f"{row.share:.0%}", row.froze.replace("|", "/")]
    cells += [f"{row.shrinks} of {SHRINKS}", f"{row.growths} of {GROWTHS}"]
    cells += [row.compared, row.own, row.felt, f"{row.seconds:.2f}"]
    return "| " + " | ".join(map(str, cells)) + " |"


def text(rows: list[Row], **about: Any) -> str:
    packages = list(dict.fromkeys(row.name.split("/")[0] for row in rows))
    kinds = Counter(row.kind for row in rows)
    head = HEAD.format(
        shrinks=SHRINKS,
        growths=GROWTHS,
        date=time.strftime("%Y-%m-%d"),
        machine=f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}",
        versions=", ".join(f"{package} {metadata.version(package)}" for package in ("jax", "flax", *packages)),
        columns="| " + " | ".join(COLUMNS) + " |",
        rule="|---" * len(COLUMNS) + "|",
        count=len(rows),
        wanted=len(ZOO),
        changes=sum(row.shrinks + row.growths for row in rows),
        compared=sum(row.compared for row in rows),
        **about,
        packages=len(packages),
        kinds=", ".join(f"{count} as {kind}" for kind, count in kinds.most_common()),
    )
    why = sum((row.why for row in rows), Counter[str]())
    problems = [f"- {row.name}: {problem}" for row in rows for problem in row.problems]
    missing = [name for name in ZOO if name not in {row.name for row in rows}]
    not_run = f"For want of time: {', '.join(missing)}." if missing else "All models were run."
    return "\n".join(
        [
            head + "\n".join(map(line, rows)),
            "\n## Not compared\n",
            *(f"- {count} times: the axis {reason}" for reason, count in why.most_common()),
            "\n## What fails\n",
            *(problems or ["Nothing."]),
            LEFT_OUT.format(not_run=not_run).rstrip("\n"),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the zoo and write docs/benchmarks/zoo.md.")
    parser.add_argument("--minutes", type=float, help="begin no model after this time; all are run without it")
    parser.add_argument("--only", default="", help="a part of the names; print their rows and write nothing")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # these packages were written for older versions of JAX and Flax
    rows: list[Row] = []
    found = revision()
    start, minutes = time.monotonic(), float("inf") if options.minutes is None else options.minutes
    command = "python tests/zoo/table.py" + (f" --minutes {options.minutes:g}" if options.minutes else "")
    page = ROOT / "docs" / "benchmarks" / "zoo.md"
    for name in (name for name in ZOO if options.only in name):
        if time.monotonic() - start > 60 * minutes:
            break
        rows.append(exercise(name))
        print(line(rows[-1]), *rows[-1].problems, sep="\n    ", flush=True)
        if not options.only:
            page.write_text(text(rows, command=command, revision=found, seconds=time.process_time()))


if __name__ == "__main__":
    main()
