"""The ties of a whole network: what an analysis of a graph, hand-written or imported, comes down to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
from jaxtyping import Int

from naivenas_jax.paths import Path, is_unnamed
from naivenas_jax.sizes.condition import Condition
from naivenas_jax.sizes.weight_function import WeightFunction
from naivenas_jax.typing import Array

#: A layer's own initialiser of a parameter, ``(key, shape, dtype) -> array``.
Initialiser: TypeAlias = Callable[..., Array]


@dataclass(frozen=True)
class Leaf:
    """One array of the variables, and what lies on its dimensions.

    Attributes:
      axes: for each dimension the axis it lies on, or None if its size is fixed.
      roles: for each dimension "in" (the neurons are read here), "out" (they are made here) or None.
      new: what a per-neuron parameter starts at for a new neuron. None: a weight between neurons.
      init: the layer's own initialiser, if it has one.
      rescaled: a dimension whose size the computation divides by the square root of. Where that size changes, the
        array is multiplied by the root of ``after / before``, which keeps the function.
      looked_up: dimensions of role "in" on which entries are looked up one by one, and not summed over.
      weight: how the array becomes the weight that reads neurons, where that is a function of it (``softplus(w)``);
        None for a weight as it is stored, moved or scaled.
      parameter: whether it is trained, and no statistic or state.
    """

    axes: tuple[str | None, ...]
    roles: tuple[str | None, ...]
    new: float | None = None
    init: Initialiser | None = None
    rescaled: int | None = None
    looked_up: tuple[int, ...] = ()
    weight: WeightFunction | None = field(default=None, compare=False)
    parameter: bool = True

    def shared_out(self, dim: int) -> bool:
        """Whether neurons that are split on a dimension share out what is read there: all are summed over.

        A weight that is a function of the variable has to be divided as the variable is.
        """
        divides = self.weight is None or self.weight.linear
        return divides and self.roles[dim] == "in" and dim not in self.looked_up


@dataclass(frozen=True)
class Ties:
    """Which neurons live and die together, and where they lie. Frozen, and free of arrays of the model.

    A *run* is a range of classes that every axis holds as a whole, so that an axis is a short list of runs.

    Attributes:
      run_sizes: the number of classes in each run.
      axes: for each axis the runs it consists of, in order; a run may occur more than once. Names of axes that nobody
        has named start with ``~``.
      leaves: every array of the variables, by path.
      fixed: runs that may not change, with the reason.
      coupled: axes with neurons for which being zero is not the same as not being there, with the reason.
      coupled_runs: the runs of these neurons, with the reason.
      products: runs whose neurons are all combinations of those of the factors, with the runs of each factor. Such a
        run has no classes of its own: a combination lives while all of its members live.
      conditions: what layers require of sizes besides, such as "a multiple of 8". The present sizes satisfy them.
      indexed: runs whose neurons are looked up by position, such as the words of a vocabulary. Each ends every axis on
        which neurons are looked up, so that what is added there moves no other.
      single: runs whose neurons cannot be split into copies, as one array makes them and reads them, too.
      layers: runs whose neurons are the layers of a stack, which change only if a request names them.
    """

    run_sizes: tuple[int, ...]
    axes: Mapping[str, tuple[int, ...]]
    leaves: Mapping[Path, Leaf]
    fixed: Mapping[int, str]
    coupled: Mapping[str, str]
    products: Mapping[int, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    coupled_runs: Mapping[int, str] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()
    indexed: frozenset[int] = frozenset()
    single: frozenset[int] = frozenset()
    layers: frozenset[int] = frozenset()

    @cached_property
    def parameters(self) -> Mapping[Path, Path]:
        """The parameters, each with its path in the tree that an optimizer is given: below "params" if all are there.

        >>> own = {("l1", "w"): Leaf((), ()), ("params", "new", "w"): Leaf((), ())}
        >>> Ties((), {}, own, {}, {}).parameters["l1", "w"]  # a function's, whose variables have no collections
        ('l1', 'w')
        >>> Ties((), {}, {("params", "l1", "w"): Leaf((), ())}, {}, {}).parameters
        {('params', 'l1', 'w'): ('l1', 'w')}
        """
        paths = [path for path, leaf in self.leaves.items() if leaf.parameter]
        return {path: path[1:] if self.in_collections else path for path in paths}

    @cached_property
    def in_collections(self) -> bool:
        """Whether all parameters are in the collection "params"; else variables as a whole are what is trained."""
        return all(path[0] == "params" for path, leaf in self.leaves.items() if leaf.parameter)

    def counts_layers(self, axis: str) -> bool:
        """Whether an axis is a stack of layers."""
        return bool(self.layers) and not self.layers.isdisjoint(self.axes[axis])

    def plain(self, runs: Iterable[int]) -> frozenset[int]:
        """Some runs, with the runs of its factors in place of each product: only these have classes of their own."""
        found, todo = set(), list(runs)
        while todo:
            run = todo.pop()
            if run in self.products:
                todo.extend(factor for row in self.products[run] for factor in row)
            else:
                found.add(run)
        return frozenset(found)

    def length(self, runs: Iterable[int]) -> int:
        """The number of neurons on some runs together: on an axis, or on a factor of a product."""
        return sum(self.run_sizes[run] for run in runs)

    @cached_property
    def starts(self) -> Int[np.ndarray, " boundaries"]:
        """Shape (runs + 1,): the number of the first class of each run, and the number of all classes.

        The classes of run ``r`` are ``range(starts[r], starts[r + 1])``.
        """
        starts = np.concatenate([[0], np.cumsum(self.run_sizes)]).astype(np.int64)
        starts.setflags(write=False)
        return starts

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """The number of neurons on every axis. It is the same value at each call, and nobody changes it."""
        return {axis: self.length(runs) for axis, runs in self.axes.items()}

    def size(self, axis: str) -> int:
        """The number of neurons on one axis."""
        return self.sizes[axis]

    @cached_property
    def dims(self) -> Mapping[Path, tuple[str | None, ...]]:
        """The axes that every array of the variables lies on. It is the same value at each call."""
        return {path: leaf.axes for path, leaf in self.leaves.items()}

    @cached_property
    def shapes(self) -> Mapping[Path, tuple[int | None, ...]]:
        """The shape of every array of the variables; None: a dimension may have any size."""
        return leaf_shapes(self.dims, self.sizes)

    @cached_property
    def rescaled(self) -> dict[Path, int]:
        """For each leaf that follows the root of the size of one of its dimensions, that dimension."""
        return {path: leaf.rescaled for path, leaf in self.leaves.items() if leaf.rescaled is not None}

    def resized(self, changed: Mapping[int, int]) -> Ties:
        """The same ties with other sizes of some runs. Whether their rows hold for these sizes is not looked at.

        Args:
          changed: those runs, which are no products, with their sizes. A product gets as many combinations as its
            factors then have.

        >>> ties = Ties((6, 2, 3), {"all": (0,), "a": (1,), "b": (2,)}, {}, {}, {}, {0: ((1,), (2,))})
        >>> ties.resized({1: 5}).run_sizes
        (15, 5, 3)
        """
        known: dict[int, int] = {}

        def size(run: int) -> int:
            if run not in known:
                factors = self.products.get(run)
                own = changed.get(run, self.run_sizes[run])
                known[run] = own if factors is None else math.prod(sum(map(size, row)) for row in factors)
            return known[run]

        return replace(self, run_sizes=tuple(map(size, range(len(self.run_sizes)))))

    def sizes_with(self, changed: Mapping[int, int]) -> Mapping[str, int]:
        """The number of neurons on every axis if some runs had other sizes; see `resized`.

        >>> ties = Ties((2, 3), {"a": (0,), "both": (0, 1)}, {}, {}, {})
        >>> dict(ties.sizes_with({0: 5}))
        {'a': 5, 'both': 8}
        """
        return self.resized(changed).sizes

    def changeable(self) -> frozenset[str]:
        """The axes on which some neuron may be dropped or added: not all of their runs are fixed."""
        return frozenset(axis for axis, row in self.axes.items() if self.plain(row) - self.fixed.keys())

    def changed_runs(self, changed: Collection[str], among: Iterable[str] | None = None) -> dict[int, str]:
        """The runs in which neurons were dropped or added, each with an axis that holds it.

        An axis that did not change kept all its neurons, and so did its runs: where heads go, the features of a head
        stay. Unless that is so of all runs of an axis that did change: then an edit of the structure has parted it from
        the others, as a wider layer inserted between two does, and any of its runs may have changed.
        Of several axes that hold a run, one that a user knows by name comes first.

        Args:
          changed: all axes that changed. Those that the ties do not have (the windows of kernels) hold no runs.
          among: the axes whose runs are wanted; all that changed where not given.
        """
        kept = {run for axis, row in self.axes.items() if axis not in changed for run in self.plain(row)}
        found: dict[int, str] = {}
        for axis in sorted(changed if among is None else among, key=is_unnamed):
            runs = self.plain(self.axes.get(axis, ()))
            for run in sorted(runs - kept or runs):
                found.setdefault(run, axis)
        return found

    def changed_coupled(self, changed: Collection[str]) -> dict[str, str]:
        """Axes with coupled runs that changed, and why these are coupled; one axis for each such run.

        Args:
          changed: all axes that changed, as for `changed_runs`.
        """
        found: dict[str, str] = {}
        for run, axis in self.changed_runs(changed).items() if self.coupled_runs else ():
            if run in self.coupled_runs:
                found.setdefault(axis, self.coupled_runs[run])
        return found

    def index_axis(self, run: int) -> str:
        """The axis on which neurons of a run are looked up: the shortest one that holds it, with a name if possible."""
        holders = [axis for axis, row in self.axes.items() if run in row]
        return min(holders, key=lambda axis: (len(self.axes[axis]), is_unnamed(axis)))

    def same_indices(self, axis: str) -> frozenset[str]:
        """The axes that hold the same neurons as this one, if these are looked up by position; this one among them."""
        row = self.axes.get(axis, ())
        if self.indexed.isdisjoint(row):
            return frozenset((axis,))
        return frozenset(other for other, runs in self.axes.items() if runs == row)

    def reach(self, names: Iterable[str]) -> frozenset[str]:
        """The axes that may have to change when those of ``names`` do.

        These share runs or a condition with one of them, or with another one that is reached.
        """
        links, holders = self._links
        reached, followed, todo = set(names), set[int | Condition](), list(names)
        while todo:
            for link in links[todo.pop()]:
                if link in followed:
                    continue
                followed.add(link)
                fresh = [axis for axis in holders[link] if axis not in reached]
                reached.update(fresh)
                todo.extend(fresh)
        return frozenset(reached)

    @cached_property
    def _links(self) -> tuple[Mapping[str, list[int | Condition]], Mapping[int | Condition, list[str]]]:
        """The runs and conditions of each axis, and the axes of each of these."""
        holders: dict[int | Condition, list[str]] = {}
        plain = {runs: self.plain(runs) for runs in {*self.axes.values()}}  # many axes hold the same runs
        links: dict[str, list[int | Condition]] = {axis: list(plain[runs]) for axis, runs in self.axes.items()}
        for condition in self.conditions:
            for axis in condition.axes:
                links[axis].append(condition)
        for axis, own in links.items():
            for link in own:
                holders.setdefault(link, []).append(axis)
        return links, holders

    @cached_property
    def counts(self) -> Mapping[str, tuple[tuple[int, int], ...]]:
        """For each axis without products its runs, sorted, and how often it holds each."""
        plain = {axis: row for axis, row in self.axes.items() if self.products.keys().isdisjoint(row)}
        found = {row: tuple(sorted(Counter(row).items())) for row in set(plain.values())}
        return {axis: found[row] for axis, row in plain.items()}


def leaf_shapes(
    leaves: Mapping[Path, tuple[str | None, ...]], sizes: Mapping[str, int]
) -> dict[Path, tuple[int | None, ...]]:
    """The shapes of arrays whose dimensions lie on axes of some sizes; None: a dimension that lies on none.

    >>> leaf_shapes({("params", "a", "kernel"): (None, "a")}, {"a": 2})
    {('params', 'a', 'kernel'): (None, 2)}
    """
    return {path: tuple(None if axis is None else sizes[axis] for axis in axes) for path, axes in leaves.items()}
