"""What a vertex has that holds a whole model: values with names, and edits that replace them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import jax
import numpy as np
from flax.errors import ModifyScopeVariableError

from naivenas_jax.checks import shown
from naivenas_jax.errors import GraphError, StructureError
from naivenas_jax.graph.evaluation.evaluate import Intercept
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.op import Op
from naivenas_jax.graph.structure import arrays_in
from naivenas_jax.paths import Path
from naivenas_jax.typing import PyTree, Variables


class AxisChange(Protocol):
    """Where each neuron of an axis comes from: what a model has to know of a plan, which lies in a room above.

    Attributes:
      source: shape (after,). The old position of each new position; negative for a new neuron.
      twin: shape (after,). For a new neuron the old position of one that it may copy; negative where there is none.
    """

    @property
    def source(self) -> np.ndarray:
        """The old position of each new position."""

    @property
    def twin(self) -> np.ndarray:
        """For new neurons the old position of one that they may copy."""


@dataclass(frozen=True)
class Place:
    """A value inside a model that has a name: what a module takes in (``end="in"``), or what it returns ("out")."""

    name: str
    end: str

    def __str__(self) -> str:
        return f"the {'input' if self.end == 'in' else 'output'} of {self.name!r}"


@dataclass(frozen=True)
class ModelEdit:
    """At one place, compute a graph of the values at some places instead.

    A layer is inserted by a graph that reads the value at the place itself, a module is removed by the identity of what
    the module took in, and a skip edge is a sum.

    Attributes:
      at: the place whose value is replaced for everything that reads it.
      reads: the places whose values are the inputs of the graph.
      piece: the graph: one input for each of ``reads``, and one output of the shape of the value at ``at``.
    """

    at: Place
    reads: tuple[Place, ...]
    piece: Graph


class ModelOp(Op):
    """The computation of a vertex that holds a whole model, and can be edited inside."""

    @property
    @abstractmethod
    def shapes(self) -> Mapping[Path, tuple[int, ...]]:
        """The present shape of every variable of the model, by path."""

    @property
    @abstractmethod
    def keys(self) -> Mapping[str, jax.Array]:
        """A key for each stream that the model draws from in evaluation, to call it with where any will do."""

    @property
    @abstractmethod
    def writes(self) -> tuple[str, ...]:
        """The collections that the model updates in evaluation, too: a cache."""

    @abstractmethod
    def changed(self, axes: Mapping[str, AxisChange]) -> ModelOp:
        """The same computation after a change of its axes: as `resized`, and constants follow the neurons that stay.

        Args:
          axes: the change of every axis of the graph, by name.
        """

    @abstractmethod
    def places(self) -> Mapping[Place, jax.ShapeDtypeStruct]:
        """The values inside that an edit may replace, with their present shapes."""

    @abstractmethod
    def late(self, at: Place, reads: tuple[Place, ...]) -> StructureError | None:
        """Why an edit at a place cannot read the values at others; None if they have been computed whenever it is.

        Args:
          at: the place whose value the edit replaces.
          reads: the places whose values it reads.

        Returns:
          The error, which names the place whose value comes too late.
        """

    @abstractmethod
    def naming(self, places: tuple[Place, ...]) -> ModelOp:
        """The same computation, in which the neurons at each of these places have an axis named ``str(place)``."""

    @abstractmethod
    def edited(self, edit: ModelEdit, variables: Variables, added: Variables) -> tuple[ModelOp, dict[str, PyTree]]:
        """The computation after an edit, and its variables, without those that nothing depends on any more.

        Args:
          edit: an edit at one of the places.
          variables: the variables of the whole graph.
          added: the variables of the edit's piece.
        """


class ModelPick(Op):
    """The computation of a vertex that picks one of the arrays that a whole model returns side by side."""


def keys_of(graph: Graph) -> dict[str, jax.Array]:
    """A key for each stream that models in a graph draw from in evaluation, where only shapes are asked for."""
    models = (vertex.op for vertex in graph.vertices if isinstance(vertex.op, ModelOp))
    return {name: key for op in models for name, key in op.keys.items()}


def outputs_of(
    graph: Graph, variables: Variables, inputs: Iterable[PyTree], intercept: Intercept | None = None, **kwargs: object
) -> tuple[PyTree, ...]:
    """The arrays of the outputs, where nobody asks for updates: what the network writes (a cache) goes nowhere.

    Args:
      graph: the graph.
      variables: its variables.
      inputs: as `Graph.apply` takes them.
      intercept: as for `Graph.run`.
      **kwargs: as for `Graph.apply`.

    Raises:
      GraphError: if a layer would update its statistics.
    """
    models = (vertex.op for vertex in graph.vertices if isinstance(vertex.op, ModelOp))
    mutable = kwargs.pop("mutable", False) or sorted({name for op in models for name in op.writes})
    if intercept is not None:
        kwargs["intercept"] = intercept
    try:
        made = graph.apply(variables, *inputs, mutable=mutable or False, **kwargs)  # type: ignore[arg-type]  # as given
    except ModifyScopeVariableError as error:
        given = {key: value for key, value in kwargs.items() if key != "intercept" and value is not None}
        raise GraphError(
            f"With the keyword arguments {shown(given)} a layer updates its statistics, and only outputs are wanted "
            "here: leave out what turns training on, such as 'train'."
        ) from error
    return arrays_in(made[0] if mutable else made)
