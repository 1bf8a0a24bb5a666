"""What limits sizes besides ties and requests."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from naivenas_jax.align.problem.budget import Budget
from naivenas_jax.sizes.condition import Condition, Size


@dataclass(frozen=True, kw_only=True)
class Restrictions:
    """What limits sizes besides ties and requests, and which sizes are to be small.

    Attributes:
      frozen: axes none of whose neurons may be dropped or inserted, with the reason.
      reached: the axes that may change at all; None: all.
      equal: pairs of axes whose sizes must agree.
      least: the smallest size of an axis, 1 where not given; a single run of an imported model may be empty.
      insertable: how many neurons an axis may gain at most; no limit where not given.
      conditions: what sizes must satisfy, besides the conditions of the layers.
      objectives: sums of sizes, each to be as small as can be, one after the other, before utility decides.
      budgets: counts that may not exceed a bound.
    """

    frozen: Mapping[str, str] = field(default_factory=dict)
    reached: Collection[str] | None = None
    equal: Collection[tuple[str, str]] = ()
    least: Mapping[str, int] = field(default_factory=dict)
    insertable: Mapping[str, int] = field(default_factory=dict)
    conditions: Collection[Condition] = ()
    objectives: Collection[Size] = ()
    budgets: Collection[Budget] = ()
