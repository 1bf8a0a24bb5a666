"""What the table of accuracies knows of one network."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import naivenas_jax as nas

#: Trained weights are kept here, so that a second run of the benchmark takes them from there.
CACHE = Path(tempfile.gettempdir()) / "naivenas_jax_accuracy"


class Prepared(NamedTuple):
    """A network that can do something, and how well it does it.

    Attributes:
      graph: the network.
      variables: its variables.
      batches: inputs without labels, which re-fitting may see.
      measure: how well a network does on data that neither training nor re-fitting has seen; more is better.
    """

    graph: nas.Graph
    variables: Any
    batches: list[Any]
    measure: Callable[[nas.Graph, Any], float]


class Subject(NamedTuple):
    """A network of the table.

    Attributes:
      what: a line about it.
      measured: what `Prepared.measure` returns.
      prepare: makes it, from a seed.
      shares: shares of the parameters that it is cut to and re-fitted at.
      needs: packages that have to be installed.
      seeds: how many seeds make sense; pretrained networks have one.
    """

    what: str
    measured: str
    prepare: Callable[[int], Prepared]
    shares: tuple[float, ...] = (0.5, 0.25, 0.145, 0.066)
    needs: tuple[str, ...] = ()
    seeds: int = 2


def kept(name: str, train: Callable[[], Any]) -> Any:
    """The variables that training returns, from the cache if they are there."""
    file = CACHE / f"{name}.pkl"
    if not file.exists():
        variables = jax.tree.map(np.asarray, train())
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pickle.dumps(variables))
    return pickle.loads(file.read_bytes())


def in_batches(size: int, *inputs: np.ndarray) -> list[Any]:
    """Inputs, cut into batches."""
    parts = [tuple(one[i : i + size] for one in inputs) for i in range(0, len(inputs[0]), size)]
    return [part[0] if len(inputs) == 1 else part for part in parts]


run = jax.jit(nas.apply)  # compiled once for each graph


def outputs(graph: nas.Graph, variables: Any, batches: Sequence[Any]) -> np.ndarray:
    """What a network returns for all batches."""
    made = [run(graph, variables, *(one if isinstance(one, tuple) else (one,))) for one in batches]
    return np.concatenate([np.asarray(one) for one in made])
