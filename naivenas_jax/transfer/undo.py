"""What a change removed, kept so that it can be put back exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

import jax
import numpy as np
from jaxtyping import Shaped

from naivenas_jax.align.axis_plan import NEW, AxisPlan
from naivenas_jax.align.plan import Plan
from naivenas_jax.paths import Path
from naivenas_jax.sizes.ties import Leaf, leaf_shapes
from naivenas_jax.transfer.copies import models_of, multiplicity
from naivenas_jax.transfer.take import HostArray, LeafValue, in_one_piece, placed_like, rescale, to_host
from naivenas_jax.transfer.variables import check_variables, flat, nested, plain, unshared
from naivenas_jax.typing import PyTree, Shape, Variables

Axes: TypeAlias = tuple[AxisPlan | None, ...]
Slices: TypeAlias = tuple[HostArray | None, ...]


@dataclass(frozen=True, eq=False)
class UndoRecord:
    """The removed slices of every leaf, and the leaves that were removed as a whole.

    Of a matrix that loses rows and columns, the rows are kept whole, and of the rest the columns: together exactly the
    entries that the new matrix does not have. Nobody can write to an array of jax, so that nothing is copied when the
    record is made: its slices are cut out of it when they are first asked for.

    Attributes:
      plan: the plan that removed them.
      cut: for each leaf and dimension the entries that were removed there; None where none were.
      removed: leaves that no longer exist.
      leaves: what lies on the dimensions of each leaf, for the graph after the change.
      split: whether new neurons were copies of old ones, and entries that read them were divided among the copies.
      kept: for each leaf that was multiplied by a number, the entries that stayed, as they were before.
      uncut: the whole values of leaves that are not in ``cut`` yet, arrays of jax. As long as they are held here they
        last, even if the array is deleted, or donated to a compiled step.
    """

    plan: Plan
    cut: Mapping[Path, Slices]
    removed: Mapping[Path, LeafValue]
    leaves: Mapping[Path, Leaf]
    split: bool = False
    kept: Mapping[Path, HostArray] = field(default_factory=dict)
    uncut: Mapping[Path, HostArray] = field(default_factory=dict)

    def __reduce__(self) -> tuple[object, ...]:
        """Initialisers, which cannot be pickled, are of no use for what is only put back."""
        bare = {path: replace(leaf, init=None) for path, leaf in self.leaves.items()}
        return UndoRecord, (self.plan, self.slices, self.removed, bare, self.split, self.kept)

    @classmethod
    def of(cls, plan: Plan, variables: Variables, leaves: Mapping[Path, Leaf], split: bool) -> UndoRecord:
        """Record what ``plan`` is about to remove from ``variables``."""
        every = flat(variables)
        arrays = {path: a for path, a in every.items() if path not in plan.removed and not isinstance(a, Shape)}
        changing = [path for path in arrays if not plan.changed.keys().isdisjoint(leaves[path].axes)]
        shrinking = [path for path in changing if _shrinks(plan, leaves[path])]
        uncut = {path: to_host(arrays[path]) for path in shrinking if isinstance(arrays[path], jax.Array)}
        cut = _peeled({path: to_host(arrays[path]) for path in shrinking if path not in uncut}, plan, leaves)
        kept = {
            path: _kept(to_host(array), _axes(plan, leaves[path]))
            for path, array in arrays.items()
            if path in plan.rescaled and plan.factor(path) != 1
        }
        removed = unshared({path: every[path] for path in plan.removed}, every)
        return cls(plan, cut, removed, leaves, split, kept, uncut)

    @cached_property
    def slices(self) -> Mapping[Path, Slices]:
        """For each leaf and dimension the entries that were removed there; None where none were."""
        return {**self.cut, **_peeled(self.uncut, self.plan, self.leaves)}

    def apart(self) -> UndoRecord:
        """The same record, without values that were not removed: for variables that nobody else keeps."""
        return replace(self, cut=self.slices, uncut={})

    def restore(self, variables: Variables) -> dict[str, PyTree]:
        """The variables before the change: kept entries as they are now, removed ones as they were then.

        Args:
          variables: of the network after the change, trained further or not.

        Raises:
          VariablesError: if they belong to another network.
        """
        sizes = {name: axis.after for name, axis in self.plan.axes.items()}
        check_variables(leaf_shapes({path: leaf.axes for path, leaf in self.leaves.items()}, sizes), variables)
        now = flat(variables)
        restored = {
            self.plan.moved.get(path, path): placed_like(self._restored(path, to_host(array)), array)
            for path, array in now.items()
            if path not in self.plan.created
        }
        return nested({**restored, **self.removed})

    def _restored(self, path: Path, array: HostArray) -> HostArray:
        """One variable before the change, from what it is after it."""
        leaf = self.leaves[path]
        axes = _axes(self.plan, leaf)
        for dim, axis in enumerate(axes):
            if axis is None or not axis.new.size:
                continue
            if self.split and leaf.shared_out(dim):  # readers had been divided by the number of copies
                copies = multiplicity(models_of(axis)).reshape([-1 if d == dim else 1 for d in range(array.ndim)])
                array = array * copies.astype(array.dtype)
            array = np.take(array, np.flatnonzero(axis.source != NEW), axis=dim)
        array = self._unscaled(path, array)
        slices = self.slices.get(path, (None,) * array.ndim)
        for dim in reversed(range(array.ndim)):
            axis, removed = axes[dim], slices[dim]
            if axis is not None and removed is not None:
                array = _insert(array, removed, axis, dim)
        return array

    def _unscaled(self, path: Path, array: Shaped[np.ndarray, "*kept"]) -> Shaped[np.ndarray, "*kept"]:
        """Entries that nobody has changed since are what they were, to the last bit; others are divided again."""
        if path not in self.kept:
            return array
        before, factor = self.kept[path], self.plan.factor(path)
        return np.where(array == rescale(before, factor), before, rescale(array, 1 / factor))


def undone(records: Sequence[UndoRecord], variables: Variables) -> dict[str, PyTree]:
    """The variables before several steps, as nested dicts: the last step is undone first.

    Args:
      records: of the steps, in order.
      variables: of the network after the last one.

    Raises:
      VariablesError: if they belong to another network.
    """
    restored = variables
    for record in reversed(records):
        restored = record.restore(restored)
    apart: dict[str, PyTree] = unshared(plain(restored), variables, [record.removed for record in records])
    return apart


def _kept(array: HostArray, axes: Axes) -> HostArray:
    for dim, axis in enumerate(axes):
        array = array if axis is None else np.take(array, axis.kept, axis=dim)
    return array


def _axes(plan: Plan, leaf: Leaf) -> Axes:
    """The plans of the dimensions of a leaf that change."""
    return tuple(None if axis is None else plan.changed.get(axis) for axis in leaf.axes)


def _shrinks(plan: Plan, leaf: Leaf) -> bool:
    return any(axis is not None and axis.dropped.size for axis in _axes(plan, leaf))


def _peeled(arrays: Mapping[Path, HostArray], plan: Plan, leaves: Mapping[Path, Leaf]) -> dict[Path, Slices]:
    """What a plan removes from each array along each dimension, of the entries that dimensions before it have left.

    All of it is kept as long as the record is, so that it lies in one piece of memory.
    """
    axes = {path: _axes(plan, leaves[path]) for path in arrays}
    where = [(path, dim) for path in arrays for dim, axis in enumerate(axes[path]) if axis and axis.dropped.size]
    shapes = [(_removed_shape(arrays[path].shape, axes[path], dim), arrays[path].dtype) for path, dim in where]
    found: dict[Path, list[HostArray | None]] = {path: [None] * array.ndim for path, array in arrays.items()}
    for (path, dim), out in zip(where, in_one_piece(shapes), strict=True):
        found[path][dim] = _peel(arrays[path], axes[path], dim, out)
    return {path: tuple(slices) for path, slices in found.items()}


def _removed_shape(shape: tuple[int, ...], axes: Axes, dim: int) -> tuple[int, ...]:
    """The shape of what is removed along a dimension."""
    left = [size if axis is None else len(axis.kept) for size, axis in zip(shape, axes, strict=True)]
    own = axes[dim]
    return (*left[:dim], 0 if own is None else len(own.dropped), *shape[dim + 1 :])


def _peel(array: HostArray, axes: Axes, dim: int, out: HostArray) -> HostArray:
    """Write what is removed along one dimension to ``out``.

    The removed entries are taken first, and those that went before are left out of these: what stays is not copied.
    """
    own = axes[dim]
    steps = [] if own is None else [(dim, own.dropped)]
    steps += [(d, axis.kept) for d, axis in enumerate(axes[:dim]) if axis is not None and axis.dropped.size]
    for along, source in steps:
        # the sources are in range; with mode="raise" numpy would write through a buffer
        array = np.take(array, source, axis=along, out=out if along == steps[-1][0] else None, mode="clip")
    return array


def _insert(array: HostArray, removed: HostArray, axis: AxisPlan, dim: int) -> HostArray:
    """The array with what was removed from an axis put back in its place."""
    shape = [axis.before if d == dim else n for d, n in enumerate(array.shape)]
    result = np.empty(shape, array.dtype)
    along = np.moveaxis(result, dim, 0)  # a view
    along[axis.dropped] = np.moveaxis(removed, dim, 0)
    along[axis.kept] = np.moveaxis(array, dim, 0)
    return result
