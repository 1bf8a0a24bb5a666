"""Budgets where many layers are alike, which is where neurons are hard to tell apart: how near to the best, how long.

    python benchmarks/budgets_alike.py [--quick] [--write docs/benchmarks/budgets_alike.md]

``--quick``: a chain of few layers, to see that the script works.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from graphs import densenet121
from machine import measured_with

import naivenas_jax as nas

HEAD = """# Budgets where layers are alike

    python benchmarks/budgets_alike.py --write docs/benchmarks/budgets_alike.md

{date}, on {machine}; Python {python}, naivenas_jax at {revision}. One run each.

Scores of neurons are drawn alike in all layers, so that there are very many cuts of nearly the same utility. *Gap*: how
much more utility the best sizes could keep at the most. *CPU*: seconds of the process for `nas.resize`, all of it.
*Before*: as measured by a user in November 2026, in another run; the recurrent network is of the kind that was measured
then, not the same one.

| network | budget | before: CPU, s | before: gap, % | CPU, s | gap, % | goal, s |
|---|---|---:|---:|---:|---:|---:|
"""


class Case(NamedTuple):
    """A network, its budget and scores, and what was measured before."""

    name: str
    make: Callable[[], tuple[nas.Graph, Any, Mapping[str, np.ndarray] | None]]
    share: float
    before: str
    gap_before: str
    goal: str


def chain(layers: int, width: int) -> tuple[nas.Graph, Any, Mapping[str, np.ndarray]]:
    """Dense layers of one width, on shapes; uniform scores."""
    vertex = x = nas.input_vertex("x", width)
    for number in range(layers):
        vertex = nas.layer(f"dense{number}", nn.Dense(width), vertex)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(10), vertex))
    shapes = jax.eval_shape(graph.init, jax.random.key(0), jax.ShapeDtypeStruct((1, width), jnp.float32))
    draws = np.random.default_rng(0)
    return graph, shapes, {f"dense{number}": draws.uniform(size=width) for number in range(layers)}


def densenet() -> tuple[nas.Graph, Any, None]:
    """All weights normal, those of all layers alike."""
    graph = densenet121()
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    shapes = jax.eval_shape(graph.init, jax.random.key(0), image)
    draws = np.random.default_rng(0)
    return graph, jax.tree.map(lambda s: draws.standard_normal(s.shape, dtype=np.float32), shapes), None


class Pitch(nn.Module):
    """Six convolutions over a waveform, and a dense layer, as in CREPE's smallest model (Kim et al., 2018)."""

    @nn.compact
    def __call__(self, x):
        for number, (width, window) in enumerate(((128, 512), (16, 64), (16, 64), (16, 64), (32, 64), (64, 64))):
            x = nn.Conv(width, (window,), strides=4 if number == 0 else 1, name=f"conv{number}")(x)
            x = nn.max_pool(nn.BatchNorm(use_running_average=True)(nn.relu(x)), (2,), (2,))
        return nn.Dense(360, name="classifier")(x.reshape(x.shape[0], -1))


class Voice(nn.Module):
    """Convolutions, a recurrent layer over what they make, and a decision."""

    @nn.compact
    def __call__(self, x):
        for number, width in enumerate((128, 64, 64, 128)):
            x = nn.relu(nn.Conv(width, (3,), strides=2, name=f"conv{number}")(x))
        x = nn.RNN(nn.OptimizedLSTMCell(128), name="lstm")(x)
        return nn.Dense(1, name="decision")(nn.relu(x))


def imported(model: nn.Module, shape: tuple[int, ...]) -> tuple[nas.Graph, Any, None]:
    x = jnp.zeros(shape)
    return *nas.from_linen(model, model.init(jax.random.key(0), x), x), None


CASES = (
    Case("DenseNet-121, weights normal", densenet, 0.5, "5.8", "0.18", "1"),
    Case("100 dense layers of 10,000 neurons", lambda: chain(100, 10_000), 0.5, "69", "2.5", "5"),
    Case("400 dense layers of 4 neurons", lambda: chain(400, 4), 0.5, "63", "", "3"),
    Case("1,500 dense layers of 4 neurons", lambda: chain(1500, 4), 0.5, "more than 120", "", "15"),
    Case("six convolutions, imported", lambda: imported(Pitch(), (1, 1024, 1)), 0.25, "20 to 32", "", "1"),
    Case("convolutions and an LSTM, imported", lambda: imported(Voice(), (1, 64, 129)), 0.25, "more than 170", "", "1"),
)
QUICK = (Case("10 dense layers of 4 neurons", lambda: chain(10, 4), 0.5, "", "", ""),)


def rows(cases: tuple[Case, ...]) -> Iterator[str]:
    for case in cases:
        graph, variables, utility = case.make()
        full = nas.costs(graph, variables).params
        started = time.process_time()
        found = nas.resize(graph, variables, max_params=case.share, utility=utility)
        seconds = time.process_time() - started
        if (used := nas.costs(*found).params) > case.share * full:
            raise ValueError(f"{case.name}: {used} of {case.share} * {full}.")
        cells = [case.name, f"{case.share:.0%} of {full:,} parameters", case.before, case.gap_before]
        yield "| " + " | ".join([*cells, f"{seconds:.2f}", f"{100 * found.gap:.4f}", case.goal]) + " |"


def head() -> str:
    return HEAD.format(
        **measured_with(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short chain; nothing is written")
    parser.add_argument("--write", type=Path)
    asked = parser.parse_args()
    found = []
    for row in rows(QUICK if asked.quick else CASES):
        found.append(row)
        print(row, flush=True)
    if asked.write and not asked.quick:
        asked.write.write_text(head() + "\n".join(found) + "\n")


if __name__ == "__main__":
    main()
