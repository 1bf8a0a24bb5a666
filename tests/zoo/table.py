"""Run the zoo and write docs/benchmarks/zoo.md: ``python tests/zoo/table.py [--minutes 20]``.

Models are run one after the other, cheap ones first. None is begun after so many minutes; the page names the rest.
``python tests/zoo/table.py --only flaim/`` runs a part; the other rows stay, as do rows of packages that are missing.
"""

from __future__ import annotations

import os

# Compiling is most of the work here, and what it compiles runs once.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import argparse
import json
import platform
import sys
import time
import warnings
from collections import Counter
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

sys.path.append(str(Path(__file__).parents[1]))  # what tests share
from exercise import CLOSE, REBUILD, Row, exercise
from models import ZOO
from revision import revision
from shares import Shares, compared, percent

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks" / "zoo.md"
#: What is known of models that do not come back.
NOT_REBUILT = """
Layers of KANs hold tables of centres and knots, made for the sizes that they had; in the graph these are cut, and no
number of the class says so. The local attention cuts queries, keys and values as three equal parts, of which two became
narrower. Graphs of both compute all the same."""
#: What ``shares.py`` found with an older state of the library.
BEFORE = PAGE.with_name("zoo_shares_before.json")
ROWS = Path(__file__).with_name("rows.json")
HEAD = """# Models that other people wrote

Each model is imported with random weights in a small size. Its *axes* are handles without a neuron in common, inputs
and outputs left out; each is shrunk once and grown once, by a random amount (seeded by its name).

- That the new network runs, with finite outputs of the old shapes, is checked each time; that its gradient is finite
  and not zero, for one shrink and one growth of each model.
- *Resizable*: the share of its parameters on an axis that can change.
- *Coupled*: how many axes no mask imitates: all neurons of a normalisation or softmax count, whatever they are.
- *Masked*: how many shrinks equal the original with the dropped neurons forced to zero, as the dead-neuron oracle of
  the library (`Mutation.check`) does it. Why the others were not is counted below.
- *Own module*: how many of these also agree with the user's own module, run by itself. Which entries of its arrays
  went is read off the values; those that read the dropped neurons are set to what makes them no weight (0, or very
  negative before an exponential or softplus), and all others that went are changed at random, which must not change
  what the user's module returns: the neurons are dead there.
- *Felt*: how many of the masked shrinks changed the outputs at all.
- *Growth*: how many growths were compared with the original, and compute the same.
- *Rebuilt*: whether `rebuild` gave the user's own class with the sizes of the first shrink, within {limit} seconds.
- *At*: the state of the library that the row was measured with.
- Networks are traced by JAX and evaluated in numpy, in double precision (`tests/numpy_evaluation.py`), so that nothing
  is compiled to run once. Differences above {close:g} of the largest output are errors.
- A primitive that the table of rules does not know is an error.

    nox -s zoo

{date}, on {machine}; naivenas_jax at {found}; {versions}.

{count} models of {wanted}, from {packages} packages: {kinds}. Of {axes} axes {tried} were tried. {coupled} are
coupled: a shrink is legal, and no mask imitates it. {masked} shrinks were compared with the masked original, {own} of
them with the user's own module; {kept} growths were compared with the original.

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
COLUMNS = ("package", "model", "as", "parameters", "resizable", "froze the rest", "axes", "tried", "coupled", "masked")
COLUMNS += ("own module", "felt", "growth", "rebuilt", "import, CPU s", "at")


def line(row: Row) -> str:
    package, model = row.name.split("/", 1)
    froze = "; ".join(list(row.shares.frozen)[:2]).replace("|", "/")
    cells = [package, model, row.kind, f"{row.shares.total:,}", percent(row.shares.free), froze, row.axes, row.tried]
    cells += [_coupled(row), row.masked, row.own, row.felt, row.kept, row.rebuilt, f"{row.seconds:.2f}", row.at]
    return "| " + " | ".join(map(str, cells)) + " |"


def _coupled(row: Row) -> int:
    """How many shrinks are legal changes that no mask can imitate."""
    return sum(count for reason, count in row.why.items() if reason.startswith("is coupled"))


def package_of(name: str) -> str:
    """The package of a model of the zoo, as the registry calls it."""
    return name.partition("/")[0]


def text(rows: list[Row], **about: Any) -> str:
    packages = {package_of(row.name): row.version for row in rows}
    ours = {name: metadata.version(name) for name in ("jax", "flax")}
    kinds = Counter(row.kind for row in rows)
    head = HEAD.format(
        date=time.strftime("%Y-%m-%d"),
        machine=f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}",
        versions=", ".join(f"{name} {version}" for name, version in {**ours, **packages}.items()),
        columns="| " + " | ".join(COLUMNS) + " |",
        rule="|---" * len(COLUMNS) + "|",
        count=len(rows),
        limit=REBUILD,
        close=CLOSE,
        wanted=len(ZOO),
        coupled=sum(map(_coupled, rows)),
        **{key: sum(getattr(row, key) for row in rows) for key in ("axes", "tried", "masked", "own", "kept")},
        **about,
        packages=len(packages),
        kinds=", ".join(f"{count} as {kind}" for kind, count in kinds.most_common()),
    )
    why = sum((row.why for row in rows), Counter[str]())
    why_not_own = sum((row.why_not_own for row in rows), Counter[str]())
    problems = [f"- {row.name}: {problem}" for row in rows for problem in row.problems]
    refused = "; ".join(row.name for row in rows if row.refused)
    missing = [name for name in ZOO if name not in {row.name for row in rows}]
    not_run = f"For want of time: {', '.join(missing)}." if missing else "All models were run."
    return "\n".join(
        [
            head + "\n".join(map(line, rows)),
            "\n## Not compared\n",
            *(f"- {count} times: the axis {reason}" for reason, count in why.most_common()),
            "\nWith the user's own model:\n",
            *([f"- {count} times: {reason}" for reason, count in why_not_own.most_common()] or ["Nothing."]),
            f"\nNot rebuilt, as no numbers of the class for the new sizes were found in time: {refused or 'none'}.",
            NOT_REBUILT,
            "\n## What can change, before and after\n",
            *compared(json.loads(BEFORE.read_text()), {"revision": about["found"], "models": _shares(rows)}),
            "\n## What fails\n",
            *(problems or ["Nothing."]),
            LEFT_OUT.format(not_run=not_run).rstrip("\n"),
            "",
        ]
    )


def _shares(rows: list[Row]) -> dict[str, Any]:
    """Those of the rows, as ``shares.py`` writes them."""
    return {row.name: row.shares._asdict() for row in rows if row.shares.total}


def stored() -> dict[str, Row]:
    """The rows that were measured so far, by name."""
    found = json.loads(ROWS.read_text()) if ROWS.exists() else {}
    return {name: as_row(fields) for name, fields in found.items()}


def keep(row: Row) -> None:
    """Store a row beside the others, in the order of the zoo."""
    rows = {**stored(), row.name: row}
    ordered = {
        n: {**vars(rows[n]), "shares": [rows[n].shares.total, dict(rows[n].shares.frozen)]} for n in ZOO if n in rows
    }
    ROWS.write_text(json.dumps(ordered, indent=1) + "\n")


def as_row(fields: dict[str, Any]) -> Row:
    counters = {key: Counter(fields[key]) for key in ("why", "why_not_own")}
    return Row(**{**fields, **counters, "shares": Shares(*fields["shares"])})


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the zoo and write docs/benchmarks/zoo.md.")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no model after this time")
    parser.add_argument("--only", nargs="*", default=[""], help="parts of names; the other rows are those of last time")
    parser.add_argument("--new", action="store_true", help="only models that have no row yet")
    parser.add_argument("--most", type=int, help="so many axes of each model, picked at random; all if not given")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # these packages were written for older versions of JAX and Flax
    start, failed = time.monotonic(), 0
    for name in (name for name in ZOO if any(part in name for part in options.only)):
        if time.monotonic() - start > 60 * options.minutes or (options.new and name in stored()):
            continue
        try:
            row = exercise(name, options.most)
        except ModuleNotFoundError as error:
            print(f"{name} is left out: {error}", flush=True)
            continue
        row = replace(row, at=revision(), version=metadata.version(package_of(name)))
        print(line(row), *row.problems, sep="\n    ", flush=True)
        failed += bool(row.problems)
        keep(row)
        jax.clear_caches()
    rows = stored()
    PAGE.write_text(text([rows[name] for name in ZOO if name in rows], found=revision()))
    return failed


if __name__ == "__main__":
    sys.exit(main())
