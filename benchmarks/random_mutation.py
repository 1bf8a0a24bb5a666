"""What a random mutation costs beside its verb: the questions to the graph, on a network of a hundred vertices.

``python benchmarks/random_mutation.py`` prints a table, in seconds of a processor. ``--quick`` takes a smaller network
and fewer draws.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

import naivenas_jax as nas
from naivenas_jax.mutate.rules.legal_edits import LegalEdits

KINDS = ("removal", "edge_in", "edge_out")


def network(blocks: int) -> nas.Graph:
    """Blocks of two layers and an activation, which end in a sum and in a concatenation by turns."""
    x = nas.input_vertex("x", 16, shape=(4, 16))
    stream = nas.layer("stem", nn.Dense(16), x)
    for i in range(blocks):
        inner = nas.invariant_vertex(f"act{i}", nn.relu, nas.layer(f"up{i}", nn.Dense(24), stream))
        down = nas.layer(f"down{i}", nn.Dense(stream.nout if i % 2 else 16), inner)
        stream = (stream + down).named(f"sum{i}") if i % 2 else nas.concat(f"cat{i}", down, inner)
    return nas.Graph(x, nas.layer("out", nn.Dense(4), stream))


def timed(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smaller network, fewer draws")
    quick = parser.parse_args().quick
    blocks, draws = (3, 2) if quick else (24, 20)
    graph = network(blocks)
    variables = graph.init(jax.random.key(0), jnp.ones((1, 4, 16)))
    asked = {"time": 0.0, "questions": 0}

    def counted(answer: Callable[..., object]) -> Callable[..., object]:
        def ask(*given: object) -> object:
            start = time.process_time()
            found = answer(*given)
            asked["time"] += time.process_time() - start
            asked["questions"] += 1
            return found

        return ask

    for name in ("not_read", "not_removed", "edge_not_removed"):
        setattr(LegalEdits, name, counted(getattr(LegalEdits, name)))
    print(f"{len(graph)} vertices; {draws} draws of each kind, a new graph's questions each time\n")
    print("| kind | a mutation, ms | of which questions, ms | share | questions |\n|---|---|---|---|---|")
    for kind in KINDS:
        nas.random_mutation(graph, variables, jax.random.key(0), kind)  # what is traced once
        asked.update(time=0.0, questions=0)
        keys = jax.random.split(jax.random.key(1), draws)
        total = sum(timed(lambda k=k, kind=kind: nas.random_mutation(graph, variables, k, kind)) for k in keys)
        each, own = (1e3 * seconds / draws for seconds in (total, asked["time"]))
        print(f"| {kind} | {each:.0f} | {own:.0f} | {own / each:.0%} | {asked['questions'] / draws:.1f} |")
    lists = (
        ("legal_edges", graph.legal_edges),
        ("removable", graph.removable),
        ("removable_edges", graph.removable_edges),
    )
    for name, query in lists:
        found: list[object] = []
        seconds = timed(lambda query=query, found=found: found.extend(query()))
        print(f"\n`{name}()`: {len(found)} in {seconds:.1f} s of a processor", end="")
    print()


if __name__ == "__main__":
    main()
