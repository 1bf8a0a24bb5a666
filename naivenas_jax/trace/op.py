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
        sizes = list(other.ties.run_sizes)
        for path, leaf in other.ties.leaves.items():
            for axis, base_axis in zip(leaf.axes, self.base.ties.leaves[path].axes, strict=True):
                if axis is not None and base_axis is not None:
                    self._align(other.ties.axes[axis], other, sizes, self.base.ties.axes[base_axis], runs)
        return sizes

    def _align(self, row: tuple[int, ...], other: Analysed, sizes: list[int], base: tuple[int, ...], runs: Any) -> None:
        """Two ways to cut the same dimension into runs: carry the sizes over where the cuts meet."""
        position, queue = 0, list(base)
        for run in row:
            old, new, end = 0, 0, position + other.ties.run_sizes[run]
            while queue and position < end:
                part = queue.pop(0)
                position += self.base.ties.run_sizes[part]
                old, new = old + self.base.ties.run_sizes[part], new + runs[part]
            if position > end:
                if old != new:
                    raise StructureError("In this mode the model takes a resized axis apart in another way.")
                queue.insert(0, part)
                position -= self.base.ties.run_sizes[part]
                return
            sizes[run] = new


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
        parts = [root.new(size) for size in self.runs]
        for number, part in enumerate(parts):
            root.called(part, f"~{number}")
        axes = {axis: Vector.concat([parts[run] for run in row]) for axis, row in ties.axes.items()}
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
        sizes = Sizes(analysed.rows, self.model.runs_in(analysed, self.runs))
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
        return Imported(self.model, tuple(sizes[f"~{number}"] for number in range(len(self.runs))))

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
