"""Networks that are trained on the spot, in seconds, on data that scikit-learn ships or makes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from networks.subject import Prepared, Subject, in_batches, kept, outputs
from sklearn.datasets import load_digits, make_classification
from sklearn.model_selection import train_test_split

import naivenas_jax as nas

BATCH = 128
CALIBRATION = 419  # rows of a batch that re-fitting sees: 1,257 = 3 * 419
EPOCHS, LONG = 30, 90  # of networks with batch normalisation, and of those that learn more slowly
Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # training and test inputs, training and test labels


def digits() -> Rows:
    """1,257 images of handwritten digits to train on, and 540 to test."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    return train_test_split(images, labels, test_size=540, stratify=labels, random_state=0)


def table() -> Rows:
    """Six classes, each of two clusters, in a table of 24 columns, half of which say nothing."""
    inputs, labels = make_classification(
        3000, 24, n_informative=12, n_redundant=0, n_classes=6, n_clusters_per_class=2, class_sep=2.0, random_state=0
    )
    return train_test_split(inputs.astype(np.float32), labels, test_size=1000, stratify=labels, random_state=0)


class Residual(nn.Module):
    """Three residual blocks with batch normalisation; the second halves the image and doubles the width."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        x = nn.relu(norm()(nn.Conv(24, (3, 3), use_bias=False)(x)))
        for width, stride in ((24, 1), (48, 2), (48, 1)):
            y = nn.relu(norm()(nn.Conv(width, (3, 3), (stride, stride), use_bias=False)(x)))
            y = norm()(nn.Conv(width, (3, 3), use_bias=False)(y))
            if x.shape != y.shape:
                x = norm()(nn.Conv(width, (1, 1), (stride, stride), use_bias=False)(x))
            x = nn.relu(x + y)
        return nn.Dense(10)(x.mean((1, 2)))


class Branches(nn.Module):
    """Two branches of convolutions, of windows of 3 and of 5, whose outputs are joined; no normalisation."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        fine = nn.relu(nn.Conv(40, (3, 3), (2, 2))(nn.relu(nn.Conv(24, (3, 3))(x))))
        coarse = nn.relu(nn.Conv(24, (5, 5), (2, 2))(nn.relu(nn.Conv(24, (1, 1))(nn.relu(nn.Conv(16, (3, 3))(x))))))
        both = nn.relu(nn.Conv(48, (3, 3))(jnp.concatenate([fine, coarse], -1)))
        return nn.Dense(10)(nn.relu(nn.Dense(96)(both.mean((1, 2)))))


class Transformer(nn.Module):
    """A vision transformer: patches of 2 x 2, width 48, three blocks of four heads."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Conv(48, (2, 2), (2, 2))(x).reshape(-1, 16, 48)
        x = x + self.param("places", nn.initializers.normal(0.02), (1, 16, 48))
        for _ in range(3):
            x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x))
            x = x + nn.Dense(48)(nn.gelu(nn.Dense(128)(nn.LayerNorm()(x))))
        return nn.Dense(10)(nn.LayerNorm()(x).mean(1))


class Mixer(nn.Module):
    """An MLP-Mixer: patches of 2 x 2, width 48, three blocks."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Conv(48, (2, 2), (2, 2))(x).reshape(-1, 16, 48)
        for _ in range(3):
            y = jnp.swapaxes(nn.LayerNorm()(x), 1, 2)
            x = x + jnp.swapaxes(nn.Dense(16)(nn.gelu(nn.Dense(64)(y))), 1, 2)
            x = x + nn.Dense(48)(nn.gelu(nn.Dense(128)(nn.LayerNorm()(x))))
        return nn.Dense(10)(nn.LayerNorm()(x).mean(1))


class Recurrent(nn.Module):
    """A digit is read row by row by a gated recurrent unit, and the last state classified."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        rows = nn.relu(nn.Dense(48)(x.reshape(-1, 8, 8)))
        states = nn.RNN(nn.GRUCell(96))(rows)
        return nn.Dense(10)(nn.relu(nn.Dense(64)(states[:, -1])))


class Perceptron(nnx.Module):
    """Three hidden layers, of nnx."""

    def __init__(self, rngs: nnx.Rngs):
        sizes = (24, 160, 96, 64)
        self.hidden = nnx.List([nnx.Linear(n, m, rngs=rngs) for n, m in pairwise(sizes)])
        self.last = nnx.Linear(sizes[-1], 6, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.hidden:
            x = nnx.relu(layer(x))
        return self.last(x)


Apply = Callable[..., Any]


def train(apply: Apply, variables: Any, inputs: np.ndarray, labels: np.ndarray, seed: int, epochs: int) -> Any:
    """Adam with a falling rate; ``apply(variables, inputs)`` returns logits and new statistics."""
    steps = epochs * (len(inputs) // BATCH)
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.warmup_cosine_decay_schedule(1e-4, 4e-3, steps // 10, steps), weight_decay=0.05),
    )

    @jax.jit
    def step(variables: Any, state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
        def loss(params: Any) -> tuple[jax.Array, Any]:
            logits, updates = apply({**variables, "params": params}, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), updates

        slopes, updates = jax.grad(loss, has_aux=True)(variables["params"])
        changes, state = tx.update(slopes, state, variables["params"])
        return {**variables, **updates, "params": optax.apply_updates(variables["params"], changes)}, state

    rng, state = np.random.default_rng(seed), tx.init(variables["params"])
    for _ in range(epochs):
        order = rng.permutation(len(inputs))
        for i in range(0, len(inputs) - BATCH + 1, BATCH):
            rows = order[i : i + BATCH]
            variables, state = step(variables, state, inputs[rows], labels[rows])
    return variables


def prepared(graph: nas.Graph, variables: Any, rows: Rows) -> Prepared:
    """Accuracy on the rows for testing."""
    seen, unseen, _, wanted = rows

    def measure(graph: nas.Graph, variables: Any) -> float:
        return float((outputs(graph, variables, [unseen]).argmax(-1) == wanted).mean())

    return Prepared(graph, variables, in_batches(CALIBRATION, seen), measure)


def of_linen(module: nn.Module, seed: int, epochs: int = EPOCHS) -> Prepared:
    """A module, trained on digits."""
    rows = digits()

    def trained() -> Any:
        fresh = module.init(jax.random.key(seed), rows[0][:1])
        mutable = [name for name in fresh if name != "params"]

        def apply(variables: Any, x: jax.Array) -> Any:
            return module.apply(variables, x, train=True, mutable=mutable)

        return train(apply, fresh, rows[0], rows[2], seed, epochs)

    variables = kept(f"{type(module).__name__.lower()}-{seed}-{epochs}", trained)
    return prepared(*nas.from_linen(module, variables, rows[0][:1]), rows)


def of_nnx(seed: int, epochs: int = EPOCHS) -> Prepared:
    """The perceptron, trained on a table."""
    rows = table()
    graph, fresh = nas.from_nnx(Perceptron(nnx.Rngs(seed)), rows[0][:1])

    def trained() -> Any:
        return train(lambda own, x: (graph.apply(own, x), {}), fresh, rows[0], rows[2], seed, epochs)

    return prepared(graph, kept(f"perceptron-{seed}-{epochs}", trained), rows)


def of_the_example(seed: int, epochs: int = EPOCHS) -> Prepared:
    """The network of examples/digits.py, a graph of vertices."""
    import digits as example  # from the folder of examples

    rows, graph = digits(), example.build()

    def trained() -> Any:
        fresh = graph.init(jax.random.key(seed), rows[0][:1])

        def apply(variables: Any, x: jax.Array) -> Any:
            return graph.apply(variables, x, train=True, mutable=["batch_stats"])

        return train(apply, fresh, rows[0], rows[2], seed, epochs)

    return prepared(graph, kept(f"example-{seed}-{epochs}", trained), rows)


ACCURACY = "accuracy on 540 images"
SUBJECTS = {
    "example": Subject("convolutions, BatchNorm, a skip connection and a concatenation; the network of "
                       "examples/digits.py, on which `compress` was developed", ACCURACY, of_the_example),
    "residual": Subject("three residual blocks with BatchNorm, on digits", ACCURACY, partial(of_linen, Residual())),
    "branches": Subject("two branches of convolutions, joined, without normalisation, on digits", ACCURACY,
                        partial(of_linen, Branches(), epochs=LONG)),
    "transformer": Subject("a vision transformer on digits", ACCURACY, partial(of_linen, Transformer(), epochs=LONG)),
    "mixer": Subject("an MLP-Mixer on digits", ACCURACY, partial(of_linen, Mixer(), epochs=LONG)),
    "recurrent": Subject("a GRU that reads digits by rows", ACCURACY, partial(of_linen, Recurrent())),
    "perceptron": Subject("a perceptron of nnx on a table of six classes", "accuracy on 1,000 rows", of_nnx),
}  # fmt: skip
