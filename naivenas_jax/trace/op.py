"""An imported model as the computation of a vertex."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from flax.core import Scope

from naivenas_jax.errors import GraphError, StructureError
from naivenas_jax.graph.op import Op
from naivenas_jax.sizes.blocks import Vector
from naivenas_jax.sizes.ties import Tying
from naivenas_jax.trace.analyse import Analysed, analyse
from naivenas_jax.trace.capture import Path, capture
from naivenas_jax.trace.rebind import Sizes, evaluate
from naivenas_jax.transfer.variables import flat, nested

#: ``fn(variables, inputs, rngs, mutable, kwargs) -> (outputs, updated variables)``
ModelFunction = Callable[[Any, tuple[Any, ...], Mapping[str, Any], tuple[str, ...], Mapping[str, Any]], tuple[Any, Any]]


@dataclass(frozen=True, eq=False)
class Model:
    """What was imported; compared by identity.

    Attributes:
      function: the model as a function.
      shapes: of its original variables, by path.
      base: the program at the inputs that the model was imported with.
      in_tree: the structure of the inputs.
      kwargs: keyword arguments that it was imported with.
    """

    function: ModelFunction
    shapes: Mapping[Path, jax.ShapeDtypeStruct]
    base: Analysed
    in_tree: Any
    kwargs: Mapping[str, Any]
    _programs: dict[Hashable, Analysed] = field(default_factory=dict)

    @classmethod
    def trace(
        cls, function: ModelFunction, variables: Any, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Model:
        """Trace a model in evaluation, and find its ties."""
        shapes = {path: jax.ShapeDtypeStruct(array.shape, array.dtype) for path, array in flat(variables).items()}
        program = capture(lambda v, xs, keys: function(v, xs, keys, (), kwargs), nested(shapes), inputs, {})
        return cls(function, shapes, analyse(program), jax.tree.structure(inputs), dict(kwargs))

    def program(self, leaves: list[Any], rngs: Mapping[str, Any], mutable: tuple[str, ...], kwargs: Any) -> Analysed:
        """The program for these inputs and this mode; traced at the original sizes when it is first asked for."""
        shapes = tuple((x.shape, str(x.dtype)) for x in leaves)
        key = (shapes, tuple(sorted(rngs)), mutable, tuple(sorted(kwargs.items())))
        if key not in self._programs:
            like = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]
            keys = {name: jax.ShapeDtypeStruct(k.shape, k.dtype) for name, k in rngs.items()}
            merged = {**self.kwargs, **kwargs}
            program = capture(
                lambda v, xs, ks: self.function(v, xs, ks, mutable, merged),
                nested(self.shapes),
                jax.tree.unflatten(self.in_tree, like),
                keys,
            )
            self._programs[key] = analyse(program)
        return self._programs[key]

    def runs_in(self, other: Analysed, runs: tuple[int, ...]) -> list[int]:
        """The sizes of the runs of another program, given those of the base program."""
        if other is self.base:
            return list(runs)
        sizes = list(other.ties.run_sizes)
        now = Sizes({}, runs, self.base.ties.products)
        for path, leaf in other.ties.leaves.items():
            for axis, base_axis in zip(leaf.axes, self.base.ties.leaves[path].axes, strict=True):
                if axis is not None and base_axis is not None:
                    _align(other, other.ties.axes[axis], sizes, self.base, self.base.ties.axes[base_axis], now)
        return sizes


def _align(
    other: Analysed, row: tuple[int, ...], sizes: list[int], base: Analysed, base_row: tuple[int, ...], now: Sizes
) -> None:
    """Two ways to cut the same dimension into runs: carry the sizes over where the cuts meet."""
    left, right = list(row), list(base_row)
    while left and right:
        mine, theirs = [left.pop(0)], [right.pop(0)]
        while (m := _present(other, mine)) != (n := _present(base, theirs)):
            if m < n:
                mine.append(left.pop(0))
            else:
                theirs.append(right.pop(0))
        factors = other.ties.products.get(mine[0], ()), base.ties.products.get(theirs[0], ())
        if len(mine) == len(theirs) == 1 and factors[0] and len(factors[0]) == len(factors[1]):
            for a, b in zip(*factors, strict=True):
                _align(other, a, sizes, base, b, now)
        elif len(mine) == 1 and not factors[0]:
            sizes[mine[0]] = now.row(tuple(theirs))
        elif now.row(tuple(theirs)) != n:
            raise StructureError("In this mode the model takes a resized axis apart in another way.")


def _present(analysed: Analysed, runs: list[int]) -> int:
    return sum(analysed.ties.run_sizes[run] for run in runs)


@dataclass(frozen=True)
class Imported(Op):
    """An imported model with the sizes that its runs of neurons have now.

    Attributes:
      model: what was imported.
      runs: the size of each run of its base program.
    """

    model: Model
    runs: tuple[int, ...]

    keywords = None
    at_root = True

    def tie(self, ports: tuple[Vector, ...], tying: Tying) -> Vector:
        del ports
        ties, root = self.model.base.ties, replace(tying, scope=())
        parts = {run: root.new(size) for run, size in enumerate(self.runs) if run not in ties.products}
        for run, part in parts.items():
            root.called(part, f"~{run}")

        def vector_of(row: tuple[int, ...]) -> Vector:
            return Vector.concat([part_of(run) for run in row])

        def part_of(run: int) -> Vector:
            if run not in parts:
                parts[run] = root.blocks.product([vector_of(factor) for factor in ties.products[run]])
            return parts[run]

        axes = {axis: vector_of(row) for axis, row in ties.axes.items()}
        for axis, vector in axes.items():
            root.called(vector, axis)
        for path, leaf in ties.leaves.items():
            dims = tuple(None if axis is None else axes[axis] for axis in leaf.axes)
            root.leaf(path[0], path[1:], dims, leaf.roles, leaf.new, leaf.init)
        for run, reason in ties.fixed.items():
            root.fix(parts[run], reason)
        for axis, reason in ties.coupled.items():
            root.couple(axes[axis], reason)
        output = root.new(sum(_neurons(self.model.base)))
        root.fix(output, "it is an output of the model")
        return output

    def call(self, scope: Scope, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if scope.get_flag("initializing", False):
            raise GraphError("An imported graph has no initialiser of its own; its variables come with the import.")
        rngs = {name: rng.as_jax_rng() for name, rng in scope.rngs.items()}
        collections = dict.fromkeys(path[0] for path in self.model.shapes)
        mutable = tuple(name for name in collections if scope.is_mutable_collection(name))
        arrays = [jax.numpy.asarray(x) for x in inputs]
        analysed = self.model.program(arrays, rngs, mutable, dict(kwargs))
        sizes = Sizes(analysed.rows, self.model.runs_in(analysed, self.runs), analysed.ties.products)
        variables = {path: _read(scope, path) for path in self.model.shapes}
        given = {"variable": variables, "input": arrays, "rng": rngs}
        closed = analysed.program.closed
        arguments = [given[role.kind][role.which] for role in analysed.program.arguments]
        results = evaluate(closed.jaxpr, analysed.frame, sizes, closed.consts, arguments)
        for role, value in zip(analysed.program.results, results, strict=True):
            if role.kind == "variable" and scope.is_mutable_collection(role.which[0]):
                _write(scope, role.which, value)
        return tuple(v for role, v in zip(analysed.program.results, results, strict=True) if role.kind == "output")

    def resized(self, ports: tuple[int, ...], sizes: Mapping[str, int]) -> Imported:
        del ports
        products = self.model.base.ties.products
        return Imported(
            self.model, tuple(0 if run in products else sizes[f"~{run}"] for run in range(len(self.runs)))
        )

    def describe(self) -> str:
        return "imported model"


def _neurons(analysed: Analysed) -> list[int]:
    """The size of the last dimension of each output."""
    roles, avals = analysed.program.results, analysed.program.closed.out_avals
    return [(aval.shape or (1,))[-1] for role, aval in zip(roles, avals, strict=True) if role.kind == "output"]


def _read(scope: Scope, path: Path) -> Any:
    node = scope.root._variables
    for key in path:
        node = node[key]
    return node


def _write(scope: Scope, path: Path, value: Any) -> None:
    for key in path[1:-1]:
        scope = scope.push(key, reuse=True)
    scope.put_variable(path[0], path[-1], value)


@dataclass(frozen=True)
class Pick(Op):
    """One output of an imported model.

    Attributes:
      number: which.
      start: where its neurons begin among those of all outputs.
      stop: where they end.
    """

    number: int
    start: int
    stop: int

    def tie(self, ports: tuple[Vector, ...], tying: Tying) -> Vector:
        del tying
        return ports[0].cut(self.start, self.stop)

    def call(self, scope: Scope, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        del scope, kwargs
        return inputs[0][self.number]

    def describe(self) -> str:
        return f"output {self.number}"
