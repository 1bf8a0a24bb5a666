"""An imported model as the computation of a vertex."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
from flax.core import Scope

from naivenas_jax.errors import GraphError, VariablesError
from naivenas_jax.graph.op import Op
from naivenas_jax.sizes.blocks import Vector
from naivenas_jax.sizes.ties import Tying
from naivenas_jax.trace.analyse import Analysed
from naivenas_jax.trace.capture import Path
from naivenas_jax.trace.model import Model, neurons_of
from naivenas_jax.trace.rebind import Sizes, evaluate


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
    declares_width = False

    def tie(self, ports: tuple[Vector, ...], tying: Tying) -> Vector:
        for port in ports:
            tying.fix(port, "it is an input of the model")
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
        for run, reason in ties.coupled_runs.items():
            root.couple(parts[run], reason)
        output = root.new(sum(neurons_of(self.model.base.program)))
        root.fix(output, "it is an output of the model")
        return output

    def call(self, scope: Scope, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if scope.get_flag("initializing", False):
            raise GraphError(
                "An imported graph has no initialiser: its variables come with the import, and with every mutation. "
                "For other ones initialise the model itself, and import it with them."
            )
        rngs = {name: rng.as_jax_rng() for name, rng in scope.rngs.items()}
        arrays = [jax.numpy.asarray(x) for x in inputs]
        analysed, named = self.model.program(arrays, rngs, scope.mutable, kwargs)
        variables = {path: _read(scope, path) for path, _ in self.model.variables}
        given: dict[str, Any] = {"variable": variables, "input": arrays, "rng": rngs, "keyword": named}
        program, sizes = analysed.program, self._sizes(analysed)
        arguments = [given[role.kind][role.which] for role in program.arguments]
        closed = program.closed
        results = evaluate(closed.jaxpr, analysed.frame, sizes, closed.consts, arguments)
        outputs, updates = program.outputs(results)
        for path, value in updates.items():
            _write(scope, path, value)
        return outputs

    def _sizes(self, analysed: Analysed) -> Sizes:
        ties = analysed.ties
        return Sizes(analysed.rows, self.model.runs_in(analysed, self.runs), ties.products, ties.run_sizes)

    def resized(self, ports: tuple[int, ...], sizes: Mapping[str, int]) -> Imported:
        del ports
        products = self.model.base.ties.products
        return Imported(
            self.model, tuple(0 if run in products else sizes[f"~{run}"] for run in range(len(self.runs)))
        )

    def describe(self) -> str:
        return "imported model"


def _read(scope: Scope, path: Path) -> Any:
    node: Any = scope.root._variables
    for key in path:
        if not isinstance(node, Mapping) or key not in node:
            raise VariablesError(
                f"The variables have no variables{''.join(f'[{k!r}]' for k in path)}, which the imported model needs."
            )
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

    declares_width = False

    def tie(self, ports: tuple[Vector, ...], tying: Tying) -> Vector:
        del tying
        return ports[0].cut(self.start, self.stop)

    def call(self, scope: Scope, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        del scope, kwargs
        return inputs[0][self.number]

    def describe(self) -> str:
        return f"output {self.number}"
