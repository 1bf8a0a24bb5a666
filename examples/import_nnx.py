"""Import a transformer written in nnx, remove heads and mlp neurons by what they do on real data, and train on.

It ends with the transformer's own class: `nas.rebuild` gives it back with the new sizes.

    python examples/import_nnx.py [--quick]

Needs the extras `.[examples]`: scikit-learn ships the digits, and a row of 8 pixels is a token. About half a minute.
"""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import naivenas_jax as nas

FIRST_EPOCHS, EPOCHS = (2, 1) if "--quick" in sys.argv else (20, 5)


class Block(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.attention_norm, self.mlp_norm = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, width, rngs=rngs, decode=False)
        self.up, self.down = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.attention_norm(x))
        return x + self.down(nnx.gelu(self.up(self.mlp_norm(x))))


class Transformer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, width: int = 32):
        self.embed = nnx.Linear(8, width, rngs=rngs)
        self.position = nnx.Param(0.02 * rngs.params.normal((8, width)))
        self.blocks = nnx.List([Block(width, rngs) for _ in range(2)])
        self.norm, self.head = nnx.LayerNorm(width, rngs=rngs), nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.embed(x) + self.position[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def loss_of(graph: nas.Graph, variables: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(graph.apply(variables, x), y).mean()


def train(graph: nas.Graph, variables: Any, state: Any, tx: Any, x: jax.Array, y: jax.Array, epochs: int) -> Any:
    @jax.jit
    def step(variables: Any, state: Any, batch: Any) -> Any:
        gradient = jax.grad(lambda v: loss_of(graph, v, *batch))(variables)
        updates, state = tx.update(gradient, state, variables)
        return optax.apply_updates(variables, updates), state

    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(len(x))
        for start in range(0, len(x) - 127, 128):
            rows = order[start : start + 128]
            variables, state = step(variables, state, (x[rows], y[rows]))
    return variables, state


def use(model: Transformer, mutation: nas.Mutation, x: jax.Array, y: jax.Array) -> None:
    """The class that we wrote, with the new sizes: equal to the graph, and trained without it."""
    print(f"{type(model).__name__}, heads {[b.attention.num_heads for b in model.blocks]}, ", end="")
    print(f"mlp {[b.up.out_features for b in model.blocks]}")
    np.testing.assert_allclose(model(x), mutation.graph.apply(mutation.variables, x), rtol=1e-4, atol=1e-4)
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(model: Transformer, optimizer: nnx.Optimizer) -> jax.Array:
        def loss_of(model: Transformer) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

        loss, gradient = nnx.value_and_grad(loss_of)(model)
        optimizer.update(model, gradient)
        return loss

    before, after = step(model, optimizer), step(model, optimizer)
    print(f"a step of training takes its loss from {before:.4f} to {after:.4f}")
    assert after < before


def main() -> None:
    digits = load_digits()
    x, y = jnp.asarray(digits.images / 16, jnp.float32), jnp.asarray(digits.target)
    train_x, train_y, test_x, test_y = x[:1300], y[:1300], x[1300:], y[1300:]

    def report(what: str, graph: nas.Graph, variables: Any) -> None:
        accuracy = (jax.jit(graph.apply)(variables, test_x).argmax(-1) == test_y).mean()
        print(f"{what:32} {sum(v.size for v in jax.tree.leaves(variables)):7} parameters, accuracy {accuracy:.3f}")

    model = Transformer(nnx.Rngs(0))
    graph, variables = nas.from_nnx(model, train_x[:1])
    tx = optax.adam(2e-3)
    variables, state = train(graph, variables, tx.init(variables), tx, train_x, train_y, FIRST_EPOCHS)
    report("trained", graph, variables)

    # About what the loss would change by without a neuron: |gradient * weight|, summed over its incoming weights.
    gradient = jax.jit(jax.grad(lambda v: loss_of(graph, v, train_x, train_y)))(variables)
    saliency = jax.tree.map(lambda g, v: jnp.abs(g * v), gradient, variables)["params"]["blocks"]
    utility = {}
    for block in ("0", "1"):
        utility[f"blocks/{block}/up"] = np.asarray(saliency[block]["up"]["kernel"].sum(0))
        utility[f"blocks/{block}/attention/value:heads"] = np.asarray(
            saliency[block]["attention"]["value"]["kernel"].sum((0, 2))
        )
    request = {name: -(len(scores) // 3) for name, scores in utility.items()}
    mutation = nas.delta_nout(graph, variables, request, utility=utility)
    print(mutation, mutation.check(test_x[:32]), sep="\n")
    state = mutation.carry(state)
    graph, variables = mutation
    report("a third of heads and mlp removed", graph, variables)
    smaller = nas.rebuild(model, mutation)
    variables, _ = train(graph, variables, state, tx, train_x, train_y, EPOCHS)
    report("trained on", graph, variables)
    use(smaller, mutation, test_x[:128], test_y[:128])


if __name__ == "__main__":
    main()
