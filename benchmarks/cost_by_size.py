"""How the cost of a change grows with the number of neurons, step by step: docs/benchmarks/cost_by_size.svg.

    python benchmarks/cost_by_size.py [--quick] [--write]

A chain of 100 dense layers, on shapes: a tenth of the neurons of one layer go (shrink), or all of negative utility
(prune). CPU seconds, the median of five runs. ``--write``: the plot, and docs/benchmarks/cost_by_size.md.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from graphs import chain
from machine import machine, revision

import naivenas_jax as nas
from naivenas_jax.align import align as aligning
from naivenas_jax.align.problem.reduction import Reduction
from naivenas_jax.mutate.edit import widths

DOCS = Path(__file__).resolve().parents[1] / "docs" / "benchmarks"
LAYERS, WIDTHS, RUNS = 100, (10, 30, 100, 300, 1000, 3000, 10_000), 5
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#000000")
#: What is timed inside of a change: the name of the step, what holds the function, and its name there.
STEPS = {
    "groups of neurons": (Reduction, "problems"),
    "solution": (aligning, "solve"),
    "positions": (aligning, "layout"),
    "new graph": (widths, "with_axes"),
    "new variables": (widths, "transfer"),
}


def timed(function: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    def run(*args: Any, **keywords: Any) -> Any:
        start = time.process_time()
        try:
            return function(*args, **keywords)
        finally:
            spent.append(time.process_time() - start)

    return run


def steps(change: Callable[[], object]) -> dict[str, float]:
    """Seconds of each step of one change, and of all of it."""
    spent: dict[str, list[float]] = {name: [] for name in (*STEPS, "all")}
    with ExitStack() as stack:
        for name, (owner, function) in STEPS.items():
            stack.enter_context(mock.patch.object(owner, function, timed(getattr(owner, function), spent[name])))
        timed(change, spent["all"])()
    return {name: sum(times) for name, times in spent.items()}


def measured(width: int, layers: int, runs: int) -> dict[str, dict[str, float]]:
    """Seconds by kind of change and step."""
    graph = chain(layers, width)
    shapes = jax.eval_shape(graph.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64), jnp.float32))
    draws = np.random.default_rng(0)
    utility = {f"dense{i}": draws.uniform(size=width) for i in range(layers)}
    signed = {name: scores - 0.3 for name, scores in utility.items()}
    kinds: Mapping[str, Callable[[], object]] = {
        "shrink": lambda: nas.delta_nout(graph, shapes, {"dense1": -(width // 10)}, utility=utility),
        "prune": lambda: nas.resize(graph, shapes, utility=signed),
    }
    found = {}
    for kind, change in kinds.items():
        change()
        each = [steps(change) for _ in range(runs)]
        found[kind] = {name: statistics.median(run[name] for run in each) for name in each[0]}
        found[kind]["ties, once"] = statistics.median(ties(graph) for _ in range(runs))
    return found


def ties(graph: nas.Graph) -> float:
    graph.__dict__.pop("ties", None)
    start = time.process_time()
    graph.ties  # noqa: B018
    return time.process_time() - start


def plot(neurons: list[int], series: Mapping[str, list[float]], title: str, left: float) -> list[str]:
    """One panel, both axes logarithmic."""
    width, height, top = 320.0, 260.0, 40.0
    low, high = -5.0, 0.0

    def at(count: float, seconds: float) -> tuple[float, float]:
        across = (np.log10(count) - 3) / 3 * width
        up = (min(max(np.log10(max(seconds, 1e-9)), low), high) - low) / (high - low) * height
        return left + across, top + height - up

    lines = [f'<text x="{left + width / 2:.0f}" y="24" text-anchor="middle" font-size="15">{title}</text>']
    for power in range(3, 7):
        x, bottom = at(10**power, 10**low)
        lines.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" stroke="#ddd"/>')
        lines.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">10^{power}</text>')
    for power in range(int(low), int(high) + 1):
        x, y = at(1e3, 10**power)
        lines.append(f'<line x1="{x}" y1="{y:.1f}" x2="{x + width}" y2="{y:.1f}" stroke="#ddd"/>')
        lines.append(f'<text x="{x - 6}" y="{y + 4:.1f}" text-anchor="end">10^{power} s</text>')
    for (name, seconds), colour in zip(series.items(), COLOURS, strict=True):
        points = " ".join("{:.1f},{:.1f}".format(*at(n, s)) for n, s in zip(neurons, seconds, strict=True))
        thick = 3 if name == "all" else 1.5
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{thick}"/>')
    return lines


def svg(neurons: list[int], found: list[dict[str, dict[str, float]]]) -> str:
    names = list(found[0]["shrink"])
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="940" height="350" font-family="sans-serif" font-size="12">'
    ]
    lines.append('<rect width="940" height="350" fill="white"/>')
    for i, kind in enumerate(found[0]):
        series = {name: [own[kind][name] for own in found] for name in names}
        lines += plot(neurons, series, f"{kind}: CPU time against neurons", 70 + 390.0 * i)
    for i, (name, colour) in enumerate(zip(names, COLOURS, strict=True)):
        lines.append(f'<text x="800" y="{60 + 20 * i}" fill="{colour}">{name}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def table(neurons: list[int], found: list[dict[str, dict[str, float]]]) -> list[str]:
    names = list(found[0]["shrink"])
    lines = ["| neurons | change | " + " | ".join(names) + " |", "|---:|---|" + "---:|" * len(names)]
    for count, own in zip(neurons, found, strict=True):
        for kind, times in own.items():
            lines.append(f"| {count:,} | {kind} | " + " | ".join(f"{1000 * times[n]:.3g}" for n in names) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few neurons, once; nothing is written")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    layers, sizes, runs = (5, (10, 20), 1) if asked.quick else (LAYERS, WIDTHS, RUNS)
    found = [measured(width, layers, runs) for width in sizes]
    neurons = [layers * width for width in sizes]
    print(*table(neurons, found), sep="\n")
    if asked.write and not asked.quick:
        (DOCS / "cost_by_size.svg").write_text(svg(neurons, found))
        head = (
            "# How the cost of a change grows\n\n    python benchmarks/cost_by_size.py --write\n\n"
            f"{datetime.date.today().isoformat()}, on {machine()}; Python {platform.python_version()}, naivenas_jax at "
            f"{revision()}.\n\nA chain of {LAYERS} dense layers, on shapes. Milliseconds of CPU time, the median of "
            f"{RUNS} runs. *All* is a whole verb, *ties* are found once for each graph.\n\n"
            "![CPU time against neurons, by step](cost_by_size.svg)\n\n"
        )
        (DOCS / "cost_by_size.md").write_text(head + "\n".join(table(neurons, found)) + "\n")


if __name__ == "__main__":
    main()
