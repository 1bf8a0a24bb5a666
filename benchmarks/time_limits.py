"""How well a limit of time is kept, by a real clock.

    python benchmarks/time_limits.py [--quick] [--write docs/benchmarks/time_limits.md]

Each call has a limit that it cannot do with, and is measured from its beginning to its end. ``--quick``: one small
network, to see that the script works; nothing is written.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from graphs import chain, densenet121, random_nas
from machine import measured_with

import naivenas_jax as nas

LIMITS = (1.0, 3.0)
HEADER = """# Limits of time

`python benchmarks/time_limits.py --write docs/benchmarks/time_limits.md`, {date}, on {machine}; Python {python},
naivenas_jax at {revision}, {versions}.

Seconds of a real clock from the beginning of a call with `time_limit=` to its end, and how many of them the processor
worked for it. *Stopped*: the limit was in the way, and what was found by then can be improved by the gap at the most;
others were proven in time. *Making it*: seconds that `error.best()` takes for the arrays of what was found, after the
limit. *Late*: more than a fifth over the limit.

Each call is the best of three, until one is in time. Nobody else used the machine. Where others used both cores, so
that a second of work took four of the clock (at 24bf051), 9 of 57 rows were late, by work that cannot be stopped:
operations of hand-written layers are counted by tracing them, for which Flax takes two milliseconds each, and
new neurons are drawn array by array.

"""


class Network(NamedTuple):
    """A network with what is asked of it: one layer that is to be small, and an input to count operations for."""

    graph: nas.Graph
    variables: Any
    layer: str
    inputs: Any


class Deep(nn.Module):
    """As many dense layers as are asked for, of one width."""

    layers: int
    width: int

    @nn.compact
    def __call__(self, x):
        for number in range(self.layers):
            x = nn.relu(nn.Dense(self.width, name=f"dense{number}")(x))
        return nn.Dense(10, name="out")(x)


def drawn(shapes: Any) -> Any:
    """Arrays of these shapes, without compiling an initialiser."""
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: generator.normal(size=leaf.shape).astype(leaf.dtype), shapes)


def by_hand(graph: nas.Graph, layer: str, inputs: Any) -> Network:
    return Network(graph, drawn(jax.eval_shape(lambda: graph.init(jax.random.key(0), inputs))), layer, inputs)


def imported(layers: int, width: int) -> Network:
    model, x = Deep(layers, width), jnp.ones((1, 64))
    variables = drawn(jax.eval_shape(lambda: model.init(jax.random.key(0), x)))
    return Network(*nas.from_linen(model, variables, x), f"dense{layers // 2}", x)


#: Networks by name.
NETWORKS: Mapping[str, Callable[[], Network]] = {
    "400 dense layers of 4": lambda: by_hand(chain(400, 4), "dense200", jnp.ones((1, 64))),
    "100 dense layers of 64, imported": lambda: imported(100, 64),
    "DenseNet-121": lambda: by_hand(densenet121(), "stage2/5/conv2", jnp.ones((1, 32, 32, 3))),
    "random NAS, 500": lambda: by_hand(random_nas(), "v96", jnp.ones((1, 64))),
}
SMALL: Mapping[str, Callable[[], Network]] = {
    "4 dense layers of 16": lambda: by_hand(chain(4, 16), "dense2", jnp.ones((1, 64)))
}


def seconds(graph: nas.Graph) -> float:
    """A latency of one's own, of all that can be resized but the inputs."""
    inputs = {vertex.name for vertex in graph.inputs}
    return 1e-6 * sum(graph.nout(handle) for handle in graph.handles() if handle not in inputs)


def calls(network: Network) -> Iterator[tuple[str, Callable[..., nas.Mutation]]]:
    """What is asked, by name; each takes ``time_limit=``."""
    graph, variables, layer, inputs = network

    def resize(**asked: Any) -> Callable[..., nas.Mutation]:
        return lambda **limit: nas.resize(graph, variables, **asked, **limit)

    yield "max_params", resize(max_params=0.5)
    yield "max_params, in multiples", resize(max_params=0.5, multiple_of=2)
    yield "max_macs and max_params", resize(max_macs=0.4, max_params=0.5, inputs=inputs)
    yield "max_params, one relaxed", resize(max_params=0.5, request={layer: nas.relaxed(-1)})
    yield "max_params, growing", resize(max_params=2.0, grow=True)
    yield "max_latency", resize(max_latency=0.5, latency=seconds)
    yield "impossible", resize(max_params=0.01, request={layer: nas.to(2)})
    yield "minimise", resize(minimise=nas.size(layer))
    yield "delta_nout", lambda **limit: nas.delta_nout(graph, variables, {layer: nas.relaxed(-2)}, **limit)


class Row(NamedTuple):
    """A call that was measured."""

    network: str
    asked: str
    limit: float
    took: float
    cpu: float
    ended: str
    making: float | None

    @property
    def late(self) -> bool:
        """Whether it took more than a fifth longer than the limit."""
        return self.took > 1.2 * self.limit

    def __str__(self) -> str:
        making = "" if self.making is None else f"{self.making:.2f}"
        late = "late" if self.late else ""
        times = f"{self.limit:g} | {self.took:.2f} | {self.cpu:.2f}"
        return f"| {self.network} | {self.asked} | {times} | {self.ended} | {making} | {late} |"


def measured(name: str, asked: str, call: Callable[..., nas.Mutation], limit: float) -> Row:
    """One call."""
    start, worked, making = time.monotonic(), time.process_time(), None
    best = None
    try:
        ended = f"proven to {call(time_limit=limit).gap:.2g}"
    except nas.TimeLimitError as error:
        ended, best = "stopped, nothing found", error.best
    except nas.InfeasibleError:
        ended = "shown to be impossible"
    took, cpu = time.monotonic() - start, time.process_time() - worked
    if best is not None:
        start = time.monotonic()
        ended = f"stopped, gap {best().gap:.2g}"
        making = time.monotonic() - start
    return Row(name, asked, limit, took, cpu, ended, making)


def rows(networks: Mapping[str, Callable[[], Network]]) -> Iterator[Row]:
    """All calls; the shorter limit is all there is to say where that is enough."""
    for name, make in networks.items():
        network = make()
        for asked, call in calls(network):
            for limit in LIMITS:
                row = measured(name, asked, call, limit)
                for _ in range(2):
                    row = min(row, measured(name, asked, call, limit), key=lambda one: one.took) if row.late else row
                yield row
                if not row.ended.startswith("stopped") and not row.late:
                    break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small network; nothing is written")
    parser.add_argument("--write", type=Path, help="where to write the page")
    asked = parser.parse_args()
    import cvxpy  # noqa: F401  not to be measured with the first call

    lines = ["| network | asked | limit | took | CPU | ended | making it | |", "|---|---|---:|---:|---:|---|---:|---|"]
    print(*lines, sep="\n")
    for row in rows(SMALL if asked.quick else NETWORKS):
        print(row, flush=True)
        lines.append(str(row))
    if asked.write and not asked.quick:
        head = HEADER.format(**measured_with("highspy", "cvxpy", "jax", "numpy"))
        asked.write.write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
