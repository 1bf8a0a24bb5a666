"""Import a ResNet from the package jax-resnet, remove a third of the inner channels, and train on.

    python examples/import_model.py [--quick]

Needs the extras `.[examples]`: jax-resnet has the model, scikit-learn the digits, 8 x 8 pixels, here made 32 x 32.
Nothing is downloaded. The run takes under a minute on two cores.
"""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax_resnet import ResNet18
from sklearn.datasets import load_digits

import naivenas_jax as nas

QUICK = "--quick" in sys.argv
FIRST_EPOCHS, EPOCHS = (1, 1) if QUICK else (4, 2)
TRAINED_ON, SCORED_ON = (200, 100) if QUICK else (800, 400)  # images
HOW = {"mutable": ["batch_stats"]}  # by which these models know that they are trained


def loss_of(graph: nas.Graph, params: Any, rest: Any, x: jax.Array, y: jax.Array) -> Any:
    logits, updates = graph.apply({"params": params, **rest}, x, **HOW)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), updates


def train(graph: nas.Graph, variables: Any, state: Any, tx: Any, x: jax.Array, y: jax.Array, epochs: int) -> Any:
    @jax.jit
    def step(variables: Any, state: Any, x: jax.Array, y: jax.Array) -> Any:
        params, rest = variables["params"], {"batch_stats": variables["batch_stats"]}
        gradient, rest = jax.grad(loss_of, 1, has_aux=True)(graph, params, rest, x, y)
        updates, state = tx.update(gradient, state, params)
        return {"params": optax.apply_updates(params, updates), **rest}, state

    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(len(x))
        for start in range(0, len(x) - 99, 100):
            rows = order[start : start + 100]
            variables, state = step(variables, state, x[rows], y[rows])
    return variables, state


def saliency(graph: nas.Graph, variables: Any, x: jax.Array, y: jax.Array) -> dict[str, np.ndarray]:
    """|gradient * weight| of the weights that make each channel of the inner convolutions, on real data."""
    rest = {"batch_stats": variables["batch_stats"]}
    gradient = jax.jit(jax.grad(lambda p: loss_of(graph, p, rest, x, y)[0]))(variables["params"])
    products = jax.tree.map(lambda g, w: np.abs(np.asarray(g * w)), gradient, variables["params"])
    scores = {}
    for name, handle in graph.handles().items():
        if name.endswith("ConvBlock_0/Conv_0") and not handle.tied_to:  # inside a residual block
            node = products
            for key in name.split("/"):
                node = node[key]
            scores[name] = node["kernel"].sum((0, 1, 2))
    return scores


def main() -> None:
    digits = load_digits()
    images = jax.image.resize(jnp.asarray(digits.images / 16, jnp.float32)[..., None], (1797, 32, 32, 1), "linear")
    x, y = jnp.repeat(images, 3, -1), jnp.asarray(digits.target)
    train_x, train_y, test_x, test_y = x[:1300], y[:1300], x[1300:], y[1300:]

    def report(what: str, graph: nas.Graph, variables: Any) -> None:
        accuracy = (jax.jit(graph.apply)(variables, test_x).argmax(-1) == test_y).mean()
        print(f"{what:34} {sum(v.size for v in jax.tree.leaves(variables)):7} parameters, accuracy {accuracy:.3f}")

    model = ResNet18(n_classes=10, hidden_sizes=(16, 24, 32, 48))
    graph, variables = nas.from_linen(model, jax.jit(model.init)(jax.random.key(0), train_x[:1]), train_x[:1])
    tx = optax.adam(2e-3)
    variables, state = train(
        graph, variables, tx.init(variables["params"]), tx, train_x[:TRAINED_ON], train_y[:TRAINED_ON], FIRST_EPOCHS
    )
    report("trained", graph, variables)

    utility = saliency(graph, variables, train_x[:SCORED_ON], train_y[:SCORED_ON])
    request = {name: -(len(scores) // 3) for name, scores in utility.items()}
    mutation = nas.delta_nout(graph, variables, request, utility=utility)
    print(f"{len(request)} convolutions shrink; {mutation.check(test_x[:8])}")
    state = mutation.carry(state)
    graph, variables = mutation
    report("a third of inner channels removed", graph, variables)
    variables, _ = train(graph, variables, state, tx, train_x[:TRAINED_ON], train_y[:TRAINED_ON], EPOCHS)
    report("trained on", graph, variables)


if __name__ == "__main__":
    main()
