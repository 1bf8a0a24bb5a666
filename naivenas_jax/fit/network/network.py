"""A network that is evaluated over and over, on batches, with an eye on its variables."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.errors import VariablesError
from naivenas_jax.fit.network.equations import Program, trace
from naivenas_jax.fit.network.fit_batches import finite_inputs_of
from naivenas_jax.fit.network.variable_uses import Event, Joined, Outcome, walk
from naivenas_jax.graph.evaluation.batches import Batch
from naivenas_jax.graph.graph import Graph
from naivenas_jax.paths import Path
from naivenas_jax.transfer.take import placed_like
from naivenas_jax.transfer.variables import check_network, flat


@dataclass(frozen=True, eq=False)
class Network:
    """A graph with the keyword arguments of its evaluation: traced once per shape of its inputs."""

    graph: Graph
    kwargs: Mapping[str, Any]
    _programs: dict[Any, Program] = field(default_factory=dict)
    _compiled: dict[Any, Callable[..., Any]] = field(default_factory=dict)
    _reach: dict[Program, dict[Path, int]] = field(default_factory=dict)

    def program(self, variables: Mapping[str, Any], inputs: Batch) -> Program:
        """What is evaluated for inputs of these shapes."""
        key = tuple((np.shape(x), str(jnp.result_type(x))) for x in inputs)
        if key not in self._programs:
            self._programs[key] = trace(lambda v, *given: self.graph.apply(v, *given, **self.kwargs), variables, inputs)
        return self._programs[key]

    def compiled(self, function: Callable[..., Any], *fixed: Any) -> Callable[..., Any]:
        """``function(*fixed, ...)``, compiled, and kept as long as the network is."""
        key = function, *fixed
        if key not in self._compiled:
            self._compiled[key] = jax.jit(lambda *given: function(*fixed, *given))
        return self._compiled[key]

    def events(self, variables: Mapping[str, Any], inputs: Batch) -> list[Event]:
        """Every use of a variable, in order; their arrays are shapes only."""
        found: list[Event] = []
        program = self.program(variables, inputs)
        jax.eval_shape(lambda v, live: walk(program, v, live, found.append), variables, program.start(inputs))
        return found

    def reach(self, program: Program, variables: Mapping[str, Any], inputs: Batch) -> dict[Path, int]:
        """For weights that a skip connection joins, or that have an outcome, the step after the last of these."""
        if program not in self._reach:
            found = (event for event in self.events(variables, inputs) if isinstance(event, Joined | Outcome))
            self._reach[program] = {event.path: event.step + 1 for event in found}
        return self._reach[program]


@dataclass(frozen=True, eq=False)
class Run:
    """A network on one batch, evaluated up to some step.

    Attributes:
      network: which one.
      program: what is evaluated.
      inputs: of the batch.
      step: the next one.
      live: the values that the steps from there on read.
    """

    network: Network
    program: Program
    inputs: Batch
    step: int
    live: Mapping[int, Any]

    @classmethod
    def start(cls, network: Network, variables: Mapping[str, Any], inputs: Batch) -> Run:
        """Before the first step."""
        program = network.program(variables, inputs)
        return cls(network, program, inputs, 0, program.start(inputs))

    def seen(
        self, read: Callable[..., Any], path: Path, others: Collection[Path], variables: Any, *given: Any
    ) -> tuple[Run, Any]:
        """``read(events, *given)`` of all uses of a variable, of skip connections to what it makes, and of outcomes.

        Args:
          read: takes the uses, and what is given.
          path: the variable.
          others: variables that are about to change with it.
          variables: as they are now.
          *given: arrays.

        Returns:
          The network just before the first step that reads one of the variables that are about to change, and what
          was read.
        """
        stop = self.program.first_use((path, *others))
        here = self if stop >= self.step else Run.start(self.network, variables, self.inputs)
        reach = self.network.reach(self.program, variables, self.inputs)
        until = max(self.program.after_last_use(path), reach.get(path, 0))
        visit = self.network.compiled(_visit, read, path, self.program, here.step, stop, until)
        live, result = visit(variables, here.live, *given)
        return replace(self, step=stop, live=live), result

    @property
    def nbytes(self) -> int:
        """Of what is live."""
        return sum(int(array.nbytes) for array in jax.tree.leaves((self.inputs, self.live)))


def _visit(
    read: Any, path: Path, program: Program, start: int, stop: int, until: int, variables: Any, live: Any, *given: Any
) -> tuple[Any, Any]:
    found: list[Event] = []
    live = walk(program, variables, live, lambda event: None, start, stop)
    walk(program, variables, live, found.append, stop, until)
    return live, read([event for event in found if event.path == path], *given)


#: Bytes of activations that are kept between two passes over the batches. What does not fit is computed again.
KEPT = 2**30


@dataclass(frozen=True, eq=False)
class Runs:
    """Networks on every batch, each as far as it has come.

    Attributes:
      data: the batches.
      networks: each with variables of the shapes that it has.
    """

    data: Data
    networks: tuple[tuple[Network, Mapping[str, Any]], ...]
    _kept: dict[int, tuple[Run, ...]] = field(default_factory=dict)

    def visited(self, visit: Callable[..., tuple[tuple[Run, ...], Any]]) -> Iterator[Any]:
        """What ``visit`` finds on each batch. It is given a run of each network, and gives runs to go on with, too."""
        for number, inputs in enumerate(self.data):
            kept = self._kept.pop(number, None)
            runs = kept or tuple(Run.start(network, variables, inputs) for network, variables in self.networks)
            runs, found = visit(*runs)
            yield found
            if sum(run.nbytes for own in (*self._kept.values(), runs) for run in own) <= KEPT:
                self._kept[number] = runs


@dataclass(frozen=True, eq=False)
class Data:
    """Batches of inputs that can be gone through again, at least one."""

    batches: Iterable[Any]

    @classmethod
    def of(cls, batches: Iterable[Any]) -> Data:
        """An iterator is made into a list.

        Raises:
          VariablesError: if there are none, or they are no batches.
        """
        data = cls(list(batches) if isinstance(batches, Iterator) else batches)
        if next(iter(data), None) is None:
            raise VariablesError("At least one batch of inputs is needed; batches= was empty (an iterator used up?).")
        return data

    def __iter__(self) -> Iterator[Batch]:
        return finite_inputs_of(self.batches)

    @cached_property
    def first(self) -> Batch:
        """The first batch."""
        return next(iter(self))


def check_values(graph: Graph, variables: Mapping[str, Any]) -> None:
    """Raise if the variables are not those of the graph, or only shapes.

    Raises:
      GraphError, VariablesError: names what was found.
    """
    check_network(graph, variables)
    if any(isinstance(array, jax.ShapeDtypeStruct) for array in flat(variables).values()):
        raise VariablesError(
            "Nothing can be fitted to shapes: the variables must be arrays, as graph.init makes them, and those of a "
            "mutation too, which may have been made on shapes, a dry run."
        )


def on_device(variables: Mapping[str, Any]) -> Any:
    """The variables as arrays of jax."""
    return jax.tree.map(jnp.asarray, variables)


def replaced(array: Any, values: np.ndarray) -> Any:
    """Other values in the place of an array: of its type, and where it is."""
    return placed_like(values.reshape(np.shape(array)).astype(array.dtype), array)


def means(variables: Mapping[str, Any]) -> list[Path]:
    """The running means among the variables."""
    return [path for path in flat(variables) if path[0] == "batch_stats" and path[-1] == "mean"]
