"""What vertices say of their neurons, collected until it can be frozen into `Ties`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from naivenas_jax.errors import DuplicateNameError, SizeMismatchError
from naivenas_jax.paths import Path, path_text, unnamed_axis
from naivenas_jax.sizes.blocks import Blocks, Vector
from naivenas_jax.sizes.row import Conditions, Row, stated
from naivenas_jax.sizes.ties import Leaf, Ties


@dataclass
class Tying:
    """Collects what the vertices of a graph say; ``freeze`` turns it into `Ties`."""

    blocks: Blocks = field(default_factory=Blocks)
    scope: Path = ()
    _axes: dict[str, Vector] = field(default_factory=dict)
    _names: dict[Vector, str] = field(default_factory=dict)
    _leaves: dict[Path, tuple[tuple[Vector | None, ...], Leaf]] = field(default_factory=dict)
    _fixed: list[tuple[Vector, str]] = field(default_factory=list)
    _coupled: list[tuple[Vector, str]] = field(default_factory=list)
    _rows: list[tuple[Row, Mapping[str, Vector], Path]] = field(default_factory=list)

    def within(self, name: str) -> Tying:
        """The same collection, seen from inside the vertex ``name``."""
        return replace(self, scope=(*self.scope, name))

    def new(self, size: int) -> Vector:
        """``size`` fresh neurons."""
        return self.blocks.new(size)

    def tie(self, a: Vector, b: Vector) -> None:
        """Tie two equally long vectors index by index."""
        self.blocks.tie(a, b)

    def axis(self, vector: Vector, factor: str | None = None) -> None:
        """Name a vector after the vertex whose scope this is (``vertex`` or ``vertex:factor``)."""
        self.called(vector, path_text(self.scope) + (f":{factor}" if factor else ""))

    def called(self, vector: Vector, name: str) -> None:
        """Name a vector as it is, wherever this scope is."""
        if name in self._axes:
            raise DuplicateNameError(f"Two axes are named {name!r}. Rename one of the vertices.")
        self._axes[name] = vector
        self._names.setdefault(vector, name)

    @property
    def names(self) -> Collection[str]:
        """The names of all axes so far."""
        return self._axes.keys()

    def leaf(
        self,
        collection: str,
        path: Path,
        dims: tuple[Vector | None, ...],
        roles: tuple[str | None, ...],
        new: float | None = None,
        init: Callable[..., Any] | None = None,
        rescaled: int | None = None,
    ) -> None:
        """Declare an array of the variables, ``variables[collection][scope...][path...]``."""
        full = (collection, *self.scope, *path)
        leaf = Leaf((), roles, new, init, rescaled)  # the axes get their names when all are known
        self._leaves[full] = dims, leaf

    def fix(self, vector: Vector, reason: str) -> None:
        """No neuron of ``vector`` may be dropped or added, because of ``reason``."""
        self._fixed.append((vector, reason))

    def couple(self, vector: Vector, reason: str) -> None:
        """A neuron of ``vector`` being zero is not the same as its not being there, because of ``reason``."""
        self._coupled.append((vector, reason))

    def require_all(self, given: Conditions, vectors: Mapping[str, Vector]) -> None:
        """All that a function of the sizes of ``vectors`` returns; see `require`. A single input is "in" as well."""
        named = vectors if "in1" in vectors or "in0" not in vectors else {**vectors, "in": vectors["in0"]}
        for row in stated(given, named):
            self.require(row, named)

    def require(self, row: Row, vectors: Mapping[str, Vector]) -> None:
        """The sizes of ``vectors``, by the names that ``row`` gives them, must satisfy it, now and after every change.

        Raises:
          SizeMismatchError: if they do not now.
        """
        sizes = {name: len(vector) for name, vector in vectors.items()}
        where = path_text(self.scope)
        if unknown := [axis for axis in row.axes if axis not in sizes]:
            raise SizeMismatchError(
                f"Vertex {where!r}: the condition {row} names {unknown[0]!r}. Its axes are: {', '.join(sizes)}."
            )
        if not row.holds(sizes):
            found = ", ".join(f"{axis} = {sizes[axis]}" for axis in row.axes)
            raise SizeMismatchError(f"Vertex {where!r}: {row} must hold, found {found}.")
        self._rows.append((row, vectors, self.scope))

    def freeze(self) -> Ties:
        """The ties as a value."""
        return self.freeze_with([])[0]

    def freeze_with(self, vectors: Sequence[Vector]) -> tuple[Ties, list[tuple[int, ...]]]:
        """The ties as a value, and the runs of further vectors."""
        leaves = {
            path: replace(
                leaf, axes=tuple(None if d is None else self._name_of(d, path, i) for i, d in enumerate(dims))
            )
            for path, (dims, leaf) in self._leaves.items()
        }
        conditions = tuple(self._named_row(*entry) for entry in self._rows)
        fixed = [*self._fixed, *((v, _CYCLE) for v in self.blocks.stuck), *((v, _CLASH) for v in self.blocks.clashes)]
        own = [*self._axes.values(), *(v for v, _ in fixed), *(v for v, _ in self._coupled)]
        run_sizes, rows, products = self.blocks.settle_all([*own, *vectors])
        axes = dict(zip(self._axes, rows, strict=False))
        bare = Ties(run_sizes, axes, leaves, {}, {}, products)
        rest = [bare.plain(row) for row in rows[len(axes) : len(own)]]
        coupled = _first_reasons(rest[len(fixed) :], self._coupled)
        ties = replace(
            bare,
            fixed=_first_reasons(rest[: len(fixed)], fixed),
            coupled={axis: coupled[run] for axis in axes for run in bare.plain(axes[axis]) if run in coupled},
            coupled_runs=coupled,
            rows=tuple(dict.fromkeys(conditions)),
        )
        return ties, rows[len(own) :]

    def _name_of(self, vector: Vector, path: Path, dim: int) -> str:
        return self._name_or(vector, unnamed_axis(path, dim))

    def _name_or(self, vector: Vector, name: str) -> str:
        if vector not in self._names:
            self._axes[name] = vector
            self._names[vector] = name
        return self._names[vector]

    def _named_row(self, row: Row, vectors: Mapping[str, Vector], scope: Path) -> Row:
        """A row in terms of the names of the axes."""
        where = path_text(scope)
        names = {local: self._name_or(vectors[local], f"~{where}.{local}") for local in row.axes}
        return row.renamed(names).because(row.reason or f"{where!r} requires it")


_CYCLE = "inserting there would make a sum of sizes depend on itself (a size cycle)"


_CLASH = "it is split in two ways that do not fit together"


def _first_reasons(rows: Iterable[Iterable[int]], given: Iterable[tuple[Vector, str]]) -> dict[int, str]:
    """For each run the first reason that was given for it."""
    found: dict[int, str] = {}
    for row, (_, reason) in zip(rows, given, strict=True):
        for run in row:
            found.setdefault(run, reason)
    return found
