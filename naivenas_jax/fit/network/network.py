"""A network that is evaluated over and over, on batches, with an eye on its variables."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.dataflow.contraction import Contraction
from naivenas_jax.dataflow.tape import Tape, Values, record
from naivenas_jax.dataflow.variable_uses import Outcome, SkipConnection, VariableUse, ignore
from naivenas_jax.dataflow.walk import walk_tape
from naivenas_jax.errors import VariablesError
from naivenas_jax.fit.network.data import Data
from naivenas_jax.graph.evaluation.batches import Batch
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.model_vertex import outputs_of
from naivenas_jax.paths import Path
from naivenas_jax.transfer.take import placed_like
from naivenas_jax.transfer.variables import check_network, flat
from naivenas_jax.typing import Array, PyTree, Variables

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Network:
    """A graph with the keyword arguments of its evaluation: traced once per shape of its inputs.

    Attributes:
      graph: the graph.
      kwargs: the keyword arguments of ``graph.apply``.
    """

    graph: Graph
    kwargs: Mapping[str, PyTree]
    _tapes: dict[object, Tape] = field(default_factory=dict)
    _compiled: dict[object, Callable[..., object]] = field(default_factory=dict)
    _reach: dict[Tape, dict[Path, int]] = field(default_factory=dict)

    def tape(self, variables: Variables, inputs: Batch) -> Tape:
        """The equations of an evaluation on inputs of these shapes."""
        key = tuple((np.shape(x), str(jnp.result_type(x))) for x in inputs)
        if key not in self._tapes:
            self._tapes[key] = record(self.outputs, variables, inputs)
        return self._tapes[key]

    def outputs(self, variables: Variables, *inputs: Array) -> tuple[Array, ...]:
        """The arrays that the network makes, one per output vertex."""
        return outputs_of(self.graph, variables, inputs, **self.kwargs)

    def compiled(self, function: Callable[..., T], *fixed: object) -> Callable[..., T]:
        """``function(*fixed, ...)``, compiled, and kept as long as the network is."""
        key = function, *fixed
        if key not in self._compiled:
            self._compiled[key] = jax.jit(lambda *given: function(*fixed, *given))
        return cast(Callable[..., T], self._compiled[key])  # the key holds the function that says what it returns

    def forget(self) -> None:
        """Let go of all that was compiled, where it will not be used again: a program takes more than a megabyte."""
        self._compiled.clear()

    def uses(self, variables: Variables, inputs: Batch) -> list[VariableUse]:
        """Every use of a variable, in the order of evaluation; their arrays have shapes only."""
        found: list[VariableUse] = []
        tape = self.tape(variables, inputs)
        jax.eval_shape(lambda v, live: walk_tape(tape, v, live, found.append), variables, tape.start(inputs))
        return found

    def reach(self, tape: Tape, variables: Variables, inputs: Batch) -> dict[Path, int]:
        """For weights with a skip connection or an outcome behind them, the step after the last of these."""
        if tape not in self._reach:
            found = (use for use in self.uses(variables, inputs) if isinstance(use, SkipConnection | Outcome))
            self._reach[tape] = {use.path: use.step + 1 for use in found}
        return self._reach[tape]


@dataclass(frozen=True, eq=False)
class Run:
    """A network on one batch, evaluated up to some step.

    Attributes:
      network: the network.
      tape: its equations.
      inputs: the batch.
      step: the next step.
      live: the values that the steps from there on read.
    """

    network: Network
    tape: Tape
    inputs: Batch
    step: int
    live: Values

    @classmethod
    def start(cls, network: Network, variables: Variables, inputs: Batch) -> Run:
        """Before the first step."""
        tape = network.tape(variables, inputs)
        return cls(network, tape, inputs, 0, tape.start(inputs))

    def read(
        self,
        reading: Callable[..., T],
        path: Path,
        others: Collection[Path],
        variables: Variables,
        *given: PyTree,
        one_in: int | None = None,
        later: Collection[Path] = (),
    ) -> tuple[Run, T]:
        """``reading(uses, *given)`` of all uses of a variable, of skip connections to what it makes, and of outcomes.

        Args:
          reading: takes the uses, and what is given.
          path: the variable.
          others: variables that are about to change with it.
          variables: the variables as they are now.
          *given: arrays.
          one_in: of the variable, which is contracted once, only one in so many rows is read: no others are computed.
            None: they are.
          later: of a network that does not change, the variables that will be read: it goes on to the first of them, if
            that comes after all that is read now. None of them: it stops at this one.

        Returns:
          The network just before the first step that reads one of the variables that are about to change, or as far
          as it goes on; and what was read.
        """
        stop = self.tape.first_use((path, *others))
        here = self if stop >= self.step else Run.start(self.network, variables, self.inputs)
        reach = self.network.reach(self.tape, variables, self.inputs)
        until = max(self.tape.after_last_use(path), reach.get(path, 0))
        on = self.tape.first_use(later) if later else 0
        stop = on if on >= until else stop
        visit = self.network.compiled(_visit, reading, path, self.tape, here.step, stop, until, one_in)
        live, result = visit(variables, here.live, *given)
        return replace(self, step=stop, live=live), result

    def up_to(self, stop: int, variables: Variables) -> Run:
        """The network just before a step."""
        here = self if stop >= self.step else Run.start(self.network, variables, self.inputs)
        if here.step == stop:
            return here
        walk = self.network.compiled(_walked, self.tape, here.step, stop)
        return replace(here, step=stop, live=walk(variables, here.live))

    @property
    def nbytes(self) -> int:
        """The bytes of all arrays that it holds."""
        return sum(int(array.nbytes) for array in jax.tree.leaves((self.inputs, self.live)))


def _walked(tape: Tape, start: int, stop: int, variables: Variables, live: Values) -> dict[int, Array]:
    """The values that are live at ``stop``."""
    return walk_tape(tape, variables, live, ignore, start, stop)


def _visit(
    reading: Callable[..., T],
    path: Path,
    tape: Tape,
    start: int,
    stop: int,
    until: int,
    one_in: int | None,
    variables: Variables,
    live: Values,
    *given: PyTree,
) -> tuple[dict[int, Array], T]:
    """The values that are live at ``stop``, and what is read of the uses of a variable before or after that."""
    found: list[VariableUse] = []

    def see(use: VariableUse) -> Array | None:
        if use.path != path:
            return None
        if one_in is None or not isinstance(use, Contraction):
            found.append(use)
            return None
        found.append(fewer := use.evaluated_at(use.picked(one_in), flat(variables)[path]))
        return fewer.result

    if stop >= until:
        return walk_tape(tape, variables, live, see, start, stop), reading(found, *given)
    live = walk_tape(tape, variables, live, ignore, start, stop)
    walk_tape(tape, variables, live, see, stop, until)
    return live, reading(found, *given)


#: Bytes of activations that are kept between two passes over the batches. What does not fit is computed again.
KEPT = 2**30


@dataclass(frozen=True, eq=False)
class Runs:
    """Networks on every batch, each as far as it has come.

    Attributes:
      data: the batches.
      networks: each network with variables of the shapes that it has.
    """

    data: Data
    networks: tuple[tuple[Network, Variables], ...]
    _kept: dict[int, tuple[Run, ...]] = field(default_factory=dict)

    def visited(self, visit: Callable[..., tuple[tuple[Run, ...], T]]) -> Iterator[T]:
        """What ``visit`` finds on each batch. It is given a run of each network, and gives runs to go on with, too."""
        for number, inputs in enumerate(self.data):
            kept = self._kept.pop(number, None)
            runs = kept or tuple(Run.start(network, variables, inputs) for network, variables in self.networks)
            runs, found = visit(*runs)
            yield found
            if sum(run.nbytes for own in (*self._kept.values(), runs) for run in own) <= KEPT:
                self._kept[number] = runs


def check_values(graph: Graph, variables: Variables) -> None:
    """Raise if the variables are not those of the graph, or only shapes.

    Raises:
      GraphError: if there is no graph.
      VariablesError: names what was found.
    """
    check_network(graph, variables)
    if any(isinstance(array, jax.ShapeDtypeStruct) for array in flat(variables).values()):
        raise VariablesError(
            "Nothing can be fitted to shapes: the variables must be arrays, as graph.init makes them, and those of a "
            "mutation too, which may have been made on shapes, a dry run."
        )


def on_device(variables: Variables) -> Variables:
    """The variables as arrays of jax. Those that are it already are not asked for their dtypes, which takes long."""
    on: Variables = jax.tree.map(lambda array: array if isinstance(array, jax.Array) else jnp.asarray(array), variables)
    return on


def replaced(array: Array, values: np.ndarray) -> Array:
    """Other values in the place of an array: of its dtype and shape, and where it is."""
    placed: Array = placed_like(values.reshape(np.shape(array)).astype(array.dtype), array)
    return placed


def means(variables: Variables) -> list[Path]:
    """The running means among the variables."""
    return [path for path in flat(variables) if path[0] == "batch_stats" and path[-1] == "mean"]
