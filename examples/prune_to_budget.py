"""Half the parameters, half the multiply-accumulates, sizes in multiples of 8, and at least this accuracy.

    python examples/prune_to_budget.py [--quick] [--svg report.svg] [--frontier frontier.svg]

Needs the extras `.[examples]` and no download: scikit-learn ships the digits, 1,797 grey images of 8 x 8 pixels. The
run takes one to two minutes on two cores. A small network is trained; what a budget would do to it is shown before it
is done; then the ways to keep the accuracy are compared, from none to pruning while training. At last networks of many
sizes are made and measured with images of their own, to see what each costs, and the smallest one of at least some
accuracy is taken. What is printed of the others is measured on 540 more.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
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
TRAINED_ON, BATCH = (200, 50) if QUICK else (800, 100)  # images, and how many of them in a batch
EPOCH = TRAINED_ON // BATCH  # batches
EPOCHS = 2 if QUICK else 15  # of the first training
PRUNING_EPOCHS = 2 if QUICK else 5  # of pruning while training
STEPS = 1 if QUICK else 2  # of `nas.compress`
ENOUGH = 0.95  # the accuracy that the smallest network shall have at least
FRACTIONS = (0.3,) if QUICK else (0.75, 0.5, 0.35, 0.25, 0.15, 0.1)  # of the parameters, from large to small
BISECTIONS = 0 if QUICK else 3  # between the smallest that is good enough and the next one

# What people ask for. Floats are fractions of the present network, whole numbers are absolute.
HALF = {"max_params": 0.5, "max_macs": 0.5, "multiple_of": 8}


# -- The network and its training: nothing here knows of pruning -------------------------------------------------------


def convolve(name: str, features: int, x: nas.Vertex) -> nas.Vertex:
    """A convolution and its batch normalisation."""
    convolved = nas.layer(name, nn.Conv(features, (3, 3), use_bias=False), x)
    return nas.layer(f"{name}_norm", nn.BatchNorm(momentum=0.9), convolved)


def relu(name: str, x: nas.Vertex) -> nas.Vertex:
    return nas.invariant_vertex(name, nn.relu, x)


def build() -> nas.Graph:
    """A stem, a residual block, a wider convolution and a dense layer."""
    image = nas.input_vertex("image", 1, shape=(8, 8, 1))
    stem = relu("stem_relu", convolve("stem", 24, image))
    inner = relu("inner_relu", convolve("inner", 32, stem))
    block = relu("block", (convolve("outer", 24, inner) + stem).named("sum"))
    pool = nas.invariant_vertex("pool", partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2)), block)
    wide = relu("wide_relu", convolve("wide", 64, pool))
    mean = nas.invariant_vertex("mean", lambda x: x.mean((1, 2)), wide)
    hidden = relu("hidden_relu", nas.layer("hidden", nn.Dense(64), mean))
    return nas.Graph(image, nas.layer("digit", nn.Dense(10), hidden))


@dataclass(frozen=True)
class Images:
    images: np.ndarray
    labels: np.ndarray

    def batches(self, epochs: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rng, whole = np.random.default_rng(seed), len(self.labels) // BATCH * BATCH
        for _ in range(epochs):
            for rows in rng.permutation(len(self.labels))[:whole].reshape(-1, BATCH):
                yield self.images[rows], self.labels[rows]


def load() -> tuple[Images, Images, Images]:
    """800 images to train with, if there is time, 457 to choose with, 540 to measure with."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    images, test_images, labels, test_labels = train_test_split(
        images, labels, test_size=540, stratify=labels, random_state=0
    )
    return (
        Images(images[:TRAINED_ON], labels[:TRAINED_ON]),
        Images(images[800:], labels[800:]),
        Images(test_images, test_labels),
    )


# The graph is an argument: a pytree without leaves, so jax compiles once for each new architecture and not per call.
predict = jax.jit(nas.apply)


@partial(jax.jit, static_argnames="tx")
def train_step(graph: nas.Graph, variables: Any, state: Any, masks: Any, batch: Any, tx: Any) -> tuple[Any, Any]:
    """One step of the optimizer. Masks are for pruning in soft mode; None: there are none."""
    images, labels = batch

    def loss(params: Any) -> tuple[jax.Array, Any]:
        now = {**variables, "params": params}
        now = now if masks is None else nas.masked(now, masks)
        logits, updates = graph.apply(now, images, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updates

    grads, updates = jax.grad(loss, has_aux=True)(variables["params"])
    steps, state = tx.update(grads, state, variables["params"])
    return {**updates, "params": optax.apply_updates(variables["params"], steps)}, state


def train(graph: nas.Graph, variables: Any, batches: Any, steps: int) -> Any:
    tx = optax.adam(optax.cosine_decay_schedule(1e-2, steps))
    state = tx.init(variables["params"])
    for batch in batches:
        variables, state = train_step(graph, variables, state, None, batch, tx)
    return variables


def accuracy(graph: nas.Graph, variables: Any, data: Images) -> float:
    return float((predict(graph, variables, data.images).argmax(-1) == data.labels).mean())


# -- Ways to keep the accuracy -----------------------------------------------------------------------------------------


def prune_while_training(graph: nas.Graph, variables: Any, batches: Any, steps: int) -> tuple[nas.Graph, Any]:
    """Hard mode: the budget tightens four times, and the optimizer keeps what it knows of the neurons that stay."""
    tx = optax.adam(optax.cosine_decay_schedule(5e-3, steps))
    state = tx.init(variables["params"])
    schedule = nas.gradual(graph, variables, end=steps // 2, every=steps // 8, **HALF)
    for number, batch in enumerate(batches):
        graph, variables, state = schedule.prune(number, graph, variables, state)
        variables, state = train_step(graph, variables, state, None, batch, tx)
    return graph, variables


def mask_while_training(graph: nas.Graph, variables: Any, batches: Any, steps: int) -> tuple[Any, nas.Mutation]:
    """Soft mode: neurons are masked, shapes stay, and the step is compiled once. At the end what is masked is dropped.

    Returns the masked variables of the whole network, and the small one.
    """
    tx = optax.adam(optax.cosine_decay_schedule(5e-3, steps))
    state = tx.init(variables["params"])
    schedule = nas.gradual(graph, variables, end=steps // 2, every=steps // 8, **HALF)
    soft = nas.Soft.whole(graph, variables)
    for number, batch in enumerate(batches):
        soft = schedule.soft(number, soft, variables)
        variables, state = train_step(graph, variables, state, soft.masks, batch, tx)
    return nas.masked(variables, soft.masks), soft.harden(variables)


def without_training(graph: nas.Graph, variables: Any, images: np.ndarray) -> Iterator[tuple[str, nas.Graph, Any]]:
    """Networks of half the size, with a name each. Images have no labels here."""
    half, batches = nas.resize(graph, variables, **HALF), np.split(images, 4)
    yield "resize", *half
    yield "resize, recalibrate", half.graph, nas.recalibrate(*half, batches)
    yield "resize, compensate", *nas.compensate(half, batches)
    yield "compress", *nas.compress(graph, variables, batches, **HALF, steps=STEPS, refine=0)


def while_training(graph: nas.Graph, variables: Any, batches: Any) -> Iterator[tuple[str, nas.Graph, Any]]:
    """Networks of half the size that were pruned in training. The last two compute the same."""
    steps = PRUNING_EPOCHS * EPOCH
    yield "gradual", *prune_while_training(graph, variables, batches(PRUNING_EPOCHS), steps)
    masked, hardened = mask_while_training(graph, variables, batches(PRUNING_EPOCHS), steps)
    yield "gradual, masked", graph, masked
    yield "the same, hardened", *hardened


def surely(graph: nas.Graph, variables: Any, data: Images) -> float:
    """The accuracy, less two standard errors: a few hundred images tell no more."""
    found = accuracy(graph, variables, data)
    return found - 2 * float(np.sqrt(found * (1 - found) / len(data.labels)))


def frontier(graph: nas.Graph, variables: Any, images: np.ndarray, measure: Callable[..., float]) -> nas.Frontier:
    """Smaller and smaller networks with what is surely their accuracy, more of them around where it is just enough."""
    spare = measure(graph, variables) - ENOUGH
    search = {"loss": spare, "bisections": BISECTIONS} if spare >= 0 else {}
    batches = np.split(images, 4)
    return nas.frontier(
        graph, variables, batches, measure, fractions=FRACTIONS, multiple_of=8, progress=False, **search
    )


# -- What is shown -----------------------------------------------------------------------------------------------------

COLUMNS = {"network": 28, "parameters": 10, "MACs": 9, "widths": 14, "accuracy": 8}


def row(*cells: str, style: str = "") -> Table:
    """One line of a table that grows as the run goes on, on a terminal or in a file."""
    line = Table.grid(padding=(0, 2, 0, 0))
    for name, width in COLUMNS.items():
        line.add_column(width=width, justify="left" if name in ("network", "widths") else "right")
    line.add_row(*cells, style=style)
    return line


def described(name: str, graph: nas.Graph, variables: Any, test: Images) -> Table:
    cost = nas.costs(graph, variables, test.images[:1])
    widths = ", ".join(str(graph.nout(layer)) for layer in ("stem", "inner", "wide", "hidden"))
    return row(name, f"{cost.params:,}", f"{cost.macs:,}", widths, f"{accuracy(graph, variables, test):.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--svg", type=Path, help="where to write the picture of the report")
    parser.add_argument("--quick", action="store_true", help="trainings too short to learn much")
    parser.add_argument("--frontier", type=Path, help="where to write the picture of accuracy against size")
    given = parser.parse_args()
    svg, drawn = given.svg, given.frontier
    console, (training, validation, test) = Console(), load()
    steps = (EPOCHS + 2 * PRUNING_EPOCHS) * EPOCH + 4 + len(FRACTIONS) + BISECTIONS + 2
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("train", total=steps)

        def batches(epochs: int) -> Iterator[Any]:
            return progress_of(training.batches(epochs, seed=0))

        def progress_of(items: Iterable[Any]) -> Iterator[Any]:
            for item in items:
                yield item
                progress.advance(bar)

        graph = build()
        variables = graph.init(jax.random.key(0), training.images[:1])
        variables = train(graph, variables, batches(EPOCHS), EPOCHS * EPOCH)
        report = nas.report(nas.resize(graph, variables, **HALF), training.images[:1])  # the network is as it was
        console.print(report)
        if svg:
            svg.write_text(report.svg())

        console.print(row(*COLUMNS, style="bold"))
        console.print(described("trained", graph, variables, test))
        progress.update(bar, description="prune")
        for found in progress_of(without_training(graph, variables, training.images)):
            console.print(described(*found, test))
        progress.update(bar, description="prune while training")
        outputs = []
        for found in while_training(graph, variables, batches):
            console.print(described(*found, test))
            outputs.append(predict(*found[1:], test.images))
        console.print(f"Outputs of the last two differ by {jnp.abs(outputs[-1] - outputs[-2]).max():.1g} at the most.")

        progress.update(bar, description="search")

        def measure(*network: Any) -> float:
            progress.advance(bar)
            return surely(*network, validation)

        points = frontier(graph, variables, training.images, measure)
        console.print(f"\n{points}\n", highlight=False)
        if drawn:
            drawn.write_text(points.svg())
        good = [point for point in points.points if point.measure >= ENOUGH]
        if not good:
            console.print(f"No smaller network that was tried is surely as good as {ENOUGH}.")
        else:
            smallest = min(good, key=lambda point: point.costs.params).mutation
            console.print(described(f"smallest of at least {ENOUGH}", *smallest, test))


if __name__ == "__main__":
    main()
