"""`rebuild`: the user's own model with the new sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import flax.linen as nn
from flax import nnx

from naivenas_jax.errors import RebuildError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.source import Source
from naivenas_jax.trace.back import nnx_rebuild as nnx_back
from naivenas_jax.trace.back.candidates import Attempt, attempts
from naivenas_jax.trace.back.compare import Call, Setting, settings
from naivenas_jax.trace.back.linen import linen_rebuild as linen_back
from naivenas_jax.trace.back.rebuild_errors import Failure, refusal
from naivenas_jax.trace.back.size_changes import Changed
from naivenas_jax.trace.back.source_lines import line_of_equation, line_of_error
from naivenas_jax.trace.back.value_numbering import new_in, traced
from naivenas_jax.trace.model.imported_op import ImportedOp, ModelOutput


class Mutated(Protocol):
    """What is needed of a `Mutation`, which import does not know."""

    @property
    def graph(self) -> Graph: ...

    @property
    def variables(self) -> dict[str, Any]: ...


def rebuild(model: Any, mutation: Mutated) -> Any:
    """The model that was imported, with the sizes of the mutation: an object of the user's own class.

    It is handed out only if it computes what the graph does in evaluation, at the imported shapes and at another batch
    size: because both are the same computation, or else because they return the same on random inputs, with the new
    variables and with disturbed ones. The search for the numbers that have to change (features, heads, splits) is
    bounded and deterministic.

    Args:
      model: the linen module or nnx model that `from_linen` or `from_nnx` was given; untouched.
      mutation: of the imported graph, or of what earlier mutations made of it.

    Returns:
      Linen: a module to be used with ``mutation.variables``. It is of the class of ``model`` if its fields, and those
      of modules and configurations that they hold, say all sizes. Else it is of a class derived from it, which sets the
      sizes of the modules inside while it runs.
      Nnx: a model of the class of ``model`` that holds ``mutation.variables``, its attributes in line with them; other
      state (streams of random numbers) is copied.

    Raises:
      RebuildError: if there is no such model. Says which line of the user's code fixes which size, and what would work.

    >>> import jax, jax.numpy as jnp, flax.linen as nn, naivenas_jax as nas
    >>> class MLP(nn.Module):
    ...     hidden: int
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         x = nn.relu(nn.Dense(self.hidden)(x))
    ...         return nn.Dense(2)(x)
    >>> x = jnp.ones((1, 3))
    >>> model = MLP(8)
    >>> graph, variables = nas.from_linen(model, model.init(jax.random.key(0), x), x)
    >>> mutation = nas.delta_nout(graph, variables, {"Dense_0": -3})
    >>> nas.rebuild(model, mutation).hidden
    5
    """
    if not hasattr(mutation, "graph") or not hasattr(mutation, "variables"):
        raise RebuildError(
            "rebuild takes the model that was imported, then a mutation of its graph, as the verbs return it; found "
            f"{type(mutation).__name__}: {mutation!r:.80}."
        )
    op = _imported(mutation.graph)
    back = _back(model, op)
    changed = Changed.of(op, mutation.variables)
    wanted = settings(mutation.graph, op.model, mutation.variables, back.call_of(model))
    first: Failure | None = None
    for attempt in attempts(lambda picked: back.attempt(changed, mutation.variables, picked)):
        for candidate in attempt.models:
            failure = _failure(candidate, attempt, back.call_of, wanted)
            if failure is None:
                return candidate
            first = failure if first is None or (first.error and not failure.error) else first
        first = first or _raised(attempt)
    assert first is not None
    raise refusal(type(model).__name__, first, changed, mutation.graph) from first.error


@dataclass(frozen=True)
class _Back:
    """What differs between linen and nnx."""

    call_of: Callable[[Any], Call]
    attempt: Callable[[Changed, Any, Any], Attempt]


def _back(model: Any, op: ImportedOp) -> _Back:
    imported = op.model
    shapes = {path: tuple(struct.shape) for path, struct in imported.variables}
    if isinstance(model, nn.Module):
        if isinstance(imported.identity, nn.Module) and imported.identity != model:
            raise RebuildError(_OTHER.format(type(model).__name__))
        return _Back(
            lambda module: linen_back.call_of(module, imported),
            lambda changed, variables, picked: linen_back.attempt(
                model, imported, changed, variables, imported.inputs, picked
            ),
        )
    if isinstance(model, nnx.Module):
        if nnx_back.shapes_of(model) != shapes:
            raise RebuildError(_OTHER.format(type(model).__name__))
        return _Back(
            lambda module: nnx_back.call_of(module, imported),
            lambda changed, variables, picked: nnx_back.attempt(model, changed, variables, picked),
        )
    raise RebuildError(
        f"rebuild takes the linen module or nnx model that was imported, found {type(model).__name__}. What "
        "from_function has imported has no class to go back to: keep using mutation.graph."
    )


_OTHER = (
    "This {} is not the model that the graph was imported from. Pass the very model that from_linen or from_nnx was "
    "given, also after several mutations; or import this one and mutate that."
)


def _imported(graph: Graph) -> ImportedOp:
    """The imported model that a graph is.

    Raises:
      RebuildError: if it is none, or more.
    """
    found = [vertex.op for vertex in graph.vertices if isinstance(vertex.op, ImportedOp)]
    others = [v.name for v in graph.vertices if not isinstance(v.op, ImportedOp | ModelOutput | Source)]
    if len(found) != 1:
        raise RebuildError(
            "The graph of this mutation is not that of one imported model, so there is no class to go back to. Keep "
            "using mutation.graph, or mutation.graph.as_module()."
        )
    if others:
        raise RebuildError(
            f"The graph has vertices that the model has not: {', '.join(others[:6])}. Its own class cannot compute "
            "them. Keep using mutation.graph, or mutation.graph.as_module()."
        )
    if found[0].model.edits:
        raise RebuildError(
            "The structure of the model has been changed since its import (a layer was inserted or removed, or an edge "
            "created), which its own class does not know. Keep using mutation.graph, or mutation.graph.as_module()."
        )
    return found[0]


def _failure(candidate: Any, attempt: Attempt, call_of: Callable[[Any], Call], wanted: list[Setting]) -> Failure | None:
    """Why a model is not the right one; None: it is."""
    call = call_of(candidate)
    for setting in wanted:
        try:
            found = setting.wrong(call)
        except Exception as error:  # whatever the user's code raises at the new sizes; it becomes the reason
            return Failure(f"{type(error).__name__}: {error}", line_of_error(error), error, attempt.said)
        if found is not None:
            mine = traced(call, setting.variables, setting.shapes)
            eqn = next(new_in(mine, setting.program), None)
            return Failure(found, None if eqn is None else line_of_equation(eqn), None, attempt.said)
    return None


def _raised(attempt: Attempt) -> Failure:
    error = attempt.error
    assert error is not None
    return Failure(f"{type(error).__name__}: {error}", line_of_error(error), error, attempt.said)
