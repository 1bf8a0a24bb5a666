"""Time to import, and what the imported graph costs beside the model itself.

    python benchmarks/import_and_evaluate.py

Writes docs/benchmarks/import.md. With the package flaim (in the extra ``zoo``) a MaxViT-small is imported
as well.
"""

from __future__ import annotations

import importlib
import importlib.util
import platform
import re
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import naivenas_jax as nas


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


def compiled(fn: Callable[..., Any], *args: Any) -> list[str]:
    """GFLOPs, operations, CPU seconds to compile, milliseconds to run (the best of twenty)."""
    seconds, program = cpu(lambda: jax.jit(fn).lower(*args).compile())
    operations = len(re.findall(r"^\s+(?:ROOT )?%\S+ = ", program.as_text(), re.MULTILINE))
    best = min(_timed(program, args) for _ in range(20))
    return [f"{program.cost_analysis()['flops'] / 1e9:.4f}", str(operations), f"{seconds:.1f}", f"{1e3 * best:.1f}"]


def _timed(program: Any, args: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready(program(*args))
    return time.perf_counter() - start


def measure(name: str, model: nn.Module, x: jax.Array, handle: str) -> tuple[str, list[str]]:
    variables = jax.jit(model.init)(jax.random.key(0), x)
    model.apply(variables, x)
    head, graph, variables = imported(name, model, variables, x)
    mutation = nas.delta_nout(graph, variables, {handle: nas.relaxed(-(graph.handles()[handle].size // 3))})
    own = nas.rebuild(model, mutation)
    rows = [
        ["the model", *compiled(model.apply, variables, x)],
        ["the graph", *compiled(graph.apply, variables, x)],
        [f"the graph, a third of {handle} removed", *compiled(mutation.graph.apply, mutation.variables, x)],
        ["the user's own model, likewise", *compiled(own.apply, mutation.variables, x)],
    ]
    return head, [f"| {name} | " + " | ".join(row) + " |" for row in rows]


def imported(name: str, model: nn.Module, variables: Any, x: Any, **kwargs: Any) -> tuple[str, Any, Any]:
    """The row of the first table; the graph and its variables. Arrays or their shapes will do."""

    def apply(variables: Any, x: Any) -> Any:
        return model.apply(variables, x, **kwargs)

    traced, jaxpr = cpu(lambda: jax.make_jaxpr(apply)(variables, x))
    seconds, (graph, variables) = cpu(lambda: nas.from_linen(model, variables, x, **kwargs))
    return f"| {name} | {count(jaxpr.jaxpr)} | {traced:.2f} | {seconds:.2f} |", graph, variables


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
    jax.eval_shape(lambda v, x: model.apply(v, x, training=False), variables, x)
    return [imported("MaxViT-small of flaim, 224 x 224", model, variables, x, training=False)[0]]


def main() -> None:
    results = [
        measure("ResNet-50, 64 x 64", ResNet50(), jnp.ones((1, 64, 64, 3)), "Bottleneck_4/Conv_1"),
        measure("Transformer, 40 layers", Transformer(), jnp.ones((1, 16, 64)), "Dense_1"),
    ]
    more = maxvit()
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in ("jax", "jaxlib", "flax"))
    text = "\n".join(
        [
            "# Import and evaluation\n\n    python benchmarks/import_and_evaluate.py\n",
            f"{platform.machine()}, {jax.default_backend()}, Python {platform.python_version()}; {versions}.\n",
            "| model | equations | `jax.make_jaxpr`, CPU s | import, CPU s |\n|---|---|---|---|",
            *(head for head, _ in results),
            *more,
            "\nOne input, compiled by XLA; the best of twenty runs. The user's own model comes from `nas.rebuild`.\n",
            "| model | what | GFLOPs | operations | compile, CPU s | run, ms |\n|---|---|---|---|---|---|",
            *(row for _, rows in results for row in rows),
        ]
    )
    path = Path(__file__).parents[1] / "docs" / "benchmarks" / "import.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
