"""`rebuild`: the user's own model with the new sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, cast, overload

import flax.linen as nn
from flax import nnx

from naivenas_jax.checks import as_number, require_flag, require_progress
from naivenas_jax.errors import RebuildError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.progress import waiting
from naivenas_jax.trace.back.candidates import MakeAttempt, ModuleT
from naivenas_jax.trace.back.compare import ModelCall, comparisons, input_shapes
from naivenas_jax.trace.back.imported_model import check_same_model, imported_op
from naivenas_jax.trace.back.linen.linen_rebuild import linen_attempts, linen_call
from naivenas_jax.trace.back.nnx_rebuild import nnx_attempts, nnx_call, with_arrays
from naivenas_jax.trace.back.numbers.changed_sizes import ChangedSizes
from naivenas_jax.trace.back.query_rescaling import Rescaling, query_rescalings
from naivenas_jax.trace.back.rebuild_errors import Failure, refusal
from naivenas_jax.trace.back.rebuild_search import Clock, RebuildSearch
from naivenas_jax.trace.model.imported_op import ImportedOp
from naivenas_jax.trace.model.traced_model import TracedModel
from naivenas_jax.typing import Variables


class MutatedModel(Protocol):
    """The fields of a `Mutation` that are needed here, in a room below it."""

    @property
    def graph(self) -> Graph:
        """The graph after the mutation."""

    @property
    def variables(self) -> Variables:
        """The variables of the graph."""


#: So many seconds `rebuild` searches, unless it is told otherwise. Models that can be had are found by the first tries,
#: which take seconds; what a minute has not found is hardly worth the next one.
TIME_LIMIT = 60.0


@overload
def rebuild(
    model: ModuleT,
    mutation: MutatedModel,
    *,
    rescale_queries: Literal[False] = False,
    time_limit: float | None = TIME_LIMIT,
    progress: bool | None = ...,
) -> ModuleT: ...


@overload
def rebuild(
    model: ModuleT,
    mutation: MutatedModel,
    *,
    rescale_queries: Literal[True],
    time_limit: float | None = TIME_LIMIT,
    progress: bool | None = ...,
) -> tuple[ModuleT, Variables]: ...


def rebuild(
    model: ModuleT,
    mutation: MutatedModel,
    *,
    rescale_queries: bool = False,
    time_limit: float | None = TIME_LIMIT,
    progress: bool | None = None,
) -> ModuleT | tuple[ModuleT, Variables]:
    """The model that was imported, with the sizes of the mutation: an object of the user's own class.

    The model is returned only if it computes in evaluation what the graph does, at the imported shapes and at another
    batch size: either both are the same computation, or they return the same on random inputs, with the new variables
    and with disturbed ones. The search for the numbers that have to change (features, heads, splits) is bounded and
    deterministic.

    Args:
      model: the linen module or nnx model that `from_linen` or `from_nnx` was given; untouched.
      mutation: a mutation of the imported graph, or of a graph that earlier mutations made of it; or the `Saved` that
        `load` returns of one.
      rescale_queries: whether the queries of attentions whose size changed may be multiplied by ``sqrt(new / old)``. A
        class that divides by the root of the size that it finds then computes what the graph does, which goes on to
        divide by the root of the old size. The factor is folded into the kernel and the bias of the queries (or into
        the scale of their normalisation). These variables are those of the returned model, and of nothing else: the
        mutation, `Mutation.carry` and `Mutation.undo` do not know of them. To go on, import the returned model.
      time_limit: seconds after which the search ends, and the best try so far is reported; None: no limit. Where the
        search ends earlier, the result does not depend on it. A compilation is not interrupted.
      progress: whether to show how far it is: None: in a terminal and a notebook, after a second; True: elsewhere
        too, in lines on standard error; False: never.

    Returns:
      Linen: a module to be used with ``mutation.variables``. It is of the class of ``model`` if all sizes are said by
      its fields, and by the fields of the modules and configurations that they hold. Otherwise it is of a class derived
      from it, which sets the sizes of the modules inside while it runs.
      Nnx: a model of the class of ``model`` that holds ``mutation.variables``, its attributes in line with them; other
      state (streams of random numbers) is copied.

    Raises:
      RebuildError: if there is no such model, because a line of the user's code fixes a size, the structure of the
        network was changed, or ``model`` is not the model that was imported. The message names the lines and sizes
        (``error.lines``, ``error.sizes``) and what would work.

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
            "rebuild takes the model that was imported, then a mutation of its graph, as the verbs return it, or what "
            "nas.load returned; found "
            f"{type(mutation).__name__}: {mutation!r:.80}."
        )
    op = imported_op(mutation.graph)
    check_same_model(model, op.model)
    require_flag(rescale_queries, "rescale_queries", RebuildError)
    require_progress(progress, RebuildError)
    how = _How(op, mutation, Clock(_seconds(time_limit)), bool(rescale_queries))
    rebuilt: nn.Module | nnx.Module
    with waiting(f"rebuild {type(model).__name__}", progress=progress):
        if isinstance(model, nn.Module):
            rebuilt, variables = _linen(model, how)
        else:
            rebuilt, variables = _nnx(cast(nnx.Module, model), how)  # it has been checked
    same = cast(ModuleT, rebuilt)  # it is of the class of ``model``, or of one derived from it
    return (same, variables) if rescale_queries else same


def _seconds(limit: object) -> float | None:
    """The time limit, checked."""
    number = None if limit is None else as_number(limit)
    if limit is not None and (number is None or not number >= 0):
        raise RebuildError(f"time_limit= takes a number of seconds, 0 or more, or None; found {limit!r:.80}.")
    return number


class _How(NamedTuple):
    """What is to be rebuilt.

    Attributes:
      op: the imported model in the mutated graph.
      mutation: the mutation.
      clock: the time limit.
      rescale: whether queries may be rescaled.
      since: the imported model with the sizes that the user's one has; None: as it was imported.
    """

    op: ImportedOp
    mutation: MutatedModel
    clock: Clock
    rescale: bool = False
    since: ImportedOp | None = None

    @property
    def changed(self) -> ChangedSizes:
        """The sizes that the user's model has not yet."""
        return ChangedSizes.of(self.op, self.mutation.variables, self.since)


def resized(model: nnx.Module, before: ImportedOp, mutation: MutatedModel) -> nnx.Module:
    """An nnx model that had the sizes before a mutation, and not those of the import, with the sizes after it.

    Args:
      model: the model; untouched.
      before: the imported model in the graph before the mutation.
      mutation: the mutation.

    Raises:
      RebuildError: if there is no such model.
    """
    how = _How(imported_op(mutation.graph), mutation, Clock(TIME_LIMIT), since=before)
    return _nnx(model, how)[0]


def _linen(module: nn.Module, how: _How) -> tuple[nn.Module, Variables]:
    model, variables = how.op.model, how.mutation.variables
    inputs = input_shapes(how.mutation.graph, model)
    make = linen_attempts(module, model, inputs, how.changed, variables, how.clock.check)
    found, rescaling = _rebuilt(module, linen_call, make, how)
    return found, variables if rescaling is None else rescaling(variables)


def _nnx(model: nnx.Module, how: _How) -> tuple[nnx.Module, Variables]:
    variables = how.mutation.variables
    make = nnx_attempts(model, how.changed, variables, how.clock.check)
    found, rescaling = _rebuilt(model, nnx_call, make, how)
    if rescaling is None:
        return found, variables
    rescaled = rescaling(variables)
    return with_arrays(found, rescaled), rescaled


def _rebuilt(
    model: ModuleT,
    call_of: Callable[[ModuleT, TracedModel], ModelCall],
    make: MakeAttempt[ModuleT],
    how: _How,
) -> tuple[ModuleT, Rescaling | None]:
    """The first model among the attempts that computes what the graph does, and what its queries are multiplied by.

    Args:
      model: the user's model.
      call_of: makes a function of a model and what was imported.
      make: makes an attempt, given decisions.
      how: what is to be rebuilt.

    Raises:
      RebuildError: says why the likeliest model is not the right one.
    """
    op, graph, variables = how.op, how.mutation.graph, how.mutation.variables
    search: RebuildSearch[ModuleT] = RebuildSearch(
        lambda candidate: call_of(candidate, op.model),
        model,
        comparisons(graph, op, variables, call_of(model, op.model)),
        how.clock,
        query_rescalings(op) if how.rescale else (),
    )
    found = search.found(make)
    if found is not None:
        return found
    failure = search.failure or Failure("nothing had been tried by then", None, None, "")
    raise refusal(type(model).__name__, failure, how.changed, graph, search.ended) from failure.error
