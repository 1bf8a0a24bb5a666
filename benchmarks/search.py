"""A search with populations, and what it is compared with.

    python benchmarks/search.py [--quick] [--write docs/benchmarks/search.md]

The search of `examples/search.py` with two objectives, error and parameters, from three seeds: each population trained
as one program; then with each network compiled by itself; then without selection; then with each network trained from
scratch. ``--quick``: few networks, to see that the script works.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import optax
from machine import measured_with

import naivenas_jax as nas

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
example: Any = __import__("search")

HEAD = """# A search

    python benchmarks/search.py --write docs/benchmarks/search.md

{date}, on {machine}; Python {python}, naivenas_jax at {revision}, {versions}.

The search of `examples/search.py` for networks of handwritten digits, with two objectives, error and parameters:
{generations} generations of {networks} networks, each trained for {epochs} epochs.

- *kit*: `nas.populations`, each population trained as one program;
- *compiled each*: as *kit*, but each network is trained by a program of its own; for one seed, as it takes long;
- *compiled alone*: as that, but networks of one structure and equal sizes share a program, as `jax.jit` does;
- *random*: children of any network that was trained; none is preferred and all are kept;
- *from scratch*: as *kit*, but each network starts with new parameters, and is trained for {epochs} epochs in all.

*Rate*: trained networks by a minute of CPU time of the process, with all that the search does, compiling included.
*Training programs*: those that train, counted by `nas.count_programs`; *all programs*: with the small ones outside of
`jax.jit`. *Error*: the lowest on the 540 validation images, by which networks were chosen; *small*: of those with at
most 2,000 parameters.

| search | seed | networks | CPU, s | rate | training programs | all programs | error, % | small, % |
|---|---:|---:|---:|---:|---:|---:|---:|---:|
"""


class Row(NamedTuple):
    """What came out of one search."""

    networks: int
    seconds: float
    training: int
    programs: int
    error: float
    small: float

    @property
    def rate(self) -> float:
        return 60 * self.networks / self.seconds


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


def alone(populations: Sequence[nas.Population], epochs: int, program: Any = lambda: shared) -> Iterator[Any]:
    """A trainer that trains each network by itself; those of one structure and equal sizes can share a program."""
    images, others, labels, own = example.digits()
    for population in populations:
        params, errors = population.variables["params"], np.zeros(len(population))
        for number in range(len(population)):
            graph, variables = population.member(number)
            train = program()
            carry = variables["params"], example.TX.init(variables["params"]), None
            for each in range(epochs):
                rows = example.rows(each)
                carry = train(graph, *carry[:2], (images[rows], labels[rows]), others, own)
            params, errors[number] = population.put(params, number, carry[0]), carry[2]
        yield params, None, errors


def everybody(candidates: Sequence[Any], settings: Any) -> list[Any]:
    """No selection: all stay, and none has goals that make it a better parent."""
    return [each._replace(goals=()) for each in candidates]


def from_scratch(populations: Sequence[nas.Population], epochs: int) -> Iterator[Any]:
    """A trainer of new parameters."""
    images = example.digits()[0][:1]
    started = []
    for population in populations:
        members = [population.member(i)[0] for i in range(len(population))]
        fresh = [(graph, graph.init(jax.random.key(i), images)) for i, graph in enumerate(members)]
        started.append(nas.Population.of(fresh))
    return example.in_process(started, epochs)


def searched(settings: Any, train: Any, select: Any = None) -> Row:
    usual = example.survivors
    example.survivors = select or usual
    jax.clear_caches()
    start = time.process_time()
    try:
        with nas.count_programs() as programs:
            *_, state = example.search(settings, train)
    finally:
        example.survivors = usual
    spent = time.process_time() - start
    goals = np.array([each.goals for each in state.seen])
    small = goals[goals[:, 1] <= 2000, 0]
    return Row(
        len(goals),
        spent,
        programs.names.count("epoch"),
        programs.count,
        100 * goals[:, 0].min(),
        100 * small.min(initial=1.0),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    settings = example.Settings(generations=2, members=16, objectives=("error", "parameters"))
    if options.quick:
        settings = replace(settings, generations=1, structures=1, members=2, survivors=2, epochs=1)
    text = HEAD.format(
        **measured_with("jax", "flax", "optax", "pymoo"),
        generations=settings.generations,
        networks=settings.structures * settings.members,
        epochs=settings.epochs,
    )
    print(text, end="")
    seeds = range(1 if options.quick else 3)
    ways = {
        "kit": (example.in_process, None, seeds),
        "compiled each": (partial(alone, program=a_program_each), None, range(1)),
        "compiled alone": (alone, None, range(1)),
        "random": (example.in_process, everybody, seeds),
        "from scratch": (from_scratch, None, seeds),
    }
    for name, (train, select, own) in ways.items():
        for seed in own:
            row = searched(replace(settings, seed=seed), train, select)
            line = (
                f"| {name} | {seed} | {row.networks} | {row.seconds:.0f} | {row.rate:.0f} | {row.training} | "
                f"{row.programs} | {row.error:.1f} | {row.small:.1f} |\n"
            )
            print(line, end="", flush=True)
            text += line
    if options.write:
        options.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
