"""What vertices say of their neurons, collected until it can be frozen into `Ties`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import ClassVar

from naivenas_jax.errors import DuplicateNameError, SizeMismatchError
from naivenas_jax.paths import Path, is_unnamed, path_text, unnamed_axis
from naivenas_jax.sizes.blocks import Blocks
from naivenas_jax.sizes.condition import Condition, ConditionFunction, stated
from naivenas_jax.sizes.ties import Initialiser, Leaf, Ties
from naivenas_jax.sizes.vector import Vector
from naivenas_jax.sizes.weight_function import WeightFunction


@dataclass(frozen=True)
class Included:
    """What a finished analysis is in another one. Made by `Tying.include`.

    Attributes:
      ties: the analysis that was taken in.
      runs: the neurons of each of its runs.
      axes: the neurons of each of its axes.
    """

    ties: Ties
    runs: Mapping[int, Vector]
    axes: Mapping[str, Vector]

    def row(self, runs: Iterable[int]) -> Vector:
        """The neurons of some runs, one after the other."""
        return Vector.concat([self.runs[run] for run in runs])


@dataclass
class Tying:
    """Collects what the vertices of a graph say; ``freeze`` turns it into `Ties`.

    Attributes:
      blocks: the neurons, and which are tied.
      scope: the vertices, from the outermost to the one that speaks.
      rules_known: how often it was said what a kind of layer ties. Ties that were found before may not hold.
    """

    rules_known: ClassVar[int] = 0

    blocks: Blocks = field(default_factory=Blocks)
    scope: Path = ()
    _axes: dict[str, Vector] = field(default_factory=dict)
    _names: dict[Vector, str] = field(default_factory=dict)
    _leaves: dict[Path, tuple[tuple[Vector | None, ...], Leaf]] = field(default_factory=dict)
    _fixed: list[tuple[Vector, str]] = field(default_factory=list)
    _coupled: list[tuple[Vector, str]] = field(default_factory=list)
    _indexed: list[Vector] = field(default_factory=list)
    _single: list[Vector] = field(default_factory=list)
    _layers: list[Vector] = field(default_factory=list)
    _reads: list[tuple[Path, int]] = field(default_factory=list)
    _conditions: list[tuple[Condition, Mapping[str, Vector], Path]] = field(default_factory=list)

    def within(self, name: str) -> Tying:
        """The same collection, seen from inside the vertex ``name``."""
        return self._seen_from((*self.scope, name))

    def outside(self) -> Tying:
        """The same collection, seen from outside of all vertices, where names and paths are spelled in full."""
        return self._seen_from(())

    def _seen_from(self, scope: Path) -> Tying:
        """The same collection for another speaker: every vertex is one, so that a plain copy of fields is worth it."""
        seen = object.__new__(type(self))
        seen.__dict__.update(self.__dict__, scope=scope)
        return seen

    def new(self, size: int) -> Vector:
        """``size`` fresh neurons."""
        return self.blocks.new(size)

    def tie(self, a: Vector, b: Vector) -> None:
        """Tie two equally long vectors index by index."""
        self.blocks.tie(a, b)

    def axis(self, vector: Vector, factor: str | None = None) -> None:
        """Name a vector after the vertex whose scope this is: ``vertex``, or ``vertex:factor`` for an inner axis."""
        self.called(vector, path_text(self.scope) + (f":{factor}" if factor else ""))

    def called(self, vector: Vector, name: str) -> None:
        """Name a vector, whatever the scope.

        Raises:
          DuplicateNameError: if another axis has that name.
        """
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
        init: Initialiser | None = None,
        rescaled: int | None = None,
        looked_up: tuple[int, ...] = (),
        weight: WeightFunction | None = None,
        parameter: bool | None = None,
    ) -> None:
        """Declare an array of the variables, ``variables[collection][scope...][path...]``.

        Args:
          collection: "params", "batch_stats" or another one.
          path: below the scope.
          dims: the neurons on each dimension; None where its size is fixed.
          roles: see `Leaf`, as for the others.
          new: see there.
          init: see there.
          rescaled: see there.
          looked_up: see there.
          weight: see there.
          parameter: see there; whether it is in the collection "params" where not given.

        Raises:
          DuplicateNameError: if it has been declared already.
        """
        weight = None if weight is None else weight.within(self.scope)
        trained = collection == "params" if parameter is None else parameter
        leaf = Leaf((), roles, new, init, rescaled, looked_up, weight, trained)  # axes get names when all are known
        where = (collection, *self.scope, *path)
        if where in self._leaves:
            raise DuplicateNameError(
                f"Two vertices have a variable {path_text(where)!r}. A vertex beside an imported model has its "
                "variables beside those of the model: rename it."
            )
        self._leaves[where] = dims, leaf

    def fix(self, vector: Vector, reason: str) -> None:
        """No neuron of ``vector`` may be dropped or added, because of ``reason``."""
        self._fixed.append((vector, reason))

    def couple(self, vector: Vector, reason: str) -> None:
        """A neuron of ``vector`` being zero is not the same as its not being there, because of ``reason``."""
        self._coupled.append((vector, reason))

    def index(self, vector: Vector) -> None:
        """Neurons of ``vector`` are looked up by position, by numbers from outside: those that stay keep theirs.

        New ones come after the last. Of a vector of several ranges only the last may change.
        """
        self._indexed.append(vector)

    def single(self, vector: Vector) -> None:
        """Neurons of ``vector`` have no copies: one array makes them in one place and reads them in another.

        Divided among the copies where it reads, it would make smaller neurons.
        """
        self._single.append(vector)

    def layers(self, vector: Vector) -> None:
        """``vector`` are the layers of a stack, which have no copies."""
        self.single(vector)
        self._layers.append(vector)

    def reads(self, path: Path, dim: int) -> None:
        """A variable that another vertex declares is read here, on a dimension on which it makes neurons there.

        Args:
          path: from the root.
          dim: the dimension.
        """
        self._reads.append((path, dim))

    def include(
        self,
        ties: Ties,
        names: Mapping[str, str],
        run_sizes: Sequence[int] = (),
        given: Mapping[str, Vector] = MappingProxyType({}),
    ) -> Included:
        """Take in all that a finished analysis says: its runs and products, axes, leaves, what is fixed or coupled.

        Leaves get paths under this scope. Nothing is tied to neurons outside: the caller does that with the vectors
        that are returned, or gives the vectors. Of axes that are tied as a whole, leaves know only the first one in
        ``names``; and reasons name what they name in ``ties``.

        An imported model takes in the ties of its program this way. A graph in a vertex could be taken in as well::

            names = {axis: path_text((*tying.scope, axis)) for axis in graph.ties.axes if not is_unnamed(axis)}
            inputs = {vertex.name: port for vertex, port in zip(graph.inputs, ports, strict=True)}
            return tying.include(graph.ties, names, given=inputs).axes[graph.outputs[0].name]

        Args:
          ties: the analysis.
          names: what its axes are called here. One that is left out is named after the first leaf that lies on it.
          run_sizes: the sizes of its runs here; of products any number. As in ``ties`` where not given.
          given: the neurons of axes that exist here already, to which the others of the same runs are tied.
        """
        rows = ((ties.axes[axis], vector) for axis, vector in given.items())
        known = {row[0]: vector for row, vector in rows if len(row) == 1 and row[0] not in ties.products}
        runs = self._runs(ties, run_sizes or ties.run_sizes, known)
        axes = {
            axis: runs[row[0]] if len(row) == 1 else Vector.concat([runs[run] for run in row])
            for axis, row in ties.axes.items()
        }
        for axis, vector in given.items():
            if axes[axis] != vector:
                self.tie(axes[axis], vector)
        same = {ties.axes[axis]: vector for axis, vector in given.items()}
        included = Included(ties, runs, {axis: same.get(row, axes[axis]) for axis, row in ties.axes.items()})
        for axis, name in names.items():
            self.called(included.axes[axis], name)
        for path, leaf in ties.leaves.items():
            dims = tuple(None if axis is None else included.axes[axis] for axis in leaf.axes)
            rest = (leaf.roles, leaf.new, leaf.init, leaf.rescaled, leaf.looked_up, leaf.weight, leaf.parameter)
            self.leaf(path[0], path[1:], dims, *rest)
        for run, reason in ties.fixed.items():
            self.fix(runs[run], reason)
        for run, reason in ties.coupled_runs.items():
            self.couple(runs[run], reason)
        for run in ties.indexed:
            self.index(runs[run])
        for run in ties.single:
            self.single(runs[run])
        for run in ties.layers:
            self.layers(runs[run])
        for condition in ties.conditions:
            self.require(condition, {axis: included.axes[axis] for axis in condition.axes})
        return included

    def _runs(self, ties: Ties, sizes: Sequence[int], known: Mapping[int, Vector]) -> dict[int, Vector]:
        """The neurons of every run of an analysis: known ones, fresh ones, and products, made of their factors."""
        fresh = [run for run in range(len(sizes)) if run not in ties.products and run not in known]
        runs = {**known, **{run: self.new(sizes[run]) for run in fresh}}

        def run_of(run: int) -> Vector:
            if run not in runs:
                factors = [Vector.concat([run_of(part) for part in row]) for row in ties.products[run]]
                runs[run] = self.blocks.product(factors)
            return runs[run]

        return {run: run_of(run) for run in range(len(ties.run_sizes))}

    def require_all(self, given: ConditionFunction, vectors: Mapping[str, Vector]) -> None:
        """Require all conditions that a function of the sizes of ``vectors`` states. A single input is "in" as well."""
        named = vectors if "in1" in vectors or "in0" not in vectors else {**vectors, "in": vectors["in0"]}
        for condition in stated(given, named):
            self.require(condition, named)

    def require(self, condition: Condition, vectors: Mapping[str, Vector]) -> None:
        """The sizes of some vectors must satisfy a condition, now and after every change.

        Args:
          condition: on sizes by names that mean something here ("in", "out").
          vectors: by these names.

        Raises:
          SizeMismatchError: if the sizes do not satisfy it now, or it names something else.
        """
        sizes = {name: len(vector) for name, vector in vectors.items()}
        where = path_text(self.scope)
        if unknown := [axis for axis in condition.axes if axis not in sizes]:
            raise SizeMismatchError(
                f"Vertex {where!r}: the condition {condition} names {unknown[0]!r}. Its axes are: {', '.join(sizes)}."
            )
        if not condition.holds(sizes):
            found = ", ".join(f"{axis} = {sizes[axis]}" for axis in condition.axes)
            raise SizeMismatchError(f"Vertex {where!r}: {condition} must hold, found {found}.")
        self._conditions.append((condition, vectors, self.scope))

    def freeze(self) -> Ties:
        """The ties as a value."""
        return self.freeze_with([])[0]

    def freeze_with(self, vectors: Sequence[Vector]) -> tuple[Ties, list[tuple[int, ...]]]:
        """The ties as a value, and the runs of further vectors."""
        self._apply_reads()
        leaves = {path: _on(leaf, self._axes_of(path, dims)) for path, (dims, leaf) in self._leaves.items()}
        conditions = tuple(self._in_names_of_axes(*entry) for entry in self._conditions)
        fixed = [*self._fixed, *((v, _CYCLE) for v in self.blocks.stuck), *((v, _CLASH) for v in self.blocks.clashes)]
        own = [*self._axes.values(), *(v for v, _ in fixed), *(v for v, _ in self._coupled)]
        run_sizes, rows, products = self.blocks.settle_all(
            [*own, *self._indexed, *self._single, *self._layers, *vectors]
        )
        axes = dict(zip(self._axes, rows, strict=False))
        bare = Ties(run_sizes, axes, leaves, {}, {}, products)
        rest = [bare.plain(row) for row in rows[len(axes) : len(own)]]
        coupled = _first_reasons(rest[len(fixed) :], self._coupled)
        looked_up = len(own) + len(self._indexed)
        alone = looked_up + len(self._single)
        asked = alone + len(self._layers)
        moving, last = _by_position(bare, rows[len(own) : looked_up])
        held = {**moving, **_first_reasons(rest[: len(fixed)], fixed)}
        ties = replace(
            bare,
            fixed=held,
            indexed=last - held.keys(),
            single=bare.plain(run for row in rows[looked_up:alone] for run in row),
            layers=bare.plain(run for row in rows[alone:asked] for run in row),
            coupled={
                axis: coupled[run] for axis in axes if coupled for run in bare.plain(axes[axis]) if run in coupled
            },
            coupled_runs=coupled,
            conditions=tuple(dict.fromkeys(conditions)),
        )
        return ties, rows[asked:]

    def _apply_reads(self) -> None:
        for path, dim in self._reads:
            if path not in self._leaves:
                continue  # the vertex that declares it has just been removed, and the reader is next
            dims, leaf = self._leaves[path]
            self._leaves[path] = dims, replace(leaf, roles=(*leaf.roles[:dim], "in", *leaf.roles[dim + 1 :]))
            if (vector := dims[dim]) is not None:
                self.single(vector)
        self._reads.clear()

    def _axes_of(self, path: Path, dims: tuple[Vector | None, ...]) -> tuple[str | None, ...]:
        """The axes that the dimensions of a leaf lie on; an axis that nobody has named gets its name from the leaf."""
        return tuple(
            None if v is None else self._names.get(v) or self._name_or(v, unnamed_axis(path, dim))
            for dim, v in enumerate(dims)
        )

    def _name_or(self, vector: Vector, name: str) -> str:
        """The name of the axis of a vector; ``name`` if it has none yet."""
        if vector not in self._names:
            self._axes[name] = vector
            self._names[vector] = name
        return self._names[vector]

    def _in_names_of_axes(self, condition: Condition, vectors: Mapping[str, Vector], scope: Path) -> Condition:
        """A condition of a vertex on the axes of the graph."""
        where = path_text(scope)
        new = {local: local if is_unnamed(local) else f"~{where}.{local}" for local in condition.axes}
        names = {local: self._name_or(vectors[local], name) for local, name in new.items()}
        return condition.renamed(names).because(condition.reason or f"{where!r} requires it")


def _on(leaf: Leaf, axes: tuple[str | None, ...]) -> Leaf:
    """The same array, whose dimensions lie on these axes. `replace` takes three times as long, once per variable."""
    return Leaf(axes, leaf.roles, leaf.new, leaf.init, leaf.rescaled, leaf.looked_up, leaf.weight, leaf.parameter)


_CYCLE = "inserting there would make a sum of sizes depend on itself (a size cycle)"
_MOVES = "entries behind it are looked up by position, and would move"
_CLASH = "it is split in two ways that do not fit together"


def _by_position(ties: Ties, rows: Iterable[tuple[int, ...]]) -> tuple[dict[int, str], frozenset[int]]:
    """Of axes on which neurons are looked up: the runs that may not change, with the reason, and the last runs."""
    moving, last = set[int](), set[int]()
    for *before, end in (row for row in rows if row):
        moving |= ties.plain((*before, *(() if end not in ties.products else (end,))))
        last.add(end)
    return dict.fromkeys(sorted(moving), _MOVES), frozenset(last - moving - ties.products.keys())


def _first_reasons(rows: Iterable[Iterable[int]], given: Iterable[tuple[Vector, str]]) -> dict[int, str]:
    """For each run the first reason that was given for it."""
    found: dict[int, str] = {}
    for runs, (_, reason) in zip(rows, given, strict=True):
        for run in runs:
            found.setdefault(run, reason)
    return found
