"""Kept neurons take over what dropped ones contributed: `compensate`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from naivenas_jax.align.plan import NEW
from naivenas_jax.errors import PlanError
from naivenas_jax.fit.matrix import Contraction
from naivenas_jax.fit.network import Data, Network, check, on_device
from naivenas_jax.fit.normal import Sums, added, ridge_fit
from naivenas_jax.fit.progress import tracked
from naivenas_jax.fit.statistics import restandardised
from naivenas_jax.fit.walk import Additive, Event, Other, Standardisation
from naivenas_jax.mutate.mutation import Mutation
from naivenas_jax.sizes.ties import Path
from naivenas_jax.transfer.take import placed_like, to_host
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

    Only sums are kept between batches: X^T X, X^T Y of one weight at a time, of each batch in float32, added up and
    solved in float64 on the host. There is a pass over the batches, through both networks up to there, per weight and
    normalisation.

    Not re-fitted are: weights inside loops (recurrent and scanned layers), of grouped convolutions, those that are
    computed from variables (weight normalisation) or used for something else too (embeddings), and those whose neurons
    are all new. They stay as they are, and weights after them make up for it as far as they can.

    Args:
      mutation: of any verb. Composed mutations are compared with the network before the first one.
      batches: inputs of the network *before* the mutation; arrays, or tuples of arrays where there are several inputs.
        Anything that can be iterated over again; an iterator is made into a list. No labels.
      weights: False: only the shifts are fitted, weights stay.
      statistics: whether batch statistics are estimated again.
      ridge: relative to the inputs' mean square. None: for each weight one of 1e-6 ... 1e-1, whichever has the smallest
        error on every fourth example when fitted on the others.
      progress: show a bar.
      **kwargs: passed to ``graph.apply`` of both networks.

    Returns:
      A `Mutation` from the same network to the same graph, with other variables. ``undo`` puts back what was dropped,
      and keeps what was re-fitted as it is now.

    Raises:
      VariablesError: there are no batches.
      PlanError: the mutation changes inputs of the graph, so that the two networks cannot be given the same.

    Source: reconstruction of layers, He, Zhang and Sun, Channel Pruning for Accelerating Very Deep Neural Networks,
    ICCV 2017, and Luo, Wu and Lin, ThiNet, ICCV 2017.

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
    check(mutation.graph, mutation.variables)
    data = Data.of(batches)
    if changed := [v.name for v in mutation.before.inputs if mutation.plan.axis(v.name).changed]:
        raise PlanError(
            f"The mutation changes the input {changed[0]!r}, so that the same data cannot be given to the network "
            "before and after. Compensate a mutation that leaves inputs alone."
        )
    networks = Network(mutation.before, kwargs), Network(mutation.graph, kwargs)
    fitting = Fitting(mutation, *networks, data, weights, ridge)
    stages = [stage for stage in fitting.stages() if statistics or isinstance(stage, Weight)]
    variables = mutation.variables
    for stage in tracked(stages, "compensate", progress):
        if isinstance(stage, Statistic):
            variables = restandardised(fitting.after, variables, stage.path, stage.uses, data)
        else:
            variables = fitting.refitted(variables, stage)
    return replace(
        mutation, variables=variables, notes=(*mutation.notes, NOTE), _comparable=mutation._comparable or NOTE
    )


@dataclass(frozen=True)
class Weight:
    """A weight to be re-fitted, how often it is used, and what is added to what it makes."""

    path: Path
    uses: int
    shift: Additive | None


class Statistic(NamedTuple):
    """A running mean to be estimated again, and how often it is used."""

    path: Path
    uses: int


@dataclass(frozen=True, eq=False)
class Fitting:
    """A mutation and the data that it is fitted to."""

    mutation: Mutation
    before: Network
    after: Network
    data: Data
    weights: bool
    ridge: float | None

    def stages(self) -> list[Weight | Statistic]:
        """What is to be re-fitted, in the order of evaluation."""
        before, after = self._uses
        then, now, means = _counts(before, Contraction), _counts(after, Contraction), _counts(after, Standardisation)
        shapes, elsewhere = flat(self.mutation.variables), {e.path for e in after if isinstance(e, Other)}
        found: dict[Path, Weight | Statistic] = {}
        started = False
        for event in after:
            started = started or (isinstance(event, Contraction) and self._loses(event.path))
            if isinstance(event, Standardisation) and started:
                found.setdefault(event.path, Statistic(event.path, means[event.path]))
            elif not isinstance(event, Contraction) or not started or event.path in elsewhere:
                continue  # what is also looked up by index, or scaled, means something else there
            elif then.get(self._old(event.path)) == now[event.path]:
                weight = Weight(event.path, now[event.path], _shift(event, after, shapes))
                found.setdefault(event.path, weight)
        return list(found.values())

    def _old(self, path: Path) -> Path:
        return self.mutation.plan.moved.get(path, path)

    def _loses(self, path: Path) -> bool:
        plan, leaf = self.mutation.plan, self.mutation.graph.ties.leaves[path]
        return any(
            role == "in" and axis is not None and axis in plan.axes and plan.axes[axis].changed
            for axis, role in zip(leaf.axes, leaf.roles, strict=True)
        )

    def refitted(self, variables: Mapping[str, Any], weight: Weight) -> dict[str, Any]:
        """The variables, with one weight and its shift fitted."""
        arrays, old = flat(variables), self._old(weight.path)
        now, then = self._one(weight.path), self._one(old, before=True)
        shape = np.shape(arrays[weight.path])
        entries = now.entries(shape)
        source = self._columns(weight.path, entries, then.entries(np.shape(self._before[old])), shape)
        kept = np.flatnonzero(source != NEW)
        if not kept.size:
            return dict(variables)
        factor = self.mutation.plan.factor(weight.path)
        fitted, held_out = self._sums(variables, weight, source[kept], factor)
        present = to_host(arrays[weight.path]).astype(np.float64).ravel()
        ridge = self.ridge if self.weights else np.inf
        fit = ridge_fit(fitted, held_out, present[entries[:, kept]], ridge, weight.shift is not None)
        present[entries[:, kept]] = fit.b
        arrays[weight.path] = placed_like(present.reshape(shape), arrays[weight.path])
        if weight.shift is not None:
            path, sign = weight.shift.path, weight.shift.sign
            was = to_host(self._before[self._old(path)]).astype(np.float64).ravel()
            shifted = to_host(arrays[path]).astype(np.float64).ravel()
            shifted[kept] = factor * was[source[kept]] + sign * fit.shift
            arrays[path] = placed_like(shifted.reshape(np.shape(arrays[path])), arrays[path])
        return nested(arrays)

    @cached_property
    def _before(self) -> dict[Path, Any]:
        return flat(self.mutation._variables_before)

    @cached_property
    def _uses(self) -> tuple[list[Event], list[Event]]:
        """Every use of a variable, in the network before and after; on shapes."""
        own, inputs = self.mutation, self.data.first
        return self.before.events(own._variables_before, inputs), self.after.events(own.variables, inputs)

    def _one(self, path: Path, before: bool = False) -> Contraction:
        return next(e for e in self._uses[0 if before else 1] if isinstance(e, Contraction) and e.path == path)

    def _columns(self, path: Path, now: np.ndarray, then: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Shape (M,): for each column of the matrix now that of the matrix before; NEW where there was none."""
        plan = self.mutation.plan
        was = np.shape(self._before[self._old(path)])
        column = np.empty(int(np.prod(was)), int)
        column[then] = np.arange(then.shape[1])
        known, places = np.ones(now.shape[1], bool), []
        for axis, index in zip(plan.leaves[path], np.unravel_index(now, shape), strict=True):
            contracted = (index != index[0]).any()
            source = index[0] if axis is None else plan.axes[axis].source[index[0]]
            known &= contracted | (source != NEW)
            places.append(np.where(contracted, 0, source))
        flattened = np.ravel_multi_index([np.maximum(place, 0) for place in places], was)
        return np.where(known, column[flattened], NEW)

    def _sums(
        self, variables: Mapping[str, Any], weight: Weight, source: np.ndarray, factor: float
    ) -> tuple[Sums, Sums]:
        """What the normal equations need: over the rows to fit to, and over those held out."""
        now, then, total = on_device(variables), on_device(self.mutation._variables_before), None
        for inputs in self.data:
            xs = self.after.contractions(now, inputs, weight.path, weight.uses)
            ys = self.before.contractions(then, inputs, self._old(weight.path), weight.uses)
            for one, wanted in zip(xs, ys, strict=True):
                x, y = one.x, wanted.y[:, source] * factor
                held = _held_out(len(x), np.shape(inputs[0])[0])
                total = added(total, tuple(Sums.of(x[rows], y[rows]) for rows in (~held, held)))
        assert total is not None
        return total


def _held_out(rows: int, examples: int) -> np.ndarray:
    """Every fourth example, with all of its positions."""
    per_example = rows // examples if examples >= 4 and rows % examples == 0 else 1
    return np.arange(rows) // per_example % 4 == 3


def _counts(found: Sequence[Event], kind: type) -> Counter[Path]:
    return Counter(event.path for event in found if isinstance(event, kind))


def _shift(event: Contraction, found: Sequence[Event], shapes: Mapping[Path, Any]) -> Additive | None:
    """The first variable of one number per column that is added to what a weight makes, and used for nothing else."""
    elsewhere = {other.path for other in found if isinstance(other, Other)}
    elsewhere |= {e.path for e in found if isinstance(e, Additive) and e.contraction.path != event.path}
    made = event.columns(np.zeros(event.result.shape)).shape[-1]
    for other in found:
        if isinstance(other, Additive) and other.contraction.path == event.path:
            return other if np.size(shapes[other.path]) == made and other.path not in elsewhere else None
    return None
