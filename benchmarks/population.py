"""Networks that differ in widths, evaluated and trained as one program and one by one.

    python benchmarks/population.py [--quick] [--write docs/benchmarks/population.md] [NETWORK ...]

Mutants of three networks of digits: an MLP, a transformer over rows of the image, a convolutional network with batch
normalisation. Each is evaluated on 512 images and trained for one epoch, compiling included, as a search that meets it
for the first time does. ``--quick``: few members and steps, to see that the script works.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from machine import revision
from sklearn.datasets import load_digits

import naivenas_jax as nas

ROOT = Path(__file__).resolve().parents[1]
BATCH, TX = 64, optax.sgd(0.05, momentum=0.9)
HEAD = """# Populations

    python benchmarks/population.py --write docs/benchmarks/population.md

{date}, on {machine}; Python {python}, naivenas_jax at {revision}, {versions}.

{members} width mutants of each network, sizes drawn between a quarter of each width and all of it.

- *one program*: `Population.apply`, compiled once;
- *one by one*: `jax.jit(nas.apply)` and a jitted epoch for each, measured in the same run on {alone} of them, and
  multiplied;
- all figures are CPU seconds of the process for all members, compiling included; *again*: when all is compiled;
- *difference*: the largest of an output, or of a parameter after an epoch, between a member in the population and
  by itself.

| network | what | one program | one by one | ratio | again: one program | again: one by one | difference |
|---|---|---:|---:|---:|---:|---:|---:|
"""


class Network(NamedTuple):
    """A network of digits.

    Attributes:
      graph: the network at full width.
      shape: of one image as it takes it.
      free: the handles whose sizes are drawn.
    """

    graph: nas.Graph
    shape: tuple[int, ...]
    free: tuple[str, ...]


def mlp() -> Network:
    x = h = nas.input_vertex("x", 64)
    for i in range(3):
        h = nas.invariant_vertex(f"act{i}", nn.relu, nas.layer(f"hidden{i}", nn.Dense(64), h))
    return Network(nas.Graph(x, nas.layer("out", nn.Dense(10), h)), (64,), ("hidden0", "hidden1", "hidden2"))


def transformer() -> Network:
    x = nas.input_vertex("x", 8)
    h = nas.layer("embed", nn.Dense(32), x)
    for i in range(2):
        normed = nas.layer(f"norm{i}", nn.LayerNorm(), h)
        h = h + nas.layer(f"attention{i}", nn.MultiHeadDotProductAttention(num_heads=4, qkv_features=32), normed)
        up = nas.layer(f"up{i}", nn.Dense(64), nas.layer(f"normed{i}", nn.LayerNorm(), h))
        h = h + nas.layer(f"down{i}", nn.Dense(32), nas.invariant_vertex(f"gelu{i}", nn.gelu, up))
    h = nas.invariant_vertex("mean", lambda t: t.mean(1), h)
    free = ("embed", "up0", "up1", "attention0:heads", "attention1:qk")
    return Network(nas.Graph(x, nas.layer("out", nn.Dense(10), h)), (8, 8), free)


def convolutional() -> Network:
    x = h = nas.input_vertex("x", 1, shape=(8, 8, 1))
    for i, (width, stride) in enumerate([(16, 1), (32, 2), (32, 1)]):
        h = nas.layer(f"norm{i}", nn.BatchNorm(), nas.layer(f"conv{i}", nn.Conv(width, (3, 3), (stride, stride)), h))
        h = nas.invariant_vertex(f"act{i}", nn.relu, h)
    h = nas.invariant_vertex("mean", lambda t: t.mean((1, 2)), h)
    return Network(nas.Graph(x, nas.layer("out", nn.Dense(10), h)), (8, 8, 1), ("conv0", "conv1", "conv2"))


NETWORKS: dict[str, Callable[[], Network]] = {"MLP": mlp, "transformer": transformer, "convolutional": convolutional}


def mutants(network: Network, data: np.ndarray, count: int) -> list[nas.Mutation]:
    """Mutations of one network to random widths."""
    rng, ties = np.random.default_rng(0), network.graph.ties
    variables = network.graph.init(jax.random.key(0), data[:1])
    ranges = {name: (max(1, ties.size(name) // 4), ties.size(name) + 1) for name in network.free}
    requests = [{name: nas.to(int(rng.integers(*ends))) for name, ends in ranges.items()} for _ in range(count)]
    return [nas.delta_nout(network.graph, variables, request) for request in requests]


def timed(fn: Callable[[], object]) -> tuple[object, float]:
    start = time.process_time()
    result = jax.block_until_ready(fn())
    return result, time.process_time() - start


def epoch(network, params, rest, state, batches, *, update):
    """One epoch of training, of one network or of a population; the loss is summed over members."""

    def step(carry, batch):
        params, rest, state = carry
        images, labels = batch

        def loss(params):
            variables = {"params": params, **rest}
            if rest:
                logits, updated = network.apply(variables, images, mutable=list(rest), train=True)
            else:
                logits, updated = network.apply(variables, images), {}
            targets = jnp.broadcast_to(labels, logits.shape[:-1])
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean(-1).sum(), updated

        gradients, rest = jax.grad(loss, has_aux=True)(params)
        updates, state = update(gradients, state, params)
        return (optax.apply_updates(params, updates), rest, state), None

    return jax.lax.scan(step, (params, rest, state), batches)[0]


def split(variables):
    return variables["params"], {name: tree for name, tree in variables.items() if name != "params"}


def difference(one, other) -> float:
    return max(
        float(np.abs(np.asarray(a) - np.asarray(b)).max())
        for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True)
    )


def measured(
    network: Network, members: int, alone: int, steps: int | None
) -> list[tuple[str, float, float, float, float, float]]:
    """For evaluation and training: CPU seconds of one program and one by one, first and again, and the difference."""
    images, labels = load_digits(return_X_y=True)
    data = (images / 16).astype(np.float32).reshape(-1, *network.shape)
    count = len(data) // BATCH if steps is None else steps
    batches = (
        data[: count * BATCH].reshape(count, BATCH, *network.shape),
        labels[: count * BATCH].reshape(count, BATCH),
    )
    changed = mutants(network, data, members)
    population, images, factor = nas.Population.of(changed), data[:512], members / alone

    evaluate, one = jax.jit(lambda p, v, x: p.apply(v, x)), jax.jit(nas.apply)
    together = partial(evaluate, population, population.variables, images)
    outputs, first = timed(together)
    _, again = timed(together)
    rows, spent = [], np.zeros(2)
    largest = 0.0
    for number, (graph, variables) in enumerate(changed[:alone]):
        alone_once = partial(one, graph, variables, images)
        output, own_first = timed(alone_once)
        spent += own_first, timed(alone_once)[1]
        largest = max(largest, difference(output, outputs[number]))
    rows.append(("evaluation", first, factor * spent[0], again, factor * spent[1], largest))

    train = jax.jit(partial(epoch, update=jax.vmap(TX.update)))
    train_one = jax.jit(partial(epoch, update=TX.update), static_argnums=0)
    params, rest = split(population.variables)
    together = partial(train, population, params, rest, population.init(TX), batches)
    (params, rest, _), first = timed(together)
    _, again = timed(together)
    spent, largest = np.zeros(2), 0.0
    for number, (graph, variables) in enumerate(changed[:alone]):
        own, own_rest = split(variables)
        alone_once = partial(train_one, graph, own, own_rest, TX.init(own), batches)
        (own, _, _), own_first = timed(alone_once)
        spent += own_first, timed(alone_once)[1]
        trained = population.member(number, {"params": params, **rest})[1]["params"]
        largest = max(largest, difference(dict(own), dict(trained)))
    rows.append(("an epoch of training", first, factor * spent[0], again, factor * spent[1], largest))
    return rows


def head(members: int, alone: int) -> str:
    return HEAD.format(
        date=datetime.date.today().isoformat(),
        machine=f"{os.cpu_count()} CPU cores ({platform.machine()})",
        python=platform.python_version(),
        revision=revision() or "an unknown revision",
        versions=", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "optax")),
        members=members,
        alone=alone,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", choices=[*NETWORKS, []], default=[])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    members, alone, steps = (3, 1, 2) if options.quick else (64, 8, None)
    text = head(members, alone)
    print(text)
    for name in options.networks or NETWORKS:
        for what, first, alone_first, again, alone_again, largest in measured(NETWORKS[name](), members, alone, steps):
            row = (
                f"| {name} | {what} | {first:.2f} | {alone_first:.1f} | {alone_first / first:.1f} | {again:.2f} | "
                f"{alone_again:.2f} | {largest:.1e} |\n"
            )
            print(row, end="", flush=True)
            text += row
    if options.write:
        options.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
