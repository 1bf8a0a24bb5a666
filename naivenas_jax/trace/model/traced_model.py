"""The model behind an imported graph: a function, and its traces, one for each way to call it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Protocol, TypeAlias
from uuid import UUID, uuid4
from weakref import WeakValueDictionary

import jax
from flax.core.scope import CollectionFilter, DenyList

from naivenas_jax.errors import GraphError, NaiveNASError
from naivenas_jax.graph.structure import Hashed, Structure
from naivenas_jax.paths import Path, path_text
from naivenas_jax.pickling import packed, unpacked
from naivenas_jax.progress import waiting
from naivenas_jax.sizes.origins import Origins
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.trace.model.call_arguments import CallSignature, traced_shape
from naivenas_jax.trace.model.shared_sizes import SharedAxis, with_sizes_of
from naivenas_jax.trace.program.analyse import Analysed, analyse, end_axis
from naivenas_jax.trace.program.capture import TracedProgram, capture
from naivenas_jax.trace.program.import_errors import cannot_be_called
from naivenas_jax.typing import Array, PyTree, Shape, Variables

#: Keys of random numbers, by stream.
Keys: TypeAlias = Mapping[str, jax.Array]
#: The collections that may be updated, as Flax takes them; None: updates go nowhere, and nobody asks for them.
Mutable: TypeAlias = CollectionFilter | None
#: The keyword arguments of a model: constants, arrays, or trees of those.
Keywords: TypeAlias = Mapping[str, PyTree]


class ModelFunction(Protocol):
    """A model as a function of its variables: a value that can be pickled, as far as what the user gave can be."""

    @property
    def identity(self) -> object:
        """What it is equal by; where that can be hashed, two imports of equal models are equal."""

    def __call__(
        self, values: Variables, arguments: tuple[PyTree, ...], rngs: Keys, mutable: Mutable, given: Keywords, /
    ) -> tuple[PyTree, Variables]:
        """``fn(variables, inputs, rngs, mutable, kwargs) -> (outputs, updated variables)``."""


class Importable(ModelFunction, Protocol):
    """A model of the user, before any edit."""

    @property
    def signature(self) -> CallSignature:
        """What it may be called with."""


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
      streams: the shapes of the keys that it was imported with, by stream.
      writes: the collections that it updates in evaluation, too (a cache).
      loose: the parameters that are in no collection: all variables of a function that has no "params".
    """

    identity: Hashable
    variables: tuple[tuple[Path, Shape], ...]
    arguments: Structure
    inputs: tuple[Shape, ...]
    kwargs: Structure
    function: ModelFunction = field(compare=False)
    base: Analysed = field(compare=False)
    defaults: Keywords = field(compare=False)
    edits: int = 0
    keywords: frozenset[str] = frozenset()
    streams: tuple[tuple[str, Shape], ...] = ()
    writes: tuple[str, ...] = ()
    loose: frozenset[Path] = frozenset()
    _programs: dict[Hashable, Analysed] = field(compare=False, default_factory=dict)

    @classmethod
    def trace(
        cls,
        function: ModelFunction,
        variables: Mapping[Path, Array | Shape],
        arguments: Structure,
        inputs: Sequence[Shape],
        kwargs: Keywords,
        *,
        edits: int = 0,
        keywords: frozenset[str] = frozenset(),
        streams: tuple[tuple[str, Shape], ...] = (),
        writes: tuple[str, ...] = (),
        loose: frozenset[Path] = frozenset(),
        token: UUID | None = None,
        again: bool = False,
    ) -> TracedModel:
        """Trace a model in evaluation, and find its ties; the arguments are the attributes of the same names.

        One that cannot be compared equals those alone that have the same ``token``. With ``again``, an equal one that
        is still alive is taken as it is.
        """
        shapes = {path: traced_shape(array) for path, array in variables.items()}
        static, arrays = Structure.split(dict(kwargs))
        own = token or _identity(function, not arrays)  # arrays among the keyword arguments are constants of the trace
        asked = own, tuple(shapes.items()), arguments, tuple(inputs), static, edits, keywords, streams, writes, loose
        key = Hashed(asked)
        if again and (alive := _ALIVE.get(key)):
            return alive

        def call(
            values: Variables, data: Sequence[Array], keys: Keys, extra: Sequence[Array]
        ) -> tuple[PyTree, Variables]:
            del extra
            return function(values, arguments.join(data), keys, writes or False, kwargs)

        with waiting("model") as tell:
            tell("traced, with names and without")
            try:
                program = capture(call, shapes, inputs, dict(streams), [])
            except NaiveNASError:
                raise
            except Exception as error:  # whatever the model says to inputs that it cannot be called with
                raise cannot_be_called(error, inputs, kwargs) from error
            tell("its ties are found")
            base = analyse(program, loose)
        model = cls(
            identity=own,
            variables=tuple(shapes.items()),
            arguments=arguments,
            inputs=tuple(inputs),
            kwargs=static,
            function=function,
            base=base,
            defaults=dict(kwargs),
            edits=edits,
            keywords=keywords,
            streams=streams,
            writes=writes,
            loose=loose,
        )
        own_call = _kind(model.inputs, dict(streams), writes or False, Structure.split({})[0], ())
        model._programs[own_call] = base
        _ALIVE.setdefault(key, model)
        return model

    def __deepcopy__(self, memo: object) -> TracedModel:
        return self  # a value

    def __reduce__(self) -> tuple[object, ...]:
        arguments = {each.name: getattr(self, each.name) for each in fields(self) if each.init and each.name in _GIVEN}
        token = self.identity if isinstance(self.identity, UUID) else None
        data, beside = packed({**arguments, "kwargs": self.defaults, "token": token})
        return _traced_again, (self.function, dict(self.variables), self.base.ties.run_sizes, data, beside)

    @property
    def keys(self) -> dict[str, jax.Array]:
        """A key for each stream that the model was imported with, to call it with where any will do."""
        return {name: jax.random.fold_in(jax.random.key(0), i) for i, (name, _) in enumerate(self.streams)}

    def program(
        self, inputs: Sequence[Shape], rngs: Keys, mutable: Mutable, kwargs: Keywords
    ) -> tuple[Analysed, list[Array | Shape]]:
        """The trace of a call like this one, made at the original sizes when it is first asked for.

        A call as at the import has the trace of the import.

        Args:
          inputs: the shapes that the arrays of the inputs would have at the original sizes.
          rngs: keys by stream.
          mutable: the collections that may be updated.
          kwargs: the keyword arguments.

        Returns:
          The trace, analysed, and the arrays among the keyword arguments.
        """
        keys = {name: jax.ShapeDtypeStruct(key.shape, key.dtype) for name, key in rngs.items()}
        static, arrays = Structure.split(dict(kwargs))
        extra, writable = tuple(map(traced_shape, arrays)), _hashable_filter(mutable)
        kind = _kind(inputs, keys, writable, static, extra)
        if kind not in self._programs:

            def call(
                values: Variables, data: Sequence[Array], keys: Keys, extra: Sequence[Array]
            ) -> tuple[PyTree, Variables]:
                given = {**self.defaults, **static.join(extra)}
                return self.function(values, self.arguments.join(data), keys, writable, given)

            traced = capture(call, dict(self.variables), inputs, keys, extra)
            self._programs[kind] = analyse(traced, self.loose, sizes_alone=True)
        return self._programs[kind], arrays

    def ties_of(self, other: Analysed, now: Ties, origins: Origins) -> tuple[Ties, Origins]:
        """The ties of another trace with the present sizes, and which of its neurons there are now.

        Args:
          other: the other trace.
          now: the ties of ``base``, with the present sizes.
          origins: which neurons of ``base`` there are now.

        Raises:
          StructureError: if the other trace needs a size that changed to be what it was.
        """
        if other is self.base:
            return now, origins
        return with_sizes_of(now, origins, other.ties, self._shared_axes(other))

    def _shared_axes(self, other: Analysed) -> Iterator[SharedAxis]:
        """The dimensions of variables and inputs that lie on an axis in ``base`` and in another trace."""
        for path, _ in self.variables:
            axes = zip(self.base.ties.leaves[path].axes, other.ties.leaves[path].axes, strict=True)
            for dim, (base_axis, axis) in enumerate(axes):
                if axis is not None and base_axis is not None:
                    yield SharedAxis(f"Dimension {dim} of {path_text(path)}", base_axis, axis)
        for number in range(len(self.inputs)):
            axis = end_axis("input", number)
            if axis in other.ties.axes and axis in self.base.ties.axes:
                yield SharedAxis(f"Input {number}", axis, axis)


#: The models that are alive, by what they are compared by.
_ALIVE: WeakValueDictionary[Hashed, TracedModel] = WeakValueDictionary()

#: Arguments of `TracedModel.trace` by which a model is traced again.
_GIVEN = ("arguments", "inputs", "edits", "keywords", "streams", "writes", "loose")


def _traced_again(
    function: ModelFunction,
    variables: Mapping[Path, Shape],
    sizes: tuple[int, ...],
    data: bytes,
    beside: tuple[object, ...],
) -> TracedModel:
    """The model that was pickled: the very same if it is still alive, or traced again.

    Raises:
      GraphError: if the model is not what it was.
    """
    model = TracedModel.trace(function, variables, **unpacked(data, beside), again=True)
    if model.base.ties.run_sizes != sizes:
        raise GraphError(
            "The model that the graph was imported from has changed since it was pickled: it has other sizes that can "
            "change, or other ties. Unpickle the graph where the code of the model is what it was."
        )
    return model


def _identity(function: ModelFunction, comparable: bool) -> Hashable:
    """The model itself, where it can be hashed, so that equal models make equal graphs; else what equals its copies."""
    identity = function.identity if comparable else None
    try:
        hash(identity)
    except TypeError:
        return uuid4()
    return uuid4() if identity is None else identity


def _kind(
    inputs: Sequence[Shape], keys: Mapping[str, Shape], writable: Mutable, static: Structure, extra: Sequence[Shape]
) -> Hashable:
    """What tells apart calls that need traces of their own; the arguments are those of `TracedModel.program`."""
    return tuple(inputs), tuple(sorted(keys.items())), writable, static, tuple(extra)


def _hashable_filter(mutable: Mutable) -> Mutable:
    """The same filter of collections as a hashable value."""
    if mutable is None or isinstance(mutable, bool | DenyList | tuple):
        return mutable
    return (mutable,) if isinstance(mutable, str) else tuple(sorted(mutable))


def output_shapes(program: TracedProgram) -> list[Shape]:
    """The shape of each output."""
    avals = zip(program.results, program.closed.out_avals, strict=True)
    return [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for role, aval in avals if role.kind == "output"]


def neurons_of(program: TracedProgram) -> list[int]:
    """The size of the last dimension of each output; 1 for an output without dimensions.

    Raises:
      GraphError: if there is no output.
    """
    sizes = [(shape.shape or (1,))[-1] for shape in output_shapes(program)]
    if not sizes:
        raise GraphError("The model returns no arrays, so there is nothing to keep when it changes.")
    return sizes
