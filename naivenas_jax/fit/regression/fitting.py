"""Which weights are re-fitted after a mutation, in which order, and to what: least squares on both of its networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from naivenas_jax.fit.network.column_map import Columns, added_to, columns_of
from naivenas_jax.fit.network.contraction import Contraction
from naivenas_jax.fit.network.equations import doings
from naivenas_jax.fit.network.network import Network, Run, Runs, on_device, replaced
from naivenas_jax.fit.network.variable_uses import Event, Joined, Other, Outcome, Standardisation
from naivenas_jax.fit.recalibrate import moments, restandardised
from naivenas_jax.fit.regression.generalised_linear_fit import Missed, aimed
from naivenas_jax.fit.regression.ridge import Fit, Sums, added, gram, ridge_fit
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.paths import Path
from naivenas_jax.transfer.take import to_host
from naivenas_jax.transfer.variables import flat, nested


@dataclass(frozen=True)
class Weight:
    """A weight to be re-fitted.

    Attributes:
      path: which one.
      shift: the variable that is added to what it makes.
      skip: whether a skip connection is, too.
      outcome: whether there is a nonlinearity behind it, in both networks.
    """

    path: Path
    shift: Shift | None
    skip: bool
    outcome: bool


class Shift(NamedTuple):
    """A variable that is added to (``sign`` 1) or subtracted from (-1) what a weight makes.

    Attributes:
      path: which one.
      sign: whether it is added or subtracted.
      entries: shape (G, M): for each column of the weight its place in the flattened variable.
      before: the values before the mutation, for each column of the weight before it.
    """

    path: Path
    sign: int
    entries: np.ndarray
    before: np.ndarray


class Statistic(NamedTuple):
    """A running mean to be estimated again."""

    path: Path


@dataclass(frozen=True, eq=False)
class Fitting:
    """A mutation, and both of its networks on the data that it is fitted to."""

    mutation: Mutation
    networks: tuple[Network, Network]
    runs: Runs
    weights: bool
    outcomes: bool
    ridge: float | None

    def stages(self) -> list[Weight | Statistic]:
        """What is to be re-fitted, in the order of evaluation."""
        before, after = self._uses
        then, now = _counts(before), _counts(after)
        joined_then, joined_now = _counts(before, Joined), _counts(after, Joined)
        ended_then, ended_now = _counts(before, Outcome), _counts(after, Outcome)
        elsewhere = {event.path for event in after if isinstance(event, Other)}
        found: dict[Path, Weight | Statistic] = {}
        started = False
        for event in after:
            started = started or (isinstance(event, Contraction) and self._reads_others(event))
            if isinstance(event, Standardisation) and started:
                found.setdefault(event.path, Statistic(event.path))
            elif not isinstance(event, Contraction) or not started or event.path in elsewhere:
                continue  # what is also looked up by index, or scaled, means something else there
            elif then.get(self._old(event.path)) == now[event.path] and event.path not in found:
                skip = now[event.path] == joined_now[event.path] == joined_then[self._old(event.path)]
                ended = now[event.path] == ended_now[event.path] == ended_then[self._old(event.path)] == 1
                found[event.path] = Weight(event.path, self._shift(event.path), skip, ended)
        return list(found.values())

    def _old(self, path: Path) -> Path:
        return self.mutation.plan.moved.get(path, path)

    def _reads_others(self, event: Contraction) -> bool:
        """Whether a weight reads an axis that has changed, another one than before, or what is made otherwise."""
        path, plan = event.path, self.mutation.plan
        leaf, before = self.mutation.graph.ties.leaves[path], self.mutation.before.ties.leaves.get(self._old(path))
        return event.step >= self._parting or any(
            role == "in" and axis is not None and (axis != was or (axis in plan.axes and plan.axes[axis].changed))
            for axis, was, role in zip(leaf.axes, before.axes if before else leaf.axes, leaf.roles, strict=True)
        )

    def _shift(self, path: Path) -> Shift | None:
        before, after = self._uses
        now = added_to(path, after, flat(self.mutation.variables))
        then = added_to(self._old(path), before, self._before)
        if now is None or then is None or self._old(now.path) != then.path:
            return None
        return Shift(now.path, now.sign, now.entries, to_host(self._before[then.path]).ravel()[then.entries])

    def restandardised(self, variables: Mapping[str, Any], stage: Statistic) -> dict[str, Any]:
        """The variables, with one running mean and variance estimated again."""
        present = on_device(variables)

        def visit(before: Run, after: Run) -> tuple[tuple[Run, Run], Any]:
            after, found = moments(after, present, stage.path)
            return (before, after), found

        return restandardised(variables, stage.path, self.runs.visited(visit))

    def refitted(self, variables: Mapping[str, Any], stage: Weight) -> dict[str, Any]:
        """The variables, with one weight and its shift fitted."""
        columns, shifts = self._columns(stage.path), stage.shift is not None
        if not columns.known.any():
            return dict(variables)
        factor = self.mutation.plan.factor(stage.path)
        every, held_out = self._sums(variables, stage, columns, factor)
        values = to_host(flat(variables)[stage.path]).astype(np.float64).ravel()[columns.entries]
        present = np.where(columns.known[:, None], values, 0.0)
        fit = ridge_fit(every, held_out, present, self.ridge if self.weights else np.inf, shifts)

        def missed(fit: Fit) -> Missed:
            return self._missed(self._with(variables, stage, columns, fit), stage, columns)

        if self.outcomes and stage.outcome and factor == 1:
            fit = aimed(every, fit, present, shifts, missed)
        return self._with(variables, stage, columns, fit)

    def _with(self, variables: Mapping[str, Any], stage: Weight, columns: Columns, fit: Fit) -> dict[str, Any]:
        """The variables, with what was found for a weight and its shift."""
        arrays, known, shift = flat(variables), columns.known, stage.shift
        values = to_host(arrays[stage.path]).astype(np.float64).ravel()
        values[columns.entries] = np.where(known[:, None], fit.b, values[columns.entries])
        arrays[stage.path] = replaced(arrays[stage.path], values)
        if shift is not None:
            was = self.mutation.plan.factor(stage.path) * shift.before.ravel()[columns.source]
            moved = to_host(arrays[shift.path]).astype(np.float64).ravel()
            moved[shift.entries] = np.where(known, was + shift.sign * fit.shift, moved[shift.entries])
            arrays[shift.path] = replaced(arrays[shift.path], moved)
        return nested(arrays)

    def _missed(self, variables: Mapping[str, Any], stage: Weight, columns: Columns) -> Missed:
        """What the outcomes of a weight miss, over all rows."""
        return Missed.together(self._seen(variables, stage, (_outcome, _missed), columns.source, columns.known))

    def _sums(self, variables: Mapping[str, Any], stage: Weight, columns: Columns, factor: float) -> list[Sums]:
        """What the normal equations need: over all rows, and over those held out."""
        reads = (_made_and_skipped, _grams_with_skip) if stage.skip and factor == 1 else (_made, _grams)
        found = reduce(added, self._seen(variables, stage, reads, columns.source, columns.known * factor), None)
        return [Sums(gram, columns.entries.shape[1]) for gram in found]

    def _seen(
        self, variables: Mapping[str, Any], stage: Weight, reads: Sequence[Callable[..., Any]], *given: Any
    ) -> Iterator[Any]:
        """For each batch what the second read finds of a weight now, given what the first found of it before."""
        now, old = on_device(variables), self._old(stage.path)
        others = () if stage.shift is None else (stage.shift.path,)

        def visit(before: Run, after: Run) -> tuple[tuple[Run, Run], Any]:
            before, made = before.seen(reads[0], old, (), self._present_before)
            after, found = after.seen(reads[1], stage.path, others, now, made, *given)
            return (before, after), found

        return self.runs.visited(visit)

    def _columns(self, path: Path) -> Columns:
        own, old = self.mutation, self._old(path)
        shapes = np.shape(flat(own.variables)[path]), np.shape(self._before[old])
        then, now = (
            next(e for e in events if isinstance(e, Contraction) and e.path == one).entries(shape)
            for events, one, shape in zip(self._uses, (old, path), shapes[::-1], strict=True)
        )
        return columns_of(own.plan, path, now, then, shapes)

    @cached_property
    def _parting(self) -> int:
        """The first step that does something else in one network than in the other; of the same, their number."""
        inputs, own = self.runs.data.first, self.mutation
        pairs = zip(self.networks, (own.variables_before, own.variables), strict=True)
        before, after = (network.program(variables, inputs).steps for network, variables in pairs)
        steps = zip(before, after, strict=False)
        differ = (i for i, (then, now) in enumerate(steps) if list(doings(then.eqn)) != list(doings(now.eqn)))
        return next(differ, min(len(before), len(after)))

    @cached_property
    def _before(self) -> dict[Path, Any]:
        return flat(self.mutation.variables_before)

    @cached_property
    def _present_before(self) -> Any:
        return on_device(self.mutation.variables_before)

    @cached_property
    def _uses(self) -> tuple[list[Event], list[Event]]:
        """Every use of a variable, in the network before and after; on shapes."""
        own, inputs, (before, after) = self.mutation, self.runs.data.first, self.networks
        return before.events(own.variables_before, inputs), after.events(own.variables, inputs)


def _made(events: Sequence[Event]) -> list[Any]:
    """For each use of a weight Y, shape (N, columns of all groups)."""
    return [_joined(event.y) for event in events if isinstance(event, Contraction)]


def _made_and_skipped(events: Sequence[Event]) -> list[Any]:
    """The same, and what is added to it."""
    return [made + skipped for made, skipped in zip(_made(events), _skipped(events), strict=True)]


def _skipped(events: Sequence[Event]) -> list[Any]:
    """For each use of a weight what a skip connection adds to what it makes; shapes as of Y."""
    found = {event.contraction.number: event for event in events if isinstance(event, Joined)}
    joined = [found[number] for number in sorted(found)]
    return [_joined(e.contraction.columns(jnp.asarray(e.activation, jnp.float32))) for e in joined]


def _grams(events: Sequence[Event], made: Sequence[Any], source: Any, scale: Any) -> list[Any]:
    """Of all rows and those held out: what a weight reads now, and what some columns made before."""
    return _both(events, [wanted[:, source] * scale for wanted in made])


def _grams_with_skip(events: Sequence[Event], made: Sequence[Any], source: Any, scale: Any) -> list[Any]:
    """The same, for what the columns are to make if what is added to them is what it is now."""
    skipped = [array.reshape(-1, *source.shape) for array in _skipped(events)]
    return _both(events, [(w[:, source] - now) * scale for w, now in zip(made, skipped, strict=True)])


def _outcome(events: Sequence[Event]) -> Any:
    """The outcome of a weight that is used once; shape (N, columns of all groups)."""
    (own,) = (event for event in events if isinstance(event, Outcome))
    return _joined(own.contraction.columns(jnp.asarray(own.array, jnp.float32)))


def _missed(events: Sequence[Event], wanted: Any, source: Any, known: Any) -> Missed:
    """Its outcomes now, against those of some columns before."""
    (own,) = (event for event in events if isinstance(event, Outcome))
    reached, slope = (own.contraction.columns(jnp.asarray(array, jnp.float32)) for array in (own.array, own.slope()))
    return Missed.of(own.contraction.x, (wanted[:, source].transpose(1, 0, 2) - reached) * known[:, None], slope)


def _both(events: Sequence[Event], wanted: Sequence[Any]) -> list[Any]:
    uses = [event for event in events if isinstance(event, Contraction)]
    every = [(event.x, y.transpose(1, 0, 2)) for event, y in zip(uses, wanted, strict=True)]
    masks = [_held_out(event.x.shape[1], np.shape(event.activation)[0]) for event in uses]
    held_out = [tuple(part[:, mask] for part in parts) for parts, mask in zip(every, masks, strict=True)]
    return [gram(*(jnp.concatenate(part, 1) for part in zip(*rows, strict=True))) for rows in (every, held_out)]


def _joined(array: Any) -> Any:
    """The columns of all groups, one after the other: shape (N, G * M)."""
    return array.transpose(1, 0, 2).reshape(array.shape[1], -1)


def _held_out(number: int, examples: int) -> np.ndarray:
    """Of rows those of every fourth example, with all of its positions; shape (number,)."""
    per_example = number // examples if examples >= 4 and number % examples == 0 else 1
    return np.arange(number) // per_example % 4 == 3


def _counts(found: Sequence[Event], kind: type = Contraction) -> Counter[Path]:
    return Counter(event.path for event in found if isinstance(event, kind))
