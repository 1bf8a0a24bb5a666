"""Transfer learning: train on the digits 0 to 4, then give the network a new head for all ten and train on.

    python examples/transfer.py [--quick]

Needs the extras `.[examples]` and no download: scikit-learn ships the digits. The run takes about half a minute on two
cores. After the first training the stem is frozen, the head is replaced, a hidden layer grows, and at last the stem
grows too: its old filters rest, the new ones learn. The optimizer's state follows every change. Each row of the table
is one step: what changed, how many parameters are trained, and the accuracy on held-out images before and after.
"""

import logging
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

EPOCHS = 1 if "--quick" in sys.argv else 10  # after each step
BATCH = 64

STEM = ("stem", "stem_norm")  # what is frozen

halve = partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2))


def mean_over_positions(x: jax.Array) -> jax.Array:
    return x.mean((1, 2))


def build(classes: int) -> nas.Graph:
    """A stem of one convolution, a second one, a hidden layer and a head."""
    image = nas.input_vertex("image", 1, shape=(8, 8, 1))
    stem = nas.layer("stem_norm", nn.LayerNorm(), nas.layer("stem", nn.Conv(16, (3, 3)), image))
    pooled = nas.invariant_vertex("pool", halve, nas.invariant_vertex("stem_relu", nn.relu, stem))
    body = nas.invariant_vertex("body_relu", nn.relu, nas.layer("body", nn.Conv(24, (3, 3)), pooled))
    hidden = nas.layer("hidden", nn.Dense(32), nas.invariant_vertex("mean", mean_over_positions, body))
    return nas.Graph(image, nas.layer("head", nn.Dense(classes), nas.invariant_vertex("hidden_relu", nn.relu, hidden)))


# -- Data: the same images twice, with the digits 0 to 4 only and all of them ------------------------------------------


@dataclass(frozen=True)
class Data:
    train_images: np.ndarray
    test_images: np.ndarray
    train_labels: np.ndarray
    test_labels: np.ndarray

    @classmethod
    def load(cls) -> "Data":
        images, labels = load_digits(return_X_y=True)
        images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
        return cls(*train_test_split(images, labels, test_size=540, stratify=labels, random_state=0))

    def below(self, digit: int) -> "Data":
        train, test = self.train_labels < digit, self.test_labels < digit
        return Data(self.train_images[train], self.test_images[test], self.train_labels[train], self.test_labels[test])

    @property
    def batches_per_epoch(self) -> int:
        return len(self.train_labels) // BATCH

    def batches(self, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for _ in range(EPOCHS):
            order = rng.permutation(len(self.train_labels))[: self.batches_per_epoch * BATCH]
            for rows in np.split(order, self.batches_per_epoch):
                yield self.train_images[rows], self.train_labels[rows]


# -- Training: the mask says which entries of the parameters rest ------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """All that changes together. ``frozen`` has a bool for each entry of the parameters."""

    graph: nas.Graph
    variables: dict[str, Any]
    opt_state: Any
    frozen: Any

    @property
    def trained(self) -> int:
        """How many parameters are trained."""
        return sum(int((~flags).sum()) for flags in jax.tree.leaves(self.frozen))

    def __sub__(self, other: "Network") -> list[str]:
        """Layers that have another width than in ``other``."""
        widths = ((v.name, other.graph.nout(v.name), v.nout) for v in self.graph.vertices)
        return [f"{name} {old} → {new}" for name, old, new in widths if old != new and name in self.frozen]


tx = optax.adam(2e-3)


@jax.jit
def train_step(graph: nas.Graph, variables: Any, opt_state: Any, frozen: Any, images: Any, labels: Any) -> Any:
    def loss(params: Any) -> jax.Array:
        logits = graph.apply({"params": params}, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    params = variables["params"]
    updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
    updates = jax.tree.map(lambda update, rests: jnp.where(rests, 0, update), updates, frozen)
    return {"params": optax.apply_updates(params, updates)}, opt_state


def train(network: Network, data: Data, rng: np.random.Generator, tick: Any) -> Network:
    variables, opt_state = network.variables, network.opt_state
    for images, labels in data.batches(rng):
        variables, opt_state = train_step(network.graph, variables, opt_state, network.frozen, images, labels)
        tick()
    return replace(network, variables=variables, opt_state=opt_state)


predict = jax.jit(nas.apply)


def accuracy(network: Network, data: Data) -> float:
    logits = predict(network.graph, network.variables, data.test_images)
    return float((logits.argmax(-1) == data.test_labels).mean())


# -- The steps ---------------------------------------------------------------------------------------------------------


def follow(network: Network, mutation: nas.Mutation) -> Network:
    """The optimizer's state and the mask, brought into the new shape; new neurons are free."""
    return Network(*mutation, mutation.carry(network.opt_state), mutation.carry(network.frozen))


def freeze_the_stem(network: Network) -> Network:
    return replace(network, frozen=nas.freeze_mask(network.graph, network.variables, STEM, entries=True))


def new_head(network: Network) -> Network:
    """Ten digits in place of five. The head starts anew; the moments of all other layers live on."""
    ten = nas.to(10, keep=())  # keep=range(5) would keep the five that it knows
    return freeze_the_stem(follow(network, nas.delta_nout(network.graph, network.variables, {"head": ten})))


def grow_hidden(network: Network) -> Network:
    """What is asked for may not be had: then the nearest that can."""
    multiples = nas.multiple_of("hidden", 16).because("a full vector unit")
    return follow(
        network,
        nas.delta_nout(
            network.graph,
            network.variables,
            {"hidden": 20},
            constraints=multiples,
            fallback=[nas.fallback.log(logging.INFO), nas.fallback.relax],
        ),
    )


def grow_stem(network: Network) -> Network:
    """Eight more filters beside the frozen ones. LayerNorm couples them, so that outputs may change a little."""
    return follow(network, nas.delta_nout(network.graph, network.variables, {"stem": 8}))


STEPS = {"new head, stem frozen": new_head, "grow hidden": grow_hidden, "grow the frozen stem": grow_stem}


# -- What is shown -----------------------------------------------------------------------------------------------------

COLUMNS = {"step": 22, "what changed": 18, "trained": 7, "before": 6, "after": 6}


def row(*cells: str, style: str = "") -> Table:
    """One line of a table that grows as the run goes on, on a terminal or in a file."""
    line = Table.grid(padding=(0, 2, 0, 0))
    for i, width in enumerate(COLUMNS.values()):
        line.add_column(width=width, justify="left" if i < 2 else "right")
    line.add_row(*cells, style=style)
    return line


def main() -> None:
    console, data, rng = Console(), Data.load(), np.random.default_rng(0)
    few = data.below(5)
    graph = build(classes=5)
    variables = graph.init(jax.random.key(0), data.train_images[:1])
    nothing = nas.freeze_mask(graph, variables, (), entries=True)
    network = Network(graph, variables, tx.init(variables["params"]), nothing)

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        total = EPOCHS * (few.batches_per_epoch + data.batches_per_epoch * len(STEPS))
        bar = progress.add_task("train on 0 to 4", total=total)
        tick = partial(progress.advance, bar)

        console.print(row(*COLUMNS, style="bold"))
        network = train(network, few, rng, tick)
        console.print(row("train on 0 to 4", "", f"{network.trained:,}", "", f"{accuracy(network, few):.4f}"))
        for name, step in STEPS.items():
            progress.update(bar, description=name)
            original, network = network, step(network)
            before, stem = accuracy(network, data), network.variables["params"]["stem"]["kernel"]
            network = train(network, data, rng, tick)
            old = original.graph.nout("stem")
            assert np.array_equal(network.variables["params"]["stem"]["kernel"][..., :old], stem[..., :old])
            cells = name, "\n".join(network - original), f"{network.trained:,}"
            console.print(row(*cells, f"{before:.4f}", f"{accuracy(network, data):.4f}"))


if __name__ == "__main__":
    main()
