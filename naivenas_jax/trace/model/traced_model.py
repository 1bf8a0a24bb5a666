"""The model behind an imported graph: a function, and its traces, one for each way to call it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import jax
from flax.core.scope import CollectionFilter, DenyList

from naivenas_jax.errors import GraphError, StructureError
from naivenas_jax.paths import Path
from naivenas_jax.trace.model.call_arguments import Arguments, shape_of
from naivenas_jax.trace.program.analyse import Analysed, analyse, end_axis
from naivenas_jax.trace.program.capture import TracedProgram, capture
from naivenas_jax.trace.program.rebind import NewSizes
from naivenas_jax.typing import Array, PyTree, Shape, Variables

Arrays: TypeAlias = Sequence[Array]
#: Keys of random numbers, by stream.
Keys: TypeAlias = Mapping[str, jax.Array]
#: The collections that may be updated, as Flax takes them; None: updates go nowhere, and nobody asks for them.
Mutable: TypeAlias = CollectionFilter | None
#: The keyword arguments of a model: constants, arrays, or trees of those.
Keywords: TypeAlias = Mapping[str, PyTree]
#: ``fn(variables, inputs, rngs, mutable, kwargs) -> (outputs, updated variables)``
ModelFunction: TypeAlias = Callable[[Variables, tuple[PyTree, ...], Keys, Mutable, Keywords], tuple[PyTree, Variables]]


@dataclass(frozen=True)
class TracedModel:
    """What was imported. Equal to another if it is the same model, imported alike.

    Attributes:
      identity: the model as a value.
      variables: shapes and dtypes of its original variables, by path.
      arguments: the inputs that it was imported with, without their arrays.
      inputs: shapes and dtypes of the arrays among the inputs.
      kwargs: the keyword arguments that it was imported with, without their arrays.
      function: the model as a function.
      base: its trace at the inputs that it was imported with, analysed.
      defaults: the keyword arguments that it was imported with, as they are.
      edits: how often it has been edited since the import.
      keywords: the keyword arguments that the function names.
    """

    identity: Hashable
    variables: tuple[tuple[Path, Shape], ...]
    arguments: Arguments
    inputs: tuple[Shape, ...]
    kwargs: Arguments
    function: ModelFunction = field(compare=False)
    base: Analysed = field(compare=False)
    defaults: Keywords = field(compare=False)
    edits: int = 0
    keywords: frozenset[str] = frozenset()
    _programs: dict[Hashable, Analysed] = field(compare=False, default_factory=dict)

    @classmethod
    def trace(
        cls,
        function: ModelFunction,
        identity: Hashable,
        variables: Mapping[Path, Array | Shape],
        arguments: Arguments,
        inputs: Sequence[Shape],
        kwargs: Keywords,
        *,
        edits: int = 0,
        keywords: frozenset[str] = frozenset(),
    ) -> TracedModel:
        """Trace a model in evaluation, and find its ties; the arguments are the attributes of the same names."""
        shapes = {path: shape_of(array) for path, array in variables.items()}
        static, arrays = Arguments.split(dict(kwargs))

        def call(values: Variables, data: Arrays, keys: Keys, extra: Arrays) -> tuple[PyTree, Variables]:
            del extra
            return function(values, arguments.join(data), keys, None, kwargs)

        base = analyse(capture(call, shapes, inputs, {}, []))
        return cls(
            identity=object() if arrays else identity,  # arrays among the keyword arguments are constants of the trace
            variables=tuple(shapes.items()),
            arguments=arguments,
            inputs=tuple(inputs),
            kwargs=static,
            function=function,
            base=base,
            defaults=dict(kwargs),
            edits=edits,
            keywords=keywords,
        )

    def program(
        self, inputs: Sequence[Shape], rngs: Keys, mutable: Mutable, kwargs: Keywords
    ) -> tuple[Analysed, list[Array | Shape]]:
        """The trace of a call like this one, made at the original sizes when it is first asked for.

        Args:
          inputs: the shapes that the arrays of the inputs would have at the original sizes.
          rngs: keys by stream.
          mutable: the collections that may be updated.
          kwargs: the keyword arguments.

        Returns:
          The trace, analysed, and the arrays among the keyword arguments.
        """
        keys = {name: jax.ShapeDtypeStruct(key.shape, key.dtype) for name, key in rngs.items()}
        static, arrays = Arguments.split(dict(kwargs))
        extra, writable = tuple(map(shape_of, arrays)), _hashable_filter(mutable)
        kind = (tuple(inputs), tuple(sorted(keys.items())), writable, static, extra)
        if kind not in self._programs:

            def call(values: Variables, data: Arrays, keys: Keys, extra: Arrays) -> tuple[PyTree, Variables]:
                given = {**self.defaults, **static.join(extra)}
                return self.function(values, self.arguments.join(data), keys, writable, given)

            self._programs[kind] = analyse(capture(call, dict(self.variables), inputs, keys, extra))
        return self._programs[kind], arrays

    def runs_in(self, other: Analysed, runs: tuple[int, ...]) -> list[int]:
        """The sizes of the runs of another program, given those of the base program.

        Raises:
          StructureError: if the other program needs a size that changed to be what it was.
        """
        now = NewSizes({}, runs, self.base.ties.products)
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
    other: Analysed,
    row: tuple[int, ...],
    sizes: dict[int, int],
    base: Analysed,
    base_row: tuple[int, ...],
    now: NewSizes,
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


def _hashable_filter(mutable: Mutable) -> Mutable:
    """The same filter of collections as a hashable value."""
    if mutable is None or isinstance(mutable, bool | DenyList | tuple):
        return mutable
    return (mutable,) if isinstance(mutable, str) else tuple(sorted(mutable))


def neurons_of(program: TracedProgram) -> list[int]:
    """The size of the last dimension of each output."""
    avals = zip(program.results, program.closed.out_avals, strict=True)
    sizes = [(aval.shape or (1,))[-1] for role, aval in avals if role.kind == "output"]
    if not sizes:
        raise GraphError("The model returns no arrays, so there is nothing to keep when it changes.")
    return sizes
