"""Budgets on four networks in their published sizes: kept, used, maximal, how near to the best, and how long it takes.

    python benchmarks/budgets.py [--quick] [--write docs/benchmarks/budgets.md] [NETWORK ...]

Weights are random, with magnitudes that vary between layers and between neurons; the utility is the default one.
``--quick``: one small network and one share, to see that the script works.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks")]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from machine import measured_with  # noqa: E402
from vision import NETWORKS, SMALL  # noqa: E402

import naivenas_jax as nas  # noqa: E402
from naivenas_jax.cost.operations import operations  # noqa: E402
from naivenas_jax.cost.parameters import parameters  # noqa: E402
from naivenas_jax.sizes.count import Count  # noqa: E402

IMAGE = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
SHARES = (0.25, 0.5, 0.75)
HEAD = """# Budgets

    python benchmarks/budgets.py --write docs/benchmarks/budgets.md

{date}, on {machine}; Python {python}, naivenas_jax at {revision}, {versions}.

Each network is cut to a share of its parameters, or of its multiply-accumulates for an image of 224 x 224. The networks
are those of `benchmarks/vision.py`, with as many parameters as the published ones, brought in by `nas.from_linen`.
Weights are random, with magnitudes that vary between layers and between neurons. Utility is the default.

- *used*: the share of the budget that the result takes, counted on its variables, or by a trace of its evaluation;
- *maximal*: for each set of tied neurons of which some were dropped, the result with one of them returned is made and
  its sizes are counted. Maximal: it always exceeds the budget;
- *gap*: `mutation.gap`, how much more utility the best sizes could keep at the most;
- *CPU*: seconds of the process for `nas.resize`, all of it: counting, scores, alignment, and taking weights apart.
  Import, which finds the ties, is apart: {imports}.

| network | budget | used | maximal | gap, % | CPU, s |
|---|---|---:|---|---:|---:|
"""


@dataclass(frozen=True)
class Network:
    """A network with weights, how long its import took, and what is counted of it."""

    name: str
    graph: nas.Graph
    variables: Any
    seconds: float
    params: Count
    macs: Count


def load(name: str) -> Network:
    make, number = (NETWORKS | SMALL)[name]
    model = make()
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(IMAGE.shape)))
    values = jax.tree_util.tree_map_with_path(weights, shapes)
    start = time.process_time()
    graph, variables = nas.from_linen(model, values, IMAGE)
    graph.handles()
    seconds = time.process_time() - start
    if (found := nas.costs(graph, variables).params) != number:
        raise ValueError(f"{name} has {found} parameters and not {number}.")
    macs = operations(graph, variables, [IMAGE]).macs
    return Network(name, graph, variables, seconds, parameters(graph.ties, variables), macs)


def weights(path: Any, shape: Any) -> np.ndarray:
    """Normal ones for kernels, each output with a magnitude of its own; how much these differ depends on the layer."""
    if path[-1].key in ("scale", "var"):
        return np.ones(shape.shape, shape.dtype)
    if path[-1].key != "kernel":
        return np.zeros(shape.shape, shape.dtype)
    rng = np.random.default_rng(zlib.crc32(jax.tree_util.keystr(path).encode()))
    magnitude = np.exp(rng.uniform(0.2, 0.8) * rng.standard_normal(shape.shape[-1]))
    return rng.standard_normal(shape.shape, dtype=np.float32) * magnitude.astype(np.float32)


def cases(network: Network, shares: Sequence[float]) -> Iterator[tuple[str, dict[str, Any], float, Count]]:
    """Each budget by name, as keywords of `resize`, its share, and what it counts."""
    for share in shares:
        yield f"{share:.0%} of the parameters", {"max_params": share}, share, network.params
    for share in shares:
        yield f"{share:.0%} of the MACs", {"max_macs": share, "inputs": IMAGE}, share, network.macs


def returned(network: Network, mutation: nas.Mutation) -> Iterator[tuple[str, nas.Graph]]:
    """The result with one neuron returned, for each set of tied neurons that weights make."""
    shapes = jax.eval_shape(lambda: mutation.variables)
    seen: set[str] = set()
    ends = {v.name for v in (*network.graph.inputs, *network.graph.outputs)}
    before, after = network.graph.handles(), mutation.graph.handles()
    for name, handle in after.items():
        if name in seen or ends.intersection({name, *handle.tied_to}) or handle.size == before[name].size:
            continue
        seen |= {name, *handle.tied_to}
        try:
            yield name, nas.delta_nout(mutation.graph, shapes, {name: 1}).graph
        except nas.InfeasibleError:  # a product, of which one more is no size; its factors have handles of their own
            continue


def measure(network: Network, shares: Sequence[float] = SHARES) -> Iterator[list[str]]:
    """Rows of the table."""
    for name, keywords, share, count in cases(network, shares):
        start = time.process_time()
        mutation = nas.resize(network.graph, network.variables, **keywords)
        seconds = time.process_time() - start
        bound, costs = int(share * count.at(network.graph.ties.sizes)), nas.costs(*mutation, IMAGE)
        used = costs.params if count is network.params else costs.macs
        if used > bound or used != count.at(mutation.graph.ties.sizes):
            raise ValueError(f"{network.name}, {name}: {used} of {bound}.")
        fitting = [handle for handle, graph in returned(network, mutation) if count.at(graph.ties.sizes) <= bound]
        maximal = "yes" if not fitting else "no: " + ", ".join(fitting)
        yield [network.name, name, f"{used / bound:.4%}", maximal, f"{100 * mutation.gap:.3f}", f"{seconds:.2f}"]


def head(imports: str) -> str:
    return HEAD.format(
        **measured_with("jax", "flax", "cvxpy", "highspy", "numpy"),
        imports=imports,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--quick", action="store_true", help="one small network and one share; nothing is written")
    parser.add_argument("--write", type=Path)
    asked = parser.parse_args()
    rows, imports = [], []
    for name in SMALL if asked.quick else asked.networks:
        network = load(name)
        imports.append(f"{network.seconds:.1f} s for {name}")
        for row in measure(network, SHARES[1:2] if asked.quick else SHARES):
            rows.append("| " + " | ".join(row) + " |")
            print(rows[-1], flush=True)
    if asked.write and not asked.quick:
        asked.write.write_text(head(", ".join(imports)) + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
