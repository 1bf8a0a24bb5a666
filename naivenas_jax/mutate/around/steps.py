"""What happens around a change: fallbacks where it fails, notes, a trial of the result on shapes, and callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import jax

from naivenas_jax.align.axis_plan import AxisPlan
from naivenas_jax.align.problem.deadline import Deadline
from naivenas_jax.checks import as_number, require_function
from naivenas_jax.cost.operations import are_counted
from naivenas_jax.errors import (
    GraphError,
    InfeasibleError,
    NaiveNASError,
    RequestError,
    SolverError,
    StructureError,
    UnknownNameError,
)
from naivenas_jax.graph.dag import unknown_name
from naivenas_jax.graph.given_inputs import sample_inputs
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.model_vertex import keys_of, outputs_of
from naivenas_jax.mutate.around.called_class import class_notes
from naivenas_jax.mutate.request.options import Inputs
from naivenas_jax.mutate.request.size_request import SizeRequest
from naivenas_jax.mutate.result.inputs_after import inputs_after
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.paths import is_unnamed
from naivenas_jax.trace.model.call_arguments import traced_shape
from naivenas_jax.typing import Array, Shape, Variables

T = TypeVar("T")

#: ``(graph, variables, request, error) -> another request, a mutation, or None``; see `naivenas_jax.fallback`.
Step: TypeAlias = Callable[[Graph, Variables, SizeRequest | None, NaiveNASError], SizeRequest | Mutation | None]
#: What ``fallback=`` may be.
Fallback: TypeAlias = Step | Sequence[Step]


def first_result(function: Callable[..., Mutation], arguments: Mapping[str, Any], fallback: Fallback) -> Mutation:
    """``function(**arguments)``; where that finds no sizes, the answer of the first step that leads to a mutation.

    Args:
      function: makes the mutation.
      arguments: by name. A step may propose another ``"request"``, if there is one among them.
      fallback: the steps.

    Raises:
      InfeasibleError, SolverError: those of the first call, with notes on what was tried, if no step helps.
      RequestError: if a step is no function, or returns something else than a request, a `Mutation` or None.
    """
    steps, limit = fallback_steps(fallback), as_number(arguments.get("time_limit"))
    deadline = Deadline.after(limit)
    try:
        return function(**arguments)
    except (InfeasibleError, SolverError) as error:
        first = last = error
    graph, variables = arguments["graph"], arguments["variables"]
    request: SizeRequest | None = (arguments["request"] or {}) if "request" in arguments else None
    notes: list[str] = []
    for step in steps:
        name = getattr(step, "__name__", repr(step))
        tried = f"after {type(last).__name__}, fallback {name!r}"
        answer = step(graph, variables, request, last)
        if answer is None:
            continue
        if isinstance(answer, Mutation):
            return replace(answer, notes=(*notes, *answer.notes, tried))
        request = _checked(name, request, answer)
        tried = f"{tried} asked for {dict(request)}"
        notes.append(tried)
        try:
            left = {} if limit is None else {"time_limit": deadline.left}  # of the time for the whole call
            found = function(**{**arguments, **left, "request": request})
            return replace(found, notes=(*notes, *found.notes))
        except (InfeasibleError, SolverError) as error:
            last = error
            first.add_note(f"{tried}, which failed too: {first_line(error)}")
    raise first


def first_line(error: NaiveNASError) -> str:
    """What an error says, in short."""
    return str(error).splitlines()[0]


def _checked(name: str, request: SizeRequest | None, answer: object) -> SizeRequest:
    if request is None or not isinstance(answer, Mapping):
        raise RequestError(
            f"Fallback {name!r} returned {answer!r:.80}; it must be a Mutation or None"
            f"{'' if request is None else ', or another request'}."
        )
    return answer


def fallback_steps(given: Fallback) -> tuple[Step, ...]:
    """The steps that ``fallback=`` stands for.

    Raises:
      RequestError: if one is no function, or cannot be called as a step is.
    """
    steps = tuple(given) if isinstance(given, Sequence) else (given,)
    for step in steps:
        if not callable(step):
            raise RequestError(
                "fallback= takes steps, such as nas.fallback.relax, nas.fallback.warn, nas.fallback.keep, or functions "
                f"(graph, variables, request, error) -> request, Mutation or None; found {step!r:.80}."
            )
        require_function(step, "A step of fallback=", "graph, variables, request, error", RequestError)
    return steps


def with_coupled_changes(mutation: Mutation) -> Mutation:
    """The mutation with a note for every reason for which an axis that it changed is coupled, or its indices moved.

    And a note where the class that holds the variables cannot be called itself any more.
    """
    of_class = () if isinstance(mutation.variables, Mapping) else class_notes(mutation)
    found = (*_coupled_notes(mutation), *_index_notes(mutation), *of_class)
    notes = [note for note in found if note not in mutation.notes]
    return replace(mutation, notes=(*mutation.notes, *notes)) if notes else mutation


def _coupled_notes(mutation: Mutation) -> Iterator[str]:
    names = mutation.plan.renamed
    changed = [names.get(axis, axis) for axis in mutation.plan.changed]
    axes: dict[str, list[str]] = {}
    for axis, reason in mutation.before.ties.changed_coupled(changed).items():
        axes.setdefault(reason, []).extend([] if is_unnamed(axis) else [repr(axis)])
    for reason, named in axes.items():
        where = ", ".join(named) or "an axis that has no name"
        yield f"coupled, so that what stays computes something else than before: {where} ({reason})"


def _index_notes(mutation: Mutation) -> Iterator[str]:
    """Vocabularies whose words have other numbers than before."""
    ties, names = mutation.before.ties, {old: new for new, old in mutation.plan.renamed.items()}
    for axis in dict.fromkeys(ties.index_axis(run) for run in sorted(ties.indexed)):
        now = mutation.plan.axes.get(names.get(axis, axis))
        if now is not None and now.moved:
            yield (
                f"renumbered: entry i of {axis!r} is what entry mutation.indices({axis!r})[i] was before; numbers that "
                "the model itself compares with or looks up stay as they are"
            )


def _shape(given: Array | Shape) -> Shape:
    """The shape of what was given for an input.

    Raises:
      GraphError: if it has none.
    """
    try:
        return traced_shape(given)
    except GraphError as error:
        raise GraphError(f"inputs= needs one array or shape per input of the graph. {error}") from error


def check_shapes(mutation: Mutation, inputs: Inputs) -> None:
    """Raise if the new graph cannot be computed on inputs of these shapes.

    Args:
      mutation: what a verb is about to return.
      inputs: arrays or shapes for the graph before the change, one per input; an array if there is one input. None: the
        graph is not tried.

    Raises:
      GraphError: if there are more or fewer than the graph has inputs.
      StructureError: says what the computation said.
    """
    if inputs is None:
        return
    given = sample_inputs(mutation.before, inputs)
    if len(given) != len(mutation.before.inputs):
        names = ", ".join(vertex.name for vertex in mutation.before.inputs)
        raise GraphError(f"inputs= needs one array or shape per input of the graph ({names}), found {len(given)}.")
    shapes = inputs_after(mutation.before, mutation.plan, [_shape(each) for each in given])
    if are_counted(mutation.graph, mutation.variables, shapes):
        return  # a budget on operations has been counted again, on these shapes
    try:
        rngs = keys_of(mutation.graph) or None
        jax.eval_shape(lambda v, x: outputs_of(mutation.graph, v, x, rngs=rngs), mutation.variables, shapes)
    except NaiveNASError:
        raise
    except Exception as error:  # whatever a layer or function says to shapes that do not fit
        where = [note for note in getattr(error, "__notes__", ()) if note.startswith("while computing")]
        raise StructureError(
            f"The changed graph cannot be computed on inputs of shapes {[s.shape for s in shapes]}: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''} {', '.join(where)}. "
            "Nothing was changed."
        ) from error


@dataclass(frozen=True)
class SizeChange:
    """What happened to one vertex, or to one inner axis.

    Attributes:
      name: of the vertex or axis.
      out: what became of its neurons.
      inputs: for a vertex what became of the neurons that it reads, by the names of the vertices it reads now.
      mutation: the whole change.
    """

    name: str
    out: AxisPlan
    inputs: Mapping[str, AxisPlan]
    mutation: Mutation

    @property
    def changed(self) -> bool:
        """Whether any neuron was dropped, added or moved."""
        return self.out.changed or any(axis.changed for axis in self.inputs.values())

    def __str__(self) -> str:
        reads = "".join(f"; reads {name}: {axis!r}" for name, axis in self.inputs.items() if axis.changed)
        return f"{self.name}: {self.out!r}{reads}"


#: Functions of a `SizeChange`, by the name of a vertex or inner axis.
OnVertex: TypeAlias = Mapping[str, Callable[[SizeChange], object]]
#: What ``on_change=`` may be.
OnChange: TypeAlias = Callable[[Mutation], object] | OnVertex | Sequence[Callable[[Mutation], object] | OnVertex] | None


def notify(mutation: Mutation, on_change: OnChange) -> None:
    """Call the functions that ``on_change=`` names; those of a vertex or axis only if it has changed.

    Raises:
      RequestError: if ``on_change`` is something else.
      UnknownNameError: if it names a vertex or axis that neither graph has.
    """
    if on_change is None:
        return
    for each in on_change if isinstance(on_change, Sequence) else (on_change,):
        if isinstance(each, Mapping):
            for name, callback in each.items():
                require_function(callback, f"on_change={{{name!r}: ...}}", "change", RequestError)
                change = _change(mutation, name)
                if change.changed:
                    _tell(callback, change)
        elif callable(each):
            require_function(each, "on_change", "mutation", RequestError)
            _tell(each, mutation)
        else:
            raise RequestError(
                "on_change= takes a function of the mutation, a mapping from names to functions of a SizeChange, or "
                f"several of these; found {each!r:.80}."
            )


def _tell(callback: Callable[[T], object], news: T) -> None:
    """Call a callback; one that returns another function, such as `naivenas_jax.watch.check`, was to be called before.

    Raises:
      RequestError: if it does.
    """
    if callable(told := callback(news)):
        name = getattr(callback, "__name__", repr(callback))
        raise RequestError(
            f"on_change= has called {name!r}, which returned a function ({told!r:.60}) that nobody calls. If it makes "
            f"callbacks, call it where it is passed: on_change={name}(), as in nas.watch.check()."
        )


def _change(mutation: Mutation, name: str) -> SizeChange:
    axes, graph = mutation.plan.axes, mutation.graph
    if name not in axes:
        if name in mutation.before.ties.axes:  # it was removed
            return SizeChange(name, AxisPlan.of(mutation.before.ties.size(name), []), {}, mutation)
        raise UnknownNameError(f"on_change: {unknown_name(name, axes)}")
    reads = graph.inputs_of(name) if name in graph else ()
    return SizeChange(name, axes[name], {source: axes[source] for source in reads}, mutation)
