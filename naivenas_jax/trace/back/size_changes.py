"""Which sizes changed between an imported model and its mutation, and what a number of a configuration may become."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from naivenas_jax.paths import Path
from naivenas_jax.trace.model.imported_op import ImportedOp
from naivenas_jax.trace.program.rebind import NewSizes
from naivenas_jax.transfer.variables import flat


class Change(NamedTuple):
    """A size that was one number and is another now.

    Attributes:
      old: before.
      new: now.
      what: the handle, or the dimension of a variable.
    """

    old: int
    new: int
    what: str

    def __str__(self) -> str:
        return f"{self.what}: {self.old} -> {self.new}"


@dataclass(frozen=True)
class Changed:
    """The sizes that changed.

    Attributes:
      before: shapes of the original variables.
      after: shapes of the new ones.
      sizes: for each variable with another shape the sizes on it that changed.
    """

    before: Mapping[Path, tuple[int, ...]]
    after: Mapping[Path, tuple[int, ...]]
    sizes: Mapping[Path, tuple[Change, ...]]

    @classmethod
    def of(cls, op: ImportedOp, variables: Mapping[str, Any]) -> Changed:
        before = {path: tuple(struct.shape) for path, struct in op.model.variables}
        after = {path: tuple(np.shape(array)) for path, array in flat(variables).items()}
        sizes = {path: tuple(_changes(op, path)) for path, shape in before.items() if after.get(path) != shape}
        return cls(before, after, sizes)

    def under(self, place: Path) -> bool:
        """Whether a variable of the module at this place changed."""
        return any(path[1 : 1 + len(place)] == place for path in self.sizes)

    def near(self, place: Path) -> list[Change]:
        """What changed, without repetition: first in the module at this place, then elsewhere."""
        inner = [path for path in self.sizes if path[1 : 1 + len(place)] == place]
        outer = [path for path in self.sizes if path not in inner]
        return _unique(change for path in (*inner, *outer) for change in self.sizes[path])

    def inside(self, place: Path) -> list[Change]:
        """What changed in the module at this place."""
        return _unique(
            change for path, own in self.sizes.items() if path[1 : 1 + len(place)] == place for change in own
        )

    def kept(self, place: Path) -> set[int]:
        """NewSizes of dimensions in the module at this place that did not change."""
        return {
            old
            for path, shape in self.before.items()
            if path[1 : 1 + len(place)] == place
            for old, new in zip(shape, self.after[path], strict=True)
            if old == new
        }


def _changes(op: ImportedOp, path: Path) -> Iterator[Change]:
    """The factors of a dimension come before the dimension: who stores one of them stores what was asked for."""
    ties = op.model.base.ties
    now = NewSizes({}, op.runs, ties.products)
    was = NewSizes({}, ties.run_sizes, ties.products)
    named = {row: axis for axis, row in list(ties.axes.items())[::-1] if not axis.startswith("~")}

    def change(row: tuple[int, ...], otherwise: str) -> Change:
        return Change(int(was.row(row)), int(now.row(row)), named.get(row, otherwise))

    whole, factors, sums = [], [], []
    for dim, axis in enumerate(ties.leaves[path].axes):
        if axis is None:
            continue
        row = ties.axes[axis]
        whole.append(change(row, f"{'/'.join(path)}[{dim}]"))
        part = f"a part of {whole[-1].what}"
        factors += [change(factor, part) for run in row for factor in ties.products.get(run, ())]
        sums += [change(row[:i], part) for i in range(2, len(row))]
        sums += [change((run,), part) for run in row if len(row) > 1]
    joined = [
        Change(math.prod(c.old for c in whole[i : i + 2]), math.prod(c.new for c in whole[i : i + 2]), whole[i].what)
        for i in range(len(whole) - 1)
    ]
    yield from (change for change in _unique((*factors, *whole, *sums, *joined)) if change.old != change.new)


def _unique(changes: Iterable[Change]) -> list[Change]:
    found: dict[tuple[int, int], Change] = {}
    for change in changes:
        found.setdefault(change[:2], change)
    return list(found.values())


#: So many values are tried for one number.
MOST = 6


def options(value: int | float | None, changes: Iterable[Change]) -> list[int | float]:
    """What a number may become: first the new size of what had this size, then what keeps its proportion to a size.

    >>> options(4, [Change(4, 3, "heads"), Change(32, 24, "qkv")])
    [3]
    >>> options(2, [Change(32, 48, "hidden")])  # hidden = 2 * 16
    [3]
    """
    found: dict[int | float, None] = {}
    changes = list(changes)
    if value is None:
        found.update(dict.fromkeys(change.new for change in changes))
    else:
        found.update(dict.fromkeys(change.new for change in changes if change.old == value))
        for change in changes:
            scaled = value * change.new / (change.old or 1)
            if isinstance(value, float):
                found.setdefault(scaled)
            elif value and scaled == int(scaled) and 0 in (change.old % value, value % change.old):
                found.setdefault(int(scaled))
    found.pop(value, None)  # type: ignore[arg-type]
    return list(found)[:MOST]
