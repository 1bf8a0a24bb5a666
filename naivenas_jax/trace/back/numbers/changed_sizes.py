"""Which sizes changed between an imported model and its mutation, and what a number of a configuration may become."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import numpy as np

from naivenas_jax.paths import Path, is_unnamed, path_text
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.trace.model.imported_op import ImportedOp
from naivenas_jax.transfer.variables import flat
from naivenas_jax.typing import Variables

#: The names that lead to a module; empty: the model itself. A `Path` without the collection and the parameter.
ModulePath: TypeAlias = tuple[str, ...]


class ChangedSize(NamedTuple):
    """A size that was one number and is another now.

    Attributes:
      old: the number before.
      new: the number now.
      what: the handle, or the dimension of a variable, or what of these it is a part or the product of.
      handle: whether the whole of a handle is meant.
    """

    old: int
    new: int
    what: str
    handle: bool = False

    def __str__(self) -> str:
        return f"{self.what}: {self.old} -> {self.new}"


@dataclass(frozen=True)
class ChangedSizes:
    """The sizes that changed.

    Attributes:
      before: shapes of the original variables.
      after: shapes of the new ones.
      sizes: for each variable with another shape the sizes on it that changed.
    """

    before: Mapping[Path, tuple[int, ...]]
    after: Mapping[Path, tuple[int, ...]]
    sizes: Mapping[Path, tuple[ChangedSize, ...]]

    @classmethod
    def of(cls, op: ImportedOp, variables: Variables, since: ImportedOp | None = None) -> ChangedSizes:
        """Compare the variables of a mutated graph with those that were imported, or with those before a mutation.

        Args:
          op: the imported model in the mutated graph.
          variables: the variables of the mutated graph.
          since: the imported model in the graph before; None: as it was imported.
        """
        imported = {path: tuple(struct.shape) for path, struct in op.model.variables}
        before, was = (imported, op.model.base.ties) if since is None else (since.shapes, since.ties)
        after = {path: tuple(np.shape(array)) for path, array in flat(variables).items()}
        sizes = {path: tuple(_changes(op, was, path)) for path, shape in before.items() if after.get(path) != shape}
        return cls(before, after, sizes)

    @classmethod
    def between(cls, before: Mapping[Path, tuple[int, ...]], after: Mapping[Path, tuple[int, ...]]) -> ChangedSizes:
        """Compare the shapes of the same variables, of which nothing else is known."""
        pairs = {path: zip(shape, after[path], strict=True) for path, shape in before.items() if after[path] != shape}
        sizes = {
            path: tuple(ChangedSize(*pair, f"{path_text(path)}[{dim}]") for dim, pair in enumerate(own))
            for path, own in pairs.items()
        }
        return cls(before, after, {path: tuple(c for c in own if c.old != c.new) for path, own in sizes.items()})

    def under(self, module: ModulePath) -> bool:
        """Whether a variable of a module changed, or of one inside it."""
        return any(_lies_under(path, module) for path in self.sizes)

    def near(self, module: ModulePath) -> list[ChangedSize]:
        """All that changed, without repetition: first in this module, then elsewhere."""
        inner = [path for path in self.sizes if _lies_under(path, module)]
        outer = [path for path in self.sizes if path not in inner]
        return _unique(change for path in (*inner, *outer) for change in self.sizes[path])

    def inside(self, module: ModulePath) -> list[ChangedSize]:
        """What changed in this module, without repetition."""
        return _unique(change for path, own in self.sizes.items() if _lies_under(path, module) for change in own)

    def kept(self, module: ModulePath) -> set[int]:
        """The sizes of the dimensions in this module that did not change."""
        return {
            old
            for path, shape in self.before.items()
            if _lies_under(path, module)
            for old, new in zip(shape, self.after[path], strict=True)
            if old == new
        }

    def before_in(self, module: ModulePath) -> dict[Path, tuple[int, ...]]:
        """The shapes of the variables in this module before, by collection and the path below it."""
        start = 1 + len(module)
        return {(p[0], *p[start:]): shape for p, shape in self.before.items() if _lies_under(p, module)}

    def shapes_in(self, module: ModulePath) -> dict[Path, tuple[tuple[int, ...], tuple[int, ...]]]:
        """The shapes of the variables in this module before and now, by the path below it."""
        start = 1 + len(module)
        paths = [path for path in self.before if _lies_under(path, module)]
        return {path[start:]: (self.before[path], self.after[path]) for path in paths}


def _lies_under(path: Path, module: ModulePath) -> bool:
    return path[1 : 1 + len(module)] == module


def _changes(op: ImportedOp, before: Ties, path: Path) -> Iterator[ChangedSize]:
    """The sizes on a variable that changed.

    The factors of a dimension come before the dimension: a model that stores one of them stores what was asked for.
    """
    was = op.model.base.ties
    name = _Names.of(was, path)

    def change(row: tuple[int, ...], what: str) -> ChangedSize:
        return ChangedSize(before.length(row), op.ties.length(row), what, row in name.handles)

    rows = [(d, was.axes[axis]) for d, axis in enumerate(was.leaves[path].axes) if axis is not None]
    whole = [change(row, name.row(row, f"{path_text(path)}[{dim}]")) for dim, row in rows]
    factors, sums = [], []
    for own, (_, row) in zip(whole, rows, strict=True):
        factors += [change(*found) for run in row for found in name.factors(run, own.what)]
        sums += [change(*found) for found in name.parts(row, own.what)]
    joined = [
        ChangedSize(math.prod(c.old for c in pair), math.prod(c.new for c in pair), name.product(adjacent, pair))
        for pair, adjacent in zip(pairwise(whole), pairwise(row for _, row in rows), strict=True)
    ]
    yield from (change for change in _unique((*factors, *whole, *sums, *joined)) if change.old != change.new)


@dataclass(frozen=True)
class _Names:
    """How messages call what a dimension is made of, and what is made of several dimensions.

    Attributes:
      handles: the handle of each row of runs that has one.
      factors_of: for each run that is all combinations of others the rows of these.
    """

    handles: Mapping[tuple[int, ...], str]
    factors_of: Mapping[int, tuple[tuple[int, ...], ...]]

    @classmethod
    def of(cls, ties: Ties, path: Path) -> _Names:
        """The names of a model's axes, as the module of a variable calls them: of tied axes the one that it makes."""
        named = [(row, axis) for axis, row in ties.axes.items() if not is_unnamed(axis)]
        named.sort(key=lambda each: each[1].split(":")[0] != path_text(path[1:-1]))
        firsts = dict(named[::-1])
        return cls(firsts, ties.products)

    def row(self, row: tuple[int, ...], otherwise: str) -> str:
        """The handle of a row; of several rows with a handle each these handles; else another name for it."""
        alone = [self.handles.get((run,)) for run in row]
        together = " + ".join(name for name in alone if name) if all(alone) else otherwise
        return self.handles.get(row, together)

    def factors(self, run: int, whole: str) -> list[tuple[tuple[int, ...], str]]:
        """The factors of a run, with their names."""
        rows = self.factors_of.get(run, ())
        return [(row, self.row(row, f"factor {i} of {whole}")) for i, row in enumerate(rows, 1)]

    def parts(self, row: tuple[int, ...], whole: str) -> Iterator[tuple[tuple[int, ...], str]]:
        """The parts of a row that lie one after the other, the first few together and each alone."""
        count = len(row)
        for i in range(2, count):
            yield row[:i], self.row(row[:i], f"the first {i} of {count} parts of {whole}")
        for i, run in enumerate(row if count > 1 else (), 1):
            yield (run,), self.row((run,), f"part {i} of {count} of {whole}")

    def product(self, rows: tuple[tuple[int, ...], ...], factors: Iterable[ChangedSize]) -> str:
        """All combinations of rows: the handle that they have together, or the names of both."""
        whole = [self.handles[run,] for run, own in self.factors_of.items() if own == rows and (run,) in self.handles]
        return whole[0] if whole else " * ".join(f"({f.what})" if " + " in f.what else f.what for f in factors)


def _unique(changes: Iterable[ChangedSize]) -> list[ChangedSize]:
    """Of changes from the same number to the same number one, where the first is; a handle names it if any does."""
    found: dict[tuple[int, int], ChangedSize] = {}
    for change in changes:
        first = found.setdefault((change.old, change.new), change)
        if change.handle and not first.handle:
            found[change.old, change.new] = change
    return list(found.values())


#: So many values are tried for one number.
_MOST_VALUES = 6


def possible_values(value: int | float | None, changes: Iterable[ChangedSize]) -> list[int | float]:
    """What a number of a configuration may become where sizes changed.

    First come the new sizes of what had this size, then the numbers that keep their proportion to a size.

    Args:
      value: the number; None: there was none, and a whole number may take its place.
      changes: the sizes that changed.

    >>> possible_values(4, [ChangedSize(4, 3, "heads"), ChangedSize(32, 24, "qkv")])
    [3]
    >>> possible_values(2, [ChangedSize(32, 48, "hidden")])  # hidden = 2 * 16
    [3]
    """
    changes = list(changes)
    found: dict[int | float, None] = dict.fromkeys(c.new for c in changes if value is None or c.old == value)
    if value is None:
        return list(found)[:_MOST_VALUES]
    for change in changes:
        scaled = value * change.new / (change.old or 1)
        if isinstance(value, float):
            found.setdefault(scaled)
        elif value and scaled == int(scaled) and 0 in (change.old % value, value % change.old):
            found.setdefault(int(scaled))
    found.pop(value, None)
    return list(found)[:_MOST_VALUES]
