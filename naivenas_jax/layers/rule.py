"""What one layer ties, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: Makes a parameter of an inserted layer such that the layer passes neurons on: ``(shape, passes) -> array``, where
#: ``passes`` of shape (nin, nout) is 1 where an input neuron is to arrive at an output neuron.
Identity = Callable[[tuple[int, ...], np.ndarray], np.ndarray]


@dataclass(frozen=True)
class LayerRule:
    """What a layer ties and how it is resized.

    Attributes:
      leaves: for each variable, by ``"collection/path"``, the pattern of its dimensions (`naivenas_jax.graph.pattern`).
        A layer with a pattern or size that names ``out`` has output neurons of its own (SizeAbsorb); without, its
        output neurons are those of its input (SizeInvariant).
      sizes: for each attribute of the layer that holds a size, the axis it is the size of.
      shapes: for each attribute of an nnx layer that holds the shape of a variable, that variable.
      new: what a per-neuron variable starts at for a new neuron; 0 where not given.
      initialisers: the layer's own initialiser of each variable, ``(key, shape, dtype) -> array``.
      identity: per variable the value that makes the layer compute the identity; None: it cannot. ``{}`` says of a
        layer without variables that it is the identity in evaluation, as dropout is.
      train: how ``train=`` of ``graph.apply`` reaches the layer: ``train -> keyword arguments``.
      coupled: why a neuron of the input that is zero is not the same as one that is not there, or None.
      fixed: why the layer's sizes may not change, or None.
      example: the input shape ``(batch, ..., nin)`` that the layer can be initialised with, without the last axis.
    """

    leaves: Mapping[str, str]
    sizes: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, str] = field(default_factory=dict)
    new: Mapping[str, float] = field(default_factory=dict)
    initialisers: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    identity: Mapping[str, Identity] | None = None
    train: Callable[[bool], Mapping[str, Any]] | None = None
    coupled: str | None = None
    fixed: str | None = None
    example: tuple[int, ...] = (1,)

    @property
    def absorbs(self) -> bool:
        """Whether the output has neurons of its own."""
        words = [word.removeprefix("<") for text in self.leaves.values() for word in text.split()]
        return "out" in words or "out" in self.sizes.values()
