"""Run the zoo and write docs/benchmarks/zoo.md: ``python tests/zoo/table.py [--minutes 20]``.

Models are run one after the other, cheap ones first. None is begun after so many minutes; the page names the rest.
``python tests/zoo/table.py --only flaim/`` prints the rows of a part and writes nothing.
"""

from __future__ import annotations

import os

# Compiling is most of the work here, and what it compiles runs once.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import argparse
import json
import platform
import time
import warnings
from collections import Counter
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from exercise import MOST, Row, exercise
from models import ZOO
from revision import revision
from shares import Shares, compared, percent

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks" / "zoo.md"
#: What ``shares.py`` found with an older state of the library, and with a present one.
SHARES = [PAGE.with_name(f"zoo_shares_{state}.json") for state in ("before", "after")]
ROWS = Path(__file__).with_name("rows.json")
HEAD = """# Models that other people wrote

Each model is imported with random weights in a small size. Its *axes* are handles without a neuron in common; each is
shrunk once and grown once, by a random amount (seeded by its name); of many axes a few are picked at random ("tried").

- A shrink or growth counts if it was made. That the new network runs, with finite outputs of the old shapes, is checked
  each time; that its gradient is finite and not zero, for one shrink and one growth of each model.
- *Compared*: of both, how many the dead-neuron oracle (`Mutation.check`) found equal to the original with the dropped
  neurons forced to zero; a growth: to the original. The others are legal changes of coupled neurons, counted below.
- *Own model*: how many of the compared shrinks also agree with the user's own model, run by itself. Which entries of
  its arrays went is read off the values; those that read the dropped neurons are set to what makes them no weight (0,
  or very negative before an exponential or softplus), and all others that went are changed at random, which must not
  change what the user's model returns: the neurons are dead there.
- *Felt*: how many of the compared shrinks changed the outputs at all.
- *Rebuilt*: whether `rebuild` gave the user's own class with the sizes of the first shrink.
- *Resizable*: the share of its parameters on an axis that can change.
- *At*: the state of the library that the row was measured with. At e86533f it was six shrinks and three growths of
  random handles, and the user's own model had zeros in the weights that read, as the library says.
- A primitive that the table of rules does not know is an error.

    python tests/zoo/table.py

{date}, on {machine}; naivenas_jax at {found}; {versions}.

{count} models of {wanted}, from {packages} packages: {kinds}. {changes} changes were made, of which {compared} were
compared.

{columns}
{rule}
"""
LEFT_OUT = """
## Not run

{not_run}

Not in the zoo at all, although they were tried:

- jax-image-models CLIP asks the type of its input for a mesh, and imports trace at shape and dtype alone.
- jax-models ConvNeXt calls `.item()` on an array, so JAX cannot trace it.
- jaxgarden and hyperbolix need Python 3.12, gensbi a JAX below 0.10, nnx-lm Flax 0.10.4; the package of jax-bonsai on
  the registry is empty.
- recurrentgemma imports `for_loop`, which JAX no longer has, and asks for absl-py below 2; fttjax imports a package
  that it does not bring; sbijax needs `jax.tree_map`; jvt `jax.numpy.DeviceArray`; jimmy-vision `flax.nnx.nnx`;
  vit-flax `flax.nn`; pet-jax a package that the registry lacks; dopamine-rl OpenAI's baselines with TensorFlow;
  lrnnx does not build. canvit-nnx, heal-swin-nnx, sparxml and zlynx have no release for Python 3.11.

Every Flax class of the package transformers is in [transformers.md](transformers.md).
"""
COLUMNS = ("package", "model", "as", "handles", "axes", "tried", "resizable", "froze the rest", "shrinks", "growths")
COLUMNS += ("compared", "own model", "felt", "rebuilt", "import, CPU s", "at")


def line(row: Row) -> str:
    package, model = row.name.split("/", 1)
    froze = "; ".join(list(row.shares.frozen)[:2]).replace("|", "/")
    cells = [package, model, row.kind, row.handles, row.axes or "", row.tried, percent(row.shares.free), froze]
    cells += [row.shrinks, row.growths, row.compared, row.own, row.felt, row.rebuilt, f"{row.seconds:.2f}", row.at]
    return "| " + " | ".join(map(str, cells)) + " |"


def text(rows: list[Row], **about: Any) -> str:
    packages = list(dict.fromkeys(row.name.split("/")[0] for row in rows))
    kinds = Counter(row.kind for row in rows)
    head = HEAD.format(
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
    why_not_own = sum((row.why_not_own for row in rows), Counter[str]())
    problems = [f"- {row.name}: {problem}" for row in rows for problem in row.problems]
    missing = [name for name in ZOO if name not in {row.name for row in rows}]
    not_run = f"For want of time: {', '.join(missing)}." if missing else "All models were run."
    return "\n".join(
        [
            head + "\n".join(map(line, rows)),
            "\n## Not compared\n",
            *(f"- {count} times: the axis {reason}" for reason, count in why.most_common()),
            "\nWith the user's own model:\n",
            *([f"- {count} times: {reason}" for reason, count in why_not_own.most_common()] or ["Nothing."]),
            "\n## What can change, before and after\n",
            *(compared(*(json.loads(path.read_text()) for path in SHARES)) if all(p.exists() for p in SHARES) else ()),
            "\n## What fails\n",
            *(problems or ["Nothing."]),
            LEFT_OUT.format(not_run=not_run).rstrip("\n"),
            "",
        ]
    )


def stored() -> dict[str, Row]:
    """The rows that were measured so far, by name."""
    found = json.loads(ROWS.read_text()) if ROWS.exists() else {}
    return {name: as_row(fields) for name, fields in found.items()}


def keep(row: Row) -> None:
    """Store a row beside the others, in the order of the zoo."""
    rows = {**stored(), row.name: row}
    ordered = {name: vars(rows[name]) for name in ZOO if name in rows}
    ROWS.write_text(json.dumps(ordered, indent=1) + "\n")


def as_row(fields: dict[str, Any]) -> Row:
    counters = {key: Counter(fields[key]) for key in ("why", "why_not_own")}
    return Row(**{**fields, **counters, "shares": Shares(*fields["shares"])})


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the zoo and write docs/benchmarks/zoo.md.")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no model after this time")
    parser.add_argument("--only", nargs="*", default=[""], help="parts of names; the other rows are those of last time")
    parser.add_argument("--new", action="store_true", help="only models that have no row yet")
    parser.add_argument("--most", type=int, default=MOST, help="so many axes of each model")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # these packages were written for older versions of JAX and Flax
    start = time.monotonic()
    for name in (name for name in ZOO if any(part in name for part in options.only)):
        if time.monotonic() - start > 60 * options.minutes or (options.new and name in stored()):
            continue
        row = replace(exercise(name, options.most), at=revision())
        print(line(row), *row.problems, sep="\n    ", flush=True)
        keep(row)
    rows = stored()
    PAGE.write_text(text([rows[name] for name in ZOO if name in rows], found=revision()))


if __name__ == "__main__":
    main()
