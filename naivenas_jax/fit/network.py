"""A network that is evaluated over and over, on batches, with an eye on its variables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.errors import VariablesError
from naivenas_jax.fit.matrix import Contraction
from naivenas_jax.fit.walk import Event, Hook, Standardisation, StopError, Traced, trace, walk
from naivenas_jax.graph.graph import Graph
from naivenas_jax.sizes.ties import Path
from naivenas_jax.transfer.variables import check_variables, flat
from naivenas_jax.utility.tied import require

Batch = tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Network:
    """A graph with the keyword arguments of its evaluation.

    It is traced once per shape of its inputs, and evaluated operation by operation: every evaluation stops at another
    place, so that compiling the whole would cost more than it saves.
    """

    graph: Graph
    kwargs: Mapping[str, Any]
    _traced: dict[Any, Traced] = field(default_factory=dict)

    def evaluate(self, variables: Mapping[str, Any], inputs: Batch, hook: Hook) -> Any:
        """The outputs, with every use of a variable shown to the hook; nothing if the hook stops."""
        key = tuple((np.shape(x), str(jnp.result_type(x))) for x in inputs)
        if key not in self._traced:
            self._traced[key] = trace(lambda v, *given: self.graph.apply(v, *given, **self.kwargs), variables, inputs)
        try:
            return walk(self._traced[key], variables, inputs, hook)
        except StopError:
            return ()

    def events(self, variables: Mapping[str, Any], inputs: Batch) -> list[Event]:
        """Every use of a variable, in order; their arrays are shapes only."""
        found: list[Event] = []

        def seen(event: Event) -> None:
            found.append(event)

        jax.eval_shape(lambda v, *given: self.evaluate(v, given, seen), variables, *inputs)
        return found

    def contractions(self, variables: Any, inputs: Batch, path: Path, uses: int) -> list[Contraction]:
        """The contractions of a variable; nothing after them is evaluated."""
        found: list[Contraction] = []

        def hook(event: Event) -> None:
            if isinstance(event, Contraction) and event.path == path:
                found.append(event)
                if len(found) == uses:
                    raise StopError

        self.evaluate(variables, inputs, hook)
        return found

    def standardisations(self, variables: Any, inputs: Batch, path: Path, uses: int) -> list[Standardisation]:
        """Where a running mean is subtracted; nothing after that is evaluated."""
        found: list[Standardisation] = []

        def hook(event: Event) -> None:
            if isinstance(event, Standardisation) and event.path == path:
                found.append(event)
                if len(found) == uses:
                    raise StopError

        self.evaluate(variables, inputs, hook)
        return found


@dataclass(frozen=True, eq=False)
class Data:
    """Batches of inputs that can be gone through again, at least one."""

    batches: Iterable[Any]

    @classmethod
    def of(cls, batches: Iterable[Any]) -> Data:
        """An iterator is made into a list.

        Raises:
          VariablesError: if there are none.
        """
        data = cls(list(batches) if isinstance(batches, Iterator) else batches)
        if next(iter(data), None) is None:
            raise VariablesError("At least one batch of inputs is needed; batches= was empty (an iterator used up?).")
        return data

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            yield batch if isinstance(batch, tuple) else (batch,)

    @cached_property
    def first(self) -> Batch:
        """The first batch."""
        return next(iter(self))


def check(graph: Graph, variables: Mapping[str, Any]) -> None:
    """Raise unless the variables are those of the graph."""
    ties = require(graph).ties
    check_variables(ties.leaves, ties.sizes, variables)


def on_device(variables: Mapping[str, Any]) -> Any:
    """The variables as arrays of jax."""
    return jax.tree.map(jnp.asarray, variables)


def means(variables: Mapping[str, Any]) -> list[Path]:
    """The running means among the variables."""
    return [path for path in flat(variables) if path[0] == "batch_stats" and path[-1] == "mean"]
