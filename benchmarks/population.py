"""Networks that differ in widths, evaluated and trained as one program and one by one.

    python benchmarks/population.py [--quick] [--write docs/benchmarks/population.md] [NETWORK ...]

Mutants of three networks of digits: an MLP, a transformer over rows of the image, a convolutional network with batch
normalisation. Each is evaluated on 512 images and trained for one epoch, compiling included, as a search that meets it
for the first time does. ``--quick``: few members and steps, to see that the script works.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from machine import measured_with
from sklearn.datasets import load_digits

import naivenas_jax as nas

ROOT = Path(__file__).resolve().parents[1]
BATCH, TX = 64, optax.sgd(0.05, momentum=0.9)
HEAD = """# Populations

    python benchmarks/population.py --write docs/benchmarks/population.md

{date}, on {machine}; Python {python}, naivenas_jax at {revision}, {versions}.

{members} width mutants of each network, sizes drawn between a quarter of each width and all of it.

- *one program*: `Population.apply`; an epoch is a `jax.lax.scan` over batches of 64. *Programs* is how many are
  compiled, counted with `nas.count_programs`;
- *one by one*: `jax.jit(nas.apply)` for each, and a jitted step that is called for each batch (a `scan` takes longer to
  train a convolutional network), measured in the same run on {alone} of them, and multiplied;
- all figures are CPU seconds of the process for all members, compiling included; *again*: when all is compiled;
- *difference*: the largest of an output, or of a parameter after an epoch, between a member in the population and
  by itself. It is rounding: none may be above {tolerance:.0e}.

| network | what | one program | programs | one by one | ratio | again: one program | again: one by one | difference |
|---|---|---:|---:|---:|---:|---:|---:|---:|
"""
TAIL = """
A ratio is what is saved by not compiling. Once all is compiled, networks one by one are faster where members differ
much, since each is computed in the common shape: with widths drawn between a quarter and all, a matrix product of a
member has 40 % of the entries on average. `nas.populations` puts members of about one size together.

Convolutions on a CPU are computed one member after the other (`chunk=1`); on other devices, and where there are none,
all members are computed side by side.
"""
#: How far a member may be from what it is by itself.
TOLERANCE = 1e-4


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
        h = nas.invariant_vertex(f"act{i}", nn.silu, h)  # relu: rounding at its kink would show after an epoch
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


def step(network, carry, batch, *, update):
    """One step of training, of one network or of a population; the loss is summed over members."""
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
    return optax.apply_updates(params, updates), rest, state


def epoch(population, carry, batches):
    """All steps of an epoch as one program."""
    own_step = partial(step, population, update=jax.vmap(TX.update))
    return jax.lax.scan(lambda carry, batch: (own_step(carry, batch), None), carry, batches)[0]


def step_by_step(one_step, network, carry, batches):
    """All steps of an epoch, one call for each."""
    for batch in zip(*batches, strict=True):
        carry = one_step(network, carry, batch)
    return carry


def split(variables):
    return variables["params"], {name: tree for name, tree in variables.items() if name != "params"}


def difference(one, other) -> float:
    return max(
        float(np.abs(np.asarray(a) - np.asarray(b)).max())
        for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True)
    )


class Row(NamedTuple):
    """CPU seconds of all members as one program and one by one, with compiling and again, and what came out.

    Attributes:
      first: as one program, with compiling.
      programs: how many programs were compiled for it.
      alone: one by one, with compiling.
      again: as one program, compiled.
      alone_again: one by one, compiled.
      difference: the largest between a member and itself alone.
    """

    first: float
    programs: int
    alone: float
    again: float
    alone_again: float
    difference: float


def compared(
    together: Callable[[], object], alone: Sequence[Callable[[], object]], members: int, own: Callable[..., object]
) -> Row:
    """Measure all members together, and some of them alone.

    Args:
      together: computes all members.
      alone: each computes one of the first members.
      members: how many there are together.
      own: what belongs to a member in the result of all, from that result and the number.
    """
    with nas.count_programs() as programs:
        results, first = timed(together)
    _, again = timed(together)
    spent, largest = np.zeros(2), 0.0
    for number, each in enumerate(alone):
        result, own_first = timed(each)
        spent += own_first, timed(each)[1]
        largest = max(largest, difference(result, own(results, number)))
    if largest > TOLERANCE:
        raise SystemExit(f"A member differs from itself by {largest:.1e}.")
    alone_first, alone_again = spent * members / len(alone)
    return Row(first, programs.count, alone_first, again, alone_again, largest)


def measured(network: Network, members: int, alone: int, steps: int | None) -> dict[str, Row]:
    """Evaluation and training of mutants of a network."""
    images, labels = load_digits(return_X_y=True)
    data = (images / 16).astype(np.float32).reshape(-1, *network.shape)
    count = len(data) // BATCH if steps is None else steps
    batches = (
        data[: count * BATCH].reshape(count, BATCH, *network.shape),
        labels[: count * BATCH].reshape(count, BATCH),
    )
    changed = mutants(network, data, members)
    population, images = nas.Population.of(changed), data[:512]
    evaluate, one = jax.jit(lambda p, v, x: p.apply(v, x)), jax.jit(nas.apply)
    evaluation = compared(
        partial(evaluate, population, population.variables, images),
        [partial(one, graph, variables, images) for graph, variables in changed[:alone]],
        members,
        lambda outputs, number: outputs[number],
    )

    train, one_step = jax.jit(epoch), jax.jit(partial(step, update=TX.update))
    starts = [(graph, (*split(variables), TX.init(variables["params"]))) for graph, variables in changed[:alone]]
    start = (*split(population.variables), population.init(TX))

    def trained(carry: tuple, number: int) -> tuple:
        params, rest, state = carry
        own = population.member(number, {"params": params, **rest})[1]
        return (*split(own), population.carry(state, number))

    training = compared(
        partial(train, population, start, batches),
        [partial(step_by_step, one_step, graph, carry, batches) for graph, carry in starts],
        members,
        trained,
    )
    return {"evaluation": evaluation, "an epoch of training": training}


def head(members: int, alone: int) -> str:
    return HEAD.format(
        **measured_with("jax", "flax", "optax"),
        members=members,
        alone=alone,
        tolerance=TOLERANCE,
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
        for what, found in measured(NETWORKS[name](), members, alone, steps).items():
            row = (
                f"| {name} | {what} | {found.first:.2f} | {found.programs} | {found.alone:.1f} | "
                f"{found.alone / found.first:.1f} | {found.again:.2f} | {found.alone_again:.2f} | "
                f"{found.difference:.1e} |\n"
            )
            print(row, end="", flush=True)
            text += row
    print(TAIL)
    if options.write:
        options.write.write_text(text + TAIL, encoding="utf-8")


if __name__ == "__main__":
    main()
