"""Time to import, and what the imported graph costs beside the model itself.

    python benchmarks/import_and_evaluate.py [--quick]

Writes docs/benchmarks/import.md. With the package flaim (in the extra ``zoo``) a MaxViT-small is imported
as well. ``--quick``: a small network, once, to see that the script works; nothing is written.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import naivenas_jax as nas

ROOT = Path(__file__).parents[1]
HEAD = """# Import and evaluation

    python benchmarks/import_and_evaluate.py

{date}, on {machine}; Python {python}, naivenas_jax at {revision}, {versions}.

All times are CPU seconds of the process, since other work ran on the machine.

## Import

*First*: the first import of that model, whose `init` alone has run before. *Again* and `jax.make_jaxpr`: the least of
{repeats}; the ratio is of these two. `nas.from_linen` traces the model twice itself, and compares.

| model | equations | first, s | again, s | `jax.make_jaxpr`, s | ratio |
|---|---:|---:|---:|---:|---:|
"""
RUN = """
## Evaluation

One input, compiled by XLA. The user's own model comes from `nas.rebuild`. *Program*: the same letter stands for the
same instructions with the same operands, one by one, but for names and order; times of these differ by chance alone.
The programs of a model take turns; *run* is the CPU time of all threads, the least of {runs} runs.

| model | what | GFLOPs | instructions | program | compile, s | run, ms |
|---|---|---:|---:|---|---:|---:|
"""
REPEATS, RUNS = 3, 30


class Bottleneck(nn.Module):
    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        norm = partial(nn.BatchNorm, use_running_average=True)
        y = nn.relu(norm()(nn.Conv(self.features, (1, 1), use_bias=False)(x)))
        y = nn.relu(norm()(nn.Conv(self.features, (3, 3), (self.stride,) * 2, use_bias=False)(y)))
        y = norm()(nn.Conv(4 * self.features, (1, 1), use_bias=False)(y))
        if x.shape != y.shape:
            x = norm()(nn.Conv(4 * self.features, (1, 1), (self.stride,) * 2, use_bias=False)(x))
        return nn.relu(x + y)


class ResNet50(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(64, (7, 7), (2, 2), use_bias=False)(x)))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for stage, depth in enumerate((3, 4, 6, 3)):
            for block in range(depth):
                x = Bottleneck(64 * 2**stage, 2 if stage and not block else 1)(x)
        return nn.Dense(1000)(x.mean((1, 2)))


class Transformer(nn.Module):
    """Deep and narrow: as many equations as a MaxViT-small."""

    layers: int = 40

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(self.layers):
            x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x))
            x = x + nn.Dense(64)(nn.gelu(nn.Dense(256)(nn.LayerNorm()(x))))
        return nn.Dense(10)(nn.LayerNorm()(x).mean(1))


def count(jaxpr: Any) -> int:
    """Equations, those inside calls included."""
    inner = [p for eqn in jaxpr.eqns for p in eqn.params.values() if hasattr(p, "jaxpr") or hasattr(p, "eqns")]
    return len(jaxpr.eqns) + sum(count(getattr(p, "jaxpr", p)) for p in inner)


def cpu(fn: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = fn()
    return time.process_time() - start, result


@dataclass(frozen=True)
class Program:
    """What XLA made of a function."""

    instructions: tuple[int, ...]
    flops: float
    compiling: float
    run: Callable[[], Any]


def compiled(fn: Callable[..., Any], *args: Any) -> Program:
    seconds, program = cpu(lambda: jax.jit(fn).lower(*args).compile())
    flops = program.cost_analysis()["flops"]
    return Program(instructions(program.as_text()), flops, seconds, lambda: jax.block_until_ready(program(*args)))


def instructions(text: str) -> tuple[int, ...]:
    """Those of a compiled program, in any order: each as what it computes from the arguments, whatever it is called."""
    named: dict[str, int] = {}
    found, computation = [], ""
    for line in re.sub(r", metadata=\{[^}]*\}", "", text).splitlines():
        if header := re.match(r"(?:ENTRY )?(%\S+) \(.*\{$", line):
            computation = header[1]
        elif instruction := re.match(r"\s+(ROOT )?(%\S+) = (.*)", line):
            root, name, definition = instruction.groups()
            meaning = hash(re.sub(r"%[\w.-]+", lambda m: str(named[m[0]]), definition))
            named[name] = meaning
            found.append(meaning)
            if root:  # a call of the computation is one of its result
                named[computation] = meaning
    return tuple(sorted(found))


def measure(name: str, model: nn.Module, x: jax.Array, handle: str, runs: int = RUNS) -> tuple[str, list[str]]:
    variables = jax.jit(model.init)(jax.random.key(0), x)
    head, graph, variables = imported(name, model, variables, x)
    mutation = nas.delta_nout(graph, variables, {handle: nas.relaxed(-(graph.handles()[handle].size // 3))})
    own = nas.rebuild(model, mutation)
    programs = {
        "the model": compiled(model.apply, variables, x),
        "the graph": compiled(graph.apply, variables, x),
        f"the graph, a third of {handle} removed": compiled(mutation.graph.apply, mutation.variables, x),
        "the user's own model, likewise": compiled(own.apply, mutation.variables, x),
    }
    turns = [[cpu(program.run)[0] for program in programs.values()] for _ in range(runs)]
    letters = dict(zip(dict.fromkeys(program.instructions for program in programs.values()), "ABCD", strict=False))
    return head, [
        f"| {name} | {what} | {program.flops / 1e9:.4f} | {len(program.instructions)} | "
        f"{letters[program.instructions]} | {program.compiling:.1f} | {1e3 * min(times):.1f} |"
        for (what, program), times in zip(programs.items(), zip(*turns, strict=True), strict=True)
    ]


def imported(name: str, model: nn.Module, variables: Any, x: Any, **kwargs: Any) -> tuple[str, Any, Any]:
    """The row of the first table; the graph and its variables. Arrays or their shapes will do."""

    def apply(variables: Any, x: Any) -> Any:
        return model.apply(variables, x, **kwargs)

    def trace() -> Any:
        return jax.make_jaxpr(lambda *args: apply(*args))(variables, x)  # a new function: JAX remembers the old ones

    def bring() -> Any:
        return nas.from_linen(model, variables, x, **kwargs)

    first, (graph, own) = cpu(bring)
    again = min(cpu(bring)[0] for _ in range(REPEATS))
    traced = min(cpu(trace)[0] for _ in range(REPEATS))
    row = f"| {name} | {count(trace().jaxpr)} | {first:.2f} | {again:.2f} | {traced:.2f} | {again / traced:.1f} |"
    return row, graph, own


def maxvit() -> list[str]:
    """A MaxViT-small at full size, by shapes alone: nothing is initialised."""
    if importlib.util.find_spec("flaim") is None:
        print("MaxViT-small is left out: the package flaim is not installed (pip install -e '.[zoo]').")
        return []
    jax.random.KeyArray = jax.Array  # an alias that flaim 0.0.5 still expects
    config = dict(importlib.import_module("flaim.models.factory").CONFIGS["maxvit_small_224"])
    config.pop("norm_stats", None)
    model, x = config.pop("model_cls")(**config, n_classes=1000), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)

    def init(key: jax.Array, x: jax.Array) -> Any:
        return model.init({"params": key, "dropout": key, "drop_path": key}, x, training=False)

    variables = jax.eval_shape(init, jax.random.key(0), x)
    return [imported("MaxViT-small of flaim, 224 x 224", model, variables, x, training=False)[0]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small network, once; nothing is written")
    if parser.parse_args().quick:
        row, rows = measure("Transformer, 1 layer", Transformer(layers=1), jnp.ones((1, 16, 64)), "Dense_1", runs=1)
        print(row, *rows, sep="\n")
        return
    found = revision()
    results = [
        measure("ResNet-50, 64 x 64", ResNet50(), jnp.ones((1, 64, 64, 3)), "Bottleneck_4/Conv_1"),
        measure("Transformer, 40 layers", Transformer(), jnp.ones((1, 16, 64)), "Dense_1"),
    ]
    more = maxvit()
    head = HEAD.format(
        date=time.strftime("%Y-%m-%d"),
        machine=f"{os.cpu_count()} cores ({platform.machine()}, {jax.default_backend()})",
        python=platform.python_version(),
        revision=found,
        versions=", ".join(f"{package} {metadata.version(package)}" for package in ("jax", "jaxlib", "flax")),
        repeats=REPEATS,
    )
    lines = [head + "\n".join([*(head for head, _ in results), *more]), RUN.format(runs=RUNS).rstrip("\n")]
    text = "\n".join([*lines, *(row for _, rows in results for row in rows)])
    (ROOT / "docs" / "benchmarks" / "import.md").write_text(text + "\n")
    print(text)


def revision() -> str:
    """Of the library; `-dirty` where uncommitted changes lie on top."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
