"""The result of every verb: a new graph, new variables, and how to get there and back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from naivenas_jax.align.plan import Plan
from naivenas_jax.checks import as_number, require_flag, shown
from naivenas_jax.errors import ArgumentError, CarryError, PlanError, RequestError, TimeLimitError
from naivenas_jax.graph.evaluation.evaluate import require_values
from naivenas_jax.graph.given_inputs import checked_arrays
from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.result.oracle import Check, check
from naivenas_jax.mutate.result.request_record import RequestRecord
from naivenas_jax.progress import waiting
from naivenas_jax.trace.back.carried_models import with_fitting_numbers
from naivenas_jax.transfer.carrying.carry import CarryReport, carry
from naivenas_jax.transfer.carrying.follow import Follows, apart
from naivenas_jax.transfer.carrying.second_parent import SecondParent, carry_both
from naivenas_jax.transfer.carrying.shared_nodes import held_again, held_once
from naivenas_jax.transfer.undo import UndoRecord, undone
from naivenas_jax.transfer.variables import as_given, plain, unshared
from naivenas_jax.typing import PyTree, Variables
from naivenas_jax.views.viewable import Printable


def require_mutation(mutation: object) -> Mutation:
    """``mutation``, if it is one.

    Raises:
      PlanError: if not.
    """
    if not isinstance(mutation, Mutation):
        raise PlanError(
            "The first argument must be a nas.Mutation, as every verb returns it, which knows the network before the "
            f"change too; found {type(mutation).__name__}: {mutation!r:.80}."
        )
    return mutation


@dataclass(frozen=True, eq=False)
class Mutation(Printable):
    """The result of a verb: a changed network, and what it takes to go back, to carry and to check.

    Unpacks to the new graph and its variables.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(4), x)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> mutation = nas.delta_nout(graph, variables, {"hidden": -1})
    >>> graph2, variables2 = mutation
    >>> mutation
    Mutation(hidden: 4 -> 3; aligned='none')
    >>> mutation.indices("hidden").shape
    (3,)
    >>> mutation.carry({"params": variables["params"]})["params"]["hidden"]["bias"].shape
    (3,)
    >>> mutation.check(jax.numpy.ones((5, 3))).compared
    True
    >>> graph1, variables1 = mutation.undo(variables2)
    >>> graph1 == graph, variables1["params"]["hidden"]["bias"].shape
    (True, (4,))

    Attributes:
      graph: the new graph.
      variables: its variables, in the mappings that were given. numpy arrays are copies; jax arrays that did not change
        are shared with ``variables_before``, so that donating them to a jitted function deletes those too: donate
        ``jax.tree.map(jnp.copy, mutation.variables)``.
      plan: for each axis where its neurons come from.
      before: the graph before the change; untouched.
      aligned: how sizes that disagreed after an edit were brought in line: "grow", "shrink" or "both"; "none" if
        nothing disagreed.
      notes: what else is worth knowing, in words: vertices that were removed, coupled axes that changed and why they
        are coupled, what a fallback did, what is not proven.
      gap: the utility that the best sizes could keep at the most beyond these, as a share of it; 0 where these are
        proven to be the best, infinite where nothing is proven. It is above 0 within budgets, or where a time limit
        struck and the best by then was accepted.
      variables_before: the variables of ``before``; untouched.
      undo_records: for each step of the change, in order, what `undo` needs: the removed entries.
      incomparable: why the new network may compute something else than the old one with its dropped neurons at zero, so
        that `check` cannot compare them; None if it can.
      request_record: what a change of width was asked to do, for reports.
      kind: what made it: the name of the verb; the kind that `random_mutation` drew; "crossover"; else empty.
      second: of a crossover, what it has from the second network, for ``carry(second=)``; else None.
    """

    graph: Graph
    variables: dict[str, PyTree]
    plan: Plan
    before: Graph
    aligned: str = "none"
    notes: tuple[str, ...] = ()
    gap: float = 0.0
    variables_before: Variables = field(default_factory=dict, repr=False)
    undo_records: tuple[UndoRecord, ...] = field(default=(), repr=False)
    incomparable: str | None = field(default=None, repr=False)
    request_record: RequestRecord = field(default=RequestRecord(), repr=False)
    kind: str = field(default="", repr=False)
    second: SecondParent | None = field(default=None, repr=False)

    def __iter__(self) -> Iterator[Any]:  # Python cannot say: a graph, then its variables
        yield self.graph
        yield self.variables

    def indices(self, handle: str) -> np.ndarray:
        """Where the neurons of an axis come from; see `Mutation`.

        Args:
          handle: the name of the axis after the change.

        Returns:
          Shape (size after,), int: for each neuron its position before the change, -1 where it is new.

        Raises:
          UnknownNameError: if there is no such axis.
        """
        return self.plan.axis(handle).source

    def undo(self, variables: Variables) -> tuple[Graph, dict[str, PyTree]]:
        """Go back to the graph before the change; see `Mutation`.

        Args:
          variables: of the new graph, trained further or not.

        Returns:
          The graph before, and its variables: entries that were kept have the values that they have in ``variables``
          now, entries that were dropped have those that they had when they were dropped.

        Raises:
          VariablesError: if the variables are not those of the new graph.
        """
        return self.before, as_given(undone(self.undo_records, variables), self.variables_before)

    def carry(
        self,
        tree: PyTree,
        *more: PyTree,
        second: PyTree = None,
        fresh: PyTree = None,
        new: Literal["zeros", "params"] = "zeros",
        under: tuple[str, ...] = (),
        report: bool = False,
    ) -> PyTree:
        """Bring a tree that is shaped like the variables into the new shape: optimizer state, averages, masks, ...

        For an example see `Mutation`.

        Args:
          tree: for example an optax state for ``variables["params"]``. Leaves are matched by the longest suffix of
            their key path, and shape. A state that follows by itself (`TaylorAverage`) may be passed alone, or as a
            value of a dict. Of a training state, a model (linen's variables in a `TrainState`, an ``nnx.Module``, a
            dataclass), an ``nnx.Optimizer``, or a tuple or dict that has the state of an optimizer in it, all that is
            no optimizer state is parameters, statistics or averages of them, unless a field is named otherwise
            (``grads``), and new entries are those of the new variables; so are those of the variables with their
            statistics (``{"params": ..., "batch_stats": ...}``), and of statistics alone. A tree of parameters by
            itself may be gradients, and starts at ``new``.
          *more: nothing; several trees are carried as one, a tuple or dict of them.
          second: of a crossover, the tree of the second network, a state of the same optimizer: every entry goes where
            its weight went. Step counts are those of ``tree``, and a mean over several entries (rows and columns of
            Adafactor) that of the network that most of them are from. Without it, what is of the second starts again.
          fresh: what a fresh start on the new variables gives (``tx.init(new_params)``); needed where the structure of
            the result is not clear from the tree, which the error then says.
          new: what entries of new neurons start at: "zeros", or "params" for averages of parameters. Moments of an
            optimizer start at zero in any case.
          under: where the tree is shaped like a part of the variables, the path of that part, ``("params", "critic")``.
          report: also return a `CarryReport`: what was kept and what had to start again.

        Returns:
          The tree in the new shape; with ``report=True`` the tree and a `CarryReport`. An nnx model that was imported
          can be called: its attributes have the new sizes, too, and it has been compared with the graph. Of other
          ``nnx.Module``s, such as parts of a model, the attributes of layers follow that can be built again from them.

        Raises:
          CarryError: if a leaf belongs to no variable, which the message names, or the structure of the result is not
            clear, or the class of an nnx model cannot compute what the graph does, or there is no second network.
          PlanError: if a leaf is traced, as under ``jax.jit``, or spread over several processes.
          ArgumentError: if there are several trees.
        """
        if more:
            raise ArgumentError(
                f"carry takes one tree, found {1 + len(more)} arguments by position. Give them together, as a tuple: "
                "model, optimizer = mutation.carry((model, optimizer)). The tree of the second "
                "parent of a crossover is second=."
            )
        require_flag(report, "report", CarryError)
        before, after = plain(self.variables_before), plain(self.variables)
        if isinstance(tree, Follows):
            moved = tree.follow(self)
            return (moved, CarryReport(())) if report else moved
        own, rest = apart(tree)
        (once, places), (start, start_places) = held_once(rest), held_once(fresh)
        if second is None:
            carried, found = carry(self.plan, once, before, after, fresh=start, new=new, under=under)
        else:
            parent, trees = self._second(), (once, held_once(apart(second)[1])[0])
            carried, found = carry_both(parent, trees, before, after, fresh=start, new=new, under=under)
        carried = held_again(unshared(carried, rest, after, fresh), places if fresh is None else start_places)
        if fresh is None:
            carried = with_fitting_numbers(self.before, self, rest, carried)
        if own:
            carried = {key: own[key].follow(self) if key in own else carried[key] for key in tree}
        return (carried, found) if report else carried

    def _second(self) -> SecondParent:
        """What is known of the second network.

        Raises:
          CarryError: if there is none.
        """
        if self.second is None:
            made = f"a mutation by {self.kind}" if self.kind else "a mutation"
            raise CarryError(f"second= is for what nas.crossover returned, a child of two networks; this is {made}.")
        return self.second

    def check(self, *inputs: PyTree, tolerance: float | None = None, **kwargs: object) -> Check:
        """Run the dead-neuron oracle: compare with the original whose dropped neurons are zero where they are read.

        For an example see `Mutation`.

        Args:
          *inputs: for the graph *before* the change, as ``apply`` takes them.
          tolerance: largest difference allowed, relative to the largest output; by default according to the dtype.
          **kwargs: passed to ``apply``.

        Returns:
          What was compared, and the largest difference.

        Raises:
          OracleError: if the outputs differ.
          GraphError: if the inputs do not fit the graph before the change.
          RequestError: if ``tolerance`` is no number.
        """
        arrays = checked_arrays(self.before, inputs)
        require_values(self.before.inputs, arrays)
        allowed = None if tolerance is None else as_number(tolerance)
        if tolerance is not None and (allowed is None or not 0 <= allowed < math.inf):
            raise RequestError(f"tolerance must be a number of at least 0, or None; found {shown(tolerance)}.")
        with waiting("check"):
            return check(
                (self.before, plain(self.variables_before)),
                (self.graph, plain(self.variables)),
                self.plan,
                arrays,
                kwargs,
                incomparable=self.incomparable,
                tolerance=tolerance,
            )

    def __repr__(self) -> str:
        changed = self.plan.named or self.plan.changed
        changes = ", ".join(f"{name}: {axis.before} -> {axis.after}" for name, axis in changed.items())
        return f"Mutation({changes or 'no sizes change'}; aligned={self.aligned!r})"


def then(first: Mutation, second: Mutation, note: str) -> Mutation:
    """Two mutations, one after the other, as one; the oracle no longer applies."""
    return replace(
        second,
        plan=second.plan @ first.plan,
        before=first.before,
        aligned=second.aligned,
        gap=max(first.gap, second.gap),
        notes=(*first.notes, *second.notes, note),
        variables_before=first.variables_before,
        # the scores that decided are those of the network before
        request_record=replace(second.request_record, utility=first.request_record.utility),
        undo_records=(*first.undo_records, *(record.apart() for record in second.undo_records)),
        incomparable=second.incomparable or first.incomparable or note,
    )


def unproven(mutation: Mutation, stop: TimeLimitError) -> Mutation:
    """The mutation with a note that a time limit cut the search for sizes short, and the gap that is left."""
    return replace(mutation, notes=(*mutation.notes, f"not proven to be the best: {stop.gap}"), gap=stop.share)
