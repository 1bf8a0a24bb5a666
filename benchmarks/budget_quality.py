"""Accuracy of the digits network at a budget of parameters, without any training after the cut.

    python benchmarks/budget_quality.py [--quick] [--seeds 5] [--networks FOLDER]
        [--write docs/benchmarks/budget_quality.md]

The network is that of examples/digits.py, trained for 30 epochs. The inputs that compensation uses are the 1,257
training images, without labels; accuracy is measured on the 540 others. ``--networks`` keeps the trained networks in a
folder, and takes them from there where they are. ``--quick``: one seed, two epochs, one budget, 128 images to fit to,
one step of `nas.compress` and hardly any training at its end, to see that the script works.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import pickle
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from machine import revision
from rich.progress import track

import naivenas_jax as nas

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))
import digits  # noqa: E402

EPOCHS = 30
BUDGETS = (0.25, 0.145, 0.066)
GOALS = {0.25: 0.994, 0.145: 0.985, 0.066: 0.95}
BATCH = 419  # 1,257 = 3 * 419
WIDTHS = ("stem", "inner", "fine", "squeeze", "coarse", "hidden")
#: Torch-Pruning, measured once in another run, mean of five seeds; shown where it is not installed.
PEER = {"group L2": {0.25: 0.136}, "group L2, statistics re-estimated": {0.25: 0.46}}
PEER_ONCE = """The rows of Torch-Pruning are figures
that were measured once, in another run; its best criterion reached 0.22 at 31 % of the parameters, and
two epochs of training 0.978 at 25 %."""
PEER_HERE = """Torch-Pruning pruned the
same trained networks, rebuilt in torch, in this run: the largest network within the budget that one of its ratios
gives (`benchmarks/peers/peer_torch_pruning.py`). Its statistics were re-estimated on the same 1,257 images."""


def trained(seed: int, data: digits.Data, folder: Path | None, epochs: int = EPOCHS) -> Any:
    """The variables of a trained network."""
    kept = folder / f"long{seed}.pkl" if folder else None
    if kept and kept.exists():
        return pickle.loads(kept.read_bytes())
    digits.FIRST_EPOCHS = epochs
    graph = digits.build()
    variables = graph.init(jax.random.key(seed), data.train_images[:1])
    tx = digits.optimizer(data.batches_per_epoch, changes=0)
    network = digits.Network(graph, variables, tx.init(variables["params"]))
    network = digits.train(network, data, epochs, tx, np.random.default_rng(seed), lambda: None)
    variables = jax.tree.map(np.asarray, network.variables)
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(pickle.dumps(variables))
    return variables


def uniform(graph: nas.Graph, variables: Any, budget: float) -> nas.Mutation:
    """The widest network, all layers narrower by the same factor, within the budget; neurons by group L2."""
    most = int(budget * nas.costs(graph, variables).params)
    utility = nas.magnitude(graph, variables, norm="l2", group=True)
    for factor in np.arange(1.0, 0.0, -0.005):
        widths = {name: nas.to(max(1, round(graph.nout(name) * factor))) for name in WIDTHS}
        mutation = nas.delta_nout(graph, variables, widths, utility=utility)
        if nas.costs(*mutation).params <= most:
            return mutation
    raise ValueError(f"no width fits {budget}")


def measure(
    seed: int, data: digits.Data, variables: Any, budgets: Sequence[float] = BUDGETS, **settings: Any
) -> list[dict[str, Any]]:
    """A row per method and budget. ``settings`` are keywords of `nas.compress`."""
    graph = digits.build()
    batches = [data.train_images[i : i + BATCH] for i in range(0, len(data.train_images), BATCH)]
    rows = []

    def row(method: str, budget: float, graph: nas.Graph, variables: Any, started: float) -> None:
        accuracy = digits.accuracy(digits.Network(graph, variables, None), data)
        params = nas.costs(graph, variables).params
        spent = time.process_time() - started
        found = {"method": method, "budget": budget, "seed": seed, "params": params, "accuracy": accuracy, "cpu": spent}
        print(json.dumps(found), flush=True)
        rows.append(found)

    row("original", 1.0, graph, variables, time.process_time())
    for budget in reversed(budgets):
        cut, started = uniform(graph, variables, budget), time.process_time()
        row("magnitude, uniform widths", budget, *cut, started)
        row("the same, recalibrated", budget, cut.graph, nas.recalibrate(*cut, batches), started)
        started = time.process_time()
        row("the same, compensated", budget, *nas.compensate(cut, batches), started)
        started = time.process_time()
        row("nas.compress", budget, *nas.compress(graph, variables, batches, max_params=budget, **settings), started)
    return rows


def of_peer(seed: int, variables: Any, data: digits.Data) -> list[dict[str, Any]]:
    """Torch-Pruning on the same network, where it and torch are installed; else nothing."""
    if importlib.util.find_spec("torch_pruning") is None:
        return []
    sys.path.insert(0, str(ROOT / "benchmarks" / "peers"))
    import peer_torch_pruning  # nothing else here may need torch

    found = peer_torch_pruning.rows(seed, variables, data, BUDGETS)
    print(*map(json.dumps, found), sep="\n", flush=True)
    return found


def peer_measured(rows: list[dict[str, Any]]) -> bool:
    return any(row["method"].startswith("Torch-Pruning") for row in rows)


def table(rows: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = ["| method | " + " | ".join(f"{b:.1%} of the parameters" for b in BUDGETS) + " |", "|---|" + "---|" * 3]
    for method in dict.fromkeys(r["method"] for r in rows if r["method"] != "original"):
        cells = []
        for budget in BUDGETS:
            own = [r["accuracy"] for r in rows if r["method"] == method and r["budget"] == budget]
            cells.append(f"{np.mean(own):.4f} ({min(own):.4f} to {max(own):.4f})" if own else "")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    for method, found in {} if peer_measured(rows) else PEER.items():
        cells = [f"{found[b]}" if b in found else "" for b in BUDGETS]
        lines.append(f"| Torch-Pruning, {method} (measured once, not in this run) | " + " | ".join(cells) + " |")
    lines.append("| to reach | " + " | ".join(str(GOALS[b]) for b in BUDGETS) + " |")
    return "\n".join(lines)


def report(rows: list[dict[str, Any]], command: str) -> str:
    """The page of the docs."""
    original = [r for r in rows if r["method"] == "original"]
    spent = [r["cpu"] for r in rows if r["method"] == "nas.compress"]
    peer = PEER_HERE if peer_measured(rows) else PEER_ONCE
    ours = [r for r in rows if r["method"] == "nas.compress"]
    lacking = {b: GOALS[b] - np.mean([r["accuracy"] for r in ours if r["budget"] == b]) for b in BUDGETS}
    missed = [f"{GOALS[b]} at {b:.1%} by {found:.4f}" for b, found in lacking.items() if found > 0]
    short = f"\n`nas.compress` falls short of {' and '.join(missed)}; one image is {1 / 540:.4f}.\n" if missed else ""
    incomplete = "" if len(spent) == len(original) * len(BUDGETS) else "\n\n**Incomplete**: some rows are missing."
    return f"""# Accuracy at a budget

The digits network of `examples/digits.py`, {original[0]["params"]:,} parameters, {EPOCHS} epochs of training,
seeds: {len(original)}. Accuracy on 540 held-out images: mean, and smallest to largest. Of the original:
{np.mean([r["accuracy"] for r in original]):.4f}. Nothing is trained after the cut. `nas.recalibrate`, `nas.compensate`
and `nas.compress` get the 1,257 training images without labels.{incomplete}

{table(rows)}
{short}
`nas.compress` took {np.mean(spent):.0f} seconds of CPU time on average. {peer}

Command: `{command}`, at {revision()}, on {platform.machine()}, jax {jax.__version__} on
{jax.devices()[0].device_kind}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, two epochs, one budget; nothing is written")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--networks", type=Path)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--only-peer", action="store_true", help="Torch-Pruning alone, where it is installed")
    parser.add_argument("--rows", type=Path, help="print what an earlier run has written, and measure nothing")
    args = parser.parse_args()
    data = digits.Data.load()
    if args.quick:
        few = dataclasses.replace(data, train_images=data.train_images[:128], train_labels=data.train_labels[:128])
        print(table(measure(0, few, trained(0, data, None, epochs=2), BUDGETS[:1], steps=1, refine=2)))
        return
    rows = []
    if args.rows:
        rows = [json.loads(line) for line in args.rows.read_text().splitlines() if line.startswith("{")]
        args.seeds = 0
    for seed in track(range(args.seeds), description="seeds", transient=True, disable=not sys.stdout.isatty()):
        variables = trained(seed, data, args.networks)
        rows += [] if args.only_peer else measure(seed, data, variables)
        rows += of_peer(seed, variables, data)
    print(table(rows))
    if args.write:
        seeds = len({row["seed"] for row in rows})
        args.write.write_text(report(rows, f"python benchmarks/budget_quality.py --seeds {seeds} --write ..."))


if __name__ == "__main__":
    main()
