"""Every exception of the library.

A message names what was wrong (the vertex, axis or argument), what was found, the rule, and what would work.
Nothing is half-changed when one of these is raised: all values of the library are immutable. "Verbs" are the functions
that change a network: `delta_nout`, `resize`, `insert_vertex` and their siblings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any


class NaiveNASError(Exception):
    """Base of all exceptions of the library.

    Raised by nothing itself: each error is of a kind below. Whatever else is raised comes from a function of the user's
    (a layer, a loss, a callback), from jax or flax, or is a bug.

    What helps: catch it where any refusal will do, as in a random search over structures.
    """


class ArgumentError(NaiveNASError, TypeError):
    """A call with an argument that the function does not have, or without one that it needs.

    Raised by verbs. It is a `TypeError` too, as Python raises it for such calls.

    What helps: the message lists the arguments that the verb takes.
    """


class GraphError(NaiveNASError, ValueError):
    """A graph or vertex that cannot be built, or a graph that is not called as it can be.

    Raised by what makes vertices (`layer`, `concat`, `absorb_vertex`, ...), by `Graph`, by `register_layer`, by imports
    (`from_linen`, ...) if the model cannot be traced, by `Graph.apply` if the inputs or keywords do not fit, and by
    whatever takes a graph if it gets something else.

    What helps: pass what the message asks for. Its notes ("while computing ...") say at which vertex a call failed.
    """


class ImmutableError(NaiveNASError, AttributeError):
    """An attempt to set or delete an attribute of a graph.

    Raised by assignments to attributes of a `Graph` and by ``del``. Other values, such as a `Mutation`, are frozen data
    classes, which raise `dataclasses.FrozenInstanceError`.

    What helps: make a new graph, with a verb or from vertices.
    """


class DuplicateNameError(GraphError):
    """Two different vertices of one graph have the same name.

    Raised by `Graph`, by `insert_vertex` and `create_edge` if the name of a new vertex is taken, and by `rename`.

    What helps: give one of the two another name, ``vertex.named(name)`` for the result of an operator.
    """


class UnknownNameError(NaiveNASError, KeyError):
    """A vertex, axis or path that does not exist.

    Raised by whatever takes names: requests, limits, conditions and callbacks of verbs, `freeze_mask`, ``graph[name]``.
    It is a `KeyError` too.

    What helps: the message suggests the nearest names; ``graph.handles()`` has all that can be resized.
    """

    def __str__(self) -> str:  # KeyError would print the repr of its message
        return str(self.args[0]) if self.args else ""


class UnregisteredLayerError(GraphError, TypeError):
    """A layer of a kind that the registry does not know.

    Raised by `layer` if nobody has said which neurons layers of this type read and make.

    What helps: say it with `register_layer`, or import the layer as a model with `from_linen` or `from_nnx`, which find
    it out by tracing.
    """


class SizeMismatchError(GraphError):
    """Inputs whose sizes do not fit together, or do not fit the layer or graph that reads them.

    Raised by what makes vertices (a sum of two widths, a layer that was made for another width), by `Graph.apply` if an
    array has another number of neurons than its input vertex, and by conditions of `LayerRule` that do not hold.

    What helps: the message names the vertices and their sizes; change one of them.
    """


class RequestError(NaiveNASError, ValueError):
    """An argument of a wrong kind or range, whatever the graph.

    Raised by verbs for requests, limits, conditions, fallbacks and callbacks that cannot be read, by what makes these
    (`to`, `relaxed`, `size`, `multiple_of`), and by `gradual`, `group_lasso`, `group_shrink` and `freeze_mask`.

    What helps: pass what the message asks for.
    """


class UtilityError(NaiveNASError, ValueError):
    """Utility scores that cannot be used, or cannot be computed.

    Raised by verbs and by functions of scores (`combine`, `comparable`, ...) if scores are not finite, have another
    shape than their axis or are too large to be added up; by criteria (`taylor`, `activity`, ...) without batches, or
    where there is nothing to measure; by `report` if ``measured`` is no pair of scores and errors.

    What helps: one finite number per neuron, by handle; `replace_nonfinite` for those that are not finite.
    """


class VariablesError(NaiveNASError, ValueError):
    """Variables that do not belong to the graph, or data that statistics cannot be computed from.

    Raised by whatever takes a graph and its variables, if an array is missing, unknown, traced or of another shape; by
    `compensate`, `compress` and `recalibrate` for batches that are empty or not finite; by `masked` for other masks.

    What helps: take variables and graph from the same mutation, or make them with ``graph.init``; pass the whole dict
    of collections, ``{"params": ...}``; change networks outside ``jax.jit``.
    """


class StructureError(NaiveNASError, ValueError):
    """A change of structure that cannot be made.

    Raised by verbs of the structure (`insert_vertex`, `remove_edge`, `replace_layer`, ...) where the result would be no
    network, by every verb if the new graph cannot be computed on ``inputs=``, by `change_kernel` for what is no
    convolution, by `soft_masks` for a change that is more than dropping neurons, and by calls of an imported and
    resized model if the model allows the new sizes only as it was traced.

    What helps: the message says what stands in the way, and often another verb or keyword that works.
    """


class NoMutationError(NaiveNASError, ValueError):
    """A network of which nothing can be changed by the kinds of mutations that were asked for.

    Raised by `random_mutation`, and by `crossover` of segments, after everything that there is has been tried.

    What helps: other kinds, or a larger `SearchSpace`: more sizes, more makers, fewer protected parts; for segments a
    larger ``deviation``.

    Attributes:
      tried: by kind, what was refused last, and why; of a crossover by pair of segments.
    """

    def __init__(self, message: str, tried: Mapping[str, str] | None = None):
        super().__init__(message)
        self.tried = dict(tried or {})


class RebuildError(NaiveNASError, ValueError):
    """The user's own model cannot be made with the new sizes.

    Raised by `rebuild` if no configuration of the class gives these sizes, if the structure of the network was changed,
    or if the model is not the one that was imported.

    What helps: change the lines of one's own code that the message names, or keep ``mutation.graph`` in place of the
    model.

    Attributes:
      lines: where the user's code has to be changed, ``(file, line number)``.
      sizes: the sizes that the code there has to give: ``(handle, old, new)``.
    """

    def __init__(
        self,
        message: str,
        lines: tuple[tuple[str, int], ...] = (),
        sizes: tuple[tuple[str, int, int], ...] = (),
    ):
        super().__init__(message)
        self.lines = lines
        self.sizes = sizes


class PlanError(NaiveNASError, ValueError):
    """A plan that cannot be read, composed or applied, or no mutation where one is needed.

    Raised by `AxisPlan.of`, `Plan.from_json` and ``later @ earlier``; by verbs if ``new=`` or ``rng=`` is not what it
    can be; by `report`, `soft_masks` and `compensate` if they get no `Mutation`; by `Mutation.carry` for arrays that
    are traced, or spread over several processes.

    What helps: compose plans in the order in which they were made; change networks outside ``jax.jit``.
    """


class CarryError(NaiveNASError, ValueError):
    """A leaf of a carried tree that cannot be matched to a variable, or a result whose structure is not clear.

    Raised by `Mutation.carry`, and by `Gradual.prune`, which calls it.

    What helps: what the message asks for: ``fresh=tx.init(new_params)``, or ``under=`` with the path of the variables
    that the tree is shaped like.
    """


class SaveError(NaiveNASError, ValueError):
    """A network that cannot be saved, or a save that cannot be loaded.

    Raised by `save` if a function has no name, a value is of a kind that cannot be saved, or the path exists; by `load`
    if a file is missing, has been changed or was never a save, if a function or layer is not registered, or the model
    is another one; by ``Saved.restore`` if the tree is of another structure; and by `register_function`.

    What helps: the message names the file, the vertex or the leaf, and for functions the line that gives them a name.
    """


class OracleError(NaiveNASError, AssertionError):
    """A mutated network that does not compute what it should.

    Raised by `Mutation.check` if the new network differs from the old one whose dropped neurons are zero, and so by
    verbs with ``on_change=nas.watch.check(*inputs)``.

    What helps: a larger ``tolerance=`` if the difference is one of rounding. Else a rule of a layer of one's own is
    wrong, or there is a bug in the library.
    """


class InternalError(NaiveNASError, AssertionError):
    """A result that would have broken a promise of the library: a mistake of the library, and not of its user.

    Raised by verbs, when the variables that they are about to return do not fit their graph.

    What helps: the network before is untouched. Report the graph and the call; another order of the changes may work.
    """


class SolverError(NaiveNASError, RuntimeError):
    """The solver failed, or returned a point that breaks a constraint.

    Raised by verbs that look for sizes, and by `LatencyTable.below`.

    What helps: a smaller request, or one in steps; ``fallback=nas.fallback.keep`` to go on without the change.
    """


class TimeLimitError(SolverError, TimeoutError):
    """The time limit struck before a proven optimum was found.

    Raised by verbs with ``time_limit=``.

    What helps: more time; or the best answer so far: call ``error.best()``, or pass ``fallback=nas.fallback.accept``.

    Attributes:
      best: a function that makes the verb's result with the best sizes found by then, which satisfy every condition;
        None if none had been found.
      gap: in words, how far these may be from the optimum.
      share: how much more utility an optimum could keep at the most, as a share of what these keep; infinite if nothing
        is proven.
    """

    def __init__(self, message: str, best: Callable[[], Any] | None = None, gap: str = "", *, share: float = math.inf):
        super().__init__(message)
        self.best, self.gap, self.share = best, gap, share

    def then(self, finish: Callable[[Any, TimeLimitError], Any]) -> TimeLimitError:
        """The same error with another ``best``: ``finish(what best makes, this error)``."""
        best = self.best
        later = TimeLimitError(str(self), best and (lambda: finish(best(), self)), self.gap, share=self.share)
        for note in getattr(self, "__notes__", ()):
            later.add_note(note)
        return later


class BudgetError(NaiveNASError, ValueError):
    """A budget that is no positive number, or on something that cannot be counted.

    Raised by what takes budgets (`resize`, `gradual`, `compress`), and by `costs`, `report` and `measure_latency`, if
    the sizes of an operation cannot be told from those of the variables.

    What helps: pass ``inputs=`` where operations are to be counted; limit parameters or bytes where they cannot be.
    """


class InfeasibleError(NaiveNASError, ValueError):
    """No sizes satisfy the request.

    Raised by verbs that look for sizes, and by `gradual` and `compress` at a step whose budget cannot be met.

    What helps: ask for ``error.nearest``, wrap changes in ``nas.relaxed``, or leave that to ``fallback=``: steps of
    `naivenas_jax.fallback` such as ``nas.fallback.relax``.

    Attributes:
      conflicts: names of the axes whose requests or fixed sizes contradict one another.
      nearest: a size for every requested axis; together these sizes are feasible, and as near to the request as can
        be. What was to change does, if it can. Empty if no sizes are feasible, and where they are not searched for:
        within budgets and around edits.
      reasons: what is tied, fixed or limited there, in words.
    """

    def __init__(
        self,
        message: str,
        conflicts: tuple[str, ...] = (),
        nearest: Mapping[str, int] | None = None,
        reasons: tuple[str, ...] = (),
    ):
        super().__init__(message)
        self.conflicts = conflicts
        self.nearest = dict(nearest or {})
        self.reasons = reasons


class TooSmallError(InfeasibleError, RequestError):
    """An exact request that leaves less than one neuron: infeasible, whatever the graph.

    Raised by `delta_nout`, `delta_nin` and `resize`.

    What helps: as for `InfeasibleError`, whose attributes it has; to remove all of a vertex, `remove_vertex`.
    """
