"""Kept neurons take over what dropped ones contributed: `compensate`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.errors import PlanError, VariablesError
from naivenas_jax.fit.columns import Columns, added_to, columns_of
from naivenas_jax.fit.matrix import Contraction
from naivenas_jax.fit.network import Data, Network, Run, Runs, check, on_device, replaced
from naivenas_jax.fit.normal import Sums, added, gram, ridge_fit
from naivenas_jax.fit.progress import tracked
from naivenas_jax.fit.statistics import moments, restandardised
from naivenas_jax.fit.walk import Event, Joined, Other, Standardisation
from naivenas_jax.mutate.mutation import Mutation
from naivenas_jax.sizes.ties import Path
from naivenas_jax.transfer.take import to_host
from naivenas_jax.transfer.variables import flat, nested

NOTE = "re-fitted on data, so that it is no longer the original with neurons forced to zero"


def compensate(
    mutation: Mutation,
    batches: Iterable[Any],
    *,
    weights: bool = True,
    statistics: bool = True,
    ridge: float | None = None,
    progress: bool = False,
    **kwargs: Any,
) -> Mutation:
    """The same graph, its weights re-fitted so that kept neurons take over what dropped ones contributed.

    Every weight B (K, M) of a matrix product or convolution whose inputs are no longer what they were is fitted anew,
    in the order of evaluation, by ridge regression over all examples and positions:

        minimise  |Y - X B - 1 c|^2 + ridge * s * |B - B0|^2

    X (N, K) is what it reads in the *pruned* network with all that was re-fitted before it (patches, for a
    convolution), Y (N, M) what it made in the *original*, at the neurons that are kept; B0 is the weight now, s the
    mean square of a column of X. The shift c goes into what is added next: the bias, or the running
    mean of a normalisation; where there is neither, c is 0. A dropped neuron that is constant on the data is a shift
    and nothing else, and is folded into it exactly. Batch statistics are estimated again along the way (see
    `recalibrate`).

    Where a skip connection adds an activation to what the weight makes (or to that and the bias), it is aimed at the
    sum: Y is what it made, plus what was added in the original, less what is added now.

    Of grouped convolutions, and of products over a batch of weights, every group has a problem of its own, with one
    ridge for all.

    Only sums are kept between batches, X^T X and X^T Y of one weight at a time: of each batch in float32, added up and
    solved in float64 on the host. There is a pass over the batches per weight and normalisation. It goes on from where
    the last one ended: both networks' activations there are kept, of as many batches as fit into 1 GiB
    (`naivenas_jax.fit.network.KEPT`); the others are evaluated from the start.

    Not re-fitted are: weights inside loops (recurrent and scanned layers), those that are computed from variables
    (weight normalisation) or used for something else too (embeddings), those of complex or whole numbers or that read
    complex ones, and those whose neurons are all new. They stay as they are, and weights after them make up for it as
    far as they can.

    Args:
      mutation: of any verb. Composed mutations are compared with the network before the first one.
      batches: inputs of the network *before* the mutation; arrays, or tuples of arrays where there are several inputs.
        Anything that can be iterated over again; an iterator is made into a list. No labels.
      weights: False: only the shifts are fitted, weights stay.
      statistics: whether batch statistics are estimated again.
      ridge: relative to the inputs' mean square. None: for each weight one of 1e-6 ... 10 or infinity (it stays),
        whichever has the smallest error on every fourth example when fitted on the others.
      progress: show a bar.
      **kwargs: passed to ``graph.apply`` of both networks.

    Returns:
      A `Mutation` from the same network to the same graph, with other variables. ``undo`` puts back what was dropped,
      and keeps what was re-fitted as it is now.

    Raises:
      VariablesError: there are no batches, or the mutation was made on shapes.
      PlanError: no mutation is given; or it changes inputs of the graph, so that the two networks cannot be given the
        same.

    Source: reconstruction of layers, and of the sums behind skip connections, He, Zhang and Sun, Channel Pruning for
    Accelerating Very Deep Neural Networks, ICCV 2017; Luo, Wu and Lin, ThiNet, ICCV 2017.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 4)
    >>> hidden = nas.invariant_vertex("relu", nn.relu, nas.layer("hidden", nn.Dense(16), x))
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), hidden))
    >>> data = jax.random.normal(jax.random.key(1), (200, 4))
    >>> variables = graph.init(jax.random.key(0), data)
    >>> pruned = nas.delta_nout(graph, variables, {"hidden": -6})
    >>> fitted = nas.compensate(pruned, [data])
    >>> wanted = graph.apply(variables, data)
    >>> def error(m):
    ...     return float(((m.graph.apply(m.variables, data) - wanted) ** 2).mean())
    >>> error(fitted) < 0.5 * error(pruned)
    True
    """
    if not isinstance(mutation, Mutation):
        raise PlanError(
            f"compensate takes a Mutation, as every verb returns it; found {type(mutation).__name__}. It needs the "
            "network before the change too."
        )
    check(mutation.graph, mutation.variables)
    if any(isinstance(array, jax.ShapeDtypeStruct) for array in flat(mutation.variables).values()):
        raise VariablesError("The mutation was made on shapes, a dry run: there is nothing to fit. Make it on arrays.")
    networks = Network(mutation.before, kwargs), Network(mutation.graph, kwargs)
    return compensated(mutation, networks, Data.of(batches), weights, statistics, ridge, progress)


def compensated(
    mutation: Mutation,
    networks: tuple[Network, Network],
    data: Data,
    weights: bool = True,
    statistics: bool = True,
    ridge: float | None = None,
    progress: bool = False,
) -> Mutation:
    """`compensate`, with the networks before and after the mutation."""
    if changed := [v.name for v in mutation.before.inputs if mutation.plan.axis(v.name).changed]:
        raise PlanError(
            f"The mutation changes the input {changed[0]!r}, so that the same data cannot be given to the network "
            "before and after. Compensate a mutation that leaves inputs alone."
        )
    runs = Runs(data, tuple(zip(networks, (mutation._variables_before, mutation.variables), strict=True)))
    fitting = Fitting(mutation, networks, runs, weights, ridge)
    stages = [stage for stage in fitting.stages() if statistics or isinstance(stage, Weight)]
    variables = mutation.variables
    for stage in tracked(stages, "compensate", progress):
        if isinstance(stage, Statistic):
            variables = fitting.restandardised(variables, stage)
        else:
            variables = fitting.refitted(variables, stage)
    return replace(
        mutation, variables=variables, notes=(*mutation.notes, NOTE), _comparable=mutation._comparable or NOTE
    )


@dataclass(frozen=True)
class Weight:
    """A weight to be re-fitted, the variable that is added to what it makes, and whether a skip connection is, too."""

    path: Path
    shift: Shift | None
    skip: bool


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
    ridge: float | None

    def stages(self) -> list[Weight | Statistic]:
        """What is to be re-fitted, in the order of evaluation."""
        before, after = self._uses
        then, now = _counts(before), _counts(after)
        elsewhere = {event.path for event in after if isinstance(event, Other)}
        found: dict[Path, Weight | Statistic] = {}
        started = False
        for event in after:
            started = started or (isinstance(event, Contraction) and self._reads_others(event.path))
            if isinstance(event, Standardisation) and started:
                found.setdefault(event.path, Statistic(event.path))
            elif not isinstance(event, Contraction) or not started or event.path in elsewhere:
                continue  # what is also looked up by index, or scaled, means something else there
            elif then.get(self._old(event.path)) == now[event.path] and event.path not in found:
                skip = now[event.path] == _counts(after, Joined)[event.path]
                skip &= now[event.path] == _counts(before, Joined)[self._old(event.path)]
                found[event.path] = Weight(event.path, self._shift(event.path), skip)
        return list(found.values())

    def _old(self, path: Path) -> Path:
        return self.mutation.plan.moved.get(path, path)

    def _reads_others(self, path: Path) -> bool:
        """Whether a weight reads an axis that has changed, or another one than before."""
        plan, leaf = self.mutation.plan, self.mutation.graph.ties.leaves[path]
        before = self.mutation.before.ties.leaves.get(self._old(path))
        return any(
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
        arrays, columns, shift = flat(variables), self._columns(stage.path), stage.shift
        if not columns.known.any():
            return dict(variables)
        factor, known = self.mutation.plan.factor(stage.path), columns.known
        every, held_out = self._sums(variables, stage, columns, factor)
        values = to_host(arrays[stage.path]).astype(np.float64).ravel()
        present = values[columns.entries]
        ridge = self.ridge if self.weights else np.inf
        fit = ridge_fit(every, held_out, np.where(known[:, None], present, 0.0), ridge, shift is not None)
        values[columns.entries] = np.where(known[:, None], fit.b, present)
        arrays[stage.path] = replaced(arrays[stage.path], values)
        if shift is not None:
            was = shift.before.ravel()[columns.source]
            moved = to_host(arrays[shift.path]).astype(np.float64).ravel()
            moved[shift.entries] = np.where(known, factor * was + shift.sign * fit.shift, moved[shift.entries])
            arrays[shift.path] = replaced(arrays[shift.path], moved)
        return nested(arrays)

    def _sums(self, variables: Mapping[str, Any], stage: Weight, columns: Columns, factor: float) -> list[Sums]:
        """What the normal equations need: over all rows, and over those held out."""
        now, old, scale = on_device(variables), self._old(stage.path), columns.known * factor
        others = () if stage.shift is None else (stage.shift.path,)

        reads = (_made_and_skipped, _grams_with_skip) if stage.skip and factor == 1 else (_made, _grams)

        def visit(before: Run, after: Run) -> tuple[tuple[Run, Run], Any]:
            before, made = before.seen(reads[0], old, (), self._present_before)
            after, found = after.seen(reads[1], stage.path, others, now, made, columns.source, scale)
            return (before, after), found

        found = reduce(added, self.runs.visited(visit), None)
        return [Sums(gram, columns.entries.shape[1]) for gram in found]

    def _columns(self, path: Path) -> Columns:
        own, old = self.mutation, self._old(path)
        shapes = np.shape(flat(own.variables)[path]), np.shape(self._before[old])
        then, now = (
            next(e for e in events if isinstance(e, Contraction) and e.path == one).entries(shape)
            for events, one, shape in zip(self._uses, (old, path), shapes[::-1], strict=True)
        )
        return columns_of(own.plan, path, now, then, shapes)

    @cached_property
    def _before(self) -> dict[Path, Any]:
        return flat(self.mutation._variables_before)

    @cached_property
    def _present_before(self) -> Any:
        return on_device(self.mutation._variables_before)

    @cached_property
    def _uses(self) -> tuple[list[Event], list[Event]]:
        """Every use of a variable, in the network before and after; on shapes."""
        own, inputs, (before, after) = self.mutation, self.runs.data.first, self.networks
        return before.events(own._variables_before, inputs), after.events(own.variables, inputs)


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


def _both(events: Sequence[Event], wanted: Sequence[Any]) -> list[Any]:
    found = []
    for event, y in zip((e for e in events if isinstance(e, Contraction)), wanted, strict=True):
        x, y, examples = event.x, y.transpose(1, 0, 2), np.shape(event.activation)[0]
        found.append([gram(x, y), gram(_held_out(x, examples), _held_out(y, examples))])
    return [sum(own) for own in zip(*found, strict=True)]


def _joined(array: Any) -> Any:
    """The columns of all groups, one after the other: shape (N, G * M)."""
    return array.transpose(1, 0, 2).reshape(array.shape[1], -1)


def _held_out(rows: Any, examples: int) -> Any:
    """Every fourth example, with all of its positions; for shapes (G, N, K)."""
    groups, number, width = rows.shape
    per_example = number // examples if examples >= 4 and number % examples == 0 else 1
    return rows.reshape(groups, -1, per_example, width)[:, 3::4].reshape(groups, -1, width)


def _counts(found: Sequence[Event], kind: type = Contraction) -> Counter[Path]:
    return Counter(event.path for event in found if isinstance(event, kind))
