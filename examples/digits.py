"""Train a small convolutional network on handwritten digits, then change its shape eight times and train on.

    python examples/digits.py [--quick]

Needs the extras `.[examples]` and no download: scikit-learn ships the digits, 1,797 grey images of 8 x 8 pixels. The
run takes about a minute on two cores. Each row of the table that it prints is one change of shape: what changed, the
parameters, and the accuracy on 540 held-out images before and after a short training. With ``--quick`` images are
few, and the trainings are too short to learn much.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import naivenas_jax as nas

QUICK = "--quick" in sys.argv
FIRST_EPOCHS, EPOCHS = (2, 2) if QUICK else (15, 5)  # of the first training, and after each change
IMAGES, TESTED, BATCH = (384, 128, 128) if QUICK else (1797, 540, 128)  # all, those to measure with, and in a batch


# -- The network: vertices around Flax layers and plain functions ------------------------------------------------------

# Graphs compare functions by identity. These are defined once, so that two graphs built by `build` are equal.
halve = partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2))


def mean_over_positions(x: jax.Array) -> jax.Array:
    return x.mean((1, 2))


def convolve(name: str, features: int, width: int, x: nas.Vertex) -> nas.Vertex:
    """A convolution and its batch normalisation."""
    convolved = nas.layer(name, nn.Conv(features, (width, width), use_bias=False), x)
    return nas.layer(f"{name}_norm", nn.BatchNorm(momentum=0.9), convolved)


def relu(name: str, x: nas.Vertex) -> nas.Vertex:
    return nas.invariant_vertex(name, nn.relu, x)


def build() -> nas.Graph:
    """A stem, a residual block, two branches that are joined by a concatenation, and two dense layers."""
    image = nas.input_vertex("image", 1, shape=(8, 8, 1))
    stem = relu("stem_relu", convolve("stem", 32, 3, image))

    inner = relu("inner_relu", convolve("inner", 32, 3, stem))
    outer = convolve("outer", 32, 3, inner)
    block = relu("block", (outer + stem).named("sum"))
    pool = nas.invariant_vertex("pool", halve, block)

    fine = relu("fine_relu", convolve("fine", 64, 3, pool))
    squeeze = nas.layer("squeeze", nn.Conv(24, (1, 1)), pool)
    coarse = relu("coarse_relu", convolve("coarse", 32, 5, squeeze))
    both = nas.concat("both", fine, coarse)

    mean = nas.invariant_vertex("mean", mean_over_positions, both)
    hidden = nas.layer("hidden", nn.Dense(128, use_bias=False), mean)
    hidden = relu("hidden_relu", nas.layer("hidden_norm", nn.BatchNorm(momentum=0.9), hidden))
    return nas.Graph(image, nas.layer("digit", nn.Dense(10), hidden))


# -- Training: nothing here knows that the network will change ---------------------------------------------------------


@dataclass(frozen=True)
class Data:
    train_images: np.ndarray
    test_images: np.ndarray
    train_labels: np.ndarray
    test_labels: np.ndarray

    @classmethod
    def load(cls) -> "Data":
        images, labels = (array[:IMAGES] for array in load_digits(return_X_y=True))
        images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
        return cls(*train_test_split(images, labels, test_size=TESTED, stratify=labels, random_state=0))

    @property
    def batches_per_epoch(self) -> int:
        return len(self.train_labels) // BATCH

    def batches(self, epochs: int, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for _ in range(epochs):
            order = rng.permutation(len(self.train_labels))
            for rows in np.split(order[: self.batches_per_epoch * BATCH], self.batches_per_epoch):
                yield self.train_images[rows], self.train_labels[rows]


@dataclass(frozen=True)
class Network:
    """All that changes together: the graph, its variables and the optimizer's state."""

    graph: nas.Graph
    variables: dict[str, Any]
    opt_state: Any

    @property
    def size(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(self.variables["params"]))


def optimizer(batches_per_epoch: int, changes: int) -> optax.GradientTransformation:
    """Adam with decay and clipping. The step count is carried too, so one schedule spans the whole run."""

    def cycle(peak: float, epochs: int) -> dict[str, float]:
        steps = {"warmup_steps": batches_per_epoch, "decay_steps": epochs * batches_per_epoch}
        return {"init_value": 1e-4, "peak_value": peak, "end_value": 1e-5, **steps}

    schedule = optax.sgdr_schedule([cycle(5e-3, FIRST_EPOCHS)] + [cycle(2e-3, EPOCHS)] * changes)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.1))


# The graph is an argument: a pytree without leaves, so jax compiles once for each new architecture and not per call.
predict = jax.jit(nas.apply)


@partial(jax.jit, static_argnames="tx")
def train_step(graph: nas.Graph, variables: Any, opt_state: Any, images: Any, labels: Any, tx: Any) -> tuple[Any, Any]:
    def loss(params: Any) -> tuple[jax.Array, Any]:
        now = {**variables, "params": params}
        logits, updates = graph.apply(now, images, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updates

    grads, updates = jax.grad(loss, has_aux=True)(variables["params"])
    steps, opt_state = tx.update(grads, opt_state, variables["params"])
    return {**updates, "params": optax.apply_updates(variables["params"], steps)}, opt_state


def train(network: Network, data: Data, epochs: int, tx: Any, rng: np.random.Generator, tick: Any) -> Network:
    variables, opt_state = network.variables, network.opt_state
    for images, labels in data.batches(epochs, rng):
        variables, opt_state = train_step(network.graph, variables, opt_state, images, labels, tx)
        tick()
    return replace(network, variables=variables, opt_state=opt_state)


def accuracy(network: Network, data: Data) -> float:
    logits = predict(network.graph, network.variables, data.test_images)
    return float((logits.argmax(-1) == data.test_labels).mean())


# -- The changes: each takes the graph and its variables, and returns a mutation --------------------------------------


def shrink_one(graph: nas.Graph, variables: Any) -> nas.Mutation:
    """`inner` loses exactly 8 neurons. By default those with the smallest weights go."""
    return nas.delta_nout(graph, variables, {"inner": -8})


def shrink_several(graph: nas.Graph, variables: Any) -> nas.Mutation:
    """`hidden` gets exactly 96 neurons, and `stem` about 25: whatever is tied to it follows."""
    return nas.delta_nout(graph, variables, {"hidden": nas.to(96), "stem": nas.relaxed(nas.to(25))})


def prune_globally(graph: nas.Graph, variables: Any) -> nas.Mutation:
    """Drop what is weak compared with the rest of its layer, wherever it is: negative utility means "rather go"."""
    utility = {axis: score / score.mean() - 0.9 for axis, score in nas.magnitude(graph, variables).items()}
    return nas.resize(graph, variables, utility=utility)


def grow(graph: nas.Graph, variables: Any) -> nas.Mutation:
    """New neurons read random weights and are read by zeros: the outputs stay, and the neurons can learn."""
    return nas.delta_nout(graph, variables, {"fine": +16})


def insert_layer(graph: nas.Graph, variables: Any) -> nas.Mutation:
    """A convolution, normalisation and ReLU after the pool. They pass on what arrives, for it is not negative."""

    def extra(x: nas.Vertex) -> nas.Vertex:
        return relu("extra_relu", convolve("extra", x.nout, 3, x))

    return nas.insert_vertex(graph, variables, "pool", extra)


def remove_layer(graph: nas.Graph, variables: Any) -> nas.Mutation:
    """`coarse` reads what `squeeze` had read. It had fewer inputs, so the sizes are aligned."""
    return nas.remove_vertex(graph, variables, "squeeze")


def add_residual(graph: nas.Graph, variables: Any) -> nas.Mutation:
    """A second shortcut in the block, around `outer` alone. What is added must be equally wide: `inner` follows."""
    return nas.create_edge(graph, variables, "inner_relu", "sum")


def remove_residual(graph: nas.Graph, variables: Any) -> nas.Mutation:
    """The shortcut around the whole block goes."""
    return nas.remove_edge(graph, variables, "stem_relu", "sum")


STEPS = {
    "shrink one layer": shrink_one,
    "shrink several": shrink_several,
    "prune globally": prune_globally,
    "grow": grow,
    "insert a layer": insert_layer,
    "remove a layer": remove_layer,
    "add a residual edge": add_residual,
    "remove a residual edge": remove_residual,
}


def mutate(network: Network, step: Any, images: np.ndarray) -> Network:
    """Change the network. The optimizer keeps what it knows of the neurons that stay; it does not start again."""
    mutation = step(network.graph, network.variables)
    mutation.check(images)  # outputs equal those of the original whose dropped neurons are zero, or an exception
    return Network(*mutation, mutation.carry(network.opt_state))


# -- What is shown -----------------------------------------------------------------------------------------------------

COLUMNS = {"step": 22, "what changed": 28, "parameters": 10, "before": 6, "after": 6}


def row(*cells: str, style: str = "") -> Table:
    """One line of a table that grows as the run goes on, on a terminal or in a file."""
    line = Table.grid(padding=(0, 2, 0, 0))
    for i, width in enumerate(COLUMNS.values()):
        line.add_column(width=width, justify="left" if i < 2 else "right")
    line.add_row(*cells, style=style)
    return line


def changed(before: Network, after: Network) -> list[str]:
    """Layers that have another size, are new or are gone; vertices that read another number of vertices."""
    old, new = layers(before), layers(after)
    lines = [f"{name} {old[name]} → {size}" for name, size in new.items() if size != old.get(name, size)]
    lines += [f"{name} is new, {new[name]} wide" for name in new if name not in old]
    lines += [f"{name} is gone" for name in old if name not in new]
    for vertex in after.graph.vertices:
        reads, read = len(vertex.inputs), len(before.graph[vertex.name].inputs) if vertex.name in before.graph else None
        if read not in (None, reads):
            lines.append(f"{vertex.name} reads {read} → {reads} vertices")
    return lines


def layers(network: Network) -> dict[str, int]:
    """How many neurons each layer with weights makes."""
    params = network.variables["params"]
    return {name: network.graph.nout(name) for name in params if "kernel" in params[name]}


def difference(before: Network, after: Network, images: np.ndarray) -> float:
    """The largest absolute difference of an output."""
    old, new = (predict(network.graph, network.variables, images) for network in (before, after))
    return float(jnp.abs(old - new).max())


def main() -> None:
    console, data, rng = Console(), Data.load(), np.random.default_rng(0)
    tx = optimizer(data.batches_per_epoch, changes=len(STEPS))
    graph = build()
    variables = graph.init(jax.random.key(0), data.train_images[:1])
    network = Network(graph, variables, tx.init(variables["params"]))

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        epochs = FIRST_EPOCHS + EPOCHS * len(STEPS)
        bar = progress.add_task("train", total=epochs * data.batches_per_epoch)
        tick = partial(progress.advance, bar)

        console.print(row(*COLUMNS, style="bold"))
        network = train(network, data, FIRST_EPOCHS, tx, rng, tick)
        console.print(row("train", "", f"{network.size:,}", "", f"{accuracy(network, data):.4f}"))
        for name, step in STEPS.items():
            progress.update(bar, description=name)
            original, network = network, mutate(network, step, data.test_images)
            lines, before = changed(original, network), accuracy(network, data)
            if step in (grow, insert_layer):  # these promise to keep the function
                lines.append(f"outputs differ by {difference(original, network, data.test_images):.1g}")
            network = train(network, data, EPOCHS, tx, rng, tick)
            cells = name, "\n".join(lines), f"{network.size:,}", f"{before:.4f}", f"{accuracy(network, data):.4f}"
            console.print(row(*cells))


if __name__ == "__main__":
    main()
