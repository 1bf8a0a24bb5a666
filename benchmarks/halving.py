"""All channels of six published networks halved, import included, beside Torch-Pruning: CPU seconds and peak memory.

    pip install torch==2.13.0 torchvision==0.28.0 transformers==5.24.0 torch-pruning==1.6.1
    python benchmarks/halving.py [--write docs/benchmarks/halving.md] [--peer PYTHON] [NETWORK ...]

Each network is a process of its own, and the same network in torch another one right after it. ``--peer``: the python
that has torch, if it is another one; without any there are no rows of Torch-Pruning. ``--quick``: small networks.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "benchmarks" / "networks")]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import modern  # noqa: E402
import numpy as np  # noqa: E402
import vision  # noqa: E402
from machine import measured, measured_with  # noqa: E402

import naivenas_jax as nas  # noqa: E402

NETWORKS = {**vision.NETWORKS, **modern.NETWORKS}
SMALL = {**vision.SMALL, **modern.SMALL}
INTRO = """# Halving published networks

`python benchmarks/halving.py --write docs/benchmarks/halving.md`, {date}, on {machine}; Python {python},
naivenas_jax at {revision}, {versions}{peer}.

All channels are halved but those of the outputs, by magnitude: `nas.from_linen`, the handles, and one `nas.delta_nout`;
in Torch-Pruning `MagnitudePruner(pruning_ratio=0.5)` and its `step`. Weights are random, inputs one picture of
224 x 224 or one text of 128 tokens. Seconds are CPU seconds, on one thread in torch: the median of three runs in a
process, after one that is not counted. *Trace*: one `jax.make_jaxpr(model.apply)` in the same process. *Peak*: the
memory of the process above what it had with the model and its variables, in megabytes and in sizes of the variables.
Torch-Pruning changes the model that it is given; naivenas_jax leaves it as it is and returns another network. What
differs in size are attentions: heads and their features are not in the request here.
"""


def filled(shapes: Any) -> Any:
    """Normal variables of these shapes."""
    draws = np.random.default_rng(0)
    return jax.tree.map(lambda a: jnp.asarray(draws.standard_normal(a.shape, dtype=np.float32), a.dtype), shapes)


def halves(graph: nas.Graph) -> dict[str, nas.Target]:
    """The request for half of the neurons of everything that can change, outputs excepted."""
    ends, request, seen = {v.name for v in (*graph.inputs, *graph.outputs)}, {}, set[str]()
    for handle, known in graph.handles().items():
        same = {handle, *known.tied_to}
        if ":" not in handle and seen.isdisjoint(same) and ends.isdisjoint(same) and known.size % 2 == 0:
            request[handle] = nas.to(known.size // 2)
        seen |= same
    return request


def size(variables: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def one(name: str) -> dict[str, Any]:
    """A network, halved in this process."""
    make, published = {**NETWORKS, **SMALL}[name]
    model = make()
    given = jnp.zeros((1, 128), int) if "BERT" in name else jnp.zeros((1, 224, 224, 3))
    halved(*start(SMALL["small ResNet"][0](), jnp.zeros((1, 32, 32, 3))))  # what takes time once in a process
    subject = start(model, given)
    if size(subject[1]) != published:
        raise ValueError(f"{name} has {size(subject[1])} parameters, and {published} are published.")
    found = measured(lambda: lambda: halved(*subject))
    trace = measured(lambda: lambda: jax.make_jaxpr(lambda own, x: model.apply(own, x))(subject[1], given))
    before, after = size(subject[1]), size(halved(*subject).variables)
    return {**found, "trace": trace["seconds"], "before": before, "after": after}


def start(model: Any, given: jax.Array) -> tuple[Any, Any, jax.Array]:
    """A model, random variables of it, and its input."""
    return model, filled(jax.eval_shape(model.init, jax.random.key(0), given)), given


def halved(model: Any, variables: Any, given: jax.Array) -> nas.Mutation:
    graph, own = nas.from_linen(model, variables, given)
    mutation = nas.delta_nout(graph, own, halves(graph))
    jax.block_until_ready(mutation.variables)
    return mutation


def run(*command: str | Path) -> dict[str, Any]:
    """What a process prints last."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def peer_python(given: str | None) -> str | None:
    """The python that has Torch-Pruning."""
    return given or (sys.executable if importlib.util.find_spec("torch_pruning") else None)


def table(names: list[str], peer: str | None) -> tuple[list[str], str]:
    """The lines of the table, printed as they come, and the versions of the other side."""
    lines, versions = [], ""

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    say("| network | | parameters | left | CPU s | trace | peak MB | peak, of the variables |")
    say("|---|---|---:|---:|---:|---:|---:|---:|")
    for name in names:
        ours = run(sys.executable, __file__, "--one", name)
        say(row(name, "naivenas_jax", ours))
        if peer:
            other = run(peer, ROOT / "benchmarks" / "peers" / "peer_halving.py", name)
            if other["before"] != ours["before"]:
                raise ValueError(f"{name} has {ours['before']} parameters here, and {other['before']} in torch.")
            versions = other["versions"]
            say(row(name, "Torch-Pruning", other))
    return lines, versions


def row(name: str, who: str, found: dict[str, Any]) -> str:
    trace = f"{found['trace']:.2f}" if "trace" in found else ""
    peak = found["peak"]
    memory = " | " if peak is None else f"{peak / 1e6:.0f} | {peak / 4 / found['before']:.2f}"
    return (
        f"| {name} | {who} | {found['before']:,} | {found['after']:,} | {found['seconds']:.2f} | {trace} | {memory} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--peer", metavar="PYTHON")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(one(asked.one)))
        return
    if asked.quick:
        for name in SMALL:
            print(row(name, "naivenas_jax", one(name)))
        return
    lines, versions = table(asked.networks or list(NETWORKS), peer_python(asked.peer))
    if asked.write:
        head = INTRO.format(**measured_with("jax", "flax", "numpy"), peer=f"; {versions}" if versions else "")
        asked.write.write_text("\n".join([head, *lines, ""]))


if __name__ == "__main__":
    main()
