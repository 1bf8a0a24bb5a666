"""Adafactor's second moments: one row and one column statistic in place of a full one.

For a parameter of shape S whose two largest dimensions are d1 <= d0, optax's ``FactoredState`` holds ``v_row``, the
mean over d0, and ``v_col``, the mean over d1, if S[d1] reaches ``min_dim_size_to_factor``; else the full ``v``. What is
not used has shape (1,). A change of sizes may turn one into the other, or swap d0 and d1: then the old numbers mean
something else, and the statistic starts again.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from naivenas_jax.errors import CarryError
from naivenas_jax.transfer.carrying.key_paths import KeyPath
from naivenas_jax.transfer.carrying.states import StateField
from naivenas_jax.transfer.take import Sources

T = TypeVar("T")

FIELDS = frozenset({("FactoredState", field) for field in ("v_row", "v_col", "v")})
UNUSED = (1,)
OPTAX_THRESHOLD = 128


@dataclass(frozen=True)
class Threshold:
    """What one state shows of its ``min_dim_size_to_factor`` t: ``above < t <= most``.

    Attributes:
      above: a size that it is above.
      most: a size that it does not exceed.
    """

    above: int = 0
    most: int | float = math.inf

    @classmethod
    def seen_in(cls, parameters: Iterable[tuple[tuple[int, ...], bool]]) -> Threshold:
        """From (shape, is it factored?) of each parameter with at least two dimensions."""
        seen = [(sorted(shape)[-2], factored) for shape, factored in parameters if len(shape) >= 2]
        return cls(
            max((size for size, factored in seen if not factored), default=0),
            min((size for size, factored in seen if factored), default=math.inf),
        )

    def factors(self, shape: tuple[int, ...], label: str) -> bool:
        """Whether a parameter of this shape is factored: what the state proves, else with optax's default."""
        if len(shape) < 2 or (size := sorted(shape)[-2]) <= self.above:
            return False
        if size >= self.most:
            return True
        if self.above < OPTAX_THRESHOLD <= self.most:
            return size >= OPTAX_THRESHOLD
        raise CarryError(
            f"{label} belongs to a parameter whose new shape is {shape}. Whether Adafactor factors it depends on "
            f"min_dim_size_to_factor, of which the state shows only that it is above {self.above} and at most "
            f"{self.most}. Pass fresh=tx.init(new_params)."
        )


def thresholds(found: Iterable[tuple[StateField, tuple[int, ...], tuple[int, ...]]]) -> Mapping[KeyPath, Threshold]:
    """For each factored state, by key path, its threshold; from (owner, statistic's shape, parameter's shape)."""
    by_state: dict[KeyPath, list[tuple[tuple[int, ...], bool]]] = defaultdict(list)
    for owner, shape, parameter in found:
        if owner.field == "v":  # the only field whose shape alone tells for every parameter
            by_state[owner.keys].append((parameter, bool(is_factored("v", shape, parameter))))
    return {keys: Threshold.seen_in(parameters) for keys, parameters in by_state.items()}


def statistic_shape(field: str, parameter: tuple[int, ...], factored: bool) -> tuple[int, ...]:
    """The shape of ``v_row``, ``v_col`` or ``v`` for a parameter of this shape.

    >>> statistic_shape("v_row", (3, 200, 300), True), statistic_shape("v_col", (3, 200, 300), True)
    ((3, 200), (3, 300))
    """
    if field == "v":
        return UNUSED if factored else parameter
    return _without(parameter, reduced(field, parameter)) if factored else UNUSED


def is_factored(field: str, shape: tuple[int, ...], parameter: tuple[int, ...]) -> bool | None:
    """Whether a statistic of this shape belongs to a factored parameter; None: it does not belong to it at all."""
    for factored in (False, True)[: 1 + (len(parameter) >= 2)]:
        if statistic_shape(field, parameter, factored) == shape:
            return factored
    return None


def statistic_sources(
    field: str, before: tuple[int, ...], after: tuple[int, ...], was: bool, will: bool, sources: Sources
) -> Sources | str:
    """The sources to index a statistic with, from its parameter's; or the reason why it has to start again."""
    if was != will:
        verb = "is now" if will else "is no longer"
        return f"its parameter {verb} factored: the shape went from {before} to {after}"
    if was == (field == "v"):  # not used, before or after
        return [None]
    if not was:
        return sources
    if _largest(before) != _largest(after):
        return f"the two largest dimensions of its parameter were {_largest(before)}, and are now {_largest(after)}"
    return list(_without(tuple(sources), reduced(field, before)))


def _largest(shape: tuple[int, ...]) -> tuple[int, int]:
    """(d1, d0) with the order among equal sizes that optax's ``factored_dims`` has."""
    d1, d0 = np.argsort(shape)[-2:]
    return int(d1), int(d0)


def reduced(field: str, parameter: tuple[int, ...]) -> int:
    """The dimension of a parameter that a row or column statistic is the mean over."""
    d1, d0 = _largest(parameter)
    return d0 if field == "v_row" else d1


def _without(items: Sequence[T], dim: int) -> tuple[T, ...]:
    return (*items[:dim], *items[dim + 1 :])
