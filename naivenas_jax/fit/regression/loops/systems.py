"""The least-squares problems of one round of a loop: its sums of products now, and the same before a mutation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import groupby
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Int

from naivenas_jax.align.axis_plan import NEW
from naivenas_jax.align.plan import Plan
from naivenas_jax.dataflow.loops.entry_origins import Entries
from naivenas_jax.dataflow.loops.joint_sums import JointSum, Round


class Read(NamedTuple):
    """What one group of a product reads.

    Attributes:
      product: the number of the product.
      group: the group.
      rows: for each column of X the one of the product that it is; NEW: zeros.
    """

    product: int
    group: int
    rows: Int[np.ndarray, " K"]


class Made(NamedTuple):
    """Some columns of a sum.

    Attributes:
      value: the number of the sum.
      places: for each row and column its place in the flattened sum.
    """

    value: int
    places: Int[np.ndarray, "N J"]


@dataclass(frozen=True, eq=False)
class Reading:
    """How X and Y are read in one of the two networks.

    Attributes:
      reads: X, side by side.
      makes: Y, side by side.
    """

    reads: tuple[Read, ...]
    makes: tuple[Made, ...]

    @property
    def alone(self) -> tuple[Reading, ...]:
        """What is read, one reading each."""
        return tuple(replace(self, reads=(read,), makes=self.makes[:1]) for read in self.reads)

    def and_those(self, other: Reading) -> Reading:
        """The same X, and more columns of Y."""
        return Reading(self.reads, (*self.makes, *other.makes))


@dataclass(frozen=True, eq=False)
class System:
    """Sums that read the same.

    Attributes:
      then: how they are read before the mutation, as far as it is there after it.
      now: how they are read after it.
      entries: the numbers of the weights' entries that are fitted.
      shift: for each column the number of the weights' entry that is added; None: there is none.
      carried: which columns of X come from the round before and were there before the mutation.
      level: how many other sums X depends on within the round, one after the other.
      rows: whether the weights are others in every round.
    """

    then: Reading
    now: Reading
    entries: Int[np.ndarray, "K M"]
    shift: Int[np.ndarray, " M"] | None
    carried: Bool[np.ndarray, " K"]
    level: int
    rows: bool


def sources(plan: Plan, now: Entries, then: Entries) -> Int[np.ndarray, " entries"]:
    """For each entry of the variables after a mutation the one that it was before; NEW where there was none.

    Leaves that a mutation multiplies by a number have no source here: what they make is another thing than before.
    """
    found = np.full(now.size, NEW)
    for path, shape in now.shapes.items():
        old = plan.moved.get(path, path)
        if path not in plan.leaves or path in plan.created or old not in then.shapes or plan.factor(path) != 1:
            continue
        dims = zip(shape, plan.leaves[path], strict=True)
        own = [np.arange(n) if axis is None else plan.axes[axis].source for n, axis in dims]
        grid = np.meshgrid(*own, indexing="ij", sparse=True)
        known = reduce(np.logical_and, (place != NEW for place in grid), np.True_)
        places = then.origin(old)[tuple(np.maximum(place, 0) for place in grid)]
        found[now.origin(path)] = np.where(known, places, NEW)
    return found


class State(NamedTuple):
    """What rounds hand on, as it is read of one of the products of the next round.

    Attributes:
      then: how it is read before a mutation, all of it.
      now: how it is read after it.
    """

    then: Reading
    now: Reading


#: What tells whether two sums read the same.
_Key: TypeAlias = tuple[object, ...]


@dataclass(frozen=True, eq=False)
class Matching:
    """The products of a round now, and those of the same round before.

    Attributes:
      now: the round after the mutation.
      then: the round before it.
      source: for each entry of the weights of the round the one that it was before; NEW where there was none, and where
        it is not to be fitted.
    """

    now: Round
    then: Round
    source: Int[np.ndarray, " entries"]

    def systems(self) -> list[System]:
        """The problems whose sums were there before, those that depend on others behind them."""
        found = [pair for joint in self.now.sums if (pair := self._one(joint)) is not None]
        found.sort(key=lambda pair: (pair[1].level, str(pair[0])))
        return [_together([own for _, own in same]) for _, same in groupby(found, key=lambda pair: pair[0])]

    def states(self, systems: Sequence[System]) -> tuple[State, ...]:
        """All that is read of what the round before handed on, once."""
        found: dict[int, State] = {}
        for own in systems:
            for then, now in zip(own.then.alone, own.now.alone, strict=True):
                (read,), (old,) = now.reads, then.reads
                activation = self.now.products[read.product].activation
                if activation in self.now.carried and old.group != NEW:
                    every = np.arange(self.then.products[old.product].weight.shape[1])
                    found.setdefault(activation, State(replace(then, reads=(old._replace(rows=every),)), now))
        return tuple(found.values())

    def _one(self, joint: JointSum) -> tuple[_Key, System] | None:
        """The columns of a sum that were there before; None: there are none."""
        old = [self._before(product, group) for product, group in joint.parts]
        columns = np.stack([of[own] for (_, of), own in zip(old, joint.columns, strict=True)])
        there = self._there(joint, tuple((p, read.group) for (p, _), (read, _) in zip(joint.parts, old, strict=True)))
        at = {} if there is None else {tuple(own): j for j, own in enumerate(there.columns.T.tolist())}
        places = np.array([at.get(tuple(own), NEW) for own in columns.T.tolist()], int)
        kept = np.flatnonzero(places != NEW)
        if there is None or not len(kept):
            return None
        own, stacked = joint.only(kept), self.now.body.stacked
        entries = np.concatenate(self.now.weights(own))
        shift = own.shift
        if shift is not None and ((self.source[shift] == NEW).any() or (stacked[shift] != stacked[entries[0]]).any()):
            shift = None
        if (stacked[entries] != stacked[entries[0, 0]]).any():
            return None
        products = [(self.now.products[p], p, g) for p, g in own.parts]
        reads = tuple(Read(p, g, np.arange(product.weight.shape[1])) for product, p, g in products)
        carried = [(read.rows != NEW) & (p.activation in self.now.carried)
                   for (p, _, _), (read, _) in zip(products, old, strict=True)]  # fmt: skip
        system = System(
            then=Reading(tuple(read for read, _ in old), (Made(there.value, there.places[:, places[kept]]),)),
            now=Reading(reads, (Made(own.value, own.places),)),
            entries=entries,
            shift=shift,
            carried=np.concatenate(carried),
            level=self.now.levels[joint.value],
            rows=bool(stacked[entries[0, 0]]),
        )
        same = [(p.activation, str(self._eqn(p.step)), g, p.weight.shape[1]) for p, _, g in products]
        return (system.level, system.rows, shift is None, *same), system

    def _eqn(self, step: int) -> object:
        return self.now.body.tape.steps[step].eqn.params["dimension_numbers"]

    def _before(self, product: int, group: int) -> tuple[Read, Int[np.ndarray, " M"]]:
        """What a group of a product read before of what it reads now, and the columns that it has from there."""
        old, weight = self.source[self.now.products[product].weight[group]], self.then.products[product].weight
        order = np.argsort(weight, axis=None)
        at = order[np.minimum(np.searchsorted(weight.ravel(), old, sorter=order), weight.size - 1)]
        there = (old != NEW) & (weight.ravel()[at] == old)
        groups, rows, columns = (np.where(there, place, NEW) for place in np.unravel_index(at, weight.shape))
        return Read(product, int(groups.max(initial=NEW)), rows.max(1, initial=NEW)), columns.max(0, initial=NEW)

    def _there(self, joint: JointSum, parts: tuple[tuple[int, int], ...]) -> JointSum | None:
        """The same sum before the mutation, of as many rows."""
        for own in self.then.sums:
            if own.value == joint.value and own.parts == parts and len(own.places) == len(joint.places):
                return own
        return None


def _together(systems: Sequence[System]) -> System:
    """Problems that read the same as one."""
    first = systems[0]
    shifts = [own.shift for own in systems if own.shift is not None]
    return System(
        reduce(Reading.and_those, (own.then for own in systems)),
        reduce(Reading.and_those, (own.now for own in systems)),
        np.concatenate([own.entries for own in systems], 1),
        np.concatenate(shifts) if shifts else None,
        first.carried,
        first.level,
        first.rows,
    )
