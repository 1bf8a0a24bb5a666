"""Search for networks of handwritten digits that are accurate, small and fast, from a small one on.

    python examples/search.py [--quick] [--generations N] [--objectives error parameters seconds]
                              [--keep FOLDER] [--ray [ADDRESS]]

Needs the extra `.[examples]` and no download: scikit-learn ships the digits. The run takes one to two minutes on two
cores. In each generation the structure of a few networks changes, and the widths of several copies of each; networks of
one structure are trained as one program. NSGA-II keeps 16 networks. What is on the front is printed after each
generation, and drawn in the end beside the most accurate network, into ``search.svg`` in FOLDER.

With ``--keep`` the search is stored in FOLDER after each generation, and the same command goes on from there. With
``--ray`` (the extra `.[search]`) the networks are trained by workers on this machine, or on the cluster of ADDRESS
(``auto``, ``HOST:PORT``). ``--quick`` is too short to find anything.
"""

import argparse
import importlib
import os
import pickle
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from pymoo.core.population import Population as Points
from pymoo.core.problem import Problem
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding
from ray_workers import Trainer, on_ray
from rich.console import Console
from search_picture import draw
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import naivenas_jax as nas

BATCH, TX = 64, optax.adam(1e-2)
STRUCTURE = ("insertion", "removal", "edge_in", "edge_out", "kernel", "activation")
WIDTHS = ("width_up", "width_down")


@dataclass(frozen=True)
class Settings:
    """Numbers of a search."""

    generations: int = 6
    structures: int = 2  # new ones in each generation
    members: int = 8  # networks of each new structure, which differ in widths
    survivors: int = 16
    novelty: float = 0.75  # how often the structure changes
    epochs: int = 3  # of training for each new network
    objectives: tuple[str, ...] = ("error", "parameters", "seconds")  # the first counts most for parents
    seed: int = 0


class Candidate(NamedTuple):
    """A network, which changes its structure has come from, and how it does once it is trained."""

    graph: nas.Graph
    variables: Any
    structure: tuple[str, ...] = ()
    goals: tuple[float, ...] = ()


class State(NamedTuple):
    """After some generations: all networks that were trained, and those that are left."""

    generation: int
    seen: list[Candidate]
    left: list[Candidate]


# -- The space: its functions have names in this module, so that they are the same ones in every process ---------------


def seed_network() -> nas.Graph:
    """A convolution and a dense layer, both narrow."""
    image = nas.input_vertex("image", 1, shape=(8, 8, 1))
    conv = nas.invariant_vertex("conv_relu", nn.relu, nas.layer("conv", nn.Conv(8, (3, 3), (2, 2)), image))
    hidden = nas.invariant_vertex("relu", nn.relu, nas.layer("hidden", nn.Dense(16), nas.flatten("flat", conv)))
    return nas.Graph(image, nas.layer("digit", nn.Dense(10), hidden))


def dense_block(x: nas.Vertex) -> nas.Vertex:
    """A dense layer with a shortcut, so that edges can come and go."""
    dense = nas.invariant_vertex("block_relu", nn.relu, nas.layer("block", nn.Dense(x.nout), x))
    return (x + dense).named("sum")


DENSE = (8, 12, 16, 24, 32, 48)
SPACE = nas.SearchSpace(
    # Without a hidden layer before it, a block is as wide as the images flattened: 16 positions of each channel.
    sizes={"conv*": [4, 6, 8, 12], "hidden*": DENSE, "block*": (*DENSE, 64, 96, 128, 192)},
    makers={"relu": [dense_block], "sum*": [dense_block], "block_relu*": [dense_block]},
    kernels=(2, 3, 5),
    protected=("digit",),
    max_vertices=14,
)


# -- The training step, of all members of a population at once ---------------------------------------------------------


@cache
def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images to train on and to validate with, and their labels."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    return tuple(train_test_split(images, labels, test_size=540, stratify=labels, random_state=0))


def rows(number: int) -> np.ndarray:
    """Which images are in which batch of an epoch."""
    many = len(digits()[2])
    return np.random.default_rng(number).permutation(many)[: many // BATCH * BATCH].reshape(-1, BATCH)


@jax.jit
def epoch(
    population: nas.Population, params: Any, state: Any, batches: Any, images: jax.Array, labels: jax.Array
) -> Any:
    """Each member takes a step for each batch, and is validated; the sum of the losses has the gradient of each."""

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry

        def loss(params: Any) -> jax.Array:
            logits = population.apply({"params": params}, batch[0])
            targets = jnp.broadcast_to(batch[1], logits.shape[:-1])
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean(-1).sum()

        updates, state = jax.vmap(TX.update)(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    params, state = jax.lax.scan(step, (params, state), batches)[0]
    return params, state, (population.apply({"params": params}, images).argmax(-1) != labels).mean(-1)


def train_epoch(population: nas.Population, carry: Any, number: int) -> Any:
    """From variables, optimizer state and errors to those after one more epoch, in the memory of the host."""
    images, others, labels, own = digits()
    batches = images[rows(number)], labels[rows(number)]
    variables, state, _ = (population.variables, population.init(TX), None) if carry is None else carry
    params, state, errors = epoch(population, variables["params"], state, batches, others, own)
    return jax.device_get(({"params": params}, state, errors))


def in_process(populations: Sequence[nas.Population], epochs: int) -> Iterator[Any]:
    """The trainer without Ray."""
    for population in populations:
        carry = None
        for number in range(epochs):
            carry = train_epoch(population, carry, number)
        yield carry


# -- What is minimised -------------------------------------------------------------------------------------------------

OBJECTIVES = ("error", "parameters", "seconds")
evaluate = jax.jit(nas.apply)  # networks of the same sizes and structure share a program


def goals(network: tuple[nas.Graph, Any], error: float, objectives: Sequence[str]) -> tuple[float, ...]:
    measures = {
        "error": lambda: error,
        "parameters": lambda: parameters(*network),
        "seconds": lambda: seconds(*network),
    }
    return tuple(float(measures[name]()) for name in objectives)


def parameters(graph: nas.Graph, variables: Any) -> int:
    return sum(np.size(leaf) for leaf in jax.tree.leaves(variables))


def seconds(graph: nas.Graph, variables: Any) -> float:
    """The fastest of 30 evaluations of all validation images on this machine."""
    _, images, _, _ = digits()
    times = []
    for _ in range(30):
        start = time.perf_counter()
        jax.block_until_ready(evaluate(graph, variables, images))
        times.append(time.perf_counter() - start)
    return min(times)


# -- The search --------------------------------------------------------------------------------------------------------


def search(settings: Settings, train: Trainer = in_process, state: State | None = None) -> Iterator[State]:
    """The state after each generation, from the first or the given one on."""
    if state is None:
        graph = seed_network()
        variables = jax.jit(graph.init)(jax.random.key(settings.seed), digits()[0][:1])
        state = State(0, [], [Candidate(graph, variables)])
    # All sizes of a structure together: networks as small as these are trained faster than they are compiled.
    shapes: Any = {"ratio": 100, "ladder": (12, 48, 192), "count": settings.members}
    while state.generation < settings.generations:
        new = children(state, settings)
        networks = [each[:2] for each in new]
        # The trainer takes all populations at once, so that those of Ray are trained at a time.
        found = nas.train_members(
            train_epoch, networks, map=lambda _, populations, states: train(populations, settings.epochs), **shapes
        )
        scores = [goals(each[:2], each.result, settings.objectives) for each in found]
        new = [each._replace(variables=f.variables, goals=g) for each, f, g in zip(new, found, scores, strict=True)]
        left = survivors([*state.left, *new] if state.seen else new, settings)
        state = State(state.generation + 1, [*state.seen, *new], left)
        yield state


def children(state: State, settings: Settings) -> list[Candidate]:
    """Of two parents of one structure: most often its structure changes, and in copies of it the widths do."""
    rng, found = np.random.default_rng([settings.seed, state.generation]), []
    for key in jax.random.split(jax.random.key(rng.integers(2**31)), settings.structures):
        mother = min((state.left[i] for i in rng.integers(len(state.left), size=3)), key=lambda each: each.goals)
        mates = [each for each in state.left if each.structure == mother.structure]
        first, structure = nas.crossover(mother[:2], mates[rng.integers(len(mates))][:2], key), mother.structure
        if rng.random() < settings.novelty:
            first = nas.random_mutation(*first, key, STRUCTURE, space=SPACE)
            structure += first.notes[:1]
        keys = jax.random.split(key, settings.members - 1)
        widths = [nas.random_mutation(*first, each, WIDTHS, space=SPACE) for each in keys]
        found += [Candidate(*each, structure) for each in (first, *widths)]
    return found


def survivors(candidates: Sequence[Candidate], settings: Settings) -> list[Candidate]:
    """NSGA-II: front by front, and of the last one those that lie far from others."""
    table = np.array([each.goals for each in candidates])
    points = Points.new(X=np.arange(len(table))[:, None], F=table)
    rng, many = np.random.default_rng(settings.seed), min(settings.survivors, len(table))
    kept = RankAndCrowding().do(Problem(n_obj=table.shape[1]), points, n_survive=many, random_state=rng)
    return [candidates[int(point.X[0])] for point in kept]


# -- What is kept and shown --------------------------------------------------------------------------------------------


def store(path: Path, settings: Settings, state: State) -> None:
    """All at once: whoever is killed while writing leaves what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".new").write_bytes(pickle.dumps((settings, jax.device_get(state))))
    os.replace(path.with_suffix(".new"), path)


def stored(path: Path, settings: Settings) -> State | None:
    """Where the same search, of fewer or more generations, was when it ended."""
    if not path.exists():
        return None
    before, state = pickle.loads(path.read_bytes())
    if replace(before, generations=settings.generations) != settings:
        raise SystemExit(f"{path} has another search: {before}. Choose another folder.")
    return state


def line(state: State, settings: Settings) -> str:
    best = min(state.left, key=lambda each: each.goals)
    found = ", ".join(f"{name} {value:.4g}" for name, value in zip(settings.objectives, best.goals, strict=True))
    return f"generation {state.generation}: {len(state.seen)} trained; the best has {found}; {best.structure[-1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--generations", type=int, default=Settings.generations)
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=Settings.objectives)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--ray", nargs="?", const="local", metavar="ADDRESS")
    options = parser.parse_args()
    settings = Settings(generations=options.generations, objectives=tuple(options.objectives))
    if options.quick:
        settings = replace(settings, generations=min(2, options.generations), structures=1, members=3, epochs=1)
    folder = options.keep or Path(tempfile.mkdtemp(prefix="search-"))
    console, path = Console(soft_wrap=True), folder / "search.pickle"
    start = state = stored(path, settings)
    if start:
        console.print(f"{path}: {start.generation} generations are done.")
    with on_ray(train_epoch, options.ray) if options.ray else nullcontext(in_process) as train:
        for state in search(settings, train, start):
            store(path, settings, state)
            console.print(line(state, settings))
    draw(state.seen, state.left, settings.objectives, folder / "search.svg")
    console.print(f"drawn: {folder / 'search.svg'}")


if __name__ == "__main__":
    # Imported by name, so that workers and a later run find the functions of the networks where this one does.
    importlib.import_module(Path(__file__).stem).main()
