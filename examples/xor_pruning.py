"""Prune a network that is much too wide for XOR, by different utilities.

The example of NaiveNASflux in our terms: 32 hidden neurons are trained on the four cases of XOR, while a moving average
of the Taylor scores is kept. Then half of them are removed, by each utility, and the loss is looked at with no further
training. In the end the network is pruned further and further, trained a little after each step, to the smallest that
still solves XOR.

    python examples/xor_pruning.py [--quick]

Prints two tables; takes a few seconds.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import naivenas_jax as nas

INPUTS = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
TARGETS = jnp.array([[0.0], [1.0], [1.0], [0.0]])
BATCH = (INPUTS, TARGETS)
TX = optax.adam(0.05)
WIDTH = 8 if "--quick" in sys.argv else 32


def network(width: int) -> nas.Graph:
    x = nas.input_vertex("x", 2)
    hidden = nas.invariant_vertex("relu", nn.relu, nas.layer("hidden", nn.Dense(width), x))
    return nas.Graph(x, nas.invariant_vertex("sigmoid", nn.sigmoid, nas.layer("out", nn.Dense(1), hidden)))


def loss(apply: Any, variables: Any, batch: Any) -> jax.Array:
    inputs, targets = batch
    return jnp.mean((apply(variables, inputs) - targets) ** 2)


@functools.partial(jax.jit, static_argnames=("graph", "steps"))
def train(graph: nas.Graph, variables: Any, state: Any, average: Any, steps: int) -> tuple[Any, Any, Any]:
    """Some steps of Adam; the average is updated with gradients that are there anyway."""

    def step(_: int, carried: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        params, state, average = carried
        grads = jax.grad(lambda p: loss(graph.apply, {"params": p}, BATCH))(params)
        average = average.update(params, grads)
        updates, state = TX.update(grads, state, params)
        return optax.apply_updates(params, updates), state, average

    params, state, average = jax.lax.fori_loop(0, steps, step, (variables["params"], state, average))
    return {"params": params}, state, average


def solved(graph: nas.Graph, variables: Any) -> bool:
    return bool(jnp.all((graph.apply(variables, INPUTS) > 0.5) == (TARGETS > 0.5)))


def compare(graph: nas.Graph, variables: Any, average: nas.TaylorAverage) -> dict[str, float]:
    """The loss when half of the hidden neurons are gone, by utility."""
    scores = average.scores()
    random = [nas.random_utility(graph, jax.random.key(seed)) for seed in range(10)]
    utilities = {
        "Taylor, averaged in training": [scores],
        "Taylor, at the end": [nas.taylor(graph, variables, loss, [BATCH], each="example")],
        "magnitude": [nas.magnitude(graph, variables)],
        "magnitude of groups": [nas.magnitude(graph, variables, norm="l2", group=True)],
        "activity": [nas.activity(graph, variables, [INPUTS])],
        "random, mean of 10": random,
        "Taylor reversed": [{handle: -given for handle, given in scores.items()}],
    }
    found = {"nothing pruned": float(loss(graph.apply, variables, BATCH))}
    for name, several in utilities.items():
        pruned = [nas.delta_nout(graph, variables, {"hidden": -(WIDTH // 2)}, utility=utility) for utility in several]
        found[name] = float(np.mean([loss(m.graph.apply, m.variables, BATCH) for m in pruned]))
    return found


def smallest(graph: nas.Graph, variables: Any, state: Any, average: Any) -> list[tuple[int, float, float]]:
    """Prune by a quarter and train on, for as long as XOR is solved: (width, loss when pruned, loss when trained)."""
    rows = []
    while graph.nout("hidden") > 1:
        fewer = max(1, graph.nout("hidden") // 4)
        mutation = nas.delta_nout(graph, variables, {"hidden": -fewer}, utility=average.scores())
        after = float(loss(mutation.graph.apply, mutation.variables, BATCH))
        graph, variables = mutation
        carried = mutation.carry({"state": state, "average": average})
        variables, state, average = train(graph, variables, carried["state"], carried["average"], 150)
        if not solved(graph, variables):
            break
        rows.append((graph.nout("hidden"), after, float(loss(graph.apply, variables, BATCH))))
    return rows


def main() -> tuple[dict[str, float], list[tuple[int, float, float]]]:
    graph = network(WIDTH)
    variables = graph.init(jax.random.key(0), INPUTS)
    average = nas.TaylorAverage.init(graph, every=2)
    variables, state, average = train(graph, variables, TX.init(variables["params"]), average, 100)

    found = compare(graph, variables, average)
    print(f"{f'half of {WIDTH} neurons pruned by':<32}{'loss':>10}")
    for name, value in found.items():
        print(f"{name:<32}{value:>10.5f}")

    rows = smallest(graph, variables, state, average)
    print(f"\n{'neurons':>8}{'pruned':>12}{'trained':>12}")
    for width, pruned, trained in rows:
        print(f"{width:>8}{pruned:>12.5f}{trained:>12.5f}")
    print(f"\nThe smallest network that solves XOR has {rows[-1][0]} hidden neurons.")
    return found, rows


if __name__ == "__main__":
    main()
