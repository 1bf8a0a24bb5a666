"""An imported model as the computation of a vertex."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import jax
import numpy as np
from flax.core import Scope

from naivenas_jax.errors import DuplicateNameError, GraphError, StructureError, VariablesError
from naivenas_jax.graph.model_vertex import AxisChange, ModelEdit, ModelOp, ModelPick, Place
from naivenas_jax.graph.structure import arrays_in
from naivenas_jax.paths import Path, is_unnamed, path_text, subscripts
from naivenas_jax.sizes.origins import Origins, old
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.sizes.tying import Tying
from naivenas_jax.sizes.vector import Vector
from naivenas_jax.trace.model.call_arguments import traced_shape
from naivenas_jax.trace.model.edited_model import EditedModel, check_updates, late
from naivenas_jax.trace.model.traced_model import Keys, Keywords, Mutable, TracedModel, neurons_of, output_shapes
from naivenas_jax.trace.program.analyse import ENDS, Analysed, end_axis
from naivenas_jax.trace.program.capture import Role
from naivenas_jax.trace.program.rebind import NewSizes, Watch, evaluate_resized
from naivenas_jax.transfer.variables import flat, nested
from naivenas_jax.typing import Array, PyTree, Shape, Variables

#: The axis of all neurons that constants of the model have entries for.
_CONSTANTS = "~constants"


@dataclass(frozen=True)
class ImportedOp(ModelOp):
    """An imported model with the present sizes of its runs of neurons.

    Attributes:
      model: the model, and its traces at the sizes that it was imported with.
      runs: the present size of each run of its first trace.
      named: places whose neurons have an axis of their own.
      origins: for the neurons that constants have entries for, run by run, the class that each was at the import; of
        new ones that which they are like, as in `Origins`. Empty: all are as they were.
    """

    model: TracedModel
    runs: tuple[int, ...]
    named: tuple[Place, ...] = ()
    origins: tuple[int, ...] = ()

    keywords = None
    at_root = True
    declares_width = False

    def __reduce__(self) -> tuple[object, ...]:
        return ImportedOp, (self.model, self.runs, self.named, self.origins)  # a model that two ops share stays one

    def tie(self, ports: tuple[Vector, ...], tying: Tying) -> Vector:
        """What the trace ties, between the ports and the outputs side by side."""
        base, root = self.model.base, replace(tying, scope=())
        if any(axis in root.names for axis in base.ties.axes if axis.startswith(ENDS)):
            raise DuplicateNameError(
                f"Vertex {path_text(tying.scope)!r} is the second imported model of the graph, which can have one: "
                "its handles and variables have the names that they have in the model. Compose the models in Flax, as "
                "with nn.Sequential or a module of your own, and import what they make together."
            )
        model = root.include(base.ties, {axis: self._axis(axis) for axis in base.ties.axes}, self.runs)
        for run in base.ties.plain(model.runs):
            root.called(model.runs[run], self._run(run))
        for place in self.named:
            found = base.places[place][0]
            dim, size = found.value.dims[-1], found.aval.shape[-1]
            root.called(_fixed(root, size, str(place)) if dim is None else model.row(base.rows[dim]), str(place))
        if constant := base.constant_runs:
            root.called(model.row(constant), self._axis(_CONSTANTS))
        for number, port in enumerate(ports):
            _tie_input(root, port, model.axes.get(end_axis("input", number)))
        outputs = ((model.axes.get(end_axis("output", i)), n) for i, n in enumerate(neurons_of(base.program)))
        return Vector.concat([_fixed(root, n, "an output of the model") if own is None else own for own, n in outputs])

    def call(self, scope: Scope, inputs: tuple[PyTree, ...], kwargs: Keywords) -> PyTree:
        """What the model returns; collections that may be updated are updated."""
        if scope.get_flag("initializing", False):
            raise GraphError(
                "An imported graph has no initialiser: its variables come with the import, and with every mutation. "
                "For other ones initialise the model itself, and import it with them."
            )
        rngs = {name: rng.as_jax_rng() for name, rng in scope.rngs.items()}
        variables = {path: _read(scope, path, shape) for path, shape in self.shapes.items()}
        outputs, updates = self.computed(variables, inputs, rngs, scope.mutable, kwargs)
        for path, value in updates.items():
            _write(scope, path, value)
        return outputs

    def computed(
        self,
        variables: Mapping[Path, Array],
        inputs: Sequence[Array | Shape],
        rngs: Keys,
        mutable: Mutable,
        kwargs: Keywords,
        hook: Watch | None = None,
    ) -> tuple[PyTree, dict[Path, PyTree]]:
        """The outputs, in the structure that the model returns in this call, and the updated variables.

        Args:
          variables: by path.
          inputs: the arrays of the inputs, one after the other.
          rngs: keys by stream.
          mutable: the collections that may be updated.
          kwargs: the keyword arguments of the model.
          hook: sees each named value, and returns what takes its place.
        """
        arrays = [jax.numpy.asarray(x) for x in inputs]
        shapes = [self._original(number, traced_shape(array)) for number, array in enumerate(arrays)]
        analysed, extra = self.model.program(shapes, rngs, mutable, kwargs)
        given = {
            **{Role("variable", path): array for path, array in variables.items()},
            **{Role("input", i): array for i, array in enumerate(arrays)},
            **{Role("rng", name): key for name, key in rngs.items()},
            **{Role("keyword", i): jax.numpy.asarray(array) for i, array in enumerate(extra)},
        }
        program, sizes = analysed.program, self._sizes(analysed, hook)
        arguments = [given[role] for role in program.arguments]
        return program.returned(evaluate_resized(program.closed, analysed.frame, sizes, arguments))

    @property
    def cut(self) -> tuple[str, ...]:
        """The handles whose neurons constants of the model have entries for, and have been cut to."""
        ties, runs = self.model.base.ties, Origins.of_classes(self.model.base.ties, self._classes).classes.keys()
        return tuple(name for name, row in ties.axes.items() if not is_unnamed(name) and ties.plain(row) & runs)

    @property
    def keys(self) -> dict[str, jax.Array]:
        """A key for each stream that the model was imported with."""
        return self.model.keys

    @property
    def writes(self) -> tuple[str, ...]:
        """The collections that the model updates in evaluation, too."""
        return self.model.writes

    @cached_property
    def ties(self) -> Ties:
        """The ties of the model's first trace, with the present sizes."""
        return self.model.base.ties.resized(dict(enumerate(self.runs)))

    @cached_property
    def shapes(self) -> dict[Path, tuple[int, ...]]:
        """The present shape of every variable."""
        ties = self.ties
        return {
            path: tuple(
                n if axis is None else ties.size(axis)
                for n, axis in zip(was.shape, ties.leaves[path].axes, strict=True)
            )
            for path, was in self.model.variables
        }

    def _original(self, number: int, now: Shape) -> Shape:
        """The shape of an input as the model that was imported takes it."""
        axis = end_axis("input", number)
        if axis not in self.ties.axes or now.shape[-1:] != (self.ties.size(axis),):
            return now
        return jax.ShapeDtypeStruct((*now.shape[:-1], self.model.inputs[number].shape[-1]), now.dtype)

    def _sizes(self, analysed: Analysed, hook: Watch | None = None) -> NewSizes:
        """The present sizes, for a trace that is to be evaluated with them."""
        now, origins = self.model.ties_of(analysed, self.ties, Origins.of_classes(self.model.base.ties, self._classes))
        return NewSizes(analysed.rows, now, analysed.ties, origins, hook)

    @cached_property
    def _classes(self) -> dict[int, np.ndarray]:
        """The present neurons of the runs that constants have entries for, as classes of the import; see `Origins`."""
        runs, first = self.model.base.constant_runs, Origins(self.model.base.ties)
        if not self.origins:
            return {run: first.of(run) for run in runs}
        ends = np.cumsum([self.runs[run] for run in runs])
        return dict(zip(runs, np.split(np.array(self.origins, int), ends[:-1]), strict=True))

    def resized(self, ports: tuple[int, ...], sizes: Mapping[str, int]) -> ImportedOp:
        """The model with other sizes of its runs of neurons; of those that constants know the first ones stay."""
        del ports
        return self._with(sizes, {run: _first(now, sizes[self._run(run)]) for run, now in self._classes.items()})

    def changed(self, axes: Mapping[str, AxisChange]) -> ImportedOp:
        """The model after a change of its axes: constants follow the neurons that stay."""
        sizes = {name: len(axis.source) for name, axis in axes.items()}
        if not self._classes:
            return self._with(sizes, {})
        axis, now = axes[self._axis(_CONSTANTS)], np.concatenate(list(self._classes.values()))
        runs = np.repeat(list(self._classes), [sizes[self._run(run)] for run in self._classes])
        models = np.where(axis.twin < 0, self.model.base.ties.starts[runs], old(now)[axis.twin])
        after = np.where(axis.source < 0, -1 - models, now[axis.source])
        return self._with(sizes, {run: after[runs == run] for run in self._classes})

    def _with(self, sizes: Mapping[str, int], classes: Mapping[int, np.ndarray]) -> ImportedOp:
        """The model with other sizes, and these neurons on the runs that constants have entries for."""
        base = self.model.base.ties
        changed = {run: sizes[self._run(run)] for run in base.plain(range(len(self.runs)))}
        same = all(np.array_equal(now, Origins(base).of(run)) for run, now in classes.items())
        origins = () if same else tuple(np.concatenate(list(classes.values())).tolist())
        return replace(self, runs=base.resized(changed).run_sizes, origins=origins)

    def _run(self, run: int) -> str:
        """The name that a run's neurons have in the graph, as an axis."""
        return self._axis(f"~{run}")

    def _axis(self, axis: str) -> str:
        """The name of an axis in the graph. The name of a run stands for other neurons after each edit."""
        if not self.model.edits or not is_unnamed(axis) or axis.startswith(ENDS) or axis in self._of_leaves:
            return axis
        return f"~{self.model.edits}{axis}"

    @cached_property
    def _of_leaves(self) -> frozenset[str]:
        """The axes that dimensions of variables lie on."""
        return frozenset(axis for leaf in self.model.base.ties.leaves.values() for axis in leaf.axes if axis)

    def returns(self) -> tuple[Shape, ...]:
        """The present shapes of the outputs."""
        return tuple(self._present("output", i, was) for i, was in enumerate(output_shapes(self.model.base.program)))

    def _present(self, kind: Literal["input", "output"], number: int, was: Shape) -> Shape:
        """The present shape of an input or output, of which the last dimension may have changed."""
        axis = end_axis(kind, number)
        last = (self.ties.size(axis),) if axis in self.ties.axes else was.shape[-1:]
        return jax.ShapeDtypeStruct((*was.shape[:-1], *last), was.dtype)

    def places(self) -> dict[Place, Shape]:
        """What each module takes in and returns, with the present shapes."""
        sizes = self._sizes(self.model.base)
        return {
            place: jax.ShapeDtypeStruct(sizes.shape(found[0].value, found[0].aval.shape), found[0].aval.dtype)
            for place, found in self.model.base.places.items()
        }

    def neurons_at(self) -> dict[Place, tuple[tuple[str, ...], ...]]:
        """The neurons at each place: for each dimension that they lie on the axes of the graph, run by run."""
        base = self.model.base

        def axes(dim: Vector) -> tuple[str, ...]:
            return tuple(self._run(run) for each in base.rows[dim] for run in sorted(base.ties.plain((each,))))

        return {
            place: tuple(axes(dim) for dim in found[0].value.dims if dim is not None)
            for place, found in base.places.items()
        }

    def axes_inside(self, name: str) -> tuple[str, ...]:
        """The axes on which the output of a module lies."""
        found = self.model.base.places.get(Place(name, "out"))
        return tuple(axis for axes in self.neurons_at()[Place(name, "out")] for axis in axes) if found else ()

    def late(self, at: Place, reads: tuple[Place, ...]) -> StructureError | None:
        """See `edited_model.late`."""
        return late(at, reads, self.model.base.places)

    def naming(self, places: tuple[Place, ...]) -> ImportedOp:
        """The model, with an axis for the neurons at each of these places."""
        return replace(self, named=places)

    def edited(self, edit: ModelEdit, variables: Variables, added: Variables) -> tuple[ImportedOp, dict[str, PyTree]]:
        """The edited model: a function again, which is traced at the present sizes; and its variables."""
        check_updates(edit, added, self.model.base)
        given = flat(variables)
        beside = {path: array for path, array in given.items() if path not in self.shapes}  # of other vertices
        present = {path: traced_shape(given[path]) for path in self.shapes}
        function = EditedModel(self, self.model.keywords, edit, present)

        def trace(arrays: Mapping[Path, Array | Shape]) -> TracedModel:
            return TracedModel.trace(
                function,
                arrays,
                self.model.arguments,
                [self._present("input", i, was) for i, was in enumerate(self.model.inputs)],
                self.model.defaults,
                edits=self.model.edits + 1,
                keywords=self.model.keywords,
                streams=self.model.streams,
                writes=self.model.writes,
                loose=self.model.loose,
            )

        every = {**{path: given[path] for path in present}, **flat(added)}
        model = trace(every)
        before, after = self.model.base.program.read, model.base.program.read
        kept = {path: array for path, array in every.items() if path in after or path not in before}
        if len(kept) < len(every):
            model = trace(kept)
        return ImportedOp(model, model.base.ties.run_sizes), nested({**beside, **kept})

    def describe(self) -> str:
        """What tables and error messages call it."""
        return "imported model"


def _tie_input(tying: Tying, port: Vector, neurons: Vector | None) -> None:
    """Tie what arrives at a port to the neurons of an input, or fix it where the input has no axis of neurons."""
    if neurons is None:
        tying.fix(port, "it is an input of the model, read by position or index")
    else:
        tying.tie(neurons, port)


def _fixed(tying: Tying, size: int, what: str) -> Vector:
    """Neurons for a dimension of the model that lies on no axis of neurons: they cannot change."""
    vector = tying.new(size)
    tying.fix(vector, f"it is {what} that does not lie on an axis of neurons")
    return vector


def _read(scope: Scope, path: Path, shape: tuple[int, ...]) -> jax.Array:
    """A variable of the graph.

    Raises:
      VariablesError: if it is missing, or has another shape.
    """
    node: PyTree = scope.root._variables
    for key in path:
        if not isinstance(node, Mapping) or key not in node:
            raise VariablesError(f"The variables have no {subscripts(path)}, which the imported model needs.")
        node = node[key]
    if (found := np.shape(node)) != shape:
        raise VariablesError(
            f"{subscripts(path)} has shape {found}, but in this graph it must have {shape}. The variables belong to "
            "another graph, or to this one before or after a mutation."
        )
    array: jax.Array = node
    return array


def _write(scope: Scope, path: Path, value: PyTree) -> None:
    """Update a variable of the graph."""
    for key in path[1:-1]:
        scope = scope.push(key, reuse=True)
    scope.put_variable(path[0], path[-1], value)


@dataclass(frozen=True)
class ModelOutput(ModelPick):
    """One output of an imported model.

    Attributes:
      number: its number among the outputs.
      sizes: the number of neurons of every output of the model.
    """

    number: int
    sizes: tuple[int, ...]

    declares_width = False

    def tie(self, ports: tuple[Vector, ...], tying: Tying) -> Vector:
        """The neurons of the output, which are a part of what the model makes."""
        del tying
        start = sum(self.sizes[: self.number])
        return ports[0].cut(start, start + self.sizes[self.number])

    def call(self, scope: Scope, inputs: tuple[PyTree, ...], kwargs: Keywords) -> jax.Array:
        """The array of the output."""
        del scope, kwargs
        output: jax.Array = arrays_in(inputs[0])[self.number]
        return output

    def resized(self, ports: tuple[int, ...], sizes: Mapping[str, int]) -> ModelOutput:
        """The output with another number of neurons."""
        del ports
        return replace(self, sizes=tuple(sizes.get(end_axis("output", i), size) for i, size in enumerate(self.sizes)))

    def describe(self) -> str:
        """What tables and error messages call it."""
        return f"output {self.number}"


def _first(classes: np.ndarray, size: int) -> np.ndarray:
    """The first neurons; more than there are are like the last one."""
    more = -1 - np.repeat(old(classes[-1:]), max(size - len(classes), 0))
    return np.concatenate([classes[:size], more])
