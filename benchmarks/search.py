"""A search with populations, and what it is compared with.

    python benchmarks/search.py [--quick] [--write docs/benchmarks/search.md]

A short search for networks of handwritten digits, from three seeds: each population trained as one program; then with
each network compiled by itself; then without selection; then with each network trained from scratch. Data and training
step are those of `examples/search.py`. ``--quick``: few networks, to see that the script works.
"""

from __future__ import annotations

import argparse
import ast
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import flax.linen as nn
import jax
import numpy as np
import optax
from machine import measured_with
from scipy.stats import truncnorm

import naivenas_jax as nas

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
example: Any = __import__("search")
EPOCHS = 3
Networks, Size = list[nas.TrainedMember], tuple[int, int]

# -- The search, whose lines are counted -------------------------------------------------------------------------------


def seed_network() -> nas.Graph:
    image = nas.input_vertex("image", 1, shape=(8, 8, 1))
    conv = nas.invariant_vertex("conv_relu", nn.relu, nas.layer("conv", nn.Conv(8, (3, 3), (2, 2)), image))
    hidden = nas.invariant_vertex("relu", nn.relu, nas.layer("hidden", nn.Dense(16), nas.flatten("flat", conv)))
    return nas.Graph(image, nas.layer("digit", nn.Dense(10), hidden))


def dense_block(x: nas.Vertex) -> nas.Vertex:
    dense = nas.invariant_vertex("block_relu", nn.relu, nas.layer("block", nn.Dense(x.nout), x))
    return (x + dense).named("sum")


STRUCTURE = ("insertion", "removal", "edge_in", "edge_out", "kernel", "activation")
WIDTHS = ("width_up", "width_down")
SPACE = nas.SearchSpace(
    sizes={"conv*": [4, 6, 8, 12], "hidden*": [8, 12, 16, 24, 32, 48], "block*": [8, 16, 32, 48, 64, 96, 128, 192]},
    makers={"relu": [dense_block], "sum*": [dense_block], "block_relu*": [dense_block]},
    kernels=(2, 3, 5),
    protected=("digit",),
    max_vertices=14,
)


def search(seed: int, train: Train, select: Select, generations: int = 5, size: Size = (2, 16)) -> Networks:
    graph, rng, seen = seed_network(), np.random.default_rng(seed), Networks()
    variables = jax.jit(graph.init)(jax.random.key(seed), example.digits()[0][:1])
    left = [nas.TrainedMember(graph, variables, None, 1.0)]
    for _ in range(generations):
        new = train(children(left, rng, *size))
        seen, left = [*seen, *new], select([*left, *new], rng)
    return seen


def children(parents: Networks, rng: np.random.Generator, structures: int, members: int) -> list[nas.Mutation]:
    found = []
    for key in jax.random.split(jax.random.key(rng.integers(2**31)), structures):
        parent = parents[min(rng.integers(len(parents), size=3))]  # the best of three
        kinds = STRUCTURE if rng.random() < 0.75 else WIDTHS
        first = nas.random_mutation(parent.graph, parent.variables, key, kinds, space=SPACE)
        keys = jax.random.split(key, members - 1)
        found += [first, *(nas.random_mutation(*first, each, WIDTHS, space=SPACE) for each in keys)]
    return found


def best(networks: Networks, rng: np.random.Generator) -> Networks:
    return sorted(networks, key=lambda each: float(each.result))[:16]


def kit(networks: Sequence[Any], count: int = 16) -> Networks:
    return nas.train_members(trained, networks, ratio=100, ladder=(12, 48, 192), count=count)


# -- The training step, and what the search is compared with -----------------------------------------------------------

SEARCH = ("seed_network", "dense_block", "STRUCTURE", "WIDTHS", "SPACE", "search", "children", "best", "kit")
#: Trains networks.
Train = Callable[[Sequence[Any]], Networks]
#: From networks to those that are parents, the most likely first.
Select = Callable[[Networks, np.random.Generator], Networks]


def trained(population: nas.Population, state: Any) -> Any:
    """A population after some epochs: variables, no state, errors."""
    carry = None
    for number in range(EPOCHS):
        carry = example.train_epoch(population, carry, number)
    return carry[0], None, carry[2]


def one_by_one(graph: nas.Graph, params: Any, state: Any, batches: Any, images: jax.Array, labels: jax.Array) -> Any:
    """What `example.epoch` does, of one network."""

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry

        def loss(params: Any) -> jax.Array:
            logits = graph.apply({"params": params}, batch[0])
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

        updates, state = example.TX.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    params, state = jax.lax.scan(step, (params, state), batches)[0]
    return params, state, (graph.apply({"params": params}, images).argmax(-1) != labels).mean(-1)


def epoch(*arguments: Any) -> Any:
    return one_by_one(*arguments)


shared = jax.jit(epoch)


def a_program_each() -> Any:
    """A function of its own, which shares no program with others."""

    def epoch(*arguments: Any) -> Any:
        return one_by_one(*arguments)

    return jax.jit(epoch)


def alone(networks: Sequence[Any], program: Callable[[], Any] = lambda: shared) -> Networks:
    """Each network trained by itself; those of one structure and equal sizes can share a program."""
    images, others, labels, own = example.digits()
    found = []
    for graph, variables in networks:
        train, params, state, error = program(), variables["params"], example.TX.init(variables["params"]), None
        for each in range(EPOCHS):
            rows = example.rows(each)
            params, state, error = train(graph, params, state, (images[rows], labels[rows]), others, own)
        found.append(nas.TrainedMember(graph, jax.device_get({"params": params}), None, float(error)))
    return found


def everybody(networks: Networks, rng: np.random.Generator) -> Networks:
    """No selection: all stay, and none is preferred."""
    return [networks[i] for i in rng.permutation(len(networks))]


def from_scratch(networks: Sequence[Any]) -> Networks:
    """New parameters for each network, of the law that its layers start with, before it is trained."""
    rng = np.random.default_rng(0)

    def new(weights: jax.Array) -> np.ndarray:
        if weights.ndim == 1:
            return np.zeros(weights.shape, np.float32)
        values = truncnorm.rvs(-2, 2, size=weights.shape, random_state=rng) / truncnorm.std(-2, 2)
        return (values / np.sqrt(np.prod(weights.shape[:-1]))).astype(np.float32)

    return kit([(graph, jax.tree.map(new, variables)) for graph, variables in networks])


def lines_of(names: Sequence[str]) -> int:
    """How many lines some functions and constants of this file have, without comments, docstrings and empty lines."""
    text = Path(__file__).read_text(encoding="utf-8")
    found = [node for node in ast.parse(text).body if _name(node) in names]
    kept = {number for node in found for number in range(node.lineno, (node.end_lineno or 0) + 1)}
    lines = text.splitlines()
    return sum(1 for number in kept if lines[number - 1].strip() and not lines[number - 1].strip().startswith("#"))


def _name(node: ast.stmt) -> str:
    target = node.targets[0] if isinstance(node, ast.Assign) else None
    return target.id if isinstance(target, ast.Name) else getattr(node, "name", "")


class Row(NamedTuple):
    """What came out of one search."""

    networks: int
    seconds: float
    training: int
    programs: int
    error: float
    small: float

    def __str__(self) -> str:
        rate = 60 * self.networks / self.seconds
        found = (self.networks, f"{self.seconds:.0f}", f"{rate:.0f}", self.training, self.programs)
        return " | ".join(map(str, (*found, f"{self.error:.1f}", f"{self.small:.1f}")))


def measured(seed: int, train: Train, select: Select, generations: int, size: Size) -> Row:
    jax.clear_caches()
    start = time.process_time()
    with nas.count_programs() as programs:
        seen = search(seed, train, select, generations, size)
    spent = time.process_time() - start
    errors = [(float(each.result), example.parameters(*each[:2])) for each in seen]
    return Row(
        len(seen),
        spent,
        programs.names.count("epoch"),
        programs.count,
        100 * min(error for error, _ in errors),
        100 * min((error for error, size in errors if size <= 2000), default=1.0),
    )


HEAD = """# A search

    python benchmarks/search.py --write docs/benchmarks/search.md

{date}, on {machine}; Python {python}, naivenas_jax at {revision}, {versions}.

A short search for networks of handwritten digits: {generations} generations of 32 networks. In each, two networks
change, mostly in structure, and so do the widths of 15 copies of each; 8 kinds of mutation in all. Each network is
trained for {epochs} epochs on from what it has learned, and the 16 of the least error are parents. Beside data and
training step (`train_epoch` of `examples/search.py`) the search has {lines} lines, those for the network that it starts
from and for the space among them (`benchmarks/search.py`, the first part).

- *kit*: `nas.train_members`, each population trained as one program;
- *compiled each*: each network is trained by a program of its own; for one seed, as it takes long;
- *compiled alone*: as that, but networks of one structure and equal sizes share a program, as `jax.jit` does;
- *random*: as *kit*, but children of any network that was trained; none is preferred and all are kept;
- *from scratch*: as *kit*, but each network starts with new parameters, and is trained for {epochs} epochs in all.

*Rate*: trained networks by a minute of CPU time of the process, with all that the search does, compiling included.
*Training programs*: those that train, counted by `nas.count_programs`; *all programs*: with the small ones outside of
`jax.jit`. *Error*: the lowest on the 540 validation images, by which networks were chosen; *small*: of those with at
most 2,000 parameters.

| search | seed | networks | CPU, s | rate | training programs | all programs | error, % | small, % |
|---|---:|---:|---:|---:|---:|---:|---:|---:|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    size = (1, (1, 2)) if options.quick else (5, (2, 16))
    text = HEAD.format(
        **measured_with("jax", "flax", "optax"), generations=size[0], epochs=EPOCHS, lines=lines_of(SEARCH)
    )
    print(text, end="")
    seeds = range(1 if options.quick else 3)
    ways = {
        "kit": (kit, best, seeds),
        "compiled each": (partial(alone, program=a_program_each), best, range(1)),
        "random": (kit, everybody, seeds),
        "from scratch": (from_scratch, best, seeds),
        "compiled alone": (alone, best, range(1)),
    }
    for name, (train, select, own) in ways.items():
        for seed in own:
            line = f"| {name} | {seed} | {measured(seed, train, select, *size)} |\n"
            print(line, end="", flush=True)
            text += line
    if options.write:
        options.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
