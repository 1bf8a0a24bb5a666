"""What a chain of mutations starts from: a random network, and how to recognise it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

import naivenas_jax as nas


@dataclass(frozen=True)
class Subject:
    """A network that is to be mutated.

    Attributes:
      graph, variables: the network, hand-written or imported.
      inputs: arrays, one for each input vertex.
      kind: "vertices", "linen" or "nnx".
      module: of an imported model, the model.
      own: what the model itself computes for its variables and the arrays of its inputs; None if it is hand-written.
      silent: for parameters that are no weights themselves, the number that stands for a weight of 0, by the name of
        the parameter. It is 0 for all others.
      draws: the keys that an evaluation takes.
      described: what it is made of, in words.
      join: the arguments of the model, from the arrays of its inputs.
    """

    graph: nas.Graph
    variables: Any
    inputs: tuple[np.ndarray, ...]
    kind: str
    module: Any = None
    own: Callable[..., Any] | None = None
    silent: Mapping[str, float] = field(default_factory=dict)
    draws: Mapping[str, jax.Array] = field(default_factory=dict)
    described: str = ""
    join: Callable[[Sequence[Any]], tuple[Any, ...]] = tuple


def filled(shapes: Any, seed: int) -> Any:
    """Variables of these shapes, random everywhere: biases, scales and statistics too."""
    generator = np.random.default_rng(seed)

    def value(path: Any, leaf: Any) -> Any:
        name = str(getattr(path[-1], "key", path[-1]))
        if not np.issubdtype(leaf.dtype, np.floating):
            return np.zeros(leaf.shape, leaf.dtype)
        array = generator.normal(size=leaf.shape) * 0.5
        if name in ("var", "scale"):
            array = np.abs(array) + 0.5
        return array.astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(value, shapes)


def rng_of(*parts: object) -> random.Random:
    """Random numbers that depend on nothing but the parts."""
    return random.Random(":".join(map(str, parts)))
