"""What `nas.compensate` and `nas.compress` cost: CPU seconds and memory, each in a process of its own.

The networks have random weights and random inputs: what matters is their shape. The pitch tracker has the shape of
CREPE's smallest (Kim et al. 2018): six convolutions over 1,024 samples, 486,552 parameters, half of which go.

python benchmarks/fitting.py [--quick] [--only NAME] [--write FILE]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import graphs
import jax
import jax.numpy as jnp
from machine import machine

import naivenas_jax as nas

HEAD = (
    "| network | what | CPU seconds | before that, to import and make it | MB at the most |\n|---|---|---:|---:|---:|"
)


class PitchTracker(nn.Module):
    """Six convolutions, each with a normalisation and a pool behind it."""

    sizes: tuple[int, ...] = (128, 16, 16, 16, 32, 64)

    @nn.compact
    def __call__(self, x):
        """Logits of 360 pitches from 1,024 samples."""
        x = x[..., None]
        for i, size in enumerate(self.sizes):
            first = i == 0
            x = nn.Conv(size, (512 if first else 64,), strides=4 if first else 1, name=f"conv{i}")(x)
            x = nn.BatchNorm(use_running_average=True, name=f"norm{i}")(nn.relu(x))
            x = nn.max_pool(x, (2,), strides=(2,))
        return nn.Dense(360, name="out")(x.reshape(x.shape[0], -1))


def imported(model: nn.Module, x: jax.Array):
    """The graph and variables of a linen model."""
    return nas.from_linen(model, model.init(jax.random.key(0), x), x)


def pitch(frames: int = 2550):
    """The pitch tracker, on frames of noise that is smooth in time."""
    noise = jax.random.normal(jax.random.key(1), (frames, 1024))
    data = jnp.cumsum(noise, 1) - jnp.cumsum(noise, 1).mean(1, keepdims=True)
    return *imported(PitchTracker(), data[:1]), list(jnp.array_split(data / data.std(1, keepdims=True), 10))


def resnet(examples: int = 32, size: int = 64):
    """ResNet-50 at 64 x 64."""
    graph, data = graphs.resnet50(), jax.random.normal(jax.random.key(1), (examples, size, size, 3))
    return graph, graph.init(jax.random.key(0), data[:1]), list(jnp.array_split(data, 2))


def dense(examples: int = 2000):
    """A small multi-layer perceptron: most of its time is compiling."""
    graph = graphs.mlp(layers=3, width=128)
    data = jax.random.normal(jax.random.key(1), (examples, 784))
    return graph, graph.init(jax.random.key(0), data[:1]), list(jnp.array_split(data, 4))


def small():
    """The small multi-layer perceptron with little data."""
    return dense(64)


NETWORKS: dict[str, Callable] = {"pitch tracker": pitch, "ResNet-50": resnet, "MLP": dense}
SHORT: dict[str, Callable] = {"small MLP": small}
WHAT = {
    "compensate": lambda graph, variables, batches: nas.compensate(
        nas.resize(graph, variables, max_params=0.5), batches
    ),
    "compress": lambda graph, variables, batches: nas.compress(graph, variables, batches, max_params=0.5),
}


def measure(network: str, what: str) -> dict[str, float]:
    """CPU seconds and memory of one call, in this process."""
    given = {**NETWORKS, **SHORT}[network]()
    jax.block_until_ready(given[2])
    start = time.process_time()
    WHAT[what](*given)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": time.process_time() - start, "before": start, "peak": peak}


def row(network: str, what: str) -> str:
    """The measurement in a process of its own, as a row of the table."""
    command = [sys.executable, __file__, "--one", network, what]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    return f"| {network} | {what} | {found['seconds']:.1f} | {found['before']:.1f} | {found['peak']:.0f} |"


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small network, to see that this runs")
    parser.add_argument("--only", help="one network")
    parser.add_argument("--write", type=Path, help="a file for the table")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one)))
        return
    names = SHORT if options.quick else NETWORKS
    rows = [row(name, what) for name in names if options.only in (None, name) for what in WHAT]
    table = "\n".join([HEAD, *rows])
    print(table)
    if options.write:
        options.write.write_text(f"{machine()}\n\n{table}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
