"""An imported model: its programs, one for each way to call it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from flax.core.scope import DenyList

from naivenas_jax.errors import GraphError, StructureError
from naivenas_jax.paths import Path
from naivenas_jax.trace.model.call_arguments import Arguments, shape_of
from naivenas_jax.trace.program.analyse import Analysed, analyse, end_axis
from naivenas_jax.trace.program.capture import Program, capture
from naivenas_jax.trace.program.rebind import Sizes
from naivenas_jax.transfer.variables import flat

#: ``fn(variables, inputs, rngs, mutable, kwargs) -> (outputs, updated variables)``; mutable None: updates go nowhere
ModelFunction = Callable[[Any, tuple[Any, ...], Mapping[str, Any], Any, Mapping[str, Any]], tuple[Any, Any]]


@dataclass(frozen=True)
class Model:
    """What was imported. Equal to another if it is the same model, imported alike.

    Attributes:
      identity: the model as a value.
      variables: shapes and dtypes of its original variables, by path.
      arguments: the inputs that it was imported with, without their arrays.
      inputs: shapes and dtypes of the arrays.
      kwargs: keyword arguments that it was imported with, without their arrays.
      function: the model as a function.
      base: the program at the inputs that it was imported with.
      defaults: the arrays in ``kwargs``.
      edits: how often it has been edited since the import.
      named: the keyword arguments that the function names.
    """

    identity: Hashable
    variables: tuple[tuple[Path, jax.ShapeDtypeStruct], ...]
    arguments: Arguments
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    kwargs: Arguments
    function: ModelFunction = field(compare=False)
    base: Analysed = field(compare=False)
    defaults: Mapping[str, Any] = field(compare=False)
    edits: int = 0
    named: frozenset[str] = frozenset()
    _programs: dict[Hashable, Analysed] = field(compare=False, default_factory=dict)

    @classmethod
    def trace(
        cls,
        function: ModelFunction,
        identity: Hashable,
        variables: Mapping[str, Any],
        arguments: Arguments,
        inputs: Sequence[jax.ShapeDtypeStruct],
        kwargs: Mapping[str, Any],
        edits: int = 0,
        named: frozenset[str] = frozenset(),
    ) -> Model:
        """Trace a model in evaluation, and find its ties."""
        shapes = {path: shape_of(array) for path, array in flat(variables).items()}
        static, arrays = Arguments.split(dict(kwargs))

        def call(values: Any, data: Any, keys: Any, named: Any) -> tuple[Any, Any]:
            del named
            return function(values, arguments.join(data), keys, None, kwargs)

        base = analyse(capture(call, shapes, inputs, {}, []))
        key = object() if arrays else identity  # arrays among the keyword arguments are constants of the program
        structs, given = tuple(shapes.items()), dict(kwargs)
        return cls(key, structs, arguments, tuple(inputs), static, function, base, given, edits, named)

    def program(self, inputs: Sequence[Any], rngs: Mapping[str, Any], mutable: Any, given: Mapping[str, Any]) -> tuple:
        """The program for this call, traced at the original sizes when it is first asked for, and its keyword arrays.

        Args:
          inputs: the shapes that its arrays would have at the original sizes.
          rngs: keys by stream.
          mutable: as of `flax`.
          given: keyword arguments.
        """
        inputs = tuple(inputs)
        keys = {name: jax.ShapeDtypeStruct(key.shape, key.dtype) for name, key in rngs.items()}
        static, arrays = Arguments.split(dict(given))
        named, mutable = tuple(map(shape_of, arrays)), _hashable(mutable)
        key = (inputs, tuple(sorted(keys.items())), mutable, static, named)
        if key not in self._programs:

            def call(values: Any, data: Any, streams: Any, extra: Any) -> tuple[Any, Any]:
                kwargs = {**self.defaults, **static.join(extra)}
                return self.function(values, self.arguments.join(data), streams, mutable, kwargs)

            self._programs[key] = analyse(capture(call, dict(self.variables), inputs, keys, named))
        return self._programs[key], arrays

    def runs_in(self, other: Analysed, runs: tuple[int, ...]) -> list[int]:
        """The sizes of the runs of another program, given those of the base program.

        Raises:
          StructureError: if the other program needs a size that changed to be what it was.
        """
        now = Sizes({}, runs, self.base.ties.products)
        sizes: dict[int, int] = {}
        for what, axis, base_axis in self._shared_axes(other):
            before = self.base.ties.axes[base_axis]
            if not _align(other, other.ties.axes[axis], sizes, self.base, before, now):
                raise StructureError(
                    f"{what} has been resized, and called like this the model does not allow it (other inputs, keyword "
                    "arguments or mode than it was imported with). Import it with these arguments, so that its handles "
                    "are right for them."
                )
        return [sizes.get(run, size) for run, size in enumerate(other.ties.run_sizes)]

    def _shared_axes(self, other: Analysed) -> Iterator[tuple[str, str, str]]:
        """Dimensions that lie on an axis in another program as in the base program: what they are, and both axes."""
        for path, _ in self.variables:
            axes = zip(other.ties.leaves[path].axes, self.base.ties.leaves[path].axes, strict=True)
            for dim, (axis, base_axis) in enumerate(axes):
                if axis is not None and base_axis is not None:
                    yield f"Dimension {dim} of {'/'.join(path)}", axis, base_axis
        for number in range(len(self.inputs)):
            axis = end_axis("input", number)
            if axis in other.ties.axes and axis in self.base.ties.axes:
                yield f"Input {number}", axis, axis


def _align(
    other: Analysed, row: tuple[int, ...], sizes: dict[int, int], base: Analysed, base_row: tuple[int, ...], now: Sizes
) -> bool:
    """Two ways to cut the same dimension into runs: carry the sizes over where the cuts meet. False if they do not."""
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
            if not all(_align(other, a, sizes, base, b, now) for a, b in zip(*factors, strict=True)):
                return False
            continue
        size = now.row(tuple(theirs))
        if len(mine) == 1 and not factors[0]:
            if sizes.setdefault(mine[0], size) != size or (size != n and mine[0] in other.ties.fixed):
                return False
        elif size != n:
            return False
    return True


def _present(analysed: Analysed, runs: list[int]) -> int:
    return analysed.ties.length(runs)


def _hashable(mutable: Any) -> Any:
    if mutable is None or isinstance(mutable, bool | DenyList | tuple):
        return mutable
    return (mutable,) if isinstance(mutable, str) else tuple(sorted(mutable))


def neurons_of(program: Program) -> list[int]:
    """The size of the last dimension of each output."""
    avals = zip(program.results, program.closed.out_avals, strict=True)
    sizes = [(aval.shape or (1,))[-1] for role, aval in avals if role.kind == "output"]
    if not sizes:
        raise GraphError("The model returns no arrays, so there is nothing to keep when it changes.")
    return sizes
