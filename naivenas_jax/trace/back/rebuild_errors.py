"""Why the user's own model cannot be had with the new sizes, in words."""

from __future__ import annotations

from dataclasses import dataclass

from naivenas_jax.errors import RebuildError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.model_vertex import Place
from naivenas_jax.trace.back.numbers.changed_sizes import ChangedSize, ChangedSizes
from naivenas_jax.trace.back.source_lines import SourceLine
from naivenas_jax.trace.model.imported_op import ImportedOp


@dataclass(frozen=True)
class Failure:
    """Why a model with other numbers is not the right one.

    Attributes:
      problem: what is wrong, in words.
      line: the line of the user's code that it comes from, if it is known.
      error: what the user's model raised; None: it ran, and computed something else.
      said: what had been changed, in words.
      places: what first differed from the graph: what a module takes in or returns.
    """

    problem: str
    line: SourceLine | None
    error: Exception | None
    said: str
    places: tuple[Place, ...] = ()


def refusal(name: str, failure: Failure, changed: ChangedSizes, graph: Graph, ended: str) -> RebuildError:
    """The error that says why there is no model with the new sizes.

    Args:
      name: the class of the model.
      failure: what went wrong in the likeliest attempt.
      changed: the sizes that changed.
      graph: the mutated graph.
      ended: how far the search went, in words.
    """
    place = tuple(failure.line.module.split("/")) if failure.line and failure.line.module else ()
    near = changed.inside(place) if changed.under(place) else changed.near(())
    sizes = failure.line.sizes(near) if failure.line else []
    message = "\n".join(
        [
            f"{name} cannot be had with the new sizes, so that it computes what the graph does.",
            *_where(failure, sizes),
            f"  What happened: {_short(failure.problem or _NOT_RUN)}",
            *(f"  What differed first: {place}" for place in failure.places),
            *([f"  What had been set: {_short(failure.said)}"] if failure.said else []),
            f"  What changed: {_listed(near)}",
            *_cut(graph),
            *(_coupled(changed, graph) if failure.error is None else []),
            f"  What was tried: {ended}; this is the one that came nearest",
            "What works: keep using mutation.graph, which evaluates the model at any size, and its variables; or let "
            "the model take this size from an array (x.shape[-1]) or from a field, import that, and mutate it.",
        ]
    )
    lines = ((failure.line.file, failure.line.number),) if failure.line else ()
    return RebuildError(message, lines, tuple((change.what, change.old, change.new) for change in sizes or near))


_NOT_RUN = "it is another computation, and there was no time to run it"


def _where(failure: Failure, sizes: list[ChangedSize]) -> list[str]:
    if failure.line is None:
        return []
    return [f"  {failure.line}"] + [
        f"  {change.old} is written there, and would have to be {change.new} ({change.what})" for change in sizes
    ]


def _coupled(changed: ChangedSizes, graph: Graph) -> list[str]:
    """Sizes that enter a computation as a number, and not only as the number of terms."""
    names = {change.what for own in changed.sizes.values() for change in own}
    return [
        f"  {name!r} is coupled: {reason}. The model computes with its size (as in 1 / sqrt(size), or a mean), the "
        "graph with what it was trained with. For the queries of an attention, multiplying their kernel and bias by "
        "sqrt(new / old) makes up for that: model, variables = nas.rebuild(model, mutation, rescale_queries=True)."
        for name, reason in graph.ties.coupled.items()
        if name in names
    ][:1]


def _cut(graph: Graph) -> list[str]:
    """Constants that have been cut along neurons, which the class of the model computes anew."""
    names = [name for v in graph.vertices if isinstance(v.op, ImportedOp) for name in v.op.cut]
    return [
        f"  The model has constants with an entry for each neuron of {name!r} (a table, a mask, centres). In the graph "
        "they have been cut to the neurons that stayed; the class makes them anew for the new size."
        for name in names[:1]
    ]


def _listed(changes: list[ChangedSize], most: int = 6) -> str:
    return ", ".join(map(str, changes[:most])) + (", ..." if len(changes) > most else "")


def _short(text: str, most: int = 500) -> str:
    lines = " ".join(line.strip() for line in text.strip().splitlines())
    return lines if len(lines) <= most else lines[:most] + "..."
