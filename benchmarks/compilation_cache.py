"""JAX's persistent compilation cache: what a search saves that meets the same networks in another process.

    python benchmarks/compilation_cache.py [--quick] [--write docs/benchmarks/compilation_cache.md]

Fresh processes evaluate and train width mutants of the networks of `benchmarks/population.py`, one by one and as one
program: without the cache, with an empty folder, and with the folder that this has left.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from machine import measured_with
from population import BATCH, NETWORKS, TX, epoch, mutants, split, step, timed

import naivenas_jax as nas

HEAD = """# JAX's persistent compilation cache

    python benchmarks/compilation_cache.py --write docs/benchmarks/compilation_cache.md

{date}, on {machine}; Python {python}, naivenas_jax at {revision}, {versions}.

CPU seconds of a fresh process for a step of training of {members} width mutants, imports and making the mutants left
out: one by one, and as a population. *Programs*: all that are compiled for it, small ones included, and how many of
these are read from the cache. The folder is given by `JAX_COMPILATION_CACHE_DIR`, and
`JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0` has it keep programs too that compile in less than a second.

| network | how | without | empty folder | full folder | programs | read | folder, MB |
|---|---|---:|---:|---:|---:|---:|---:|
"""
TAIL = """
What is left with a full folder is tracing: JAX finds a program in the folder by the computation that it has traced. So
graphs with other names, or with functions that are made anew, find theirs in the folder as well, where the computation
is the same to the last equation and to the order of its arguments.
"""


def measure(name: str, how: str, members: int) -> None:
    """Print as JSON what a step of training takes in this process."""
    network = NETWORKS[name]()
    rng = np.random.default_rng(0)
    data = rng.random((BATCH, *network.shape), np.float32)
    batch = (data, rng.integers(0, 10, BATCH))
    changed = mutants(network, data, members)
    population = nas.Population.of(changed)

    def together() -> object:
        start = (*split(population.variables), population.init(TX))
        return jax.jit(epoch)(population, start, jax.tree.map(lambda array: array[None], batch))

    def apart() -> object:
        one_step = jax.jit(partial(step, update=TX.update))
        starts = [(graph, (*split(variables), TX.init(variables["params"]))) for graph, variables in changed]
        return [one_step(graph, start, batch) for graph, start in starts]

    with nas.count_programs() as programs:
        _, seconds = timed(together if how == "one program" else apart)
    print(json.dumps({"seconds": seconds, "programs": programs.count, "read": programs.read}))


def in_fresh_process(arguments: list[str], folder: str | None) -> dict:
    """What `measure` prints in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    if folder is not None:
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": folder,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    command = [sys.executable, __file__, "--measure", *arguments]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def row(name: str, how: str, members: int) -> str:
    """One row of the table."""
    arguments = [name, how, str(members)]
    with tempfile.TemporaryDirectory() as folder:
        without, empty, full = (in_fresh_process(arguments, each) for each in (None, folder, folder))
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1e6
    times = " | ".join(f"{each['seconds']:.1f}" for each in (without, empty, full))
    return f"| {name} | {how} | {times} | {full['programs']} | {full['read']} | {size:.1f} |\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--measure", nargs=3, metavar=("NETWORK", "HOW", "MEMBERS"))
    options = parser.parse_args()
    if options.measure:
        name, how, count = options.measure
        return measure(name, how, int(count))
    members, networks = (2, ["MLP"]) if options.quick else (4, list(NETWORKS))
    ways = ["one by one"] if options.quick else ["one by one", "one program"]
    text = HEAD.format(
        **measured_with("jax", "flax", "optax"),
        members=members,
    )
    print(text, end="")
    for name in networks:
        for how in ways:
            found = row(name, how, members)
            print(found, end="", flush=True)
            text += found
    print(TAIL)
    if options.write:
        options.write.write_text(text + TAIL, encoding="utf-8")
    return None


if __name__ == "__main__":
    main()
